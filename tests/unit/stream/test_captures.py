"""Regular expressions that leave captures behind."""

import time

import pytest

from ngxstream.core import errors
from ngxstream.event import turn_budget
from ngxstream.stream import captures, variables
from ngxstream.stream.captures import Pattern
from tests.support.sessions import FakeSession


def pattern(text: str, caseless: bool = False) -> tuple[Pattern, variables.VariableTable]:
    """Compile a pattern in a table of its own."""
    table = variables.VariableTable([])
    made = Pattern(text, caseless, table)
    table.link()
    return made, table


def test_a_match_leaves_its_captures() -> None:
    """The whole match first, None for a group that took no part."""
    made, _ = pattern("(a)|(b)")
    s = FakeSession()
    assert made.match(s, b"xb")  # type: ignore[arg-type]
    assert (b"b", None, b"b") == s.captures


def test_no_match_leaves_what_was_before() -> None:
    """Captures of the latest match that was one."""
    made, _ = pattern("(a)")
    s = FakeSession(captures=(b"old",))
    assert not made.match(s, b"b")  # type: ignore[arg-type]
    assert (b"old",) == s.captures


def test_named_captures_are_variables() -> None:
    """A named group that took no part is empty after the match, not "not found"."""
    made, table = pattern("(?<one>a)|(?P<two>b)")
    s = FakeSession()
    one, two = table.refs["one"], table.refs["two"]
    assert None is one.get(s)  # type: ignore[arg-type]
    other = FakeSession()
    made.match(other, b"b")  # type: ignore[arg-type]
    assert (b"", b"b") == (one.get(other), two.get(other))  # type: ignore[arg-type]


def test_caseless() -> None:
    """As `~*` asks for."""
    made, _ = pattern("abc", caseless=True)
    assert made.match(FakeSession(), b"xABC")  # type: ignore[arg-type]
    made, _ = pattern("abc")
    assert not made.match(FakeSession(), b"xABC")  # type: ignore[arg-type]


def test_a_bad_pattern_is_refused() -> None:
    """With PCRE's message."""
    with pytest.raises(errors.ConfError, match=r"^pcre2_compile"):
        pattern("(")


def test_a_capture_cannot_take_a_builtin_name() -> None:
    """As a map cannot."""
    table = variables.VariableTable([variables.Variable("x", lambda s: b"")])
    with pytest.raises(errors.ConfError, match='the duplicate "x" variable'):
        captures.Pattern("(?<x>a)", False, table)


def test_a_subject_that_takes_too_long_is_no_match() -> None:
    """The limit is logged as an error of the session, no alert, and nothing hangs."""
    made, _ = pattern("(x)")
    s = FakeSession(captures=(b"old",))
    assert made.match(s, b"x" * 100_000) is None  # type: ignore[arg-type]
    assert (b"old",) == s.captures
    ((level, line),) = s.target.lines
    assert "error" == level
    assert line.startswith("pcre2_match() failed: -47 on ")


def test_what_is_quoted_of_a_subject_is_text_in_the_log() -> None:
    """Bytes that would move a terminal are escaped by the log."""
    made, _ = pattern("(x)")
    s = FakeSession()
    made.match(s, b"\x1b[2J\xff\n" * 20_000)  # type: ignore[arg-type]
    ((_, line),) = s.target.lines
    assert r'on "\x1B[2J\xFF\x0A\x1B' in line


def spend(s: FakeSession, made: Pattern) -> int:
    """Match a name made for the pattern until the session is told to stop; return how often."""
    for count in range(1000):
        if made.match(s, b"a" * 200 + b"!") is None:  # type: ignore[arg-type]
            return count
    raise AssertionError("nobody stopped it")


def test_a_session_has_its_share_of_a_turn_for_all_patterns() -> None:
    """However many patterns look at its name, together they take a few milliseconds."""
    made, _ = pattern("^(a|aa|aaa|.a|..a)+$")
    other, _ = pattern("(a*)*b$")
    s = FakeSession()
    begun = time.thread_time_ns()
    count = spend(s, made)
    assert time.thread_time_ns() - begun < 20 * turn_budget.OWNER_NS
    assert count > 0
    assert other.match(s, b"a" * 200 + b"!") is None  # type: ignore[arg-type]
    assert made.match(s, b"") is False  # type: ignore[arg-type]
    for call in s.loop.posted:  # the turn is over
        call()
    assert other.match(s, b"a" * 200 + b"!") is False  # type: ignore[arg-type]


def test_one_session_s_share_is_not_another_s() -> None:
    """Who comes after one that has had its share has a share of its own."""
    made, _ = pattern("^(a|aa|aaa|.a|..a)+$")
    first = FakeSession()
    spend(first, made)
    second = FakeSession(loop=first.loop)
    assert made.match(second, b"a" * 200 + b"!") is False  # type: ignore[arg-type]


def test_ordinary_names_are_not_charged() -> None:
    """A thousand patterns may look at a name that is not made for them."""
    made, _ = pattern(r"^(?<sub>[a-z0-9-]+)\.example\.com$")
    s = FakeSession()
    for _ in range(100_000):
        assert made.match(s, b"www.example.com")  # type: ignore[arg-type]
    assert [] == s.loop.posted
