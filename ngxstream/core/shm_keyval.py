"""Key-value pairs in memory that all workers share, found by key, longest prefix or network.

What `keyval_zone` is kept in. The memory is bounded and cut into blocks of 64 bytes; a pair is a
chain of them, so that values of any length leave no gaps. A worker may die between any two
instructions:

1. All is read and written under the zone's lock, which the kernel takes from the dead.
2. A new pair, or a new value of one, is written into blocks that are free. Then one transaction
   by a redo log, as in shm_counts.py, puts it in its place and what was there among the free
   blocks. It stores absolute values, so whoever finds it unfinished does it again.
3. A block goes back to the list of free ones with its whole chain, by one link.
4. Emptying is one store: heads and numbers that were written in another epoch count as 0.

What has expired is not found any more. Each new pair looks at a few chains for such, so that what
is expired goes as fast as new pairs come; nothing sweeps meanwhile.

Rows (blocks) and heads are known by the index of their first word, so that a head is as good as a
row whose link is to be changed:
  word 0  the next block of the pair, or of the list of free ones; 0 for none
  word 1  first block of a pair: the next pair of its chain. Other blocks: payload from here on
  word 2  when it expires (loop ms), NEVER_MS if it does not
  word 3  length of the key << 32 | length of the value
  then    key and value
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from fcntl import LOCK_EX, LOCK_UN, lockf
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, keyval_keys

if TYPE_CHECKING:
    from ngxstream.core.keyval_keys import Keys
    from ngxstream.core.shm import Zone

NEVER_MS: Final = 1 << 62  # expires then: not at all
MAX_VALUE: Final = 65_535  # bytes

BLOCK: Final = 64
_WORDS: Final = BLOCK // 8
_FIRST: Final = BLOCK - 32  # bytes of payload in the first block of a pair
_FURTHER: Final = BLOCK - 8
_MOST: Final = 1 << 28  # blocks: 16 GB, and their indices fit 32 bits
_MASK: Final = 0xFFFF_FFFF
_EPOCHS: Final = 0x7FFF_FFFF

_LOG: Final = 12  # pairs of index and value a transaction may have; word 0 says how many hold
_EPOCH: Final = 25
_FREE: Final = 26  # the first block that was used before, 0 for none
_FRESH: Final = 27  # the first that was not
_COUNT: Final = 28  # pairs, expired ones too
_USED: Final = 29  # blocks
_VERSION: Final = 30  # one more with each change that the outside sees
_CLASSES: Final = 31  # one more with each change of which classes there are
_LAST: Final = 32  # no pair expires later
_EXPIRING: Final = 33  # 1: some pairs expire
_CURSOR: Final = 34  # the head that is looked at for expired pairs next
_SAVED: Final = 35  # the version that was written to a file
_HEADER: Final = 40

CHAIN: Final = range(1 << 12)  # pairs of one; more is no chain
RESERVE: Final = 16  # blocks that only changes of pairs may use: a full zone can be changed
SWEPT: Final = 16  # heads that a new pair looks at
SWEPT_IF_FULL: Final = 256  # some 4 ms, if all there is has expired
SLICE: Final = 512  # heads that are looked at while the lock is held
BATCH: Final = 64  # pairs that are returned by then

Pair = tuple[bytes, bytes, int]  # key, value, when it expires


class FullError(errors.NgxError):
    """the zone has no room"""


class KeyvalStore:
    """The pairs of one zone. Times are in loop ms: CLOCK_MONOTONIC, the same for all workers."""

    __slots__ = ("zone", "keys", "words", "capacity", "_memory", "_classes", "_heads", "_size",
                 "_start", "_end", "_ladder", "_ladder_of")

    def __init__(self, zone: Zone, keys: Keys) -> None:
        """Make an empty one as large as the zone; heads come on top. Raises: OSError.

        Args: zone: made by the master; keys: what a key is, and which ones fit a subject
        """
        self.zone = zone
        self.keys = keys
        self.capacity = min(zone.size // BLOCK, _MOST)
        self._size = 1 << max(3, (self.capacity // 2).bit_length())
        self._classes = _HEADER
        self._heads = _HEADER + -(-keys.classes // _WORDS) * _WORDS
        self._start = self._heads + self._size
        self._end = self._start + self.capacity * _WORDS
        self._memory: mmap.mmap = zone.memory(self._end * 8)
        self.words: memoryview[int] = memoryview(self._memory).cast("q")
        self.words[_FRESH] = self._start
        self._ladder: tuple[int, ...] = ()
        self._ladder_of = -1  # the number of _CLASSES that it was read at

    # -- looking up --------------------------------------------------------------------------------

    def find(self, subject: bytes, now_ms: int) -> bytes | None:
        """Return the value of the best key for a subject, None for none. Raises: shm.DAMAGE"""
        words = self.words
        if not words[_COUNT]:
            return None
        fd = self.zone.lock.fd
        lockf(fd, LOCK_EX, 1)  # hot: what `with zone.lock` does, without two calls
        try:
            if words[0]:
                self._recover()
            if self._ladder_of != words[_CLASSES]:
                self._read_ladder()
            for key in self.keys.candidates(subject, self._ladder):
                row = self._find(key)[1]
                if row and words[row + 2] > now_ms:
                    return self._read(row)[1]
            return None
        finally:
            lockf(fd, LOCK_UN, 1)

    def get(self, key: bytes, now_ms: int) -> bytes | None:
        """Return the value of exactly this key. Raises: BusyError, shm.DAMAGE"""
        with self.zone.lock.soon():
            self._recover()
            row = self._find(key)[1]
            return self._read(row)[1] if row and self.words[row + 2] > now_ms else None

    def pairs(self, now_ms: int) -> Iterator[Pair]:
        """Iterate over what has not expired, in no order; the lock is free meanwhile.

        A pair that is changed meanwhile comes as it was or as it is, one that is added or removed
        may come or not. Raises: BusyError, shm.DAMAGE
        """
        head = self._heads
        left = 4 * self.capacity  # blocks; who moves pairs about meanwhile may have some come twice
        while head < self._start and self.words[_COUNT]:
            with self.zone.lock.soon():
                head, batch, taken = self._batch(head, now_ms)
            left -= taken
            if left < 0:
                raise errors.InternalError("more pairs than there can be")
            yield from batch

    def is_empty(self, now_ms: int) -> bool:
        """Tell whether there is no pair, but for expired ones. Raises: BusyError, shm.DAMAGE"""
        words = self.words
        if not words[_COUNT] or words[_LAST] <= now_ms:
            return True
        return bool(words[_EXPIRING]) and next(self.pairs(now_ms), None) is None

    @property
    def free_bytes(self) -> int:
        """How many bytes new pairs may take."""
        return max(0, self._room()) * BLOCK

    @property
    def version(self) -> int:
        """A number that is another one after each change."""
        return self.words[_VERSION]

    @property
    def saved(self) -> int:
        """The version that is in the file."""
        return self.words[_SAVED]

    @saved.setter
    def saved(self, version: int) -> None:
        self.words[_SAVED] = version

    # -- changing ----------------------------------------------------------------------------------

    def add(self, key: bytes, value: bytes, expires_ms: int, now_ms: int) -> bool:
        """Enter a pair.

        Args: value: up to MAX_VALUE bytes; expires_ms: NEVER_MS for never
        Returns: False if the key is there. Raises: FullError, BusyError, shm.DAMAGE
        """
        words = self.words
        with self.zone.lock.soon():
            self._recover()
            self._tidy(now_ms)
            where, row = self._find(key)
            if row:
                if words[row + 2] > now_ms:
                    return False
                self._replace(where, row, key, value, expires_ms)
                return True
            blocks = self.blocks_of(len(key) + len(value))
            self._make_room(blocks, now_ms)
            self._enter(key, value, expires_ms, blocks)
            return True

    def change(self, key: bytes, value: bytes | None, expires_ms: int, now_ms: int) -> bool:
        """Give a key another value, or with None keep it, and another time.

        Returns: False if there is no such key. Raises: FullError, BusyError, shm.DAMAGE
        """
        with self.zone.lock.soon():
            self._recover()
            where, row = self._find(key)
            if not row or self.words[row + 2] <= now_ms:
                return False
            if value is None:
                self._mark(expires_ms)
                last = max(self.words[_LAST], expires_ms)
                self._commit([(row + 2, expires_ms), (_LAST, last), *self._changed()])
            else:
                self._replace(where, row, key, value, expires_ms)
            return True

    def remove(self, key: bytes, now_ms: int) -> bool:
        """Forget a pair. Returns: False if there is no such key. Raises: BusyError, shm.DAMAGE"""
        with self.zone.lock.soon():
            self._recover()
            where, row = self._find(key)
            if not row:
                return False
            found = self.words[row + 2] > now_ms
            self._remove(where, row, self._changed())
            return found

    def clear(self) -> None:
        """Forget all pairs. Raises: BusyError, shm.DAMAGE"""
        with self.zone.lock.soon():
            self._recover()
            self._clear()

    def has_room(self, blocks: int, now_ms: int) -> bool:
        """Tell whether more pairs fit. Args: blocks: what blocks_of() says of them together"""
        empty = self.words[_COUNT] == 0 or self.words[_LAST] <= now_ms
        room = self.capacity - RESERVE - (0 if empty else self.words[_USED])
        return blocks <= room

    # -- what is done under the lock ---------------------------------------------------------------

    def _recover(self) -> None:
        """Complete what a process that died has begun."""
        words = self.words
        if not words[0]:
            return
        if not 0 <= words[0] <= _LOG:
            raise errors.InternalError("no log")
        for n in range(1, 2 * words[0], 2):
            if not 0 < words[n] < self._end:
                raise errors.InternalError("no place")
            words[words[n]] = words[n + 1]
        words[0] = 0

    def _commit(self, stores: list[tuple[int, int]]) -> None:
        """Do up to _LOG stores as if they were one."""
        words = self.words
        n = 1
        for place, value in stores:
            words[n] = place
            words[n + 1] = value
            n += 2
        words[0] = n >> 1
        for place, value in stores:
            words[place] = value
        words[0] = 0

    def _check(self, row: int) -> None:
        """Refuse what is no row: who wrote it may have been of another user."""
        if not self._start <= row < self._end or (row - self._start) % _WORDS:
            raise errors.InternalError("no row")

    def _tagged(self, at: int) -> int:
        """Return a number of this epoch, 0 where it is of another."""
        word = self.words[at]
        return word & _MASK if word >> 32 == self.words[_EPOCH] else 0

    def _find(self, key: bytes) -> tuple[int, int]:
        """Return where the row of a key is linked from, and the row; 0 for none."""
        words, memory = self.words, self._memory
        start, end = self._start, self._end
        size = len(key)
        # every process is a fork of one: all hash alike
        where = self._heads + (hash(key) & self._size - 1)
        word = words[where]
        row = word & _MASK if word >> 32 == words[_EPOCH] else 0
        for _ in CHAIN:
            if not row:
                return where, 0
            if not start <= row < end or row - start & 7:
                raise errors.InternalError("no row")
            if words[row + 3] >> 32 == size:
                at = row * 8 + 32
                if size <= _FIRST:
                    if memory[at : at + size] == key:
                        return where, row
                elif self._read(row)[0] == key:
                    return where, row
            where = row + 1
            row = words[where]
        raise errors.InternalError("a chain has no end")

    def _read(self, row: int) -> tuple[bytes, bytes]:
        """Return key and value of a row."""
        words = self.words
        lengths = words[row + 3]
        size, rest = lengths >> 32, lengths & _MASK
        if not 0 < size <= keyval_keys.MAX_KEY or rest > MAX_VALUE:
            raise errors.InternalError("no pair")
        at = row * 8 + 32
        total = size + rest
        if total <= _FIRST:
            return self._memory[at : at + size], self._memory[at + size : at + total]
        data = bytearray(self._memory[at : at + _FIRST])
        while len(data) < total:
            row = words[row]
            self._check(row)
            data += self._memory[row * 8 + 8 : row * 8 + 8 + min(_FURTHER, total - len(data))]
        return bytes(data[:size]), bytes(data[size:])

    @staticmethod
    def blocks_of(size: int) -> int:
        """Return how many blocks a pair takes. Args: size: bytes of key and value together"""
        return 1 + max(0, -(-(size - _FIRST) // _FURTHER))

    def _changed(self) -> list[tuple[int, int]]:
        return [(_VERSION, self.words[_VERSION] + 1)]

    def _mark(self, expires_ms: int) -> None:
        """Note before it is so that some pairs expire."""
        if expires_ms < NEVER_MS:
            self.words[_EXPIRING] = 1

    def _write(self, key: bytes, value: bytes, expires_ms: int, following: int,
               blocks: int) -> tuple[int, int, list[tuple[int, int]]]:
        """Write a pair into free blocks.

        Returns: its row, what will be the first free block that was used before, and what to
        store so that the blocks are its own. Raises: FullError
        """
        words, memory = self.words, self._memory
        rows: list[int] = []
        free = words[_FREE]
        while free and len(rows) < blocks:
            self._check(free)
            rows.append(free)
            free = words[free]
        used_before = len(rows)
        fresh = words[_FRESH]
        if fresh != self._end:
            self._check(fresh)
        more = range(fresh, fresh + (blocks - used_before) * _WORDS, _WORDS)
        if fresh + len(more) * _WORDS > self._end:
            raise FullError
        for row in more:  # nothing leads to these
            words[row] = row + _WORDS
        if more:
            words[more[-1]] = 0
        rows += more
        row = rows[0]
        words[row + 1] = following
        words[row + 2] = expires_ms
        words[row + 3] = len(key) << 32 | len(value)
        data = key + value
        memory[row * 8 + 32 : row * 8 + 32 + min(len(data), _FIRST)] = data[:_FIRST]
        at = _FIRST
        for further in rows[1:]:
            piece = data[at : at + _FURTHER]
            memory[further * 8 + 8 : further * 8 + 8 + len(piece)] = piece
            at += _FURTHER
        self._mark(expires_ms)
        stores = [(_LAST, max(words[_LAST], expires_ms))]
        if used_before:  # the last of these leads to others that are free
            stores.append((rows[used_before - 1], more[0] if more else 0))
        if more:
            stores.append((_FRESH, more[-1] + _WORDS))
        return row, free, stores

    def _link(self, where: int, row: int) -> tuple[int, int]:
        """Return the store that links a head or a row to a row."""
        return where, row if where >= self._start else self.words[_EPOCH] << 32 | row

    def _classed(self, key: bytes, step: int) -> list[tuple[int, int]]:
        """Return the stores that count a key in its class."""
        at = self._classes + self.keys.class_of(key)
        count = max(0, self._tagged(at) + step)
        stores = [(at, self.words[_EPOCH] << 32 | count)]
        if count == (1 if step > 0 else 0):
            stores.append((_CLASSES, self.words[_CLASSES] + 1))
        return stores

    def _enter(self, key: bytes, value: bytes, expires_ms: int, blocks: int) -> None:
        words = self.words
        head = self._heads + (hash(key) & self._size - 1)
        row, free, stores = self._write(key, value, expires_ms, self._tagged(head), blocks)
        self._commit([
            *stores, (_FREE, free), self._link(head, row), *self._classed(key, 1),
            *self._changed(), (_COUNT, words[_COUNT] + 1), (_USED, words[_USED] + blocks),
        ])

    def _chain_of(self, row: int) -> tuple[int, int]:
        """Return the last block of a pair, and how many it has."""
        lengths = self.words[row + 3]
        blocks = self.blocks_of((lengths >> 32) + (lengths & _MASK))
        if not 0 < blocks <= self.blocks_of(keyval_keys.MAX_KEY + MAX_VALUE):
            raise errors.InternalError("no pair")
        for _ in range(blocks - 1):
            row = self.words[row]
            self._check(row)
        return row, blocks

    def _replace(self, where: int, row: int, key: bytes, value: bytes, expires_ms: int) -> None:
        words = self.words
        blocks = self.blocks_of(len(key) + len(value))
        if blocks > self.capacity - words[_USED]:
            raise FullError
        last, gone = self._chain_of(row)
        new, free, stores = self._write(key, value, expires_ms, words[row + 1], blocks)
        self._commit([
            *stores, (last, free), (_FREE, row), self._link(where, new), *self._changed(),
            (_USED, words[_USED] + blocks - gone),
        ])

    def _remove(self, where: int, row: int, stores: list[tuple[int, int]]) -> None:
        words = self.words
        last, blocks = self._chain_of(row)
        key = self._read(row)[0]
        self._commit([
            *stores, (last, words[_FREE]), (_FREE, row), self._link(where, words[row + 1]),
            *self._classed(key, -1), (_COUNT, words[_COUNT] - 1), (_USED, words[_USED] - blocks),
        ])

    def _clear(self) -> None:
        words = self.words
        self._commit([
            (_EPOCH, words[_EPOCH] + 1 & _EPOCHS), (_FREE, 0), (_FRESH, self._start), (_COUNT, 0),
            (_USED, 0), (_LAST, 0), (_EXPIRING, 0), (_CLASSES, words[_CLASSES] + 1),
            *self._changed(),
        ])

    def _tidy(self, now_ms: int) -> None:
        """Forget some of what has expired; all, if nothing else is there."""
        if self.words[_EXPIRING]:
            if self.words[_LAST] <= now_ms:
                self._clear()
            self._sweep(SWEPT, now_ms)

    def _room(self) -> int:
        """Return how many blocks are free for new pairs."""
        return self.capacity - self.words[_USED] - RESERVE

    def _may_replace(self, blocks: int) -> bool:
        """Tell whether there is room for another value of a pair, beside the one it has."""
        return blocks <= self.capacity - self.words[_USED]

    def _make_room(self, blocks: int, now_ms: int) -> None:
        """See that so many blocks are free. Raises: FullError"""
        if blocks > self._room() and self.words[_EXPIRING]:
            self._sweep(SWEPT_IF_FULL, now_ms)
        if blocks > self._room():
            raise FullError

    def _oldest(self, least: int) -> tuple[int, int]:
        """Return the pair that expires first of a few, and where it is linked from; 0 for none.

        Args: least: of so many pairs, those of some chains on from where the last look ended
        """
        words = self.words
        at = words[_CURSOR]
        found = (0, 0)
        seen = 0
        for _ in range(self._size):
            at = (at + 1) % self._size
            where = self._heads + at
            row = self._tagged(where)
            for _ in CHAIN:
                if not row:
                    break
                self._check(row)
                seen += 1
                if not found[1] or words[row + 2] < words[found[1] + 2]:
                    found = where, row
                where = row + 1
                row = words[where]
            else:
                raise errors.InternalError("a chain has no end")
            if seen >= least:
                break
        words[_CURSOR] = at
        return found

    def _sweep(self, heads: int, now_ms: int) -> None:
        """Forget what has expired in so many chains."""
        words = self.words
        at = words[_CURSOR]
        for _ in range(min(heads, self._size)):
            at = (at + 1) % self._size
            where = self._heads + at
            row = self._tagged(where)
            for _ in CHAIN:
                if not row:
                    break
                self._check(row)
                following = words[row + 1]
                if words[row + 2] <= now_ms:
                    self._remove(where, row, [])
                else:
                    where = row + 1
                row = following
            else:
                raise errors.InternalError("a chain has no end")
        words[_CURSOR] = at

    def _batch(self, head: int, now_ms: int) -> tuple[int, list[Pair], int]:
        """Return the pairs of some chains from a head on, the head of the next ones, and how many
        blocks these have.
        """
        self._recover()
        words = self.words
        epoch = words[_EPOCH]
        found: list[Pair] = []
        taken = 0
        stop = min(head + SLICE, self._start)
        for word in words[head:stop]:
            head += 1
            row = word & _MASK if word >> 32 == epoch else 0
            for _ in CHAIN:
                if not row:
                    break
                self._check(row)
                if words[row + 2] > now_ms:
                    key, value = self._read(row)
                    taken += self.blocks_of(len(key) + len(value))
                    if taken > self.capacity:
                        raise errors.InternalError("more pairs than there can be")
                    found.append((key, value, words[row + 2]))
                row = words[row + 1]
            else:
                raise errors.InternalError("a chain has no end")
            if len(found) >= BATCH:
                break
        return head, found, taken

    def _read_ladder(self) -> None:
        """Learn which classes of keys there are, the longest first."""
        words = self.words
        number, epoch = words[_CLASSES], words[_EPOCH]
        counts = words[self._classes : self._classes + self.keys.classes]
        self._ladder = tuple([
            n for n, word in enumerate(counts) if word >> 32 == epoch and word & _MASK
        ][::-1])
        self._ladder_of = number
