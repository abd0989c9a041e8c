"""Facts: declared once, counted by who asks, added up, and kept over reloads."""

from bisect import bisect_left

import pytest

from ngxstream.core import errors, shm_facts
from ngxstream.core.facts import (
    LISTENER,
    WORKERS,
    Block,
    Counter,
    Fact,
    Facts,
    private,
    rows_at,
    totals_of,
)
from ngxstream.core.shm_facts import NOBODY, Rows
from tests.support.forks import Held

LOST = Fact("lost", LISTENER, "Datagrams lost.")
HERE = Fact("here", LISTENER, "Clients that are here.", is_gauge=True)
ALL = Fact("all", WORKERS, "Whatever happened.")
ENDS = Fact("ends", LISTENER, "Ends by reason.", words=("done", "late", "lost"))
TIMES = Fact("times", LISTENER, "How long it took.", bounds=(10, 100))


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
    assert rows.size <= NOBODY + 1 + 3 * 2


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


def test_a_counter_begins_at_0_again_and_a_gauge_does_not() -> None:
    """Whoever has counted, the living and the dead; what they count from then on is counted."""
    made = configured("a", "b")
    rows = Rows()
    made.attach(rows)
    dead = Held(lambda: made.counter(LOST, "a").add(100))
    dead.kill()
    rows.zone.reclaim(dead.pid)
    other = Held(lambda: [made.counter(fact, "a").add(5) for fact in (LOST, HERE)])
    made.counter(LOST, "a").add(2)
    made.counter(LOST, "b").add(3)
    for cell, _ in made.totals():
        if cell.label == "a":
            cell.reset()
    assert {"": (0,), "a": (0, 5), "b": (3, 0)} == counted(made)
    made.counter(LOST, "a").add(4)
    assert (4, 5) == counted(made)["a"]
    other.kill()
    rows.zone.reclaim(other.pid)
    assert (4, 0) == counted(made)["a"]


def test_a_cell_without_rows_has_nothing_to_reset() -> None:
    """Its configuration is not served."""
    made = configured("a")
    (cell, _) = made.totals()[1]
    cell.reset()
    assert 0 == cell.total


def test_some_cells_are_read_together() -> None:
    """Near ones and far ones, in the order in which they are asked for, and those without rows."""
    labels = [str(n) for n in range(40)]
    made = configured(*labels)
    stranger = configured("x").cell(LOST, "x")
    made.attach(Rows())
    for n, label in enumerate(labels):
        made.counter(LOST, label).add(n + 1)
    cells = [made.cell(LOST, label) for label in ("39", "0", "1", "20", "1")]
    assert [40, 1, 0, 2, 21, 2] == totals_of([*cells[:2], stranger, *cells[2:]])
    assert [] == totals_of([])


# -- blocks --------------------------------------------------------------------------------------


def with_block(count: int, facts: tuple[Fact, ...] = (LOST, ENDS, TIMES)) -> tuple[Facts, Block]:
    """Return a configuration with a block."""
    made = Facts([LOST, HERE, ALL, ENDS, TIMES])
    return made, made.block(facts, "a", count)


def count_in(cells: memoryview, block: Block, n: int, amount: int) -> None:
    """Count all facts of a thing."""
    row = block.row(n)
    cells[row] += amount
    cells[row + block.place(ENDS) + 2] += amount
    times = row + block.place(TIMES)
    cells[times + bisect_left(TIMES.bounds, amount)] += 1
    cells[times + len(TIMES.bounds) + 1] += amount


def test_a_block_has_a_row_for_each_thing() -> None:
    """Of as many cells as its facts take, one after the other; rows do not touch."""
    made, block = with_block(3)
    assert (8, [0, 1, 4]) == (block.width, [block.place(fact) for fact in (LOST, ENDS, TIMES)])
    made.attach(Rows())
    assert [block.at, block.at + 8, block.at + 16, 0, 0] == [
        block.row(n) for n in (0, 1, 2, 3, -1)
    ]
    assert block is made.block((LOST, ENDS, TIMES), "a", 3)
    cells = made._rows.cells
    for n, amount in ((0, 10), (2, 11), (2, 1000)):
        count_in(cells, block, n, amount)
    assert [10, 0, 0, 10, 1, 0, 0, 10] == block.totals()
    assert [0] * 8 == block.totals(1)
    assert [1011, 0, 0, 1011, 0, 1, 1, 1011] == block.totals(2)
    assert [*block.totals(0), *block.totals(1), *block.totals(2)] == block.totals(0, 3)
    assert [*block.totals(2), *[0] * 16] == block.totals(2, 3)


