"""Calls come due in any number and are made a few a turn."""

from ngxstream.event.portions import Portions
from tests.support.engine import engine


def test_calls_are_made_in_order_a_few_a_turn() -> None:
    """The first ones in the turn that adds them, the others in those that follow."""
    with engine() as loop:
        portions = Portions(loop, 3)
        made: list[int] = []
        for n in range(8):
            portions.add(lambda n=n: made.append(n))  # type: ignore[misc]
        counts = []
        for _ in range(5):
            loop.turn(0)
            counts.append(len(made))
        assert [3, 6, 8, 8, 8] == counts
        assert list(range(8)) == made


def test_calls_that_come_later_wait_behind_those_that_are_waiting() -> None:
    """Nobody overtakes, and a turn never makes more than its portion."""
    with engine() as loop:
        portions = Portions(loop, 2)
        made: list[int] = []
        for n in range(5):
            portions.add(lambda n=n: made.append(n))  # type: ignore[misc]
        loop.turn(0)
        portions.add(lambda: made.append(5))
        loop.turn(0)
        assert [0, 1, 2, 3] == made
        loop.turn(0)
        assert [0, 1, 2, 3, 4, 5] == made


def test_a_call_that_raises_is_no_other_calls_business() -> None:
    """The loop logs it, and the others are made."""
    with engine() as loop:
        portions = Portions(loop, 2)
        made: list[int] = []
        portions.add(lambda: made[0])  # type: ignore[arg-type, return-value]
        for n in range(3):
            portions.add(lambda n=n: made.append(n))  # type: ignore[misc]
        for _ in range(3):
            loop.turn(0)
        assert [0, 1, 2] == made


def test_a_call_may_add_calls() -> None:
    """They are made in one of the next turns."""
    with engine() as loop:
        portions = Portions(loop, 1)
        made: list[int] = []

        def again(n: int) -> None:
            made.append(n)
            if n < 3:
                portions.add(lambda: again(n + 1))

        again(0)
        for _ in range(8):
            loop.turn(0)
        assert [0, 1, 2, 3] == made


def test_each_turn_has_a_whole_portion() -> None:
    """Calls that were made in former turns keep nobody from being called in this one."""
    with engine() as loop:
        portions = Portions(loop, 2)
        made: list[int] = []
        for turn in range(4):
            for n in range(2):
                portions.add(lambda n=n: made.append(n))  # type: ignore[misc]
            loop.turn(0)
            assert [0, 1] * (turn + 1) == made
