"""Tasks: coroutines on our loop, woken, cancelled and closed, with nothing left of them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import tasks, time_limit
from ngxstream.event.loop import Loop
from ngxstream.event.tasks import CancelledError, Sleep, Steps, Suspension, Task
from tests.support.engine import engine, run_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop over epoll."""
    with engine() as made:
        yield made


class Signal(Suspension):
    """Waits until the test says so."""

    def __init__(self, at_once: str = "") -> None:
        self.at_once = at_once
        self.task: Task | None = None
        self.begun = 0
        self.ended = 0

    def begin(self, task: Task) -> None:
        """Note who waits."""
        self.begun += 1
        self.task = task
        if self.at_once == "wake":
            task.wake(self, "at once")
        elif self.at_once == "fail":
            task.fail(self, KeyError("at once"))
        elif self.at_once == "raise":
            raise LookupError("at once")

    def end(self) -> None:
        """Count, and forget who waits."""
        self.ended += 1
        self.task = None


class Thing:
    """Something to own."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        """Count."""
        self.closed += 1


Ends = list[tuple[Any, BaseException | None]]


def started(loop: Loop, coroutine: Coroutine[Any, Any, Any], ends: Ends | None = None,
            run: Callable[..., Any] | None = None) -> Task:
    """Start a task; note how it ends."""

    def done(task: Task) -> None:
        if ends is not None:
            ends.append((task.result, task.error))

    task = Task(loop, coroutine, done, run)
    task.start()
    return task


# -- waking ------------------------------------------------------------------------------------


def test_a_coroutine_runs_until_it_waits_and_goes_on_when_it_is_woken(loop: Loop) -> None:
    """What wake() brings is what the await gives, what it returns is the result."""
    signal, ends = Signal(), Ends()

    async def work() -> str:
        return f"{await signal}!"

    task = started(loop, work(), ends)
    assert (1, 0, []) == (signal.begun, signal.ended, ends)
    task.wake(signal, "come")
    assert [("come!", None)] == ends
    assert (1, True) == (signal.ended, task.is_over)


@pytest.mark.parametrize(
    ("at_once", "expected"), [("wake", "'at once'"), ("fail", "KeyError"), ("raise", "LookupError")]
)
def test_what_comes_at_once_is_taken_within_the_step(
    loop: Loop, at_once: str, expected: str
) -> None:
    """begin() may wake, fail or raise."""
    signal, ends = Signal(at_once), Ends()

    async def work() -> str:
        try:
            return repr(await signal)
        except LookupError as error:
            return type(error).__name__

    started(loop, work(), ends)
    assert [(expected, None)] == ends
    assert (1, 1) == (signal.begun, signal.ended)


def test_a_second_wake_up_has_no_effect(loop: Loop) -> None:
    """Nor has one for what was waited for before."""
    first, second, ends = Signal(), Signal(), Ends()

    async def work() -> list[Any]:
        return [await first, await second]

    task = started(loop, work(), ends)
    task.wake(first, 1)
    task.wake(first, 2)
    task.fail(first, KeyError())
    assert [] == ends
    task.wake(second, 3)
    task.wake(second, 4)
    task.start()
    assert [([1, 3], None)] == ends


def test_an_error_is_raised_where_the_coroutine_waits(loop: Loop) -> None:
    """By fail(), and by interrupt() where a time is over; it may go on."""
    first, second, ends = Signal(), Signal(), Ends()

    async def work() -> list[str]:
        seen = []
        for signal in (first, second):
            try:
                await signal
            except (KeyError, TimeoutError) as error:
                seen.append(type(error).__name__)
        return seen

    task = started(loop, work(), ends)
    task.fail(first, KeyError())
    assert task.interrupt(TimeoutError())
    assert not task.interrupt(TimeoutError())
    assert [(["KeyError", "TimeoutError"], None)] == ends
    assert (1, 1) == (first.ended, second.ended)


def test_what_another_event_loop_waits_for_is_refused(loop: Loop) -> None:
    """A future of asyncio, or anything else, is a TypeError in the coroutine."""
    ends = Ends()

    class Foreign:
        def __await__(self) -> Any:
            yield 7

    async def work() -> str:
        try:
            await Foreign()
        except TypeError as error:
            return str(error)
        return "went on"

    async def uses_asyncio() -> None:
        await asyncio.sleep(0)

    started(loop, work(), ends)
    started(loop, uses_asyncio(), ends)
    assert "int cannot be awaited here" == ends[0][0]
    assert isinstance(ends[1][1], TypeError)


def test_a_loop_of_awaits_that_do_not_wait_lets_the_others_go_on(loop: Loop) -> None:
    """After so many steps the task goes on in the next turn."""
    steps = 0

    async def work() -> None:
        nonlocal steps
        while True:
            steps += 1
            await tasks.CurrentTask()

    async def catches() -> None:
        while True:
            try:
                await asyncio.sleep(0)
            except TypeError:
                pass

    both = [started(loop, work()), started(loop, catches())]
    for turn in range(1, 4):
        assert 0 < steps <= turn * tasks.AT_ONCE
        before = steps
        loop.turn(0)
        assert before < steps
    for task in both:
        task.cancel()
        assert task.is_over
    loop.turn(0)


def test_nobodys_code_runs_within_anothers(loop: Loop) -> None:
    """Who is woken or cancelled by a running task goes on in the next turn, in order."""
    signals = [Signal() for _ in range(3)]
    seen: list[str] = []

    async def waits(n: int) -> None:
        try:
            seen.append(f"{n} {await signals[n]}")
        except CancelledError:
            seen.append(f"{n} cancelled")

    others = [started(loop, waits(n)) for n in range(3)]

    async def wakes() -> None:
        others[0].wake(signals[0], "woken")
        others[1].cancel()
        others[2].wake(signals[2], "woken")
        others[2].cancel()  # too late: it has been woken
        seen.append("end")

    started(loop, wakes())
    assert ["end"] == seen
    loop.turn(0)
    assert ["end", "0 woken", "1 cancelled", "2 woken"] == seen
    assert all(task.is_over for task in others)
    assert 0 == loop.get(Steps).depth


def test_each_task_has_a_context_of_its_own(loop: Loop) -> None:
    """What one session sets is not what the next one sees."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    signal, ends = Signal(), Ends()

    async def enters(name: str) -> str:
        before = user.get()
        user.set(name)
        if name == "alice":
            await signal
        return f"{before} {user.get()}"

    task = started(loop, enters("alice"), ends)
    started(loop, enters("bob"), ends)
    task.wake(signal)
    assert [("nobody bob", None), ("nobody alice", None)] == ends
    assert "nobody" == user.get()


