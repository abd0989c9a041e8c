"""Resumption: the storage of sessions and the keys of tickets.

Answers for ngx_ssl_session_cache_init(), ngx_ssl_session_ticket_keys() and
ngx_ssl_rotate_ticket_keys() (src/event/ngx_event_openssl.c).

Without a shared cache and without keys of one's own the library makes keys when the master makes
the context: all workers have them, until the next reload. Keys in a zone outlive reloads and are
changed for new ones whenever no ticket under the previous ones can be valid any more.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, shm_store
from ngxstream.core.shm_zones import Usage
from ngxstream.event.libssl_sessions import TicketKey

if TYPE_CHECKING:
    from ngxstream.core.shm import Zone
    from ngxstream.core.shm_zones import ZoneRequest

KEY_SIZE: Final = 80
_CURRENT: Final = 0
_PREVIOUS: Final = 1
_NEXT: Final = 2


def init_zone(zone: Zone, fresh: bool) -> None:
    """Initialize a new zone; an adopted one keeps its sessions and keys."""
    if fresh:
        zone.data = SessionZone(zone)


class SessionZone:
    """What one `shared:` zone holds: sessions and ticket keys."""

    __slots__ = ("store", "keys")

    def __init__(self, zone: Zone) -> None:
        self.store = shm_store.ByteStore(zone)
        self.keys = TicketKeys(zone)


def usage_of(request: ZoneRequest) -> Usage:
    """Tell how full a zone is, in words of 8 bytes; what is written is not counted."""
    zone: SessionZone = request.zone.data  # type: ignore[union-attr]
    used = -(-zone.store.used // 8)
    return Usage(8, used, zone.store.size // 8 - used, 0)


class TicketKeys:
    """Ticket keys that all workers share and change together: current, previous and next."""

    __slots__ = ("_zone", "_memory", "_expires", "_known", "_until")

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._memory = mmap.mmap(-1, 3 * KEY_SIZE)
        self._expires = zone.ints(2)  # s of the wall clock: current, previous; 0 is "no key yet"
        # what this process has seen of it
        self._known: tuple[TicketKey, ...] = ()
        self._until = (0, 0)

    def keys(self, timeout_s: int) -> tuple[TicketKey, ...]:
        """Return the keys, current first, changed when due. Args: timeout_s: of a new session"""
        now = int(time.time())
        expires = now + timeout_s
        if self._known and self._until[_CURRENT] >= expires and self._until[_PREVIOUS] >= now:
            return self._known
        with self._zone.lock:
            cells, memory = self._expires, self._memory
            if not cells[_CURRENT]:
                self._write(_CURRENT, os.urandom(KEY_SIZE))
                self._write(_NEXT, self._read(_CURRENT))
                cells[_CURRENT] = expires
            if cells[_PREVIOUS] < now:
                # nobody holds a valid ticket of the previous key any more
                self._write(_PREVIOUS, self._read(_CURRENT))
                self._write(_CURRENT, self._read(_NEXT))
                self._write(_NEXT, os.urandom(KEY_SIZE))
                cells[_PREVIOUS] = cells[_CURRENT]
            cells[_CURRENT] = max(cells[_CURRENT], expires)
            self._until = (cells[_CURRENT], cells[_PREVIOUS])
            raw = bytes(memory)
        # a worker that has moved on already may seal with what is the next key here
        self._known = tuple(
            TicketKey.parse(raw[at : at + KEY_SIZE]) for at in range(0, len(raw), KEY_SIZE)
        )
        return self._known

    def _read(self, number: int) -> bytes:
        return self._memory[number * KEY_SIZE : (number + 1) * KEY_SIZE]

    def _write(self, number: int, raw: bytes) -> None:
        self._memory[number * KEY_SIZE : (number + 1) * KEY_SIZE] = raw


class ZoneStore:
    """The sessions of a zone that is made after the contexts that use it."""

    __slots__ = ("_request",)

    def __init__(self, request: ZoneRequest) -> None:
        self._request = request

    def _data(self) -> SessionZone:
        zone = self._request.zone
        assert zone is not None
        data: SessionZone = zone.data
        return data

    def put(self, key: bytes, data: bytes, expires_s: int) -> None:
        """Keep a session."""
        self._data().store.put(key, data, expires_s)

    def get(self, key: bytes, now_s: int) -> bytes | None:
        """Return a session that has not expired."""
        return self._data().store.get(key, now_s)

    def remove(self, key: bytes) -> None:
        """Forget a session."""
        self._data().store.remove(key)

    def ticket_keys(self, timeout_s: int) -> Callable[[], tuple[TicketKey, ...]]:
        """Return what asks for the zone's ticket keys."""
        return lambda: self._data().keys.keys(timeout_s)


def read_ticket_key(path: str) -> TicketKey:
    """Read one key file. Raises: ConfError. Source: ngx_ssl_session_ticket_keys"""
    try:
        with open(path, "rb") as file:
            raw = file.read(KEY_SIZE + 1)
    except OSError as error:
        raise errors.ConfError(f'open() "{path}" failed', errno=error) from None
    if len(raw) not in (48, KEY_SIZE):
        raise errors.ConfError(f'"{path}" must be 48 or 80 bytes')
    return TicketKey.parse(raw)
