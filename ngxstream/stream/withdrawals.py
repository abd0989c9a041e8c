"""Sessions whose server is withdrawn: how a worker comes to look at those it has.

A server is withdrawn when a check finds it unhealthy, when it is removed from its group, and when
it is marked down (stream/peer_state.py). What becomes of its sessions is their content's business
(Content.look_at_server); when they are looked at is said here:

1. Whoever withdraws a server, in whatever process, counts that in a cell of its zone, under the
   zone's lock. A worker compares the cells that matter to it every LOOK_MS: nothing else is done
   while they stay the same.
2. When one has changed, all sessions of the worker are looked at, PORTION of them in a turn of the
   loop. What is to be ended is ended ENDS at a time. A change meanwhile has all looked at again.
3. Only configurations that make something of it have their cells watched; a session keeps no
   quitting worker from leaving by that, nor does the watching.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from ngxstream.event.portions import Portions

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.event.timers import Timer
    from ngxstream.stream.session import Session

LOOK_MS: Final = 100
PORTION: Final = 256  # sessions that are looked at in a turn: some 0.3 ms
ENDS: Final = 16  # sessions that end in a turn: some 1 ms


class Withdrawals:
    """What one worker watches: `loop.get(Withdrawals)`."""

    __slots__ = ("_cells", "_ends", "_is_due", "_left", "_loop", "_seen", "_timer")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._cells: dict[object, tuple[memoryview[int], ...]] = {}
        self._seen: list[int] = []  # what the cells said last
        self._is_due = False  # whether sessions are to be looked at
        self._left: Iterator[Session] | None = None  # those that are still to be, of this time
        self._ends = Portions(loop, ENDS)
        self._timer: Timer | None = None

    def start(self, owner: object, cells: Iterable[memoryview[int]]) -> None:
        """Watch cells, until stop(owner). Args: owner: a configuration"""
        found = tuple({id(cell): cell for cell in cells}.values())
        if found:
            self._cells[owner] = found
            self._is_due = True  # something may have happened before
            if self._timer is None:
                self._wait()

    def stop(self, owner: object) -> None:
        """Watch the cells of a configuration no more. Idempotent."""
        self._cells.pop(owner, None)
        if not self._cells and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self, call: Callable[[], None]) -> None:
        """Have a session ended by a call, in this turn or one of the next."""
        self._ends.add(call)

    def _wait(self) -> None:
        self._timer = self._loop.call_later(LOOK_MS, self._look, cancelable=True)

    def on_fault(self) -> None:
        """Go on after an exception nobody expected."""
        if self._timer is None and self._cells:
            self._wait()

    def _look(self) -> None:
        self._timer = None
        if not self._cells:
            return
        seen = [cell[0] for cells in self._cells.values() for cell in cells]
        if seen != self._seen:
            self._seen = seen
            self._is_due = True
        self._wait()
        if self._is_due and self._left is None:
            self._is_due = False
            self._left = iter(list(self._loop.sessions))
            self._loop.post(self._go_on)

    def _go_on(self) -> None:
        left = self._left
        if left is None:
            return
        looked = 0
        for s in itertools.islice(left, PORTION):
            looked += 1
            content = s.content
            if content is not None and not s.status:
                try:
                    content.look_at_server()
                except Exception:  # noqa: BLE001 - the others are looked at
                    self._loop.fault(content)
        if looked == PORTION:
            self._loop.post(self._go_on)
        else:
            self._left = None
