"""Leaky buckets of all processes: what passes is what the arithmetic of nginx's limit_req says."""

import array
import itertools
import math
import os
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import shm
from ngxstream.core.shm_buckets import REFUSED, UNIT, WAYS, BucketTable
from tests.support import locks

NOW = 10_000_000


def make(size: int = shm.LEAST) -> BucketTable:
    """Return an empty table in a zone of its own."""
    return BucketTable(shm.Zone("z", size, "test"))


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3000), st.integers(0, 2000)), max_size=40
)


@given(STEPS, st.integers(1, 60_000), st.integers(0, 5))
@settings(max_examples=150)
def test_levels_are_those_of_plain_arithmetic(
    steps: list[tuple[int, int, int]], rate: int, burst: int
) -> None:
    """For each key by itself, whatever comes in between."""
    table = make()
    levels: dict[bytes, tuple[Fraction, int]] = {}
    now = NOW
    for which, cost, wait in steps:
        now += wait
        key = b"key%d" % which
        level, since = levels.get(key, (Fraction(), now))
        level = max(Fraction(), level - Fraction(rate * (now - since), 60))
        assert math.ceil(level) == table.level(key, rate, now)
        found = table.pour(key, cost, rate, burst * UNIT, now)
        if level + cost > burst * UNIT:
            assert found == REFUSED
        else:
            assert found == math.ceil(level + cost)
            levels[key] = (level + cost, now)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 200)), max_size=60),
       st.integers(1, 60_000))
@settings(max_examples=150)
def test_what_leaks_does_not_depend_on_how_often_one_asks(
    steps: list[tuple[int, int]], rate: int
) -> None:
    """Nor on whether a process whose turn began earlier asks: what leaked once leaks no more."""
    asked, alone = make(), make()
    for table in (asked, alone):
        table.spend(b"k", 1 << 40, rate, NOW)
    now = NOW
    for wait, behind in steps:
        now += wait
        asked.spend(b"k", 0, rate, now)
        asked.pour(b"k", UNIT, rate, UNIT, now)
        late = max(NOW, now - behind)
        asked.spend(b"k", 0, rate, late)
        asked.pour(b"k", UNIT, rate, UNIT, late)
        asked.pour_some(b"k", 3, rate, UNIT, late)
        asked.raise_to(b"k", 1, rate, late)
    assert alone.level(b"k", rate, now) == asked.level(b"k", rate, now)


def test_what_was_spent_is_leaked_away_and_can_be_taken_back() -> None:
    """A level is a debt that goes at the rate."""
    table = make()
    assert 5000 == table.spend(b"k", 5000, 120, NOW)
    assert 3000 == table.spend(b"k", 0, 120, NOW + 1000)
    assert 1000 == table.spend(b"k", -2000, 120, NOW + 1000)
    assert 0 == table.spend(b"k", -2000, 120, NOW + 1000)
    assert 0 == table.level(b"other", 2, NOW)


