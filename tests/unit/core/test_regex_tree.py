"""What is known of a tree without matching: its width, where it begins, whether it needs bytes."""

import pytest

from ngxstream.core import regex_syntax, regex_tree
from ngxstream.core.regex_tree import Node


def tree_of(pattern: str) -> Node:
    """Read a pattern."""
    return regex_syntax.parse(pattern.encode()).tree


@pytest.mark.parametrize(
    ("pattern", "width"),
    [
        ("", 0), ("abc", 3), ("a|bc", None), ("ab|cd", 2), ("(?:ab){3}", 6), ("a{2,3}", None),
        ("a?", None), (r"^\bab$", 2), ("(?=abc)a", 1), ("(?=abc)*a", 1), ("(?>a)(b)", 2),
        (r"a\K", 1),
        (r"(a)(?(1)bc|de)", 3), (r"(a)(?(1)bc|d)", None),
    ],
)  # fmt: skip
def test_the_width_is_that_of_every_match(pattern: str, width: int | None) -> None:
    """None where two matches may differ."""
    assert width == regex_tree.width(tree_of(pattern))


def test_the_width_of_a_reference_is_that_of_its_group() -> None:
    """Where that is known."""
    tree = regex_tree.Backref((1,), caseless=False)
    assert [None, 4, None] == [regex_tree.width(tree, it) for it in (None, {1: 4}, {2: 4})]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^a", True), (r"\Aa", True), ("(^a)+", True), ("(?>^a)|^b", True), (r"(?=b)^a", True),
        ("a", False), ("(^a)*", False), ("^a|b", False), ("a^", False), ("(?m)^a", False),
    ],
)  # fmt: skip
def test_an_anchored_pattern_begins_at_the_start(pattern: str, expected: bool) -> None:
    """In each of its branches."""
    assert expected is regex_tree.anchored(tree_of(pattern))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", True), ("a*", True), ("(a|)b?", True), (r"\b", True), ("(?=a)", True),
        ("(?:a*)+", True), ("a", False), ("(a|b)+", False), ("a?b", False), ("(?>a)", False),
    ],
)  # fmt: skip
def test_a_nullable_pattern_may_match_nothing(pattern: str, expected: bool) -> None:
    """What needs a byte is not nullable."""
    assert expected is regex_tree.nullable(tree_of(pattern))


def test_an_assertion_is_tried_once_however_often_it_is_repeated() -> None:
    """It says the same each time."""
    look = tree_of("(?=a)")
    greedy = regex_tree.Mode.GREEDY
    bounds = [(5, None), (0, 7), (0, 0)]
    times = [regex_tree.times(regex_tree.Repeat(look, *each, greedy)) for each in bounds]
    assert [(1, 1), (0, 1), (0, 0)] == times


def test_a_walk_meets_every_node_before_its_parts() -> None:
    """Lookarounds and both sides of conditions among them."""
    names = [type(node).__name__ for node in regex_tree.walk(tree_of("(?=a)(b)(?(1)c|d*)"))]
    assert ["Sequence", "Look", "Chars", "Capture", "Chars", "Condition", "Chars", "Repeat",
            "Chars"] == names
