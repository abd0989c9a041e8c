"""The cyclic collector of a worker with functions: when it runs, and for how long.

What users write makes cycles, what this package writes does not: without py_* the collector is off.

1. What was there when the worker began is frozen: nobody looks through it.
2. Young objects are looked through by CPython's own rule, a bounded number at a time: below a ms.
   Each may hold much memory, so it is not more of them.
3. All objects are looked through between turns, never within a call, whose time it would take: once
   some have grown old since the last time, and in at most 1/SHARE of the time. It takes as long as
   there are objects: 37 a session with a coroutine (measured 2026-11-29).
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

YOUNG: Final = 1000  # objects that are made before these are looked through: 0.03 ms
MIDDLE: Final = 10  # times that is done before those are that survived it
NEVER: Final = 1 << 30  # all by CPython's rule
SHARE: Final = 100
SOONEST_MS: Final = 1000


class Garbage:
    """The collector of one process; loop.get(Garbage)."""

    __slots__ = ("_is_noted", "_next_ms", "_timer", "loop", "rounds")

    def __init__(self, loop: Loop) -> None:
        """Begin."""
        self.loop = loop
        self.rounds = 0  # in which all was looked through
        self._is_noted = False  # objects have grown old
        self._next_ms = loop.now_ms + SOONEST_MS
        self._timer: Any = None
        loop.collects = True
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, NEVER)
        gc.callbacks.append(self.on_collected)
        gc.enable()

    def on_collected(self, phase: str, info: dict[str, int]) -> None:
        """Note that objects have grown old. Called wherever an object is made: does no more."""
        if phase == "stop" and info["generation"] == 1 and not self._is_noted:
            self._is_noted = True
            self.loop.posted.append(self.on_noted)

    def on_noted(self) -> None:
        """Set the time to look through all."""
        if self._timer is None:
            delay_ms = max(0, self._next_ms - self.loop.now_ms)
            self._timer = self.loop.call_later(delay_ms, self.on_timeout, cancelable=True)

    def on_timeout(self) -> None:
        """Look through all."""
        self._timer = None
        begun = time.monotonic_ns()
        gc.collect()
        took_ms = (time.monotonic_ns() - begun) // 1_000_000
        self.rounds += 1
        self._is_noted = False
        self._next_ms = self.loop.now_ms + max(SOONEST_MS, SHARE * took_ms)

    def close(self) -> None:
        """Leave the collector alone."""
        if self.on_collected in gc.callbacks:
            gc.callbacks.remove(self.on_collected)
        if self._timer is not None:
            self._timer.cancel()
