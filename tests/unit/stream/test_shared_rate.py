"""shared_rate: what sessions of one key may move together, and when they come back for more."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import shm
from ngxstream.core.shm_buckets import BucketTable
from ngxstream.event.pump import RateLimiter
from ngxstream.stream.shared_rate import (
    ALL,
    CHANCE_MS,
    DELAYED,
    DELAYED_DRY_RUN,
    REJECTED,
    Several,
    SharedRate,
    joined,
)

RATE = 10_000  # bytes a second
BURST = 1000


class Place:
    """A zone, a clock, and limiters of sessions."""

    def __init__(self) -> None:
        self.loop: Any = SimpleNamespace(now_ms=1_000_000, cells=[0] * 4)
        self.zone: Any = SimpleNamespace(
            rate=RATE * 60, table=BucketTable(shm.Zone("z", shm.LEAST, "test")),
            cells=[SimpleNamespace(at=at) for at in range(4)], name="z",
        )
        self.told: list[int] = []

    def limiter(self, key: bytes = b"key", *, dry_run: bool = False) -> SharedRate:
        """Return the limiter of one session."""
        return SharedRate(
            self.loop, self.zone, key, BURST, lambda _, what: self.told.append(what),
            dry_run=dry_run,
        )

    def allowed(self, one: SharedRate, moved: int) -> int:
        """Return what one may move."""
        return one.allowance(self.loop.now_ms, moved)


def test_sessions_of_a_key_share_and_others_do_not() -> None:
    """What one has moved the other may not, until it has leaked."""
    place = Place()
    one, two, other = place.limiter(), place.limiter(), place.limiter(b"other")
    assert BURST == place.allowed(one, 0)
    assert one.delay_ms(700) == 0
    assert 300 == place.allowed(one, 700) == place.allowed(two, 0)
    assert BURST == place.allowed(other, 0)
    two.delay_ms(800)
    assert -500 == place.allowed(one, 700) == place.allowed(two, 800)
    place.loop.now_ms += 60
    assert 100 == place.allowed(one, 700)
    assert 1500 == place.loop.cells[0]


def test_what_was_not_told_of_is_poured_when_it_is_asked_again() -> None:
    """Bytes that were pushed, say; and what is counted elsewhere already is not poured again."""
    place = Place()
    one = place.limiter()
    assert BURST - 400 == place.allowed(one, 400)
    moved = place.limiter()
    moved.resume(5000)
    assert BURST - 400 == place.allowed(moved, 5000)
    moved.resume(0)
    assert BURST - 450 == place.allowed(moved, 50)


def test_who_rests_comes_back_for_a_portion() -> None:
    """Of 20 ms, or of a burst that is smaller; that it rests is told."""
    place = Place()
    one = place.limiter()
    one.delay_ms(BURST + 300)
    wait_ms = one.wait_ms(place.allowed(one, BURST + 300))
    assert [DELAYED] == place.told
    assert 50 <= wait_ms <= 51 + CHANCE_MS
    place.loop.now_ms += wait_ms
    assert place.allowed(one, BURST + 300) >= 200


def test_a_dry_run_allows_all_and_tells_of_each_excess() -> None:
    """Once, until there is room again."""
    place = Place()
    one = place.limiter(dry_run=True)
    for _ in range(3):
        one.delay_ms(900)
        assert ALL == place.allowed(one, 0)
    assert [DELAYED_DRY_RUN] == place.told
    place.loop.now_ms += 1000
    assert ALL == place.allowed(one, 0)
    one.delay_ms(2000)
    place.allowed(one, 0)
    assert [DELAYED_DRY_RUN] * 2 == place.told


def test_the_narrowest_of_several_holds() -> None:
    """Each counts all; the session's own rate keeps when it began."""
    place = Place()
    shared, own = place.limiter(), RateLimiter(300, place.loop.now_ms)
    both = joined([own, shared])
    assert isinstance(both, Several)
    assert 300 == both.allowance(place.loop.now_ms, 0)
    assert 3333 == both.delay_ms(1000)
    assert both.allowance(place.loop.now_ms, 1000) == -700
    assert both.wait_ms(-700) >= 2333
    assert both.start_s == own.start_s
    both.start_s = 7
    assert own.start_s == 7
    both.lose(3)
    assert place.loop.cells[REJECTED] == 3
    both.resume(5000)
    assert 0 == shared.allowance(place.loop.now_ms, 5000)
    assert joined([]) is None
    assert joined([own]) is own


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 500), st.integers(0, 200)),
                min_size=1, max_size=60))
@settings(max_examples=100)
def test_no_more_passes_than_is_said(steps: list[tuple[int, int, int]]) -> None:
    """Rate, burst, and one read of each that reads at the same moment."""
    place = Place()
    workers = [place.limiter() for _ in range(4)]
    moved = [0] * 4
    start = place.loop.now_ms
    for n, size, wait_ms in steps:
        place.loop.now_ms += wait_ms
        allowed = [place.allowed(one, was) for one, was in zip(workers, moved, strict=True)]
        for at in range(n + 1):  # they ask before any of them has read
            read = min(size, allowed[at])
            if read > 0:
                workers[at].delay_ms(read)
                moved[at] += read
        elapsed_s = (place.loop.now_ms - start) / 1000
        assert sum(moved) <= RATE * elapsed_s + BURST + 3 * 500 + 1
