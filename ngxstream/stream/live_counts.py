"""The bytes of sessions that go on, counted once a second (nginx has none).

Only where servers are watched (stream/core_facts.py). A round looks at all sessions of a worker,
PORTION of them in a turn of the loop; it keeps no quitting worker, and no session, alive.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ngxstream.stream import core_facts

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.session import Session

EVERY_MS: Final = 1000
PORTION: Final = 256  # some 0.2 ms


class LiveCounts:
    """The rounds of one worker: `loop.get(LiveCounts).start()`."""

    __slots__ = ("_has_started", "_left", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._left: Iterator[Session] | None = None  # of a round that is under way
        self._has_started = False

    def start(self) -> None:
        """Begin, unless it has begun."""
        if not self._has_started:
            self._has_started = True
            self._wait()

    def _wait(self) -> None:
        self._loop.call_later(EVERY_MS, self._begin, cancelable=True)

    def _begin(self) -> None:
        self._wait()
        if self._left is None:
            self._left = iter(list(self._loop.sessions))
            self._go_on()

    def _go_on(self) -> None:
        left = self._left
        if left is None:
            return
        looked = 0
        for s in itertools.islice(left, PORTION):
            looked += 1
            if not s.status:
                try:
                    look(s)
                except Exception:  # noqa: BLE001 - the others are counted
                    self._loop.fault(None)
        if looked == PORTION:
            self._loop.post(self._go_on)
        else:
            self._left = None


def look(s: Session) -> None:
    """Count what a session has moved so far, if it is watched."""
    if not s.address.is_watched:
        return
    content: Any = s.content
    if content is None:
        core_facts.settle(s, s.c.received, s.c.sent)
    else:
        received, sent, _, _ = content.counts()
        core_facts.settle(s, received, sent)
        content.count_live()
