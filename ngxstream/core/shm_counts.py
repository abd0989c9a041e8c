"""Counts of what is in use now, by all processes together: sessions of a key, sessions on a server.

Each change is two or more stores: the total, the ledger of who counts (shm_ledger.py), the links of
a chain. A worker that is killed between them must leave nothing behind, so each change is a short
transaction, in the way databases do it (a redo log):

1. All changes are made under the zone's lock, which the kernel takes from the dead.
2. What will be stored is written to the log first, then one store says how much of it holds, then
   it is done, then one store says that nothing is to be done any more. Who finds the log not empty
   does it again: the values are absolute, so twice is once.
3. What a dead process held is subtracted, entry by entry, each in a transaction of its own that
   also empties the entry. Whoever does that may die too: somebody goes on where it stopped.

An entry of a ledger is one word: place << 32 | count. A place is the number of the part of the zone
(one of four) and a row of it.
"""

from __future__ import annotations

import hashlib
import mmap
from fcntl import LOCK_EX, LOCK_UN, lockf
from typing import TYPE_CHECKING, Final, Literal

from ngxstream.core import errors

if TYPE_CHECKING:
    from ngxstream.core.shm import Zone
    from ngxstream.core.shm_ledger import Entry

_ROW_BITS: Final = 28
MOST_ROWS: Final = 1 << _ROW_BITS  # of 64 bytes: a zone of 16 GB
_ROW_MASK: Final = MOST_ROWS - 1
_COUNT_MASK: Final = 0xFFFF_FFFF
PARTS: Final = 4

_LOG: Final = 9  # words at the beginning: how many pairs hold, then index and value of four
_DATA: Final = 16  # the first word that is not about the log

CHAIN: Final = range(1 << 12)  # steps along one; more is no chain, with as many heads as rows

UNIT: Final = 64  # bytes; what nginx's slab spends on a state with a short key
_WORDS: Final = UNIT // 8
INLINE: Final = UNIT - 24  # longest key that is kept as it is
MAX_KEY: Final = 255
_LOOKED_AT: Final = 1 << 15  # rows that are looked at for an estimate: some 0.2 ms


class Counts:
    """What both kinds of counts are built upon: memory with a log."""

    __slots__ = ("zone", "words", "_memory", "_part")

    def __init__(self, zone: Zone, words: int) -> None:
        """Take part in a zone. Raises: OSError where there is not so much memory."""
        self.zone = zone
        self._memory: mmap.mmap = self.allot((_DATA + words) * 8)
        self.words: memoryview[int] = memoryview(self._memory).cast("q")
        if len(zone.parts) == PARTS:
            raise errors.InternalError(f'zone "{zone.name}" has too many parts')
        self._part = len(zone.parts) << _ROW_BITS
        zone.parts.append(self)

    def allot(self, size: int) -> mmap.mmap:
        """Return so many bytes for totals. Raises: OSError"""
        return self.zone.memory(size)

    def recover(self) -> None:
        """Complete what a process that died has begun. Under the lock.

        A negative index is an address in the ledgers' file.
        """
        words = self.words
        if not 0 <= words[0] <= _LOG // 2:
            raise errors.InternalError("no log")
        for n in range(1, 2 * words[0], 2):
            if words[n] < 0:
                self.zone.ledgers.write(-words[n], words[n + 1])
            else:
                words[words[n]] = words[n + 1]
        words[0] = 0

    def give_back(self, address: int, word: int) -> None:
        """Subtract what an entry of a dead process's ledger says, and empty it. Under the lock."""
        raise NotImplementedError


