"""Counts that all processes share: what is counted, by whom, and what a dead process leaves."""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ngxstream.core import errors, shm, shm_counts
from ngxstream.core.shm_counts import KeyTable, Tally
from ngxstream.core.shm_ledger import Entry, Ledger
from tests.support.forks import CHANGING, Held, die_at, in_child, own_of


def zone(size: int = 32 * 1024) -> shm.Zone:
    """Return a new zone."""
    return shm.Zone("z", size, "test")


def take(table: KeyTable, key: bytes, limit: int = 1 << 30) -> Entry:
    """Count a key that is below its limit."""
    entry = table.acquire(key, limit)
    assert entry
    return entry


# -- tallies ---------------------------------------------------------------------------------------


def test_a_tally_is_the_sum_over_processes() -> None:
    """Rows are counted apart, processes together."""
    tally = Tally(zone(), 3)
    in_child(lambda: tally.add(1, 5))
    in_child(lambda: tally.add(1, 2))
    tally.add(1)
    tally.add(2, 4)
    assert [0, 8, 4] == [tally.total(row) for row in range(3)]
    assert [0, 1, 4] == [own_of(tally, row) for row in range(3)]


def test_a_process_gives_back_no_more_than_it_has() -> None:
    """What others count stays, whatever one process subtracts."""
    tally = Tally(zone(), 1)
    in_child(lambda: tally.add(0, 5))
    tally.add(0, 2)
    tally.add(0, -3)
    assert (5, 0) == (tally.total(0), own_of(tally))
    tally.add(0, -1)
    assert (5, 0) == (tally.total(0), own_of(tally))


def test_rows_of_two_tallies_are_not_mixed_up() -> None:
    """The parts of one zone are given back each for itself."""
    made = zone()
    tallies = [Tally(made, 4) for _ in range(shm_counts.PARTS)]

    def count() -> None:
        for number, tally in enumerate(tallies, 1):
            tally.add(3, number)

    count()
    dead = in_child(count, kill=True)
    assert [2, 4, 6, 8] == [tally.total(3) for tally in tallies]
    made.reclaim(dead)
    assert [1, 2, 3, 4] == [tally.total(3) for tally in tallies]
    assert [0] * 4 == [tally.total(0) for tally in tallies]


def test_a_zone_has_a_bounded_number_of_parts() -> None:
    """One more part than an entry can name is refused."""
    made = zone()
    for _ in range(shm_counts.PARTS):
        Tally(made, 1)
    with pytest.raises(errors.InternalError):
        Tally(made, 1)


def test_reclaim_gives_back_what_a_killed_process_held() -> None:
    """Only the dead process's share goes, and only once."""
    made = zone()
    tally = Tally(made, 2)
    tally.add(0, 3)
    dead = in_child(lambda: tally.add(0, 39), kill=True)
    assert 42 == tally.total(0)
    for _ in range(2):
        made.reclaim(dead)
        assert 3 == tally.total(0)


def test_reclaiming_a_stranger_changes_nothing() -> None:
    """A process that never counted has nothing to give back."""
    made = zone()
    tally = Tally(made, 1)
    tally.add(0)
    made.reclaim(999_999)
    assert 1 == tally.total(0)


def test_what_a_process_has_given_back_is_not_given_back_again() -> None:
    """A process that dies with nothing takes nothing along."""
    made = zone()
    tally = Tally(made, 1)
    tally.add(0)

    def come_and_go() -> None:
        tally.add(0, 7)
        tally.add(0, -7)

    made.reclaim(in_child(come_and_go, kill=True))
    assert 1 == tally.total(0)


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_counted_up_to_its_limit() -> None:
    """At the limit the answer is no, and a release lets another in."""
    table = KeyTable(zone())
    first, second = take(table, b"k", 2), take(table, b"k", 2)
    assert table.acquire(b"k", 2) is False
    table.release(first)
    assert 1 == table.total(b"k")
    third = take(table, b"k", 2)
    assert 2 == table.total(b"k")
    table.release(second)
    table.release(third)
    assert (0, 0) == (table.total(b"k"), len(table))


def test_a_release_counts_once() -> None:
    """Releasing the same count again changes nothing."""
    table = KeyTable(zone())
    first, _second = take(table, b"k"), take(table, b"k")
    table.release(first)
    table.release(first)
    assert 1 == table.total(b"k")
    assert take(table, b"x") != take(table, b"y")


