"""Character classes are read as PCRE reads them."""

import pytest

from ngxstream.core import regex_chars, regex_syntax, regex_tree
from ngxstream.core.regex_scan import RegexError


def members(pattern: str, *, caseless: bool = False) -> bytes:
    """Read a pattern that is one class and list the bytes in it."""
    tree = regex_syntax.parse(pattern.encode(), caseless=caseless).tree
    assert isinstance(tree, regex_tree.Chars)
    return bytes(regex_chars.members(tree.mask))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[]a]", b"]a"),
        ("[a-c-e]", b"-abce"),
        ("[-a]", b"-a"),
        ("[a-]", b"-a"),
        ("[+--]", b"+,-"),
        (r"[a\Q-\Ec]", b"-ac"),
        (r"[\Qa\E-c]", b"abc"),
        ("[[:digit:]-]", b"-0123456789"),
        ("[[.a]", b"[.a"),
        ("[[:a]", b"[:a"),
        (r"[\g\8]", b"8g"),
        (r"[\b]", b"\x08"),
        ("(?xx)[ \ta ]", b"a"),
        (r"(?xx)[\ a]", b" a"),
    ],
)
def test_a_class_has_these_members(pattern: str, expected: bytes) -> None:
    """Hyphens, quotes, brackets and blanks are members where PCRE takes them for such."""
    assert bytes(sorted(expected)) == members(pattern)


@pytest.mark.parametrize(
    ("pattern", "missing"),
    [(r"[\E^a]", b"a"), (r"[^\Q\E]]", b"]"), ("(?xx)[^ ^ ]", b"^"), (r"[^\P{Nd}3-9]", None)],
)
def test_an_inverted_class_lacks_these(pattern: str, missing: bytes | None) -> None:
    """The sign is one behind quotes that hold nothing, and once only."""
    expected = b"012" if missing is None else bytes(b for b in range(256) if b not in missing)
    assert expected == members(pattern)


def test_case_is_folded_for_bytes_and_ranges_but_not_for_properties() -> None:
    r"""[b-c] takes C in when case does not count; \p{Lu} stays what it is."""
    assert b"BCbc" == members("[b-c]", caseless=True)
    assert b"ABCDEFGHIJKLMNOPQRSTUVWXYZ" == members(r"[\p{Lu}]", caseless=True)[:26]
    assert b"a" not in members(r"[\p{Lu}]", caseless=True)


@pytest.mark.parametrize(
    ("pattern", "reason", "at"),
    [
        ("[a", "missing terminating ] for character class", 2),
        ("[^", "missing terminating ] for character class", 2),
        (r"[\E", "\\ at end of pattern", 3),
        (r"[a-\d]", "invalid range in character class", 5),
        (r"[\d-a]", "invalid range in character class", 3),
        ("[a-[:digit:]]", "invalid range in character class", 4),
        ("[[:digit:]-a]", "invalid range in character class", 10),
        (r"[\p{L}-a]", "invalid range in character class", 6),
        (r"[\R]", "escape sequence is invalid in character class", 2),
        (r"[\N]", "\\N is not supported in a class", 3),
        (r"[\p{foo}]", "unknown property after \\P or \\p", 8),
        ("[[:^foo:]]", "unknown POSIX class name", 4),
    ],
)
def test_an_error_is_pcre_s_and_at_its_place(pattern: str, reason: str, at: int) -> None:
    """The reason and the offset are the library's."""
    with pytest.raises(RegexError) as refused:
        regex_syntax.parse(pattern.encode())
    assert (reason, at) == (refused.value.reason, refused.value.at)
