r"""The part of the PCRE pattern reader that reads character classes: [a-z[:alpha:]\d].

Source: pcre2_compile.c:parse_regex(), from ``case CHAR_LEFT_SQUARE_BRACKET`` on.
"""

import re
from typing import Final

from ngxstream.core import regex_chars, regex_scan, regex_tree

_POSIX: Final = re.compile(  # as check_posix_syntax() has it
    rb"\[([:.=])((?:\\[\]\\]|(?!\[\1|\]|\1\]|\\[\]\\]).)*)\1\]", re.DOTALL
)
_UNCLOSED_CLASS: Final = "missing terminating ] for character class"
_BAD_RANGE: Final = "invalid range in character class"
_NOT_IN_A_CLASS: Final = "escape sequence is invalid in character class"
_COLLATING: Final = "POSIX collating elements are not supported"

_WORD: Final = regex_tree.Chars(regex_chars.WORD, regex_tree.SIZE_TYPE)
_WORD_EDGES: Final[dict[str, tuple[regex_tree.Node, ...]]] = {
    "[:<:]]": (
        regex_tree.At(regex_tree.Place.WORD_EDGE),
        regex_tree.Look(_WORD, ahead=True, negative=False),
    ),
    "[:>:]]": (
        regex_tree.At(regex_tree.Place.WORD_EDGE),
        regex_tree.Look(_WORD, ahead=False, negative=False),
    ),
}


