"""timeout() and gather(): whose time is over, who is cancelled, what is left."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream import scripting
from ngxstream.event import tasks
from ngxstream.event.loop import Loop
from ngxstream.scripting import CancelledError, gather, timeout
from tests.support.awaited import result, start
from tests.support.engine import engine, run_until

LONG_S = 1000


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop whose timers are all gone at the end."""
    with engine() as made:
        yield made
        assert not made.timers._ticks or not any(made.timers._buckets.values())
        assert made.live == 0


def test_a_block_that_is_done_in_time_goes_on(loop: Loop) -> None:
    """Nothing is raised, and the timer is gone."""

    async def quick() -> str:
        async with timeout(LONG_S):
            await scripting.sleep(0)
        return "done"

    assert "done" == result(loop, quick())


def test_a_block_that_takes_too_long_raises(loop: Loop) -> None:
    """TimeoutError is raised behind it, and its `finally` blocks have run."""
    seen = []

    async def slow() -> None:
        async with timeout(0.01):
            try:
                await scripting.sleep(LONG_S)
            except Exception:  # noqa: BLE001 - what it is to show
                seen.append("kept")
            finally:
                seen.append("finally")

    with pytest.raises(TimeoutError, match=r"more than 0\.01 s"):
        result(loop, slow())
    assert ["finally"] == seen


def test_the_outer_time_passes_through_inner_handlers(loop: Loop) -> None:
    """`except TimeoutError` around an inner block takes the inner block's time alone."""
    seen = []

    async def nested() -> None:
        async with timeout(0.02):
            try:
                async with timeout(LONG_S):
                    await scripting.sleep(LONG_S)
            except TimeoutError:
                seen.append("inner")

    with pytest.raises(TimeoutError):
        result(loop, nested())
    assert [] == seen


def test_the_inner_time_ends_the_inner_block_alone(loop: Loop) -> None:
    """The outer block goes on."""

    async def nested() -> str:
        async with timeout(LONG_S):
            try:
                async with timeout(0.01):
                    await scripting.sleep(LONG_S)
            except TimeoutError:
                await scripting.sleep(0)
                return "inner"
        return "none"

    assert "inner" == result(loop, nested())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_of_nested_times_the_shortest_is_over(seconds: list[int]) -> None:
    """Whatever their order, the outermost of the shortest ones is told, or one within it."""
    with engine() as loop:

        async def wait(left: list[int]) -> int:
            if not left:
                await scripting.sleep(LONG_S)
            try:
                async with timeout(left[0] / 20):
                    return await wait(left[1:])
            except TimeoutError:
                return left[0]

        assert min(seconds) == result(loop, wait(seconds))


def test_no_time_is_no_limit_and_a_wrong_one_is_refused(loop: Loop) -> None:
    """None; less than 0, and what is no number."""

    async def free() -> str:
        async with timeout(None):
            await scripting.sleep(0)
        return "done"

    assert "done" == result(loop, free())
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="at least 0"):
            timeout(wrong)


def test_a_time_of_nothing_is_over_with_the_next_wait(loop: Loop) -> None:
    """As in asyncio."""

    async def none() -> None:
        async with timeout(0):
            await scripting.sleep(LONG_S)

    with pytest.raises(TimeoutError):
        result(loop, none())


def test_a_cancelled_block_is_cancelled(loop: Loop) -> None:
    """It is no TimeoutError."""

    async def slow() -> None:
        async with timeout(LONG_S):
            await scripting.sleep(LONG_S)

    task = start(loop, slow())
    task.cancel()
    assert isinstance(task.error, CancelledError)
    assert not isinstance(task.error, TimeoutError)
    task.error = None


async def _after(seconds: float, value: object) -> object:
    await scripting.sleep(seconds)
    return value


def test_what_all_return_is_returned_in_their_order(loop: Loop) -> None:
    """Whoever is done first."""
    assert ["a", "b", 3] == result(
        loop, gather(_after(0.02, "a"), _after(0, "b"), _after(0.01, 3))
    )
    assert [] == result(loop, gather())


def test_the_first_error_cancels_the_others(loop: Loop) -> None:
    """Their `finally` blocks have run when it is raised."""
    seen = []

    async def waits() -> None:
        try:
            await scripting.sleep(LONG_S)
        finally:
            seen.append("finally")

    async def fails() -> None:
        await scripting.sleep(0)
        raise LookupError("this one")

    with pytest.raises(LookupError, match="this one"):
        result(loop, gather(waits(), fails(), waits()))
    assert ["finally"] * 2 == seen


def test_one_that_fails_at_once_keeps_the_others_from_beginning(loop: Loop) -> None:
    """They are closed, not forgotten: nobody warns of a coroutine that was never awaited."""
    seen = []

    async def fails() -> None:
        raise LookupError

    async def begins() -> None:
        seen.append("begun")

    with pytest.raises(LookupError):
        result(loop, gather(fails(), begins()))
    assert [] == seen


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_the_end_of_who_gathers_is_the_end_of_all(loop: Loop, how: str) -> None:
    """Cancelled or out of time."""
    seen = []
    begun = []

    async def waits() -> None:
        try:
            begun.append(1)
            await scripting.sleep(LONG_S)
        finally:
            seen.append("finally")

    async def gathers() -> None:
        async with timeout(LONG_S if how == "cancel" else 0.01):
            await gather(waits(), gather(waits(), waits()))

    task = start(loop, gathers())
    if how == "cancel":
        run_until(loop, lambda: len(begun) == 3)
        task.cancel()
    run_until(loop, lambda: task.is_over)
    assert ["finally"] * 3 == seen
    task.error = None


def test_too_many_are_refused(loop: Loop) -> None:
    """None of them begins."""
    with pytest.raises(ValueError, match="64"):
        result(loop, gather(*(scripting.sleep(0) for _ in range(65))))


class Thing:
    """Something that is to be closed."""

    owner: tasks.Task | None = None

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        """Note it."""
        self.closed += 1


def test_what_a_coroutine_opened_is_the_callers(loop: Loop) -> None:
    """Of one that returned; what one opened that raised is closed."""
    things = Thing(), Thing()

    async def opens(thing: Thing, *, fails: bool) -> None:
        task: tasks.Task = await tasks.CurrentTask()
        task.own(thing)
        if fails:
            raise LookupError

    async def caller() -> tuple[int, int]:
        await gather(opens(things[0], fails=False))
        try:
            await gather(opens(things[1], fails=True))
        except LookupError:
            pass
        return things[0].closed, things[1].closed

    assert (0, 1) == result(loop, caller())
    assert (1, 1) == (things[0].closed, things[1].closed)


def test_nothing_is_left_to_the_collector(loop: Loop) -> None:
    """It does not run in a worker."""

    class Mark:
        pass

    marks: list[weakref.ref[Mark]] = []

    async def child(n: int) -> None:
        mark = Mark()
        marks.append(weakref.ref(mark))
        if n == 2:
            await scripting.sleep(0)
            raise LookupError
        async with timeout(0.01):
            await scripting.sleep(LONG_S)

    async def parent() -> None:
        mark = Mark()
        marks.append(weakref.ref(mark))
        for n in (1, 2):
            try:
                await gather(child(0), child(n))
            except (TimeoutError, LookupError):
                pass

    gc.disable()
    try:
        task = start(loop, parent())
        run_until(loop, lambda: task.is_over)
        assert task.error is None
        assert 5 == len(marks)
        assert [] == [mark for mark in marks if mark() is not None]
    finally:
        gc.enable()
