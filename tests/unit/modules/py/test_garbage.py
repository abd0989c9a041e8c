"""The cyclic collector: on where users' code runs, all objects in a bounded share of the time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from ngxstream.modules.py import garbage
from ngxstream.modules.py.garbage import Garbage
from tests.support.engine import engine, run_until


class Cycle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop; the collector is as before at the end."""
    before = gc.get_threshold()
    with engine() as made:
        yield made
        made.get(Garbage).close()
    gc.set_threshold(*before)
    gc.unfreeze()
    gc.enable()


def grow_old() -> None:
    """Make so many objects that some are looked through twice."""
    kept: list[Any] = []
    for _ in range(garbage.YOUNG * (2 * garbage.MIDDLE + 4)):
        kept.append([])  # noqa: PERF401 - one by one
    del kept


def test_it_runs_and_leaves_out_what_was_there(loop: Loop) -> None:
    """What a worker began with is frozen; all objects are not looked through by CPython's rule."""
    loop.get(Garbage)
    assert (True, True) == (loop.collects, gc.isenabled())
    assert (garbage.YOUNG, garbage.MIDDLE, garbage.NEVER) == gc.get_threshold()
    assert gc.get_freeze_count()


def test_cycles_that_have_grown_old_are_found_between_turns(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never within a call: a function that makes them has its time for itself."""
    monkeypatch.setattr(garbage, "SOONEST_MS", 0)
    its = loop.get(Garbage)
    gone = weakref.ref(cycle := Cycle())
    grow_old()
    del cycle
    grow_old()
    assert 0 == its.rounds
    assert gone() is not None
    run_until(loop, lambda: its.rounds)
    assert gone() is None
    assert 0 == loop.live


def test_nothing_is_looked_through_while_nothing_grows_old(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker sleeps."""
    monkeypatch.setattr(garbage, "SOONEST_MS", 0)
    its = loop.get(Garbage)
    for _ in range(5):
        loop.turn(0)
    assert (0, []) == (its.rounds, loop.posted)


def test_the_next_time_is_a_share_of_what_it_took(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many objects there are, others have the rest."""
    monkeypatch.setattr(garbage, "SOONEST_MS", 0)
    times = iter((0, 7_000_000))
    monkeypatch.setattr(garbage.time, "monotonic_ns", lambda: next(times))
    its = loop.get(Garbage)
    its.on_timeout()
    assert loop.now_ms + 7 * garbage.SHARE == its._next_ms


def test_what_users_leave_in_cycles_stays_bounded(loop: Loop) -> None:
    """Young cycles are found while they are made."""
    loop.get(Garbage)
    alive: weakref.WeakSet[Cycle] = weakref.WeakSet()
    most = 0
    for _ in range(10 * garbage.YOUNG):
        alive.add(Cycle())
        most = max(most, len(alive))
    assert most < 3 * garbage.YOUNG
