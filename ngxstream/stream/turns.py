"""Smooth weighted round robin that does not go over all members at each choice.

nginx adds to each member's current weight its weight, and takes the sum of all weights from the
one that is chosen (ngx_stream_upstream_get_peer). Those of one weight grow alike, so which of them
comes first does not change by that: they stand in a heap, by what their current weight is less what
it has grown. A choice compares the first ones of all weights there are, and moves one of them.

1. The choices are nginx's to the letter: of equals the first one by number.
2. An entry of a heap is one int, the order above the number. One whose member has left or moved is
   `stale`: it stays until it comes to the top, or until there are too many.
3. No stale entry is at the top of a heap, and no heap is empty.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import Final

SLACK: Final = 32  # stale entries that a heap may have beyond as many as it has members


class Turns:
    """Members known by a number below 1 << bits, each with a weight that stays its own."""

    __slots__ = (
        "bits",
        "count",  # members
        "total",  # of the weights
        "ticks",  # choices
        "entries",  # dict[int, int]: of each member the entry in its heap
        "heaps",  # dict[int, list[int]]: by weight
        "only",  # list[int] | None: the only heap
        "stale",  # how many entries are, in all heaps
        "members",  # dict[int, int]: how many, by weight
    )

    only: list[int] | None

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.count = 0
        self.total = 0
        self.ticks = 0
        self.entries: dict[int, int] = {}
        self.heaps: dict[int, list[int]] = {}
        self.only = None
        self.stale = 0
        self.members: dict[int, int] = {}

    def add(self, number: int, weight: int, current: int) -> None:
        """Have one more member. Args: current: its current weight"""
        # the least entry has the greatest current weight; of equals it is the first one's
        entry = (self.ticks * weight - current << self.bits) + number
        self.entries[number] = entry
        self.count += 1
        self.total += weight
        heap = self.heaps.get(weight)
        if heap is None:
            self.heaps[weight] = [entry]
            self.members[weight] = 1
            self._count_heaps()
            return
        members = self.members[weight] = self.members[weight] + 1
        heappush(heap, entry)
        if len(heap) > 2 * members + SLACK:
            self._tidy(heap)

    def remove(self, number: int, weight: int) -> int:
        """Have a member no longer. Returns: its current weight"""
        entry = self.entries.pop(number)
        self.count -= 1
        self.total -= weight
        members = self.members[weight] = self.members[weight] - 1
        heap = self.heaps[weight]
        if not members:
            self.stale -= len(heap) - 1
            del self.heaps[weight], self.members[weight]
            self._count_heaps()
        else:
            self.stale += 1
            self._uncover(heap)
        return self.ticks * weight - (entry >> self.bits)

    def current(self, number: int, weight: int) -> int:
        """Return the current weight of a member."""
        return self.ticks * weight - (self.entries[number] >> self.bits)

    def first(self) -> tuple[int, int]:
        """Return the member that a choice would find, and its current weight then.

        There has to be one.
        """
        ticks = self.ticks + 1
        bits = self.bits
        best = best_current = -1
        for weight, heap in self.heaps.items():
            entry = heap[0]
            current = ticks * weight - (entry >> bits)
            if best < 0 or current >= best_current:
                number = entry & (1 << bits) - 1
                if best < 0 or current > best_current or number < best:
                    best, best_current = number, current
        return best, best_current

    def choose(self) -> int:
        """Choose a member. There has to be one. Source: ngx_stream_upstream_get_peer"""
        heap = self.only
        if heap is None:
            number, _ = self.first()
            self.tick()
            self.charge(number, self.total)
            return number
        self.ticks += 1  # hot: as the above where all weights are the same
        entry = heap[0]
        number = entry & (1 << self.bits) - 1
        self.entries[number] = entry = entry + (self.total << self.bits)
        heapreplace(heap, entry)
        if self.stale:
            self._uncover(heap)
        return number

    def tick(self) -> None:
        """Have the current weight of each member grow by its weight."""
        self.ticks += 1

    def charge(self, number: int, total: int) -> None:
        """Take the sum of the weights from the member that first() found."""
        bits = self.bits
        entry = self.entries[number]
        for heap in self.heaps.values():
            if heap[0] == entry:
                self.entries[number] = entry = entry + (total << bits)
                heapreplace(heap, entry)
                if self.stale:
                    self._uncover(heap)
                return

    def _count_heaps(self) -> None:
        self.only = next(iter(self.heaps.values())) if len(self.heaps) == 1 else None

    def _uncover(self, heap: list[int]) -> None:
        """Take stale entries off the top of a heap."""
        entries, mask = self.entries, (1 << self.bits) - 1
        while entries.get(heap[0] & mask) != heap[0]:
            heappop(heap)
            self.stale -= 1

    def _tidy(self, heap: list[int]) -> None:
        """Throw all stale entries of a heap away."""
        entries, mask = self.entries, (1 << self.bits) - 1
        kept = list({entry for entry in heap if entries.get(entry & mask) == entry})
        self.stale -= len(heap) - len(kept)
        heap[:] = kept
        heapify(heap)
