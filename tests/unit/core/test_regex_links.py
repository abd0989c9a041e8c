"""Groups that a pattern speaks of: called, referred to, measured, or refused by name."""

import pytest

from ngxstream.core import regex_syntax, regex_tree
from ngxstream.core.regex_scan import RegexError


def read(pattern: str) -> regex_tree.Node:
    """Read a pattern."""
    return regex_syntax.parse(pattern.encode()).tree


def kinds(pattern: str) -> list[str]:
    """List what is in a pattern's tree."""
    return [type(node).__name__ for node in regex_tree.walk(read(pattern))]


def refusal(pattern: str) -> RegexError:
    """Read what must be refused."""
    with pytest.raises(RegexError) as refused:
        read(pattern)
    return refused.value


@pytest.mark.parametrize("call", ["(?1)", "(?-1)", r"\g<1>", r"\g'-1'", "(?&n)", "(?P>n)"])
def test_a_call_is_written_out_without_its_capture(call: str) -> None:
    """However it is spelled, it matches what the group matches and keeps nothing."""
    assert read(f"(?<n>ab){call}") == regex_tree.Sequence(
        (
            regex_tree.Capture(1, read("ab")),
            regex_tree.Sequence((read("ab"),)),
        )
    )


def test_a_group_may_be_called_before_it_comes() -> None:
    """PCRE looks for groups when it has read all."""
    assert read("(?+1)(a)") == regex_tree.Sequence(
        (regex_tree.Sequence((read("a"),)), regex_tree.Capture(1, read("a")))
    )


@pytest.mark.parametrize("pattern", ["(?R)", "(a(?1)?)", "(a(?2)?)(b(?1)?)", r"(?<=(a(?1)))b"])
def test_a_group_that_calls_itself_is_refused(pattern: str) -> None:
    """Recursion is PCRE's own; in a lookbehind PCRE refuses it as well."""
    assert refusal(pattern).reason in (
        "recursion is not supported",
        "lookbehind assertion is not fixed length",
    )


def test_calls_that_grow_without_measure_are_refused() -> None:
    """Each calls the one before twice: a million nodes out of twenty groups."""
    pattern = "(a)" + "".join(f"((?{n})(?{n}))" for n in range(1, 21))
    assert (
        "a pattern whose calls of groups are so large is not supported" == refusal(pattern).reason
    )


@pytest.mark.parametrize("pattern", [r"\1(a)", r"(a\1)", r"(?:\1|b)(a)", r"((b|\2))"])
def test_a_reference_to_what_cannot_have_matched_matches_nothing(pattern: str) -> None:
    """Without a loop around both nothing comes back to it."""
    assert "Backref" not in kinds(pattern)


@pytest.mark.parametrize("pattern", [r"(?:\1b|(a))*", r"(a|\1b)+", r"(?:\1(a)){2}"])
def test_a_reference_to_what_may_have_matched_in_a_loop_is_refused(pattern: str) -> None:
    """Python's matcher knows no group before it is closed."""
    reason = "a reference to a group that is not closed is not supported"
    assert reason == refusal(pattern).reason


def test_a_condition_on_what_cannot_have_matched_is_its_second_branch() -> None:
    """The groups of the first are counted all the same."""
    assert "Condition" not in kinds("(?(1)(b)|c)(a)")
    assert 2 == regex_syntax.parse(b"(?(1)(b)|c)(a)").groups


@pytest.mark.parametrize(
    ("pattern", "at"),
    [
        ("(?<=a|b*)c", 0),
        ("x(?<!a(?<=b+)c)", 6),
        ("(?<=(?=(?<=a+)b)c)", 7),
        (r"(?<=\R)", 0),
        (r"a(?<=\X)", 1),
        ("(*plb:a?)", 2),
        ("(?<=(a|bc)d)", 0),
    ],
)
def test_the_innermost_lookbehind_without_a_length_is_named(pattern: str, at: int) -> None:
    """PCRE measures what is inside first, and says where that begins."""
    refused = refusal(pattern)
    assert ("lookbehind assertion is not fixed length", at) == (refused.reason, refused.at)


def test_a_lookbehind_is_not_too_long() -> None:
    """65535 bytes are the most."""
    read("(?<=a{65535})")
    assert "lookbehind assertion is too long" == refusal("(?<=a{65535}b)").reason
