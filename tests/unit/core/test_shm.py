"""Zones: shared memory, its lock, counters that outlive a killed worker, the table of zones."""

import os
import signal
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ngxstream.core import errors, shm


def in_child(work: Callable[[], object], *, kill: bool = False) -> int:
    """Run work in a forked process, killed after it if wanted; return its reaped pid."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
            if kill:
                os.write(write, b"x")
                signal.pause()
        finally:
            os._exit(code)
    if kill:
        assert b"x" == os.read(read, 1)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert kill or status == 0
    return child


def zone(size: int = 32 * 1024) -> shm.Zone:
    """Return a new zone."""
    return shm.Zone("z", size, "test")


# -- lock ------------------------------------------------------------------------------------------


def test_the_lock_excludes_other_processes() -> None:
    """Four processes that count without atomic instructions lose nothing under the lock."""
    lock, made = shm.Lock("test"), zone()
    cell = made.ints(1)

    def count() -> None:
        for _ in range(500):
            with lock:
                cell[0] += 1

    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            count()
            os._exit(0)
        children.append(child)
    for child in children:
        assert 0 == os.waitpid(child, 0)[1]
    assert 2000 == cell[0]


def test_the_lock_goes_with_a_killed_holder() -> None:
    """SIGKILL inside the lock leaves nobody waiting."""
    lock = shm.Lock("test")
    in_child(lock.__enter__, kill=True)
    with lock:
        pass


# -- cells and tallies -----------------------------------------------------------------------------


def test_cells_are_shared() -> None:
    """What a child stores its parent reads."""
    made = zone()
    ints, floats = made.ints(3), made.floats(2)

    def store() -> None:
        ints[2] = -7
        floats[1] = 2.5

    in_child(store)
    assert ([0, 0, -7], [0.0, 2.5]) == (list(ints), list(floats))


def test_a_tally_is_the_sum_over_processes() -> None:
    """Rows are counted apart, processes together."""
    made = zone()
    tally = made.tally(3)
    in_child(lambda: tally.add(1, 5))
    in_child(lambda: tally.add(1, 2))
    tally.add(1)
    tally.add(2, 4)
    assert [0, 8, 4] == [tally.total(row) for row in range(3)]
    assert 1 == tally.own(1)


def test_reclaim_gives_back_what_a_killed_process_held() -> None:
    """Only the dead process's share goes."""
    made = zone()
    tally = made.tally(2)
    tally.add(0, 3)
    dead = in_child(lambda: tally.add(0, 39), kill=True)
    assert 42 == tally.total(0)
    made.reclaim(dead)
    assert 3 == tally.total(0)


def test_a_column_is_used_again() -> None:
    """More processes than columns may come, one after another."""
    made = zone()
    tally = made.tally(1)
    for _ in range(20):
        made.reclaim(in_child(lambda: tally.add(0)))
    assert 1 == made.columns
    assert 0 == tally.total(0)


def test_reclaiming_a_stranger_changes_nothing() -> None:
    """A process that never counted has nothing to give back."""
    made = zone()
    tally = made.tally(1)
    tally.add(0)
    made.reclaim(999_999)
    assert 1 == tally.total(0)


def test_clear_forgets_a_row_in_every_name() -> None:
    """A row that is given to another peer starts at zero."""
    made = zone()
    tally = made.tally(2)
    tally.add(0)
    tally.add(1)
    in_child(lambda: tally.add(0, 8))
    tally.clear(0)
    assert (0, 1) == (tally.total(0), tally.total(1))


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_counted_up_to_its_limit() -> None:
    """At the limit the answer is no, and a release makes room."""
    table = zone().key_table()
    assert [True, True, False] == [table.acquire(b"k", 2) for _ in range(3)]
    table.release(b"k")
    assert table.acquire(b"k", 2)
    assert 2 == table.total(b"k")


def test_the_limit_holds_over_processes() -> None:
    """A key that another process holds is at its limit here."""
    table = zone().key_table()
    in_child(lambda: table.acquire(b"k", 2))
    assert [True, False] == [table.acquire(b"k", 2) for _ in range(2)]


def test_keys_of_every_length_are_told_apart() -> None:
    """Keys of 1 to 255 bytes, in one unit or several, come back to zero."""
    table = zone().key_table()
    keys = [b"x" * length for length in range(1, 256, 7)]
    for key in keys:
        assert table.acquire(key, 1)
        assert table.acquire(key, 1) is False
    assert len(keys) == len(table)
    for key in keys:
        table.release(key)
    assert 0 == len(table)


