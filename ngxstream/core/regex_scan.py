"""The lower half of the PCRE pattern reader: bytes, quotes, character escapes and classes.

Answers for what PCRE2 calls characters and character classes (pcre2pattern(3)); regex_syntax
builds groups and repetition on it.  Reasons and offsets of errors are PCRE2's own.
"""

import re
from dataclasses import dataclass
from typing import Final

from ngxstream.core import regex_chars, regex_tree


class RegexError(ValueError):
    """A pattern that cannot be compiled; the text is what nginx writes to its log."""

    def __init__(self, reason: str, pattern: bytes, at: int) -> None:
        text = pattern.decode("utf-8", "surrogateescape")
        rest = pattern[at:].decode("utf-8", "surrogateescape")
        where = f' in "{text}" at "{rest}"' if at < len(pattern) else f' in "{text}"'
        super().__init__(f"pcre2_compile() failed: {reason}{where}")
        self.reason = reason
        self.at = at


@dataclass(frozen=True, slots=True)
class Options:
    """The options that (?imsxUn) set and unset, valid up to the end of their group."""

    caseless: bool = False  # i
    multiline: bool = False  # m
    dotall: bool = False  # s
    extended: bool = False  # x
    ungreedy: bool = False  # U
    plain: bool = False  # n: ( does not capture


_SIMPLE_ESCAPES: Final = {"a": 7, "e": 27, "f": 12, "n": 10, "r": 13, "t": 9}
_POSIX: Final = re.compile(rb"\[([:.=])((?:(?!\1\]|\]|\\).)*)\1\]", re.DOTALL)
_OCTAL: Final = re.compile(rb"[0-7]{1,3}")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{0,2}")
_BRACED: Final = {8: re.compile(rb"[0-7]*"), 16: re.compile(rb"[0-9A-Fa-f]*")}
_UNCLOSED_CLASS: Final = "missing terminating ] for character class"
_TOO_LARGE: Final = "character code point value in \\x{} or \\o{} is too large"


