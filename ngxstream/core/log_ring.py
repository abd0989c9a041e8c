"""The last lines of all error logs of all processes, in memory that they share.

The target stands beside those that `error_log` names, with their level, where something shows the
lines (conf/error_log.py). nginx's `memory:` has no counterpart to it: one ring for all logs.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from ngxstream.core import clock as clocks
from ngxstream.core import log
from ngxstream.core.shm_ring import Ring

LINES: Final = 1000
_HEAD: Final = struct.Struct("=qiB")  # milliseconds since 1970, pid, level
_CONNECTION: Final = re.compile(rb"\*(\d{1,18}) ")


class Line(NamedTuple):
    """One line. Args: number: of the line in the ring; connection: $connection, None for none"""

    number: int
    time_ms: int
    level: int
    pid: int
    connection: int | None
    text: bytes


class LogRing:
    """The lines."""

    __slots__ = ("_clock", "ring")

    def __init__(self, clock: clocks.Clock) -> None:
        """Make it, for the master before it forks. Raises: OSError"""
        self.ring = Ring("log lines", LINES, _HEAD.size + log.MAX_LINE)
        self._clock = clock

    def target(self, level: int) -> RingTarget:
        """Return a target of logs. Args: level: the most talkative one it takes"""
        return RingTarget(self, level)

    def add(self, level: int, line: bytes) -> None:
        """Add a line as a log writes it."""
        text = line[line.find(b": ") + 2 : -1]  # behind time, level and process
        head = _HEAD.pack(int(self._clock.now() * 1000), log.PROCESS.pid, level)
        self.ring.add(head + text)

    def find(
        self, after: int = 0, level: int = log.DEBUG, since_ms: int = 0, part: bytes = b""
    ) -> list[tuple[int, bytes]]:
        """Return the lines that are there, as line() takes them, the newest last.

        Args: after: those with a greater number; level: this one and worse ones; since_ms: not
        older; part: with this in them, in lower case
        """
        found = []
        for number, data in self.ring.read(after):
            if len(data) >= _HEAD.size:
                time_ms, pid, its_level = _HEAD.unpack_from(data)
                if (since_ms <= time_ms <= clocks.LAST_MS and 0 <= its_level <= level and pid > 0
                        and part in data[_HEAD.size :].lower()):
                    found.append((number, data))
        return found


def line(found: tuple[int, bytes]) -> Line:
    """Return what a line says."""
    number, data = found
    time_ms, pid, level = _HEAD.unpack_from(data)
    match = _CONNECTION.match(data, _HEAD.size)
    connection = int(match[1]) if match else None
    text = data[match.end() if match else _HEAD.size :]
    return Line(number, time_ms, level, pid, connection, text)


class RingTarget:
    """A target that adds lines to the ring."""

    __slots__ = ("_ring", "level")

    def __init__(self, ring: LogRing, level: int) -> None:
        self._ring = ring
        self.level = level

    @property
    def on_stderr(self) -> bool:
        """Never."""
        return False

    def write(self, level: int, line: bytes) -> None:
        """Add one line; never raises."""
        self._ring.add(level, line)

    def with_level(self, level: int) -> RingTarget:
        """Return the same ring with another threshold."""
        return RingTarget(self._ring, level)
