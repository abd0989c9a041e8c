"""Bytes a second that all sessions of a key share, over all workers: a limiter of one direction.

It stands where the rate of a session alone would (event/pump.py Limiter): what is read is poured
into the bucket of the key, and nothing more is read while that is full.

1. A bucket may be overdrawn: by what was read at once, which sessions of several workers may do at
   the same moment. That is paid back: nobody reads before it has leaked. So in a time T no more
   passes than rate x T + burst + one read (64 KiB, and for UDP one datagram) of each worker.
2. A session that has to rest comes back when the bucket has room for a portion, not for a byte; a
   little later than others do by chance, so that no session is always the last.
3. In a dry run everything passes and is counted, and so is whenever something would have waited.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core.shm_buckets import UNIT

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.event.pump import Limiter
    from ngxstream.stream.limits import RateZone
    from ngxstream.stream.session import Session

    # hears of a zone in which something happened: DELAYED, REJECTED or DELAYED_DRY_RUN
    Tell = Callable[[RateZone, int], None]
    Both = tuple[Limiter | None, Limiter | None]
    # adds to the own limits of a session, from the client and from the server, those that it shares
    Limits = Callable[[Session, Limiter | None, Limiter | None], Both]

DELAYED: Final = 1
REJECTED: Final = 2
DELAYED_DRY_RUN: Final = 3
PORTION_MS: Final = 20  # what the rate gives in it is worth coming back for
CHANCE_MS: Final = 10
ALL: Final = 1 << 30


class SharedRate:
    """The limit of one direction of a session by one zone."""

    __slots__ = (
        "_burst",  # bytes
        "_dry_run",
        "_is_over",  # bool: of a dry run
        "_key",
        "_left",  # bytes: what the last read has left
        "_left_ms",  # when that was, until it is asked for; -1 then
        "_loop",
        "_moved",  # bytes that are poured already
        "_tell",
        "_zone",
        "paused",
        "start_s",  # of no meaning here
    )

    def __init__(self, loop: Loop, zone: RateZone, key: bytes, burst: int, tell: Tell, *,
                 dry_run: bool) -> None:
        """Args: burst: bytes"""
        self._loop = loop
        self._zone = zone
        self._key = key
        self._burst = burst
        self._tell = tell
        self._dry_run = dry_run
        self._is_over = False
        self._left = 0
        self._left_ms = -1
        self._moved = 0
        self.paused = False
        self.start_s = 0

    def allowance(self, now_ms: int, moved: int) -> int:
        """Pour in what has moved since it was asked last, and return what may move now."""
        zone = self._zone
        fresh = moved - self._moved
        self._moved = moved
        if fresh <= 0 and now_ms == self._left_ms:  # hot: whoever has read asks whether to go on
            left = self._left
        else:
            left = self._pour(max(fresh, 0), now_ms)
        self._left_ms = -1
        if not self._dry_run:
            return left
        if (left <= 0) is not self._is_over:
            self._is_over = left <= 0
            if left <= 0:
                self._tell(zone, DELAYED_DRY_RUN)
        return ALL

    def _pour(self, count: int, now_ms: int) -> int:
        """Pour in bytes. Returns: what is left"""
        zone = self._zone
        self._loop.cells[zone.cells[0].at] += count
        level = zone.table.spend(self._key, count * UNIT, zone.rate, now_ms)
        return self._burst - level // UNIT

    def wait_ms(self, allowance: int) -> int:
        """Return how long to wait until a portion may move."""
        zone = self._zone
        self._tell(zone, DELAYED)
        portion = max(1, min(self._burst, zone.rate * PORTION_MS // 60_000))
        wait_ms = (portion - allowance) * 60_000 // zone.rate + 1
        return wait_ms + random.randrange(CHANCE_MS)

    def delay_ms(self, n: int) -> int:
        """Pour in what was just read. Returns: 0, whoever reads asks what is left"""
        self._moved += n
        self._left_ms = now_ms = self._loop.now_ms
        self._left = self._pour(n, now_ms)
        return 0

    def resume(self, moved: int) -> None:
        """Go on where so many bytes have been poured."""
        self._moved = moved

    def lose(self, count: int) -> None:
        """Count datagrams that found no room to wait."""
        self._loop.cells[self._zone.cells[REJECTED].at] += count
        self._tell(self._zone, REJECTED)


class Several:
    """Several limits of one direction: the narrowest of them holds."""

    __slots__ = ("_allowed", "_each", "paused")

    def __init__(self, each: Sequence[Limiter]) -> None:
        """Args: each: the session's own rate, if it has one, is the first"""
        self._each = each
        self._allowed: list[int] = []
        self.paused = False

    @property
    def start_s(self) -> int:
        """When the session's own rate began to count."""
        return self._each[0].start_s

    @start_s.setter
    def start_s(self, start_s: int) -> None:
        self._each[0].start_s = start_s

    def allowance(self, now_ms: int, moved: int) -> int:
        """Return what all of them allow."""
        self._allowed = [one.allowance(now_ms, moved) for one in self._each]
        return min(self._allowed)

    def wait_ms(self, allowance: int) -> int:
        """Return how long to wait for all of them."""
        pairs = zip(self._each, self._allowed, strict=True)
        return max((one.wait_ms(allowed) for one, allowed in pairs if allowed <= 0), default=1)

    def delay_ms(self, n: int) -> int:
        """Note what was read. Returns: how long to rest"""
        return max([one.delay_ms(n) for one in self._each])

    def resume(self, moved: int) -> None:
        """Go on where so many bytes have moved."""
        for one in self._each:
            one.resume(moved)

    def lose(self, count: int) -> None:
        """Count datagrams that found no room to wait."""
        for one in self._each:
            one.lose(count)


def joined(each: Sequence[Limiter]) -> Limiter | None:
    """Return one limiter for several, None for none."""
    return Several(each) if len(each) > 1 else each[0] if each else None
