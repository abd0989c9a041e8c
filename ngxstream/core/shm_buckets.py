"""Leaky buckets by key, in memory that all processes share: how much of something a key has had.

Answers for the arithmetic of ngx_http_limit_req_module.c, whose `excess` is the level of a bucket;
its tree and queue of keys are a table of sets here, as in a CPU's cache.

A bucket is filled by what comes and leaks at a rate. Levels are thousandths of a unit (a session,
a datagram, a byte), rates are units a minute: N of them are N / 60 thousandths a millisecond.

1. A key is known by its hash of 64 bits alone, with Python's secret in it: nobody outside can make
   two keys that share a bucket. Every process is a fork of one, so all hash alike.
2. The hash names a set of WAYS places. Where none is free the bucket that was used longest ago is
   forgotten: its key begins anew, empty. So memory is bounded, and a key pays for its own past
   only.
3. All is read and written under the zone's lock, which the kernel takes from the dead. A process
   that dies within leaves one bucket somewhat too full or too empty, nothing else.
4. What another user's process may have written there is checked: it is a wrong level, no fault.
5. A level is kept in 60ths of a thousandth, so that what leaks in a millisecond is a whole number
   of them, and nothing is lost by asking often.
6. The time of a bucket never goes back. A process has the time at which its turn began, and the
   turn of a busy one may have begun before others poured: what leaked until then must not leak
   again. Source: ngx_http_limit_req_lookup, which keeps `last` for such a one

Row of a bucket, in words: hash, level, when that was so (ms), 1 once it is used.
"""

from __future__ import annotations

from fcntl import LOCK_EX, LOCK_UN, lockf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ngxstream.core.shm import Zone

UNIT: Final = 1000  # of a level
WAYS: Final = 8
WORDS: Final = 4
ROW: Final = WORDS * 8  # bytes
MOST: Final = 1 << 50  # of a level
REFUSED: Final = -1
_SET: Final = WAYS * WORDS
_PART: Final = 60  # of them is a thousandth
_AHEAD_MS: Final = 60_000  # a time that is further ahead is no time. Source: as (6)
_LOOKED_AT: Final = 1 << 15  # rows that are looked at for an estimate: some 0.5 ms


class BucketTable:
    """The buckets of one zone. Times are loop ms, the same for all processes."""

    __slots__ = ("_mask", "_words", "capacity", "zone")

    def __init__(self, zone: Zone) -> None:
        """Make an empty one as large as the zone. Raises: OSError. In the master"""
        self.zone = zone
        sets = 1 << max(0, (zone.size // (ROW * WAYS)).bit_length() - 1)
        self.capacity = sets * WAYS
        self._mask = sets - 1
        self._words: memoryview[int] = zone.ints(sets * _SET)

    def pour(self, key: bytes, cost: int, rate: int, most: int, now_ms: int) -> int:
        """Pour into a key's bucket what comes now, unless that would be too much.

        Args: cost, most: in thousandths; most: the level up to which it is let pass; rate: units
        that leak in a minute
        Returns: the level afterwards, or REFUSED, and then nothing was poured
        Source: ngx_http_limit_req_lookup
        """
        fd = self.zone.lock.fd
        lockf(fd, LOCK_EX, 1)  # hot: what `with zone.lock` does, without two calls
        try:
            at = self._find(hash(key), now_ms)
            level = self._leak(at, rate, now_ms) + cost * _PART
            if level > most * _PART:
                return REFUSED
            self._words[at + 1] = level
            return -(-level // _PART)
        finally:
            lockf(fd, LOCK_UN, 1)

    def pour_some(self, key: bytes, count: int, rate: int, most: int, now_ms: int) -> int:
        """Pour in as many units of `count` as there is room for. Returns: how many. Args: as pour()

        # hot: once a client and turn, for all that it has sent
        """
        fd = self.zone.lock.fd
        lockf(fd, LOCK_EX, 1)
        try:
            at = self._find(hash(key), now_ms)
            level = self._leak(at, rate, now_ms)
            count = min(count, max(0, most * _PART - level) // (UNIT * _PART))
            if count:
                self._words[at + 1] = level + count * (UNIT * _PART)
            return count
        finally:
            lockf(fd, LOCK_UN, 1)

    def spend(self, key: bytes, cost: int, rate: int, now_ms: int) -> int:
        """Pour in what has come already, however much that is. Returns: the level. Args: as pour()

        A cost of 0 tells the level, a negative one takes back.
        """
        fd = self.zone.lock.fd
        lockf(fd, LOCK_EX, 1)
        try:
            at = self._find(hash(key), now_ms)
            level = min(max(self._leak(at, rate, now_ms) + cost * _PART, 0), MOST * _PART)
            self._words[at + 1] = level
            return -(-level // _PART)
        finally:
            lockf(fd, LOCK_UN, 1)

    def raise_to(self, key: bytes, level: int, rate: int, now_ms: int) -> None:
        """See that a bucket has at least this level, which others know of. Args: as pour()"""
        with self.zone.lock:
            at = self._find(hash(key), now_ms)
            if self._leak(at, rate, now_ms) < level * _PART:
                self._words[at + 1] = min(level, MOST) * _PART

    def level(self, key: bytes, rate: int, now_ms: int) -> int:
        """Return the level of a key's bucket; nothing changes."""
        with self.zone.lock:
            tag = hash(key)
            start = (tag & self._mask) * _SET
            for at in range(start, start + _SET, WORDS):
                if self._words[at] == tag and self._words[at + 3] == 1:
                    return -(-self._level(at, rate, now_ms) // _PART)
        return 0

    @property
    def used(self) -> int:
        """How many buckets there are: of keys that have come, whether or not they leaked empty.

        Of a large table it is an estimate by its first rows: hashes are anywhere alike.
        """
        rows = min(self.capacity, _LOOKED_AT)
        return self._words[3 : rows * WORDS : WORDS].tolist().count(1) * (self.capacity // rows)

    # -- under the lock ------------------------------------------------------------------------

    def _find(self, tag: int, now_ms: int) -> int:
        """Return the place of a hash's bucket, which is made empty if it has none.

        What is no bucket, or one of a time to come, gives way first: else it would for ever take a
        place from keys that come.
        """
        words = self._words
        start = (tag & self._mask) * _SET
        row = words[start : start + _SET].tolist()
        for at in range(0, _SET, WORDS):  # hot
            if row[at] == tag and row[at + 3] == 1:
                return start + at
        latest = now_ms + _AHEAD_MS
        oldest = min(
            range(0, _SET, WORDS),
            key=lambda at: (row[at + 3] == 1 and row[at + 2] <= latest, row[at + 2]),
        )
        at = start + oldest
        words[at + 1] = 0
        words[at + 2] = 0
        words[at] = tag
        words[at + 3] = 1
        return at

    def _leak(self, at: int, rate: int, now_ms: int) -> int:
        """Have a bucket leak up to now. Returns: the level, in parts

        # hot: what _level() does, without the call
        """
        words = self._words
        elapsed = now_ms - words[at + 2]
        level = words[at + 1]
        if elapsed > 0:
            level -= rate * elapsed
        if not 0 < level <= MOST * _PART:
            level = 0
        words[at + 1] = level
        if not -_AHEAD_MS <= elapsed <= 0:
            words[at + 2] = now_ms
        return level

    def _level(self, at: int, rate: int, now_ms: int) -> int:
        """Return what a bucket has not leaked yet, in parts."""
        level = self._words[at + 1] - rate * max(0, now_ms - self._words[at + 2])
        return level if 0 < level <= MOST * _PART else 0
