"""open_log_file_cache: which files stay open, and for how long."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core.gather import Gatherer
from ngxstream.modules.log.open_cache import CLOSED, OpenError, OpenLogCache

NONE = Gatherer()  # nothing waits


def count_open(folder: Path) -> int:
    """Return how many files below a folder this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(f"{folder}/")
        except OSError:
            continue  # the descriptor of listdir
    return found


@pytest.fixture
def cache() -> Iterator[OpenLogCache]:
    """Give a cache of two files, idle for 10 s, looked at after 60 s."""
    made = OpenLogCache(2, inactive_s=10, min_uses=1, valid_s=60)
    yield made
    made.clear()


def paths(folder: Path, count: int) -> list[bytes]:
    """Return paths below a folder."""
    return [os.fsencode(folder / f"{n}.log") for n in range(count)]


def test_the_oldest_file_makes_room(cache: OpenLogCache, tmp_path: Path) -> None:
    """No more files are open than were asked for."""
    for path in paths(tmp_path, 4):
        cache.write(path, b"x\n", 0, NONE)
    assert (2, 2) == (len(cache), count_open(tmp_path))
    assert [b"x\n"] * 4 == [Path(os.fsdecode(p)).read_bytes() for p in paths(tmp_path, 4)]


def test_idle_files_are_closed(cache: OpenLogCache, tmp_path: Path) -> None:
    """What nothing was written to for longer than `inactive` goes when others are used."""
    one, other = paths(tmp_path, 2)
    cache.write(one, b"x\n", 0, NONE)
    cache.write(other, b"x\n", 10_000, NONE)
    assert 2 == count_open(tmp_path)
    cache.write(other, b"x\n", 10_001, NONE)
    assert 1 == count_open(tmp_path)


def test_a_file_that_was_moved_is_opened_anew_after_a_while(
    cache: OpenLogCache, tmp_path: Path
) -> None:
    """Until `valid` is over the lines go where the file went."""
    path, moved = tmp_path / "0.log", tmp_path / "moved"
    for now_ms in range(0, 50_000, 10_000):
        cache.write(os.fsencode(path), b"x\n", now_ms, NONE)
    path.rename(moved)
    cache.write(os.fsencode(path), b"y\n", 59_999, NONE)
    assert not path.exists()
    cache.write(os.fsencode(path), b"z\n", 60_000, NONE)
    assert b"z\n" == path.read_bytes()
    assert b"x\n" * 5 + b"y\n" == moved.read_bytes()


def test_a_file_stays_open_only_after_enough_uses(tmp_path: Path) -> None:
    """With min_uses=3 the third line is the first that leaves the file open."""
    cache = OpenLogCache(2, inactive_s=10, min_uses=3, valid_s=60)
    counts = []
    for _ in range(4):
        cache.write(paths(tmp_path, 1)[0], b"x\n", 0, NONE)
        counts.append(count_open(tmp_path))
    assert [0, 0, 1, 1] == counts
    cache.clear()
    assert 0 == count_open(tmp_path)


def test_a_path_that_cannot_be_opened_is_no_entry(cache: OpenLogCache, tmp_path: Path) -> None:
    """The error says that opening failed, and nothing is remembered."""
    with pytest.raises(OpenError):
        cache.write(os.fsencode(tmp_path / "none" / "a.log"), b"x\n", 0, NONE)
    assert 0 == len(cache)


USES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 15_000)), max_size=30)


@given(USES, st.integers(1, 3), st.integers(1, 3))
def test_no_line_is_lost_and_no_file_left_open(
    tmp_path_factory: pytest.TempPathFactory, uses: list[tuple[int, int]], most: int, least: int
) -> None:
    """Whatever the order and the times, every line is in its file."""
    folder = tmp_path_factory.mktemp("cache")
    cache = OpenLogCache(most, inactive_s=10, min_uses=least, valid_s=20)
    known = paths(folder, 5)
    expected = [0] * 5
    now_ms = 0
    for number, later in uses:
        now_ms += later
        cache.write(known[number], b"x", now_ms, NONE)
        expected[number] += 1
        assert len(cache) <= most
    cache.clear()
    sizes = [os.stat(p).st_size if os.path.exists(p) else 0 for p in known]
    assert (expected, 0) == (sizes, count_open(folder))
    assert CLOSED == -1
