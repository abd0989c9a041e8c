"""Room for new clients when slots or descriptors run out: which UDP session gives way.

nginx drops the new client's datagram, and goes on doing so while old sessions idle along.

1. A session with traffic in the last second never gives way.
2. Sessions that are no conversation (one datagram from the client, or no answer) go first, the one
   idle longest before the others: forged sources are among these.
3. Sessions in conversation go, the one idle longest first, only while the others hold less than
   an eighth of the slots: a flood competes with itself.

Who is idle is found by looking at all sessions, at most every LOOK_MS and for a whole batch at a
time: sessions keep no list in order of use, which would cost every datagram something.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

IDLE_MS: Final = 1000
LOOK_MS: Final = 100
BATCH: Final = 512  # sessions found by one look
SHARE: Final = 8  # of all slots


class Room:
    """Who gives way in one worker."""

    __slots__ = ("_complained_ms", "_idle", "_looked_ms", "_loop", "given")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._idle: list[tuple[int, Any]] = []  # (active_ms when seen, content), idle longest last
        self._looked_ms = -LOOK_MS
        self._complained_ms = -1000
        self.given = 0  # int: sessions that gave way so far

    def make(self) -> bool:
        """Have one session give way. returns: whether there was one that may"""
        idle = self._idle
        latest = self._loop.now_ms - IDLE_MS
        while True:
            while idle:
                seen_ms, content = idle.pop()
                if content.active_ms == seen_ms <= latest:
                    self.given += 1
                    content.give_way()
                    return True
            if self._loop.now_ms - self._looked_ms < LOOK_MS:
                return False
            self._look(latest)

    def _look(self, latest: int) -> None:
        """Find the sessions idle longest."""
        self._looked_ms = self._loop.now_ms
        strangers: list[tuple[int, int, Any]] = []
        friends: list[tuple[int, int, Any]] = []
        young = 0
        for n, s in enumerate(self._loop.sessions):
            content = s.content
            active_ms = getattr(content, "active_ms", None)
            if active_ms is None:
                continue
            if content.conversing:
                if active_ms <= latest:
                    friends.append((active_ms, n, content))
            elif active_ms <= latest:
                strangers.append((active_ms, n, content))
            else:
                young += 1
        found = strangers
        # a proxied session has two slots
        if not strangers and young * 2 * SHARE < self._loop.connections:
            found = friends
        oldest = heapq.nsmallest(BATCH, found)
        self._idle.extend((active_ms, content) for active_ms, _, content in reversed(oldest))

    def may_complain(self) -> bool:
        """Tell whether it may be said that there is no room: once a second."""
        now_ms = self._loop.now_ms
        if now_ms - self._complained_ms < 1000:
            return False
        self._complained_ms = now_ms
        return True
