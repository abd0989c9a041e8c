"""What must stand in a subject for a regular expression to match, and which of many may match it.

nginx tries the expressions of a map one after the other. Most have some text that every match
contains: a Sieve knows a few bytes of that text for each, looks up all that follow each other in a
subject, and so passes over those that cannot match. Which one matches first is the same.

1. Case is not looked at: what is found is a little more than what may match.
2. A sieve takes memory for one entry an expression, and reads no more of a subject than LONGEST.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ngxstream.core import regex_tree

SIZE: Final = 4  # bytes that are looked up; fewer where a text has no more
LEAST: Final = 2
MOST: Final = 256  # bytes of an expression's texts
LONGEST: Final = 2048  # a longer subject is tried with all: to look it up takes as long


def literals(tree: regex_tree.Node) -> tuple[bytes, ...]:
    """Return texts that each match contains, in small letters; some, where there are many."""
    found: list[bytes] = []
    run = bytearray()
    for byte in itertools.islice(itertools.chain(_run(tree), (None,)), MOST):
        if byte is not None:
            run.append(byte)
        elif run:
            found.append(bytes(run))
            run.clear()
    if run:
        found.append(bytes(run))
    return tuple(found)


def _run(node: regex_tree.Node) -> Iterator[int | None]:
    """Yield the bytes that a match must have, in a row; None where others may be between them."""
    if isinstance(node, regex_tree.Chars):
        yield _letter(node.mask)
    elif isinstance(node, regex_tree.Sequence):
        for item in node.items:
            yield from _run(item)
    elif isinstance(node, regex_tree.Capture | regex_tree.Atomic):
        yield from _run(node.body)
    elif isinstance(node, regex_tree.Repeat):
        low, high = regex_tree.times(node)
        for _ in range(low):
            yield from _run(node.body)
        if high != low:
            yield None
    elif not isinstance(node, regex_tree.At | regex_tree.Look | regex_tree.Keep):
        yield None  # those match at a place: what is before it and behind it follow each other


def _letter(mask: int) -> int | None:
    """Return the only byte of a set, in small letters; None if it has several."""
    first = (mask & -mask).bit_length() - 1
    if mask.bit_count() == 1:
        return ord(chr(first).lower()) if first < 128 else first
    is_pair = mask.bit_count() == 2 and 65 <= first <= 90 and mask == 1 << first | 1 << first + 32
    return first + 32 if is_pair else None


class Sieve:
    """Some expressions in an order; most are passed over without being tried."""

    __slots__ = ("_always", "_number", "_tables")

    def __init__(self, texts: Sequence[Sequence[bytes]]) -> None:
        """Args: texts: literals() of each expression"""
        self._number = len(texts)
        self._always: list[int] = []  # what has no text
        self._tables: dict[int, dict[bytes, list[tuple[int, bytes]]]] = {}  # by size of the pieces
        often = Counter(piece for some in texts for piece in {*_pieces(some)})
        for number, some in enumerate(texts):
            # the piece that the fewest others have, too
            piece = min(_pieces(some), key=lambda one: (often[one], -len(one)), default=b"")
            if not piece:
                self._always.append(number)
                continue
            table = self._tables.setdefault(len(piece), {})
            table.setdefault(piece, []).append((number, max(some, key=len)))

    def candidates(self, subject: bytes) -> Iterable[int]:
        """Return the numbers of the expressions that may match, in their order."""
        length = len(subject)
        if length > LONGEST:
            return range(self._number)
        subject = subject.lower()
        found: set[int] = set()
        for size, table in self._tables.items():
            for at in range(length - size + 1):
                hits = table.get(subject[at : at + size])
                if hits is not None:
                    found.update([number for number, text in hits if text in subject])
        return sorted([*self._always, *found]) if found else self._always


def _pieces(texts: Sequence[bytes]) -> Iterator[bytes]:
    for text in texts:
        if len(text) >= LEAST:
            for at in range(max(1, len(text) - SIZE + 1)):
                yield text[at : at + SIZE]