def test_a_block_counts_on_while_its_shape_is_the_same() -> None:
    """Other facts or another number of things begin at 0, and what was there is used again."""
    rows = Rows()
    old, block = with_block(2)
    old.attach(rows)
    count_in(rows.cells, block, 1, 7)
    other = Held(lambda: count_in(rows.cells, block, 1, 7))
    same, again = with_block(2)
    same.attach(rows)
    assert (block.at, 14) == (again.at, again.totals(1)[0])
    for facts, count in (((LOST, ENDS), 2), ((LOST, ENDS, TIMES), 3)):
        made, another = with_block(count, facts)
        made.attach(rows)
        assert [0] * another.width * count == another.totals(0, count)
        made.attach(None)
    place = again.at
    old.attach(None)
    same.attach(None)
    made = Facts([LOST, ENDS, TIMES])
    late = made.block((LOST, ENDS, TIMES), "b", 2)
    made.attach(rows)
    assert (place, [0] * 16) == (late.at, late.totals(0, 2))
    count_in(rows.cells, late, 1, 3)
    other.kill()
    rows.zone.reclaim(other.pid)
    assert 3 == late.totals(1)[0]


def test_a_row_of_a_block_begins_anew() -> None:
    """One thing's counters, or all; what others count later is counted."""
    made, block = with_block(3)
    rows = Rows()
    made.attach(rows)
    other = Held(lambda: [count_in(rows.cells, block, n, 50) for n in range(3)])
    for n in range(3):
        count_in(rows.cells, block, n, 1)
    block.reset(1)
    assert [51, 0, 51] == block.totals(0, 3)[:: block.width]
    count_in(rows.cells, block, 1, 2)
    other.kill()
    rows.zone.reclaim(other.pid)
    assert [51, 2, 51] == block.totals(0, 3)[:: block.width]
    block.reset(0, 9)
    assert [0] * 24 == block.totals(0, 3)


def test_gauges_of_a_block_go_with_their_process() -> None:
    """A block is of gauges alone then, and they do not begin anew."""
    rows = Rows()
    made = Facts([HERE])
    block = made.block((HERE,), "a", 2)
    made.attach(rows)

    def count() -> None:
        rows.cells[block.row(1)] += 5

    count()
    other = Held(count)
    assert [0, 10] == block.totals(0, 2)
    block.reset(1)
    other.kill()
    rows.zone.reclaim(other.pid)
    assert [0, 5] == block.totals(0, 2)


def test_a_block_that_has_no_place_is_nobodys() -> None:
    """Before there are rows, or without things: who counts needs not ask."""
    for attached, count in ((False, 2), (True, 0)):
        made, block = with_block(count)
        if attached:
            made.attach(Rows())
        cells = private()
        count_in(cells, block, 0, 4)
        assert 4 == cells[0]
        block.reset(0)
        assert [0] * 8 == block.totals(0)


def test_where_there_is_no_room_for_all_some_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first half, or a half of these, down to none."""
    monkeypatch.setattr(shm_facts, "CELLS", shm_facts.SINGLES + 8 * 5)
    made, block = with_block(9)
    others = [made.block((LOST, ENDS, TIMES), label, 9) for label in ("b", "c")]
    made.attach(Rows())
    assert [4, 1, 0] == [one.count for one in (block, *others)]
    assert [0, 0] == [block.row(4), others[1].row(0)]
    assert block.row(3)


def test_what_is_to_begin_at_0_does_so_when_there_are_rows() -> None:
    """A row that another thing has before anything is counted, where a former one had counted."""
    rows = Rows()
    old, block = with_block(2)
    old.attach(rows)
    count_in(rows.cells, block, 0, 4)
    count_in(rows.cells, block, 1, 5)
    new, again = with_block(2)
    again.reset(1)
    new.attach(rows)
    assert [4, 0] == again.totals(0, 2)[:: again.width]


def test_rows_are_read_together_where_they_are_near() -> None:
    """In any order, more than once, or nobody's."""
    rows = Rows()
    made, block = with_block(2000)
    made.attach(rows)
    for n in (0, 1, 1999):
        count_in(rows.cells, block, n, n + 3)
    places = [block.row(1999), 0, block.row(1), block.row(0), block.row(1)]
    found = rows_at(rows, places, block.width)
    assert [2002, 0, 4, 3, 4] == [row[0] for row in found]
    assert [block.width] * 5 == [len(row) for row in found]


def test_facts_that_do_not_go_together_are_refused() -> None:
    """Gauges beside counters, a row that is too wide, a fact that nobody declares."""
    made = Facts([LOST, HERE, wide := Fact("wide", LISTENER, "", words=("x",) * NOBODY)])
    for facts in ((LOST, HERE), (LOST, wide), (ENDS,), ()):
        with pytest.raises(errors.InternalError):
            made.block(facts, "a", 1)


def test_what_is_to_begin_at_0_before_there_are_rows_is_noted_once() -> None:
    """Where there are never any, a group that changes for years takes no memory for it."""
    _, block = with_block(4)
    for _ in range(100):
        block.reset(0, 9)
        block.reset(2)
    assert len(block._due) <= block.count
