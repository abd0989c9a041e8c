r"""The part of the PCRE pattern reader that reads escapes and mentions of groups: \d, \1, (?&name).

Source: pcre2_compile.c: check_escape(), read_name(), read_number().
"""

import re
from typing import Final, NamedTuple

from ngxstream.core import regex_chars, regex_class, regex_scan, regex_tree

MAX_GROUPS: Final = 65535
MAX_NAME: Final = 32

UNCLOSED: Final = "missing closing parenthesis"
NO_GROUP: Final = "reference to non-existent subpattern"
_BAD_G: Final = (
    "\\g is not followed by a braced, angle-bracketed, or quoted name/number or by a plain number"
)
_PLACES: Final = {
    "A": regex_tree.Place.START,
    "G": regex_tree.Place.START,  # where the search began: nginx always begins at the start
    "z": regex_tree.Place.END,
    "Z": regex_tree.Place.LAST_LINE,
    "b": regex_tree.Place.WORD_EDGE,
    "B": regex_tree.Place.NO_WORD_EDGE,
}
_NUMBER: Final = re.compile(rb"[+-]?[0-9]+")
_NAME: Final = re.compile(rb"[A-Za-z0-9_]*")


class Reference(NamedTuple):
    """A mention of a group: which, and where an error is if there is none."""

    group: int | str
    at: int


