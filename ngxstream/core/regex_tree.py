"""The tree a regular expression is read into: what each node matches, and nothing else.

Options such as (?i) are resolved before a tree is made, so a node means the same everywhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ngxstream.core import regex_chars

SIZE_TYPE: Final = 1  # \\d and the like
SIZE_CHAR: Final = 2
SIZE_PROPERTY: Final = 3
SIZE_CLASS: Final = 33  # and all above are classes too


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
    """Any one byte of a set; ``size`` is what PCRE needs for it, which regex_size asks for."""

    mask: int
    size: int = field(default=SIZE_CHAR, compare=False)


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
    at: int = field(default=0, compare=False)  # where it stands in the pattern


@dataclass(frozen=True, slots=True)
class At:
    """A zero-width assertion."""

    place: Place


@dataclass(frozen=True, slots=True)
class Backref:
    """The text that the first of some groups to have matched has matched."""

    groups: tuple[int, ...]
    caseless: bool
    name: str = ""  # what gives the groups, until they are known
    at: int = field(default=0, compare=False)
    error_at: int = field(default=0, compare=False)  # where PCRE would say that it is wrong


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing if one of some groups has matched, another if none has.

    ``asked`` is what takes the place of groups while a pattern is read: an assertion and its
    contrary.
    """

    groups: tuple[int, ...]
    yes: "Node"
    no: "Node | None"
    name: str = ""
    asked: "tuple[Look, Look] | None" = None
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """The body of another group, without its captures: (?1); gone when a pattern is read."""

    index: int
    at: int = field(compare=False)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Keep:
    r"""The match begins here, whatever was read before: \K."""


Node = (
    Chars
    | Sequence
    | Choice
    | Repeat
    | Capture
    | Atomic
    | Look
    | At
    | Backref
    | Condition
    | Call
    | Keep
)
DEFINE: Final = "(DEFINE)"  # no name of a group: a condition that never holds
EMPTY: Final = Sequence(())
NOTHING: Final = Chars(0, SIZE_TYPE)  # (*FAIL)
ANY_NEWLINE: Final = Atomic(
    Choice((Sequence((Chars(1 << 0x0D), Chars(1 << 0x0A))), Chars(regex_chars.VERTICAL)))
)
# what Unicode takes for one character: below U+0100 only CR LF are two code points of one
ANY_CHARACTER: Final = Atomic(
    Choice((Sequence((Chars(1 << 0x0D), Chars(1 << 0x0A))), Chars(regex_chars.EVERY)))
)


def times(node: Repeat) -> tuple[int, int | None]:
    """Tell how often a body is to be tried: an assertion says the same each time."""
    if isinstance(node.body, Look):
        return min(node.low, 1), 1 if node.high is None else min(node.high, 1)
    return node.low, node.high


Widths = Mapping[int, int | None]


def width(node: Node, groups: Widths | None = None) -> int | None:
    """Count the bytes a node always matches; None if that may differ.

    Args: node: What is measured; groups: The widths of groups that may be referred to.
    """
    if isinstance(node, Chars):
        return 1
    if isinstance(node, At | Look | Keep):
        return 0
    if isinstance(node, Capture | Atomic):
        return width(node.body, groups)
    if isinstance(node, Repeat):
        if isinstance(node.body, Look) and node.body.ahead:
            return 0
        each = width(node.body, groups)
        return each * node.low if each is not None and node.low == node.high else None
    if isinstance(node, Sequence):
        widths = [width(item, groups) for item in node.items]
        return None if None in widths else sum(filter(None, widths))
    if isinstance(node, Choice | Condition):
        widths = [width(branch, groups) for branch in branches(node)]
        return widths[0] if len(set(widths)) == 1 else None
    if isinstance(node, Backref) and groups is not None and len(node.groups) == 1:
        return groups.get(node.groups[0])
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
            if not isinstance(item, At | Look | Keep):
                return False
        return False
    if isinstance(node, Choice | Condition):
        return all(anchored(branch) for branch in branches(node))
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
    if isinstance(node, Choice | Condition):
        return any(nullable(branch) for branch in branches(node))
    return True


def branches(node: Choice | Condition) -> "tuple[Node, ...]":
    """List what a node chooses from."""
    if isinstance(node, Choice):
        return node.branches
    return (node.yes, EMPTY if node.no is None else node.no)


def parts(node: Node) -> "tuple[Node, ...]":
    """List the nodes directly inside one."""
    if isinstance(node, Sequence):
        return node.items
    if isinstance(node, Choice):
        return node.branches
    if isinstance(node, Condition):
        asked = () if node.asked is None else node.asked[:1]
        return (*asked, *branches(node))
    if isinstance(node, Capture | Atomic | Repeat | Look):
        return (node.body,)
    return ()


def walk(node: Node) -> Iterator[Node]:
    """Visit a node and all inside it, each before its parts."""
    yield node
    for part in parts(node):
        yield from walk(part)
