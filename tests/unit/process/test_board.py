"""What processes of a master show each other: counters that begin at 0 again, loads recorded."""

from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import clock, errors
from ngxstream.process import board
from ngxstream.process.board import Bases, Board, Load
from tests.support import descriptors


def test_bases_are_of_one_process() -> None:
    """Of a worker's successor nothing was reset; nor of workers beyond what there is room for."""
    bases = Bases()
    bases.put(7, 1000, (5, 6))
    bases.put(board.WORKERS, 1000, (5, 6))
    assert (5, 6) == bases.of(7, 1000)
    assert (0, 0) == bases.of(7, 1001) == bases.of(6, 1000) == bases.of(board.WORKERS, 1000)
    bases.respawned = 3
    assert 3 == bases.respawned
    bases.respawned = -3
    bases.put(7, 1000, (-5, -6))
    assert (0, 0, 0) == (bases.respawned, *bases.of(7, 1000))


def cycle(adopted: int, generation: int, shown: Board | None) -> Any:
    """Return what a load knows of a cycle."""
    return SimpleNamespace(adopted=adopted, generation=generation, board=shown)


def test_a_load_is_recorded_where_it_is_shown() -> None:
    """With the number of sessions that were taken over until it began."""
    shown = Board(clock.Clock())
    Load(cycle(3, 1, None)).record(cycle(4, 2, shown), accepted=True, message="text")
    Load().record(cycle(0, 1, None), accepted=False, message="nowhere")
    (load,) = shown.history.loads()
    assert (2, 3, True, "text") == (load.generation, load.adopted, load.accepted, load.message)
    assert 0 <= load.duration_ms < 60_000


def test_a_board_that_cannot_be_made_refuses_the_configuration() -> None:
    """Its lock is a descriptor."""
    with descriptors.none_left(), pytest.raises(errors.UnplacedError, match="has no memory"):
        Board(clock.Clock())
