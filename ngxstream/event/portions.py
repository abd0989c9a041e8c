"""Calls that are made a few in each turn of the loop, however many come due at once.

What a reply of a DNS server sets going, a connect for each session that waited for it, takes a
tenth of a millisecond each; thousands of them in one turn would keep everybody else waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop


class Portions:
    """A queue of calls, of which the loop makes no more than ``size`` a turn, in order."""

    __slots__ = ("loop", "size", "waiting", "_left", "_is_posted")

    def __init__(self, loop: Loop, size: int) -> None:
        self.loop = loop
        self.size = size
        self.waiting: deque[Callable[[], None]] = deque()
        self._left = size  # calls that may still be posted in this turn
        self._is_posted = False

    def add(self, call: Callable[[], None]) -> None:
        """Have a call made at the end of this turn, or of one of the next if it is full."""
        if self._left:  # none is left while others wait
            self._left -= 1
            self.loop.post(call)
        else:
            self.waiting.append(call)
        if not self._is_posted:
            self._is_posted = True
            self.loop.post(self._on_turn_end)

    def _on_turn_end(self) -> None:
        # what is posted from here runs in the next turn, each call guarded by the loop
        waiting, post = self.waiting, self.loop.post
        count = min(self.size, len(waiting))
        for _ in range(count):
            post(waiting.popleft())
        self._left = self.size - count
        self._is_posted = bool(count)
        if count:
            post(self._on_turn_end)
