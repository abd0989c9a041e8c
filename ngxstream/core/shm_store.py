"""A bounded store of byte strings by key, in memory all workers share.

What the TLS session cache is kept in; nginx has a tree and a queue in a slab there
(ngx_event_openssl.c, ngx_ssl_session_cache_t). A store must never fail for want of memory, only
forget the oldest, and a worker may die between any two instructions.

So it is a log that goes round: a record is written behind the latest one, over the oldest. A
position only ever grows, its place in memory is the position modulo the size; what lies more than
the size behind the end is gone. Records are found by chains that lead from a bucket back in time.
The end moves first, then the record is written, then its bucket points at it: a crash can lose a
record, never show half of one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from ngxstream.core import shm

# position of the next in the chain + 1 (0: none), length of key and data, when it expires (s)
_HEADER: Final = struct.Struct("<QIIq")
_END: Final = 0


class ByteStore:
    """Keys and data of one zone, oldest out first."""

    __slots__ = ("zone", "size", "_memory", "_heads", "_mask", "_state")

    def __init__(self, zone: shm.Zone) -> None:
        """As large as the zone; made by the master, used by the workers."""
        self.zone = zone
        self.size = zone.size
        self._memory = zone.memory(self.size)
        self._mask = (1 << max(4, (self.size // 256).bit_length())) - 1
        self._heads = zone.ints(self._mask + 1)  # position of a chain's first record + 1
        self._state = zone.ints(1)  # the end of the log

    def put(self, key: bytes, data: bytes, expires_s: int) -> None:
        """Keep data until a time (seconds of any clock); more than a quarter of all is refused."""
        need = -(-(_HEADER.size + len(key) + len(data)) // 8) * 8
        size = self.size
        if need > size // 4:
            return
        bucket = zlib.crc32(key) & self._mask
        with self.zone.lock:
            at = self._state[_END]
            if at % size + need > size:  # a record is in one piece
                at += size - at % size
            self._state[_END] = at + need
            place = at % size
            header = _HEADER.pack(self._heads[bucket], len(key), len(data), expires_s)
            self._memory[place : place + need] = (header + key + data).ljust(need, b"\0")
            self._heads[bucket] = at + 1

    def get(self, key: bytes, now_s: int) -> bytes | None:
        """Return the latest data of a key that expires after now; None for none."""
        with self.zone.lock:
            for place, expires_s, size in self._records(key):
                if expires_s <= now_s:
                    return None
                start = place + _HEADER.size + len(key)
                return self._memory[start : start + size]
        return None

    @property
    def used(self) -> int:
        """How many bytes were ever written to; all of them once it has gone round."""
        return min(max(self._state[_END], 0), self.size)

    def remove(self, key: bytes) -> None:
        """Forget a key."""
        with self.zone.lock:
            for place, _, _ in self._records(key):
                # the last field of the header: it expires in the past
                struct.pack_into("<q", self._memory, place + _HEADER.size - 8, 0)

    def _records(self, key: bytes) -> Iterator[tuple[int, int, int]]:
        """Yield place, expiry and data size of a key's records, latest first."""
        memory, size = self._memory, self.size
        oldest = self._state[_END] - size
        link = self._heads[zlib.crc32(key) & self._mask]
        while link and link - 1 >= oldest:
            place = (link - 1) % size
            following, key_size, data_size, expires_s = _HEADER.unpack_from(memory, place)
            start = place + _HEADER.size
            if key_size == len(key) and memory[start : start + key_size] == key:
                yield place, expires_s, data_size
            if following >= link:
                return
            link = following
