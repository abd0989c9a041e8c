"""Work in slices: a little at a time, in order, whatever one of the calls raises."""

import ctypes
import itertools
import time
from collections.abc import Iterator

import pytest

from ngxstream.core.log import Log
from ngxstream.event import slices
from ngxstream.event.loop import Loop
from ngxstream.event.slices import SLICE_NS, Slices
from tests.support import descriptors
from tests.support.in_process import LogTarget
from tests.support.waiting import wait_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop."""
    made = Loop(Log([LogTarget()]))
    yield made
    made.poller.close()


def busy(ns: int = SLICE_NS) -> None:
    """Take a slice, or longer."""
    over = time.monotonic_ns() + ns
    while time.monotonic_ns() < over:
        pass


def turn_until(loop: Loop, done: list[object], count: int) -> None:
    """Turn the loop until so much is done."""
    wait_until(lambda: loop.turn(wait_ms=5) or len(done) >= count, every=0)


def test_what_takes_a_slice_waits_for_its_turn(loop: Loop) -> None:
    """Of calls that take a whole slice each, no two are made in a turn; they are made in order."""
    done: list[object] = []
    seen: list[int] = []
    for n in range(5):
        loop.get(Slices).add(lambda n=n: (busy(), done.append(n)))  # type: ignore[misc]
    for _ in range(200):
        loop.turn(wait_ms=5)
        seen.append(len(done))
        if len(done) == 5:
            break
    assert [0, 1, 2, 3, 4] == done
    assert all(after - before <= 1 for before, after in itertools.pairwise(seen))


def test_a_slice_is_followed_by_a_rest(loop: Loop) -> None:
    """The loop has as long for others: what is added meanwhile waits."""
    made = loop.get(Slices)
    done: list[object] = []
    made.add(lambda: (busy(slices.MAX_REST_NS), done.append(time.monotonic_ns())))
    loop.turn(wait_ms=0)
    made.add(lambda: done.append(time.monotonic_ns()))
    turn_until(loop, done, 2)
    first, second = done
    assert isinstance(first, int) and isinstance(second, int)
    assert second - first >= slices.MAX_REST_NS


def test_short_calls_share_a_slice_and_what_they_add_waits(loop: Loop) -> None:
    """All that fit are made at once; one that adds itself anew does not keep the turn going."""
    made = loop.get(Slices)
    done: list[object] = []

    def again() -> None:
        done.append("again")
        made.add(again)

    made.add(again)
    made.add(lambda: done.append("once"))
    loop.turn(wait_ms=0)
    assert ["again", "once"] == done
    turn_until(loop, done, 3)
    assert ["again", "once", "again"] == done[:3]


def test_a_fault_ends_nobody_else(loop: Loop) -> None:
    """An exception is logged and the calls behind it are made."""
    done: list[object] = []
    loop.get(Slices).add(lambda: 1 // 0)
    loop.get(Slices).add(lambda: done.append(1))
    turn_until(loop, done, 1)
    (target,) = loop.log.targets
    assert isinstance(target, LogTarget)
    assert ["alert"] == [level for level, _ in target.lines]


def test_nothing_stays_open(loop: Loop) -> None:
    """The timer of a rest is closed when there is nothing to do."""
    before = descriptors.count()
    done: list[object] = []
    for n in range(5):
        loop.get(Slices).add(lambda n=n: (busy(), done.append(n)))  # type: ignore[misc]
    turn_until(loop, done, 5)
    assert before == descriptors.count()


def test_a_timer_fires_once() -> None:
    """When its time is over, and not before."""
    timer = slices._Timer(ctypes.CDLL(None))
    assert timer.start(900_000_000)
    assert not timer.stop()
    assert timer.start(1)
    wait_until(timer.stop)
    assert not timer.stop()
    timer.close()
    assert not timer.start(1)
