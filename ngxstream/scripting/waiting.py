"""timeout() and gather(): limits of time, and several coroutines at once."""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ngxstream.event import tasks

if TYPE_CHECKING:
    from ngxstream.event.timers import Timer

MOST: Final = 64  # coroutines that one gather() runs


class _Expired(tasks.CancelledError):
    """Raised where a task waits when a time is over; no `except Exception` keeps it."""


class Timeout:
    """What `async with timeout(seconds)` enters."""

    __slots__ = ("_expired", "_seconds", "_timer")

    def __init__(self, seconds: float | None) -> None:
        """Made by timeout()."""
        self._seconds = seconds
        self._expired: _Expired | None = None
        self._timer: Timer | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        if self._seconds is None:
            return self
        task: tasks.Task = await tasks.CurrentTask()

        self._timer = task.loop.call_later(
            round(self._seconds * 1000), functools.partial(self._expire, task), cancelable=True
        )
        return self

    def _expire(self, task: tasks.Task) -> None:
        """Have the task raise where it waits, or where it waits next."""
        self._timer = None
        self._expired = _Expired()
        if not task.interrupt(self._expired) and not task.is_over:  # it goes on in the next turn
            self._expired = None
            self._timer = task.loop.call_later(
                1, functools.partial(self._expire, task), cancelable=True
            )

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        """End; what the end of the time has raised is a TimeoutError from here on."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        expired, self._expired = self._expired, None
        if expired is not None and error is expired:
            raise TimeoutError(f"it took more than {self._seconds:g} s") from None


def timeout(seconds: float | None) -> Timeout:
    """Limit the time that a block of `async with` may wait.

    What the block waits for is given up when the time is over, and TimeoutError is raised behind
    the block. Blocks can be nested; each raises for its own time. It limits what is
    awaited; what computes is limited by `py_time_limit`.

    Args: seconds: None for no limit. Raises: ValueError for less than 0
    """
    if seconds is not None and not 0 <= seconds < 1e9:
        raise ValueError("a time is at least 0 seconds")
    return Timeout(seconds)


class _Gathering(tasks.Suspension):
    """Waits until all of several coroutines have returned, or one has raised."""

    __slots__ = ("_children", "_coroutines", "_error", "_left", "_results", "_task")

    def __init__(self, coroutines: tuple[Coroutine[Any, Any, Any], ...]) -> None:
        self._coroutines = list(coroutines)
        self._children: list[tasks.Task] = []
        self._results: list[Any] = [None] * len(coroutines)
        self._left = len(coroutines)
        self._error: BaseException | None = None
        self._task: tasks.Task | None = None

    def begin(self, task: tasks.Task) -> None:
        """Start all of them, in order; none any more once one has raised."""
        self._task = task
        coroutines, self._coroutines = self._coroutines, []
        for number, coroutine in enumerate(coroutines):
            if self._error is not None:
                coroutine.close()
                self._left -= 1
                continue
            done = functools.partial(self._ended, number)
            child = tasks.Task(task.loop, coroutine, done, task.run, task.context)
            child.successor = task
            self._children.append(child)
            child.start()
        self._look()

    def end(self) -> None:
        """Cancel those that go on still."""
        self._task = None
        for coroutine in self._coroutines:  # it was cancelled before it began
            coroutine.close()
        self._cancel()
        self._children.clear()

    def _cancel(self) -> None:
        for child in list(self._children):
            child.cancel()

    def _ended(self, number: int, child: tasks.Task) -> None:
        self._left -= 1
        if child.error is None:
            self._results[number] = child.result
        elif self._error is None:
            self._error, child.error = child.error, None  # with its traceback
            self._cancel()
        self._look()

    def _look(self) -> None:
        """Tell the task, once all have ended."""
        task = self._task
        if self._left or task is None:
            return
        self._task = None
        error, self._error = self._error, None
        if error is None:
            task.wake(self, self._results)
        else:
            task.fail(self, error)


async def gather(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run several coroutines at once. Returns: what they returned, in their order

    When one raises, the others are cancelled; once all have ended, its exception is raised here.
    Connections that they have opened and not closed belong to the caller then.

    Raises: what one of them raises; ValueError for more than 64
    """
    if len(coroutines) > MOST:
        for coroutine in coroutines:
            coroutine.close()
        raise ValueError(f"{MOST} coroutines at most can be gathered")
    results: list[Any] = await _Gathering(coroutines)
    return results
