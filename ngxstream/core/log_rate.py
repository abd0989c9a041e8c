"""A target of an error log that takes so many lines a second, and says how many it left out.

nginx has no counterpart: whoever can have a line written can have many, and fill a disk with them.

1. Lines of level alert and worse are never left out, and do not count among those that are taken.
2. What was left out in a second is a line before the next one that is taken, and counts at once.
3. Each process has a rate of its own, and so has each target; logs that share a target's level, or
   have another one (debug_connection), share it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from ngxstream.core import log
from ngxstream.core.facts import Fact

if TYPE_CHECKING:
    from ngxstream.core.clock import Clock
    from ngxstream.core.facts import Cell

LOG: Final = "log"  # what its label names: the target as the configuration has it
LEFT_OUT: Final = Fact("error_log_left_out", LOG, "Messages that `error_log … rate=` left out.")


class Rate:
    """How many lines a target takes in a second, and what it has left out in this one."""

    __slots__ = ("_cell", "_clock", "_left_out", "_second", "_taken", "most")

    def __init__(self, most: int, clock: Clock, cell: Cell | None) -> None:
        """Args: most: lines a second; cell: where what is left out is counted"""
        self.most = most
        self._clock = clock
        self._cell = cell
        self._second = -1
        self._taken = 0
        self._left_out = 0

    def takes(self) -> tuple[bool, int]:
        """Tell whether one more line is taken, and how many were left out before it."""
        second = self._clock.second()
        if second != self._second:
            self._second = second
            self._taken = 0
        if self._taken >= self.most:
            self._left_out += 1
            self._count()
            return False, 0
        self._taken += 1
        left_out, self._left_out = self._left_out, 0
        return True, left_out

    def _count(self) -> None:
        cell = self._cell
        if cell is not None and cell.rows is not None:
            with contextlib.suppress(OSError):  # a process that can have no row
                cell.rows.cells[cell.at] += 1

    def line(self, left_out: int) -> bytes:
        """Return the line that says how many were left out."""
        head = f"{self._clock.log_time()} [warn] {log.PROCESS.mark}"
        return f"{head}{left_out} messages were left out (rate={self.most}/s)\n".encode()


class RatedTarget:
    """Stands before another target."""

    __slots__ = ("_rate", "level", "target")

    def __init__(self, target: log.Target, rate: Rate) -> None:
        self.target = target
        self.level = target.level
        self._rate = rate

    @property
    def on_stderr(self) -> bool:
        """Whether the lines appear on standard error."""
        return self.target.on_stderr

    def write(self, level: int, line: bytes) -> None:
        """Take a line, or leave it out."""
        if level > log.ALERT:
            is_taken, left_out = self._rate.takes()
            if not is_taken:
                return
            if left_out:
                self.target.write(log.WARN, self._rate.line(left_out))
        self.target.write(level, line)

    def with_level(self, level: int) -> RatedTarget:
        """Return the same target with another threshold."""
        return RatedTarget(self.target.with_level(level), self._rate)
