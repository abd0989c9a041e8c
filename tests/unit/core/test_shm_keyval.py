"""Pairs that all processes share: found as in a dict, whoever dies or spoils the memory."""

import functools
import ipaddress
import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ngxstream.core import shm, shm_keyval
from ngxstream.core.keyval_keys import KINDS
from ngxstream.core.shm_keyval import MAX_VALUE, NEVER_MS, FullError, KeyvalStore
from tests.support.forks import Held, in_child
from tests.support.pair_stores import check, content

NOW = 1000


def make(kind: str = "string", size: int = shm.LEAST) -> KeyvalStore:
    """Return an empty store in a zone of its own."""
    return KeyvalStore(shm.Zone("z", size, "test"), KINDS[kind])


# -- as a dict -------------------------------------------------------------------------------------

KEYS = st.sampled_from([b"a", b"b", b"key", b"k" * 33, b"k" * 200, b"l" * 200, b"k" * 1024])
VALUES = st.one_of(st.binary(max_size=8), st.binary(min_size=20, max_size=400))
LIVES = st.one_of(st.none(), st.integers(1, 50))


class Pairs(RuleBasedStateMachine):
    """Compare a store with a dict of key to (value, expiry)."""

    kind = "string"
    size = shm.LEAST

    def __init__(self) -> None:
        super().__init__()
        self.store = make(self.kind, self.size)
        self.model: dict[bytes, tuple[bytes, int]] = {}
        self.now = NOW

    def expiry(self, life: int | None) -> int:
        """Return when what is entered now expires."""
        return NEVER_MS if life is None else self.now + life

    def is_there(self, key: bytes) -> bool:
        """Tell what the model says."""
        return key in self.model and self.model[key][1] > self.now

    @rule(key=KEYS, value=VALUES, life=LIVES)
    def add(self, key: bytes, value: bytes, life: int | None) -> None:
        """A key that is not there is entered."""
        there = self.is_there(key)
        assert self.store.add(key, value, self.expiry(life), self.now) is not there
        if not there:
            self.model[key] = (value, self.expiry(life))

    @rule(key=KEYS, value=st.none() | VALUES, life=LIVES)
    def change(self, key: bytes, value: bytes | None, life: int | None) -> None:
        """A key that is there has another value, or another time."""
        there = self.is_there(key)
        assert self.store.change(key, value, self.expiry(life), self.now) is there
        if there:
            self.model[key] = (self.model[key][0] if value is None else value, self.expiry(life))

    @rule(key=KEYS)
    def remove(self, key: bytes) -> None:
        """A key is gone."""
        assert self.store.remove(key, self.now) is self.is_there(key)
        self.model.pop(key, None)

    @rule(step=st.integers(1, 30))
    def wait(self, step: int) -> None:
        """Time goes on."""
        self.now += step

    @precondition(lambda self: len(self.model) > 2)
    @rule()
    def clear(self) -> None:
        """All are gone."""
        self.store.clear()
        self.model.clear()

    @invariant()
    def same(self) -> None:
        """Whatever is asked, the answers are the model's."""
        live = {key: value for key, (value, end) in self.model.items() if end > self.now}
        assert live == content(self.store, self.now)
        assert (not live) is self.store.is_empty(self.now)
        for key in self.model:
            assert live.get(key) == self.store.get(key, self.now)
            assert live.get(key) == self.store.find(key, self.now)
        check(self.store)


TestPairs = Pairs.TestCase
TestPairs.settings = settings(max_examples=25, stateful_step_count=25)


NETWORKS = st.one_of(
    st.tuples(st.integers(0, 255).map(lambda n: bytes((10, n >> 6, n & 3, n))), st.integers(0, 32)),
    st.tuples(st.integers(0, 255).map(lambda n: bytes(15) + bytes((n,))), st.integers(90, 128)),
)


@settings(max_examples=60)
@given(st.lists(NETWORKS, max_size=12), st.lists(NETWORKS, min_size=1, max_size=8), st.data())
def test_the_longest_network_is_found_as_ipaddress_finds_it(known, asked, data) -> None:
    """Of those that hold an address, or a network; some have gone before, some have expired."""
    store = make("ip")
    networks = {ipaddress.ip_network(one, strict=False): n for n, one in enumerate(known)}
    for network, n in networks.items():
        expires = data.draw(st.sampled_from([NEVER_MS, NEVER_MS, NOW + 5]))
        assert store.add(store.keys.parse(str(network)), b"%d" % n, expires, NOW)
        if expires != NEVER_MS:
            networks[network] = -1
    for network in list(networks):
        if data.draw(st.booleans()):
            assert store.remove(store.keys.parse(str(network)), NOW)
            del networks[network]
    live = {network: n for network, n in networks.items() if n >= 0}
    for one in asked:
        subject = ipaddress.ip_network(one, strict=False)
        around = [net for net in live if net.version == subject.version and subject.subnet_of(net)]
        best = max(around, key=lambda net: net.prefixlen, default=None)
        found = store.find(str(subject).encode(), NOW + 5)
        assert (None if best is None else b"%d" % live[best]) == found
    check(store)