class MentionScanner(regex_class.ClassScanner):
    """A scanner that reads what may stand for a group, and all that begins with a backslash."""

    __slots__ = ("_groups", "_later", "_looks", "_mentions", "_refused")

    def __init__(self, pattern: bytes, caseless: bool) -> None:
        super().__init__(pattern, caseless)
        self._groups = 0  # how many have begun
        self._looks = 0  # how many lookarounds are open
        self._mentions: dict[int, int] = {}  # where a number was referred to first
        # what PCRE complains of when it has read all, in the order of the pattern
        self._later: list[Reference | regex_scan.RegexError] = []
        self._refused: regex_scan.RegexError | None = None  # what is not supported

    def _digit_follows(self, after: int) -> bool:
        return self._pattern[self._at + after : self._at + after + 1].isdigit()

    def _name(self, terminator: str) -> str:
        """Read a group's name and what ends it."""
        name = self._word()
        if not name:
            raise self._error("subpattern name expected")
        if not self._eat(terminator):
            raise self._error("syntax error in subpattern name (missing terminator?)")
        return name

    def _word(self, *, group: bool = True) -> str:
        found = _NAME.match(self._pattern, self._at)
        name = "" if found is None else found.group().decode("ascii")
        if group and name[:1].isdigit():
            raise self._error("subpattern name must start with a non-digit")
        self._at += len(name)
        if len(name) > MAX_NAME:
            raise self._error(f"subpattern name is too long (maximum {MAX_NAME} code units)")
        return name

    def _refuse(self, what: str, at: int) -> None:
        """Note what is not supported: errors that PCRE would find come first."""
        if self._refused is None:
            self._refused = self._unsupported(what, at)

    # --- references -----------------------------------------------------------------------------

    def _number(self) -> int | None:
        """Read the number of a group, with a sign counted from here; None if there is none."""
        found = _NUMBER.match(self._pattern, self._at)
        if found is None:
            return None
        text = found[0].decode("ascii")
        sign = text[0] if text[0] in "+-" else ""
        digits = text.removeprefix(sign)
        most = MAX_GROUPS - (self._groups if sign == "+" else 0)
        for end in range(1, len(digits) + 1):
            if int(digits[:end]) > most:
                self._at += len(sign) + end
                raise self._error("subpattern number is too big")
        self._at = found.end()
        number = int(digits)
        if not sign:
            return number
        if number == 0:
            raise self._error("a relative value of zero is not allowed")
        if sign == "+":
            return number + self._groups
        if number > self._groups:
            raise self._error(NO_GROUP)
        return self._groups + 1 - number

    def _call_by_number(self) -> regex_tree.Node:
        if self._eat("R"):
            if self._peek() != ")":
                raise self._error(
                    "(?R (recursive pattern call) must be followed by a closing parenthesis"
                )
            number = 0
        else:
            if self._peek() == "+" and not self._digit_follows(1):
                raise self._error("digit expected after (?+ or (?-")
            number = self._number() or 0
            if self._peek() != ")":
                raise self._error(UNCLOSED)
        at = self._at
        self._at += 1
        return self._call(number, at)

    def _call(self, group: int | str, at: int) -> regex_tree.Node:
        if group:
            self._later.append(Reference(group, at))
        if isinstance(group, str):
            return regex_tree.Call(0, at, group)
        return regex_tree.Call(group, at)

    def _call_by_name(self) -> regex_tree.Node:
        at = self._at
        return self._call(self._name(")"), at)

    def _reference(self, number: int, at: int) -> regex_tree.Node:
        if number < 10:  # PCRE remembers where these were mentioned first
            at = self._mentions.setdefault(number, at)
        self._later.append(Reference(number, at))
        return regex_tree.Backref((number,), self._options.caseless, at=self._at, error_at=at)

    def _reference_by_name(self, terminator: str) -> regex_tree.Node:
        at = self._at
        name = self._name(terminator)
        self._later.append(Reference(name, at))
        return regex_tree.Backref((), self._options.caseless, name=name, at=self._at, error_at=at)

    # --- escapes ----------------------------------------------------------------------------

    def _escape(self) -> regex_tree.Node:
        """Read what stands after a backslash outside a class."""
        start = self._at - 1
        char = self._next()
        if char in regex_chars.ESCAPES:
            return regex_tree.Chars(regex_chars.ESCAPES[char], regex_tree.SIZE_TYPE)
        if char in _PLACES:
            return regex_tree.At(_PLACES[char])
        if char == "R":
            return regex_tree.ANY_NEWLINE
        if char == "X":
            return regex_tree.ANY_CHARACTER
        if char == "C":
            return regex_tree.Chars(regex_chars.EVERY, regex_tree.SIZE_TYPE)
        if char == "N":
            self._check_name_of_character()
            every = regex_chars.invert(regex_chars.NEWLINE)
            return regex_tree.Chars(every, regex_tree.SIZE_TYPE)
        if char in ("p", "P"):
            mask = self._property(char)
            return regex_tree.Chars(mask, regex_tree.SIZE_PROPERTY)
        if char == "K":
            if self._looks:
                self._later.append(
                    self._error(
                        "\\K is not allowed in lookarounds"
                        " (but see PCRE2_EXTRA_ALLOW_LOOKAROUND_BSK)",
                        len(self._pattern),
                    )
                )
            return regex_tree.Keep()
        if char == "g":
            return self._escape_g()
        if char == "k":
            for opening, closing in (("{", "}"), ("<", ">"), ("'", "'")):
                if self._eat(opening):
                    return self._reference_by_name(closing)
            raise self._error("\\k is not followed by a braced, angle-bracketed, or quoted name")
        if char in "123456789" and char:
            reference = self._numbered(start)
            if reference is not None:
                return reference
            self._at = start + 2
        return self._chars(1 << self._code(char))

    def _numbered(self, start: int) -> regex_tree.Node | None:
        r"""Read \1 and the like; None where PCRE takes the digits for an octal code."""
        while self._digit_follows(0):
            self._at += 1
        digits = self._pattern[start + 1 : self._at].decode("ascii")
        number = int(digits)
        if number > 214748363 or (number > 9 and digits[0] not in "89" and number > self._groups):
            return None
        if number > MAX_GROUPS:
            raise self._error("subpattern number is too big")
        return self._reference(number, self._at - 1)

    def _number_of_g(self, opening: int) -> int | None:
        r"""Read the number in \g{1}; errors are told of the brace before it."""
        try:
            return self._number()
        except regex_scan.RegexError as error:
            raise self._error(error.reason, opening) from None

    def _escape_g(self) -> regex_tree.Node:
        for opening, closing in (("<", ">"), ("'", "'")):
            if self._eat(opening):
                at = self._at
                number = self._number_of_g(at - 1)
                if number is None:
                    return self._call(self._name(closing), at)
                if not self._eat(closing):
                    raise self._error(_BAD_G, at - 1)
                return self._call(number, self._at - 1)
        braced = self._eat("{")
        opening_at = self._at - 1
        number = self._number_of_g(opening_at) if braced else self._number()
        if number is None:
            if braced:
                return self._reference_by_name("}")
            raise self._error(_BAD_G)
        if braced and not self._eat("}"):
            raise self._error(_BAD_G, opening_at)
        if number <= 0:
            raise self._error(NO_GROUP)
        return self._reference(number, self._at - 1)
