"""Rows of cells: what processes count, and what becomes of it when they die."""

import os

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ngxstream.core import shm, shm_facts, shm_ledger
from ngxstream.core.shm_facts import NOBODY, SINGLES, Number, Rows
from ngxstream.core.shm_ledger import Ledger
from tests.support.forks import Held, die_at, in_child


def counting(rows: Rows, *amounts: tuple[Number, int]) -> Held:
    """Return a process that has counted."""

    def count() -> None:
        cells = rows.cells
        for number, amount in amounts:
            cells[number.at] += amount

    return Held(count)


def totals(rows: Rows, *numbers: Number) -> list[int]:
    """Return what is counted in some cells."""
    found = rows.totals()
    assert found[NOBODY:] == [rows.totals(at, 1)[0] for at in range(NOBODY, rows.size)]
    return [found[number.at] for number in numbers]


def test_the_dead_are_folded_once() -> None:
    """Killed or not, reclaimed twice or not: counters stay as they are, gauges go."""
    rows = Rows()
    counter, gauge = rows.number("c"), rows.number("g", is_gauge=True)
    held = [counting(rows, (counter, 10**n), (gauge, 1)) for n in range(4)]
    assert [1111, 4] == totals(rows, counter, gauge)
    for left in (3, 2, 1, 0):
        held[left].kill()
        assert [1111, left + 1] == totals(rows, counter, gauge)
        for _ in range(2):
            rows.zone.reclaim(held[left].pid)
            assert [1111, left] == totals(rows, counter, gauge)
    assert set() == rows.zone.ledgers.owners()


def test_hundreds_of_processes_count() -> None:
    """As many as nginx may have workers, and those that leave besides."""
    rows = Rows()
    counter = rows.number("c")
    ledgers = [Ledger(rows.zone.ledgers, 1_000_000 + n) for n in range(600)]
    for n, ledger in enumerate(ledgers):
        ledger.row[0] = rows.size
        ledger.row[1 + counter.at] = n
    assert [sum(range(600))] == totals(rows, counter)
    for n in range(0, 600, 3):
        rows.zone.reclaim(1_000_000 + n)
    assert [sum(range(600))] == totals(rows, counter)


def test_a_process_that_folds_may_die_at_any_step() -> None:
    """Wherever it is killed, the next one completes what it began: nothing is lost or doubled."""
    rows = Rows()
    numbers = [rows.number(n) for n in range(3)]
    gauge = rows.number("g", is_gauge=True)
    expected = [0, 0, 0]

    def dies(step: int) -> bool:
        dead = counting(rows, *zip(numbers, (1, 20, 300), strict=True), (gauge, 1))
        dead.kill()
        expected[:] = [a + b for a, b in zip(expected, (1, 20, 300), strict=True)]
        _, died = die_at(step, "/core/shm", lambda: rows.zone.reclaim(dead.pid))
        assert expected == totals(rows, *numbers)
        rows.zone.reclaim(dead.pid)
        assert [*expected, 0] == totals(rows, *numbers, gauge)
        return died

    step = 0
    while dies(step):  # it adds up a page; then comes what must not be done by half
        step += 89
    assert step > 400
    assert {True} == {dies(step - before) for before in range(90, 490, 5)}


def test_a_process_that_counts_may_die_at_any_step() -> None:
    """A cell is counted, or it is not; nothing that others counted changes."""
    rows = Rows()
    counter = rows.number("c")
    other = counting(rows, (counter, 1000))

    def count() -> None:
        cells = rows.cells
        for _ in range(9):
            cells[counter.at] += 1

    seen, step, died = set(), 0, True
    expected = 1000
    while died:
        pid, died = die_at(step, "/test_shm_facts", count)
        (now,) = totals(rows, counter)
        seen.add(now - expected)
        rows.zone.reclaim(pid)
        assert [now] == totals(rows, counter)
        expected = now
        step += 5
    assert {*range(10)} >= seen > {0, 9}
    other.kill()


