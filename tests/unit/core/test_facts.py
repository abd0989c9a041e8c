"""Facts: declared once, counted by who asks, added up, and kept over reloads."""

import pytest

from ngxstream.core import errors
from ngxstream.core.facts import LISTENER, WORKERS, Counter, Fact, Facts
from ngxstream.core.shm_facts import Rows
from tests.support.forks import Held

LOST = Fact("lost", LISTENER, "Datagrams lost.")
HERE = Fact("here", LISTENER, "Clients that are here.", is_gauge=True)
ALL = Fact("all", WORKERS, "Whatever happened.")


def configured(*labels: str) -> Facts:
    """Return a configuration with listeners of these labels."""
    made = Facts([LOST, HERE, ALL])
    for label in labels:
        made.cell(LOST, label)
        made.cell(HERE, label)
    return made


def counted(made: Facts) -> dict[str, tuple[int, ...]]:
    """Return the totals by label, in the order of the facts."""
    found: dict[str, tuple[int, ...]] = {}
    for cell, total in made.totals():
        found[cell.label] = (*found.get(cell.label, ()), total)
    return found


def test_a_name_is_declared_once() -> None:
    """A second fact of a name is refused, even of another scope; so is one nobody declared."""
    with pytest.raises(errors.InternalError, match='the fact "lost" is declared twice'):
        Facts([LOST, ALL, Fact("lost", WORKERS, "Others.")])
    with pytest.raises(errors.InternalError, match='the fact "lost" is declared by no module'):
        Facts([ALL]).cell(LOST, "a")
    with pytest.raises(errors.InternalError, match="by no module"):
        Facts([ALL]).cell(Fact("all", LISTENER, "Of another."), "a")


def test_each_label_is_counted_apart_and_equal_ones_together() -> None:
    """Two servers of one label have one cell; what is of all workers has a cell unasked."""
    made = configured("a", "b")
    made.attach(Rows())
    assert made.cell(LOST, "a") is made.cell(LOST, "a")
    for fact, label, amount in ((LOST, "a", 3), (LOST, "b", 4), (ALL, "", 1), (LOST, "a", 2)):
        made.counter(fact, label).add(amount)
    assert {"": (1,), "a": (5, 0), "b": (4, 0)} == counted(made)


def test_what_nobody_asked_for_is_counted_by_itself() -> None:
    """A counter without a cell works, and nobody else's total has it; so before there are rows."""
    made = configured("a")
    early = made.counter(LOST, "a")
    early.add(9)
    rows = Rows()
    made.attach(rows)
    for counter in (Counter(), made.counter(LOST, "nobody's")):
        counter.add(7)
        assert (7, 7) == (counter.own, counter.total)
    assert (9, {"": (0,), "a": (0, 0)}) == (early.total, counted(made))
    assert [(0, 0)] == [(cell.at, total) for cell, total in configured().totals()]


def test_a_counter_tells_of_all_processes() -> None:
    """Its total is everybody's, its own is not."""
    made = configured("a")
    made.attach(Rows())
    other = Held(lambda: made.counter(LOST, "a").add(5))
    counter = made.counter(LOST, "a")
    counter.add()
    assert (1, 6) == (counter.own, counter.total)
    other.kill()


def test_a_reload_goes_on_with_what_both_configurations_have() -> None:
    """More and fewer listeners: equal labels count on, new ones begin at 0, gone ones are not."""
    rows = Rows()
    old = configured("a", "b", "c")
    old.attach(rows)
    for n, label in enumerate("abc", 1):
        old.counter(LOST, label).add(n)
        old.counter(HERE, label).add(n)
    new = configured("d", "c", "a", "e")
    new.attach(rows)
    new.counter(LOST, "e").add(8)
    old.counter(LOST, "a").add(10)  # who leaves counts still
    expected = {"": (0,), "d": (0, 0), "c": (3, 3), "a": (11, 1), "e": (8, 0)}
    assert expected == counted(new)
    old.attach(None)
    assert expected == counted(new)


def test_a_cell_that_is_used_again_begins_at_0() -> None:
    """Reloads without end take no more cells than configurations have, whoever has counted."""
    rows = Rows()
    before = configured("first", "stays")
    before.attach(rows)
    other = Held(lambda: before.counter(LOST, "first").add(5))
    for n in range(50):
        made = configured(str(n), "stays")
        made.attach(rows)
        assert (0, 0) == counted(made)[str(n)]
        made.counter(LOST, str(n)).add(n + 1)
        made.counter(LOST, "stays").add()
        assert {"": (0,), str(n): (n + 1, 0), "stays": (n + 1, 0)} == counted(made)
        if n == 25:
            other.kill()
            rows.zone.reclaim(other.pid)
            assert {"": (0,), str(n): (n + 1, 0), "stays": (n + 1, 0)} == counted(made)
        before.attach(None)
        before = made
    assert rows.size <= 1 + 1 + 3 * 2


def test_a_configuration_that_is_refused_changes_nothing() -> None:
    """What only it had is free again, what it shared with the one that serves goes on."""
    rows = Rows()
    old = configured("a")
    old.attach(rows)
    old.counter(LOST, "a").add(3)
    refused = configured("a", "b")
    refused.attach(rows)
    refused.counter(LOST, "b").add(4)
    refused.attach(None)
    assert {"": (0,), "a": (3, 0)} == counted(old)
    new = configured("a", "c")
    new.attach(rows)
    assert {"": (0,), "a": (3, 0), "c": (0, 0)} == counted(new)
