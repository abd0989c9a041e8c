"""Fixtures of what tests the groups of servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from tests.support.engine import engine
from tests.support.groups import Steered
from tests.support.moving_clock import MovingClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    """Have loops see a clock that can be moved."""
    return MovingClock(monkeypatch)


@pytest.fixture
def loop(clock: MovingClock) -> Iterator[Loop]:
    """Give a loop."""
    with engine() as made:
        yield made


@pytest.fixture
def steered(loop: Loop) -> Iterator[Callable[..., Steered]]:
    """Give ``steered(text)``: a block whose groups can be changed."""
    made: list[Steered] = []

    def make(text: str, **options: Any) -> Steered:
        made.append(Steered(loop, text, **options))
        return made[-1]

    yield make
    for one in reversed(made):
        one.close()
    loop.turn(0)
