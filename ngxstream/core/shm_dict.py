"""A dictionary in memory that all workers share, whose values change by what they were.

A KeyvalStore (shm_keyval.py) with one operation more, of which all others are made: exchange()
looks at the value of a key and puts another one in its place, and nobody sees it in between.

Where it evicts, a full zone gives up pairs for new ones: of some that it comes upon the one that
would expire first, again and again. Which are lost is a matter of chance, the newest rarely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ngxstream.core.shm_keyval import NEVER_MS, FullError, KeyvalStore

if TYPE_CHECKING:
    from ngxstream.core.keyval_keys import Keys
    from ngxstream.core.shm import Zone

LOOKED_AT: Final = 8  # pairs of which one is given up
MOST_EVICTED: Final = 256  # for one new pair

# decide(value or None, when it expires) returns what takes its place: (value, when it expires),
# (None, 0) to have the pair removed, or None to leave it as it is
Decide = Callable[[bytes | None, int], tuple[bytes | None, int] | None]


class DictStore(KeyvalStore):
    """The pairs of one zone. Times are in loop ms, as those of a KeyvalStore."""

    __slots__ = ("evicts",)

    def __init__(self, zone: Zone, keys: Keys, evicts: bool) -> None:
        """Make an empty one. Args: evicts: give up pairs where there is no room. Raises: OSError"""
        super().__init__(zone, keys)
        self.evicts = evicts

    def exchange(self, key: bytes, decide: Decide, now_ms: int) -> None:
        """Have the value of a key replaced by what decide() makes of it.

        decide() is called under the zone's lock: it is quick and waits for nothing.
        Raises: FullError, BusyError, shm.DAMAGE, and what decide() raises; nothing has changed then
        """
        with self.zone.lock.soon():
            self._recover()
            words = self.words
            _, row = self._find(key)
            is_live = row != 0 and words[row + 2] > now_ms
            value = self._read(row)[1] if is_live else None
            wanted = decide(value, words[row + 2] if is_live else NEVER_MS)
            if wanted is None:
                return
            new, expires_ms = wanted
            if new is None:
                if row:
                    where, row = self._find(key)
                    self._remove(where, row, self._changed())
                return
            self._put(key, new, expires_ms, now_ms)

    def _put(self, key: bytes, value: bytes, expires_ms: int, now_ms: int) -> None:
        blocks = self.blocks_of(len(key) + len(value))
        self._tidy(now_ms)
        where, row = self._find(key)
        if row and self._may_replace(blocks):
            self._replace(where, row, key, value, expires_ms)
            return
        if not row or self.evicts:
            self._make_room(blocks, now_ms)
            where, row = self._find(key)  # it may have been given up itself
        if row:
            self._replace(where, row, key, value, expires_ms)
        else:
            self._enter(key, value, expires_ms, blocks)

    def _make_room(self, blocks: int, now_ms: int) -> None:
        """See that so many blocks are free, at the cost of other pairs. Raises: FullError"""
        try:
            super()._make_room(blocks, now_ms)
        except FullError:
            if not self.evicts or blocks > self.capacity // 2:
                raise
            self._evict(blocks)

    def _evict(self, blocks: int) -> None:
        for _ in range(MOST_EVICTED):
            if blocks <= self._room():
                return
            where, row = self._oldest(LOOKED_AT)
            if not row:
                break
            self._remove(where, row, self._changed())
        if blocks > self._room():
            raise FullError
