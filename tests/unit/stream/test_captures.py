"""Regular expressions that leave captures behind."""

import pytest

from ngxstream.core import errors
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
    assert not made.match(s, b"x" * 100_000)  # type: ignore[arg-type]
    assert (b"old",) == s.captures
    ((level, line),) = s.target.lines
    assert "error" == level
    assert line.startswith("pcre2_match() failed: -47 on ")
