"""Patterns are too large here where they are too large for PCRE."""

import pytest

from ngxstream.core import regex_size, regex_syntax
from ngxstream.core.regex_scan import RegexError
from tests.support import pcre

# with {} for a count, and the largest that PCRE2 10.42 compiles
GROWING = [
    ("(?:ab){{{}}}", 6552),
    ("(a){{{}}}", 6552),
    ("(?:a|b){{{}}}", 5040),
    (r"(?:\d[ab]){{{}}}", 1638),
    ("(?:a{{0,1000}}){{{}}}", 6552),
    ("(?:ab){{0,{}}}", 3855),
    ("(?>ab){{1,{}}}", 3855),
    ("(?:ab){{{},}}+", 6552),
    ("(?=a){{{}}}", 8191),
    (r"(?:\p{{L}}[\p{{L}}a]){{{}}}", 1337),
]


def compiles(pattern: str) -> bool:
    """Tell whether a pattern is read, or refused as too large and for nothing else."""
    reason = ""
    try:
        regex_syntax.parse(pattern.encode())
    except RegexError as error:
        reason = error.reason
    assert reason in ("", "regular expression is too large")
    return not reason


@pytest.mark.parametrize("pattern", ["x{65535}", "(a{255}){255}", "(?:a{1000}){1000}"])
def test_bytes_that_are_counted_take_no_room(pattern: str) -> None:
    """Only groups are written out."""
    assert compiles(pattern)


@pytest.mark.parametrize(("pattern", "most"), GROWING)
def test_a_counted_group_may_be_as_large_as_pcre_allows(pattern: str, most: int) -> None:
    """One more is too large."""
    assert compiles(pattern.format(most))
    assert not compiles(pattern.format(most + 1))


@pytest.mark.parametrize(("pattern", "most"), GROWING)
def test_pcre_draws_the_line_at_the_same_place(pattern: str, most: int) -> None:
    """The numbers above are the library's."""
    real = pcre.load()
    if real is None:
        pytest.skip("libpcre2-8 is not installed")
    if not (10, 40) <= real.version < (10, 43):
        pytest.skip("this PCRE2 measures otherwise")
    assert not isinstance(real.search(pattern.format(most).encode(), [], caseless=False), tuple)
    too_large = real.search(pattern.format(most + 1).encode(), [], caseless=False)
    assert isinstance(too_large, pcre.Refusal)
    assert "regular expression is too large" == too_large.reason


def test_a_pattern_without_counts_fits() -> None:
    """Nobody writes one by hand that does not."""
    assert regex_size.fits(regex_syntax.parse(b"(a|b)*" * 400).tree)
