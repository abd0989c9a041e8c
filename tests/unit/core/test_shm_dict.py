"""A dictionary that all processes share: values change by what they were, and old ones give way."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ngxstream.core import shm
from ngxstream.core.keyval_keys import KINDS
from ngxstream.core.shm_dict import DictStore
from ngxstream.core.shm_keyval import MAX_VALUE, NEVER_MS, FullError
from tests.support.pair_stores import check, content

NOW = 1000
KEYS = st.sampled_from([b"a", b"b", b"key", b"k" * 33, b"k" * 200, b"l" * 200, b"k" * 1024])
VALUES = st.one_of(st.binary(max_size=8), st.binary(min_size=20, max_size=400))
LIVES = st.one_of(st.none(), st.integers(1, 50))


def make(size: int = shm.LEAST, *, evicts: bool = False) -> DictStore:
    """Return an empty store in a zone of its own."""
    return DictStore(shm.Zone("z", size, "test"), KINDS["string"], evicts)


class Exchanges(RuleBasedStateMachine):
    """Compare a store with a dict of key to (value, expiry)."""

    def __init__(self) -> None:
        super().__init__()
        self.store = make()
        self.model: dict[bytes, tuple[bytes, int]] = {}
        self.now = NOW

    @rule(key=KEYS, value=st.none() | VALUES, life=LIVES, acts=st.booleans())
    def exchange(self, key: bytes, value: bytes | None, life: int | None, acts: bool) -> None:
        """What decides is told what is there, and has its way."""
        expires = NEVER_MS if life is None else self.now + life
        told: list[tuple[bytes | None, int]] = []

        def decide(old: bytes | None, old_expires: int) -> tuple[bytes | None, int] | None:
            told.append((old, old_expires))
            return (value, expires) if acts else None

        self.store.exchange(key, decide, self.now)
        there = key in self.model and self.model[key][1] > self.now
        assert [self.model[key] if there else (None, NEVER_MS)] == told
        if acts and value is None:
            self.model.pop(key, None)
        elif acts and value is not None:
            self.model[key] = (value, expires)

    @rule(step=st.integers(1, 30))
    def wait(self, step: int) -> None:
        """Time goes on."""
        self.now += step

    @invariant()
    def same(self) -> None:
        """Whatever is asked, the answers are the model's."""
        live = {key: value for key, (value, end) in self.model.items() if end > self.now}
        assert live == content(self.store, self.now)
        check(self.store)


TestExchanges = Exchanges.TestCase
TestExchanges.settings = settings(max_examples=25, stateful_step_count=25)


def put(store: DictStore, key: bytes, value: bytes, expires_ms: int = NEVER_MS) -> None:
    """Give a key a value."""
    store.exchange(key, lambda _, __: (value, expires_ms), NOW)


def test_what_decide_raises_changes_nothing() -> None:
    """The lock is free again, and the pair is as it was."""
    store = make()
    put(store, b"k", b"v")

    def decide(old: bytes | None, expires: int) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.exchange(b"k", decide, NOW)
    assert {b"k": b"v"} == content(store)
    put(store, b"l", b"w")
    check(store)


def test_a_full_store_refuses_and_keeps_what_it_has() -> None:
    """Where nothing is given up; a value that is there can still be changed."""
    store = make()
    keys: list[bytes] = []

    def fill() -> None:
        while True:
            put(store, b"%d" % len(keys), b"x")
            keys.append(b"%d" % len(keys))

    with pytest.raises(FullError):
        fill()
    assert set(keys) == set(content(store))
    put(store, keys[0], b"y")
    assert b"y" == store.find(keys[0], NOW)
    check(store)


@given(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=60))
@settings(max_examples=20, deadline=None)
def test_where_pairs_give_way_the_newest_is_there(sizes: list[int]) -> None:
    """A new pair always finds room, if it is no larger than half of the zone."""
    store = make(evicts=True)
    for n in range(store.capacity):
        put(store, b"old%d" % n, b"", NOW + 10 + n)
    for n, size in enumerate(sizes):
        put(store, b"new", b"%d" % n + bytes(size), NOW + 1_000_000)
        assert b"%d" % n + bytes(size) == store.find(b"new", NOW)
    check(store)


def test_of_those_that_give_way_the_oldest_go_first_as_a_rule() -> None:
    """After twice as many as fit, hardly one of the last quarter is missing."""
    store = make(evicts=True)
    room = store.capacity - 16
    count = 2 * room
    for n in range(count):
        put(store, b"%d" % n, b"", NOW + 10 + n)
    left = {int(key) for key in content(store)}
    newest = range(count - room // 4, count)
    assert len(left) > room - 32
    assert len(left & set(newest)) > 0.95 * len(newest)


def test_a_pair_that_can_have_no_room_is_refused() -> None:
    """Nothing is given up for what is larger than half of the zone."""
    store = make(evicts=True)
    put(store, b"k", b"v")
    with pytest.raises(FullError):
        put(store, b"l", bytes(min(MAX_VALUE, store.capacity * 56)))
    assert {b"k": b"v"} == content(store)


def test_processes_that_add_at_once_lose_nothing() -> None:
    """Four processes of a thousand additions each."""
    store = make()

    def add(old: bytes | None, expires: int) -> tuple[bytes | None, int]:
        return b"%d" % (int(old or b"0") + 1), NEVER_MS

    children = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            try:
                store.zone.claim()
                for _ in range(1000):
                    store.exchange(b"n", add, NOW)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    assert [0] * 4 == [os.waitpid(pid, 0)[1] for pid in children]
    assert b"4000" == store.find(b"n", NOW)
    check(store)
