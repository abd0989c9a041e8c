"""Expressions that are passed over do not match, and many are passed over."""


import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ngxstream.core import regex
from ngxstream.core.regex_literals import LONGEST, MOST, Sieve

ATOMS = st.sampled_from([
    "a", "B", "ab", "abc", ".", "[ab]", "[aA]", r"\.", "(ab)", "(?:a|b)", "(?>ab)", "(?i:bC)",
    "a{3}", "(?:ab){2}", "b{2,3}", "c?", "a*", "(?=a)", r"\b", "^", "$", r"\K", "(a)?b", "(?:)",
    "(?:ab)+", "(?:a{0}b)", "(?<=a)", r"\x41",
])
PATTERNS = st.lists(ATOMS, min_size=1, max_size=5).map("".join)
SUBJECTS = st.text("abcABC.", max_size=12).map(str.encode)


@given(patterns=st.lists(PATTERNS, min_size=1, max_size=8), subject=SUBJECTS,
       caseless=st.booleans())
@example(patterns=["(?i:bC)a"], subject=b"Bca", caseless=False)
@settings(max_examples=500)
def test_what_matches_is_a_candidate(
    patterns: list[str], subject: bytes, caseless: bool
) -> None:
    """In the order of the expressions, whatever they are made of."""
    compiled = [regex.compile(pattern, caseless=caseless) for pattern in patterns]
    found = list(Sieve([one.literals for one in compiled]).candidates(subject))
    assert found == sorted(set(found))
    matching = {n for n, one in enumerate(compiled) if one.search(subject) is not None}
    assert matching <= set(found)


@pytest.mark.parametrize(("pattern", "expected"), [
    (r"^host7\.example\.(com|org)$", (b"host7.example.",)),
    ("a(b(c))d", (b"abcd",)),
    ("a?bc+d", (b"bc", b"d")),
    ("(?i)ABC", (b"abc",)),
    ("xy{3}z", (b"xyyyz",)),
    ("a.b", (b"a", b"b")),
    (r"a\bc(?=d)e", (b"ace",)),
    ("(?:a|ab)c", (b"c",)),
    ("[0-9]*", ()),
])
def test_texts_that_each_match_contains(pattern: str, expected: tuple[bytes, ...]) -> None:
    """What stands in a row in the expression, in small letters."""
    assert expected == regex.compile(pattern).literals


def test_the_texts_of_an_expression_are_bounded() -> None:
    """However often something is repeated in it."""
    assert MOST == sum(map(len, regex.compile("((?:ab){200}){20}").literals))


def test_of_ten_thousand_expressions_few_are_tried() -> None:
    """Those that have something rare in common with the subject."""
    compiled = [(f"host{n}.example.".encode(),) for n in range(10_000)]
    found = list(Sieve(compiled).candidates(b"www.HOST4711.example.com"))
    assert [4711] == found
    assert [] == list(Sieve(compiled).candidates(b"127.0.0.1"))


def test_a_long_subject_is_tried_with_all() -> None:
    """To look all of it up would take longer."""
    sieve = Sieve([(b"abcd",)] * 3)
    assert [0, 1, 2] == list(sieve.candidates(bytes(LONGEST + 1)))
    assert [] == list(sieve.candidates(bytes(LONGEST)))


def test_an_expression_without_a_text_is_always_tried() -> None:
    """It stands among the others in its place."""
    sieve = Sieve([(b"abcd",), (), (b"x",), (b"bcde",)])
    assert ([1, 2], [0, 1, 2, 3]) == (
        list(sieve.candidates(b"")), list(sieve.candidates(b"-ABCDE"))
    )