class Tally(Counts):
    """Counts of things that are known by number, from 0 on."""

    __slots__ = ("rows",)

    def __init__(self, zone: Zone, rows: int) -> None:
        """Make so many rows; all totals are 0. Raises: OSError."""
        self.rows = min(rows, MOST_ROWS)
        super().__init__(zone, self.rows)

    def add(self, row: int, amount: int = 1) -> None:
        """Count for this process; a negative amount gives back, but never more than it has."""
        fd = self.zone.lock.fd
        lockf(fd, LOCK_EX, 1)  # hot: what `with zone.lock` does, without two calls
        try:
            self.add_locked(row, amount)
        finally:
            lockf(fd, LOCK_UN, 1)

    def add_locked(self, row: int, amount: int) -> None:
        """Do the same where the zone's lock is held."""
        words = self.words
        if words[0]:
            self.recover()
        ledger = self.zone.ledger
        place = self._part | row
        entry = ledger.places.get(place)
        if entry is None:
            entry = ledger.places[place] = ledger.take()
        view, at, address, _ = entry
        own = (view[at] & _COUNT_MASK) + amount
        if own < 0:
            amount -= own
            own = 0
        word = place << 32 | own if own else 0
        total = words[_DATA + row] + amount
        words[1] = _DATA + row
        words[2] = total
        words[3] = -address
        words[4] = word
        words[0] = 2
        words[_DATA + row] = total
        view[at] = word
        words[0] = 0

    def total(self, row: int) -> int:
        """Return the sum over all processes."""
        return self.words[_DATA + row]

    def totals(self, first: int, end: int) -> memoryview[int]:
        """Return the sums of some rows, as they will be whenever that is read."""
        return self.words[_DATA + first : _DATA + end]

    def give_back(self, address: int, word: int) -> None:
        """Subtract an entry. Under the lock."""
        words = self.words
        if words[0]:
            self.recover()
        at = _DATA + (word >> 32 & _ROW_MASK)
        total = words[at] - (word & _COUNT_MASK)
        words[1] = at
        words[2] = total
        words[3] = -address
        words[4] = 0
        words[0] = 2
        self.recover()


