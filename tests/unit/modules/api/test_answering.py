"""From a request to its reply: which errors it meets, in which form."""

import json
from collections.abc import Callable, Iterator

import pytest

from ngxstream.stream.api import PLUS, ROOT, ApiError, Argument, Endpoint, Operation, Reply, Request
from ngxstream.stream.module import StreamModule
from tests.support import http_replies as h
from tests.support.in_process import InProcess

PROBE = "/api/9/http/upstreams/DASHBOARD_INIT/servers/__TEST_FOR_WRITE__/"


def told(request: Request) -> Reply:
    """Reply with what the operation was given."""
    return Reply(200, [request.method, request.path, request.args, request.body, request.write])


def broken(request: Request) -> Reply:
    """Fail in a way nobody expects."""
    raise RuntimeError("secret of ours")


def refused(request: Request) -> Reply:
    """Refuse."""
    raise ApiError(409, "EntryExists", "entry exists")


def module(run: Callable[[Request], Reply | None] = told) -> StreamModule:
    """Return a module with an operation of each kind."""
    takes = Operation(run, "", takes={})
    return StreamModule("shown", endpoints=(
        Endpoint(PLUS, "/things/{name}", {
            "GET": Operation(run, "", args=(Argument("fields", ""),)),
            "POST": takes, "PUT": takes, "DELETE": Operation(lambda _: Reply(204), ""),
        }),
        Endpoint(ROOT, "/change", {"POST": Operation(run, "")}),
        Endpoint(ROOT, "/broken", {"GET": Operation(broken, "")}),
        Endpoint(ROOT, "/refused", {"GET": Operation(refused, "")}),
    ))  # fmt: skip


@pytest.fixture
def served() -> Iterator[InProcess]:
    """Give a server that may be written to."""
    with InProcess(h.CONF % "api write=on;", more=(module(),)) as served:
        yield served


@pytest.fixture
def read_only() -> Iterator[InProcess]:
    """Give a server that may not."""
    with InProcess(h.CONF % "api;", more=(module(),)) as served:
        yield served


def test_an_operation_is_given_what_the_request_says(served: InProcess) -> None:
    """Path, arguments, body and whether writing is allowed."""
    got = h.ask(served, "/api/9/things/a%20b/?fields=x&y=1", "POST", b'{"n": [1]}')
    assert ["POST", {"name": "a b"}, {"fields": "x", "y": "1"}, {"n": [1]}, True] == got.json


def test_a_reply_without_a_body_has_none(served: InProcess) -> None:
    """204 has no length either."""
    got = h.ask(served, "/api/9/things/a", "DELETE")
    assert (204, b"") == (got.status, got.body)
    assert not {"content-length", "content-type"} & set(got.headers)


@pytest.mark.parametrize("path", [PROBE, "/api/9/things/a", "/api/9/none", "/api/77/", "/api/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_writing_is_disabled(read_only: InProcess, path: str, method: str) -> None:
    """Everywhere in the API, without write=on."""
    got = h.ask(read_only, path, method)
    assert (405, "MethodDisabled") == (got.status, got.code)


def test_writing_is_disabled_beside_the_api_too(
    served: InProcess, read_only: InProcess
) -> None:
    """Wherever an operation changes something."""
    assert 200 == h.ask(served, "/change", "POST").status
    assert "MethodDisabled" == h.ask(read_only, "/change", "POST").code


def test_the_probe_of_the_dashboard_finds_that_it_may_write(served: InProcess) -> None:
    """It takes any error but 401, 403 and 405 for that, if it is JSON."""
    got = h.ask(served, PROBE, "DELETE")
    assert (404, "PathNotFound") == (got.status, got.code)


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/api/9/things/a", "PATCH", "DELETE, GET, HEAD, POST, PUT"),
        ("/api/9/things/a", "OPTIONS", "DELETE, GET, HEAD, POST, PUT"),
        ("/refused", "POST", "GET, HEAD"), ("/api", "DELETE", "GET, HEAD"),
    ],
)  # fmt: skip
def test_a_method_that_a_path_has_not(
    served: InProcess, path: str, method: str, allow: str
) -> None:
    """The reply names those it has."""
    got = h.ask(served, path, method)
    assert (405, "MethodNotAllowed", allow) == (got.status, got.code, got.headers["allow"])


def test_what_is_allowed_where_nothing_is_written(read_only: InProcess) -> None:
    """Methods that change something are not named."""
    assert "GET, HEAD" == h.ask(read_only, "/api/9/things/a", "OPTIONS").headers["allow"]


@pytest.mark.parametrize(
    "body", [None, b"", b"{", b"nothing", b"NaN", b'{"a": Infinity}', b"\xff", b"[" * 100_000]
)
def test_a_body_that_is_no_json(served: InProcess, body: bytes | None) -> None:
    """415, whatever it is instead, and where there is none."""
    got = h.ask(served, "/api/9/things/a", "POST", body)
    assert (415, "JsonError") == (got.status, got.code)


def test_the_type_of_a_body_does_not_matter(served: InProcess) -> None:
    """The dashboard and curl send others than JSON's; a coding is another matter."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        got = h.ask(served, "/api/9/things/a", "PUT", b"{}", Content_Type=kind)
        assert 200 == got.status
    assert 415 == h.ask(served, "/api/9/things/a", "PUT", b"{}", Content_Encoding="gzip").status


def test_an_error_of_an_operation_is_its_reply(served: InProcess) -> None:
    """Status, code and text are the operation's."""
    got = h.ask(served, "/refused")
    assert (409, "EntryExists") == (got.status, got.code)
    assert "entry exists" == got.json["error"]["text"]


def test_a_fault_is_ours_to_know(served: InProcess) -> None:
    """An alert in the log, 500 without a word of it to the client, and the connection goes on."""
    raw = h.request("/broken") + h.request("/healthz")
    got, after = h.replies(h.exchange(served, raw))
    assert (500, "InternalError", 200) == (got.status, got.code, after.status)
    assert b"secret" not in got.body
    (line,) = [text for level, text in served.target.lines if level == "alert"]
    assert "secret of ours" in line


def test_each_error_has_an_id_of_its_own(served: InProcess) -> None:
    """So that two reports can be told apart."""
    first, second = (h.ask(served, "/none").json["request_id"] for _ in range(2))
    assert first != second
    assert json.dumps(first)
