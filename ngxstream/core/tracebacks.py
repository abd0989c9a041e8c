"""Tracebacks of users' code: what they keep alive, and how it is let go of.

A frame keeps its variables as long as something refers to it, and the frame of its caller with it:
an exception that is kept has all that was at work when it was raised, down to the loop. Where one
of these variables leads to the exception that is a reference cycle. CPython before 3.12 did not
link the frame of a coroutine that has ended to its caller's.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

MOST_BEHIND: Final = 100  # exceptions behind one that are looked at


def forget(error: BaseException) -> None:
    """Let go of the frames that an exception, and those behind it, came through."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(seen) < MOST_BEHIND:
        one = waiting.pop()
        if one is not None and not any(one is known for known in seen):
            seen.append(one)
            waiting += (one.__cause__, one.__context__)
            one.__traceback__ = None


def of_user(trace: TracebackType | None, callers: Container[object]) -> TracebackType | None:
    """Cut the frames of who called a user's function off a traceback.

    Args: callers: names of modules
    """
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in callers:
        trace = trace.tb_next
    return trace
