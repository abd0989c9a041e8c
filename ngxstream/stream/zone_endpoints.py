"""Endpoints of things that have names and counters: all of one kind, and one of them.

As NGINX Plus has them for its zones: GET of all or of one, with `?fields=`, which names the members
to be sent, or, empty, asks for the names alone; DELETE of one, which has its counters begin at 0.
Endpoints are made of a Kind; who has another shape takes limited() and reset() alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from ngxstream.core import shm
from ngxstream.stream import schema
from ngxstream.stream.api import PLUS, ApiError, Argument, Endpoint, Members, Operation, Reply

if TYPE_CHECKING:
    from ngxstream.core.facts import Cell
    from ngxstream.stream.api import Request
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.schema import Schema

T = TypeVar("T")

FIELDS: Final = Argument("fields", "Members to be sent, joined by commas.")
ALL_FIELDS: Final = Argument(
    "fields", "Members to be sent of each, joined by commas; empty: the names of all alone."
)


class Kind(NamedTuple):
    """What a pair of endpoints shows.

    Args: path: of all of them, in the tree of NGINX Plus; what: is called so in texts; code: of the
    error for one that there is not; find: returns all by name; show: returns one as it is sent;
    reset(one, request): has its counters begin at 0, and raises what Cell.reset does; of: the
    schema of one
    """

    path: str
    what: str
    code: str
    find: Callable[[StreamConf], Mapping[str, Any]]
    show: Callable[[Any], dict[str, Any]]
    reset: Callable[[Any, Request], None]
    of: Schema


def endpoints(kind: Kind, tree: str = PLUS) -> tuple[Endpoint, Endpoint]:
    """Make both endpoints of a kind. Args: tree: that of NGINX Plus, or ours"""

    def get_all(request: Request) -> Reply:
        found = kind.find(request.stream)
        fields = request.fields()
        if fields is not None and not fields:
            return Reply(value=list(found))
        return Reply(value=Members(_shown(found, kind.show, fields)))

    def one(request: Request) -> Any:
        found = kind.find(request.stream).get(request.path["name"])
        if found is None:
            raise ApiError(404, kind.code, f"{kind.what} not found")
        return found

    def get(request: Request) -> Reply:
        return Reply(value=limited(kind.show(one(request)), request))

    def delete(request: Request) -> Reply:
        found = one(request)
        resetting(lambda: kind.reset(found, request))
        return Reply(204)

    return (
        Endpoint(tree, kind.path, {
            "GET": Operation(get_all, f"Return every {kind.what}.", schema.either(
                schema.mapping(schema.partial(kind.of)), schema.array(schema.TEXT)
            ), args=(ALL_FIELDS,)),
        }),
        Endpoint(tree, f"{kind.path}/{{name}}", {
            "GET": Operation(get, f"Return one {kind.what}.", schema.partial(kind.of),
                             args=(FIELDS,), errors=(kind.code,)),
            "DELETE": Operation(delete, f"Have the counters of a {kind.what} begin at 0.",
                                success=204, errors=(kind.code,)),
        }, listed=False),
    )


def _shown(
    found: Mapping[str, T], show: Callable[[T], dict[str, Any]], fields: frozenset[str] | None
) -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        yield name, _limited(show(value), fields)


def limited(value: dict[str, Any], request: Request) -> dict[str, Any]:
    """Return those members of an object that a request asks for."""
    return _limited(value, request.fields())


def _limited(value: dict[str, Any], fields: frozenset[str] | None) -> dict[str, Any]:
    if not fields:
        return value
    return {name: member for name, member in value.items() if name in fields}


def reset(cells: Iterable[Cell]) -> None:
    """Have counters begin at 0. Raises: ApiError"""
    def change() -> None:
        for cell in cells:
            cell.reset()

    resetting(change)


def resetting(change: Callable[[], object]) -> None:
    """Make a change in shared memory. Raises: ApiError: somebody keeps its lock, or spoiled it"""
    try:
        change()
    except shm.BusyError:
        raise ApiError(503, "ZoneBusy", "the memory is in use, try again") from None
    except shm.DAMAGE:
        raise ApiError(500, "InternalError", "the memory is damaged") from None
