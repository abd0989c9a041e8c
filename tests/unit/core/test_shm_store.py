"""The shared store of byte strings: never wrong, never full, seen by every process."""

import itertools
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import shm, shm_store

KEYS = st.sampled_from([b"a", b"b", b"key", b"k" * 32, b""])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=9000), st.integers(1, 20)),
        st.tuples(st.just("remove"), KEYS),
        st.tuples(st.just("get"), KEYS, st.integers(0, 20)),
    ),
    max_size=60,
)


def make(size: int = shm.LEAST) -> shm_store.ByteStore:
    """Make a store in a zone of its own."""
    return shm_store.ByteStore(shm.Zone("test", size, "test"))


@settings(max_examples=150)
@given(STEPS)
def test_what_is_found_is_what_was_put_last(steps) -> None:
    """A key gives its latest data, if that has not expired, or nothing: never anything else."""
    store = make()
    latest: dict[bytes, tuple[bytes, int]] = {}
    for what, key, *rest in steps:
        if what == "put":
            data, expires = rest
            store.put(key, data, expires)
            if len(data) < store.size // 4 - 100:
                latest[key] = (data, expires)
        elif what == "remove":
            store.remove(key)
            latest.pop(key, None)
        else:
            (now,) = rest
            found = store.get(key, now)
            data, expires = latest.get(key, (b"", 0))
            assert found in (None, data)
            if expires <= now:
                assert found is None


def test_the_newest_are_kept_when_there_is_no_room() -> None:
    """Records beyond the size push the oldest out, in order."""
    store = make()
    data = bytes(1000)
    for number in range(200):
        store.put(b"%d" % number, data, 10)
    kept = [number for number in range(200) if store.get(b"%d" % number, 0) is not None]
    assert list(range(kept[0], 200)) == kept
    assert 25 <= len(kept) <= 32


def test_what_was_written_is_known() -> None:
    """Up to all there is, once it has gone round."""
    store = make()
    assert 0 == store.used
    store.put(b"key", bytes(100), 10)
    once = store.used
    assert 100 < once < 200
    for _ in range(1000):
        store.put(b"key", bytes(100), 10)
    assert store.size == store.used


def test_more_than_a_quarter_is_refused() -> None:
    """A record that would push too many out is not kept at all."""
    store = make()
    store.put(b"small", b"x", 10)
    store.put(b"large", bytes(store.size // 2), 10)
    assert None is store.get(b"large", 0)
    assert b"x" == store.get(b"small", 0)


def test_other_processes_see_it() -> None:
    """What a child puts its parent finds."""
    store = make()
    pid = os.fork()
    if not pid:
        store.put(b"child", b"was here", 10)
        os._exit(0)
    os.waitpid(pid, 0)
    assert b"was here" == store.get(b"child", 0)


def test_expired_data_is_not_found() -> None:
    """The second of its expiry is too late."""
    store = make()
    store.put(b"k", b"v", 10)
    assert b"v" == store.get(b"k", 9)
    assert None is store.get(b"k", 10)


def test_a_quarter_is_not_too_much() -> None:
    """A record of exactly a quarter of the store is kept, one byte more is not."""
    store = make()
    room = store.size // 4 - shm_store._HEADER.size - 1
    store.put(b"a", bytes(room), 10)
    store.put(b"b", bytes(room + 1), 10)
    assert bytes(room) == store.get(b"a", 0)
    assert None is store.get(b"b", 0)


def test_what_is_removed_is_gone_and_nothing_else() -> None:
    """All records of a key are forgotten, and the ones beside them stay."""
    store = make()
    for number in range(5):
        store.put(b"%d" % number, b"x", 10)
        store.put(b"gone", b"y" * number, 10)
    store.remove(b"gone")
    assert None is store.get(b"gone", 0)
    assert [b"x"] * 5 == [store.get(b"%d" % number, 0) for number in range(5)]


def test_a_spoiled_link_leads_nowhere() -> None:
    """A record that says it is its own predecessor, or follows a later one, ends its chain."""
    for following in (1, 2):
        store = make()
        store.put(b"k", b"v", 10)
        store._memory[:8] = following.to_bytes(8, "little")
        assert 1 == len(list(itertools.islice(store._records(b"k"), 5)))
