"""How much PCRE would write for a pattern: what it refuses as too large is refused here too.

PCRE2 with links of two bytes, as everybody builds it, compiles into 65536 bytes at most.  Counted
groups are written out there, counted bytes are not, so that x{65535} is small and
(?:(?:ab){200}){200} is not.

Source: pcre2_compile.c:compile_branch() and compile_regex(), where they measure.
"""

from typing import Final

from ngxstream.core import regex_tree

MAX_SIZE: Final = 65536

_LINK: Final = 2
_COUNT: Final = 2
_BRACKETS: Final = 2 + 2 * _LINK  # an opening and a closing one
_FRAME: Final = _BRACKETS + 1  # what is around a whole pattern


def fits(tree: regex_tree.Node) -> bool:
    """Tell whether PCRE compiles a tree of this size."""
    return _FRAME + _branches(tree) <= MAX_SIZE


def _branches(node: regex_tree.Node) -> int:
    """Measure what is inside a group."""
    if isinstance(node, regex_tree.Sequence) and len(node.items) == 1:
        choice = node.items[0]
        if isinstance(choice, regex_tree.Choice):  # a group of branches is kept as an item
            node = choice
    if isinstance(node, regex_tree.Choice):
        between = (1 + _LINK) * (len(node.branches) - 1)
        return between + sum(_branch(branch) for branch in node.branches)
    return _branch(node)


def _branch(node: regex_tree.Node) -> int:
    if isinstance(node, regex_tree.Sequence):
        return sum(_item(item) for item in node.items)
    return _item(node)


def _item(node: regex_tree.Node) -> int:
    if isinstance(node, regex_tree.Chars):
        return node.size
    if node is regex_tree.ANY_NEWLINE or node is regex_tree.ANY_CHARACTER:
        return regex_tree.SIZE_TYPE
    if isinstance(node, regex_tree.Repeat):
        return _repeat(node)
    if isinstance(node, regex_tree.Backref):
        return 1 + _COUNT * min(len(node.groups), 2)
    if isinstance(node, regex_tree.Call):
        return 1 + _LINK
    if isinstance(node, regex_tree.Capture):
        return _BRACKETS + _COUNT + _branches(node.body)
    if isinstance(node, regex_tree.Atomic):
        return _BRACKETS + _branches(node.body)
    if isinstance(node, regex_tree.Look):
        return _BRACKETS + _branches(node.body) + _reverse(node)
    if isinstance(node, regex_tree.Condition):
        asks = 1 + _COUNT * min(len(node.groups), 2)
        if node.asked is not None:
            asks = _item(node.asked[0])
        rest = 0 if node.no is None else 1 + _LINK + _branch(node.no)
        return _BRACKETS + asks + _branch(node.yes) + rest
    if isinstance(node, regex_tree.Sequence | regex_tree.Choice):
        return _BRACKETS + _branches(node)
    return 1


def _reverse(node: regex_tree.Look) -> int:
    """Measure what says how far a lookbehind goes back, for each of its branches."""
    if node.ahead:
        return 0
    body = node.body
    branches = body.branches if isinstance(body, regex_tree.Choice) else (body,)
    return sum(1 + _LINK for branch in branches if regex_tree.width(branch) != 0)


def _repeat(node: regex_tree.Repeat) -> int:
    size = _item(node.body)
    low, high = node.low, node.high
    possessive = node.mode is regex_tree.Mode.POSSESSIVE
    if _is_single(node.body):
        return max(size, _repeat_single(size, low, high))
    if isinstance(node.body, regex_tree.Chars | regex_tree.Backref):
        if (low, high) in ((0, 0), (1, 1)):
            return size
        sign = 1 if (low, high) in ((0, None), (1, None), (0, 1)) else 1 + 2 * _COUNT
        wrapped = possessive and isinstance(node.body, regex_tree.Backref)
        return size + sign + (_BRACKETS if wrapped else 0)
    return _repeat_group(node, size, possessive)


def _is_single(node: regex_tree.Node) -> bool:
    if isinstance(node, regex_tree.Chars):
        return node.size <= regex_tree.SIZE_PROPERTY
    return node is regex_tree.ANY_NEWLINE or node is regex_tree.ANY_CHARACTER


def _repeat_single(size: int, low: int, high: int | None) -> int:
    """Measure a repeated byte or kind of byte: nothing is written out."""
    argument = 1 if size == regex_tree.SIZE_CHAR else size
    if high is None:
        return 1 + argument if low <= 1 else 2 + _COUNT + 2 * argument
    if low == 0:
        return 1 + argument if high == 1 else 1 + _COUNT + argument
    if low == 1:
        return size if high == 1 else size + 1 + _COUNT + argument
    exact = 1 + _COUNT + argument
    if high == low:
        return exact
    return exact + argument + 1 + (_COUNT if high - low > 1 else 0)


def _repeat_group(node: regex_tree.Repeat, size: int, possessive: bool) -> int:
    """Measure a repeated group: it is written out as often as it is counted."""
    low, high = node.low, node.high
    total = size
    if (low, high) == (1, 1) and not possessive:
        return total
    if isinstance(node.body, regex_tree.Call) and (low or (high or 2) > 1):
        size += _BRACKETS  # made a group first
    if isinstance(node.body, regex_tree.Look) and high is None:
        high = low + 1
    nested = 0
    if low == 0:
        if high == 0:
            return total + 1
        if high in (1, None):
            total += 1
        else:
            total += 2 + _LINK
            nested = 1 + _LINK
        more = None if high is None else high - 1
    else:
        total += (low - 1) * size
        more = None if high is None else high - low
    if more:
        total += more * (size + 1 + _BRACKETS) - _BRACKETS
    total += nested
    if possessive and (high is not None or low >= 2):
        total += _BRACKETS
    return total
