"""The zone of a SharedDict: its memory, and values as it keeps them. Not for users' functions.

A value is kept as bytes: text as UTF-8, numbers as Python writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.core.shm_dict import DictStore
from ngxstream.stream import keyval_zone

if TYPE_CHECKING:
    from ngxstream.core import shm

MOST_NUMBER: Final = 1 << 63  # a whole number is less than this, and more than its negative


class DictZone(keyval_zone.KeyvalZone):
    """The zone of one dict."""

    __slots__ = ("evicts", "type")

    def __init__(self, name: str, kind: str, evicts: bool) -> None:
        super().__init__(name)
        self.type = kind
        self.evicts = evicts

    def make_store(self, zone: shm.Zone) -> DictStore:
        """Make an empty store. Raises: OSError"""
        return DictStore(zone, self.keys, self.evicts)

    def text_of(self, value: bytes) -> str:
        """Return a value as its file has it."""
        if self.type == "bytes":
            return value.decode("latin-1")
        return super().text_of(value)

    def value_of(self, text: str) -> bytes:
        """Return the value that a file has as this text. Raises: ValueError"""
        if self.type == "bytes":
            return text.encode("latin-1")
        if self.type == "number":
            try:
                number = int(text) if text.lstrip("-").isdigit() else float(text)
                return packed("number", number)
            except OverflowError:
                raise ValueError(text) from None
        return super().value_of(text)


def packed(kind: str, value: object) -> bytes:
    """Return a value as the zone keeps it. Raises: TypeError, OverflowError"""
    if kind == "string":
        if not isinstance(value, str):
            raise TypeError(f"a value is str here, not {type(value).__name__}")
        return value.encode("utf-8", "surrogateescape")
    if kind == "bytes":
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"a value is bytes here, not {type(value).__name__}")
        return bytes(value)
    return repr(number(value)).encode()


def number(value: object) -> int | float:
    """Return a number that a zone can keep. Raises: TypeError, OverflowError"""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a value is a number here, not {type(value).__name__}")
    if not fits(value):
        raise OverflowError("a whole number has 64 bits at most")
    return value


def fits(value: float) -> bool:
    """Tell whether a number can be kept: a whole one has 64 bits."""
    return not isinstance(value, int) or -MOST_NUMBER < value < MOST_NUMBER


def number_of(data: bytes) -> int | float:
    """Return the number that a zone has: what is none, which only damage makes, is 0."""
    text = data[:64].decode("ascii", "replace")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return 0
