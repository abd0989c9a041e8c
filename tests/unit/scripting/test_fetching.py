"""fetch(): against real servers, hostile ones, and what is refused before anybody is asked."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from ngxstream.scripting import (
    TLS,
    CertificateError,
    FetchError,
    Headers,
    Response,
    fetch,
)
from tests.support import descriptors, ports, real_servers
from tests.support.awaited import reset, result, start
from tests.support.backends import BackendFactory, Conversation
from tests.support.certs import Authority
from tests.support.engine import engine
from tests.support.waiting import wait_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop that has all its slots, and no descriptor, left at the end."""
    ports.free_port()  # keeps a descriptor
    with engine() as made:
        before = descriptors.count()
        yield made
        made.turn(0)
        assert 512 == made.free_connections
        wait_until(lambda: before >= descriptors.count())  # a server in a thread may be behind


class Handler(http.server.BaseHTTPRequestHandler):
    """Tells what it was asked."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = {
            "method": self.command, "path": self.path, "body": body.decode("latin-1"),
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        data = json.dumps(told).encode()
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(data), 7):
                piece = data[at : at + 7]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve with Python's own server; give its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("path", ["/", "/chunked", "/none"])
def test_a_server_is_told_what_was_asked_for(loop: Loop, path: str) -> None:
    """And its reply is returned, whichever it is."""
    with serving() as port:
        got: Response = result(loop, fetch(
            f"http://127.0.0.1:{port}{path}?q=%20", method="POST", headers={"X-A": "b c"},
            body="h\xe4",
        )) if path == "/" else result(loop, fetch(f"http://127.0.0.1:{port}{path}"))
    told = got.json()
    assert (404 if path == "/none" else 200) == got.status
    if path == "/":
        assert ("POST", "/?q=%20", "h\xc3\xa4") == (told["method"], told["path"], told["body"])
        assert "b c" == told["headers"]["x-a"]
        assert f"127.0.0.1:{port}" == told["headers"]["host"]
        assert ["a=1", "b=2"] == got.headers.get_all("set-cookie")


def test_head_has_headers_alone(loop: Loop) -> None:
    """Content-Length is not waited for."""
    with serving() as port:
        got: Response = result(loop, fetch(f"http://127.0.0.1:{port}/", method="HEAD"))
    assert b"" == got.body
    assert int(got.headers["content-length"]) > 0


def test_proxies_of_the_environment_are_not_used(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked itself."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving() as port:
        assert 200 == result(loop, fetch(f"http://127.0.0.1:{port}/")).status


def test_nginx_is_understood(loop: Loop, tmp_path: Path) -> None:
    """A page of it, and an error."""
    with real_servers.nginx(tmp_path, "return 200 hello;") as server:
        got: Response = result(loop, fetch(f"http://127.0.0.1:{server.port}/x"))
    assert (200, "OK", "hello") == (got.status, got.reason, got.text())


def test_a_large_body_goes_out(loop: Loop) -> None:
    """More than may wait at once."""
    with serving() as port:
        body = b"x" * 500_000
        got: Response = result(
            loop, fetch(f"http://127.0.0.1:{port}/", method="POST", body=body),
            buffer_size=4096,
        )
    assert len(body) == len(got.json()["body"])


def test_a_reply_that_comes_before_the_request_was_read_counts(
    loop: Loop, backends: BackendFactory
) -> None:
    """A server may refuse a body, and end."""

    def script(conversation: Conversation) -> None:
        conversation.recv(10)
        conversation.send(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
        conversation.half_close()
        conversation.recv_to_eof()

    server = backends.tcp(script)
    got: Response = result(loop, fetch(
        f"http://127.0.0.1:{server.port}/", method="POST", body=bytes(10_000_000)
    ))
    assert 413 == got.status


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give an authority."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[int]:
    """Give the port of a server whose certificate is for a.test."""
    pair = authority.issue("a.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with serving(context) as port:
        yield port


def test_a_certificate_that_is_verified(loop: Loop, authority: Authority, secure: int) -> None:
    """By the authority and for the name that were given."""
    tls = TLS(ca_file=str(authority.cert), server_name="a.test")
    assert 200 == result(loop, fetch(f"https://127.0.0.1:{secure}/", tls=tls)).status


@pytest.mark.parametrize("case", ["nobody trusted", "another name", "an address"])
def test_a_certificate_that_is_not(
    loop: Loop, authority: Authority, secure: int, case: str
) -> None:
    """Of nobody whom the system trusts, for another name, for no address."""
    tls = {
        "nobody trusted": None,
        "another name": TLS(ca_file=str(authority.cert), server_name="b.test"),
        "an address": TLS(ca_file=str(authority.cert)),
    }[case]
    with pytest.raises(CertificateError, match="certificate"):
        result(loop, fetch(f"https://127.0.0.1:{secure}/", tls=tls))


def test_a_certificate_that_nobody_verifies(loop: Loop, secure: int) -> None:
    """Where it was asked not to be."""
    assert 200 == result(loop, fetch(f"https://127.0.0.1:{secure}/", verify=False)).status


def _says(data: bytes) -> Callable[[Conversation], None]:
    def script(conversation: Conversation) -> None:
        conversation.recv(10)
        conversation.send(data)
        conversation.half_close()
        conversation.recv_to_eof()

    return script


def _floods(conversation: Conversation) -> None:
    conversation.send(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(100):
        conversation.send(bytes(1 << 20))


def _drips(conversation: Conversation) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000:
        conversation.send(bytes((byte,)))
        conversation.stopping.wait(0.01)
        if conversation.stopping.is_set():
            return


def _resets(after: bytes) -> Callable[[Conversation], None]:
    def script(conversation: Conversation) -> None:
        conversation.recv(10)
        conversation.send(after)
        reset(conversation.sock)

    return script


def _never(conversation: Conversation) -> None:
    conversation.recv_to_eof()


HOSTILE = {
    "never answers": (_never, TimeoutError),
    "a byte now and then": (_drips, TimeoutError),
    "100 MB": (_floods, FetchError),
    "garbage": (_says(bytes(range(256)) * 1000), FetchError),
    "another protocol": (_says(b"SSH-2.0-OpenSSH_9.2\r\n"), FetchError),
    "half a reply": (_says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), FetchError),
    "two lengths": (
        _says(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), FetchError
    ),
    "a reset at once": (_resets(b""), OSError),
    "a reset in its head": (_resets(b"HTTP/1.1 200 OK\r\nA"), OSError),
    "a reset in its body": (_resets(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), OSError),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_server_ends_in_an_error(
    loop: Loop, backends: BackendFactory, case: str
) -> None:
    """In bounded time and memory, and leaves nothing."""
    script, expected = HOSTILE[case]
    server = backends.tcp(script)
    with pytest.raises(expected):
        result(loop, fetch(f"http://127.0.0.1:{server.port}/", timeout=0.3
                           if expected is TimeoutError else 20))


@pytest.mark.parametrize("turns", range(6))
def test_it_can_be_cancelled_at_every_point(
    loop: Loop, backends: BackendFactory, turns: int
) -> None:
    """Nothing is left, wherever it was."""
    server = backends.tcp(_never)
    task = start(loop, fetch(f"http://127.0.0.1:{server.port}/", body=bytes(10_000_000)))
    for _ in range(turns):
        loop.turn(0)
    task.cancel()
    assert task.is_over
    task.error = None
    assert 512 == loop.free_connections


@pytest.mark.parametrize(("wish", "text"), [
    ({"url": "http://127.0.0.1/\r\nX: y"}, "URL"),
    ({"headers": {"X": "y\r\nZ: 1"}}, "header"),
    ({"headers": [("Host", "b")]}, "header"),
    ({"method": "GET /\r\n"}, "method"),
])
def test_what_cannot_be_asked_for_is_refused(loop: Loop, wish: Any, text: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ValueError, match=text):
        result(loop, fetch(**{"url": "http://127.0.0.1:1/", **wish}))


def test_headers_are_found_in_any_case() -> None:
    """A mapping, in order, each name once."""
    headers = Headers([("B", "1"), ("a", "2"), ("b", "3")])
    assert ["b", "a"] == list(headers)
    assert ("1, 3", ["1", "3"], 2) == (headers["B"], headers.get_all("B"), len(headers))
    assert "b" in headers
    assert headers.get("c") is None
    assert "<Headers {'b': '1, 3', 'a': '2'}>" == repr(headers)


def test_text_is_what_the_server_says_it_is() -> None:
    """UTF-8 where it says nothing; bytes that are none are marked."""
    said = Headers([("Content-Type", 'text/plain; charset="latin-1"')])
    assert "\xe4" == Response(200, "", said, b"\xe4").text()
    assert "\ufffd" == Response(200, "", Headers([]), b"\xe4").text()
    assert "\xe4" == Response(200, "", Headers([]), b"\xe4").text("latin-1")
    with pytest.raises(ValueError, match=r"."):
        Response(200, "", Headers([]), b"{").json()
