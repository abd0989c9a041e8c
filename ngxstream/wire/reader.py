"""Cursor and the three-way contract every parser in ``wire/`` keeps.

A parser is given all the bytes so far and does one of three things:

1. returns an *event* (a frozen record): the bytes held a whole one;
2. returns ``NEED_MORE``: every byte so far could begin a whole one;
3. raises its own subclass of ``WireError``: no continuation can make it one.

Nothing else may leave a parser, whatever the bytes, and giving the same bytes one at a time
ends the same way as giving them at once.
"""

from enum import Enum
from typing import Final

Buffer = bytes | bytearray | memoryview


class WireError(ValueError):
    """Bytes that cannot be what the parser reads."""


class Short(WireError):
    """A Cursor was asked for more bytes than it holds."""


class NeedMore(Enum):
    """The type of ``NEED_MORE``: an enum of one, so that type checkers can narrow on it."""

    NEED_MORE = "need more"

    def __repr__(self) -> str:
        return "NEED_MORE"


NEED_MORE: Final = NeedMore.NEED_MORE


class Cursor:
    """A reading position in a buffer it does not own: big-endian integers and slices.

    ``position`` is the offset of the next byte, ``end`` the offset one past the last
    byte it may read; slices: views into the caller's buffer and valid as long as it is.
    Raises: Short where a read would pass ``end``; the position stays where it was.
    """

    __slots__ = ("end", "position", "view")

    def __init__(self, data: Buffer, position: int = 0, end: int | None = None) -> None:
        self.view = memoryview(data)
        self.position = position
        self.end = len(self.view) if end is None else end
        if not 0 <= position <= self.end <= len(self.view):
            raise Short(f"no bytes {position}..{end} in a buffer of {len(self.view)}")

    def remaining(self) -> int:
        """Count the bytes left before ``end``."""
        return self.end - self.position

    def _advance(self, count: int) -> int:
        start = self.position
        if count > self.end - start:
            raise Short(f"{count} bytes wanted, {self.end - start} left")
        self.position = start + count
        return start

    def u8(self) -> int:
        """Read one byte."""
        return self.view[self._advance(1)]

    def u16(self) -> int:
        """Read a 16-bit integer in network order."""
        start = self._advance(2)
        return self.view[start] << 8 | self.view[start + 1]

    def take(self, count: int) -> memoryview:
        """Read ``count`` bytes as a view into the buffer."""
        start = self._advance(count)
        return self.view[start : start + count]

    def restrict_to(self, count: int) -> "Cursor":
        """Read the next ``count`` bytes as a Cursor of their own, which cannot see past them."""
        start = self._advance(count)
        return Cursor(self.view, start, start + count)
