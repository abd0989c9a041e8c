"""What a worker tells of itself, and how late its loop is."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core.clock import monotonic_ms
from ngxstream.core.facts import Facts
from ngxstream.core.log import Log
from ngxstream.core.shm_facts import Rows
from ngxstream.event import timers
from ngxstream.event.loop import Loop
from ngxstream.event.udp import Standing
from ngxstream.event.udp_counted import Drains
from ngxstream.process import worker_facts as w
from tests.support.waiting import wait_until


class Session:
    """One of a client."""

    def __init__(self, is_udp: bool) -> None:
        self.c = SimpleNamespace(is_udp=is_udp)


class World:
    """A loop whose worker tells of itself."""

    def __init__(self) -> None:
        self.facts = Facts(w.FACTS)
        self.cells = w.WorkerCells(self.facts)
        self.rows = Rows()
        self.facts.attach(self.rows)
        self.loop = Loop(Log())
        self.loop.cells = self.rows.cells
        self.publisher = self.loop.get(w.Publisher)
        self.listeners: list[Any] = []

    def start(self) -> None:
        """Have it tell."""
        self.publisher.start(self.cells, 7, 1000, lambda: self.listeners)

    def gauge(self, fact: Any) -> int:
        """Return what it has told."""
        return self.cells.gauges[fact].total

    def late(self, delay_ms: int) -> None:
        """Have it find its loop that late."""
        self.publisher._timer.cancel()
        self.publisher._due_ms = monotonic_ms() - delay_ms
        self.publisher._tick()


@pytest.fixture
def world() -> Iterator[World]:
    """Give a world."""
    made = World()
    yield made
    made.loop.poller.close()


def test_a_worker_tells_who_it_is_and_what_it_has(world: World) -> None:
    """At once when it begins, and whenever it is told to."""
    world.loop.worker = 3
    world.loop.sessions |= {Session(is_udp) for is_udp in (True, False, True)}
    count = w.LISTENERS + 3
    world.listeners = [
        SimpleNamespace(standing=lambda n=n: Standing(n == 1, n < 2, n, 2 * n, 1))
        for n in range(count)
    ]
    drained = world.loop.get(Drains)
    drained.drains, drained.datagrams = 3, 40
    world.start()
    assert 0 == world.gauge(w.HELD)  # there are so many that some wait for the next turn
    world.late(0)
    told = {fact: world.gauge(fact) for fact in w.GAUGES}
    assert 1_000_000 < told.pop(w.MEMORY) < 1 << 34
    assert 0 < told.pop(w.SEEN) <= monotonic_ms()
    assert {
        w.STATE: w.SERVING, w.NUMBER: 3, w.GENERATION: 7, w.STARTED: 1000, w.TURNS: 0, w.TCP: 1,
        w.UDP: 2, w.GRO: 1, w.GSO: 2, w.HELD: sum(range(count)), w.QUEUED: 2 * sum(range(count)),
        w.OVERFLOW: count, w.DELAY_WORST: 0, w.DELAY_HALF: 0, w.DELAY_MOST: 0,
    } == told
    assert (3, 40) == (world.cells.drains.total, world.cells.datagrams.total)
    world.loop.exiting = True
    world.publisher.publish()
    assert w.LEAVING == world.gauge(w.STATE)


def test_how_late_the_loop_was_is_told_of_the_last_minute(world: World) -> None:
    """The worst, the middle and the 99th of a hundred; all are counted in a histogram."""
    world.start()
    for delay_ms in (*[0] * 60, *[15] * 38, 400, 30_000):
        world.late(delay_ms)
    world.publisher.publish()
    assert 30_000 <= world.gauge(w.DELAY_WORST) < 60_000
    assert world.gauge(w.DELAY_HALF) < 15
    assert 30_000 <= world.gauge(w.DELAY_MOST)
    counted = dict(zip(w.LABELS, [cell.total for cell in world.cells.delays], strict=True))
    assert 100 == sum(counted.values())
    assert 1 == counted["inf"]
    assert 30_400 + 38 * 15 <= world.cells.delay_sum.total < 90_000
    for _ in range(600):  # a minute
        world.late(0)
    world.publisher.publish()
    assert world.gauge(w.DELAY_WORST) < 30_000


def test_the_loop_is_looked_at_ten_times_a_second(world: World) -> None:
    """By a timer that keeps no worker that is to leave."""
    world.start()
    assert 0 == world.loop.live
    timer = world.publisher._timer
    assert timer is not None
    assert timer.tick * timers.TICK_MS == world.publisher._due_ms

    def turn() -> bool:
        world.loop.turn()
        return sum(cell.total for cell in world.cells.delays) > 1

    wait_until(turn)


def test_another_configuration_goes_on_and_the_last_one_ends_it(world: World) -> None:
    """Where one process serves several."""
    world.start()
    later = w.WorkerCells(Facts(w.FACTS))
    world.publisher.start(later, 8, 2000, list)
    world.publisher.stop(world.cells)
    world.late(0)
    world.publisher.start(world.cells, 9, 3000, list)
    world.publisher.stop(later)
    assert (9, 3000) == (world.gauge(w.GENERATION), world.gauge(w.STARTED))
    world.publisher.stop(world.cells)
    world.publisher.stop(world.cells)
    assert {0} == {world.gauge(fact) for fact in w.GAUGES}
    assert [] == [tick for tick in world.loop.timers._buckets.values() if tick]
    world.publisher.publish()


def test_memory_is_the_kernel_s_number() -> None:
    """In bytes."""
    assert 0 == w.resident_bytes() % os.sysconf("SC_PAGE_SIZE")
