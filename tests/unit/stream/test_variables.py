"""The variable table: definitions, caching, assignment, families, depth."""

from collections.abc import Callable
from typing import Any

import pytest

from ngxstream.core import errors
from ngxstream.stream import variables
from ngxstream.stream.values import ComplexValue, compile_value
from ngxstream.stream.variables import CHANGEABLE, NOCACHEABLE, PREFIX, PURE, Variable
from tests.support.sessions import FakeSession


def counter(value: bytes = b"") -> tuple[Callable[[Any], bytes], list[int]]:
    """Return a getter that says how often it was called, and the count it keeps."""
    calls = [0]

    def get(s: Any) -> bytes:
        calls[0] += 1
        return value + b"%d" % calls[0]

    return get, calls


def linked(table: variables.VariableTable, *texts: str) -> list[ComplexValue]:
    """Compile values and complete the table."""
    made = [compile_value(text, table) for text in texts]
    table.link()
    return made


def table_of(*builtin: Variable) -> variables.VariableTable:
    """Return a table with these built-in variables."""
    return variables.VariableTable(builtin)


def test_a_variable_is_asked_once_a_session() -> None:
    """A cacheable variable keeps its first value for the session, and for it alone."""
    get, calls = counter()
    (value,) = linked(table_of(Variable("x", get)), "$x-${x}")
    s = FakeSession()
    assert b"1-1" == value.get(s)
    assert b"1-1" == value.get(s)
    assert b"2-2" == value.get(FakeSession())
    assert [2] == calls


@pytest.mark.parametrize("flag", [NOCACHEABLE, PURE])
def test_an_uncached_variable_is_asked_at_every_use(flag: int) -> None:
    """NOCACHEABLE and PURE getters are called each time."""
    get, _ = counter()
    (value,) = linked(table_of(Variable("x", get, flag)), "$x-$x")
    assert b"1-2" == value.get(FakeSession())


@pytest.mark.parametrize(
    ("early", "flags", "expected"),
    [(False, 0, (b"1", b"2")), (True, 0, (b"1", b"1")), (False, CHANGEABLE, (b"1", b"1"))],
)
def test_what_only_a_log_names_is_not_cached(early: bool, flags: int, expected: Any) -> None:
    """A value used before the end is the one that is logged; a map is worked out once at most."""
    get, _ = counter()
    table = table_of(Variable("x", get, flags))
    ref = table.ref("x", late=True)
    if early:
        table.ref("x")
    table.link()
    s = FakeSession()
    assert expected == (ref.get(s), ref.get(s))


def test_not_found_is_cached_too() -> None:
    """A getter that found nothing is not asked again."""
    calls = []
    (value,) = linked(table_of(Variable("x", calls.append)), "[$x]")
    s = FakeSession()
    assert b"[]" == value.get(s) == value.get(s)
    assert 1 == len(calls)


def test_names_are_caseless() -> None:
    """`$X` and `$x` are one variable with one value."""
    get, _ = counter()
    (value,) = linked(table_of(Variable("x", get)), "$X$x")
    assert b"11" == value.get(FakeSession())


def test_a_builtin_is_not_redefined() -> None:
    """A variable that is not changeable stays; the message names it as written."""
    table = table_of(Variable("x", lambda s: b""))
    with pytest.raises(errors.ConfError, match=r'^the duplicate "X" variable$'):
        table.add("X", lambda s: b"")


def test_a_changeable_variable_is_redefined() -> None:
    """Of two maps of one variable the later one counts."""
    table = table_of()
    table.add("x", lambda s: b"first")
    table.add("X", lambda s: b"second")
    (value,) = linked(table, "$x")
    assert b"second" == value.get(FakeSession())


def test_volatility_is_never_taken_back() -> None:
    """A volatile map redefined by a plain one stays uncached, as nginx's flags do."""
    get, _ = counter()
    table = table_of()
    table.add("x", get, CHANGEABLE | NOCACHEABLE)
    table.add("x", get)
    (value,) = linked(table, "$x$x")
    assert b"12" == value.get(FakeSession())