def test_what_is_given_back_for_another_is_out_of_its_ledger() -> None:
    """Who reclaims and dies half-way leaves nothing that is given back a second time."""
    table = KeyTable(zone())
    kept, lost = take(table, b"k", 9), take(table, b"k", 9)
    view, place, address, _ = lost
    table.give_back(address, view[place])
    assert (0, 1) == (view[place], table.total(b"k"))
    table.release(lost)
    assert 1 == table.total(b"k")
    view, place, address, _ = kept
    table.give_back(address, view[place])
    assert (0, 0) == (view[place], table.total(b"k"))


def test_the_limit_holds_over_processes() -> None:
    """A key that another process holds is at its limit here."""
    table = KeyTable(zone())
    in_child(lambda: take(table, b"k", 2))
    take(table, b"k", 2)
    assert table.acquire(b"k", 2) is False


def test_keys_of_every_length_are_told_apart() -> None:
    """Keys of 1 to 255 bytes, kept as they are or as a digest, come back to zero."""
    table = KeyTable(zone())
    entries = []
    for length in range(1, 256):
        entries.append(take(table, b"x" * length, 1))
        assert table.acquire(b"x" * length, 1) is False
    assert 255 == len(table)
    for number, entry in enumerate(entries, 1):
        table.release(entry)
        assert (0, 255 - number) == (table.total(b"x" * number), len(table))


def test_long_keys_that_differ_in_one_byte_are_two() -> None:
    """Where a key is kept as a digest, every byte of it counts."""
    table = KeyTable(zone())
    length = shm_counts.MAX_KEY
    for at in range(length):
        take(table, b"x" * at + b"y" + b"x" * (length - at - 1), 1)
    assert length == len(table)


