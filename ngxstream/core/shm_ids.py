"""Which worker has the session that an id names, in memory that all processes share.

nginx has no counterpart: there the kernel's BPF program looks into each id of its own QUIC server
(ngx_event_quic_bpf.c), and a proxied one has none.

1. An id is known by its hash of 64 bits alone, with Python's secret in it: nobody outside can make
   two ids that share a row. Every process is a fork of one, so all hash alike.
2. The hash names a set of WAYS rows. Where none is free, the row that was written longest ago gives
   way, but never a firm one (of a session in which both sides have spoken): a flood of new ids
   pushes out new ones alone.
3. Who comes first has an id: a row is written by its owner, until he gives it away or is dead. A
   worker's number is that of the one who takes its place too.
4. All is read and written under the zone's lock, which the kernel takes from the dead. What another
   user's process may have written there is checked: it names a worker that does not know the id.

Row, in words: hash, owner (pid << 16 | number of the worker), when written (ms), state. In front of
all rows stands a word of which bit n says that ids of n bytes have been entered.
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, LOCK_UN, lockf
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ngxstream.core.shm import Zone

WAYS: Final = 8
WORDS: Final = 4
ROW: Final = WORDS * 8  # bytes
NEW: Final = 1  # states
FIRM: Final = 2
LEAVING: Final = 3
NOBODY: Final = -1  # in the place of a worker's number
ENTERED: Final = 1  # what put() says
FULL: Final = 0
TAKEN: Final = -1
MAX_ID: Final = 20  # bytes of an id
_SET: Final = WAYS * WORDS
_PLACE: Final = 0xFFFF


class Holder(NamedTuple):
    """Who has an id. Args: pid: whose row it is; worker: a number; since_ms: loop ms"""

    pid: int
    worker: int
    since_ms: int


def _is_dead(owner: int) -> bool:
    """Tell whether the process that wrote a row is gone."""
    pid = owner >> 16
    if not 0 < pid < 1 << 31:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


class IdTable:
    """The ids of one zone, for all listening addresses: what an id is of is hashed with it."""

    __slots__ = ("_mask", "_words", "capacity", "zone")

    def __init__(self, zone: Zone) -> None:
        """Make an empty one as large as the zone. Raises: OSError. In the master"""
        self.zone = zone
        sets = 1 << max(0, (zone.size // (ROW * WAYS)).bit_length() - 1)
        self.capacity = sets * WAYS
        self._mask = sets - 1
        self._words: memoryview[int] = zone.ints(1 + sets * _SET)

    @property
    def lengths(self) -> int:
        """A bit for each length that ids have had."""
        return self._words[0]

    def put(self, tag: int, length: int, pid: int, worker: int, now_ms: int, *,
            firm: bool = False) -> int:
        """Enter an id, or write its row anew.

        Args: tag: its hash; length: bytes of the id; firm: both sides of its session have spoken
        Returns: ENTERED; FULL where there is no room; TAKEN where another living process has it
        """
        owner = pid << 16 | worker
        words, fd = self._words, self.zone.lock.fd
        lockf(fd, LOCK_EX, 1)
        try:
            words[0] |= 1 << length
            at = self._find(tag)
            if at:
                held = words[at + 1]
                if words[at + 3] == LEAVING:
                    words[at + 3] = NEW
                elif held & _PLACE != worker and held >> 16 != pid and not _is_dead(held):
                    return TAKEN
            else:
                at = self._room(tag)
                if not at:
                    return FULL
                words[at] = tag
                words[at + 3] = NEW
            words[at + 1] = owner
            words[at + 2] = now_ms
            if firm:
                words[at + 3] = FIRM
            return ENTERED
        finally:
            lockf(fd, LOCK_UN, 1)

    def find(self, tag: int) -> Holder | None:
        """Return who has an id, None for nobody who lives; NOBODY while it goes to another one."""
        words, fd = self._words, self.zone.lock.fd
        lockf(fd, LOCK_EX, 1)
        try:
            at = self._find(tag)
            if not at:
                return None
            owner, since_ms, state = words[at + 1], words[at + 2], words[at + 3]
        finally:
            lockf(fd, LOCK_UN, 1)
        if state == LEAVING:
            return Holder(owner >> 16, NOBODY, since_ms)
        return None if _is_dead(owner) else Holder(owner >> 16, owner & _PLACE, since_ms)

    def give(self, tag: int, pid: int, worker: int, to: int, now_ms: int) -> None:
        """Have an id of this process be another worker's, who enters it himself when he has it."""
        with self.zone.lock:
            at = self._find(tag)
            if at and self._words[at + 1] == pid << 16 | worker:
                self._words[at + 1] = pid << 16 | to
                self._words[at + 2] = now_ms

    def drop(self, tag: int, pid: int, worker: int) -> None:
        """Forget an id, if it is this process's."""
        self._set(tag, pid, worker, 0, 0)

    def leave(self, tag: int, pid: int, worker: int, now_ms: int) -> None:
        """Note that an id of this process goes to another one, which is not known here."""
        self._set(tag, pid, worker, LEAVING, now_ms)

    def _set(self, tag: int, pid: int, worker: int, state: int, now_ms: int) -> None:
        with self.zone.lock:
            at = self._find(tag)
            if at and self._words[at + 1] == pid << 16 | worker:
                self._words[at + 2] = now_ms
                self._words[at + 3] = state

    @property
    def used(self) -> int:
        """How many rows are taken, those of the dead among them."""
        return sum(1 for state in self._words[4::WORDS].tolist() if state)

    # -- under the lock ------------------------------------------------------------------------

    def _start(self, tag: int) -> int:
        return 1 + (tag & self._mask) * _SET

    def _find(self, tag: int) -> int:
        """Return the place of a hash's row, 0 where it has none."""
        start = self._start(tag)
        row = self._words[start : start + _SET].tolist()
        for at in range(0, _SET, WORDS):  # hot: for each new client
            if row[at] == tag and row[at + 3]:
                return start + at
        return 0

    def _room(self, tag: int) -> int:
        """Return a row that is free or may be taken, 0 where all are firm."""
        start = self._start(tag)
        row = self._words[start : start + _SET].tolist()
        best, written = 0, 0
        for at in range(0, _SET, WORDS):
            state = row[at + 3]
            if not state:
                return start + at
            if state != FIRM and (not best or row[at + 2] < written):
                best, written = start + at, row[at + 2]
        if not best:
            for at in range(0, _SET, WORDS):
                if _is_dead(row[at + 1]):
                    best = start + at
        if best:
            self._words[best + 3] = 0
        return best
