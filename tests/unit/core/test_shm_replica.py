"""A copy of pairs that are kept elsewhere, and the lease of who copies."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import shm
from ngxstream.core.keyval_keys import KINDS
from ngxstream.core.shm_keyval import NEVER_MS, FullError
from ngxstream.core.shm_replica import LEASE_MS, NEAR_MS, ReplicaStore
from tests.support.pair_stores import check, content

NOW = 1000


def make(size: int = shm.LEAST) -> ReplicaStore:
    """Return an empty store in a zone of its own."""
    return ReplicaStore(shm.Zone("z", size, "test"), KINDS["string"])


@settings(max_examples=50)
@given(st.lists(st.tuples(
    st.sampled_from([b"a", b"b", b"k" * 200]), st.binary(max_size=200),
    st.sampled_from([NEVER_MS, NOW + 500, NOW + 900]),
)))
def test_what_was_read_is_entered(pairs: list[tuple[bytes, bytes, int]]) -> None:
    """Whatever is there; whether that changed anything is told."""
    store = make()
    known: dict[bytes, tuple[bytes, int]] = {}
    for key, value, expires_ms in pairs:
        assert (known.get(key) != (value, expires_ms)) == store.put(key, value, expires_ms, NOW)
        known[key] = value, expires_ms
        check(store)
    assert {key: value for key, (value, _) in known.items()} == content(store, NOW)


def test_nearly_the_same_time_is_the_same() -> None:
    """What is left of a time to live is never told exactly."""
    store = make()
    store.put(b"a", b"1", NOW + 500, NOW)
    version = store.version
    assert not store.put(b"a", b"1", NOW + 500 + NEAR_MS, NOW)
    assert version == store.version
    assert store.put(b"a", b"1", NOW + 501 + NEAR_MS, NOW)


def test_a_full_copy_takes_no_more() -> None:
    """And is as it was."""
    store = make()
    n = 0
    try:
        while True:
            store.put(b"%d" % n, bytes(200), NEVER_MS, NOW)
            n += 1
    except FullError:
        pass
    check(store)
    assert n == len(content(store, NOW))


def test_one_process_copies() -> None:
    """Until it leaves or says no more; a later configuration's begins at once."""
    store = make()
    first, second = store.number(), store.number()
    assert (1, 2) == (first, second)
    assert store.lease(11, first, NOW)
    assert not store.lease(12, first, NOW + 10)
    assert store.lease(11, first, NOW + LEASE_MS - 1)
    assert not store.lease(12, first, NOW + LEASE_MS)
    assert store.lease(12, first, NOW + 2 * LEASE_MS)
    assert store.lease(21, second, NOW + 2 * LEASE_MS)
    assert not store.lease(12, first, NOW + 2 * LEASE_MS + 1)
    store.release(12)
    assert not store.lease(22, second, NOW + 2 * LEASE_MS + 1)
    store.release(21)
    assert store.lease(22, second, NOW + 2 * LEASE_MS + 1)


def test_a_lease_of_nonsense_ends() -> None:
    """What a stranger wrote there holds nobody up."""
    store = make()
    number = store.number()
    store.words[36] = 1 << 60
    store.words[37] = 99
    assert store.lease(11, number, NOW)
