"""Tasks: coroutines that the event loop drives, without asyncio.

A coroutine runs until it awaits a Suspension; the task then waits until somebody wakes it by the
loop's own means (a timer, readiness of a socket, the end of another task). Nothing here knows a
session.

1. A task runs from the loop or from start(). Who is woken or cancelled while a user's code runs
   (Steps.depth) goes on in the next turn: no user's code runs within that of another session.
2. `done(task)` is called once, when the coroutine has returned or raised; `result` and `error` say
   how. A cancelled task calls it too, with CancelledError in `error`.
3. cancel() throws CancelledError where the coroutine waits, so that its `finally` blocks run. What
   awaits in there is cancelled again at once, MOST_CANCELS times; then the coroutine is closed. One
   that was not started is closed and runs nothing.
4. What a task owns (own()) is closed when it ends, whatever its coroutine forgot.
5. A wake-up is for one suspension: one that comes after the task went on has no effect.
6. No task is part of a reference cycle once it is over, nor is what its coroutine raised: `error`
   loses its traceback when done() has returned. Who needs it for longer takes `error` away.
7. What is there when it is asked for does not end a step: after AT_ONCE of these, or AT_ONCE_NS,
   the task goes on in the next turn. So no loop of awaits keeps the worker.
8. Each task has a context of its own (contextvars): what it sets there is nobody else's.
9. A coroutine that does not end when it is closed is finished off within the time limit, too.
"""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, Protocol

from ngxstream.core import tracebacks

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

MOST_CANCELS: Final = 8
MOST_OWNED: Final = 64  # things that one task may have open
AT_ONCE: Final = 32  # steps of a task in a turn that waited for nothing
AT_ONCE_NS: Final = 3_000_000  # as TurnBudget has for one session
# whose frames call a user's
CALLERS: Final = (__name__, "ngxstream.event.time_limit", "ngxstream.scripting.running")

Run = Callable[..., Any]  # run(function, *args): how steps are called, under a time limit or not


class CancelledError(BaseException):
    """the task was cancelled"""


class Closable(Protocol):
    """What a task may own. Attributes: owner: the task that does, set by it"""

    owner: Task | None

    def close(self) -> None:
        """Let go of everything; called again, do nothing."""


class Suspension:
    """One thing to wait for. `await` it once; it gives what the task is woken with.

    Subclasses say what is waited for in begin(), and undo that in end(), which is called once
    however the waiting ends.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Suspension, Any, Any]:
        return (yield self)

    def begin(self, task: Task) -> None:
        """Arrange that task.wake(self, value) or task.fail(self, error) is called.

        Either may be called from within. Raises: what the coroutine is to get in place of a value
        """
        raise NotImplementedError

    def end(self) -> None:
        """Wait no more."""


class Steps:
    """Whether a user's code runs in a loop; loop.get(Steps)."""

    __slots__ = ("depth",)

    def __init__(self, loop: Loop) -> None:
        self.depth = 0  # of calls within calls


