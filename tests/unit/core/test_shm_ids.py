"""Ids of all workers: who has one, who gives way to whom, and what the dead leave behind."""

import os
import random
import subprocess
from collections.abc import Callable

import pytest

from ngxstream.core import shm, shm_ids
from ngxstream.core.shm_ids import ENTERED, FULL, TAKEN, WAYS, IdTable
from tests.support import locks

ME, NOW = os.getpid(), 5000


def make(size: int = shm.LEAST) -> IdTable:
    """Return an empty table in a zone of its own."""
    return IdTable(shm.Zone("z", size, "test"))


@pytest.fixture(scope="module")
def dead() -> int:
    """Give the id of a process that was reaped."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_an_id_is_found_until_it_is_dropped_by_who_has_it() -> None:
    """With the number of the worker, and since when; its length is known for good."""
    table = make()
    assert table.find(7) is None
    assert ENTERED == table.put(7, 8, ME, 3, NOW)
    assert (ME, 3, NOW) == table.find(7)
    table.drop(7, ME, 2)
    table.drop(7, 1, 3)
    assert table.find(7) is not None
    table.drop(7, ME, 3)
    assert table.find(7) is None
    assert (1 << 8, 0) == (table.lengths, table.used)


def test_who_comes_first_has_it_as_long_as_he_lives(dead: int) -> None:
    """Another one may enter it when he is dead, or it was given to him."""
    table = make()
    table.put(7, 8, 1, 3, NOW)  # init is there for good
    assert TAKEN == table.put(7, 8, ME, 2, NOW)
    assert ENTERED == table.put(7, 8, ME, 3, NOW + 1)  # in the place of worker 3
    table.give(7, ME, 3, 2, NOW + 2)
    assert (ME, 2, NOW + 2) == table.find(7)
    table.give(7, ME, 3, 1, NOW + 3)  # it is not his any more
    assert (ME, 2, NOW + 2) == table.find(7)
    table.put(8, 8, dead, 3, NOW)
    assert table.find(8) is None
    assert ENTERED == table.put(8, 8, ME, 2, NOW)


def test_new_ids_push_out_new_ones_alone(dead: int) -> None:
    """The oldest of them; where all rows are of conversations there is no room."""
    table = make()
    tags = [n * table.capacity for n in range(1, 2 * WAYS)]  # all in one set
    for n, tag in enumerate(tags[: WAYS - 1]):
        assert ENTERED == table.put(tag, 8, ME, 0, NOW + n, firm=True)
    for n, tag in enumerate(tags[WAYS - 1 :]):
        assert ENTERED == table.put(tag, 8, ME, 0, NOW + n)
    assert [True] * (WAYS - 1) == [table.find(tag) is not None for tag in tags[: WAYS - 1]]
    assert table.find(tags[-1]) is not None and table.find(tags[-2]) is None
    assert ENTERED == table.put(tags[-1], 8, ME, 0, NOW, firm=True)
    assert FULL == table.put(tags[-2], 8, ME, 0, NOW)
    table.drop(tags[0], ME, 0)
    table.put(tags[0], 8, dead, 0, NOW, firm=True)
    assert ENTERED == table.put(tags[-2], 8, ME, 0, NOW)  # in the place of the dead


def test_a_crowd_is_bounded() -> None:
    """However many ids come, no more rows than the zone holds, and every row is an id that came."""
    table = make()
    dice = random.Random(1)
    tags = [dice.getrandbits(63) for _ in range(10 * table.capacity)]
    for tag in tags:
        table.put(tag, dice.randrange(4, 21), ME, 0, NOW)
    assert table.used <= table.capacity
    assert sum(1 for tag in tags if table.find(tag)) == table.used


def test_nonsense_in_the_memory_is_nobody_and_no_fault() -> None:
    """Another user's process may have written anything."""
    table = make()
    dice = random.Random(2)
    for at in range(len(table._words)):
        table._words[at] = dice.getrandbits(63) - (1 << 62)
    for n in range(500):
        tag = dice.choice(table._words[1::4].tolist())
        table.find(tag)
        table.put(n, 8, ME, 0, NOW, firm=bool(n % 2))
        table.give(tag, ME, 0, 1, NOW)
        table.drop(tag, ME, 0)


def test_a_zone_holds_as_many_as_its_size_says() -> None:
    """A power of two of rows."""
    assert 131_072 == make(4 << 20).capacity
    assert shm.LEAST // shm_ids.ROW == make().capacity


def test_an_id_that_goes_elsewhere_is_nobody_s_until_it_is_entered(dead: int) -> None:
    """Whoever has said so may be dead by then; anybody may enter it."""
    table = make()
    table.put(7, 8, dead, 3, NOW, firm=True)
    table.leave(7, ME, 3, NOW)  # it is not his
    assert table.find(7) is None
    table.leave(7, dead, 3, NOW + 5)
    assert (dead, shm_ids.NOBODY, NOW + 5) == table.find(7)
    assert ENTERED == table.put(7, 8, ME, 1, NOW + 6)
    assert (ME, 1, NOW + 6) == table.find(7)


def test_of_new_ids_the_oldest_gives_way() -> None:
    """Wherever it stands in its set."""
    for oldest in range(WAYS):
        table = make()
        tags = [n * table.capacity for n in range(1, WAYS + 2)]  # all in one set
        for n, tag in enumerate(tags[:WAYS]):
            table.put(tag, 8, ME, 0, NOW - 100 if n == oldest else NOW - n)
        assert ENTERED == table.put(tags[WAYS], 8, ME, 0, NOW)
        assert [tags[oldest]] == [tag for tag in tags if table.find(tag) is None]


def test_every_call_leaves_the_lock_to_others() -> None:
    """Also where there is nothing to be found, and no room."""
    table = make()
    tags = [n * table.capacity for n in range(1, WAYS + 2)]
    calls: list[Callable[[], object]] = [
        lambda: table.find(1), *(
            lambda tag=tag: table.put(tag, 8, ME, 0, NOW, firm=True)  # type: ignore[misc]
            for tag in tags
        ),
        lambda: table.find(tags[0]), lambda: table.give(tags[0], ME, 0, 1, NOW),
        lambda: table.leave(tags[1], ME, 0, NOW), lambda: table.drop(tags[2], ME, 0),
    ]
    for call in calls:
        call()
        assert locks.is_free(table.zone)
