"""Which configurations somebody still lives by: UDP sessions counted for each generation, in memory
that all processes of a master share.

nginx has no counterpart. A UDP session keeps the settings it began under while it goes from worker
to worker. The master keeps such a configuration (new workers are forked from it) until nobody
counts for it any more. What a killed worker counted is given back when it is reaped.
"""

from __future__ import annotations

from typing import Final

from ngxstream.core import shm

ROWS: Final = 256  # generations that can be told apart at a time


class Generations:
    """The counts. shape: generation is Cycle.generation"""

    __slots__ = ("_live", "_settled", "_zone")

    def __init__(self) -> None:
        """shape: made by the master before it forks."""
        self._zone = shm.Zone("generations", 0, "generations")
        self._live = self._zone.tally(ROWS)
        self._settled = self._zone.tally(ROWS)

    def begin(self, generation: int) -> None:
        """Count anew for a generation that begins."""
        self._live.clear(generation % ROWS)
        self._settled.clear(generation % ROWS)

    def claim(self) -> None:
        """Take this process's place, before it counts."""
        self._zone.column  # noqa: B018 - asking is claiming

    def adopt(self, generation: int) -> Holder:
        """Count a session that came from another worker; calling what is returned ends that."""
        row = generation % ROWS
        self._live.add(row)
        return Holder(self._live, row)

    def live(self, generation: int) -> int:
        """Return how many sessions of a former generation its successors have."""
        return self._live.total(generation % ROWS)

    def settle(self, generation: int) -> None:
        """Say that a worker of this generation has got everything it will get."""
        self._settled.add(generation % ROWS)

    def settled(self, generation: int) -> int:
        """Return how many workers of a generation have."""
        return self._settled.total(generation % ROWS)

    def reclaim(self, pid: int) -> None:
        """Give back what a dead process counted."""
        self._zone.reclaim(pid)


class Holder:
    """One session's count; a cleanup."""

    __slots__ = ("_row", "_tally")

    def __init__(self, tally: shm.Tally, row: int) -> None:
        self._tally = tally
        self._row = row

    def __call__(self) -> None:
        """Count one session less."""
        self._tally.add(self._row, -1)
