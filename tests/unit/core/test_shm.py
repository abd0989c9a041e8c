"""Shared memory, its lock, and giving back what the dead held; connection numbers."""

import errno
import os

import pytest

from ngxstream.core import shm
from ngxstream.core.shm_counts import Tally
from tests.support import descriptors
from tests.support.forks import Held, in_child, own_of


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


# -- cells -----------------------------------------------------------------------------


def test_cells_are_shared() -> None:
    """What a child stores its parent reads."""
    made = zone()
    ints, others = made.ints(3), made.ints(2)

    def store() -> None:
        ints[2] = -7
        others[1] = 2

    in_child(store)
    assert ([0, 0, -7], [0, 2]) == (list(ints), list(others))


def test_locks_of_two_numbers_are_two() -> None:
    """Who holds one byte of the lock keeps nobody from another, and is waited for at its own."""
    lock = shm.Lock("test")
    with lock, lock.byte(1):
        in_child(lambda: lock.byte(2).__enter__())
    holder = Held(lambda: lock.byte(1).__enter__())
    with lock:
        holder.kill()
    with lock.byte(1):
        pass


def test_more_memory_than_there_are_addresses_is_an_error_of_the_system() -> None:
    """A size that no machine has is refused like one that this machine has not."""
    made = zone()
    for count in (1 << 45, 1 << 60, 1 << 70):
        with pytest.raises(OSError) as caught:
            made.ints(count)
        assert errno.ENOMEM == caught.value.errno


# -- giving back -----------------------------------------------------------------------------------


def test_a_process_that_died_is_given_back_in_every_zone_once() -> None:
    """A zone that two configurations have is no problem, nor is one that counts nothing."""
    made = [zone(), zone()]
    tallies = [Tally(one, 1) for one in made]
    dead = in_child(lambda: [tally.add(0) for tally in tallies], kill=True)
    assert shm.reclaim([*made, zone(), *made], dead, pytest.fail)
    assert [0, 0] == [tally.total(0) for tally in tallies]


def test_what_is_too_much_at_once_is_given_back_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reclaims comes back to other things in between, and complains of nothing."""
    monkeypatch.setattr(shm, "RECLAIM_S", 0)
    made = zone()
    rows = 3 * shm.BATCH
    tally = Tally(made, rows)
    dead = in_child(lambda: [tally.add(row) for row in range(rows)], kill=True)
    left = [rows]
    while not shm.reclaim([made], dead, pytest.fail):
        left.append(sum(tally.total(row) for row in range(rows)))
    assert [rows, rows - shm.BATCH, shm.BATCH, 0] == left[:4]
    assert set() == made.ledgers.owners()


def test_only_a_zone_that_counts_is_claimed() -> None:
    """A process has a ledger in a zone with counts before it counts, elsewhere none."""
    plain, counting = zone(), zone()
    Tally(counting, 1)
    for made in plain, counting, counting:
        made.claim()
    assert [set(), {os.getpid()}] == [made.ledgers.owners() for made in (plain, counting)]
    assert 1 == len(counting.ledgers.chunks_of(os.getpid()))


def test_a_forked_child_does_not_write_in_its_parent_s_ledger() -> None:
    """What a child counts is its own, though its parent had counted before the fork."""
    made = zone()
    tally = Tally(made, 1)
    tally.add(0, 5)
    dead = in_child(lambda: tally.add(0, 2), kill=True)
    made.reclaim(dead)
    assert (5, 5) == (tally.total(0), own_of(tally))


def test_a_zone_that_is_closed_keeps_no_descriptor() -> None:
    """What a zone opened is closed with it, though somebody still has a view of its memory."""
    before = descriptors.numbers()
    made = zone()
    Tally(made, 1).add(0)
    assert before < descriptors.numbers()
    made.close()
    assert before == descriptors.numbers()
    made.close()


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


def test_one_worker_goes_on_counting_in_its_next_block() -> None:
    """Nobody else has taken numbers in between, so none is left out."""
    serial = shm.Serial()
    assert list(range(1, 301)) == [serial.next() for _ in range(300)]
