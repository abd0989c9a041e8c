"""Work that may wait: a slice of the loop's time now and then, and never more than half of it.

Answers to an administrator are no hurry; sessions are. Whoever has something to do of that kind
adds a call, which stops when `over` has passed and adds itself anew if it has more. Calls are made
in order, until those of one slice have taken SLICE_NS together. Then the loop has at least as long
for everything else. What comes in meanwhile waits no longer than a slice.

(A slice of 2 ms in every turn made the round trip of 200 UDP sessions ten times as long; so much
of a turn is 30 µs that shorter ones than this are not worth it. 2026-11)
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from ngxstream.event.poller import LEVEL

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

SLICE_NS: Final = 250_000
MAX_REST_NS: Final = 20_000_000
_CLOCK_MONOTONIC: Final = 1
_SPEC: Final = struct.Struct("@4l")  # itimerspec of timerfd_settime(2): interval and value


class Slices:
    """The queue of one loop: `loop.get(Slices)`."""

    __slots__ = ("_is_posted", "_libc", "_rest_until", "_timer", "loop", "over", "waiting")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.waiting: deque[Callable[[], None]] = deque()
        self.over = 0  # monotonic ns, when this slice is over
        self._is_posted = False  # the next slice is on its way
        self._rest_until = 0  # monotonic ns
        self._libc: ctypes.CDLL | None = None
        self._timer: _Timer | None = None  # while there is anything to do

    def add(self, call: Callable[[], None]) -> None:
        """Have a call made at the end of this turn, or of one to come."""
        self.waiting.append(call)
        if not self._is_posted:
            self._is_posted = True
            self._post(monotonic_ns())

    def _post(self, now: int) -> None:
        """Have the next slice begin when this one's rest is over."""
        rest = self._rest_until - now
        timer = self._timer
        if rest > 0 and timer is None:
            if self._libc is None:
                self._libc = ctypes.CDLL(None)  # os.timerfd_create() is of Python 3.13
            timer = self._timer = _Timer(self._libc)
            if timer.fd >= 0:
                self.loop.register(timer.fd, self._on_rested, LEVEL)
        if rest <= 0 or timer is None or not timer.start(rest):
            self.loop.post(self._run)

    def _on_rested(self, mask: int) -> None:
        if self._timer is not None and self._timer.stop():
            self._run()

    def _run(self) -> None:
        waiting, call_all = self.waiting, self.loop.call_all
        begun = now = monotonic_ns()
        over = self.over = begun + SLICE_NS
        for _ in range(len(waiting)):  # what they add has its turn in the next one
            call_all((waiting.popleft(),))
            now = monotonic_ns()
            if now >= over:
                break
        self._rest_until = now + min(now - begun, MAX_REST_NS)
        if waiting:
            self._post(now)
            return
        self._is_posted = False
        timer, self._timer = self._timer, None
        if timer is not None and timer.fd >= 0:
            self.loop.unregister(timer.fd)
            timer.close()


class _Timer:
    """A descriptor that is readable after a time: finer than the timers of the loop."""

    __slots__ = ("_set", "fd")

    def __init__(self, libc: ctypes.CDLL) -> None:
        self.fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
        self._set = libc.timerfd_settime

    def start(self, ns: int) -> bool:
        """Begin to wait, for less than a second. Returns: False where there is no timer"""
        if self.fd < 0:
            return False
        done: int = self._set(self.fd, 0, _SPEC.pack(0, 0, 0, ns), None)
        return done == 0

    def stop(self) -> bool:
        """Tell whether it has fired, once."""
        try:
            return bool(os.read(self.fd, 8))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close
