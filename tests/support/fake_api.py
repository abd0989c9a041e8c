"""An API for the tests of its clients: replies that were set, and the requests that came."""

import json
import os
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class FakeApi:
    """Replies by "METHOD path": (status, body); everything else is 404."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[int, bytes]] = {}
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []

    def reply(self, what: str, body: Any, status: int = 200) -> None:
        """Answer a request, "GET /api/9/nginx", with a JSON body, or with bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.replies[what] = (status, data)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        size = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(size)) if size else None
        path, _, query = handler.path.partition("?")
        self.requests.append((f"{handler.command} {path}", query, dict(handler.headers), body))
        error = {"error": {"status": 404, "text": "path not found", "code": "PathNotFound"}}
        status, data = self.replies.get(
            f"{handler.command} {path}", (404, json.dumps(error).encode())
        )
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    def get_request(self) -> tuple[Any, Any]:
        """Give a client of a Unix socket an address, for the handler's sake."""
        request, _ = super().get_request()
        return request, ("local", 0)


@contextmanager
def fake_api(path: Path | None = None) -> Iterator[tuple[FakeApi, str]]:
    """Serve an API at 127.0.0.1 or at a Unix socket; gives it and its URL."""
    api = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30  # a client that forgets its connection fails its test

        def do_GET(self) -> None:
            api.handle(self)

        do_POST = do_PATCH = do_DELETE = do_PUT = do_GET  # noqa: N815 - as http.server wants it

        def log_message(self, *_: object) -> None:
            """Write no log."""

    server: socketserver.BaseServer
    server = _UnixServer(os.fspath(path), Handler) if path else socketserver.ThreadingTCPServer(
        ("127.0.0.1", 0), Handler
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        where = f"unix:{path}" if path else f"http://127.0.0.1:{server.server_address[1]}"
        yield api, where
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
