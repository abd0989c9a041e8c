"""Which configurations are still in use: UDP sessions counted per generation, in memory that all
processes of a master share.

nginx has no counterpart. A UDP session keeps the settings it began under while it goes from worker
to worker. The master keeps such a configuration (new workers are forked from it) until nobody
counts for it any more. What a killed worker counted is given back when it is reaped.

A count has the number of its generation for a key, so it is never taken for another's, however many
reloads there were, and takes memory while somebody counts for it and no longer.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, shm
from ngxstream.core.shm_counts import KeyTable

if TYPE_CHECKING:
    from ngxstream.core.shm_ledger import Entry

MOST: Final = 1 << 16  # generations that somebody may live by at a time


class Generations:
    """The counts. A generation is Cycle.generation."""

    __slots__ = ("zone", "_counts", "_round")

    def __init__(self) -> None:
        """Count nothing. Made by the master before it forks. Raises: OSError."""
        self.zone = shm.Zone("generations", 0, "generations")
        self._counts = KeyTable(self.zone, MOST)
        self._round = 0

    def begin(self) -> None:
        """Have the workers that are forked from now on settle anew."""
        self._round += 1

    def withdraw(self) -> None:
        """Take the latest begin() back: those who were forked before it are asked about again."""
        self._round -= 1

    def adopt(self, generation: int) -> Holder:
        """Count a session that came from another worker; calling what is returned ends that.

        Raises: InternalError where more generations are alive than can be counted
        """
        return Holder(self._counts, self._count(b"live %d" % generation))

    def live(self, generation: int) -> int:
        """Return how many sessions of a former generation its successors have, 1 if unknown."""
        try:
            return self._counts.total(b"live %d" % generation)
        except shm.DAMAGE:
            return 1

    def settle(self, generation: int) -> None:
        """Say, for as long as this worker lives, that it has got everything it will get."""
        self._count(self._settled(generation))

    def settled(self, generation: int) -> int:
        """Return how many workers of a generation have, since it began; 0 if unknown."""
        try:
            return self._counts.total(self._settled(generation))
        except shm.DAMAGE:
            return 0

    def _settled(self, generation: int) -> bytes:
        return b"settled %d %d" % (generation, self._round)

    def _count(self, key: bytes) -> Entry:
        entry = self._counts.acquire(key, sys.maxsize)
        if not entry:
            raise errors.InternalError("too many generations are alive")
        return entry


class Holder:
    """One session's count; a cleanup."""

    __slots__ = ("_counts", "_entry")

    def __init__(self, counts: KeyTable, entry: Entry) -> None:
        self._counts = counts
        self._entry = entry

    def __call__(self) -> None:
        """Count one session less."""
        self._counts.release(self._entry)
