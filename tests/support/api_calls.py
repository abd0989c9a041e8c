"""Requests to the API of a running program."""

import http.client
import json
from typing import Any

from tests.support.proxies import Proxy

OWN = "/api/ngxstream/1"
PLUS = "/api/9"


def call(
    program: Proxy, path: str, method: str = "GET", body: Any = None, *, name: str = "api",
) -> tuple[int, str, bytes]:
    """Return status, content type and body. Args: name: of the port that serves the API"""
    connection = http.client.HTTPConnection(*program.address(name), timeout=20)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {} if body is None else
                           {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.headers.get("content-type", ""), reply.read()
    finally:
        connection.close()


def get(program: Proxy, path: str, *, name: str = "api") -> Any:
    """Return the value at a path that is there."""
    status, kind, body = call(program, path, name=name)
    assert (200, "application/json") == (status, kind), body
    return json.loads(body)


def delete(program: Proxy, path: str) -> int:
    """Return the status of a DELETE."""
    return call(program, path, "DELETE")[0]
