"""Which idle UDP session ends for a new client where slots or descriptors run out.

nginx drops the new client's datagram, or resets the new TCP client, and goes on doing so while old
sessions idle along.

1. A session with traffic in the last second is never ended.
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
from typing import TYPE_CHECKING, Final, Protocol

from ngxstream.core.facts import Counter
from ngxstream.event import recycle, splice

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

IDLE_MS: Final = 1000
LOOK_MS: Final = 100
BATCH: Final = 512  # sessions found by one look
SHARE: Final = 8  # of all slots


class Content(Protocol):
    """The content of a session that may end for a new client."""

    active_ms: int  # when something moved last, of the loop
    conversing: bool  # both sides have spoken more than once

    def give_way(self) -> None:
        """End the session."""


class Eviction:
    """The idle sessions of one worker, and a spare descriptor."""

    __slots__ = ("_idle", "_logged_ms", "_looked_ms", "_loop", "_spare", "evicted",
                 "refused")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._idle: list[tuple[int, Content]] = []  # (active_ms when seen, content), oldest last
        self._looked_ms = -LOOK_MS
        self._logged_ms = -1000
        # a descriptor for the server of a client who was accepted with the last one: an epoll
        # object, as that is closed with the loop
        self._spare: select.epoll | None = None
        self.evicted = Counter()  # sessions ended so far
        self.refused = Counter()  # UDP clients that nobody gave way to

    def make(self) -> bool:
        """End one session for its slots. Returns: whether there was one that may end"""
        idle = self._idle
        latest = self._loop.now_ms - IDLE_MS
        while True:
            while idle:
                seen_ms, content = idle.pop()
                if content.active_ms == seen_ms <= latest:
                    self.evicted.add()
                    content.give_way()
                    return True
            if self._loop.now_ms - self._looked_ms < LOOK_MS:
                return False
            self._look(latest)

    def make_descriptor(self) -> bool:
        """Close what idles, or end a session. Returns: whether a descriptor is free next turn"""
        sockets = self._loop.get(recycle.SocketPool)
        if sockets.drop() or self._loop.get(splice.PipePool).drop():
            return True
        if not self.make():
            return False
        sockets.drop()  # where the session's socket went, if it was not closed
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

    def _look(self, latest: int) -> None:
        """Find the sessions idle longest."""
        self._looked_ms = self._loop.now_ms
        one_sided: list[tuple[int, int, Content]] = []
        conversing: list[tuple[int, int, Content]] = []
        young = 0
        for n, s in enumerate(self._loop.sessions):
            content = s.content
            active_ms = getattr(content, "active_ms", None)
            if active_ms is None:
                continue
            if content.conversing:
                if active_ms <= latest:
                    conversing.append((active_ms, n, content))
            elif active_ms <= latest:
                one_sided.append((active_ms, n, content))
            else:
                young += 1
        found = one_sided
        # a proxied session has two slots
        if not one_sided and young * 2 * SHARE < self._loop.connections:
            found = conversing
        oldest = heapq.nsmallest(BATCH, found)
        self._idle.extend((active_ms, content) for active_ms, _, content in reversed(oldest))

    def may_log(self) -> bool:
        """Tell whether a lack of slots or descriptors may be logged: once a second."""
        now_ms = self._loop.now_ms
        if now_ms - self._logged_ms < 1000:
            return False
        self._logged_ms = now_ms
        return True
