"""sleep(): how long, and what is no time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ngxstream.event import tasks
from ngxstream.scripting import tasks as waits
from tests.support.engine import engine, run_until


def test_a_sleep_of_nothing_lets_others_go_on_first() -> None:
    """It ends in a later turn."""
    seen: list[Any] = []
    with engine() as loop:

        async def work() -> None:
            await waits.sleep(0)
            seen.append("slept")

        tasks.Task(loop, work(), lambda task: None).start()
        seen.append("goes on")
        run_until(loop, lambda: len(seen) == 2)
    assert ["goes on", "slept"] == seen


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, math.inf, 1e300])
def test_what_is_no_time_is_refused(seconds: float) -> None:
    """A ValueError, where it is awaited."""
    ends: list[Any] = []
    with engine() as loop:
        tasks.Task(loop, waits.sleep(seconds), lambda task: ends.append(task.error)).start()
    assert [ValueError] == [type(error) for error in ends]


def test_cancelled_error_is_no_exception() -> None:
    """`except Exception` does not keep it."""
    assert not issubclass(waits.CancelledError, Exception)
