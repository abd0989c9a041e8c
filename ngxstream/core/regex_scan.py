"""The lower half of the PCRE pattern reader: bytes, quotes, character escapes and classes.

Answers for what PCRE2 calls characters and character classes (pcre2pattern(3)); regex_syntax
builds groups and repetition on it.  Reasons and offsets of errors are PCRE2's own.
"""

import re
from dataclasses import dataclass
from typing import Final

from ngxstream.core import regex_chars, regex_tree, regex_unicode

MAX_MESSAGE: Final = 1024  # NGX_MAX_CONF_ERRSTR: what is longer is cut


class RegexError(ValueError):
    """A pattern that cannot be compiled; the text is what nginx writes to its log."""

    def __init__(self, reason: str, pattern: bytes, at: int) -> None:
        text = pattern.decode("utf-8", "surrogateescape")
        rest = pattern[at:].decode("utf-8", "surrogateescape")
        where = f' in "{text}" at "{rest}"' if at < len(pattern) else f' in "{text}"'
        said = f"pcre2_compile() failed: {reason}{where}".encode("utf-8", "surrogateescape")
        super().__init__(said[:MAX_MESSAGE].decode("utf-8", "surrogateescape"))
        self.reason = reason
        self.at = at


@dataclass(frozen=True, slots=True)
class Options:
    """The options that (?imsxUnJ) set and unset, valid up to the end of their group."""

    caseless: bool = False  # i
    multiline: bool = False  # m
    dotall: bool = False  # s
    extended: bool = False  # x
    extended_more: bool = False  # xx: in classes too
    ungreedy: bool = False  # U
    plain: bool = False  # n: ( does not capture
    duplicates: bool = False  # J: names may be given twice


_SIMPLE_ESCAPES: Final = {"a": 7, "e": 27, "f": 12, "n": 10, "r": 13, "t": 9}
_OCTAL: Final = re.compile(rb"[0-7]{1,3}")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{0,2}")
_BRACED: Final = {8: re.compile(rb"[0-7]*"), 16: re.compile(rb"[0-9A-Fa-f]*")}
_COUNTS: Final = re.compile(rb"\{[0-9]+(,[0-9]*)?\}")
_MALFORMED: Final = "malformed \\P or \\p sequence"
_MAX_PROPERTY: Final = 49  # bytes of its name, without blanks
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
        if self._peek() in tuple(" \t\n\v\f\r\x85"):
            self._at += 1
            return True
        if self._peek() != "#":
            return False
        end = self._pattern.find(b"\n", self._at)
        self._at = len(self._pattern) if end < 0 else end + 1
        return True

    def _chars(self, mask: int) -> regex_tree.Chars:
        return regex_tree.Chars(regex_chars.fold(mask) if self._options.caseless else mask)

    def _property(self, char: str) -> int:
        r"""Read the name behind \p or \P and make the set of the bytes that are meant."""
        inverted = char == "P"
        if self._eat("{"):
            inverted ^= self._eat("^")
            name = self._property_name()
        else:
            name = self._next()
            if not (name.isascii() and name.isalpha()):
                raise self._error(_MALFORMED)
        mask = regex_unicode.find(name.lower())
        if mask is None:
            raise self._error("unknown property after \\P or \\p")
        return regex_chars.invert(mask) if inverted else mask

    def _property_name(self) -> str:
        name = ""
        while len(name) < _MAX_PROPERTY:
            char = self._next()
            while char and char in regex_unicode.SPACES:
                char = self._next()
            if not char or char == "\0":
                raise self._error(_MALFORMED)
            if char == "}":
                return name
            name += char if char > "\x7f" else char.lower()
        raise self._error(_MALFORMED)

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
                at = min(self._at, len(self._pattern) - 1)
                raise self._error("missing opening brace after \\o", at)
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
        found = _BRACED[base].match(self._pattern, self._at)
        text = b"" if found is None else found.group()
        self._at += len(text)
        if not text and self._peek() in ("", "}"):
            raise self._error("digits missing in \\x{} or \\o{} or \\N{U+}")
        if text and int(text, base) > 255:
            raise self._error(_TOO_LARGE)
        if not self._eat("}"):
            sign = "x" if base == 16 else "o"
            reason = f"non-{kind} character in \\{sign}{{}} (closing brace missing?)"
            raise self._error(reason, min(self._at, len(self._pattern) - 1))
        return int(text, base)

    def _control(self) -> int:
        char = self._next()
        if not char:
            raise self._error("\\c at end of pattern")
        if not " " <= char <= "~":
            raise self._error("\\c must be followed by a printable ASCII character", self._at - 1)
        return ord(char.upper()) ^ 64

    def _check_name_of_character(self) -> None:
        r"""Refuse \N{…} unless the braces count."""
        if not self._pattern.startswith(b"{", self._at):
            return
        if self._pattern.startswith(b"U+", self._at + 1):
            raise self._error("\\N{U+dddd} is supported only in Unicode (UTF) mode")
        if _COUNTS.match(self._pattern, self._at) is None:
            raise self._error("PCRE2 does not support \\F, \\L, \\l, \\N{name}, \\U, or \\u")
