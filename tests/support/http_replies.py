"""Requests to an API that is served in the test's own process, and what comes back."""

import io
import json
import socket
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, cast

from tests.support.in_process import InProcess

CONF = "stream { server { listen 127.0.0.1:@api@; %s } }"


@dataclass
class Got:
    """One reply. Args: headers: by lower-case name"""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The value of a body of JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error, which has all that is promised."""
        value = self.json
        assert list(value) == ["error", "request_id", "href"]
        assert list(value["error"]) == ["status", "text", "code"]
        assert value["error"]["status"] == self.status
        assert len(value["request_id"]) == 32
        return cast("str", value["error"]["code"])


class _Stream:
    """Bytes that http.client takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def makefile(self, *_: object) -> io.BytesIO:
        """Return them."""
        return self.file


def replies(data: bytes, *methods: str) -> list[Got]:
    """Cut a stream into replies. Args: methods: of the requests, GET where they run out"""
    found = []
    stream = _Stream(data)
    stream.file.close = lambda: None  # type: ignore[method-assign]
    wanted = list(methods)
    while stream.file.tell() < len(data):
        method = wanted.pop(0) if wanted else "GET"
        reply = HTTPResponse(cast("socket.socket", stream), method=method)
        reply.begin()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        found.append(Got(reply.status, headers, reply.read()))
    return found


def request(target: str = "/api", method: str = "GET", body: bytes | None = None, *,
            host: str = "127.0.0.1", **headers: str) -> bytes:
    """Write a request. Args: headers: with underscores for hyphens"""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + (body or b"")


def exchange(served: InProcess, *raw: bytes, number: int = 0) -> bytes:
    """Send bytes, end the client's side and return all that comes."""
    client = served.connect(number)
    for one in raw:
        client.sendall(one)
    client.shutdown(socket.SHUT_WR)
    return served.read(client)


def ask(served: InProcess, target: str = "/api", method: str = "GET", body: bytes | None = None,
        *, number: int = 0, **headers: str) -> Got:
    """Make one request on a connection of its own."""
    raw = request(target, method, body, **headers)
    (got,) = replies(exchange(served, raw, number=number), method)
    return got
