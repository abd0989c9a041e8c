"""Waits for a state instead of for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 20.0  # seconds; generous, for machines that run other things too


def wait_until(
    predicate: Callable[[], T], timeout: float = PATIENCE, what: str = "", every: float = 0.01
) -> T:
    """Poll until the predicate is true; return what it returned.

    Args: timeout and every in seconds, where every is the longest pause: most states come soon, and
    the first pauses are shorter; what names the awaited state in the failure.
    Raises: AssertionError when the time is up; an exception of the predicate passes through.
    """
    deadline = time.monotonic() + timeout
    pause = min(every, 0.0005)
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            name = what or getattr(predicate, "__name__", "the awaited state")
            raise AssertionError(f"not reached within {timeout:g} s: {name} (last: {value!r})")
        time.sleep(pause)
        pause = min(every, pause * 2)
