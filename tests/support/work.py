"""Work counted, not timed: the same on a loaded machine as on a free one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

LINEAR: Final = 2.3  # growth() of what is linear, and some room


def instructions(do: Callable[[], Any]) -> int:
    """Return how many bytecode instructions a call executes."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        elif event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return trace

    _traced(do, trace)
    return count


def lines_run(do: Callable[[], Any]) -> int:
    """Return how many lines of Python a call runs; on CPython 3.11 a line takes some 50 ns."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    _traced(do, trace)
    return count


def _traced(do: Callable[[], Any], trace: Callable[[FrameType, str, Any], Any]) -> None:
    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # or CPython 3.12 tells of none
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)


def growth(do: Callable[[int], Any], n: int) -> float:
    """Return how the work for 2n to 4n things compares with that for n to 2n.

    It is 2 for what is linear, whatever it costs to begin; 4 for what is quadratic.
    """
    once, twice, four_times = (instructions(lambda n=n: do(n)) for n in (n, 2 * n, 4 * n))
    return (four_times - twice) / (twice - once)
