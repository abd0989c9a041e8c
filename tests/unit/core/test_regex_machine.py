"""The linear matcher: what it remembers of a place it has tried."""

import contextlib

import pytest

from ngxstream.core import regex_machine, regex_syntax
from tests.support.work import lines_run


def search(pattern: str, subject: bytes) -> tuple[int, ...] | None:
    """Search with the linear matcher, whatever the pattern."""
    syntax = regex_syntax.parse(pattern.encode())
    return regex_machine.Machine(syntax.tree, syntax.groups).search(subject)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("(a*)*", b"ab", (0, 1, 1, 1)),
        ("(a*)+", b"ab", (0, 1, 1, 1)),
        ("((?:.+)*)+", b"ab", (0, 2, 2, 2)),
        ("(([^a]|a\\Z)*)+", b"b\nb.", (0, 4, 4, 4, 3, 4)),
        ("(?:(a)|b*)*c", b"abbc", (0, 4, 0, 1)),
    ],
)
def test_a_place_is_tried_again_by_a_loop_that_has_matched_nothing(
    pattern: str, subject: bytes, expected: tuple[int, ...]
) -> None:
    """A place tried inside a repetition is another one once the repetition is empty there."""
    assert expected == search(pattern, subject)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("((?:a?)+)*", b"a", (0, 1, 1, 1)),
        ("((?:(?:(?:b)?))+)+", b"b", (0, 1, 1, 1)),
        ("((a*)+)*", b"ab", (0, 1, 1, 1, 1, 1)),
        ("((.*)+)*b", b"\r\nbab\n", (2, 5, 4, 4, 4, 4)),
    ],
)
def test_each_loop_of_several_is_told_apart(
    pattern: str, subject: bytes, expected: tuple[int, ...]
) -> None:
    """Which of the nested repetitions are empty at a place is remembered of each."""
    assert expected == search(pattern, subject)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("^(a{20})a", b"a" * 25, (0, 21, 0, 20)),
        ("^a{20}", b"a" * 19, None),
        ("^([ab]{2,40})b", b"aabab", (0, 5, 0, 4)),
        ("^([ab]{2,40}?)b", b"aabab", (0, 3, 0, 2)),
        ("^(?:a{0,20}b{0,20}){3}$", b"aabbaabb", (0, 8)),
        ("^(?:(a{0,20})c)?a{0,20}?b", b"aab", (0, 3, -1, -1)),
        ("a{3,30}+a", b"aaaa", None),
        (r"a\Kb", b"ab", (1, 2)),
        ("(?|(a)|(b))*", b"ab", (0, 2, 1, 2)),
        ("(?=(a))*ab", b"ab", (0, 2, 0, 1)),
    ],
)
def test_counted_bytes_are_one_instruction_and_match_as_if_written_out(
    pattern: str, subject: bytes, expected: tuple[int, ...] | None
) -> None:
    """The most first, or the fewest, and back by one byte at a time."""
    assert expected == search(pattern, subject)


@pytest.mark.parametrize(
    "pattern", ["(?:(?:a?)*){1000}b", "(?:a{0,30000}){3}b", "(?:(?=a{0,3000}b)|a)*c", "a{3000}b"]
)
def test_what_an_instruction_does_besides_is_counted_too(pattern: str) -> None:
    """Many loops make a place long to remember, and a count reads many bytes at once."""
    syntax = regex_syntax.parse(pattern.encode())
    machine = regex_machine.Machine(syntax.tree, syntax.groups)

    def match() -> None:
        with contextlib.suppress(regex_machine.MatchLimitError):
            machine.search(b"a" * 5000)

    assert lines_run(match) < 25 * regex_machine.MAX_STEPS


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a$", b"a\n", (0, 1)),
        ("a$", b"a\n\n", None),
        ("a$", b"ab", None),
        (r"a\Z", b"a\n", (0, 1)),
        (r"a\z", b"a\n", None),
        (r"a\z", b"a", (0, 1)),
        (r"\Aa", b"ba", None),
        ("(?m)a$", b"a\nb", (0, 1)),
        ("(?m)^a", b"b\na", (2, 3)),
        (r"a\b", b"a-", (0, 1)),
        (r"a\B", b"ab", (0, 1)),
        (r"a\b", b"ab", None),
    ],
)
def test_places_are_those_of_pcre(
    pattern: str, subject: bytes, expected: tuple[int, ...] | None
) -> None:
    """The end of a text is also before its last line feed, unless the very end is meant."""
    assert expected == search(pattern, subject)
