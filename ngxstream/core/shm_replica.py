"""A copy of pairs that are kept elsewhere, in memory that all workers of one host share.

A KeyvalStore (shm_keyval.py) with what who copies needs: put() enters what was read, whatever is
there; and a lease says which worker copies. A lease runs out by itself: that of a killed worker is
taken by another one. Workers of a later configuration take it from those of a former one.

The lease is in words that the header of a KeyvalStore leaves free.
"""

from __future__ import annotations

from typing import Final

from ngxstream.core.shm_keyval import KeyvalStore

_ENDS: Final = 36  # when the lease is over (loop ms)
_PID: Final = 37  # whose it is
_CONFIGURATION: Final = 38  # the number of the configuration that its holder serves
_NUMBER: Final = 39  # of configurations so far

LEASE_MS: Final = 3000
NEAR_MS: Final = 20  # two times of one pair that differ by no more are the same


class ReplicaStore(KeyvalStore):
    """The pairs of one zone. Times are in loop ms, as those of a KeyvalStore."""

    __slots__ = ()

    def number(self) -> int:
        """Return the number of one more configuration. In the master alone"""
        self.words[_NUMBER] += 1
        return self.words[_NUMBER]

    def lease(self, pid: int, configuration: int, now_ms: int) -> bool:
        """Take the lease, or extend it. Returns: whether the process has it. Raises: shm.DAMAGE"""
        words = self.words
        with self.zone.lock.soon():
            is_own = words[_PID] == pid and words[_CONFIGURATION] == configuration
            is_held = now_ms < words[_ENDS] <= now_ms + LEASE_MS  # more is what a stranger wrote
            is_later = words[_CONFIGURATION] < configuration
            if words[_CONFIGURATION] > configuration and is_held:
                return False
            if is_held and not is_own and not is_later:
                return False
            words[_ENDS] = now_ms + LEASE_MS
            words[_PID] = pid
            words[_CONFIGURATION] = configuration
            return True

    def release(self, pid: int) -> None:
        """Give the lease up, if the process has it. Raises: shm.DAMAGE"""
        words = self.words
        with self.zone.lock.soon():
            if words[_PID] == pid:
                words[_ENDS] = 0

    def put(self, key: bytes, value: bytes, expires_ms: int, now_ms: int) -> bool:
        """Enter a pair, or give the key another value and time.

        Returns: whether anything has changed. Raises: FullError, BusyError, shm.DAMAGE
        """
        words = self.words
        with self.zone.lock.soon():
            self._recover()
            self._tidy(now_ms)
            where, row = self._find(key)
            if not row:
                blocks = self.blocks_of(len(key) + len(value))
                self._make_room(blocks, now_ms)
                self._enter(key, value, expires_ms, blocks)
                return True
            if abs(words[row + 2] - expires_ms) <= NEAR_MS and self._read(row)[1] == value:
                return False
            self._replace(where, row, key, value, expires_ms)
            return True