# -- the end -----------------------------------------------------------------------------------


def test_cancelling_runs_finally_blocks_once_and_tells_who_asked(loop: Loop) -> None:
    """CancelledError is no Exception; the end is told once, however often it is cancelled."""
    signal, ends, seen = Signal(), Ends(), []

    async def work() -> None:
        try:
            await signal
        except Exception:  # noqa: BLE001 - what a careless function does
            seen.append("caught")
        finally:
            seen.append("finally")

    task = started(loop, work(), ends)
    task.cancel()
    task.cancel()
    assert ["finally"] == seen
    assert 1 == signal.ended
    assert [CancelledError] == [type(error) for _, error in ends]


def test_a_task_that_is_cancelled_before_it_starts_runs_nothing(loop: Loop) -> None:
    """It ends all the same, and cannot be started any more."""
    ends, seen = Ends(), []

    async def work() -> None:
        seen.append("ran")

    task = Task(loop, work(), lambda task: ends.append((task.result, task.error)))
    task.cancel()
    task.start()
    assert ([], [CancelledError]) == (seen, [type(error) for _, error in ends])


def test_a_task_that_cancels_itself_goes_on_until_it_waits(loop: Loop) -> None:
    """Then it is cancelled there."""
    seen: list[str] = []
    itself: list[Task] = []

    async def work() -> None:
        itself[0].cancel()
        seen.append("goes on")
        try:
            await Signal()
            seen.append("waited")
        finally:
            seen.append("finally")

    itself.append(Task(loop, work(), lambda task: seen.append(type(task.error).__name__)))
    itself[0].start()
    assert ["goes on", "finally", "CancelledError"] == seen


def test_what_awaits_after_it_was_cancelled_is_cancelled_again(loop: Loop) -> None:
    """An await in a `finally` block gives nothing any more; no suspension begins."""
    first, second, seen = Signal(), Signal(), []

    async def work() -> None:
        try:
            await first
        finally:
            try:
                await second
            except CancelledError:
                seen.append("again")

    task = started(loop, work())
    task.cancel()
    assert (["again"], 0, True) == (seen, second.begun, task.is_over)