@settings(max_examples=60)
@given(st.sets(st.text("ab", min_size=1, max_size=6)), st.lists(st.text("ab", max_size=8)))
def test_the_longest_prefix_is_found(known: set[str], asked: list[str]) -> None:
    """Of all keys that what is looked up begins with."""
    store = make("prefix")
    for text in known:
        store.add(store.keys.parse(text), text.encode() * 9, NEVER_MS, NOW)
    for subject in asked:
        best = max(filter(subject.startswith, known), key=len, default=None)
        found = store.find(subject.encode(), NOW)
        assert (None if best is None else best.encode() * 9) == found
    for text in known:
        store.remove(text.encode(), NOW)
    assert not any(store.find(subject.encode(), NOW) for subject in asked)


# -- bounds ----------------------------------------------------------------------------------------


def fill(store: KeyvalStore, life: int = NEVER_MS - NOW) -> list[bytes]:
    """Add pairs until there is no room; return the keys."""
    keys: list[bytes] = []
    while True:
        key = b"%06d" % len(keys)
        try:
            store.add(key, b"x" * (len(keys) % 150), NOW + life, NOW)
        except FullError:
            return keys
        keys.append(key)


def test_a_full_zone_says_so() -> None:
    """Nothing is forgotten; a pair that goes makes room for another, and pairs can be changed."""
    store = make()
    keys = fill(store)
    assert len(keys) * 160 > store.zone.size
    assert set(keys) == set(content(store))
    check(store)
    assert store.change(keys[0], b"another", NEVER_MS, NOW)
    assert b"another" == store.find(keys[0], NOW)
    for key in keys[1:20]:
        assert store.remove(key, NOW)
    assert store.add(b"one more", b"y" * 100, NEVER_MS, NOW)
    with pytest.raises(FullError):
        store.add(b"large", bytes(MAX_VALUE), NEVER_MS, NOW)
    with pytest.raises(FullError):
        store.change(keys[0], bytes(MAX_VALUE), NEVER_MS, NOW)
    assert b"another" == store.find(keys[0], NOW)
    check(store)


def test_what_fits_is_told_before() -> None:
    """Pairs that would not fit all are not begun with."""
    store = make()
    size = len(b"000000") + 20
    most = store.capacity - shm_keyval.RESERVE
    assert store.has_room(most * store.blocks_of(size), NOW)
    assert not store.has_room((most + 1) * store.blocks_of(size), NOW)
    for number in range(most - 1):
        store.add(b"%06d" % number, b"x" * 20, NEVER_MS, NOW)
    assert store.has_room(store.blocks_of(size), NOW)
    assert not store.has_room(2 * store.blocks_of(size), NOW)
    store.add(b"last", b"", NEVER_MS, NOW)
    assert not store.has_room(store.blocks_of(1), NOW)


def test_what_has_expired_makes_room_at_once() -> None:
    """If all has; if some has, a pair that needs the room of many finds it too."""
    store = make()
    fill(store, life=10)
    assert store.add(b"new", b"", NEVER_MS, NOW + 10)
    assert 1 == store.words[shm_keyval._COUNT]
    assert {b"new": b""} == content(store, NOW + 10)
    fill(store, life=10)
    assert store.add(b"large", bytes(6000), NEVER_MS, NOW + 10)
    assert {b"new", b"large"} == content(store, NOW + 10).keys()
    check(store)


