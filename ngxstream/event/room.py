"""Room for new clients when slots or descriptors run out: which UDP session gives way, and which
listeners wait until a client leaves.

nginx drops the new client's datagram, or resets the new TCP client, and goes on doing so while old
sessions idle along.

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
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import facts

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

IDLE_MS: Final = 1000
LOOK_MS: Final = 100
BATCH: Final = 512  # sessions found by one look
SHARE: Final = 8  # of all slots


class Room:
    """Who gives way in one worker."""

    __slots__ = ("_complained_ms", "_idle", "_looked_ms", "_loop", "_spare", "given", "waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._idle: list[tuple[int, Any]] = []  # (active_ms when seen, content), idle longest last
        self._looked_ms = -LOOK_MS
        self._complained_ms = -1000
        # a descriptor for the server of a client who was accepted with the last one: an epoll
        # object, as that is closed with the loop
        self._spare: select.epoll | None = None
        self.given = facts.Counter()  # sessions that gave way so far
        self.waiting: set[Callable[[], None]] = set()  # called once when a client has left

    def make(self) -> bool:
        """Have one session give way. returns: whether there was one that may"""
        idle = self._idle
        latest = self._loop.now_ms - IDLE_MS
        while True:
            while idle:
                seen_ms, content = idle.pop()
                if content.active_ms == seen_ms <= latest:
                    self.given.add()
                    content.give_way()
                    return True
            if self._loop.now_ms - self._looked_ms < LOOK_MS:
                return False
            self._look(latest)

    def make_descriptor(self) -> bool:
        """Have a descriptor be free in the next turn: one that idles, or a session gives way.

        Returns:
            Whether there will be one.
        """
        loop = self._loop
        if loop.udp_sockets.drop() or loop.pipes.drop():
            return True
        if not self.make():
            return False
        loop.udp_sockets.drop()  # where the session's socket went, if it was not closed
        return True

    def has_descriptors(self, wanted: int) -> bool:
        """Tell whether so many descriptors are free, besides a spare one that is kept here."""
        found: list[int] = []
        try:
            if self._spare is None:
                self._spare = select.epoll()
            for _ in range(wanted):
                found.append(os.dup(self._spare.fileno()))  # noqa: PERF401 - those there are get closed
        except OSError:
            return False
        finally:
            for fd in found:
                os.close(fd)
        return True

    def give_spare(self) -> bool:
        """Give the spare descriptor up, for a client that was accepted with the last one."""
        spare, self._spare = self._spare, None
        if spare is None:
            return False
        spare.close()
        return True

    def wake(self) -> None:
        """Tell those who wait for room that a client has left."""
        waiting, self.waiting = self.waiting, set()
        for callback in waiting:
            self._loop.post(callback)  # the slot towards the server may be free only then

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
