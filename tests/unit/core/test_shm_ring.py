"""Rings of records: the last ones of all processes, whole, whoever dies or spoils them."""

import fcntl
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import shm_ring
from ngxstream.core.shm_ring import Ring
from tests.support.forks import Held, die_at, in_child


def texts(ring: Ring, after: int = 0) -> list[bytes]:
    """Return the records of a ring."""
    return [data for _, data in ring.read(after)]


def test_the_last_records_are_kept() -> None:
    """As many as there is room for, numbered from 1 on; a long one is cut."""
    ring = Ring("test", 3, 4)
    assert [] == ring.read()
    for word in (b"a", b"", b"c", b"d", b"eeeee"):
        ring.add(word)
    assert [(3, b"c"), (4, b"d"), (5, b"eeee")] == ring.read()
    assert [(5, b"eeee")] == ring.read(4)
    assert [] == ring.read(5)
    assert [] == ring.read(1 << 70)
    assert 5 == ring.last


@given(st.lists(st.binary(max_size=12)), st.integers(1, 7), st.integers(0, 30))
def test_a_ring_is_the_end_of_a_list(added: list[bytes], records: int, after: int) -> None:
    """Whatever is added."""
    ring = Ring("test", records, 8)
    for data in added:
        ring.add(data)
    numbered = [(n, data[:8]) for n, data in enumerate(added, 1)]
    assert [one for one in numbered[-records:] if one[0] > after] == ring.read(after)


def test_all_processes_add_to_one_ring() -> None:
    """Each record of each of them is there once."""
    ring = Ring("test", 1000, 16)

    def add(name: int) -> None:
        for n in range(100):
            ring.add(b"%d %d" % (name, n))

    held = [Held(lambda name=name: add(name)) for name in range(4)]  # type: ignore[misc]
    for one in held:
        one.kill()
    assert {b"%d %d" % (name, n) for name in range(4) for n in range(100)} == set(texts(ring))
    assert 400 == ring.last
    assert 0 == ring.lost


def test_a_process_that_dies_while_it_adds_harms_nothing() -> None:
    """Wherever it was: what others added before is there, its record whole or not at all."""
    step, died = 0, True
    while died:
        ring = Ring("test", 3, 8)
        for word in (b"a", b"b", b"c"):
            ring.add(word)
        _, died = die_at(step, "shm_ring", lambda ring=ring: ring.add(b"dead"))  # type: ignore[misc]
        assert texts(ring) in ([b"a", b"b", b"c"], [b"b", b"c"], [b"b", b"c", b"dead"])
        ring.add(b"x")
        assert texts(ring)[-3:] in ([b"b", b"c", b"x"], [b"c", b"dead", b"x"])
        step += 5
    assert step > 50


def test_a_lock_that_is_kept_loses_records_and_nobody_waits_for_it() -> None:
    """They are counted; when the lock is free again, records are added as before."""
    ring = Ring("test", 3, 8)
    held = Held(lambda: fcntl.lockf(ring._lock.fd, fcntl.LOCK_EX, 1))
    for _ in range(1000):  # each of them would wait for milliseconds
        ring.add(b"lost")
    assert 1000 == ring.lost
    held.kill()
    ring.add(b"kept")
    assert [b"kept"] == texts(ring)


def test_a_lock_is_waited_for_but_not_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is added when the holder lets go in time; after one that did not nobody waits."""
    ring = Ring("test", 3, 8)
    slept: list[float] = []
    held = Held(lambda: fcntl.lockf(ring._lock.fd, fcntl.LOCK_EX, 1))
    monkeypatch.setattr("time.sleep", lambda _: held.kill())
    ring.add(b"late")
    assert [b"late"] == texts(ring)
    held = Held(lambda: fcntl.lockf(ring._lock.fd, fcntl.LOCK_EX, 1))
    monkeypatch.setattr("time.sleep", slept.append)
    ring.add(b"lost")
    assert slept
    slept.clear()
    ring.add(b"lost at once")
    assert ([], 2) == (slept, ring.lost)
    held.kill()


@given(st.binary(min_size=200, max_size=200), st.integers(0, 1 << 62))
def test_what_another_process_has_spoiled_is_not_believed(noise: bytes, after: int) -> None:
    """Any bytes in its memory: records that make sense, or none; and one can be added."""
    ring = Ring("test", 3, 8)
    ring._memory[: len(noise)] = noise[: len(ring._memory)]
    assert all(len(data) <= 8 for _, data in ring.read(after))
    ring.add(b"x")
    assert ring.read(ring.last - 1) in ([(ring.last, b"x")], [])
    assert ring.lost >= 0


@pytest.mark.parametrize("number", [-1, 1 << 62, (1 << 63) - 1, -(1 << 63)])
def test_a_number_that_was_spoiled_stays_a_number(number: int) -> None:
    """It overflows nothing."""
    ring = Ring("test", 3, 8)
    ring._cells[0] = ring._cells[1] = number
    in_child(lambda: ring.add(b"x"))
    ring.read()
    assert os.getpid() > 0
    assert 0 <= ring.last <= shm_ring._MASK
