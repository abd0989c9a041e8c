"""The time that a call of a user's function may take, and the exception that ends it.

A call takes CPU time of all sessions of the worker, and a call that blocks (a sleep, a socket that
somebody forgot to make non-blocking) takes their time as well. So there are two clocks: CPU time of
the process, limited to what the configuration says, and real time, limited to BLOCKED times that.

1. Nothing is set or asked for each call but a number: a timer of the kernel (setitimer) runs on
   while calls are made, looks LOOKS times in a limit whether the same call still runs, and rests
   once it finds none. It repeats: a signal that comes between the interpreter's look for signals
   and the system call that blocks interrupts nothing. So a call is ended when it has taken between
   1 and 1.5 limits, and three ticks of the kernel more at most, which tell CPU time. How long it
   runs already is asked of the clock: a signal that somebody sends is one more look.
2. The exception is raised at a safe place only: where no frame of this package stands above that
   of call(). Otherwise the timer tries again a moment later.
3. TimeLimitError is no Exception: `except Exception` in a user's function does not keep it. Who
   catches it all the same gets another one with every look, and the call fails even if it returns;
   after IGNORED of them the process ends, since nobody else in it is served any more. The master
   starts another one.
4. A call in C that never returns to the interpreter cannot be ended (docs/scripting.md names
   such); it is the one way to hold a worker up.
5. The signals interrupt what blocks (no SA_RESTART): Python's own calls go on by themselves
   (PEP 475), and no socket of ours blocks.
6. A process that was forked has no timers. Only one that serves makes a TimeLimit.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
import weakref
from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.log import ALERT
from ngxstream.event import tasks

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

BLOCKED: Final = 10  # limits of real time that a call may take
LOOKS: Final = 4  # in one limit
AGAIN_S: Final = 0.001  # after an unsafe place
IGNORED: Final = 100  # exceptions that a call may swallow
PACKAGE: Final = "ngxstream."
NOT_SET: Final = 0  # of a clock
NO_CALL: Final = -1
EXIT_CODE: Final = 1  # not 2, which says that the worker is not to be started again


class TimeLimitError(BaseException):
    """the call takes too long"""


class _Clock:
    """One timer of the kernel, and since when it has found the same call."""

    __slots__ = ("begun_ns", "call", "kind", "now_ns", "number", "set_ms", "times", "which")

    def __init__(self, kind: str, which: int, number: int, times: int,
                 now_ns: Callable[[], int]) -> None:
        self.kind = kind
        self.which = which
        self.number = number
        self.times = times  # of the limit
        self.now_ns = now_ns
        self.set_ms = NOT_SET  # the limit that it looks after
        self.call = NO_CALL  # the call that was found last
        self.begun_ns = 0  # when

    def set(self, limit_ms: int) -> None:
        """Look a moment later."""
        self.set_ms = limit_ms
        period_s = limit_ms * self.times / LOOKS / 1000
        signal.setitimer(self.which, period_s, period_s)

    def rest(self) -> None:
        """Look no more."""
        self.set_ms = NOT_SET
        signal.setitimer(self.which, 0)


class TimeLimit:
    """The limit of one process; loop.get(TimeLimit)."""

    __slots__ = ("__weakref__", "calls", "exceeded", "limit_ms", "loop", "_clocks", "_cpu", "_due",
                 "_due_by", "_failed", "_ignored", "_real", "_steps")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.limit_ms = 0  # of the call that runs, 0 where none does
        self.calls = 0
        self.exceeded = 0  # calls that were told to end
        self._failed = NO_CALL  # the call that was told to end last
        self._ignored = 0
        self._steps = loop.get(tasks.Steps)
        self._cpu = _Clock("CPU", signal.ITIMER_PROF, signal.SIGPROF, 1, time.process_time_ns)
        self._real = _Clock("real", signal.ITIMER_REAL, signal.SIGALRM, BLOCKED, time.monotonic_ns)
        self._due = NO_CALL  # the call that is to be ended as soon as it is at a safe place
        self._due_by = self._cpu  # which clock has found it
        self._clocks = {clock.number: clock for clock in (self._cpu, self._real)}
        for number in self._clocks:
            signal.signal(number, self._look)
            loop.silent.add(number)
        # an interpreter that ends has no handlers any more: the signal of a timer would kill it
        atexit.register(_close, weakref.ref(self))

    def call(self, limit_ms: int, function: Callable[..., Any], *args: Any) -> Any:
        """Call a user's function. # hot: once a hook

        A call within a call is part of it. Args: limit_ms: 1 or more

        Raises: TimeLimitError, and what the function raises
        """
        if self.limit_ms:
            return function(*args)
        self.calls += 1
        steps, cpu, real = self._steps, self._cpu, self._real
        try:
            steps.depth += 1
            self.limit_ms = limit_ms
            if not cpu.set_ms or limit_ms < cpu.set_ms:
                cpu.set(limit_ms)
            if not real.set_ms or limit_ms < real.set_ms:
                real.set(limit_ms)
            result = function(*args)
        finally:
            self.limit_ms = 0
            steps.depth -= 1
        if self._failed == self.calls:
            raise TimeLimitError("it took too long, and caught the exception that said so")
        return result

    def _look(self, number: int, frame: FrameType | None) -> None:
        """See whether the call that runs is the one that was found before."""
        clock = self._clocks[number]
        limit_ms = self.limit_ms
        if not limit_ms:
            clock.rest()
            return
        if self._due == self.calls:  # found by the other clock, and put off
            clock = self._due_by
        elif not self._is_over(clock, limit_ms):
            clock.set(limit_ms)
            return
        if not _is_safe(frame):
            self._due, self._due_by = self.calls, clock
            # exact; CPU time is told by the tick
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
            return
        self._due = NO_CALL
        for each in self._clocks.values():
            each.set(limit_ms)
        if self._failed != self.calls:
            self._failed = self.calls
            self._ignored = 0
            self.exceeded += 1
        self._ignored += 1
        if self._ignored > IGNORED:
            self._give_up(frame)
        raise TimeLimitError(f"it takes more than {limit_ms * clock.times} ms of {clock.kind} time")

    def _is_over(self, clock: _Clock, limit_ms: int) -> bool:
        """Tell whether the call that runs has taken its time."""
        now_ns = clock.now_ns()
        if clock.call != self.calls:
            clock.call = self.calls
            clock.begun_ns = now_ns
        return now_ns - clock.begun_ns >= limit_ms * clock.times * 1_000_000

    def _give_up(self, frame: FrameType | None) -> None:
        place = "" if frame is None else f" in {frame.f_code.co_filename}:{frame.f_lineno}"
        self.loop.log.write(ALERT, f"a function cannot be ended{place}, the process exits")
        self.loop.lines.write()
        os._exit(EXIT_CODE)

    def close(self) -> None:
        """Stop both timers and ignore their signals from now on."""
        for clock in self._clocks.values():
            clock.rest()
            signal.signal(clock.number, signal.SIG_IGN)


def _close(of: weakref.ref[TimeLimit]) -> None:
    limit = of()
    if limit is not None:
        limit.close()


_ENTRY: Final[CodeType] = TimeLimit.call.__code__


def _is_safe(frame: FrameType | None) -> bool:
    """Tell whether an exception may be raised: all frames down to the call are the user's.

    In the frame of call() itself it may: a function written in C has no frame, and one that has
    returned by now took too long all the same. Its `finally` block begins without a look, as the
    interpreter looks for signals when a call ends.
    """
    while frame is not None and frame.f_code is not _ENTRY:
        name = frame.f_globals.get("__name__")
        if isinstance(name, str) and name.startswith(PACKAGE):
            return False
        frame = frame.f_back
    return frame is not None