class Scanner:
    """A position in one pattern, with the options and quoting in force there."""

    __slots__ = ("_at", "_options", "_pattern", "_quoted")

    def __init__(self, pattern: bytes, caseless: bool) -> None:
        self._pattern = pattern
        self._at = 0
        self._options = Options(caseless=caseless)
        self._quoted = False  # between \Q and \E

    def _error(self, reason: str, at: int | None = None) -> RegexError:
        return RegexError(reason, self._pattern, self._at if at is None else at)

    def _unsupported(self, what: str, at: int) -> RegexError:
        return RegexError(f"{what} is not supported", self._pattern, at)

    def _peek(self) -> str:
        """Look at the next byte as a character of ISO 8859-1; "" at the end."""
        return self._pattern[self._at : self._at + 1].decode("latin-1")

    def _next(self) -> str:
        char = self._peek()
        self._at += len(char)
        return char

    def _eat(self, text: str) -> bool:
        if not self._pattern.startswith(text.encode("ascii"), self._at):
            return False
        self._at += len(text)
        return True

    def _skip(self) -> None:
        """Pass over what stands for nothing: quotes, comments, and blanks under (?x)."""
        while self._at < len(self._pattern):
            if self._eat("\\E"):
                self._quoted = False
            elif self._quoted:
                return
            elif self._eat("\\Q"):
                self._quoted = True
            elif self._eat("(?#"):
                end = self._pattern.find(b")", self._at)
                if end < 0:
                    raise self._error("missing ) after (?# comment", len(self._pattern))
                self._at = end + 1
            elif not self._skip_blank():
                return

    def _skip_blank(self) -> bool:
        if not self._options.extended:
            return False
        if self._peek() in tuple(" \t\n\v\f\r"):
            self._at += 1
            return True
        if self._peek() != "#":
            return False
        end = self._pattern.find(b"\n", self._at)
        self._at = len(self._pattern) if end < 0 else end + 1
        return True

    def _chars(self, mask: int) -> regex_tree.Chars:
        return regex_tree.Chars(regex_chars.fold(mask) if self._options.caseless else mask)

    # --- characters -----------------------------------------------------------------------

    def _code(self, char: str) -> int:
        """Read the byte that an escaped character stands for, inside a class or outside."""
        if not char:
            raise self._error("\\ at end of pattern")
        if char in _SIMPLE_ESCAPES:
            return _SIMPLE_ESCAPES[char]
        if char == "x":
            return self._hexadecimal()
        if char == "o":
            if not self._eat("{"):
                raise self._error("missing opening brace after \\o")
            return self._braced(8, "octal")
        if char == "c":
            return self._control()
        if char in "01234567":
            found = _OCTAL.match(self._pattern, self._at - 1)
            digits = b"0" if found is None else found.group()
            self._at += len(digits) - 1
            if int(digits, 8) > 255:
                raise self._error("octal value is greater than \\377 in 8-bit non-UTF-8 mode")
            return int(digits, 8)
        if char in "FLlUu":
            raise self._error("PCRE2 does not support \\F, \\L, \\l, \\N{name}, \\U, or \\u")
        if char.isascii() and char.isalpha():
            raise self._error("unrecognized character follows \\", self._at - 1)
        return ord(char)

    def _hexadecimal(self) -> int:
        if self._eat("{"):
            return self._braced(16, "hex")
        found = _HEX.match(self._pattern, self._at)
        digits = b"" if found is None else found.group()
        self._at += len(digits)
        return int(digits or b"0", 16)

    def _braced(self, base: int, kind: str) -> int:
        start = self._at
        found = _BRACED[base].match(self._pattern, start)
        text = b"" if found is None else found.group()
        self._at += len(text)
        if not text and self._peek() in ("", "}"):
            raise self._error("digits missing in \\x{} or \\o{} or \\N{U+}")
        if text and int(text, base) > 255:
            raise self._error(_TOO_LARGE)
        if not self._eat("}"):
            sign = "x" if base == 16 else "o"
            reason = f"non-{kind} character in \\{sign}{{}} (closing brace missing?)"
            raise self._error(reason, start)
        return int(text, base)

    def _control(self) -> int:
        char = self._next()
        if not char:
            raise self._error("\\c at end of pattern")
        if not " " <= char <= "~":
            raise self._error("\\c must be followed by a printable ASCII character")
        return ord(char.upper()) ^ 64

    # --- classes ----------------------------------------------------------------------------

    def _class(self) -> regex_tree.Node:
        """Read a class up to its closing bracket."""
        start = self._at - 1
        posix = _POSIX.match(self._pattern, start)
        if posix:
            if posix[1] == b":":
                raise self._error("POSIX named classes are supported only within a class", start)
            raise self._error("POSIX collating elements are not supported", start)
        inverted = self._eat("^")
        mask = 0
        first = True
        while True:
            self._skip_quotes()
            if not self._quoted and not first and self._eat("]"):
                break
            mask |= self._class_item()
            first = False
        if self._options.caseless:
            mask = regex_chars.fold(mask)
        return regex_tree.Chars(regex_chars.invert(mask) if inverted else mask)

    def _skip_quotes(self) -> None:
        while True:
            if self._eat("\\E"):
                self._quoted = False
            elif not self._quoted and self._eat("\\Q"):
                self._quoted = True
            else:
                return

    def _class_item(self) -> int:
        """Read one member of a class: a byte, a range or a named set."""
        member = self._class_member()
        self._skip_quotes()
        if self._quoted or self._peek() != "-":
            return 1 << member if member >= 0 else -member
        dash = self._at
        self._at += 1
        self._skip_quotes()
        if not self._quoted and self._peek() in ("]", ""):
            self._at = dash
            return 1 << member if member >= 0 else -member
        if member < 0:
            raise self._error("invalid range in character class", dash)
        opening = self._at
        last = self._class_member()
        if last < 0:
            named = self._pattern[opening : opening + 1] == b"["
            raise self._error(
                "invalid range in character class", opening + 1 if named else self._at
            )
        if last < member:
            raise self._error("range out of order in character class", self._at - 1)
        return regex_chars.span(member, last)

    def _class_member(self) -> int:
        """Read a byte, as itself, or a named set, as its mask below zero."""
        start = self._at
        char = self._next()
        if not char:
            raise self._error(_UNCLOSED_CLASS)
        if self._quoted:
            return ord(char)
        if char == "[":
            posix = _POSIX.match(self._pattern, start)
            return ord(char) if posix is None else -self._posix(posix)
        if char != "\\":
            return ord(char)
        char = self._next()
        if char in regex_chars.ESCAPES:
            return -regex_chars.ESCAPES[char]
        if char == "b":
            return 8
        if char in ("p", "P"):
            raise self._unsupported("\\" + char, start)
        if char == "N":
            raise self._error("\\N is not supported in a class")
        if char and char in "ABCEGKRXZgkz":
            raise self._error("escape sequence is invalid in character class", self._at - 1)
        return self._code(char)

    def _posix(self, found: re.Match[bytes]) -> int:
        at = found.start() + 1
        if found[1] != b":":
            raise self._error("POSIX collating elements are not supported", found.start())
        name = found[2].decode("latin-1")
        inverted = name.startswith("^")
        name = name.removeprefix("^")
        if name not in regex_chars.POSIX:
            raise self._error("unknown POSIX class name", at + 1)
        if self._options.caseless and name in ("upper", "lower"):
            name = "alpha"  # before inverting: PCRE does it so
        self._at = found.end()
        mask = regex_chars.POSIX[name]
        return regex_chars.invert(mask) if inverted else mask
