"""Changes by the API of pairs that are in a store: made there first, and answered when it has.

Source: NGINX Plus's /stream/keyvals as documented, for what is answered
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Final

from ngxstream.core import shm
from ngxstream.event.slices import Slices
from ngxstream.event.store import LOST
from ngxstream.stream.api import ApiError, Reply
from ngxstream.wire.resp import ErrorReply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ngxstream.stream.api import Request
    from ngxstream.stream.keyval_sharing import Sharing
    from ngxstream.stream.keyval_zone import KeyvalZone
    from ngxstream.wire.resp import Reply as StoreReply

Wanted = tuple[bytes, bytes | None, int | None]  # key, value, and the time it is kept

AT_ONCE: Final = 100  # commands that are sent in one turn


def _away() -> ApiError:
    return ApiError(503, "StoreUnavailable", "the store is away, nothing was changed")


def _sharing(zone: KeyvalZone) -> Sharing:
    assert zone.sharing is not None
    return zone.sharing


def _refusal(reply: StoreReply) -> ApiError | None:
    """Return the error for what a store says, None where it did what it was to do."""
    if reply is LOST:
        return ApiError(503, "StoreUnavailable",
                        "the store is away, whether anything was changed is not known")
    if isinstance(reply, ErrorReply):
        return ApiError(507, "StoreRefused", f"the store says: {reply.text}")
    return None


def add(zone: KeyvalZone, request: Request, wanted: list[Wanted]) -> None:
    """Add pairs; more than one to an empty zone alone. Raises: ApiError"""
    sharing = _sharing(zone)
    if len({key for key, _, _ in wanted}) != len(wanted):
        raise ApiError(409, "EntryExists", "a key is given more than once")
    if len(wanted) > 1 and not zone.store.is_empty(request.loop.now_ms):
        raise ApiError(400, "KeyvalFormatError", "only one key can be added")
    if not sharing.store.is_up:
        raise _away()
    left = len(wanted)
    first: ApiError | None = None

    def answered(key: bytes, reply: StoreReply) -> None:
        nonlocal left, first
        error = _refusal(reply)
        if reply is None:
            error = ApiError(409, "KeyvalKeyExists", f'key "{zone.keys.text(key)}" already exists')
        first = first or error
        left -= 1
        if not left:
            request.respond(first or Reply(201))

    def send(pairs: Iterator[Wanted]) -> None:
        for key, value, expire_ms in itertools.islice(pairs, AT_ONCE):
            done = functools.partial(answered, key)
            time_ms = expire_ms or zone.timeout_ms or None
            if not sharing.add(key, value or b"", time_ms, b"NX", done):
                done(LOST)
        if left > 0 and pairs.__length_hint__():  # type: ignore[attr-defined]
            request.loop.get(Slices).add(functools.partial(send, pairs))

    send(iter(wanted))


def change(zone: KeyvalZone, request: Request, key: bytes, value: bytes | None,
           expire_ms: int | None, *, removed: bool) -> None:
    """Change a pair, when it expires, or remove it. Raises: ApiError"""
    sharing = _sharing(zone)

    def answered(reply: StoreReply) -> None:
        error = _refusal(reply)
        if not reply and error is None:  # 0 or None: there is no such pair
            error = ApiError(404, "KeyvalKeyNotFound", "keyval key not found")
        request.respond(error or Reply(204))

    time_ms = expire_ms or zone.timeout_ms or None
    if removed:
        is_sent = sharing.remove([key], answered)
    elif value is None:
        is_sent = sharing.expire(key, time_ms, answered)
    else:
        is_sent = sharing.add(key, value, time_ms, b"XX", answered)
    if not is_sent:
        raise _away()


def clear(zone: KeyvalZone, request: Request) -> None:
    """Remove all pairs that this host knows of, some in each turn. Raises: ApiError"""
    sharing = _sharing(zone)
    pairs = zone.store.pairs(request.loop.now_ms)

    def remove(reply: StoreReply = 0) -> None:
        error = _refusal(reply)
        try:
            keys = [] if error else [key for key, _, _ in itertools.islice(pairs, AT_ONCE)]
        except shm.DAMAGE:
            keys, error = [], ApiError(
                500, "InternalError", f'keyval_zone "{zone.name}" cannot be used'
            )
        if not keys:
            request.respond(error or Reply(204))
        elif not sharing.remove(keys, remove):
            request.respond(_away())

    if not sharing.store.is_up:
        raise _away()
    request.loop.post(remove)
