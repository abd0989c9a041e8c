"""The pairs in the API: /stream/keyvals/ and what is below it.

Source: NGINX Plus's /stream/keyvals as documented, version 9
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import shm
from ngxstream.core.shm_keyval import MAX_VALUE, FullError
from ngxstream.event.slices import Slices
from ngxstream.modules.keyval import shared
from ngxstream.stream import api, keyval_zone
from ngxstream.stream import schema as schemas
from ngxstream.stream.api import ApiError, Endpoint, Members, Operation, Reply

if TYPE_CHECKING:
    from ngxstream.stream.api import Request
    from ngxstream.stream.keyval_zone import KeyvalZone

AT_ONCE: Final = 100  # pairs that are entered in one turn of the loop, some 2 ms
READ_AT_ONCE: Final = 500  # pairs that are read in one turn, 1 to 2 ms
LONGEST_MS: Final = keyval_zone.LONGEST_MS

# Key, value (None: is kept) and the time it is kept (None: the zone's)
Wanted = tuple[bytes, bytes | None, int | None]


def _zones(request: Request) -> dict[str, KeyvalZone]:
    known: dict[str, KeyvalZone] = request.stream.data.get(keyval_zone.NAME, {})
    return known


def _zone(request: Request) -> KeyvalZone:
    zone = _zones(request).get(request.path["zone"])
    if zone is None:
        raise ApiError(404, "KeyvalNotFound", "keyval not found")
    if zone.is_closed and request.method not in ("GET", "HEAD"):
        raise ApiError(503, "Unavailable", "there is no master process, ask again")
    return zone


def _format_error(text: str) -> ApiError:
    return ApiError(400, "KeyvalFormatError", text)


def _no_key() -> ApiError:
    return ApiError(404, "KeyvalKeyNotFound", "keyval key not found")


def _damaged(zone: KeyvalZone) -> ApiError:
    return ApiError(500, "InternalError", f'keyval_zone "{zone.name}" cannot be used')


def _full(zone: KeyvalZone) -> ApiError:
    return ApiError(400, "KeyvalOutOfMemory", f'keyval_zone "{zone.name}" memory exhausted')


# -- reading ---------------------------------------------------------------------------------------


def _pairs(zone: KeyvalZone, now_ms: int) -> Iterator[tuple[str, str]]:
    for key, value, _ in zone.store.pairs(now_ms):
        yield zone.keys.text(key), value.decode("utf-8", "replace")


def _get_all(request: Request) -> Reply:
    known = _zones(request)
    if request.fields() == frozenset():
        return Reply(value=list(known))
    now_ms = request.loop.now_ms
    return Reply(value=Members(
        (name, Members(_pairs(zone, now_ms))) for name, zone in known.items()
    ))


def _get(request: Request) -> Reply:
    zone = _zone(request)
    now_ms = request.loop.now_ms
    text = request.args.get("key")
    if text is None:
        return Reply(value=Members(_pairs(zone, now_ms)))
    try:
        key = zone.keys.parse(text)
    except ValueError:
        raise _no_key() from None
    try:
        value = zone.store.get(key, now_ms)
    except shm.DAMAGE:
        raise _damaged(zone) from None
    if value is None:
        raise _no_key()
    return Reply(value={zone.keys.text(key): value.decode("utf-8", "replace")})


# -- changing --------------------------------------------------------------------------------------


def _members(request: Request) -> dict[str, Any]:
    """Return the members of the body. Raises: ApiError"""
    body = request.body
    if body is None or body == {}:
        raise _format_error("key required")
    if not isinstance(body, dict):
        raise _format_error("invalid JSON")
    return body


def _key(zone: KeyvalZone, text: str) -> bytes:
    try:
        return zone.keys.parse(text)
    except ValueError:
        raise _format_error("invalid key format") from None


def _wanted(zone: KeyvalZone, text: str, value: object, *, kept: bool) -> Wanted:
    """Read a member of the body. Args: kept: the value may be missing. Raises: ApiError"""
    key = _key(zone, text)
    expire_ms: int | None = None
    if isinstance(value, dict):
        least = {"expire"} if kept else {"value"}
        if not value.keys() <= {"value", "expire"} or not value.keys() & {"value", *least}:
            raise _format_error("invalid JSON")
        if "expire" in value:
            if not zone.timeout_ms:
                raise _format_error("keyval timeout is not enabled")
            expire_ms = value["expire"]
            if type(expire_ms) is not int or not 0 < expire_ms <= LONGEST_MS:
                raise _format_error('invalid "expire" value')
        if "value" not in value:
            return key, None, expire_ms
        value = value["value"]
    if not isinstance(value, str):
        raise _format_error("invalid JSON")
    try:
        data = value.encode()
    except ValueError:
        raise _format_error("invalid JSON") from None
    if len(data) > MAX_VALUE:
        raise _format_error(f"value is longer than {MAX_VALUE} bytes")
    return key, data, expire_ms


def _post(request: Request) -> Reply | None:
    zone = _zone(request)
    members = _members(request)
    if zone.sharing is not None:
        return _Adding(request, _adding_shared(zone, request, members)).begin()
    if len(members) == 1:
        (member,) = members.items()
        _add(zone, request, _wanted(zone, *member, kept=False))
        zone.changed()
        return Reply(201)
    return _Adding(request, _adding(zone, request, members)).begin()


def _add(zone: KeyvalZone, request: Request, wanted: Wanted) -> None:
    key, value, expire_ms = wanted
    now_ms = request.loop.now_ms
    try:
        added = zone.store.add(key, value or b"", zone.expiry(now_ms, expire_ms), now_ms)
    except FullError:
        raise _full(zone) from None
    except shm.DAMAGE:
        raise _damaged(zone) from None
    if not added:
        raise ApiError(409, "KeyvalKeyExists", f'key "{zone.keys.text(key)}" already exists')


def _adding(
    zone: KeyvalZone, request: Request, members: dict[str, Any]
) -> Generator[None, None, Reply]:
    """Read and enter many pairs, some in each step. Raises: ApiError"""
    wanted: list[Wanted] = []
    keys = set()
    store = zone.store
    blocks = 0
    for member in members.items():
        key, value, _ = one = _wanted(zone, *member, kept=False)
        wanted.append(one)
        keys.add(key)
        blocks += store.blocks_of(len(key) + len(value or b""))
        if len(wanted) % READ_AT_ONCE == 0:
            yield
    now_ms = request.loop.now_ms
    try:
        if not store.is_empty(now_ms):
            raise _format_error("only one key can be added")
        if len(keys) != len(wanted):
            raise ApiError(409, "EntryExists", "a key is given more than once")
        if not store.has_room(blocks, now_ms):
            raise _full(zone)
    except shm.DAMAGE:
        raise _damaged(zone) from None
    for at in range(0, len(wanted), AT_ONCE):
        if at:
            yield
        try:
            for one in wanted[at : at + AT_ONCE]:
                _add(zone, request, one)
        finally:
            zone.changed()
    return Reply(201)


def _adding_shared(
    zone: KeyvalZone, request: Request, members: dict[str, Any]
) -> Generator[None, None, None]:
    """Read many pairs, some in each step, and have a store take them. Raises: ApiError"""
    wanted: list[Wanted] = []
    for member in members.items():
        wanted.append(_wanted(zone, *member, kept=False))
        if len(wanted) % READ_AT_ONCE == 0:
            yield
    shared.add(zone, request, wanted)


class _Adding:
    """Many pairs that are entered, some in each slice of the loop."""

    __slots__ = ("_request", "_steps")

    def __init__(self, request: Request, steps: Generator[None, None, Reply | None]) -> None:
        self._request = request
        self._steps = steps

    def begin(self) -> Reply | None:
        """Take a step; return the reply if it is the last, None where that comes later.

        Raises: ApiError
        """
        try:
            next(self._steps)
        except StopIteration as stop:
            reply: Reply | None = stop.value
            return reply
        self._request.loop.get(Slices).add(self._go_on)
        return None

    def _go_on(self) -> None:
        try:
            reply = self.begin()
        except ApiError as error:  # a pair that is none, or somebody has added one meanwhile
            self._request.respond(error)
        else:
            if reply is not None:
                self._request.respond(reply)


def _patch(request: Request) -> Reply | None:
    zone = _zone(request)
    members = _members(request)
    if len(members) > 1:
        raise _format_error("only one key can be updated")
    ((text, value),) = members.items()
    if zone.sharing is not None:
        is_gone = value is None
        wanted = (_key(zone, text), None, None) if is_gone else (
            _wanted(zone, text, value, kept=True)
        )
        shared.change(zone, request, *wanted, removed=is_gone)
        return None
    now_ms = request.loop.now_ms
    try:
        if value is None:
            done = zone.store.remove(_key(zone, text), now_ms)
        else:
            key, data, expire_ms = _wanted(zone, text, value, kept=True)
            done = zone.store.change(key, data, zone.expiry(now_ms, expire_ms), now_ms)
    except FullError:
        raise _full(zone) from None
    except shm.DAMAGE:
        raise _damaged(zone) from None
    if not done:
        raise _no_key()
    zone.changed()
    return Reply(204)


def _delete(request: Request) -> Reply | None:
    zone = _zone(request)
    if zone.sharing is not None:
        shared.clear(zone, request)
        return None
    try:
        zone.store.clear()
    except shm.DAMAGE:
        raise _damaged(zone) from None
    zone.changed()
    return Reply(204)


# -- what is declared ------------------------------------------------------------------------------

PAIRS: Final = schemas.mapping(schemas.TEXT)
ONE: Final = schemas.mapping({"anyOf": [
    schemas.TEXT,
    schemas.obj(value=schemas.TEXT, expire=schemas.optional(schemas.COUNT)),
]})
CHANGE: Final = schemas.mapping({"anyOf": [
    schemas.TEXT,
    {"type": "null"},
    schemas.obj(value=schemas.optional(schemas.TEXT), expire=schemas.optional(schemas.COUNT)),
]})

ENDPOINTS: Final = (
    Endpoint(api.PLUS, "/stream/keyvals", {
        "GET": Operation(
            _get_all, "The pairs of all zones.", schemas.mapping(PAIRS),
            args=(api.Argument("fields", "If it is empty, only the names of zones."),),
        ),
    }),
    Endpoint(api.PLUS, "/stream/keyvals/{zone}", {
        "GET": Operation(
            _get, "The pairs of a zone, or one of them.", PAIRS,
            args=(api.Argument("key", "Only the pair of this key."),),
            errors=("KeyvalNotFound", "KeyvalKeyNotFound"),
        ),
        "POST": Operation(
            _post, "Adds a pair; or many, if the zone is empty.", success=201, takes=ONE,
            errors=("KeyvalFormatError", "KeyvalNotFound", "EntryExists", "KeyvalKeyExists",
                    "KeyvalOutOfMemory", "Unavailable", "StoreUnavailable", "StoreRefused"),
        ),
        "PATCH": Operation(
            _patch, "Changes the value of a pair or when it expires; null removes it.",
            success=204, takes=CHANGE,
            errors=("KeyvalFormatError", "KeyvalNotFound", "KeyvalKeyNotFound",
                    "KeyvalOutOfMemory", "Unavailable", "StoreUnavailable", "StoreRefused"),
        ),
        "DELETE": Operation(_delete, "Removes all pairs of a zone.", success=204,
                            errors=("KeyvalNotFound", "Unavailable", "StoreUnavailable",
                                    "StoreRefused")),
    }),
)
