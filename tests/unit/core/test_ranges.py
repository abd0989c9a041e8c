"""Values by range of IPv4 addresses."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core.ranges import OverlapError, RangeMap

Piece = tuple[int, int]


def pieces(start: int, end: int) -> Iterator[Piece]:
    """Cut a range at the borders of 65 536 addresses."""
    while start <= end:
        last = min(end, start | 0xFFFF)
        yield start, last
        start = last + 1


class Model:
    """The same, without a thought of speed: a list of (start, end, value)."""

    def __init__(self) -> None:
        self.known: list[tuple[int, int, int]] = []
        self.replaced: list[int] = []

    def add(self, start: int, end: int, value: int) -> bool:
        """Add a range; tell whether it fits."""
        for low, high in pieces(start, end):
            other = [k for k in self.known if k[0] <= high and low <= k[1]]
            if not other:
                self.known.append((low, high, value))
                continue
            last = max(other)
            if (low, high) == last[:2]:
                self.replaced.append(last[2])
                self.known.remove(last)
                self.known.append((low, high, value))
                continue
            if low < last[0] or high > last[1]:
                return False
            self.known.remove(last)
            self.known.append((low, high, value))
            if last[0] < low:
                self.known.append((last[0], low - 1, last[2]))
            if high < last[1]:
                self.known.append((high + 1, last[1], last[2]))
        return True

    def delete(self, start: int, end: int) -> bool:
        """Delete a range; tell whether all of it was there."""
        whole = True
        for low, high in pieces(start, end):
            same = [k for k in self.known if k[:2] == (low, high)]
            whole = whole and bool(same)
            self.known = [k for k in self.known if k not in same]
        return whole

    def find(self, address: int) -> int | None:
        """Return the value at an address."""
        return next((v for low, high, v in self.known if low <= address <= high), None)


BASE = 0x0A00FFF0  # ten addresses before the border of a block
ADDRESSES = st.integers(BASE, BASE + 40)
STEPS = st.lists(
    st.tuples(st.booleans(), ADDRESSES, ADDRESSES, st.integers(0, 5)), min_size=1, max_size=12
)


@given(STEPS)
def test_ranges_agree_with_a_plain_list(steps: list[tuple[bool, int, int, int]]) -> None:
    """Adding, splitting, replacing, deleting and refusing do what a plain list does."""
    ranges: RangeMap[int] = RangeMap()
    model = Model()
    replaced: list[int] = []
    for is_delete, one, other, value in steps:
        start, end = sorted((one, other))
        if is_delete:
            assert model.delete(start, end) == ranges.delete(start, end)
            continue
        fits = model.add(start, end, value)
        try:
            ranges.add(start, end, value, replaced.append)
        except OverlapError:
            assert not fits
            return  # a configuration ends here
        assert fits
    found = [(a, ranges.find(a)) for a in range(BASE - 1, BASE + 42)]
    assert [(a, model.find(a)) for a, _ in found] == found
    assert sorted(model.replaced) == sorted(replaced)


def test_an_overlap_names_the_part_that_is_there() -> None:
    """The error has the ends of the range in the way, as they are in its block."""
    ranges: RangeMap[int] = RangeMap()
    ranges.add(0x0A000003, 0x0A010009, 1, lambda old: None)
    with pytest.raises(OverlapError) as caught:
        ranges.add(0x0A010005, 0x0A01000C, 2, lambda old: None)
    assert (0x0A010000, 0x0A010009) == (caught.value.low, caught.value.high)


def test_the_whole_address_space_is_one_range() -> None:
    """A range may reach from the first address to the last."""
    ranges: RangeMap[str] = RangeMap()
    ranges.add(0, 0xFFFFFFFF, "all", lambda old: None)
    assert ["all"] * 3 == [ranges.find(a) for a in (0, 0x7F000001, 0xFFFFFFFF)]
