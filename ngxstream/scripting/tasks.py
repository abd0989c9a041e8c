"""What a coroutine may wait for, that needs no socket."""

from __future__ import annotations

from typing import Final

from ngxstream.event import tasks

CancelledError = tasks.CancelledError
LONGEST_S: Final = 366 * 86400


async def sleep(seconds: float) -> None:
    """Wait for a time; 0 lets other sessions run first.

    Raises: ValueError for less than 0, or more than LONGEST_S
    """
    if not 0 <= seconds <= LONGEST_S:
        raise ValueError(f"one can sleep 0 to {LONGEST_S} seconds")
    await tasks.Sleep(int(seconds * 1000))