def test_an_unknown_variable_is_found_at_the_end() -> None:
    """A reference to a name that nobody defines fails when the block is complete."""
    table = table_of()
    compile_value("$nobody", table)
    with pytest.raises(errors.UnplacedError, match=r'^unknown "nobody" variable$'):
        table.link()


def test_a_reference_may_come_before_its_definition() -> None:
    """Order does not matter within the block."""
    table = table_of()
    value = compile_value("$late", table)
    table.add("late", lambda s: b"here")
    table.link()
    assert b"here" == value.get(FakeSession())


def test_the_longest_family_answers() -> None:
    """A prefix getter is given the rest of the name; a longer prefix goes first."""
    table = table_of(
        Variable("a_", lambda s, rest: b"short:" + rest.encode(), PREFIX),
        Variable("a_b_", lambda s, rest: b"long:" + rest.encode(), PREFIX),
    )
    values = linked(table, "$a_x", "$a_b_x", "$A_B_", "$a_b")
    assert [b"short:x", b"long:x", b"long:", b"short:b"] == [v.get(FakeSession()) for v in values]


def test_an_own_variable_goes_before_its_family() -> None:
    """A defined name is not asked of the family; one that only `set` knows is."""
    table = table_of(Variable("a_", lambda s, rest: b"family", PREFIX))
    table.add("a_map", lambda s: b"map")
    table.assignable("a_set")
    values = linked(table, "$a_map", "$a_set")
    assert [b"map", b"family"] == [value.get(FakeSession()) for value in values]


def test_an_assigned_value_stays_for_the_session() -> None:
    """What was assigned is read back, and other sessions read it empty."""
    table = table_of()
    ref = table.assignable("x")
    (value,) = linked(table, "<$x>")
    s = FakeSession()
    ref.assign(s, b"given")
    assert b"<given>" == value.get(s)
    assert b"<>" == value.get(FakeSession())


def test_assignment_overrides_even_a_volatile_variable() -> None:
    """`set` of a volatile map's variable is not recomputed away."""
    get, _ = counter()
    table = table_of()
    table.add("x", get, CHANGEABLE | NOCACHEABLE)
    ref = table.assignable("x")
    (value,) = linked(table, "$x")
    s = FakeSession()
    assert b"1" == value.get(s)
    ref.assign(s, b"set")
    assert b"set" == value.get(s)
    assert b"set" == value.get(s)


def test_a_builtin_cannot_be_assigned() -> None:
    """`set` refuses what only the program itself may say."""
    table = table_of(Variable("x", lambda s: b"", NOCACHEABLE))
    with pytest.raises(errors.ConfError, match=r'^the duplicate "x" variable$'):
        table.assignable("x")


def test_a_named_capture_is_not_found_before_its_match() -> None:
    """The variable of a capture exists and has no value, which is not the empty value."""
    table = table_of()
    ref = table.capture("x")
    table.link()
    assert None is ref.get(FakeSession())


def test_a_cycle_ends_and_is_logged_once() -> None:
    """Two variables that need each other are empty at the bottom; one line names the cycle."""
    table = table_of()
    one = compile_value("a$b", table)
    two = compile_value("b$a", table)
    for value in (one, two):
        # a value's get is another function once it is linked
        table.add(value.text[0], lambda s, value=value: value.get(s))
    (value,) = linked(table, "$a")
    s = FakeSession()
    assert b"ab" * 50 == value.get(s)
    assert [("error", 'cycle while evaluating variable "a"')] == s.target.lines
    assert 0 == table.depth


def test_depth_recovers_from_an_exception() -> None:
    """An exception in a getter leaves no depth behind."""
    table = table_of()

    def fail(s: Any) -> bytes:
        raise OSError

    table.add("x", fail)
    (value,) = linked(table, "$x")
    with pytest.raises(OSError):
        value.get(FakeSession())
    assert 0 == table.depth
