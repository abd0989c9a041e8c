"""A clock for loops under test: the real one, and what a test adds to it. Nothing waits."""

import time

import pytest

from ngxstream.event import loop, timers


class MovingClock:
    """Has every loop see a time that can be moved on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of the system's clock in the loop's module, until the test ends."""
        self._added_ns = 0
        monkeypatch.setattr(loop, "monotonic_ns", self.monotonic_ns)

    def monotonic_ns(self) -> int:
        """Return the time that loops see."""
        return time.monotonic_ns() + self._added_ns

    def move(self, one: loop.Loop, ms: int) -> None:
        """Move the clock on, and let what is due by then happen."""
        self._added_ns += (ms + timers.TICK_MS * 2) * 1_000_000
        one.turn(0)

    def pass_by(self, ms: int) -> None:
        """Move the clock on; nothing happens yet."""
        self._added_ns += ms * 1_000_000
