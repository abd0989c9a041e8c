"""What all processes of a master show each other of the program, in memory that they share: the
last lines of its logs, and which configurations were loaded.

It is made with the first configuration that an `api` stands in, and handed from cycle to cycle.
Whoever reads it believes none of it: a worker may be another user's, and can write there.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core import clock as clocks
from ngxstream.core import errors, log_ring
from ngxstream.process.history import History

if TYPE_CHECKING:
    from ngxstream.process.cycle import Cycle


WORKERS: Final = 1024  # whose counters can be made to begin at 0


class Bases:
    """What was counted when somebody had counters begin at 0. Written by any worker."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, (1 + 3 * WORKERS) * 8)).cast("q")

    @property
    def respawned(self) -> int:
        """How many workers had been started in a dead one's place."""
        return max(0, self._words[0])

    @respawned.setter
    def respawned(self, count: int) -> None:
        self._words[0] = count

    def of(self, number: int, pid: int) -> tuple[int, int]:
        """Return how many clients a worker had accepted, and turned away."""
        if number < WORKERS:
            at = 1 + 3 * number
            said, accepted, dropped = self._words[at : at + 3]
            if said == pid:  # else it was about another process
                return max(0, accepted), max(0, dropped)
        return 0, 0

    def put(self, number: int, pid: int, counted: Sequence[int]) -> None:
        """Keep them. Args: number: of a worker"""
        if number < WORKERS:
            for n, word in enumerate((pid, *counted), 1 + 3 * number):
                self._words[n] = word


class Board:
    """What is shown. One for all cycles of a master."""

    __slots__ = ("bases", "history", "lines")

    def __init__(self, clock: clocks.Clock) -> None:
        """Make it; for the master, before it forks. Raises: UnplacedError"""
        try:
            self.lines = log_ring.LogRing(clock)
            self.history = History()
            self.bases = Bases()
        except OSError as error:
            text = 'what an "api" shows has no memory'
            raise errors.UnplacedError(text, errno=error) from None


class Load:
    """One attempt to serve by a configuration, from its beginning until it is recorded."""

    __slots__ = ("_adopted", "_began_s", "_time_ms")

    def __init__(self, cycle: Cycle | None = None) -> None:
        """Begin. Args: cycle: which serves until now, None for none"""
        self._time_ms = int(time.time() * 1000)
        self._began_s = time.monotonic()
        self._adopted = 0 if cycle is None else cycle.adopted

    def record(self, cycle: Cycle, *, accepted: bool, message: str) -> None:
        """Record how it went, where something shows it. Args: cycle: which serves from now on"""
        if cycle.board is not None:
            duration_ms = int((time.monotonic() - self._began_s) * 1000)
            cycle.board.history.add(
                self._time_ms, duration_ms, cycle.generation, self._adopted,
                accepted=accepted, message=message,
            )
