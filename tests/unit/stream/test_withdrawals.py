"""Servers that are withdrawn have sessions looked at: when, and how many in a turn."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from ngxstream.stream.withdrawals import ENDS, LOOK_MS, PORTION, Withdrawals
from tests.support.engine import engine
from tests.support.moving_clock import MovingClock


class Lab:
    """A loop, a cell of a zone, and sessions that note when they are looked at."""

    def __init__(self, loop: Loop, clock: MovingClock) -> None:
        self.loop = loop
        self.clock = clock
        self.cell = memoryview(bytearray(8)).cast("q")
        self.looked: list[int] = []
        self.withdrawals = loop.get(Withdrawals)

    def begin(self, count: int) -> None:
        """Begin sessions."""
        for n in range(count):
            content = SimpleNamespace(look_at_server=lambda n=n: self.looked.append(n))
            self.loop.sessions.add(Session(content))

    def watch(self) -> None:
        """Begin to watch; what was there before is looked at."""
        self.withdrawals.start(self, [self.cell])
        self.settle()
        self.looked.clear()

    def withdraw(self) -> None:
        """Withdraw a server."""
        self.cell[0] += 1

    def settle(self) -> None:
        """Let a look come, and all turns that follow from it."""
        self.clock.move(self.loop, LOOK_MS)
        while self.loop.posted:
            self.loop.turn(0)


class Session:
    """Something that has a content."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self.status = 0


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Give a lab."""
    with engine() as loop:
        yield Lab(loop, MovingClock(monkeypatch))
        loop.sessions.clear()


def test_sessions_are_looked_at_once_for_a_withdrawal(lab: Lab) -> None:
    """Within LOOK_MS, and not again while none is withdrawn."""
    lab.begin(3)
    lab.watch()
    for _ in range(5):
        lab.settle()
    assert [] == lab.looked
    lab.withdraw()
    for _ in range(5):
        lab.settle()
    assert [0, 1, 2] == sorted(lab.looked)


def test_what_was_withdrawn_before_is_looked_for_too(lab: Lab) -> None:
    """A configuration that begins to watch cannot tell what its sessions have missed."""
    lab.begin(2)
    lab.withdrawals.start(lab, [lab.cell])
    lab.settle()
    assert [0, 1] == sorted(lab.looked)


def test_a_turn_looks_at_a_portion(lab: Lab) -> None:
    """However many sessions there are; who comes or goes meanwhile harms nobody."""
    lab.watch()
    lab.begin(PORTION * 2 + 5)
    lab.withdraw()
    lab.clock.move(lab.loop, LOOK_MS)
    assert PORTION == len(lab.looked)
    ended = next(s for s in lab.loop.sessions if s.content is not None)
    lab.loop.sessions.discard(ended)
    ended.content = None
    lab.loop.turn(0)
    assert 2 * PORTION - 1 <= len(lab.looked) <= 2 * PORTION
    lab.settle()
    assert len(set(lab.looked)) == len(lab.looked) >= PORTION * 2 + 4


def test_another_one_meanwhile_has_all_looked_at_again(lab: Lab) -> None:
    """When the time under way is over."""
    lab.watch()
    count = PORTION * 3
    lab.begin(count)
    lab.withdraw()
    lab.clock.move(lab.loop, LOOK_MS)
    lab.withdraw()
    lab.clock.move(lab.loop, LOOK_MS)
    assert 2 * PORTION == len(lab.looked)
    lab.settle()
    lab.settle()
    assert 2 * count == len(lab.looked)


def test_few_end_in_a_turn(lab: Lab) -> None:
    """In the order in which they were to."""
    ended: list[int] = []
    for n in range(ENDS * 2 + 1):
        lab.withdrawals.end(lambda n=n: ended.append(n))  # type: ignore[misc]
    counts = []
    for _ in range(3):
        lab.loop.turn(0)
        counts.append(len(ended))
    assert [ENDS, ENDS * 2, ENDS * 2 + 1] == counts
    assert sorted(ended) == ended


def test_a_configuration_that_is_gone_is_not_watched(lab: Lab) -> None:
    """Others are; without any nothing runs."""
    lab.begin(1)
    other = memoryview(bytearray(8)).cast("q")
    lab.withdrawals.start("other", [other])
    lab.watch()
    lab.withdrawals.stop("other")
    other[0] += 1
    lab.settle()
    lab.withdraw()
    lab.settle()
    assert 2 == len(lab.looked)  # `other` had a number that is not seen any more
    lab.withdrawals.stop(lab)
    lab.withdrawals.stop(lab)
    lab.withdraw()
    lab.settle()
    assert 2 == len(lab.looked)
    assert 0 == lab.loop.live


def test_without_cells_nothing_is_watched(lab: Lab) -> None:
    """A configuration that makes nothing of it."""
    lab.begin(1)
    lab.withdrawals.start(lab, [])
    lab.settle()
    assert [] == lab.looked


def test_a_fault_in_one_session_is_its_own(lab: Lab) -> None:
    """It ends, and the others are looked at."""
    lab.begin(2)
    lab.watch()
    faults: list[Any] = []

    def fail() -> None:
        raise RuntimeError

    content = SimpleNamespace(look_at_server=fail, on_fault=lambda: faults.append(1))
    lab.loop.sessions.add(Session(content))
    lab.withdraw()
    lab.settle()
    assert ([0, 1], [1]) == (sorted(lab.looked), faults)


def test_the_watching_survives_a_fault_of_its_own(lab: Lab) -> None:
    """One alert, and it goes on."""
    lab.begin(1)
    lab.watch()
    spoiled = memoryview(bytearray(8)).cast("q")
    lab.withdrawals.start("spoiled", [spoiled])
    spoiled.release()
    lab.settle()
    assert [] == lab.looked
    lab.withdrawals.stop("spoiled")
    lab.withdraw()
    lab.settle()
    assert [0] == lab.looked