def test_a_coroutine_that_never_ends_is_closed(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets so many chances; one that ignores its closing is finished off in calls of its run."""
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: unraisable.append(args.exc_type))
    ends, caught, calls = Ends(), [], []

    async def work() -> None:
        while True:
            try:
                await Signal()
            except BaseException as error:  # noqa: BLE001 - as bad as can be
                caught.append((type(error).__name__, len(calls)))

    def run(function: Callable[..., Any], *args: Any) -> Any:
        calls.append("in")
        try:
            return function(*args)
        finally:
            calls.pop()

    task = started(loop, work(), ends, run)
    task.cancel()
    assert task.is_over
    assert [CancelledError] == [type(error) for _, error in ends]
    assert tasks.MOST_CANCELS == sum(name == "CancelledError" for name, _ in caught)
    assert 2 == sum(name == "GeneratorExit" for name, _ in caught)
    assert {1} == {depth for _, depth in caught}
    assert [RuntimeError] == unraisable


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), RecursionError(), MemoryError()]
)
def test_whatever_is_raised_is_told(loop: Loop, error: BaseException) -> None:
    """SystemExit ends the task, not the program."""
    ends = Ends()

    async def work() -> None:
        raise error

    started(loop, work(), ends)
    assert [(None, error)] == ends


def test_stop_iteration_is_an_error_like_others(loop: Loop) -> None:
    """Raised by the coroutine, or brought to it, it is no result."""
    signal, ends = Signal(), Ends()

    async def raises() -> None:
        raise StopIteration(7)  # what a forgotten next() does

    async def is_brought_one() -> None:
        await signal

    started(loop, raises(), ends)
    started(loop, is_brought_one(), ends).fail(signal, StopIteration(7))
    assert [RuntimeError, RuntimeError] == [type(error) for _, error in ends]


@pytest.mark.parametrize("how", ["returns", "raises", "cancelled", "too late"])
def test_what_a_task_owns_is_closed_when_it_ends(loop: Loop, how: str) -> None:
    """However it ends, and once; what it gave back is not its own any more."""
    signal, things = Signal(), [Thing(), Thing(), Thing()]

    async def work() -> None:
        task = await tasks.CurrentTask()
        for thing in things[:2]:
            task.own(thing)
        task.disown(things[0])
        await signal
        if how == "raises":
            raise ValueError

    task = started(loop, work())
    if how == "cancelled":
        task.cancel()
    else:
        task.wake(signal)
    if how == "too late":
        task.own(things[2])
    assert [0, 1, int(how == "too late")] == [thing.closed for thing in things]


def test_a_task_may_not_own_without_end(loop: Loop) -> None:
    """One too many is an OSError, as where the system has no descriptors left."""
    ends, things = Ends(), [Thing() for _ in range(tasks.MOST_OWNED + 1)]

    async def work() -> None:
        task = await tasks.CurrentTask()
        for thing in things:
            task.own(thing)

    started(loop, work(), ends)
    assert isinstance(ends[0][1], OSError)
    assert tasks.MOST_OWNED == sum(thing.closed for thing in things)


def test_a_fault_in_end_or_close_does_not_keep_the_task(loop: Loop) -> None:
    """It is an alert; the coroutine goes on, and ends."""

    class Bad(Signal):
        def end(self) -> None:
            raise RuntimeError("end")

        close = end

    signal, ends = Bad(), Ends()

    async def work() -> int:
        (await tasks.CurrentTask()).own(signal)
        await signal
        return 7

    started(loop, work(), ends).wake(signal)
    assert [(7, None)] == ends
    assert 2 == len(loop.log.lines)


def test_what_done_raises_reaches_who_woke_the_task(loop: Loop) -> None:
    """The task is over by then."""
    signal = Signal()

    async def work() -> None:
        await signal

    def done(task: Task) -> None:
        raise ValueError("done")

    task = Task(loop, work(), done)
    task.start()
    with pytest.raises(ValueError, match="done"):
        task.wake(signal)
    assert (True, 0) == (task.is_over, loop.get(Steps).depth)


def test_an_async_generator_left_half_way_is_closed_with_its_task(loop: Loop) -> None:
    """Its `finally` block runs when the coroutine ends."""
    seen: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            seen.append("closed")

    async def work() -> None:
        async for _ in numbers():
            break
        seen.append("end")
        await Signal()

    task = started(loop, work())
    assert ["closed", "end"] == sorted(seen)
    task.cancel()


# -- nothing is left ---------------------------------------------------------------------------


def _returns(signal: Signal) -> Coroutine[Any, Any, Any]:
    async def work() -> int:
        await signal
        return 1

    return work()


def _raises(signal: Signal) -> Coroutine[Any, Any, Any]:
    async def inner() -> None:
        await signal
        raise ValueError("no")

    async def work() -> None:
        await inner()

    return work()


def _raises_in_finally(signal: Signal) -> Coroutine[Any, Any, Any]:
    async def work() -> None:
        try:
            await signal
        finally:
            raise KeyError("no")

    return work()


def _sleeps(signal: Signal) -> Coroutine[Any, Any, Any]:
    async def work() -> None:
        await signal
        await Sleep(3_600_000)

    return work()


def _foreign(signal: Signal) -> Coroutine[Any, Any, Any]:
    async def work() -> None:
        await signal
        await asyncio.sleep(0)

    return work()


@pytest.mark.parametrize("make", [_returns, _raises, _raises_in_finally, _sleeps, _foreign])
@pytest.mark.parametrize("end", ["wake", "cancel", "fail", "cancel twice"])
@pytest.mark.parametrize("is_limited", [False, True])
def test_nothing_is_left_of_a_task_that_is_over(
    loop: Loop, make: Callable[[Signal], Coroutine[Any, Any, Any]], end: str, is_limited: bool
) -> None:
    """No reference cycle, no timer, nothing in the loop."""
    limit = loop.get(time_limit.TimeLimit) if is_limited else None
    run = None if limit is None else partial(limit.call, 10_000)
    gc.collect()
    gc.disable()
    try:
        ends = []
        signal = Signal()
        task = Task(loop, make(signal), lambda task: ends.append(1), run)
        task.start()
        if end == "wake":
            task.wake(signal)
        elif end == "fail":
            task.fail(signal, KeyError("failed"))
        task.cancel()
        task.cancel()
        assert ([1], True) == (ends, task.is_over)
        gone = weakref.ref(signal)
        del task, signal
        assert gone() is None
        assert (0, [], 0) == (loop.live, loop.posted, gc.collect())
    finally:
        gc.enable()
        if limit is not None:
            limit.close()


def test_a_sleep_ends_with_its_timer(loop: Loop) -> None:
    """A wait of no time is one for the next turn; a cancelled one leaves no timer."""
    ends = Ends()

    async def work() -> str:
        await Sleep(0)
        await Sleep(5)
        return "slept"

    started(loop, work(), ends)
    cancelled = started(loop, work())
    cancelled.cancel()
    assert [] == ends
    run_until(loop, lambda: ends)
    assert [("slept", None)] == ends
    assert 0 == loop.live


# -- by chance ---------------------------------------------------------------------------------


class Chance(Suspension):
    """Waits in one of the ways there are."""

    def __init__(self, how: str, waiting: list[Chance]) -> None:
        self.how = how
        self.waiting = waiting
        self.task: Task | None = None
        self.state = "new"

    def begin(self, task: Task) -> None:
        """Do one of these things."""
        assert "new" == self.state
        self.state = "begun"
        self.task = task
        if self.how == "at once":
            task.wake(self)
        elif self.how == "raises":
            raise OSError
        else:
            self.waiting.append(self)

    def end(self) -> None:
        """Be left once."""
        assert "begun" == self.state
        self.state = "ended"
        if self in self.waiting:
            self.waiting.remove(self)
        self.task = None


WAYS = ("waits", "at once", "raises", "catches", "stops")
COROUTINE = st.lists(st.sampled_from(WAYS), max_size=8)
STEPS = ("wake", "fail", "interrupt", "cancel", "turn")
STEP = st.tuples(st.sampled_from(STEPS), st.integers(0, 9))


@given(st.lists(COROUTINE, min_size=1, max_size=5), st.lists(STEP, max_size=40))
def test_whatever_happens_each_task_ends_once(
    plans: list[list[str]], steps: list[tuple[str, int]]
) -> None:
    """Tasks that wait, fail, catch and are cancelled at any moment: begin() and end() are paired,
    the end is told once, nothing waits any more.
    """
    waiting: list[Chance] = []
    ended: list[int] = []
    running: list[int] = []

    async def work(n: int, plan: list[str]) -> None:
        for how in plan:
            assert [] == running
            running.append(n)
            running.pop()
            try:
                await Chance(how, waiting)
            except OSError:
                continue
            except (CancelledError, KeyError):
                if how != "catches":
                    raise
            if how == "stops":
                return

    with engine() as loop:
        made = [Task(loop, work(n, plan), lambda _, n=n: ended.append(n))
                for n, plan in enumerate(plans)]
        for task in made:
            task.start()
        for step, n in steps:
            if step == "turn":
                loop.turn(0)
            elif step == "cancel":
                made[n % len(made)].cancel()
            elif waiting:
                one = waiting[n % len(waiting)]
                assert one.task is not None
                if step == "wake":
                    one.task.wake(one)
                elif step == "fail":
                    one.task.fail(one, KeyError())
                else:
                    one.task.interrupt(OSError())
        for task in made:
            task.cancel()
        loop.turn(0)
        assert list(range(len(plans))) == sorted(ended)
        assert ([], 0, 0) == (waiting, loop.live, loop.get(Steps).depth)
