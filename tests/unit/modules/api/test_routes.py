"""From a path to its operation: both slashes, names, indexes, versions."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import errors
from ngxstream.modules.api.routes import Routes, arguments, decoded
from ngxstream.stream.api import OWN, PLUS, ROOT, ApiError, Endpoint, Operation, Reply

GET = {"GET": Operation(lambda _: Reply(200, "got"), "")}


def table(*endpoints: Endpoint) -> Routes:
    """Return a table of these and of some usual ones."""
    return Routes((
        Endpoint(PLUS, "/stream/upstreams", GET),
        Endpoint(PLUS, "/stream/upstreams/{name}", GET),
        Endpoint(PLUS, "/stream/upstreams/{name}/servers/{id}", GET),
        Endpoint(PLUS, "/stream/server_zones", GET),
        Endpoint(PLUS, "/http/requests", GET, listed=False),
        Endpoint(PLUS, "/nginx", GET),
        Endpoint(OWN, "/workers", GET),
        Endpoint(ROOT, "/metrics", GET),
        *endpoints,
    ))


def found(path: str, method: str = "GET", routes: Routes | None = None) -> Any:
    """Return what GET of a path gives."""
    found = (routes or table()).find("/api", path)
    request: Any = None
    reply = found.operations[method].operation.run(request)
    assert reply is not None
    return reply.value


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/api", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("/api/9", ["nginx", "stream"]),
        ("/api/1/stream", ["server_zones", "upstreams"]),
        ("/api/9/http", []),
        ("/api/9/nginx", "got"),
        ("/api/3/stream/upstreams", "got"),
        ("/api/ngxstream", [1]),
        ("/api/ngxstream/1/workers", "got"),
        ("/metrics", "got"),
    ],
)
def test_a_path_is_found_with_a_slash_and_without(path: str, slash: str, value: Any) -> None:
    """Every version has the same tree; what stands above others lists them in Plus's order."""
    assert value == found(path + slash)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/0/nginx", "UnknownVersion"), ("/api/10/", "UnknownVersion"),
        ("/api/09/nginx", "UnknownVersion"), ("/api/ngxstream/2/workers", "UnknownVersion"),
        ("/api//9", "UnknownVersion"), ("/api/9/none", "PathNotFound"),
        ("/api/9/nginx/more", "PathNotFound"), ("/api/9//nginx", "PathNotFound"),
        ("/api/9/stream/upstreams//servers/1", "PathNotFound"), ("/", "PathNotFound"),
        ("/apix/9/nginx", "PathNotFound"), ("/metrics/x", "PathNotFound"), ("*", "PathNotFound"),
        ("/api/9/../9/nginx", "PathNotFound"),
    ],
)  # fmt: skip
def test_what_is_not_there_says_why(path: str, code: str) -> None:
    """A version nobody knows, or a path that a known version has not."""
    with pytest.raises(ApiError) as caught:
        table().find("/api", path)
    assert (404, code) == (caught.value.status, caught.value.code)


def test_names_are_decoded_after_the_path_is_cut() -> None:
    """A slash in a name does not end its segment."""
    place = table().find("/api", "/api/9/stream/upstreams/a%2Fb%20%C3%A9/servers/1/")
    assert ["a/b é", "1"] == place.values
    assert ("name", "id") == place.operations["GET"].names


def test_the_prefix_moves_both_trees_and_not_the_rest() -> None:
    """What was under /api is there no more."""
    routes = table()
    assert routes.find("/x/y", "/x/y/9/nginx").tree == PLUS
    assert routes.find("/x/y", "/x/y/ngxstream/1").tree == OWN
    assert routes.find("/x/y", "/metrics").tree == ROOT
    with pytest.raises(ApiError):
        routes.find("/x/y", "/api/9/nginx")


def test_two_modules_may_share_a_path_but_no_method() -> None:
    """Each names its segments as it likes."""
    post = {"POST": Operation(lambda _: Reply(201), "")}
    routes = table(Endpoint(PLUS, "/stream/upstreams/{u}", post))
    operations = routes.find("/api", "/api/9/stream/upstreams/a").operations
    assert ({"GET", "POST"}, ("u",)) == (set(operations), operations["POST"].names)
    with pytest.raises(errors.InternalError):
        table(Endpoint(PLUS, "/nginx", GET))


@pytest.mark.parametrize("text", ["%", "%4", "a%zz", "%%20", "%+1", "%00", "%0x"])
def test_what_cannot_be_decoded_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ApiError) as caught:
        decoded(text)
    assert 400 == caught.value.status


@pytest.mark.parametrize(
    ("query", "args"),
    [
        ("", {}), ("a", {"a": ""}), ("a=1&a=2&b=", {"a": "1", "b": ""}), ("a=b=c", {"a": "b=c"}),
        ("a+b=c%2Bd+e", {"a b": "c+d e"}), ("&&a=1&", {"a": "1"}), ("fields=", {"fields": ""}),
    ],
)  # fmt: skip
def test_arguments_are_the_first_of_each_name(query: str, args: dict[str, str]) -> None:
    """Decoded, a plus as the space that forms make of it."""
    assert args == arguments(query)


def test_arguments_are_bounded() -> None:
    """A query of thousands is refused."""
    with pytest.raises(ApiError):
        arguments("&".join(f"a{n}" for n in range(100)))


@given(st.text("/%0aA9.?&=+ngxstream", max_size=20), st.text("&=%0aA+", max_size=20))
def test_any_path_and_query_is_found_or_refused(path: str, query: str) -> None:
    """Nothing but the error of the API."""
    for look in (lambda: table().find("/api", f"/api/{path}"), lambda: arguments(query)):
        with contextlib.suppress(ApiError):
            look()