class ClassScanner(regex_scan.Scanner):
    """A scanner that reads classes."""

    __slots__ = ("_bytes", "_first", "_properties", "_property_sets", "_range", "_sets")

    def __init__(self, pattern: bytes, caseless: bool) -> None:
        super().__init__(pattern, caseless)
        # of the class that is read now:
        self._sets = 0  # what \d, [:alpha:] and ranges gave
        self._bytes: list[int] = []  # those given one by one
        self._property_sets = 0  # what \p gave: case is not folded there
        self._properties = 0  # how many of them
        self._first = -1  # what could begin a range
        self._range = False  # the first byte of a range and its hyphen have been read

    def _class(self) -> "regex_tree.Node | tuple[regex_tree.Node, ...]":
        """Read a class up to its closing bracket; the words' edges [[:<:]] are two items."""
        for sign, edge in _WORD_EDGES.items():
            if self._eat(sign):
                return edge
        posix = _POSIX.match(self._pattern, self._at - 1)
        if posix:
            if posix[1] == b":":
                raise self._error(
                    "POSIX named classes are supported only within a class", self._at - 1
                )
            raise self._error(_COLLATING, self._at - 1)
        return self._members()

    def _eat_blank(self) -> bool:
        """Pass over a blank that stands for nothing in a class."""
        if self._options.extended_more and self._peek() in (" ", "\t"):
            self._at += 1
            return True
        return False

    def _posix(self, found: re.Match[bytes]) -> int:
        at = found.start() + 1
        if found[1] != b":":
            raise self._error(_COLLATING, found.start())
        name = found[2].decode("latin-1")
        inverted = name.startswith("^")
        name = name.removeprefix("^")
        if name not in regex_chars.POSIX:
            raise self._error("unknown POSIX class name", at + 1 + inverted)
        if self._options.caseless and name in ("upper", "lower"):
            name = "alpha"  # before inverting: PCRE does it so
        self._at = found.end()
        mask = regex_chars.POSIX[name]
        return regex_chars.invert(mask) if inverted else mask

    def _members(self) -> regex_tree.Chars:
        """Read from behind the opening bracket to behind the closing one."""
        self._sets = self._property_sets = self._properties = 0
        self._bytes = []
        self._first, self._range = -1, False
        inverted = self._class_opening()
        while True:
            self._class_item()
            if self._at >= len(self._pattern):
                raise self._error(_UNCLOSED_CLASS)
            if not self._quoted and self._eat("]"):
                break
        if self._range:
            self._bytes.append(0x2D)
        return self._class_chars(inverted)

    def _class_opening(self) -> bool:
        """Pass over ^ and what stands for nothing around it."""
        inverted = False
        unclosed = _UNCLOSED_CLASS
        while True:
            if self._eat("\\E"):
                unclosed = "\\ at end of pattern"  # PCRE takes the backslash up once more
            elif self._eat("\\Q\\E") or self._eat_blank():
                unclosed = _UNCLOSED_CLASS
            elif not inverted and self._eat("^"):
                inverted = True
                unclosed = _UNCLOSED_CLASS
            else:
                break
        if self._at >= len(self._pattern):
            raise self._error(unclosed)
        return inverted

    def _class_chars(self, inverted: bool) -> regex_tree.Chars:
        mask = self._sets | regex_chars.of(bytes(self._bytes))
        plain = self._sets == 0 and not self._properties
        caseless = self._options.caseless
        if plain and (
            len(self._bytes) == 1
            or (
                not inverted
                and len(self._bytes) == 2
                and self._bytes[0] != self._bytes[1]
                and regex_chars.fold(1 << self._bytes[0]) == mask
            )
        ):
            size = regex_tree.SIZE_CHAR
        elif self._properties:
            size = 5 + 3 * self._properties + (32 if self._sets or self._bytes else 0)
        else:
            size = regex_tree.SIZE_CLASS
        mask = (regex_chars.fold(mask) if caseless else mask) | self._property_sets
        return regex_tree.Chars(regex_chars.invert(mask) if inverted else mask, size)

    def _class_item(self) -> None:
        """Read one thing that may stand in a class."""
        if self._quoted:
            if self._eat("\\E"):
                self._quoted = False
            else:
                self._class_byte(ord(self._next()))
            return
        if self._eat_blank():
            return
        start = self._at
        char = self._next()
        if char == "[":
            posix = _POSIX.match(self._pattern, start)
            if posix is None:
                self._class_byte(0x5B)
            else:
                self._class_posix(posix)
        elif char == "-" and self._first >= 0 and not self._range:
            self._range = True
        elif char == "\\":
            self._class_escape()
        else:
            self._class_byte(ord(char))

    def _class_byte(self, byte: int) -> None:
        if not self._range:
            self._bytes.append(byte)
            self._first = byte
            return
        if byte < self._first:
            raise self._error("range out of order in character class", self._at - 1)
        if byte != self._first:
            self._bytes.remove(self._first)
            self._sets |= regex_chars.span(self._first, byte)
        self._first, self._range = -1, False

    def _class_posix(self, posix: re.Match[bytes]) -> None:
        if self._range:
            raise self._error(_BAD_RANGE)
        self._sets |= self._posix(posix)
        self._end_of_set()

    def _end_of_set(self) -> None:
        """Refuse a hyphen that would make a range of a set."""
        self._first = -1
        rest = self._pattern[self._at : self._at + 2]
        if len(rest) == 2 and rest[0] == 0x2D and rest[1] != 0x5D:
            raise self._error(_BAD_RANGE)

    def _class_escape(self) -> None:
        char = self._next()
        if char == "b":
            self._class_byte(8)
        elif char == "Q":
            self._quoted = True
        elif char == "E":
            pass
        elif char and char in "BRX":
            raise self._error(_NOT_IN_A_CLASS, self._at - 1)
        elif char in regex_chars.ESCAPES or (char and char in "pPNACGKZkz"):
            if char == "N":
                self._check_name_of_character()
            if self._range:
                raise self._error(_BAD_RANGE)
            if char == "N":
                raise self._error("\\N is not supported in a class")
            if char in ("p", "P"):
                self._property_sets |= self._property(char)
                self._properties += 1
            elif char in regex_chars.ESCAPES:
                self._sets |= regex_chars.ESCAPES[char]
            else:
                raise self._error(_NOT_IN_A_CLASS, self._at - 1)
            self._end_of_set()
        else:
            self._class_byte(0x67 if char == "g" else self._code(char))
