"""Rows of 64-bit cells, one row for each process of a master: the memory behind facts.py.

1. A process writes its own row alone and takes no lock: counting is one aligned store of 8 bytes,
   which no death cuts in half. No cell of a row is ever below 0.
2. A total is what all rows say. Whoever reclaims the row of a dead process (Zone.reclaim) adds its
   counters to a base, a page at a time, and empties the page in the same transaction: the new base
   is written down in full before it holds, and whoever finds it written completes it. What a dead
   process said of gauges goes with its row.
3. The master gives numbers to cells before it forks, to single ones and to blocks of many. A number
   is kept while a configuration has it, so its cells count on over a reload; used again, their base
   begins at minus what the rows say.
4. The first cells are nobody's: who has no cell counts there and need not be told apart.
5. Rows and base are much longer than a machine has memory, and sparse: what was never counted in
   takes none.

All workers map all rows, and may be of different users. A hostile one can falsify any of these
numbers, and fill a counter to its end, so that sessions that count in it fail. Nothing is decided
by them; what a dead process is said to have counted is folded in bounded time.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import sys
from collections.abc import Hashable
from typing import Final
from weakref import WeakValueDictionary

from ngxstream.core import errors, shm, shm_counts, shm_ledger
from ngxstream.core.shm_ledger import GROUP as PIECE  # words that are folded at once: a page

CHUNK: Final = 1 << (29 if sys.maxsize > 1 << 32 else 24)  # bytes of a row, of address space
CELLS: Final = CHUNK // shm_ledger.WORD - 2
NOBODY: Final = 256  # cells at the beginning: the widest row of a block
SINGLES: Final = min(1 << 20, CELLS // 2)  # from here on there are blocks
PATIENCE_S: Final = 0.01  # how long a reader is kept from a total by who folds
_BASE: Final = 16  # the first word behind the log of shm_counts
_GAUGE: Final = -1 << 63  # in place of a base
_LEAST: Final = -1 << 62  # no base of a counter is less


class Number:
    """The number of a cell, or of the first of a block, for as long as somebody keeps this."""

    __slots__ = ("__weakref__", "_free", "at")

    def __init__(self, at: int, free: list[int]) -> None:
        self.at = at
        self._free = free

    def __del__(self) -> None:
        if self.at:
            self._free.append(self.at)


class Rows(shm_counts.Counts):
    """The rows of all processes of one master."""

    __slots__ = ("_end", "_folding", "_free", "_numbers", "size")

    def __init__(self) -> None:
        """Make it without rows; for the master, before it forks. Raises: OSError"""
        super().__init__(shm.Zone("facts", 0, "facts", CHUNK), CELLS)
        self.zone.fold = self.fold
        # how many words of a new base hold, 0 for none; their page in the ledgers; their first cell
        self._folding = self.zone.ints(3 + PIECE)
        self.size = NOBODY  # single cells that were ever used, nobody's among them
        self._end = SINGLES  # likewise of blocks
        self._free: dict[tuple[bool, int], list[int]] = {}  # by whether they are gauges, and count
        self._numbers: WeakValueDictionary[Hashable, Number] = WeakValueDictionary()

    def allot(self, size: int) -> mmap.mmap:
        """Return so many bytes for the base. Raises: OSError"""
        return self.zone.sparse(size)

    # -- numbers -------------------------------------------------------------------------------

    def number(self, key: Hashable, count: int = 0, *, is_gauge: bool = False) -> Number:
        """Return the number of what a key stands for; 0 when there are no more.

        Args: count: of a block, how many cells: another count is another block
        """
        found = self._numbers.get((key, count))
        if found is None:
            free = self._free.setdefault((is_gauge, count), [])
            found = Number(self._take(free, count, is_gauge), free)
            self._numbers[key, count] = found
        return found

    def _take(self, free: list[int], count: int, is_gauge: bool) -> int:
        if free:
            try:
                if not is_gauge:
                    self.reset(free[-1], count or 1)
            except shm.DAMAGE:
                pass
            else:
                return free.pop()
        if count:
            at = self._end
            if at + count > CELLS:
                return 0
            self._end += count
        else:
            at = self.size
            if at == SINGLES:
                return 0
            self.size += 1
        if is_gauge:
            for n in range(_BASE + at, _BASE + at + (count or 1)):
                self.words[n] = _GAUGE
        return at

    @property
    def cells(self) -> memoryview[int]:
        """The row of this process, to count in by number. Raises: OSError where it can have none"""
        row = self.zone.ledger.row
        row[0] = self._end
        return row[1:]

    # -- totals --------------------------------------------------------------------------------

    def totals(self, first: int = 0, count: int = 0) -> list[int]:
        """Return what all processes have counted, in so many cells from one on, or in all single.

        # hot: rows are added up as one long integer each, 64 bits a cell: a fourth of the time
        that it takes to add cell by cell. Nothing is carried from cell to cell: none is below 0
        """
        count = count or self.size - first
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(*shm.DAMAGE):  # else it is read while it may change
                stack.enter_context(self.zone.lock.soon(patience_s=PATIENCE_S))
                self.recover()
            total = self._sum(first, count)
            base = self.words[_BASE + first : _BASE + first + count].tobytes()
        if base == bytes(8 * count):
            return _cells(total, count)
        signs = _signs(count)
        total += int.from_bytes(base, sys.byteorder) ^ signs  # base + 2 ** 63: not below 0 either
        return [n if n >= _LEAST else n - _GAUGE for n in _cells(total ^ signs, count)]

    def _sum(self, first: int, count: int) -> int:
        """Add up what the rows say."""
        total = 0
        for row in self.zone.ledgers.words(first + 1, count):
            total += int.from_bytes(row, sys.byteorder)
        return total

    def of_processes(self) -> dict[int, memoryview[int]]:
        """Return the single cells of each process as they are now, by pid, then by number."""
        rows = self.zone.ledgers.words_of_all(1, self.size)
        return {pid: memoryview(row).cast("q") for pid, row in rows}

    def reset(self, first: int, count: int) -> None:
        """Have counters begin at 0 again, whatever the rows say. Raises: one of shm.DAMAGE"""
        with self.zone.lock.soon():
            self.recover()
            signs = _signs(count)
            base = _bytes((signs - self._sum(first, count)) ^ signs, count)
            at = _BASE + first
            if base != self.words[at : at + count].tobytes():
                self.words[at : at + count] = memoryview(base).cast("q")

    # -- folding -------------------------------------------------------------------------------

    def fold(self, address: int, words: memoryview[int]) -> None:
        """Add a page of what a dead process counted to the base, and empty it. Under the lock."""
        self.recover()
        first = self.zone.ledgers.index_of(address) - 1
        count = len(words)
        base = self.words[_BASE + first : _BASE + first + count].tolist()
        found = [
            old if old == _GAUGE or word < 0 else old + word
            for old, word in zip(base, words, strict=True)
        ]
        folding = self._folding
        folding[3 : 3 + count] = memoryview(array.array("q", found))
        folding[1] = address
        folding[2] = first
        folding[0] = count
        self.recover()

    def recover(self) -> None:
        """Complete what a process that died has begun to fold. Under the lock."""
        folding = self._folding
        count = folding[0]
        if not count:
            return
        address, first = folding[1:3]
        if not 0 < count <= PIECE or not 0 <= first <= CELLS - count:
            raise errors.InternalError("no log")
        self.words[_BASE + first : _BASE + first + count] = folding[3 : 3 + count]
        self.zone.ledgers.clear(address, count)
        folding[0] = 0


def _signs(count: int) -> int:
    """Return the highest bit of each of so many cells."""
    return int.from_bytes((1 << 63).to_bytes(8, sys.byteorder) * count, sys.byteorder)


def _bytes(total: int, count: int) -> bytes:
    """Return the cells of a long integer as bytes; what a hostile row has spilled is cut off."""
    return (total & ((1 << 64 * count) - 1)).to_bytes(8 * count, sys.byteorder)


def _cells(total: int, count: int) -> list[int]:
    return memoryview(_bytes(total, count)).cast("q").tolist()
