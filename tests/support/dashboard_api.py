"""Serves a made-up API with the live page, as the program does.

Time moves on by itself, or by a second with each round of the page (`steps`): then a page that runs
FAST sees the last five minutes within some seconds, the same in every run.
"""

import contextlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from ngxstream.modules.api import page, policy
from tests.support.dashboard_model import EPOCH, Json, Model, Refusal
from tests.support.waiting import PATIENCE, wait_until

HEART = "9/nginx"  # what the page asks in each round, before anything else
MOVING = ("9/connections", "9/stream/server_zones", "9/stream/upstreams")
# Run before the script of the page: a second of its time takes some milliseconds.
FAST = f"""{{
    let time = 0;
    const wait = window.setTimeout;
    performance.now = () => time;
    Date.now = () => {EPOCH * 1000:.0f} + time;
    window.setTimeout = (run, ms) => wait(() => {{ time += ms; run(); }}, 20);
}}"""


class _Server(ThreadingHTTPServer):
    """Clients may go away at any time: that is no error."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of what is one."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class FakeApi:
    """Serves a model and the page on a port of its own, which it keeps while it is away."""

    def __init__(self, model: Model, *, steps: bool = False, prefix: str = "/api",
                 root: str = "/") -> None:
        """Serve at once.

        Args: steps: time moves by a second with each round, not by itself; root: where the page
        lies, as behind a server that puts all of it below a path
        """
        self.model = model
        self.steps = steps
        self.changes: list[tuple[str, str, Json]] = []  # method, path, body
        self.asked: list[str] = []
        self.prefix = root.rstrip("/") + prefix + "/"
        served = policy.read()
        self.text = served.text.replace("__NGXSTREAM_PREFIX__", prefix)
        self.headers = served.headers
        self.lock = threading.Condition()
        self._at = time.monotonic()
        self._delay_s = 0.0
        self.refusal = 0  # a status of HTTP that every request meets, 0 for none
        self.at_once = self.most_at_once = 0  # rounds that were answered at the same time
        model.now = model.now or (EPOCH if steps else time.time())
        model.loaded = model.loaded or model.now - 11_520
        model.started = model.started or model.now - 273_600
        self._port = 0
        self.root = root
        self._server: ThreadingHTTPServer | None = None
        self.come_back()

    @property
    def url(self) -> str:
        """Return the address of the page."""
        return f"http://127.0.0.1:{self._port}{self.root}"

    def rounds(self, count: int) -> None:
        """Wait until the page has begun so many further rounds."""
        wanted = self.asked.count(HEART) + count
        wait_until(lambda: self.asked.count(HEART) >= wanted, what="the page asks on")

    def come_back(self) -> None:
        """Listen, on the port of before."""
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                api.answer(self)

            do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - names of http.server

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def go_away(self) -> None:
        """Stop listening; connections that were open are closed with their next request."""
        assert self._server
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def slow(self, seconds: float) -> None:
        """Let the first answer of a round take some time."""
        self._delay_s = seconds

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        if self._server is None:
            request.close_connection = True
            return
        length = int(request.headers.get("Content-Length", 0))
        data = request.rfile.read(length)
        url = urlsplit(request.path)
        if not url.path.startswith(self.prefix):
            is_page = url.path in (self.root, f"{self.root}dashboard.html")
            self.send(request, 200 if is_page else 404, self.text.encode(), page.HTML)
            return
        path = url.path.removeprefix(self.prefix).rstrip("/")
        is_first = path == HEART
        with self.lock:
            self.at_once += is_first
            self.most_at_once = max(self.most_at_once, self.at_once)
            if is_first and self._delay_s:
                self.lock.wait(self._delay_s)
            self.at_once -= is_first
            if self.steps:  # what moves is asked after the round has begun
                self.lock.wait_for(lambda: path == HEART or self._is_due(path), PATIENCE)
            status, body = self.result(request.command, path, dict(parse_qsl(url.query)), data)
        self.send(request, status, body, "application/json")

    def _is_due(self, path: str) -> bool:
        """Tell whether the round, which begins with HEART, is the next one for an endpoint."""
        return path not in MOVING or self.asked.count(path) < self.asked.count(HEART)

    def result(
        self, method: str, path: str, args: dict[str, str], data: bytes
    ) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        model = self.model
        if method == "GET":
            self.asked.append(path)
            if self.steps and path == HEART:
                model.advance(1)
                self.lock.notify_all()
            elif not self.steps:
                now = time.monotonic()
                model.advance(now - self._at)
                self._at = now
            if path in model.broken:
                return 200, model.broken[path]
        try:
            if self.refusal:
                raise Refusal(self.refusal, "Forbidden", "forbidden")
            if method == "GET":
                status, value = 200, model.get(path, args)
            else:
                body = json.loads(data) if data else None
                self.changes.append((method, path, body))
                status, value = model.change(method, path, args, body)
        except Refusal as refusal:
            status, value = refusal.status, refusal.error
        return status, b"" if value is None else json.dumps(value).encode()

    def send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
        """Send an answer."""
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        for name, value in self.headers:
            request.send_header(name, value)
        request.end_headers()
        with contextlib.suppress(ConnectionError):  # the page is gone, or waits no longer
            request.wfile.write(body)

    def close(self) -> None:
        """Stop serving."""
        if self._server:
            self.go_away()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
