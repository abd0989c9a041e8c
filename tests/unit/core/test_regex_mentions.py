"""Escapes and mentions of groups: by number, relative number and name."""

import pytest

from ngxstream.core import regex_syntax, regex_tree
from ngxstream.core.regex_scan import RegexError


@pytest.mark.parametrize(
    "pattern",
    [r"(a)\1", r"(a)\g1", r"(a)\g{1}", r"(a)\g{-1}", r"(?<n>a)\k<n>", r"(?<n>a)\k'n'",
     r"(?<n>a)\k{n}", r"(?<n>a)(?P=n)", r"(?<n>a)\g{n}"],
)  # fmt: skip
def test_a_reference_may_be_spelled_in_many_ways(pattern: str) -> None:
    """All of them mean the same group."""
    tree = regex_syntax.parse(pattern.encode()).tree
    (found,) = [node for node in regex_tree.walk(tree) if isinstance(node, regex_tree.Backref)]
    assert (1,) == found.groups


@pytest.mark.parametrize(
    "call", ["(?1)", "(?-1)", r"\g<1>", r"\g'1'", r"\g<-1>", "(?&n)", "(?P>n)", r"\g<n>"]
)
def test_a_call_may_be_spelled_in_many_ways(call: str) -> None:
    """All of them are the group's body once more, which captures nothing there."""
    tree = regex_syntax.parse(f"(?<n>ab){call}".encode()).tree
    nodes = list(regex_tree.walk(tree))
    captures = [node for node in nodes if isinstance(node, regex_tree.Capture)]
    assert (1, 4) == (len(captures), sum(isinstance(node, regex_tree.Chars) for node in nodes))


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [(r"\11", r"\x09"), (r"\81", None), (r"(a)\12", r"(a)\x0a"), (r"\0", r"\x00"), (r"\R", None)],
)
def test_digits_are_a_reference_or_an_octal_code(pattern: str, plain: str | None) -> None:
    """As many groups as there are decide, but for 8 and 9, which are no octal digits."""
    if plain is not None:
        assert regex_syntax.parse(plain.encode()) == regex_syntax.parse(pattern.encode())
    elif pattern == r"\R":
        assert regex_tree.ANY_NEWLINE == regex_syntax.parse(pattern.encode()).tree
    else:
        with pytest.raises(RegexError, match="reference to non-existent subpattern"):
            regex_syntax.parse(pattern.encode())


@pytest.mark.parametrize(
    ("pattern", "reason", "at"),
    [
        (r"\1", "reference to non-existent subpattern", 1),
        (r"(a)\g{-2}", "reference to non-existent subpattern", 5),
        (r"(?&n)", "reference to non-existent subpattern", 3),
        (r"\k", "\\k is not followed by a braced, angle-bracketed, or quoted name", 2),
        (r"(?<1>a)", "subpattern name must start with a non-digit", 3),
        ("(?<" + "n" * 33 + ">a)", "subpattern name is too long (maximum 32 code units)", 36),
        (r"(?<n", "syntax error in subpattern name (missing terminator?)", 4),
        (r"(?+)", "digit expected after (?+ or (?-", 2),
        (r"(?R1)", "(?R (recursive pattern call) must be followed by a closing parenthesis", 3),
        (r"(a)\g{0}", "reference to non-existent subpattern", 8),
        (r"(a)(?-0)", "a relative value of zero is not allowed", 7),
    ],
)
def test_what_no_group_answers_to_is_refused(pattern: str, reason: str, at: int) -> None:
    """With PCRE's reason, at its place."""
    with pytest.raises(RegexError) as refused:
        regex_syntax.parse(pattern.encode())
    assert (reason, at) == (refused.value.reason, refused.value.at)
