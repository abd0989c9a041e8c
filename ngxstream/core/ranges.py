"""Values by range of IPv4 addresses, as `geo` with `ranges` keeps them.

Answers for ngx_stream_geo_module.c ngx_stream_geo_add_range, ngx_stream_geo_delete_range. The
address space is cut into blocks of 65 536 addresses, because nginx checks (and names) what
overlaps block by block. A block holds its ranges in order, so that a lookup is one bisection.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class OverlapError(Exception):
    """A range that lies partly inside another one.

    ``low`` and ``high`` are the ends of the part already there, as addresses
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__(low, high)
        self.low = low
        self.high = high


class _Block(Generic[V]):
    """The ranges of one block: three lists of one length, in the order of addresses."""

    __slots__ = ("ends", "starts", "values")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []  # inclusive
        self.values: list[V] = []

    def insert(self, at: int, start: int, end: int, value: V) -> None:
        self.starts.insert(at, start)
        self.ends.insert(at, end)
        self.values.insert(at, value)


class RangeMap(Generic[V]):
    """Values by range; a later range may lie inside an earlier one, which it then splits.

    Addresses are ints below 2**32, both ends of a range belong to it.
    """

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[int, _Block[V]] = {}

    def add(self, start: int, end: int, value: V, replaced: Callable[[V], None]) -> None:
        """Set the value of a range, start <= end.

        calls back: replaced(old value), once for each block where exactly this range was known
        Raises: OverlapError
        """
        for number, low, high in _pieces(start, end):
            block = self._blocks.get(number)
            if block is None:
                block = self._blocks[number] = _Block()
            _add(block, number << 16, low, high, value, replaced)

    def delete(self, start: int, end: int) -> bool:
        """Forget a range; tell whether all of it was there, exactly as named."""
        whole = True
        for number, low, high in _pieces(start, end):
            block = self._blocks.get(number)
            at = bisect_right(block.starts, low) - 1 if block is not None else -1
            if block is None or at < 0 or block.starts[at] != low or block.ends[at] != high:
                whole = False
                continue
            del block.starts[at], block.ends[at], block.values[at]
        return whole

    def find(self, address: int) -> V | None:
        """Return the value of the range an address lies in, or None."""
        block = self._blocks.get(address >> 16)
        if block is None:
            return None
        low = address & 0xFFFF
        at = bisect_right(block.starts, low) - 1
        if at < 0 or low > block.ends[at]:
            return None
        return block.values[at]


def _pieces(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Cut a range at the borders of blocks: (block, first, last) with ends inside the block."""
    first, last = start >> 16, end >> 16
    for number in range(first, last + 1):
        yield (
            number,
            start & 0xFFFF if number == first else 0,
            end & 0xFFFF if number == last else 0xFFFF,
        )


def _add(block: _Block[V], base: int, low: int, high: int, value: V,
         replaced: Callable[[V], None]) -> None:
    starts, ends = block.starts, block.ends
    at = bisect_right(starts, high) - 1  # the last range that begins before ours ends
    if at < 0 or low > ends[at]:
        block.insert(at + 1, low, high, value)
        return
    start, end = starts[at], ends[at]
    if low == start and high == end:
        replaced(block.values[at])
        block.values[at] = value
        return
    if low < start or high > end:
        raise OverlapError(base + start, base + end)
    old = block.values[at]
    del starts[at], ends[at], block.values[at]
    if high < end:
        block.insert(at, high + 1, end, old)
    block.insert(at, low, high, value)
    if low > start:
        block.insert(at, start, low - 1, old)
