"""The tree a regular expression is read into: what each node matches, and nothing else.

Options such as (?i) are resolved before a tree is made, so a node means the same everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ngxstream.core import regex_chars


class Place(Enum):
    """What a zero-width assertion asks of the place it stands at."""

    START = "start of the subject"
    END = "end of the subject"
    LAST_LINE = "end of the subject or before its final newline"
    LINE_START = "start of a line"
    LINE_END = "end of a line"
    WORD_EDGE = "edge of a word"
    NO_WORD_EDGE = "not the edge of a word"


class Mode(Enum):
    """Which number of repetitions is tried first, and whether others are tried at all."""

    GREEDY = "the most first"
    LAZY = "the fewest first"
    POSSESSIVE = "the most only"


@dataclass(frozen=True, slots=True)
class Chars:
    """Any one byte of a set."""

    mask: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """All of these in turn; none at all is the empty match."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Choice:
    """The first of these that leads to a match."""

    branches: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Repeat:
    """The body ``low`` to ``high`` times; ``high`` None is without end."""

    body: "Node"
    low: int
    high: int | None
    mode: Mode


@dataclass(frozen=True, slots=True)
class Capture:
    """A group whose text is kept under its number."""

    index: int
    body: "Node"


@dataclass(frozen=True, slots=True)
class Atomic:
    """A group that is not entered again once it has matched."""

    body: "Node"


@dataclass(frozen=True, slots=True)
class Look:
    """A group that matches (or must not) at a place, ahead of it or behind."""

    body: "Node"
    ahead: bool
    negative: bool


@dataclass(frozen=True, slots=True)
class At:
    """A zero-width assertion."""

    place: Place


@dataclass(frozen=True, slots=True)
class Backref:
    """The text a group matched before."""

    index: int
    caseless: bool


Node = Chars | Sequence | Choice | Repeat | Capture | Atomic | Look | At | Backref
EMPTY: Final = Sequence(())
ANY_NEWLINE: Final = Atomic(
    Choice(
        (
            Sequence((Chars(1 << 0x0D), Chars(1 << 0x0A))),
            Chars(regex_chars.VERTICAL),
        )
    )
)


def width(node: Node) -> int | None:
    """Count the bytes a node always matches; None if that may differ."""
    if isinstance(node, Chars):
        return 1
    if isinstance(node, At | Look):
        return 0
    if isinstance(node, Capture | Atomic):
        return width(node.body)
    if isinstance(node, Repeat):
        each = width(node.body)
        return each * node.low if each is not None and node.low == node.high else None
    if isinstance(node, Sequence):
        widths = [width(item) for item in node.items]
        return None if None in widths else sum(filter(None, widths))
    if isinstance(node, Choice):
        widths = [width(branch) for branch in node.branches]
        return widths[0] if len(set(widths)) == 1 else None
    return None


def anchored(node: Node) -> bool:
    """Tell whether every match must begin at the start of the subject."""
    if isinstance(node, At):
        return node.place is Place.START
    if isinstance(node, Capture | Atomic):
        return anchored(node.body)
    if isinstance(node, Repeat):
        return node.low > 0 and anchored(node.body)
    if isinstance(node, Sequence):
        for item in node.items:
            if anchored(item):
                return True
            if not isinstance(item, At | Look):
                return False
        return False
    if isinstance(node, Choice):
        return all(anchored(branch) for branch in node.branches)
    return False


def nullable(node: Node) -> bool:
    """Tell whether a node may match nothing at all."""
    if isinstance(node, Chars):
        return False
    if isinstance(node, Capture | Atomic):
        return nullable(node.body)
    if isinstance(node, Repeat):
        return node.low == 0 or nullable(node.body)
    if isinstance(node, Sequence):
        return all(nullable(item) for item in node.items)
    if isinstance(node, Choice):
        return any(nullable(branch) for branch in node.branches)
    return True


def parts(node: Node) -> "tuple[Node, ...]":
    """List the nodes directly inside one."""
    if isinstance(node, Sequence):
        return node.items
    if isinstance(node, Choice):
        return node.branches
    if isinstance(node, Capture | Atomic | Repeat | Look):
        return (node.body,)
    return ()


def walk(node: Node) -> Iterator[Node]:
    """Visit a node and all inside it, each before its parts."""
    yield node
    for part in parts(node):
        yield from walk(part)
