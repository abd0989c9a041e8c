"""Generations: whose sessions still live, however many reloads there were."""

from collections.abc import Callable

import pytest

from ngxstream.core import errors, shm
from ngxstream.process import generations as module
from ngxstream.process.generations import Generations
from tests.support.forks import Held, in_child


def test_sessions_are_counted_for_their_generation() -> None:
    """Each session counts for the generation it began under, until it ends."""
    made = Generations()
    holders = [made.adopt(generation) for generation in (1, 1, 2)]
    assert [0, 2, 1] == [made.live(generation) for generation in range(3)]
    holders[0]()
    assert [0, 1, 1] == [made.live(generation) for generation in range(3)]
    holders[1]()
    holders[2]()
    assert [0, 0, 0] == [made.live(generation) for generation in range(3)]


def test_a_session_ends_once() -> None:
    """Ending it again changes nothing."""
    made = Generations()
    first, _second = made.adopt(1), made.adopt(1)
    first()
    first()
    assert 1 == made.live(1)


def test_a_generation_lives_on_while_thousands_begin() -> None:
    """No other generation is taken for one that somebody lives by, whatever its number."""
    made = Generations()
    made.adopt(1)
    old = Held(lambda: made.adopt(1))
    for generation in range(2, 1000):
        made.begin()
        assert (0, 2) == (made.live(generation), made.live(1))
        holder = made.adopt(generation)
        assert 1 == made.live(generation)
        holder()
    old.kill()
    made.zone.reclaim(old.pid)
    assert 1 == made.live(1)


def test_workers_settle_anew_when_a_generation_begins() -> None:
    """Only workers that were forked since count, though they are of the same generation."""
    made = Generations()
    made.begin()
    former = Held(lambda: made.settle(7))
    assert (1, 0) == (made.settled(7), made.settled(8))
    made.begin()
    assert 0 == made.settled(7)
    workers = [Held(lambda: made.settle(7)) for _ in range(3)]
    assert 3 == made.settled(7)
    for child in (former, *workers):
        child.kill()
    made.zone.reclaim(former.pid)
    assert 3 == made.settled(7)
    made.zone.reclaim(workers[0].pid)
    assert 2 == made.settled(7)


def test_who_had_settled_counts_again_when_the_new_ones_are_withdrawn() -> None:
    """After a refused reload the workers of before are the ones that are asked about."""
    made = Generations()
    made.begin()
    workers = [Held(lambda: made.settle(7)) for _ in range(2)]
    made.begin()
    made.withdraw()
    assert 2 == made.settled(7)
    for child in workers:
        child.kill()


def test_a_worker_that_settles_late_is_not_taken_for_a_new_one() -> None:
    """A worker from before counts for its own time."""
    made = Generations()
    made.begin()
    settle: Callable[[], None] = lambda: made.settle(7)  # noqa: E731
    round_ = made._round
    made.begin()

    def late() -> None:
        made._round = round_
        settle()

    in_child(late)
    assert 0 == made.settled(7)


def test_what_a_killed_worker_counted_is_given_back() -> None:
    """Sessions of a worker that is gone keep no generation alive."""
    made = Generations()

    def work() -> None:
        for generation in (1, 2, 2, 3):
            made.adopt(generation)
        made.settle(3)

    made.adopt(2)
    dead = in_child(work, kill=True)
    assert [1, 3, 1] == [made.live(generation) for generation in (1, 2, 3)]
    made.zone.reclaim(dead)
    assert [0, 1, 0] == [made.live(generation) for generation in (1, 2, 3)]
    assert 0 == made.settled(3)


def test_more_living_generations_than_can_be_counted_are_refused() -> None:
    """A session that cannot be counted is not taken in silence."""
    made = Generations()
    assert module.MOST == made._counts.capacity
    made._counts = module.KeyTable(shm.Zone("small", 0, "generations"), 2)
    made.adopt(1)
    made.adopt(2)
    with pytest.raises(errors.InternalError):
        made.adopt(3)


def test_a_generation_of_which_nothing_can_be_known_is_kept() -> None:
    """While somebody holds the lock, a configuration may be in use, and nobody has settled."""
    made = Generations()
    holder = Held(made.zone.lock.__enter__)
    assert (1, 0) == (made.live(1), made.settled(1))
    holder.kill()
    assert (0, 0) == (made.live(1), made.settled(1))