def test_a_full_zone_says_so_and_recovers() -> None:
    """Exhaustion is told apart from a limit; one release makes room for one key."""
    table = zone(shm.LEAST).key_table()
    keys = [b"key %d" % number for number in range(10_000)]
    taken = [key for key in keys if table.acquire(key, 9)]
    assert 300 < len(taken) < shm.LEAST // 64
    assert table.acquire(b"one more", 9) is None
    assert table.acquire(taken[0], 9) is True
    table.release(taken[1])
    assert table.acquire(b"one more", 9) is True
    assert table.acquire(b"and another", 9) is None


def test_a_zone_holds_as_many_keys_whoever_counts_them() -> None:
    """Four processes that count the same keys do not fill the zone four times as fast."""
    table = zone(shm.LEAST).key_table()
    keys = [b"key %d" % number for number in range(table.capacity)]

    def count() -> None:
        for key in keys:
            if table.acquire(key, 100) is None:
                raise AssertionError

    for _ in range(3):
        in_child(count)
    count()
    assert 4 == table.total(keys[0])


def test_keys_of_a_killed_process_are_given_back() -> None:
    """Shared and own keys return to what the living hold."""
    made = zone()
    table = made.key_table()
    table.acquire(b"both", 10)

    def work() -> None:
        for number in range(50):
            table.acquire(b"only %d" % number, 10)
        table.acquire(b"both", 10)

    made.reclaim(in_child(work, kill=True))
    assert (1, 1) == (table.total(b"both"), len(table))
    table.release(b"both")
    assert 0 == len(table)


def test_units_lost_in_a_crash_are_found_again() -> None:
    """A process killed between taking a unit and linking it costs the zone nothing."""
    made = zone(shm.LEAST)
    table = made.key_table()

    def lose() -> None:
        table.acquire(b"k", 1)
        while table._take():
            pass

    dead = in_child(lose, kill=True)
    assert table.acquire(b"new", 1) is None
    made.reclaim(dead)
    for number in range(table.capacity):
        assert table.acquire(b"%d" % number, 1)


class KeyTableAgainstDict(RuleBasedStateMachine):
    """The table does what a dict of counters does, whichever process counts."""

    keys = st.sampled_from([b"a", b"b", b"c" * 40, b"d" * 41, b"e" * 96, b"f" * 97, b"g" * 255])

    def __init__(self) -> None:
        """Begin empty, with two processes' columns."""
        super().__init__()
        self.zone = zone()
        self.table = self.zone.key_table()
        self.model: dict[tuple[int, bytes], int] = {}

    def as_process(self, pid: int) -> None:
        """Count in another name from now on; a real fork for each step would take too long."""
        owners = self.zone._owners
        owners[pid] = 1000 + pid
        owners[shm.OWNERS] = 3
        self.zone._column = pid
        self.zone._pid = os.getpid()

    @rule(pid=st.integers(0, 2), key=keys, limit=st.integers(0, 6))
    def acquire(self, pid: int, key: bytes, limit: int) -> None:
        """Count one more if the total allows it."""
        self.as_process(pid)
        total = sum(count for (_, k), count in self.model.items() if k == key)
        assert (total < limit) is self.table.acquire(key, limit)
        if total < limit:
            self.model[pid, key] = self.model.get((pid, key), 0) + 1

    @rule(pid=st.integers(0, 2), key=keys)
    def release(self, pid: int, key: bytes) -> None:
        """Give one back where there is one."""
        self.as_process(pid)
        self.table.release(key)
        if self.model.get((pid, key)):
            self.model[pid, key] -= 1

    @rule(pid=st.integers(0, 2))
    def die(self, pid: int) -> None:
        """Lose everything that a process held."""
        self.zone.reclaim(1000 + pid)
        self.model = {at: count for at, count in self.model.items() if at[0] != pid}

    @invariant()
    def totals_agree(self) -> None:
        """Every key's total is the model's."""
        for key in {k for _, k in self.model}:
            total = sum(count for (_, k), count in self.model.items() if k == key)
            assert total == self.table.total(key)


TestKeyTableAgainstDict = KeyTableAgainstDict.TestCase


# -- serial ----------------------------------------------------------------------------------------


def test_one_worker_counts_from_one() -> None:
    """Numbers follow each other without a gap."""
    serial = shm.Serial()
    assert list(range(1, 101)) == [serial.next() for _ in range(100)]


