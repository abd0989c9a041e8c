"""A ring of records in shared memory: the last ones that any process of a master has added.

1. A record is written under a lock that the kernel takes from the dead, and counted when it is
   whole. Its number and a checksum stand before it: one that was cut short is not read.
2. Nobody waits for a lock longer than PATIENCE_S. Where it is held for longer (its holder is
   stopped), records are lost and counted, and for PAUSE_S nobody waits at all.
3. Who reads takes no lock, and believes nothing: any process may have written anything.
"""

from __future__ import annotations

import mmap
import struct
import time
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, lockf
from typing import Final
from zlib import crc32

from ngxstream.core import shm

PATIENCE_S: Final = 0.005
PAUSE_S: Final = 1.0
TRIES: Final = 16  # at once, before it is slept in between: the lock is held for some 3 µs

_HEAD: Final = struct.Struct("=qII")  # number, bytes, checksum of the record and its number
_SEED: Final = 0xFFFF_FFFF
_LAST: Final = 0  # cells of the ring: the number of the last record
_LOST: Final = 1  # how many could not be added
_START: Final = 64
_MASK: Final = (1 << 62) - 1


class Ring:
    """The ring. Numbers of records count from 1 up and are not used twice."""

    __slots__ = ("_cells", "_lock", "_memory", "_paused_until", "_records", "_size", "_stride")

    def __init__(self, name: str, records: int, size: int) -> None:
        """Make it, for the master before it forks. Raises: OSError

        Args: records: how many there are at most; size: of one, in bytes
        """
        self._records = records
        self._size = size
        self._stride = -(-(_HEAD.size + size) // 8) * 8
        self._memory = mmap.mmap(-1, _START + records * self._stride)
        self._cells = memoryview(self._memory)[:_START].cast("q")
        self._lock = shm.Lock(name)
        self._paused_until = 0.0

    def add(self, data: bytes) -> None:
        """Add a record, of which no more is kept than fits; it never raises."""
        if not (self._try() or self._wait()):
            self._cells[_LOST] = (self.lost + 1) & _MASK
            return
        try:
            number = (max(0, self._cells[_LAST]) + 1) & _MASK
            data = data[: self._size]
            size = len(data)
            at = _START + number % self._records * self._stride
            head = _HEAD.pack(number, size, crc32(data, number & _SEED))
            self._memory[at : at + _HEAD.size + size] = head + data
            self._cells[_LAST] = number
        finally:
            lockf(self._lock.fd, LOCK_UN, 1)

    def _wait(self) -> bool:
        """Try again and again, for a while."""
        for _ in range(TRIES):
            if self._try():
                return True
        now = time.monotonic()
        end = now + PATIENCE_S
        if now < self._paused_until:
            return False
        while time.monotonic() < end:
            time.sleep(shm.RETRY_S)
            if self._try():
                return True
        self._paused_until = end + PAUSE_S
        return False

    def _try(self) -> bool:
        try:
            lockf(self._lock.fd, LOCK_EX | LOCK_NB, 1)
        except OSError:  # somebody holds it, or the kernel has no locks left
            return False
        return True

    @property
    def last(self) -> int:
        """The number of the last record, 0 for none."""
        return max(0, self._cells[_LAST]) & _MASK

    @property
    def lost(self) -> int:
        """How many records could not be added."""
        return max(0, self._cells[_LOST])

    def read(self, after: int = 0) -> list[tuple[int, bytes]]:
        """Return the records that are there, number and bytes, the newest last.

        Args: after: those with a greater number
        """
        found = []
        last = self.last
        for number in range(max(after, last - self._records, 0) + 1, last + 1):
            at = _START + number % self._records * self._stride
            said, size, checksum = _HEAD.unpack_from(self._memory, at)
            if said == number and size <= self._size:
                data = self._memory[at + _HEAD.size : at + _HEAD.size + size]
                if checksum == crc32(data, number & _SEED):
                    found.append((number, data))
        return found