class Task:
    """One coroutine on its way."""

    __slots__ = (
        "context",  # of whoever started it, for what it awaits
        "coroutine",
        "done",  # called once with the task
        "error",  # BaseException | None: what the coroutine raised
        "successor",  # Task | None: has what this one owns once it has returned
        "is_over",
        "loop",
        "result",  # what it returned
        "run",
        "_cancels",  # int: how often it was told
        "_context",  # contextvars.Context
        "_is_running",
        "_owned",  # dict[Closable, None]
        "_steps",  # Steps of the loop
        "_waiting",  # Suspension | None
        "_woken",  # tuple: what wake() or fail() brought while it ran or before its turn
    )

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, Any],
                 done: Callable[[Task], None], run: Run | None = None,
                 context: Any = None) -> None:
        """Args: run: calls each step, which may raise what ends the coroutine"""
        self.loop = loop
        self.context = context
        self.successor: Task | None = None
        self.coroutine: Coroutine[Any, Any, Any] | None = coroutine
        self.done: Callable[[Task], None] | None = done
        self.run = run
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_over = False
        self._cancels = 0
        self._context = contextvars.copy_context()
        self._is_running = False
        self._steps = loop.get(Steps)
        self._owned: dict[Closable, None] | None = None
        self._waiting: Suspension | None = None
        self._woken: tuple[Any, BaseException | None] | None = None

    def start(self) -> None:
        """Run it until it waits for the first time or ends."""
        self._step(None, None)

    def wake(self, suspension: Suspension, value: Any = None) -> None:
        """Go on: what was waited for has come."""
        self._go_on(suspension, value, None)

    def fail(self, suspension: Suspension, error: BaseException) -> None:
        """Go on with an exception: what was waited for does not come."""
        self._go_on(suspension, None, error)

    def interrupt(self, error: BaseException) -> bool:
        """Raise an exception in the coroutine where it waits (a time that is over).

        Returns: whether it will be raised; not where the task runs, or goes on in the next turn
        """
        return self._waiting is not None and self._go_on(self._waiting, None, error)

    def cancel(self) -> None:
        """End it where it waits; its `finally` blocks run. Does nothing once it is over.

        A task that cancels itself goes on until it waits next.
        """
        if self.is_over:
            return
        self._cancels = max(self._cancels, 1)
        if self._is_running:
            return
        if self._steps.depth:
            self.loop.post(self._cancel_now)
        else:
            self._cancel_now()

    def own(self, thing: Closable) -> None:
        """Have something closed when the task ends; at once where it has.

        Raises: OSError where it has too many
        """
        if self.is_over:
            self.loop.call_all((thing.close,))
            return
        if self._owned is None:
            self._owned = {}
        if len(self._owned) >= MOST_OWNED:
            raise OSError(f"a task may have {MOST_OWNED} connections open")
        self._owned[thing] = None
        thing.owner = self

    def inherit(self, thing: Closable) -> bool:
        """Own what another task has owned. Returns: whether there was room for it"""
        if self.is_over or len(self._owned or ()) >= MOST_OWNED:
            return False
        self.own(thing)
        return True

    def disown(self, thing: Closable) -> None:
        """Take something back that is closed."""
        if self._owned is not None:
            self._owned.pop(thing, None)

    # -- steps ---------------------------------------------------------------------------------

    def _go_on(self, suspension: Suspension, value: Any, error: BaseException | None) -> bool:
        if self._waiting is not suspension or self._woken is not None:
            return False
        self._woken = (value, error)
        if not self._is_running:  # otherwise from within begin(), and _step() takes it
            if self._steps.depth:
                self.loop.post(self._resume)
            else:
                self._resume()
        return True

    def _resume(self) -> None:
        """Run on with what it was woken with."""
        if self._woken is None or self._is_running or self.is_over:
            return  # it was cancelled meanwhile
        value, error = self._woken
        self._leave_suspension()
        self._step(value, error)

    def _cancel_now(self) -> None:
        if self.is_over or self._is_running:
            return
        if self._waiting is None:  # it was not started
            self.error = CancelledError()
            self._close_coroutine()
            self._finish()
            return
        self._leave_suspension()
        self._step(None, CancelledError())

    def _leave_suspension(self) -> None:
        suspension, self._waiting = self._waiting, None
        self._woken = None
        if suspension is not None:
            self.loop.call_all((suspension.end,))

    def _step(self, value: Any, error: BaseException | None) -> None:
        """Run the coroutine until it waits for something that has not come, or ends."""
        if self.is_over:  # and was started again
            return
        self._is_running = True
        self._steps.depth += 1
        left, begun = AT_ONCE, time.monotonic_ns()
        thrown: list[BaseException] = []
        try:
            while self._advance(value, error):
                if error is not None:
                    thrown.append(error)
                left -= 1
                if not left or time.monotonic_ns() - begun > AT_ONCE_NS:
                    self.loop.post(self._resume)
                    return
                assert self._woken is not None
                value, error = self._woken
                self._leave_suspension()
        finally:
            self._steps.depth -= 1
            self._is_running = False
        if self.coroutine is not None:
            return
        if error is not None:
            thrown.append(error)
        caught = [one for one in thrown if one is not self.error]
        thrown.clear()
        error = None
        self._finish()
        for one in caught:  # frames below this one's have it among their variables
            tracebacks.forget(one)

    def _advance(self, value: Any, error: BaseException | None) -> bool:
        """Run to the next await. Returns: whether what it waits for has come already"""
        enter = self._context.run
        assert self.coroutine is not None
        try:  # no local name for the coroutine: see _close_coroutine()
            if error is None:
                waits_for = self._call(enter, self.coroutine.send, value)
            else:
                waits_for = self._call(enter, self.coroutine.throw, error)
        except StopIteration as stop:
            self.result = stop.value
            self.coroutine = None
            return False
        except BaseException as raised:  # noqa: BLE001 - it is told to who asked for the task
            self.error = raised.with_traceback(
                tracebacks.of_user(raised.__traceback__, CALLERS)
            )
            self._close_coroutine()
            return False
        if not isinstance(waits_for, Suspension):
            self._waiting = _NOTHING
            self._woken = (None, TypeError(f"{type(waits_for).__name__} cannot be awaited here"))
            return True
        self._waiting = waits_for
        if self._cancels:
            return self._cancel_again()
        try:
            waits_for.begin(self)
        except Exception as raised:  # noqa: BLE001 - the coroutine gets it
            self._woken = (None, raised.with_traceback(None))
        return self._woken is not None

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args) if self.run is None else self.run(function, *args)

    def _cancel_again(self) -> bool:
        """Cancel a coroutine that waits although it was cancelled."""
        self._cancels += 1
        self._woken = (None, CancelledError())
        if self._cancels <= MOST_CANCELS:
            return True
        self._waiting = None
        self._woken = None
        self.error = CancelledError()
        self._close_coroutine()
        return False

    def _close_coroutine(self) -> None:
        """Have the coroutine end, and let go of it.

        One that waits on is closed once more when the last reference goes: both are calls of a
        user's code.
        """
        last, self.coroutine = [self.coroutine], None
        if last[0] is not None:
            self._try(last[0].close)
            self._try(last.clear)  # no other reference is left

    def _try(self, end: Callable[[], object]) -> None:
        with contextlib.suppress(BaseException):  # why the task ends is known already
            self._call(self._context.run, end)

    def _finish(self) -> None:
        self.is_over = True
        owned, self._owned = self._owned, None
        successor, self.successor = self.successor, None
        for thing in owned or ():
            if successor is None or self.error is not None or not successor.inherit(thing):
                self.loop.call_all((thing.close,))
        done, self.done = self.done, None
        self.run = None
        try:
            if done is not None:
                done(self)
        finally:
            if self.error is not None:
                tracebacks.forget(self.error)


