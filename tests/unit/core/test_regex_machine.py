"""The linear matcher: what it remembers of a place it has tried."""

import pytest

from ngxstream.core import regex_machine, regex_syntax


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
