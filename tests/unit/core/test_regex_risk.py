"""How long a backtracking matcher may take: judged to the safe side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import regex_risk, regex_syntax


def judged(pattern: str) -> regex_risk.Risk:
    """Judge a pattern."""
    return regex_risk.assess(regex_syntax.parse(pattern.encode()).tree)


@pytest.mark.parametrize(
    ("pattern", "degree"),
    [
        ("^abc$", 0), ("abc", 1), ("^a*$", 1), ("^a*b*$", 1), ("^a*a*$", 2), ("^a*.*a*$", 3),
        ("a*b", 2), ("(a+)+$", regex_risk.EXPONENTIAL), ("^(a|a)*$", regex_risk.EXPONENTIAL),
        ("^(a|b)*$", 1), (r"^(\w+\s)*$", 1), (r"^(\w+\s?)*$", regex_risk.EXPONENTIAL),
    ],
)  # fmt: skip
def test_the_power_is_that_of_loops_that_read_the_same_bytes(pattern: str, degree: int) -> None:
    """A search that may begin anywhere is one loop more."""
    assert degree == judged(pattern).degree


def test_what_is_too_large_to_be_judged_counts_as_exponential() -> None:
    """The judgement is bounded itself."""
    many = "".join(f"[{chr(97 + n % 26)}x]" for n in range(regex_risk.MAX_STATES + 1))
    assert regex_risk.EXPONENTIAL == judged(f"^{many}").degree


def test_ways_without_a_loop_are_a_factor() -> None:
    """Counted apart from the power."""
    assert judged("^(a|a)(a|a)$").factor > judged("^(a|b)(a|b)$").factor


@given(masks=st.lists(st.one_of(st.integers(0, 255).map(lambda byte: 1 << byte),
                                st.integers(0, (1 << 256) - 1)), max_size=8))
def test_one_byte_stands_for_all_that_are_in_the_same_masks(masks: list[int]) -> None:
    """No two of those that stand for others are of one kind, and no kind is missing."""
    rows = [tuple(bool(mask & byte) for mask in masks) for byte in regex_risk.kinds_of(masks)]
    every = {tuple(bool(mask >> byte & 1) for mask in masks) for byte in range(256)}
    assert sorted(every) == sorted(rows)
