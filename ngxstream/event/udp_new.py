"""Datagrams of new clients that wait until the sessions they begin may begin.

nginx has no counterpart: there whoever is first in the socket is served first.

Beginning a session costs ten times what sending a datagram on does. A flood of forged sources would
leave the socket unread for so long that the kernel drops the datagrams of those who are being
served. So sessions that are there get theirs first, and a drain that has any begins at most NEW
sessions; what other new clients sent waits here, copied, for the turns that follow.

1. Whoever came first begins first; a client's datagrams stay in order.
2. As many bytes wait as the socket's own buffer holds, so a burst that found room there finds room
   here. What is over that is dropped and counted, and the log hears of it once a second.
3. Where only new clients send (one question and one answer each), nothing waits, unless what they
   send has used up the turn (turn_budget.py). One session begins in each turn even so.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

NEW: Final = 16  # sessions a turn begins while others are being served
CHUNK: Final = 64  # datagrams of one client that are looked at in one go
LEAST_BYTES: Final = 1 << 20  # may wait; the socket's buffer if that is more
COST: Final = 512  # bytes that each datagram counts besides its own
WARN: Final = 5


class Beginner(Protocol):
    """Who begins the sessions (event/udp.py)."""

    accepts: bool
    dropped: int

    def begin_for(
        self, key: Any, views: list[memoryview], budget: int
    ) -> tuple[int, list[memoryview]]:
        """Give a client's datagrams to its session, beginning as many as they need.

        Returns:
            What is left of the budget of new sessions, and of the datagrams when it is used up.
        """


class NewClients:
    """The new clients of one listening socket, and what they sent."""

    __slots__ = (
        "_beginner",
        "_is_posted",
        "_loop",
        "_text",
        "_warned_ms",
        "dropped",  # int: datagrams
        "limit",  # int: bytes that may wait
        "size",  # int: bytes that wait, each datagram's COST with them
        "waiting",  # OrderedDict: key -> deque of datagrams
    )

    def __init__(self, loop: Loop, beginner: Beginner, text: str) -> None:
        """shape: text is the listening address as the log has it"""
        self._loop = loop
        self._beginner = beginner
        self._text = text
        self._is_posted = False
        self._warned_ms = -1000
        self.dropped = 0
        self.limit = LEAST_BYTES
        self.size = 0
        self.waiting: OrderedDict[Any, deque[bytes]] = OrderedDict()

    def put(self, key: Any, views: list[memoryview], *, is_bounded: bool = True) -> None:
        """Keep copies of a client's datagrams until its session begins.

        shape: is_bounded is False for what was held already, which has a bound of its own
        """
        if not self._is_posted:
            self._is_posted = True
            self._loop.post(self._begin_some)
        kept = self.waiting.get(key)
        for view in views:
            if is_bounded and self.size >= self.limit:
                self._drop()
                continue
            if kept is None:
                kept = self.waiting[key] = deque()
            kept.append(bytes(view))
            self.size += len(view) + COST

    def pop(self, key: Any) -> list[memoryview]:
        """Return, and forget, the datagrams of a client."""
        found = self.waiting.pop(key)
        self.size -= sum(map(len, found)) + COST * len(found)
        return [memoryview(data) for data in found]

    def _begin_some(self) -> None:
        """Begin sessions, those first that have waited longest."""
        waiting, beginner = self.waiting, self._beginner
        budget = NEW
        for _ in range(NEW):
            if not waiting or budget <= 0:
                break
            key = next(iter(waiting))
            if not beginner.accepts:
                self.pop(key)
                continue
            left = waiting[key]
            chunk = [left.popleft() for _ in range(min(CHUNK, len(left)))]
            self.size -= sum(map(len, chunk)) + COST * len(chunk)
            if not left:
                del waiting[key]
            views = [memoryview(data) for data in chunk]
            budget, rest = beginner.begin_for(key, views, budget)
            if rest:
                back = chunk[-len(rest) :]
                left.extendleft(reversed(back))
                self.size += sum(map(len, back)) + COST * len(back)
                waiting[key] = left
                waiting.move_to_end(key, last=False)
        self._is_posted = bool(waiting)
        if waiting:
            self._loop.post(self._begin_some)

    def _drop(self) -> None:
        """Count a datagram that is dropped, and say so once a second."""
        self.dropped += 1
        self._beginner.dropped += 1
        loop = self._loop
        if loop.now_ms - self._warned_ms >= 1000 and loop.log.level >= WARN:
            self._warned_ms = loop.now_ms
            loop.log.write(
                WARN,
                "datagrams of new clients come faster than sessions can begin, server: "
                f"{self._text}, dropped so far: {self.dropped}",
            )