def test_a_total_is_there_while_somebody_keeps_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads is not kept waiting by a process that was stopped."""
    monkeypatch.setattr(shm_facts, "PATIENCE_S", 0.0)
    rows = Rows()
    counter = rows.number("c")
    rows.cells[counter.at] += 7
    holder = Held(rows.zone.lock.__enter__)
    assert [7] == totals(rows, counter)
    holder.kill()


def test_there_is_an_end_to_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many cells as are left go to a block that is small enough."""
    monkeypatch.setattr(shm_facts, "CELLS", SINGLES + 10)
    rows = Rows()
    assert [SINGLES, 0, SINGLES + 7, 0] == [rows.number("b", n).at for n in (7, 4, 3, 1)]


def test_what_is_counted_takes_memory_and_nothing_else() -> None:
    """A block of millions of cells, of which some are counted in: a page here, one there."""
    rows = Rows()
    number = rows.number("block", 1 << 22)

    def count() -> None:
        cells = rows.cells
        for at in (0, 5, 1 << 20, (1 << 22) - 1):
            cells[number.at + at] += 1 + at

    other = Held(count)
    count()
    read = {at: 2 + 2 * at for at in (0, 5, 1 << 20, (1 << 22) - 1)}
    for folded in (False, True):
        if folded:
            other.kill()
            rows.zone.reclaim(other.pid)
        assert read == {at: rows.totals(number.at + at, 1)[0] for at in read}
        assert [0, 2 + 2 * 5] == rows.totals(number.at + 4, 2)
    size = os.fstat(rows.zone.ledgers._fd).st_blocks * 512
    assert size <= 12 * shm_ledger.PAGE


def test_there_is_an_end_to_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no place counts in nobody's, and finds one when another configuration is gone."""
    monkeypatch.setattr(shm_facts, "SINGLES", NOBODY + 3)
    rows = Rows()
    numbers = [rows.number(n) for n in range(5)]
    assert [NOBODY, NOBODY + 1, NOBODY + 2, 0, 0] == [number.at for number in numbers]
    cells = rows.cells
    for number in numbers:
        cells[number.at] += 1
    assert [1, 1, 1] == totals(rows, *numbers[:3])
    del number, numbers[:3]
    (found,) = [rows.number("new")]
    assert found.at > 0
    assert [0] == totals(rows, found)


def test_what_a_dead_process_claims_does_no_harm() -> None:
    """Nonsense in its row costs its own counts at most; others' are folded as ever."""
    rows = Rows()
    counter = rows.number("c")
    sound = counting(rows, (counter, 5))

    def lie() -> None:
        row = rows.zone.ledger.row
        row[0] = 1 << 62
        row[1 + counter.at] = -3

    liar = in_child(lie)
    rows.zone.reclaim(liar)
    sound.kill()
    rows.zone.reclaim(sound.pid)
    assert [5] == totals(rows, counter)
    alerts: list[str] = []
    dead = in_child(lambda: rows.cells.__setitem__(counter.at, (1 << 63) - 1))
    assert shm.reclaim([rows.zone], dead, alerts.append)
    assert ['shared memory zone "facts" is damaged'] == [text.split(",")[0] for text in alerts]