def nginx_keys(size: int, length: int) -> int:
    """Return how many keys of one length nginx's slab holds. Source: ngx_slab.c, a 64-bit system.

    One page goes to what is smaller than a state: the tree, and the words of its log.
    """
    about = 200 + 9 * 24 + 9 * 32  # ngx_slab_pool_t, its slots and their statistics
    pages = (size - about) // (4096 + 24)
    start = -(-(about + pages * 24) // 4096) * 4096
    pages = min(pages, (size - start) // 4096) - 1
    node = 36 + length
    chunk = next(1 << shift for shift in range(3, 12) if node <= 1 << shift)
    return pages * (4096 // chunk) - (chunk == 64)  # the tree's sentinel takes 64 bytes


@settings(max_examples=25)
@given(size=st.integers(shm.LEAST, 64 << 20), length=st.integers(1, 255))
def test_a_zone_holds_no_fewer_keys_than_nginx_s(size: int, length: int) -> None:
    """Whatever size and key, nginx's slab has no more states."""
    table = KeyTable(zone(size))
    assert nginx_keys(size, length) <= table.capacity
    assert table.capacity * shm_counts.UNIT < size


@pytest.mark.parametrize("length", [4, 40, 41, 255])
def test_a_full_zone_says_so_and_recovers(length: int) -> None:
    """Exhaustion is told apart from a limit; every release lets one other key in."""
    table = KeyTable(zone(shm.LEAST))
    keys = [b"%0*d" % (length, number) for number in range(table.capacity)]
    entries = [take(table, key, 9) for key in keys]
    assert nginx_keys(shm.LEAST, length) <= len(entries)
    assert table.acquire(b"one more", 9) is None
    take(table, keys[0], 9)
    assert table.acquire(keys[0], 2) is False
    for entry in entries[1:]:
        table.release(entry)
    for number in range(table.capacity - 1):
        take(table, b"other %d" % number)
    assert table.acquire(b"one more", 9) is None
    assert table.capacity == len(table)


def test_a_zone_holds_as_many_keys_whoever_counts_them() -> None:
    """Eight processes that count the same keys leave as many free as one."""
    made = zone(shm.LEAST)
    table = KeyTable(made)
    keys = [b"key %d" % number for number in range(table.capacity)]
    counting = [Held(lambda: [take(table, key) for key in keys]) for _ in range(8)]
    assert {8} == {table.total(key) for key in keys}
    for child in counting:
        child.kill()
        made.reclaim(child.pid)
    assert 0 == len(table)


@pytest.mark.parametrize(("rows", "looked_at"), [(100, 1 << 15), (100, 10), (7, 3), (0, 10)])
def test_how_many_keys_there_are_is_known_or_estimated(
    monkeypatch: pytest.MonkeyPatch, rows: int, looked_at: int
) -> None:
    """Of some of the rows, when there are many; freed ones are not among them."""
    monkeypatch.setattr(shm_counts, "_LOOKED_AT", looked_at)
    table = KeyTable(zone())
    entries = [take(table, b"%d" % number) for number in range(rows)]
    assert rows == table.used
    for entry in entries[::2]:
        table.release(entry)
    step = max(1, -(-rows // looked_at))
    assert abs(table.used - rows // 2) <= (0 if step == 1 else rows // 2)
    assert table.used <= rows
    take(table, b"other")
    if step == 1:
        assert len(table) == table.used


def test_keys_of_a_killed_process_are_given_back() -> None:
    """Shared and own keys return to what the living hold."""
    made = zone()
    table = KeyTable(made)
    mine = take(table, b"both")

    def work() -> None:
        for number in range(50):
            take(table, b"only %d" % number)
        take(table, b"both")

    made.reclaim(in_child(work, kill=True))
    assert (1, 1) == (table.total(b"both"), len(table))
    table.release(mine)
    assert 0 == len(table)


def test_a_zone_is_full_where_there_is_no_memory_to_note_who_holds() -> None:
    """Where a process can have no ledger, it counts nothing, and breaks nothing."""
    table = KeyTable(zone())

    def work() -> None:
        table.zone.ledgers.close()
        assert table.acquire(b"k", 5) is None

    in_child(work)
    assert 0 == table.total(b"k")
    take(table, b"k")


def test_three_hundred_processes_count_in_one_zone() -> None:
    """There is no end to the processes that hold something, and all of it comes back."""
    made = zone(64 * 1024)
    table, tally = KeyTable(made), Tally(made, 2)
    mine = take(table, b"all")

    def work() -> None:
        take(table, b"all")
        take(table, b"%d" % os.getpid())
        tally.add(1, 2)

    children = [Held(work) for _ in range(300)]
    try:
        assert (301, 301, 600) == (table.total(b"all"), len(table), tally.total(1))
        assert {child.pid for child in children} | {os.getpid()} == made.ledgers.owners()
    finally:
        for child in children:
            child.kill()
    for child in children:
        made.reclaim(child.pid)
    assert (1, 1, 0) == (table.total(b"all"), len(table), tally.total(1))
    assert {os.getpid()} == made.ledgers.owners()
    table.release(mine)


def test_two_workers_may_be_replaced_three_hundred_times() -> None:
    """Workers that come after those that left, some of them by a signal, find nothing of theirs."""
    made = zone()
    table, tally = KeyTable(made), Tally(made, 1)

    def work() -> None:
        take(table, b"k")
        tally.add(0)

    for number in range(300):
        pids = [in_child(work, kill=not number % 10) for _ in range(2)]
        assert (2, 2) == (table.total(b"k"), tally.total(0))
        for pid in pids:
            made.reclaim(pid)
        assert (0, 0) == (table.total(b"k"), tally.total(0))
    assert set() == made.ledgers.owners()


# -- what giving back costs ------------------------------------------------------------------------


def work_of(do: Callable[[], object]) -> int:
    """Return how many calls something makes, of Python's and of C's functions."""
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        do()
    finally:
        sys.setprofile(None)
    return calls


def cost_of_reclaim(size: int, held: int, others: int = 0) -> int:
    """Return the work of giving back what one process holds in a zone where others hold more."""
    made = zone(size)
    table = KeyTable(made)
    for number in range(others):
        take(table, b"other %d" % number)

    def work() -> None:
        for number in range(held):
            take(table, b"key %d" % number)

    dead = in_child(work, kill=True)
    cost = work_of(lambda: made.reclaim(dead))
    assert others == len(table)
    return cost


def test_giving_back_costs_what_was_held() -> None:
    """The work grows with the dead process's sessions, not with the zone or other workers' keys."""
    small = cost_of_reclaim(shm.LEAST, 200)
    assert small == cost_of_reclaim(10 << 20, 200)
    assert small == cost_of_reclaim(10 << 20, 200, others=20_000)
    nothing, hundred = cost_of_reclaim(10 << 20, 0), cost_of_reclaim(10 << 20, 100)
    assert nothing < 100
    assert hundred - nothing < small - nothing < 2.2 * (hundred - nothing)


class WatchedLock:
    """A lock that says how much of the table is left each time it is let go."""

    def __init__(self, made: shm.Zone, left: Callable[[], int]) -> None:
        self._lock = made.lock
        self.left = left
        self.seen: list[int] = []

    @contextlib.contextmanager
    def soon(self, number: int = 0) -> Iterator[None]:
        """Hold it, or another."""
        with self._lock.soon(number):
            yield
        self.seen.append(self.left())


def test_giving_back_lets_others_have_the_lock_in_between() -> None:
    """However much a dead process held, the lock is held for a few entries at a time."""
    made = zone(1 << 20)
    tally = Tally(made, 1000)
    dead = in_child(lambda: [tally.add(row) for row in range(1000)], kill=True)

    def left() -> int:
        return sum(tally.total(row) for row in range(1000))

    watched: Any = WatchedLock(made, left)
    made.lock = watched
    made.reclaim(dead)
    steps = [before - after for before, after in itertools.pairwise([1000, *watched.seen])]
    assert 0 == left()
    assert max(steps) <= shm.BATCH


# -- death in the middle ---------------------------------------------------------------------------


def same_chain(table: KeyTable, count: int) -> list[bytes]:
    """Return keys whose rows are in one chain."""
    found: dict[int, list[bytes]] = {}
    for number in itertools.count():
        key = b"%d" % number
        keys = found.setdefault(hash(key) & table._mask, [])
        keys.append(key)
        if len(keys) == count:
            return keys
    raise AssertionError


class FullZone:
    """A small full zone in which a process is killed at every step of some work."""

    def __init__(self) -> None:
        self.zone = zone()
        self.table = KeyTable(self.zone, 4)
        self.tally = Tally(self.zone, 2)
        self.shared, self.own, self.third, self.fourth = same_chain(self.table, 4)
        # rows that were used before are in a list of free ones; some were never used
        entries = [take(self.table, key) for key in (self.fourth, self.shared)]
        self.table.release(entries[0])
        self.tally.add(0, 2)

    def check(self) -> None:
        """Find nothing but what this process holds, and as many rows free as before."""
        table, tally = self.table, self.tally
        assert (1, 1) == (table.total(self.shared), len(table))
        assert (2, 0) == (tally.total(0), tally.total(1))
        entries = [take(table, key) for key in (self.own, self.third, self.fourth)]
        assert table.acquire(b"another", 1) is None
        for entry in entries:
            table.release(entry)
        assert {os.getpid()} == self.zone.ledgers.owners()

    def go_on(self) -> None:
        """Count on as if nothing had happened."""
        self.table.release(take(self.table, self.shared))
        self.table.release(take(self.table, self.own))
        self.tally.add(0)
        self.tally.add(0, -1)

    def work(self) -> None:
        """Count all kinds of things, and give them back."""
        table = self.table
        entries = [take(table, key) for key in (self.shared, self.own, self.third, self.own)]
        self.tally.add(1, 3)
        for entry in entries:
            table.release(entry)
        self.tally.add(1, -3)
        self.tally.add(0)


def every_step(work: Callable[[], object]) -> Iterator[tuple[int, int]]:
    """Kill a process before each step of some work that may change what is shared.

    Yields: the step and the pid
    """
    for step in itertools.count():
        pid, died = die_at(step, "/core/shm", work, CHANGING)
        yield step, pid
        if not died:
            assert step > 100
            return


def begun(part: KeyTable | Tally, at: int, word: int) -> None:
    """Leave a change behind as a process does that dies before it is done."""
    for n, value in enumerate((at, word), 1):
        part.words[n] = value
    part.words[0] = 1


CHANGES: dict[str, tuple[Callable[[KeyTable, Entry], object], int]] = {
    "acquire": (lambda table, entry: table.acquire(b"k", 9), 6),
    "release": (lambda table, entry: table.release(entry), 4),
    "give_back": (lambda table, entry: table.give_back(entry[2], entry[0][entry[1]]), 4),
    "total": (lambda table, entry: table.total(b"k"), 5),
    "len": (lambda table, entry: len(table), 5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_a_key_that_death_interrupted_is_completed_first(name: str) -> None:
    """Whatever comes next counts on from what the dead process had decided."""
    table = KeyTable(zone())
    entry = take(table, b"k")
    row = table.words[16 + (hash(b"k") & table._mask)]
    begun(table, row + 1, 5 << 8 | 1)
    do, expected = CHANGES[name]
    do(table, entry)
    assert 0 == table.words[0]
    assert expected == table.words[row + 1] >> 8


def test_a_change_of_a_row_that_death_interrupted_is_completed_first() -> None:
    """Whoever adds, or gives back, counts on from what the dead process had decided."""
    tally = Tally(zone(), 1)
    tally.add(0, 2)
    begun(tally, 16, 7)
    tally.add(0, 1)
    assert 8 == tally.total(0)
    begun(tally, 16, 20)
    (chunk,) = tally.zone.ledgers.chunks_of(os.getpid())
    ((address, word),) = tally.zone.ledgers.held(chunk)
    tally.give_back(address, word)
    assert (17, 0) == (tally.total(0), own_of(tally))


@pytest.mark.slow
def test_a_process_may_die_between_any_two_steps() -> None:
    """Wherever in its counting a process is killed, all it held comes back, and nothing else."""
    full = FullZone()
    for step, pid in every_step(full.work):
        if step % 2:
            full.go_on()
        full.zone.reclaim(pid)
        full.check()


@pytest.mark.slow
def test_who_gives_back_may_die_between_any_two_steps() -> None:
    """Giving back goes on where the one before was killed."""
    full = FullZone()
    dead = [0]

    def hold() -> None:
        for key in (full.shared, full.own, full.third, full.own):
            take(full.table, key)
        full.tally.add(1, 3)

    dead[0] = in_child(hold, kill=True)
    for _step, pid in every_step(lambda: full.zone.reclaim(dead[0])):
        full.zone.reclaim(dead[0])
        full.zone.reclaim(pid)
        full.check()
        dead[0] = in_child(hold, kill=True)


# -- memory that another process has spoiled -------------------------------------------------------


def fill(made: shm.Zone) -> tuple[KeyTable, Tally]:
    """Count keys and rows in a zone."""
    table, tally = KeyTable(made, 6), Tally(made, 2)
    for key in same_chain(table, 3):
        take(table, key)
    tally.add(0, 2)
    return table, tally


def spoiled(where: str, at: int, word: int) -> list[str]:
    """Spoil one word after a process died; return what is said when it is to be given back."""
    made = zone()
    table, tally = fill(made)

    def hold() -> None:
        for key in same_chain(table, 3):
            take(table, key)
        tally.add(1, 3)

    dead = in_child(hold, kill=True)
    if where == "ledger":
        (chunk,) = made.ledgers.chunks_of(dead)
        os.pwrite(made.ledgers._fd, word.to_bytes(8, "little", signed=True), chunk + 8 * at)
    else:
        words = (table if where == "table" else tally).words
        words[at % len(words)] = word
    said: list[str] = []
    assert shm.reclaim([made], dead, said.append)
    return said


WORDS = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-50, 200),
    st.sampled_from([1 << n for n in range(63)]),
)


@settings(max_examples=150)
@given(st.sampled_from(["ledger", "table", "tally"]), st.integers(0, 130), WORDS)
def test_spoiled_memory_hurts_nobody_who_gives_back(where: str, at: int, word: int) -> None:
    """Whatever a process wrote before it died, giving back ends, and at worst complains."""
    for text in spoiled(where, at, word):
        assert text.startswith('shared memory zone "z" is damaged, what process ')


@pytest.mark.parametrize(
    ("where", "at", "word", "what"),
    [
        ("ledger", 1, 3 << 60 | 1, "IndexError"),  # a part that there is not
        ("ledger", 1, 1 << 59 | 1, "IndexError"),  # a row that there is not
        ("table", 0, 5, "InternalError no log"),
        ("table", 0, -1, "InternalError no log"),
        ("tally", 0, 1 << 62, "InternalError no log"),
    ],
)
def test_what_makes_no_sense_is_said(where: str, at: int, word: int, what: str) -> None:
    """An administrator learns that a zone is damaged, and how."""
    (said,) = spoiled(where, at, word)
    assert what in said


def test_a_ledger_that_says_it_is_longer_than_it_is_is_read_to_its_end() -> None:
    """No word beyond a chunk is looked at, and all in it are given back."""
    for used in (1 << 62, -1):
        assert [] == spoiled("ledger", 0, used)


def test_a_log_cannot_write_elsewhere_than_in_a_ledger() -> None:
    """An address that is no word of the file, or lies behind its end, is not written to."""
    for address in (3, 1 << 40):
        made = zone()
        table, _ = fill(made)
        size = os.fstat(made.ledgers._fd).st_size
        for at, word in enumerate((1, -address, 7)):
            table.words[at] = word
        with pytest.raises(ValueError, match="no word at"):
            table.recover()
        assert size == os.fstat(made.ledgers._fd).st_size


def test_a_chain_without_an_end_is_left() -> None:
    """Links that lead round and round hold nobody up."""
    table, _ = fill(zone())
    head = next(at for at in range(16, len(table.words)) if table.words[at])
    row = table.words[head]
    table.words[row] = row
    keys = same_chain(table, 3)
    for ask in (table.total, lambda key: table.acquire(key, 5)):
        lost = 0
        for key in keys:
            try:
                ask(key)
            except errors.InternalError:
                lost += 1
        assert lost == 2
    chain = hash(keys[0]) & table._mask
    others = (b"%d" % number for number in range(1000))
    assert 0 == table.total(next(key for key in others if hash(key) & table._mask != chain))


def test_who_keeps_the_lock_keeps_nobody_from_other_things() -> None:
    """While a process holds the lock, giving back fails after a while, and is done later."""
    made = zone()
    tally = Tally(made, 1)
    tally.add(0)
    dead = in_child(lambda: tally.add(0, 5), kill=True)
    holder = Held(made.lock.__enter__)
    said: list[str] = []
    assert not shm.reclaim([made], dead, said.append)
    assert ['the lock of shared memory zone "z" is held for too long'] == said
    assert 6 == tally.total(0)
    with pytest.raises(shm.BusyError):
        KeyTable(made, 1).total(b"k")
    holder.kill()
    assert shm.reclaim([made], dead, said.append)
    assert 1 == tally.total(0)


# -- in all orders ---------------------------------------------------------------------------------


class CountsAgainstDict(RuleBasedStateMachine):
    """Table and tally do what a dict of counters does, whichever process counts."""

    keys = st.sampled_from([b"a", b"b", b"c" * 40, b"d" * 41, b"e" * 96, b"f" * 97, b"g" * 255])

    def __init__(self) -> None:
        """Begin empty, with three processes."""
        super().__init__()
        self.zone = zone()
        self.table = KeyTable(self.zone, 5)
        self.tally = Tally(self.zone, 3)
        self.ledgers: dict[int, Ledger] = {}
        self.held: dict[int, list[tuple[bytes, Entry]]] = {pid: [] for pid in range(3)}
        self.rows: dict[int, list[int]] = {pid: [0, 0, 0] for pid in range(3)}

    def as_process(self, pid: int) -> None:
        """Count in another name from now on; a real fork for each step would take too long."""
        if pid not in self.ledgers:
            ledger = self.ledgers[pid] = Ledger(self.zone.ledgers, 10_000_000 + pid)
            ledger.pid = os.getpid()
        self.zone._ledger = self.ledgers[pid]

    def count(self, key: bytes) -> int:
        """Return how many there are of a key."""
        return sum(known == key for held in self.held.values() for known, _ in held)

    @rule(pid=st.integers(0, 2), key=keys, limit=st.integers(0, 6))
    def acquire(self, pid: int, key: bytes, limit: int) -> None:
        """Count one more if the limit and the zone allow it."""
        self.as_process(pid)
        entry = self.table.acquire(key, limit)
        total = self.count(key)
        known = {k for held in self.held.values() for k, _ in held}
        if total >= limit:
            assert entry is False
        elif key not in known and len(known) == 5:
            assert entry is None
        else:
            assert entry
            self.held[pid].append((key, entry))

    @rule(pid=st.integers(0, 2), which=st.integers(0, 20))
    def release(self, pid: int, which: int) -> None:
        """Give one back where there is one."""
        self.as_process(pid)
        held = self.held[pid]
        if held:
            self.table.release(held.pop(which % len(held))[1])

    @rule(pid=st.integers(0, 2), row=st.integers(0, 2), amount=st.integers(-3, 5))
    def add(self, pid: int, row: int, amount: int) -> None:
        """Count in a row, and give back what there is."""
        self.as_process(pid)
        self.tally.add(row, amount)
        self.rows[pid][row] = max(0, self.rows[pid][row] + amount)

    @rule(pid=st.integers(0, 2))
    def die(self, pid: int) -> None:
        """Lose everything that a process held."""
        self.zone.reclaim(10_000_000 + pid)
        self.ledgers.pop(pid, None)
        self.held[pid] = []
        self.rows[pid] = [0, 0, 0]

    @invariant()
    def totals_agree(self) -> None:
        """Every total is the model's."""
        known = {key for held in self.held.values() for key, _ in held}
        assert len(known) == len(self.table)
        for key in known:
            assert self.count(key) == self.table.total(key)
        for row in range(3):
            assert sum(rows[row] for rows in self.rows.values()) == self.tally.total(row)


TestCountsAgainstDict = CountsAgainstDict.TestCase
