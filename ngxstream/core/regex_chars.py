"""Sets of bytes as 256-bit integers: the classes PCRE knows in its C locale.

nginx hands PCRE bytes, not characters, so a class is one of 256-bit sets and case means ASCII.
"""

from collections.abc import Iterable
from typing import Final

EVERY: Final = (1 << 256) - 1


def one(byte: int) -> int:
    """Make the set of one byte."""
    return 1 << byte


def span(first: int, last: int) -> int:
    """Make the set of the bytes ``first`` to ``last``."""
    return (1 << last + 1) - (1 << first)


def of(members: bytes) -> int:
    """Make the set of the bytes given."""
    mask = 0
    for byte in members:
        mask |= 1 << byte
    return mask


def invert(mask: int) -> int:
    """Make the set of all other bytes."""
    return EVERY & ~mask


def members(mask: int) -> list[int]:
    """List the bytes of a set in order."""
    return [byte for byte in range(256) if mask >> byte & 1]


def ranges(mask: int) -> Iterable[tuple[int, int]]:
    """List the runs of a set as (first, last)."""
    byte = 0
    while byte < 256:
        if not mask >> byte & 1:
            byte += 1
            continue
        first = byte
        while byte < 256 and mask >> byte & 1:
            byte += 1
        yield first, byte - 1


UPPER: Final = span(0x41, 0x5A)
LOWER: Final = span(0x61, 0x7A)
ALPHA: Final = UPPER | LOWER
DIGIT: Final = span(0x30, 0x39)
ALNUM: Final = ALPHA | DIGIT
WORD: Final = ALNUM | one(0x5F)
SPACE: Final = of(b" \t\n\v\f\r")
GRAPH: Final = span(0x21, 0x7E)
NEWLINE: Final = one(0x0A)
HORIZONTAL: Final = of(b"\t \xa0")
VERTICAL: Final = of(b"\n\v\f\r\x85")

# what follows a backslash, inside a class and outside
ESCAPES: Final = {
    "d": DIGIT, "D": invert(DIGIT), "w": WORD, "W": invert(WORD), "s": SPACE, "S": invert(SPACE),
    "h": HORIZONTAL, "H": invert(HORIZONTAL), "v": VERTICAL, "V": invert(VERTICAL),
}

# what stands in [:name:]
POSIX: Final = {
    "alnum": ALNUM, "alpha": ALPHA, "ascii": span(0, 0x7F), "blank": of(b" \t"),
    "cntrl": span(0, 0x1F) | one(0x7F), "digit": DIGIT, "graph": GRAPH, "lower": LOWER,
    "print": GRAPH | one(0x20), "punct": GRAPH & ~ALNUM, "space": SPACE, "upper": UPPER,
    "word": WORD, "xdigit": DIGIT | of(b"ABCDEFabcdef"),
}


def fold(mask: int) -> int:
    """Add to a set the other case of every letter in it."""
    return mask | (mask & UPPER) << 32 | (mask & LOWER) >> 32
