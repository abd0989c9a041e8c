"""PCRE's pattern syntax, read into a tree: what nginx would compile, or why it would not.

Answers for the pattern half of core/ngx_regex.c, where nginx leaves it to PCRE2 (pcre2pattern(3)).
Each construct is either understood exactly or refused by name; none is taken with another
meaning.  Options (?i) and the like are resolved here: the tree has no flags left in it.  Reasons
and offsets of plain errors are PCRE2's own.
"""

import re
from dataclasses import dataclass
from typing import Final

from ngxstream.core import (
    regex_chars,
    regex_groups,
    regex_links,
    regex_mentions,
    regex_size,
    regex_tree,
)

MAX_NESTING: Final = 250
MAX_REPEAT: Final = 65535


@dataclass(frozen=True, slots=True)
class Syntax:
    """A pattern read: its tree, how many groups it captures and which of them have names.

    Of groups of one name the last gives the name's value: it is what nginx sets last.
    """

    tree: regex_tree.Node
    groups: int
    names: dict[str, int]


# what may stand before a pattern and changes nothing that is matched
_START: Final = re.compile(
    rb"\(\*(?:NO_(?:AUTO_POSSESS|DOTSTAR_ANCHOR|JIT|START_OPT)|LF|BSR_UNICODE)\)"
)
_START_ELSE: Final = re.compile(
    rb"\(\*(?:UTF|UCP|NOTEMPTY(?:_ATSTART)?|CRLF|CR|ANY|ANYCRLF|NUL|BSR_ANYCRLF)\)"
    rb"|\(\*LIMIT_(?:DEPTH|HEAP|MATCH|RECURSION)="
)

# PCRE2 10.43 and later take {,3} and { 1, 3 } for quantifiers; before they are plain text, and so
# they are here: Debian's nginx has 10.42
_QUANTIFIER: Final = re.compile(rb"\{([0-9]+)(,([0-9]*))?\}")


def parse(pattern: bytes, *, caseless: bool = False) -> Syntax:
    """Read a pattern.

    Raises: RegexError with PCRE2's reason, or "... is not supported" for what only PCRE can do.
    """
    return _Parser(pattern, caseless).parse()


class _Parser(regex_groups.GroupScanner):
    """A recursive descent over one pattern."""

    __slots__ = ()

    def parse(self) -> Syntax:
        self._start()
        tree = self._choice()
        if self._at < len(self._pattern):
            raise self._error("unmatched closing parenthesis", self._at)
        names = {name: tuple(numbers) for name, numbers in self._names.items()}
        links = regex_links.Links(self._pattern, tree, names, self._spans, reset=self._reset)
        links.check_lookbehinds()
        for item in self._later:
            if not isinstance(item, regex_mentions.Reference):
                raise item
            if not self._numbers(item.group):
                raise self._error(regex_mentions.NO_GROUP, item.at)
        if not regex_size.fits(links.tree):
            raise self._error("regular expression is too large", len(self._pattern))
        if self._many is not None:
            raise self._many
        if self._refused is not None:
            raise self._refused
        last = {name: numbers[-1] for name, numbers in names.items()}
        return Syntax(links.resolve(), self._groups, last)

    def _numbers(self, group: int | str) -> tuple[int, ...]:
        """List the numbers of a group that is meant; none if there is no such group."""
        if isinstance(group, str):
            return tuple(self._names.get(group, ()))
        return (group,) if 0 < group <= self._groups else ()

    def _start(self) -> None:
        """Read the settings (*NAME) before a pattern."""
        while True:
            found = _START.match(self._pattern, self._at)
            if found is None:
                break
            self._at = found.end()
        found = _START_ELSE.match(self._pattern, self._at)
        if found:
            raise self._unsupported(found.group().decode("ascii"), self._at)

    # --- structure --------------------------------------------------------------------------

    def _choice(self, *, reset: bool = False) -> regex_tree.Node:
        """Read branches up to ) or the end; options set in one hold for those after it.

        Args: reset: Number the groups of each branch from the same number on: (?|…).
        """
        first = most = self._groups
        branches = [self._sequence()]
        while not self._quoted and self._eat("|"):
            if reset:
                most = max(most, self._groups)
                self._groups = first
            branches.append(self._sequence())
        self._groups = max(most, self._groups)
        return branches[0] if len(branches) == 1 else regex_tree.Choice(tuple(branches))

    def _sequence(self) -> regex_tree.Node:
        items: list[regex_tree.Node] = []
        while True:
            if self._depth > MAX_NESTING and self._at < len(self._pattern):
                raise self._error("parentheses are too deeply nested")
            self._skip()
            if self._at == len(self._pattern) or (not self._quoted and self._peek() in ("|", ")")):
                # a group stays one: it has a size, and its branches are not those around it
                alone = len(items) == 1 and not isinstance(
                    items[0], regex_tree.Sequence | regex_tree.Choice
                )
                return items[0] if alone else regex_tree.Sequence(tuple(items))
            atom = self._atom()
            if isinstance(atom, tuple):  # only the last of these is repeated
                items.extend(atom[:-1])
                atom = atom[-1]
            self._skip()
            bounds = None if self._quoted else self._bounds()
            if bounds is None:
                if atom is not None:
                    items.append(atom)
                continue
            if (
                atom is None
                or atom is regex_tree.NOTHING
                or isinstance(atom, regex_tree.At | regex_tree.Keep)
            ):
                raise self._error(regex_groups.QUANTIFIES_NOTHING, self._at - 1)
            items.append(self._repeat(atom, *bounds))

    def _bounds(self) -> tuple[int, int | None] | None:
        """Read a quantifier's bounds if one stands here."""
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._eat(sign):
                return bounds
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return None
        low = self._count(found, 1)
        high = low if found[2] is None else self._count(found, 3) if found[3] else None
        if high is not None and high < low:
            raise self._error("numbers out of order in {} quantifier", found.end() - 1)
        self._at = found.end()
        return low, high

    def _count(self, found: re.Match[bytes], group: int) -> int:
        digits = found[group]
        for end in range(1, len(digits) + 1):
            if int(digits[:end]) > MAX_REPEAT:
                raise self._error("number too big in {} quantifier", found.start(group) + end)
        return int(digits)

    def _repeat(self, atom: regex_tree.Node, low: int, high: int | None) -> regex_tree.Node:
        self._skip()
        if not self._quoted and self._eat("+"):
            mode = regex_tree.Mode.POSSESSIVE
        elif (not self._quoted and self._eat("?")) != self._options.ungreedy:
            mode = regex_tree.Mode.LAZY
        else:
            mode = regex_tree.Mode.GREEDY
        return regex_tree.Repeat(atom, low, high, mode)

    def _atom(self) -> "regex_tree.Node | tuple[regex_tree.Node, ...] | None":
        """Read one item; None for an option setting, which is no item."""
        char = self._next()
        if self._quoted:
            return self._chars(1 << ord(char))
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == "\\":
            return self._escape()
        if char == ".":
            newline = 0 if self._options.dotall else regex_chars.NEWLINE
            return regex_tree.Chars(regex_chars.EVERY & ~newline, regex_tree.SIZE_TYPE)
        if char == "^":
            return regex_tree.At(
                regex_tree.Place.LINE_START if self._options.multiline else regex_tree.Place.START
            )
        if char == "$":
            return regex_tree.At(
                regex_tree.Place.LINE_END if self._options.multiline else regex_tree.Place.LAST_LINE
            )
        self._at -= 1
        if self._bounds() is not None:
            raise self._error(regex_groups.QUANTIFIES_NOTHING, self._at - 1)
        self._at += 1
        return self._chars(1 << ord(char))