def test_what_has_expired_goes_as_new_pairs_come() -> None:
    """Long before there is no room."""
    store = make()
    store.add(b"stays", b"", NEVER_MS, NOW)
    for number in range(100):
        store.add(b"%d" % number, b"", NOW + 10, NOW)
    for number in range(store._size // shm_keyval.SWEPT):
        assert store.add(b"other %d" % number, b"", NEVER_MS, NOW + 10)
    assert store.words[shm_keyval._COUNT] == 1 + number + 1 == len(content(store, NOW + 10))
    check(store)


def test_the_largest_value_is_kept() -> None:
    """Over a thousand blocks, and they all come back."""
    store = make(size=1 << 18)
    value = random.Random(1).randbytes(MAX_VALUE)
    for _ in range(20):
        assert store.add(b"k" * 1024, value, NEVER_MS, NOW)
        assert value == store.find(b"k" * 1024, NOW)
        assert store.remove(b"k" * 1024, NOW)
    check(store)


def test_changes_are_numbered() -> None:
    """What the outside sees has another version after each change, and none after what is none."""
    store = make()
    seen = [store.version]
    for change, is_one in [
        (lambda: store.add(b"k", b"v", NOW + 10, NOW), True),
        (lambda: store.add(b"k", b"w", NEVER_MS, NOW), False),
        (lambda: store.change(b"k", b"w", NOW + 10, NOW), True),
        (lambda: store.change(b"k", None, NOW + 20, NOW), True),
        (lambda: store.change(b"no", b"w", NOW, NOW), False),
        (lambda: store.get(b"k", NOW), False),
        (lambda: store.remove(b"k", NOW), True),
        (lambda: store.remove(b"k", NOW), False),
        (store.clear, True),
    ]:
        change()
        seen.append(store.version)
        assert (seen[-1] != seen[-2]) is is_one
    store.saved = store.version
    assert store.version == store.saved


# -- several processes -----------------------------------------------------------------------------


def test_what_one_process_enters_another_finds() -> None:
    """Lengths and networks that others have added are looked for too."""
    store = make("ip")
    parse = store.keys.parse
    in_child(lambda: store.add(parse("10.0.0.0/8"), b"net", NEVER_MS, NOW))
    assert b"net" == store.find(b"10.1.2.3", NOW)
    in_child(lambda: store.add(parse("10.1.0.0/16"), b"smaller", NEVER_MS, NOW))
    assert b"smaller" == store.find(b"10.1.2.3", NOW)
    in_child(lambda: store.remove(parse("10.1.0.0/16"), NOW))
    assert b"net" == store.find(b"10.1.2.3", NOW)
    in_child(store.clear)
    assert None is store.find(b"10.1.2.3", NOW)


def test_two_processes_change_at_once() -> None:
    """While one changes pairs of two blocks a reader sees them whole, old or new."""
    store = make()
    for number in range(8):
        store.add(b"%d" % number, b"0" * 100, NEVER_MS, NOW)

    def change(seed: int) -> None:
        chance = random.Random(seed)
        for step in range(400):
            key = b"%d" % chance.randrange(8)
            if chance.random() < 0.2:
                store.remove(key, NOW)
                store.add(key, b"%d" % (step % 10) * 100, NEVER_MS, NOW)
            else:
                store.change(key, b"%d" % (step % 10) * (60 + step % 3 * 40), NEVER_MS, NOW)

    children = []
    for seed in range(2):
        child = os.fork()
        if not child:
            code = 1
            try:
                change(seed)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for step in range(800):
        value = store.find(b"%d" % (step % 8), NOW)
        assert value is None or (len(set(value)) == 1 and len(value) in (60, 100, 140))
        if not step % 80:
            assert len(content(store)) <= 8
    assert [0, 0] == [os.waitpid(child, 0)[1] for child in children]
    check(store)


class Deadly:
    """Memory whose user is killed before one of its stores."""

    def __init__(self, memory: Any, left: list[int]) -> None:
        self._memory = memory
        self._left = left

    def __getitem__(self, at: Any) -> Any:
        return self._memory[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        if not self._left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left[0] -= 1
        self._memory[at] = value


def dies_at(store: KeyvalStore, step: int, work: Callable[[], object]) -> bool:
    """Run work in a process that is killed before its store of that number; tell whether it was."""
    child = os.fork()
    if not child:
        code = 1
        try:
            left = [step]
            store.words = Deadly(store.words, left)  # type: ignore[assignment]
            store._memory = Deadly(store._memory, left)  # type: ignore[assignment]
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return bool(status)


CHANGES: list[Callable[[KeyvalStore], object]] = [
    lambda store: store.add(b"b", b"B" * 120, NEVER_MS, NOW),
    lambda store: store.change(b"a", b"b" * 100, NEVER_MS, NOW),
    lambda store: store.change(b"a", b"", NEVER_MS, NOW),
    lambda store: store.add(b"later", b"C" * 200, NOW + 5, NOW),
    lambda store: store.change(b"later", None, NOW + 9, NOW),
    lambda store: store.remove(b"b", NOW),
    lambda store: store.add(b"gone", b"D" * 100, NOW, NOW),
    lambda store: store.add(b"sweeps", b"", NEVER_MS, NOW),
    lambda store: store.clear(),
    lambda store: store.add(b"new", b"N" * 60, NEVER_MS, NOW),
]


def begin() -> KeyvalStore:
    """Return a store with a pair, and a block that was used before."""
    store = make("prefix")
    store.add(b"a", b"A" * 90, NEVER_MS, NOW)
    store.add(b"b", b"", NEVER_MS, NOW)
    store.remove(b"b", NOW)
    # the chain of what has expired is among those that the next new pair but one looks at
    store.words[shm_keyval._CURSOR] = (hash(b"gone") - 24) % store._size
    return store


def change_all(store: KeyvalStore) -> list[dict[bytes, bytes]]:
    """Make all changes; return what there was before and after each."""
    states = [content(store)]
    for change in CHANGES:
        change(store)
        states.append(content(store))
    return states


def test_a_writer_may_die_before_any_store() -> None:
    """Each change is there or not, whole; no block is lost and no number is wrong."""
    states = change_all(begin())
    for step in range(10_000):
        store = begin()
        died = dies_at(store, step, functools.partial(change_all, store))
        check(store)
        now = content(store)
        assert now in states
        assert store.add(b"goes on", b"G" * 100, NEVER_MS, NOW)
        assert {**now, b"goes on": b"G" * 100} == content(store)
        check(store)
        if not died:
            assert step > 150
            assert states[-1] == now
            return


def test_a_process_that_is_stopped_holds_others_up_no_longer_than_it_lives() -> None:
    """Its lock goes with it, and what it had begun is completed."""
    store = make()
    store.add(b"k", b"v", NEVER_MS, NOW)

    def hold() -> None:
        store.zone.lock.__enter__()
        store.words[1] = shm_keyval._VERSION
        store.words[2] = 77
        store.words[0] = 1

    child = Held(hold)
    child.kill()
    assert b"v" == store.find(b"k", NOW)
    assert (0, 77) == (store.words[0], store.version)


# -- memory that another process has spoiled -------------------------------------------------------


SPOILS = st.lists(st.tuples(
    st.sampled_from(["header", "blocks", "heads", "classes"]), st.integers(0, 200),
    st.one_of(
        st.integers(-2, 14), st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 100),
        st.tuples(st.integers(0, 2000), st.integers(0, 70_000)).map(lambda n: n[0] << 32 | n[1]),
    ),
), min_size=1, max_size=6)


@settings(max_examples=300)
@given(st.data())
def test_spoiled_memory_ends_in_no_other_exception(data) -> None:
    """Whatever words another process writes, what is asked ends: with an answer or as damage."""
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    store = make(kind)
    keys = [store.keys.parse(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")]
    for n, key in enumerate(keys):
        store.add(key, b"x" * (60 * n), NOW + 5 if n == 3 else NEVER_MS, NOW)
    store.remove(keys[1], NOW)
    heads = [at for at in range(store._heads, store._start) if store.words[at]]
    places = {
        "header": range(40), "blocks": range(store._start, store._start + 96), "heads": heads,
        "classes": range(store._classes, store._heads),
    }
    for where, at, word in data.draw(SPOILS):
        row = store._start + 8 * word if -3 < word < 15 else word
        store.words[places[where][at % len(places[where])]] = row
    for ask in (
        lambda: store.find(b"10.0.0.1", NOW),
        lambda: store.get(keys[2], NOW),
        lambda: content_size(store),
        lambda: store.is_empty(NOW),
        lambda: store.change(keys[2], b"y" * 300, NEVER_MS, NOW),
        lambda: store.change(keys[2], None, NEVER_MS, NOW),
        lambda: store.add(keys[1], b"y" * 90, NEVER_MS, NOW + 6),
        lambda: store.remove(keys[0], NOW),
        store.clear,
    ):
        try:
            ask()
        except (*shm.DAMAGE, FullError):
            pass


@pytest.mark.parametrize("link", [0, 3, -8, 1 << 40])
def test_a_pair_whose_blocks_lead_elsewhere_is_damage(link: int) -> None:
    """It has neither a value nor an end."""
    store = make()
    store.add(b"k", b"v" * 200, NEVER_MS, NOW)
    row = store._find(b"k")[1]
    store.words[row] = link
    for ask in (
        lambda: store.find(b"k", NOW), lambda: content(store),
        lambda: store.remove(b"k", NOW), lambda: store.change(b"k", b"", NEVER_MS, NOW),
    ):
        with pytest.raises(shm.errors.InternalError):
            ask()


def content_size(store: KeyvalStore) -> int:
    """Return how many pairs are given out."""
    return sum(1 for _ in store.pairs(NOW))


def test_chains_that_lead_back_are_walked_for_no_longer_than_there_can_be_pairs() -> None:
    """A worker of another user cannot have a listing go on for ever, nor a change."""
    store = make(size=1 << 20)
    assert store.add(b"big", bytes(MAX_VALUE), NEVER_MS, NOW)
    row = store._find(b"big")[1]
    for head in range(store._heads, store._start):
        store.words[head] = row
    with pytest.raises(shm.errors.InternalError):
        sum(len(value) for _, value, _ in store.pairs(NOW))  # all chains have the same pair
    store.words[row + 1] = row
    with pytest.raises(shm.errors.InternalError):
        next(store.pairs(NOW))
    store.words[shm_keyval._EXPIRING] = 1
    store.words[row + 2] = NOW + 1
    with pytest.raises(shm.errors.InternalError):
        store.add(b"other", b"", NEVER_MS, NOW)