def test_rows_that_nobody_made_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a process says of whose they are, and however long it makes the file."""
    rows = Rows()
    counter = rows.number("c")
    rows.cells[counter.at] += 7
    fd = rows.zone.ledgers._fd
    size = os.fstat(fd).st_size
    os.pwrite(fd, (77).to_bytes(8, "little"), 8)
    for more in (0, 8 * counter.at + 13):
        os.ftruncate(fd, size + more)
        assert [7] == totals(rows, counter)
    monkeypatch.setattr(shm_ledger, "MOST_READ", 3)
    os.ftruncate(fd, 64 * shm_facts.CHUNK)
    os.pwrite(fd, (77).to_bytes(8, "little") * 9, 8)
    assert 3 == len(list(rows.zone.ledgers.words(1)))


def test_a_process_has_one_row() -> None:
    """Asking again is the same row; a child that it forks has another."""
    rows = Rows()
    counter = rows.number("c")
    rows.cells[counter.at] += 1
    rows.cells[counter.at] += 1
    assert 2 == rows.cells[counter.at]
    in_child(lambda: rows.cells.__setitem__(counter.at, 40))
    assert (2, [42]) == (rows.cells[counter.at], totals(rows, counter))
    assert os.getpid() in rows.zone.ledgers.owners()


class Folding(RuleBasedStateMachine):
    """Processes that come, count, die and are folded while configurations come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = Rows()
        self.pid = 1_000_000
        self.alive: dict[int, tuple[Ledger, dict[Number, int]]] = {}
        self.dead: dict[int, dict[Number, int]] = {}
        self.numbers: dict[str, Number] = {}
        self.counted: dict[str, int] = {}  # of counters

    def is_gauge(self, key: str) -> bool:
        """Capital letters are gauges."""
        return key.isupper()

    @rule(key=st.sampled_from("abcDEF"))
    def want(self, key: str) -> None:
        """A configuration has a cell."""
        if key not in self.numbers:
            self.numbers[key] = self.rows.number(key, is_gauge=self.is_gauge(key))
            self.counted[key] = 0

    @precondition(lambda self: self.numbers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """The last configuration that had it is gone; its sessions have ended."""
        key = data.draw(st.sampled_from(sorted(self.numbers)))
        number = self.numbers.pop(key)
        for ledger, own in self.alive.values():
            if own.pop(number, 0) and self.is_gauge(key):
                ledger.row[1 + number.at] = 0
        for own in self.dead.values():
            own.pop(number, None)
        if self.is_gauge(key):
            for pid in list(self.dead):
                self.reclaim(pid)

    @rule()
    def fork(self) -> None:
        """A worker begins."""
        self.pid += 1
        ledger = Ledger(self.rows.zone.ledgers, self.pid)
        ledger.row[0] = self.rows.size
        self.alive[self.pid] = ledger, {}

    @precondition(lambda self: self.alive and self.numbers)
    @rule(data=st.data(), amount=st.integers(1, 1 << 40))
    def count(self, data: st.DataObject, amount: int) -> None:
        """A worker counts in a cell that it knows."""
        ledger, own = self.alive[data.draw(st.sampled_from(sorted(self.alive)))]
        known = [key for key in sorted(self.numbers) if self.numbers[key].at < ledger.row[0]]
        if known:
            key = data.draw(st.sampled_from(known))
            number = self.numbers[key]
            ledger.row[1 + number.at] += amount
            own[number] = own.get(number, 0) + amount
            self.counted[key] += amount

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """A worker is killed."""
        pid = data.draw(st.sampled_from(sorted(self.alive)))
        self.dead[pid] = self.alive.pop(pid)[1]

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def reap(self, data: st.DataObject) -> None:
        """It is reclaimed."""
        self.reclaim(data.draw(st.sampled_from(sorted(self.dead))))

    def reclaim(self, pid: int) -> None:
        """Fold a dead worker's row, twice."""
        del self.dead[pid]
        self.rows.zone.reclaim(pid)
        self.rows.zone.reclaim(pid)

    @invariant()
    def totals_are_right(self) -> None:
        """Counters have all that was counted, gauges what is not reclaimed yet."""
        found = self.rows.totals()
        for key, number in self.numbers.items():
            if self.is_gauge(key):
                owns = [*(own for _, own in self.alive.values()), *self.dead.values()]
                assert sum(own.get(number, 0) for own in owns) == found[number.at]
            else:
                assert self.counted[key] == found[number.at]


TestFolding = Folding.TestCase
