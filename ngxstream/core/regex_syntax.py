"""PCRE's pattern syntax, read into a tree: what nginx would compile, or why it would not.

Answers for the pattern half of core/ngx_regex.c, where nginx leaves it to PCRE2 (pcre2pattern(3)).
Each construct is either understood exactly or refused by name; none is taken with another
meaning.  Options (?i) and the like are resolved here: the tree has no flags left in it.  Reasons
and offsets of plain errors are PCRE2's own.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from ngxstream.core import regex_chars, regex_scan, regex_tree

MAX_NESTING: Final = 100  # PCRE2 allows 250, which would outgrow Python's own stack here
MAX_REPEAT: Final = 65535
MAX_NAME: Final = 32


@dataclass(frozen=True, slots=True)
class Syntax:
    """A pattern read: its tree, how many groups it captures and which of them have names."""

    tree: regex_tree.Node
    groups: int
    names: dict[str, int]


_OPTION_LETTERS: Final = {
    "i": "caseless",
    "m": "multiline",
    "s": "dotall",
    "x": "extended",
    "U": "ungreedy",
    "n": "plain",
}
_PLACES: Final = {
    "A": regex_tree.Place.START,
    "z": regex_tree.Place.END,
    "Z": regex_tree.Place.LAST_LINE,
    "b": regex_tree.Place.WORD_EDGE,
    "B": regex_tree.Place.NO_WORD_EDGE,
}
_UNSUPPORTED_ESCAPES: Final = {"p": "\\p", "P": "\\P", "X": "\\X", "G": "\\G", "K": "\\K"}
_LOOKS: Final = {"=": (True, False), "!": (True, True), "<=": (False, False), "<!": (False, True)}

_QUANTIFIER: Final = re.compile(rb"\{([0-9]+)(,([0-9]*))?\}")
_NEW_QUANTIFIER: Final = re.compile(rb"\{ *[0-9]* *(, *[0-9]* *)?\}")
_G_NUMBER: Final = re.compile(rb"\{([+-]?[0-9]+)\}|([+-]?[0-9]+)")
_NAME: Final = re.compile(rb"[A-Za-z0-9_]*")
_VERB: Final = re.compile(rb"\(\*[A-Za-z_:][^)]*\)?")

_QUANTIFIES_NOTHING: Final = "quantifier does not follow a repeatable item"
_UNCLOSED: Final = "missing closing parenthesis"
_UNKNOWN_OPTION: Final = "unrecognized character after (? or (?-"
_NO_GROUP: Final = "reference to non-existent subpattern"


def parse(pattern: bytes, *, caseless: bool = False) -> Syntax:
    """Read a pattern.

    raises: RegexError with PCRE2's reason, or "... is not supported" for what only PCRE can do.
    """
    return _Parser(pattern, caseless).parse()


class _Parser(regex_scan.Scanner):
    """A recursive descent over one pattern."""

    __slots__ = ("_closed", "_depth", "_groups", "_names", "_refs")

    def __init__(self, pattern: bytes, caseless: bool) -> None:
        super().__init__(pattern, caseless)
        self._depth = 0
        self._groups = 0
        self._closed: set[int] = set()  # numbers of the groups whose ) has been read
        self._names: dict[str, int] = {}
        self._refs: list[tuple[int | str, int, bool]] = []  # group, offset, closed by then

    def parse(self) -> Syntax:
        tree = self._choice()
        if self._at < len(self._pattern):
            raise self._error("unmatched closing parenthesis", self._at)
        for group, at, closed in self._refs:
            number = self._names.get(group, 0) if isinstance(group, str) else group
            if not 0 < number <= self._groups:
                raise self._error(_NO_GROUP, at)
            if not closed:
                raise self._error("a reference to a group that is not closed is not supported", at)
        return Syntax(tree, self._groups, self._names)

    # --- structure --------------------------------------------------------------------------

    def _choice(self) -> regex_tree.Node:
        """Read branches up to ) or the end; options set in one hold for those after it."""
        branches = [self._sequence()]
        while not self._quoted and self._eat("|"):
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else regex_tree.Choice(tuple(branches))

    def _sequence(self) -> regex_tree.Node:
        items: list[regex_tree.Node] = []
        while True:
            self._skip()
            if self._at == len(self._pattern) or (not self._quoted and self._peek() in ("|", ")")):
                return items[0] if len(items) == 1 else regex_tree.Sequence(tuple(items))
            start = self._at
            atom = self._atom()
            self._skip()
            bounds = None if self._quoted else self._bounds()
            if bounds is None:
                if atom is not None:
                    items.append(atom)
                continue
            if atom is None or isinstance(atom, regex_tree.At):
                raise self._error(_QUANTIFIES_NOTHING, self._at - 1)
            if isinstance(atom, regex_tree.Look):
                raise self._unsupported("a quantifier after a lookaround", start)
            items.append(self._repeat(atom, *bounds))

    def _bounds(self) -> tuple[int, int | None] | None:
        """Read a quantifier's bounds if one stands here."""
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._eat(sign):
                return bounds
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            newer = _NEW_QUANTIFIER.match(self._pattern, self._at)
            if newer and newer.group().strip(b"{}, "):
                # a quantifier to PCRE2 10.43 and later, plain text to those before
                raise self._unsupported(newer.group().decode("ascii"), self._at)
            return None
        self._at = found.end()
        low = int(found[1])
        high = low if found[2] is None else int(found[3]) if found[3] else None
        if max(low, high or 0) > MAX_REPEAT:
            raise self._error("number too big in {} quantifier", self._at - 1)
        if high is not None and high < low:
            raise self._error("numbers out of order in {} quantifier", self._at - 1)
        return low, high

    def _repeat(self, atom: regex_tree.Node, low: int, high: int | None) -> regex_tree.Node:
        self._skip_blanks()
        if self._eat("+"):
            mode = regex_tree.Mode.POSSESSIVE
        elif self._eat("?") != self._options.ungreedy:
            mode = regex_tree.Mode.LAZY
        else:
            mode = regex_tree.Mode.GREEDY
        return regex_tree.Repeat(atom, low, high, mode)

    def _skip_blanks(self) -> None:
        while self._skip_blank():
            pass

    def _atom(self) -> regex_tree.Node | None:
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
            return regex_tree.Chars(
                regex_chars.EVERY & ~(0 if self._options.dotall else regex_chars.NEWLINE)
            )
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
            raise self._error(_QUANTIFIES_NOTHING, self._at - 1)
        self._at += 1
        return self._chars(1 << ord(char))

    # --- groups -----------------------------------------------------------------------------

    def _group(self) -> regex_tree.Node | None:
        """Read what stands after an opening parenthesis."""
        start = self._at - 1
        if not self._eat("?"):
            verb = _VERB.match(self._pattern, start)
            if verb:
                raise self._unsupported(verb.group().decode("latin-1"), start)
            return self._body(start) if self._options.plain else self._capture(start)
        if self._eat(":"):
            return _grouped(self._body(start))
        if self._eat(">"):
            return regex_tree.Atomic(self._body(start))
        for sign in ("=", "!", "<=", "<!"):
            if self._eat(sign):
                return self._look(start, *_LOOKS[sign])
        if self._eat("P"):
            return self._python_group(start)
        if self._eat("<"):
            return self._capture(start, self._name(">"))
        if self._eat("'"):
            return self._capture(start, self._name("'"))
        return self._option_group(start)

    def _python_group(self, start: int) -> regex_tree.Node:
        if self._eat("<"):
            return self._capture(start, self._name(">"))
        if self._eat("="):
            return self._reference(self._name(")"))
        if self._eat(">"):
            raise self._unsupported("recursion (?P>", start)
        raise self._error("unrecognized character after (?P")

    def _body(self, start: int, options: regex_scan.Options | None = None) -> regex_tree.Node:
        """Read a group's inside and its closing parenthesis; options end with the group."""
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error("parentheses are too deeply nested", start + 1)
        outer = self._options
        self._options = options or outer
        body = self._choice()
        self._options = outer
        self._depth -= 1
        if self._quoted or not self._eat(")"):
            raise self._error(_UNCLOSED, len(self._pattern))
        return body

    def _capture(self, start: int, name: str | None = None) -> regex_tree.Node:
        self._groups += 1
        index = self._groups
        if name is not None:
            if name in self._names:
                raise self._error(
                    "two named subpatterns have the same name (PCRE2_DUPNAMES not set)"
                )
            self._names[name] = index
        body = self._body(start)
        self._closed.add(index)
        return regex_tree.Capture(index, body)

    def _look(self, start: int, ahead: bool, negative: bool) -> regex_tree.Node:
        body = self._body(start)
        if not ahead:
            if any(isinstance(part, regex_tree.Backref) for part in regex_tree.walk(body)):
                raise self._unsupported("a back reference in a lookbehind", start)
            branches = body.branches if isinstance(body, regex_tree.Choice) else (body,)
            if any(regex_tree.width(branch) is None for branch in branches):
                raise self._error("lookbehind assertion is not fixed length", start)
        return regex_tree.Look(body, ahead, negative)

    def _name(self, terminator: str) -> str:
        """Read a group's name and what ends it."""
        found = _NAME.match(self._pattern, self._at)
        name = "" if found is None else found.group().decode("ascii")
        if not name:
            raise self._error("subpattern name expected")
        if name[0].isdigit():
            raise self._error("subpattern name must start with a non-digit")
        if len(name) > MAX_NAME:
            raise self._error(
                f"subpattern name is too long (maximum {MAX_NAME} code units)",
                self._at + MAX_NAME + 1,
            )
        self._at += len(name)
        if not self._eat(terminator):
            raise self._error("syntax error in subpattern name (missing terminator?)")
        return name

    def _option_group(self, start: int) -> regex_tree.Node | None:
        """Read (?imsxUn-imsxUn) or (?…:…); refuse what only PCRE can do."""
        options, on = self._options, True
        if self._eat("^"):
            options = regex_scan.Options(ungreedy=options.ungreedy)
        while True:
            char = self._next()
            if char == ")":
                self._options = options
                return None
            if char == ":":
                return _grouped(self._body(start, options))
            if char == "-" and on:
                on = False
            elif char in _OPTION_LETTERS:
                if char == "x" and self._peek() == "x":
                    raise self._unsupported("(?xx)", start)
                options = replace(options, **{_OPTION_LETTERS[char]: on})
            else:
                raise self._option_error(start, char)

    def _option_error(self, start: int, char: str) -> regex_scan.RegexError:
        if not char:
            return self._error(_UNCLOSED, len(self._pattern))
        at_once = self._at == start + 3
        if at_once and (char in "R&+" or char.isdigit()):
            return self._unsupported(f"recursion (?{char}", start)
        if char.isdigit() and self._pattern[start : self._at - 1] == b"(?-":
            return self._unsupported("recursion (?-", start)
        names = {"|": "(?|", "(": "conditional (?(", "C": "callout (?C", "J": "(?J)"}
        if char in names and (at_once or char == "J"):
            return self._unsupported(names[char], start)
        return self._error(_UNKNOWN_OPTION, self._at - 1)

    # --- escapes ----------------------------------------------------------------------------

    def _escape(self) -> regex_tree.Node:
        """Read what stands after a backslash outside a class."""
        start = self._at - 1
        char = self._next()
        if char in regex_chars.ESCAPES:
            return regex_tree.Chars(regex_chars.ESCAPES[char])
        if char in _PLACES:
            return regex_tree.At(_PLACES[char])
        if char == "R":
            return regex_tree.ANY_NEWLINE
        if char == "C":
            return regex_tree.Chars(regex_chars.EVERY)
        if char == "N":
            if self._peek() == "{":
                raise self._unsupported("\\N{", start)
            return regex_tree.Chars(regex_chars.invert(regex_chars.NEWLINE))
        if char == "g":
            return self._escape_g(start)
        if char == "k":
            return self._escape_k()
        if char in "123456789" and char:
            reference = self._numbered(start)
            if reference is not None:
                return reference
            self._at = start + 2
        if char in _UNSUPPORTED_ESCAPES:
            raise self._unsupported(_UNSUPPORTED_ESCAPES[char], start)
        return self._chars(1 << self._code(char))

    def _numbered(self, start: int) -> regex_tree.Node | None:
        r"""Read \1 and the like; None where PCRE takes the digits for an octal code."""
        while self._peek().isascii() and self._peek().isdigit():
            self._at += 1
        digits = self._pattern[start + 1 : self._at].decode("ascii")
        if len(digits) > 1 and digits[0] not in "89" and int(digits) > self._groups:
            return None
        return self._reference(int(digits), self._at - 1)

    def _reference(self, group: int | str, at: int | None = None) -> regex_tree.Node:
        number = self._names.get(group, 0) if isinstance(group, str) else group
        if at is None:
            at = self._at - 1 - len(str(group))
        self._refs.append((group, at, number in self._closed))
        return regex_tree.Backref(number, self._options.caseless)

    def _escape_g(self, start: int) -> regex_tree.Node:
        if self._peek() in ("<", "'"):
            raise self._unsupported("recursion \\g" + self._peek(), start)
        found = _G_NUMBER.match(self._pattern, self._at)
        if found is None:
            if self._eat("{"):
                return self._reference(self._name("}"))
            raise self._error(
                "\\g is not followed by a braced, angle-bracketed, or quoted name/number"
                " or by a plain number"
            )
        self._at = found.end()
        text = (found[1] or found[2]).decode("ascii")
        number = int(text)
        if text[0] == "-":
            number += self._groups + 1
            if number < 1:
                raise self._error(_NO_GROUP, start + 2)
        elif text[0] == "+":
            number += self._groups
        return self._reference(number, self._at - 1)

    def _escape_k(self) -> regex_tree.Node:
        for opening, closing in (("{", "}"), ("<", ">"), ("'", "'")):
            if self._eat(opening):
                return self._reference(self._name(closing))
        raise self._error("\\k is not followed by a braced, angle-bracketed, or quoted name")


def _grouped(body: regex_tree.Node) -> regex_tree.Node:
    """Keep a group an item of its own where that makes a difference to what is around it.

    A group of an assertion may be repeated, the assertion may not; branches in a group are not
    the branches of the lookbehind around it.
    """
    if isinstance(body, regex_tree.At | regex_tree.Look | regex_tree.Choice):
        return regex_tree.Sequence((body,))
    return body