class KeyTable(Counts):
    """Counts of things that are known by a key, as many as the zone's size allows.

    A row is 64 bytes, whoever and however many count in it:
      word 0   the next row of its chain, 0 for none
      word 1   count << 8 | length of the key; 0 while the row is free
      word 2   the head of its chain << 32 | the next free row, which holds while the row is free
      then     the key, or a digest of one that is longer
    Heads and rows are known by the index of their first word, so a head is as good as a row whose
    link is to be changed. Words of a row that only hold while it is free, or only while it is used,
    are written before the transaction that makes it the other.

    nginx's slab has 64 bytes for a key of up to 28, and 512 for one of 255: never more rows.
    """

    __slots__ = ("capacity", "_mask", "_end")

    _FREE: Final = _LOG  # the first row that was used before, 0 for none
    _FRESH: Final = _LOG + 1  # the first row that was not

    def __init__(self, zone: Zone, capacity: int = 0) -> None:
        """Make a table of so many keys, or as many as the zone's size allows. Raises: OSError."""
        # the slab keeps 24 bytes about each page, and a page for itself and what is about the tree
        page = mmap.PAGESIZE
        fit = max(1, (zone.size // (page + 24) - 1) * (page // UNIT))
        self.capacity = min(capacity or fit, MOST_ROWS)
        heads = max(_WORDS, 1 << self.capacity.bit_length())
        super().__init__(zone, heads + self.capacity * _WORDS)
        self._mask = heads - 1
        self.words[self._FRESH] = _DATA + heads
        self._end = _DATA + heads + self.capacity * _WORDS

    def acquire(self, key: bytes, limit: int) -> Entry | Literal[False] | None:
        """Count one more of a key unless it stands at the limit already.

        Args: key: 1 to 255 bytes; limit: how many there may be, in all processes
        Returns: what gives it back by release(); False at the limit, None when the zone is full
        Source: ngx_stream_limit_conn_module.c ngx_stream_limit_conn_handler
        """
        length = len(key)
        kept = key if length <= INLINE else hashlib.blake2b(key, digest_size=INLINE).digest()
        size = len(kept)
        head = _DATA + (hash(kept) & self._mask)  # every process is a fork of one: all hash alike
        zone = self.zone
        words = self.words
        memory = self._memory
        fd = zone.lock.fd
        lockf(fd, LOCK_EX, 1)  # hot: what `with zone.lock` does, without two calls
        try:
            if words[0]:
                self.recover()
            row = words[head]
            for _ in CHAIN:
                if not row:
                    count = 0
                    break
                count = words[row + 1]
                if count & 0xFF == length:
                    at = row * 8 + 24
                    if memory[at : at + size] == kept:
                        break
                row = words[row]
            else:
                raise errors.InternalError("a chain has no end")
            if count >> 8 >= limit:
                return False
            if not row:
                row = words[self._FREE] or words[self._FRESH]
                if row >= self._end:
                    return None
            try:
                entry = zone.ledger.take()
            except OSError:
                return None
            view, place, address, _ = entry
            word = (self._part | (row - _DATA) // _WORDS) << 32 | 1
            words[1] = -address
            words[2] = word
            words[3] = row + 1
            if count:
                words[4] = count = count + 256
                words[0] = 2
                words[row + 1] = count
                view[place] = word
                words[0] = 0
                return entry
            words[4] = count = 256 | length
            words[5] = head
            words[6] = row
            following = words[row + 2] & _COUNT_MASK  # 0 in a row that was never used
            words[row] = words[head]
            words[row + 2] = head << 32 | following
            at = row * 8 + 24
            memory[at : at + size] = kept
            if words[self._FREE]:
                words[7] = self._FREE
                words[8] = following
                words[0] = 4
                words[self._FREE] = following
            else:
                words[7] = self._FRESH
                words[8] = row + _WORDS
                words[0] = 4
                words[self._FRESH] = row + _WORDS
            words[head] = row
            words[row + 1] = count
            view[place] = word
            words[0] = 0
            return entry
        finally:
            lockf(fd, LOCK_UN, 1)

    def release(self, entry: Entry) -> None:
        """Give back what acquire() returned, once."""
        view, place, address, free = entry
        words = self.words
        fd = self.zone.lock.fd
        lockf(fd, LOCK_EX, 1)  # hot: as above
        try:
            if words[0]:
                self.recover()
            word = view[place]
            if not word:
                return
            row = _DATA + (word >> 32 & _ROW_MASK) * _WORDS
            count = words[row + 1] - 256
            if count >= 256:
                words[1] = -address
                words[2] = 0
                words[3] = row + 1
                words[4] = count
                words[0] = 2
            else:
                self._prepare(address, word)
                words[words[5]] = words[6]
                words[words[7]] = words[8]
                count = 0
            words[row + 1] = count
            view[place] = 0
            words[0] = 0
        finally:
            lockf(fd, LOCK_UN, 1)
        free.append(entry)

    def give_back(self, address: int, word: int) -> None:
        """Subtract an entry. Under the lock."""
        if self.words[0]:
            self.recover()
        self._prepare(address, word)
        self.recover()

    def total(self, key: bytes) -> int:
        """Return how many there are of a key, in all processes. Raises: BusyError."""
        kept = key if len(key) <= INLINE else hashlib.blake2b(key, digest_size=INLINE).digest()
        words = self.words
        with self.zone.lock.soon():
            if words[0]:
                self.recover()
            row = words[_DATA + (hash(kept) & self._mask)]
            for _ in CHAIN:
                if not row:
                    return 0
                at = row * 8 + 24
                if words[row + 1] & 0xFF == len(key) and self._memory[at : at + len(kept)] == kept:
                    return words[row + 1] >> 8
                row = words[row]
        raise errors.InternalError("a chain has no end")

    def has_room(self) -> bool:
        """Tell whether another key would fit."""
        return bool(self.words[self._FREE]) or self.words[self._FRESH] < self._end

    @property
    def used(self) -> int:
        """How many keys there are; of a large table an estimate by some of its rows."""
        words, first = self.words, _DATA + self._mask + 1
        rows = (min(words[self._FRESH], self._end) - first) // _WORDS
        step = max(1, -(-rows // _LOOKED_AT))
        # the count of a row is 0 while it is free
        counts = words[first + 1 : first + rows * _WORDS : _WORDS * step].tolist() if rows else []
        return min((len(counts) - counts.count(0)) * step, rows)

    def __len__(self) -> int:
        with self.zone.lock:
            if self.words[0]:
                self.recover()
            fresh = self.words[self._FRESH]
            return sum(1 for row in range(_DATA + self._mask + 1, fresh, _WORDS)
                       if self.words[row + 1])

    def _prepare(self, address: int, word: int) -> None:
        """Log how to take from a row what an entry says, and it from its chain if that was all."""
        words = self.words
        row = _DATA + (word >> 32 & _ROW_MASK) * _WORDS
        count = words[row + 1]
        left = count - ((word & _COUNT_MASK) << 8)
        words[1] = -address
        words[2] = 0
        words[3] = row + 1
        if left >= 256:
            words[4] = left
            words[0] = 2
        else:
            link = words[row + 2] >> 32
            for _ in CHAIN:
                if words[link] == row:
                    break
                link = words[link]
            else:
                raise errors.InternalError("a key is lost")
            words[4] = 0
            words[5] = link
            words[6] = words[row]
            words[7] = self._FREE
            words[8] = row
            words[row + 2] = words[row + 2] >> 32 << 32 | words[self._FREE]
            words[0] = 4