def test_no_number_is_given_out_twice() -> None:
    """Three processes' numbers are all different."""
    serial = shm.Serial()
    seen = zone().ints(300)
    for start in (0, 100, 200):

        def take(start: int = start) -> None:
            for n in range(start, start + 100):
                seen[n] = serial.next()

        in_child(take)
    assert 300 == len(set(seen))
    assert 0 not in seen


# -- the table of zones ----------------------------------------------------------------------------


def test_one_name_is_one_zone() -> None:
    """A reference without size joins the declaration, whichever comes first."""
    table = shm.ZoneTable()
    first = table.request("a", 0, "limit_conn")
    assert first is table.request("a", 65536, "limit_conn")
    assert first is table.request("a", 0, "limit_conn")
    assert 65536 == first.size


def test_another_use_is_refused() -> None:
    """Two modules cannot share a zone."""
    table = shm.ZoneTable()
    table.request("a", 65536, "limit_conn")
    with pytest.raises(errors.ConfError) as caught:
        table.request("a", 65536, "upstream")
    message = 'the shared memory zone "a" is already declared for a different use'
    assert message == str(caught.value)


def test_another_size_is_refused() -> None:
    """Two sizes conflict."""
    table = shm.ZoneTable()
    table.request("a", 65536, "limit_conn")
    with pytest.raises(errors.ConfError) as caught:
        table.request("a", 131072, "limit_conn")
    message = ('the size 131072 of shared memory zone "a" conflicts with '
               "already declared size 65536")
    assert message == str(caught.value)


def test_a_zone_nobody_declared_is_refused_when_it_is_made() -> None:
    """A reference without declaration has size zero."""
    table = shm.ZoneTable()
    table.request("a", 0, "limit_conn")
    with pytest.raises(errors.UnplacedError) as caught:
        table.build()
    assert 'zero size shared memory zone "a"' == str(caught.value)


def test_a_reload_adopts_a_zone_of_the_same_name_size_and_owner() -> None:
    """The new table has the old memory and its init is told so."""
    told: list[bool] = []

    def init(made: shm.Zone, fresh: bool) -> None:
        told.append(fresh)
        if fresh:
            made.data = made.ints(1)

    old, new = shm.ZoneTable(), shm.ZoneTable()
    for table in (old, new):
        table.request("a", 65536, "limit_conn").init = init
    old.build()
    next(old.zones()).data[0] = 7
    new.build(old)
    old.close(keep=new)
    assert [True, False] == told
    assert 7 == next(new.zones()).data[0]


@pytest.mark.parametrize(
    ("size", "tag", "no_reuse"),
    [(131072, "limit_conn", False), (65536, "other", False), (65536, "limit_conn", True)],
)
def test_a_reload_makes_other_zones_anew(size: int, tag: str, no_reuse: bool) -> None:
    """Another size, owner or a zone that is not to be kept starts empty."""
    old, new = shm.ZoneTable(), shm.ZoneTable()
    old.request("a", 65536, "limit_conn")
    new.request("a", size, tag).no_reuse = no_reuse
    old.build()
    new.build(old)
    assert next(old.zones()) is not next(new.zones())


def test_an_abandoned_table_closes_only_its_own() -> None:
    """What the old configuration has goes on."""
    old, new = shm.ZoneTable(), shm.ZoneTable()
    for table in (old, new):
        table.request("a", 65536, "x")
    new.request("b", 65536, "x")
    old.build()
    new.build(old)
    new.close(keep=old)
    shared, own = new.zones()
    assert shared.lock.fd >= 0
    assert -1 == own.lock.fd


def test_the_table_reclaims_in_all_zones() -> None:
    """One dead process may have held something everywhere."""
    table = shm.ZoneTable()
    for name in "ab":
        table.request(name, 65536, "x")
    table.build()
    tallies = [made.tally(1) for made in table.zones()]
    dead = in_child(lambda: [tally.add(0) for tally in tallies], kill=True)
    table.reclaim(dead)
    assert [0, 0] == [tally.total(0) for tally in tallies]


@given(st.integers(shm.LEAST, 1 << 20))
def test_capacity_never_exceeds_what_the_size_has_room_for(size: int) -> None:
    """Units of 64 bytes that are charged fit into the configured bytes."""
    table = zone(size).key_table()
    assert table.capacity * shm.UNIT < size