def test_over_time_a_rate_passes_and_no_more() -> None:
    """An open load at three times the rate: the rate and the burst come through, to one unit."""
    table = make()
    passed = sum(
        table.pour(b"k", UNIT, 6000, 10 * UNIT, NOW + n * 10 // 3) != REFUSED for n in range(3000)
    )
    assert abs(passed - (1000 + 10)) <= 1


@pytest.mark.parametrize("turn_ms", [2, 50, 999])
def test_a_process_with_long_turns_lets_nobody_pass_more(turn_ms: int) -> None:
    """Its time stands still in a turn, that of others goes on: together they have the rate."""
    table = make()
    rate, burst = 60_000, 10
    passed = 0
    for ms in range(1000):
        if not ms % 3:
            passed += table.pour_some(b"k", 1, rate, (burst + 1) * UNIT, NOW + ms)
        passed += table.pour_some(b"k", 5, rate, (burst + 1) * UNIT, NOW + ms // turn_ms * turn_ms)
    assert passed <= 1000 + burst + 1
    if turn_ms < 10:  # more than the burst does not leak unused
        assert passed >= 990


def test_a_key_that_is_refused_was_seen() -> None:
    """A crowd of others pushes out those that are quiet, not who comes again and again in vain."""
    table = make()
    most = 1000 * UNIT
    table.spend(b"greedy", most, 1, NOW)
    for n in range(20 * table.capacity):
        now = NOW + n // 100
        table.spend(b"%d" % n, 1, 1, now)
        if n % (table.capacity // 64) == 0:
            assert table.pour(b"greedy", UNIT, 1, most, now) == REFUSED
            assert table.pour_some(b"greedy", 1, 1, most, now) == 0


def test_a_time_from_far_ahead_is_none() -> None:
    """Who has written it may be another user's process: the bucket leaks again from now on."""
    table = make()
    table.spend(b"k", 5000, 60, NOW + 60_001)
    assert 5000 == table.spend(b"k", 0, 60, NOW)
    assert 4000 == table.spend(b"k", 0, 60, NOW + 1000)


def test_how_full_a_large_zone_is_takes_no_long_look() -> None:
    """An estimate by those of its first megabyte."""
    table = make(64 << 20)
    assert 0 == table.used
    for n in range(40_000):
        table.spend(b"%d" % n, 1, 1, NOW)
    assert abs(table.used - 40_000) < 12_000  # much more than chance does
    looked_at = []

    class Words:
        """What tells how much is read of it."""

        def __getitem__(self, which: slice) -> memoryview:
            found = words[which]
            looked_at.append(len(found))
            return found

    words, table._words = table._words, Words()  # type: ignore[assignment]
    assert table.used
    assert sum(looked_at) <= 1 << 15


def test_a_crowd_of_keys_neither_grows_nor_empties_those_that_come_often() -> None:
    """Who comes again and again is not what was used longest ago."""
    table = make()
    table.spend(b"often", 1_000_000, 1, NOW)
    for n in range(20 * table.capacity):
        table.spend(b"%d" % n, 1, 1, NOW + n // 100)
        if n % (table.capacity // 64) == 0:
            table.spend(b"often", 0, 1, NOW + n // 100)
    assert table.used == table.capacity
    assert table.level(b"often", 1, NOW + 20 * table.capacity // 100) > 900_000


def test_a_clock_that_is_behind_leaks_nothing() -> None:
    """Processes read the time at their own turns."""
    table = make()
    table.spend(b"k", 5000, 1, NOW)
    assert 5000 == table.spend(b"k", 0, 1, NOW - 50)


def test_nonsense_in_the_memory_is_a_wrong_level_and_no_fault() -> None:
    """Another user's process may have written it."""
    table = make()
    for n in range(len(table._words)):
        table._words[n] = -(2**63) if n % 3 else 2**63 - 1
    for n in range(100):
        key = b"%d" % n
        assert 0 <= table.spend(key, 5, 1, NOW) <= 1 << 50
        table.pour(key, 5, 1, 10 * UNIT, NOW)


@pytest.mark.parametrize("row", [
    (7, 0, 1 << 62, 1), (7, 0, NOW + 10**9, 1), (7, 0, 0, 2), (7, 0, 0, (1 << 63) - 1),
    (7, 0, 0, -1),
])
def test_nonsense_takes_no_place_for_ever(row: tuple[int, int, int, int]) -> None:
    """Keys that would share what is left of their set had no past, and no limit."""
    table = make()
    table._words[:] = memoryview(array.array("q", row * table.capacity))
    names = (b"%d" % n for n in itertools.count())
    keys = list(itertools.islice((key for key in names if not hash(key) & table._mask), WAYS))
    for n in range(1, 4):
        levels = [table.pour(key, UNIT, 60, 10 * UNIT, NOW + n) for key in keys]
        assert [n * UNIT - n + 1] * WAYS == levels


def test_processes_that_pour_at_once_lose_nothing() -> None:
    """Four of them, a thousand times each."""
    table = make()
    children = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            try:
                table.zone.claim()
                for _ in range(1000):
                    table.spend(b"k", 1, 1, NOW)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    assert [0] * 4 == [os.waitpid(pid, 0)[1] for pid in children]
    assert 4000 == table.level(b"k", 1, NOW)


def test_a_zone_holds_as_many_as_its_size_says() -> None:
    """32 bytes each, in sets."""
    assert WAYS * 128 == make(32 * WAYS * 128).capacity
    assert WAYS * 128 == make(32 * WAYS * 255).capacity


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000)), max_size=30),
       st.integers(1, 60_000), st.integers(0, 9))
@settings(max_examples=100)
def test_units_that_come_together_pass_as_one_by_one(
    steps: list[tuple[int, int]], rate: int, burst: int
) -> None:
    """So many of them as would have passed, and the level is the same."""
    together, apart = make(), make()
    now = NOW
    most = (burst + 1) * UNIT
    for count, wait_ms in steps:
        now += wait_ms
        passed = together.pour_some(b"key", count, rate, most, now)
        assert passed == sum(apart.pour(b"key", UNIT, rate, most, now) > 0 for _ in range(count))
        assert together.level(b"key", rate, now) == apart.level(b"key", rate, now)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=4, max_size=4),
       st.integers(0, 100))
@settings(max_examples=100)
def test_nonsense_lets_no_more_pass_together_than_a_burst(words: list[int], count: int) -> None:
    """Another user's process may have written anything where the key's bucket is."""
    table = make()
    key = b"key"
    table.pour_some(key, 1, 60, 5 * UNIT, NOW)
    row = table._words.tolist()
    at = next(n for n in range(0, len(row), 4) if row[n] == hash(key) and row[n + 3] == 1)
    for n, word in enumerate(words):
        table._words[at + n] = word
    assert 0 <= table.pour_some(key, count, 60, 5 * UNIT, NOW) <= 5
    assert 0 <= table.level(key, 60, NOW) <= 1 << 50


def test_every_call_leaves_the_lock_to_others() -> None:
    """Also one that is refused, and of a key that is not there."""
    table = make()
    calls: list[Callable[[], object]] = [
        lambda: table.level(b"k", 1, NOW), lambda: table.pour(b"k", UNIT, 1, UNIT, NOW),
        lambda: table.pour(b"k", UNIT, 1, UNIT, NOW), lambda: table.level(b"k", 1, NOW),
        lambda: table.pour_some(b"k", 1, 1, UNIT, NOW), lambda: table.spend(b"k", -UNIT, 1, NOW),
        lambda: table.pour_some(b"k", 1, 1, UNIT, NOW), lambda: table.raise_to(b"k", 1, 1, NOW),
    ]
    for call in calls:
        call()
        assert locks.is_free(table.zone)


def test_what_changes_a_bucket_has_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """From before it looks for the bucket."""
    table = make()
    find = BucketTable._find
    held: list[bool] = []

    def look(self: BucketTable, tag: int, now_ms: int) -> int:
        held.append(not locks.is_free(self.zone))
        return find(self, tag, now_ms)

    monkeypatch.setattr(BucketTable, "_find", look)
    table.pour(b"k", UNIT, 1, UNIT, NOW)
    table.pour_some(b"k", 1, 1, UNIT, NOW)
    table.spend(b"k", 1, 1, NOW)
    table.raise_to(b"k", 1, 1, NOW)
    assert [True] * 4 == held


def test_a_debt_has_a_bound() -> None:
    """However much is spent, and whatever others say."""
    table = make()
    assert 1 << 49 == table.spend(b"k", 1 << 49, 60, NOW)
    assert 1 << 50 == table.spend(b"k", 1 << 50, 60, NOW) == table.spend(b"k", 1, 60, NOW)
    table.raise_to(b"o", 1 << 60, 60, NOW)
    assert 1 << 50 == table.level(b"o", 60, NOW)


class Death(BaseException):
    """What stands for SIGKILL."""


class Mortal:
    """The words of a table; who uses them dies before the store of that number."""

    def __init__(self, words: memoryview, stores: int) -> None:
        self.words = words
        self.stores = stores

    def __getitem__(self, at: int) -> int:
        return self.words[at]

    def __setitem__(self, at: int, word: int) -> None:
        if not self.stores:
            raise Death
        self.stores -= 1
        self.words[at] = word


@pytest.mark.parametrize("stores", range(7))
@pytest.mark.parametrize("key", [b"old", b"new"])
def test_who_dies_at_work_leaves_one_level_that_is_about_right(stores: int, key: bytes) -> None:
    """Between what it would be if the time had passed twice, and what was to be poured."""
    table = make(shm.LEAST)
    others = [b"%d" % n for n in range(50)]
    for other in (b"old", *others):
        table.spend(other, 5000, 60, NOW)
    words = table._words
    table._words = Mortal(words, stores)  # type: ignore[assignment]
    try:
        table.pour(key, UNIT, 60, 10 * UNIT, NOW + 1000)
    except Death:
        pass
    finally:
        table._words = words
    least, most = (3000, 5000) if key == b"old" else (0, 1000)
    assert least <= table.level(key, 60, NOW + 1000) <= most
    assert [4000] * 50 == [table.level(other, 60, NOW + 1000) for other in others]
    assert table.pour(key, UNIT, 60, 10 * UNIT, NOW + 60_000) == UNIT
    assert locks.is_free(table.zone)


def test_a_level_that_cannot_be_is_none() -> None:
    """Whoever's bucket it is passes again."""
    table = make()
    table.spend(b"k", 1, 60, NOW)
    at = next(n for n in range(0, len(table._words), 4) if table._words[n + 3])
    for level in (1 << 62, -(1 << 62)):
        table._words[at + 1] = level
        assert UNIT == table.pour(b"k", UNIT, 60, UNIT, NOW)
