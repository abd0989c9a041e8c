"""Bytes, quotes, comments and escapes of characters are read as PCRE reads them."""

import pytest

from ngxstream.core import regex_syntax
from ngxstream.core.regex_scan import RegexError


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        (r"\x41\x4\x", "A\x04\0"), (r"\x{41}\o{101}\101", "AAA"),
        (r"\a\e\f\n\r\t", "\7\33\f\n\r\t"),
        (r"\cA\c[\ca", "\1\33\1"), (r"\.\-\_", r"\.-_"), (r"\Qa.b\E.", r"a\.b."), (r"\Q\E\Ea", "a"),
        ("a(?#comment)b", "ab"), ("(?x) a b # c\n c", "abc"), (r"(?x)a\ b", "a b"), ("(?x)a#", "a"),
        (r"\Qa b", "a b"),
    ],
)  # fmt: skip
def test_two_spellings_are_read_alike(pattern: str, plain: str) -> None:
    """What is escaped, quoted or commented is its plain form."""
    assert regex_syntax.parse(plain.encode()) == regex_syntax.parse(pattern.encode())


@pytest.mark.parametrize(
    ("pattern", "reason", "at"),
    [
        (r"a(?#b", "missing ) after (?# comment", 5),
        (r"\x{100}", "character code point value in \\x{} or \\o{} is too large", 6),
        (r"\x{}", "digits missing in \\x{} or \\o{} or \\N{U+}", 3),
        (r"\o{8}", "non-octal character in \\o{} (closing brace missing?)", 3),
        (r"\o1", "missing opening brace after \\o", 2),
        (r"\400", "octal value is greater than \\377 in 8-bit non-UTF-8 mode", 4),
        (r"\c", "\\c at end of pattern", 2),
        ("\\c\1", "\\c must be followed by a printable ASCII character", 2),
        (r"\u", "PCRE2 does not support \\F, \\L, \\l, \\N{name}, \\U, or \\u", 2),
        (r"\N{U+41}", "\\N{U+dddd} is supported only in Unicode (UTF) mode", 2),
        (r"\p{L", "malformed \\P or \\p sequence", 4),
        (r"\p{Nobody}", "unknown property after \\P or \\p", 10),
    ],
)
def test_an_error_is_pcre_s_and_at_its_place(pattern: str, reason: str, at: int) -> None:
    """The offset is where PCRE stopped."""
    with pytest.raises(RegexError) as refused:
        regex_syntax.parse(pattern.encode())
    assert (reason, at) == (refused.value.reason, refused.value.at)


def test_a_message_names_pattern_and_rest() -> None:
    """As nginx prints it, the rest only where there is one."""
    said = [str(RegexError("no", b"ab", at)) for at in (1, 2)]
    head = 'pcre2_compile() failed: no in "ab"'
    assert [f'{head} at "b"', head] == said
