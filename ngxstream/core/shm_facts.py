"""Rows of 64-bit cells, one row for each process of a master: the memory behind facts.py.

1. A process writes its own row alone and takes no lock: counting is one aligned store of 8 bytes,
   which no death cuts in half.
2. A total is what all rows say. Whoever reclaims the row of a dead process (Zone.reclaim) adds its
   counters to a base, and empties each cell in the same transaction (shm_counts.py); what it said
   of gauges goes with the row.
3. The master gives numbers to cells before it forks. A number is kept while a configuration has it,
   so its cell counts on over a reload; used again, its base begins at minus what the rows say.
4. Cell 0 is nobody's: who has no cell counts there and need not be told apart.

All workers map all rows, and may be of different users. A hostile one can falsify any of these
numbers, and fill a counter to its end, so that sessions that count in it fail. Nothing is decided
by them; what a dead process is said to have counted is folded in bounded time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable
from typing import Final
from weakref import WeakValueDictionary

from ngxstream.core import shm, shm_counts, shm_ledger

CELLS: Final = shm_ledger.ENTRIES - 1
PATIENCE_S: Final = 0.01  # how long a reader is kept from a total by who folds
_BASE: Final = 16  # the first word behind the log of shm_counts
_GAUGE: Final = -1 << 63  # in place of a base


class Number:
    """The number of a cell, for as long as somebody keeps this."""

    __slots__ = ("__weakref__", "_free", "at")

    def __init__(self, at: int, free: list[int]) -> None:
        self.at = at
        self._free = free

    def __del__(self) -> None:
        if self.at:
            self._free.append(self.at)


class Rows(shm_counts.Counts):
    """The rows of all processes of one master."""

    __slots__ = ("_free", "_numbers", "size")

    def __init__(self) -> None:
        """Make it without rows; for the master, before it forks. Raises: OSError"""
        super().__init__(shm.Zone("facts", 0, "facts"), CELLS)
        self.size = 1  # cells that were ever used, 0 among them
        self._free: dict[bool, list[int]] = {False: [], True: []}  # of counters, of gauges
        self._numbers: WeakValueDictionary[Hashable, Number] = WeakValueDictionary()

    def number(self, key: Hashable, *, is_gauge: bool = False) -> Number:
        """Return the number of what a key stands for; 0 when there are no more."""
        found = self._numbers.get(key)
        if found is None:
            free = self._free[is_gauge]
            found = self._numbers[key] = Number(self._take(free, is_gauge), free)
        return found

    def _take(self, free: list[int], is_gauge: bool) -> int:
        if free:
            at = free.pop()
            try:
                with self.zone.lock.soon():
                    if not is_gauge:
                        self.recover()
                        rows = self.zone.ledgers.words(at + 1)
                        self.words[_BASE + at] = -sum(row[0] for row in rows)
                    return at
            except shm.DAMAGE:
                free.append(at)
        if self.size == CELLS:
            return 0
        at = self.size
        self.size += 1
        if is_gauge:
            self.words[_BASE + at] = _GAUGE
        return at

    @property
    def cells(self) -> memoryview[int]:
        """The row of this process, to count in by number. Raises: OSError where it can have none"""
        row = self.zone.ledger.row
        row[0] = self.size
        return row[1:]

    def totals(self, first: int = 0, count: int = 0) -> list[int]:
        """Return what all processes have counted, in so many cells from one on, or in all."""
        count = count or self.size - first
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(*shm.DAMAGE):  # else it is read while it may change
                stack.enter_context(self.zone.lock.soon(patience_s=PATIENCE_S))
                self.recover()
            rows = list(self.zone.ledgers.words(first + 1, count))
            bases = self.words[_BASE + first : _BASE + first + count].tolist()
        return [
            sum(cells) + (base if base != _GAUGE else 0)
            for base, *cells in zip(bases, *rows, strict=True)
        ]

    def give_back(self, address: int, word: int) -> None:
        """Add what a dead process counted in a cell to the base. Under the lock."""
        self.recover()
        at = _BASE + shm_ledger.index_of(address) - 1
        if self.words[at] == _GAUGE:
            return
        total = self.words[at] + word
        self.words[1] = at
        self.words[2] = total
        self.words[3] = -address
        self.words[4] = 0
        self.words[0] = 2
        self.recover()