def coroutine_of(said: object) -> Coroutine[Any, Any, Any] | None:
    """Return what a function returned as a coroutine; None where it cannot be awaited.

    A function may return one without being `async def`: a partial, a decorator's, an object's.
    """
    if isinstance(said, Coroutine):
        return said
    return _awaited(said) if hasattr(said, "__await__") else None


async def _awaited(thing: Any) -> Any:
    return await thing


class _Nothing(Suspension):
    """Stands where a coroutine awaited something of another event loop."""

    __slots__ = ()

    def begin(self, task: Task) -> None:
        """Never begins."""


_NOTHING: Final = _Nothing()


class Sleep(Suspension):
    """Waits for a time, or for the next turn."""

    __slots__ = ("_delay_ms", "_timer")

    def __init__(self, delay_ms: int) -> None:
        self._delay_ms = delay_ms
        self._timer: Any = None

    def begin(self, task: Task) -> None:
        """Set a timer; a wait of nothing is one for the next turn."""
        self._timer = task.loop.call_later(
            self._delay_ms, lambda: task.wake(self), cancelable=True
        )

    def end(self) -> None:
        """Cancel the timer."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


class CurrentTask(Suspension):
    """Gives the task that awaits it, at once."""

    __slots__ = ()

    def begin(self, task: Task) -> None:
        """Give the task."""
        task.wake(self, task)


class Edge:
    """Something that happens now and then; tasks wait for the next time."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[_Next, Task] = {}

    @property
    def is_awaited(self) -> bool:
        """Whether a task waits for it."""
        return bool(self._waiting)

    def next(self) -> Suspension:
        """Return what waits for the next time."""
        return _Next(self._waiting)

    def tell(self) -> None:
        """Have those who wait now go on."""
        for one, task in list(self._waiting.items()):
            task.wake(one)


class _Next(Suspension):
    __slots__ = ("_waiting",)

    def __init__(self, waiting: dict[_Next, Task]) -> None:
        self._waiting = waiting

    def begin(self, task: Task) -> None:
        """Wait."""
        self._waiting[self] = task

    def end(self) -> None:
        """Wait no more."""
        self._waiting.pop(self, None)


class NextTurn(Suspension):
    """Lets everybody else go on first."""

    __slots__ = ()

    def begin(self, task: Task) -> None:
        """Go on when this turn is over."""
        task.loop.post(lambda: task.wake(self))
