"""Pairs of a zone that are kept in a store: how they are copied, and changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import shm
from ngxstream.event import store as store_module
from ngxstream.event.loop import Loop
from ngxstream.stream import keyval_sharing, stores
from ngxstream.stream.keyval_sharing import Sharing
from ngxstream.stream.keyval_zone import KeyvalZone
from ngxstream.wire.resp import Push
from tests.support import fake_store
from tests.support.backends import BackendFactory
from tests.support.engine import engine, run_until
from tests.support.fake_store import Pairs
from tests.support.in_process import build
from tests.support.pair_stores import content

PREFIX = b"ngxstream:keyval:z:"


class Lab:
    """A zone whose pairs are in a store that the test answers for."""

    def __init__(self, loop: Loop, backends: BackendFactory, size: str = "64k") -> None:
        self.loop = loop
        self.pairs = Pairs()
        self.port = backends.tcp(fake_store.speaking(self.pairs.answer)).address[1]
        self.built = build(f"""stream {{
            keyval_zone zone=z:{size} store=redis://127.0.0.1:{self.port}?timeout=200ms;
            keyval $remote_addr $v zone=z;
            server {{ listen 127.0.0.1:9; return $v; }} }}""")
        assert self.built.conf is not None, self.built.error
        self.built.zones.build()
        self.zone: KeyvalZone = self.built.conf.data["keyval"]["z"]

    def share(self, number: int | None = None) -> Sharing:
        """Begin to share."""
        conf = self.zone.shared_by
        assert conf is not None
        number = self.zone.number if number is None else number
        return Sharing(self.loop, self.zone, conf, number)

    def has(self, wanted: dict[bytes, bytes]) -> None:
        """Turn until the zone has these pairs."""
        run_until(self.loop, lambda: content(self.zone.store, self.loop.now_ms) == wanted)

    def put(self, key: bytes, value: bytes, life: int = -1) -> None:
        """Have the store have a pair."""
        self.pairs.pairs[PREFIX + key] = value, life

    def said(self, text: str) -> bool:
        """Tell whether the log has this."""
        return any(text in line for line in fake_store.lines(self.loop))


@pytest.fixture
def lab(backends: BackendFactory) -> Iterator[Lab]:
    """Give one."""
    with engine() as loop:
        loop.log = fake_store.remembering()
        made = Lab(loop, backends)
        yield made
        assert made.zone.shared_by is not None
        stores.close(loop, [made.zone.shared_by])
        loop.turn(0)
        made.built.zones.close()


@pytest.fixture
def ip_lab(backends: BackendFactory) -> Iterator[Lab]:
    """Give one with networks as keys."""
    with engine() as loop:
        loop.log = fake_store.remembering()
        made = Lab(loop, backends, "64k type=ip")
        yield made
        assert made.zone.shared_by is not None
        stores.close(loop, [made.zone.shared_by])
        loop.turn(0)
        made.built.zones.close()


def test_all_pairs_are_read(lab: Lab) -> None:
    """Of this zone alone; what the store has not is forgotten."""
    for n in range(40):
        lab.put(b"k%d" % n, b"v%d" % n, -1 if n % 2 else 60_000)
    lab.pairs.pairs[b"ngxstream:keyval:zz:a"] = b"another's", -1
    lab.zone.store.add(b"old", b"1", 1 << 60, lab.loop.now_ms)
    lab.share()
    lab.has({b"k%d" % n: b"v%d" % n for n in range(40)})


def test_changes_are_read(lab: Lab) -> None:
    """Those that the server tells of, and all when it says that everything has changed."""
    sharing = lab.share()
    run_until(lab.loop, lambda: sharing.store.is_up)
    lab.has({})
    lab.put(b"a", b"1")
    lab.pairs.invalidate(PREFIX + b"a", b"ngxstream:keyval:other:a", PREFIX)
    sharing.store.send((b"PING",))
    lab.has({b"a": b"1"})
    lab.pairs.pairs.clear()
    lab.put(b"b", b"2")
    lab.pairs.invalidate()
    sharing.store.send((b"PING",))
    lab.has({b"b": b"2"})
    assert lab.said("has a key that is none of this zone")


def test_a_changed_pair_is_read_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker may have entered an older value meanwhile."""
    monkeypatch.setattr(keyval_sharing, "AGAIN_MS", 10)
    monkeypatch.setattr(keyval_sharing, "LOOK_MS", 20)
    sharing = lab.share()
    run_until(lab.loop, lambda: sharing.store.is_up)
    lab.put(b"a", b"new")
    lab.pairs.invalidate(PREFIX + b"a")
    sharing.store.send((b"PING",))
    lab.has({b"a": b"new"})
    lab.zone.store.change(b"a", b"older", 1 << 60, lab.loop.now_ms)
    lab.has({b"a": b"new"})


def test_one_worker_copies(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one goes on when it leaves, and reads all anew."""
    monkeypatch.setattr(keyval_sharing, "LOOK_MS", 20)
    first = lab.share()
    lab.loop.pid += 1
    second = lab.share()
    assert (True, False) == (first.is_copying, second.is_copying)
    run_until(lab.loop, lambda: first.store.is_up)
    lab.loop.pid -= 1
    first.stop()
    lab.loop.pid += 1
    lab.put(b"a", b"1")
    run_until(lab.loop, lambda: second.is_copying)
    lab.has({b"a": b"1"})


def test_a_lost_lease_ends_the_copying(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a later configuration has it."""
    monkeypatch.setattr(keyval_sharing, "LOOK_MS", 20)
    first = lab.share()
    second = lab.share(number=lab.zone.number + 1)
    run_until(lab.loop, lambda: not first.is_copying)
    assert second.is_copying


@pytest.mark.parametrize("name", [b"SCAN", b"MGET", b"PTTL", b"CLIENT"])
def test_what_the_store_refused_is_asked_for_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    """A server that loads its data says -LOADING; what is known stays until it says more."""
    monkeypatch.setattr(keyval_sharing, "LOOK_MS", 10)
    lab.zone.store.add(b"a", b"old", 1 << 60, lab.loop.now_ms)
    lab.put(b"a", b"new")
    sharing = lab.share()
    run_until(lab.loop, lambda: sharing.store.is_up)
    lab.has({b"a": b"new"})
    lab.pairs.strange[name] = b"-LOADING Redis is loading the dataset in memory\r\n"
    # Before the next reading begins: nothing else tells that these have changed.
    lab.put(b"a", b"newer")
    lab.put(b"b", b"2")
    sharing._begin()
    run_until(lab.loop, lambda: lab.said("LOADING"))
    if name != b"CLIENT":
        assert content(lab.zone.store, lab.loop.now_ms) == {b"a": b"new"}
    lab.pairs.strange.clear()
    lab.has({b"a": b"newer", b"b": b"2"})
    assert 1 == sum("LOADING" in line for line in fake_store.lines(lab.loop))


def test_what_could_not_be_sent_is_sent_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits that have the same store may have sent as much as may wait."""
    monkeypatch.setattr(keyval_sharing, "LOOK_MS", 10)
    sharing = lab.share()
    run_until(lab.loop, lambda: sharing.store.is_up)
    lab.has({})
    lab.put(b"a", b"1")
    monkeypatch.setattr(store_module, "MOST_WAITING", 0)
    sharing._begin()
    monkeypatch.undo()
    monkeypatch.setattr(keyval_sharing, "LOOK_MS", 10)
    lab.has({b"a": b"1"})


def test_what_changes_costs_no_more_where_much_is_due(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only keys that the server spoke of are read again, and no more than there is memory for."""
    sharing = lab.share()
    run_until(lab.loop, lambda: sharing.store.is_up)
    lab.has({})
    monkeypatch.setattr(sharing.store, "is_up", False)  # nothing is read meanwhile
    sharing._due.update(dict.fromkeys([b"x", b"y"]))
    sharing.on_push(Push([b"invalidate", [PREFIX + b"a"]]))
    assert [b"a"] == list(sharing._again)
    most = lab.zone.store.capacity
    for first in range(0, 2 * most, 100):
        sharing._due.clear()
        names = [PREFIX + b"%d" % n for n in range(first, first + 100)]
        sharing.on_push(Push([b"invalidate", names]))
    assert most == len(sharing._again)
    assert not sharing._is_behind
    sharing.on_push(Push([b"invalidate", [PREFIX + b"n%d" % n for n in range(2 * most)]]))
    assert most == len(sharing._due)
    assert sharing._is_behind


def test_a_key_in_another_form_is_told_of(ip_lab: Lab) -> None:
    """It would be read by a name that the store does not have."""
    ip_lab.put(b"10.1.2.3/8", b"1")
    ip_lab.put(b"10.0.0.0/8", b"2")
    ip_lab.share()
    run_until(ip_lab.loop, lambda: ip_lab.said("in a form that is not read"))
    run_until(ip_lab.loop, lambda: len(content(ip_lab.zone.store, ip_lab.loop.now_ms)) == 1)
    assert ip_lab.said("b'ngxstream:keyval:z:10.0.0.0/8'")


@pytest.mark.parametrize("name", [b"SCAN", b"MGET", b"PTTL"])
@pytest.mark.parametrize("reply", [
    b"-ERR no\r\n", b":7\r\n", b"*1\r\n_\r\n", b"*2\r\n:1\r\n:2\r\n",
])
def test_nonsense_of_a_store_changes_nothing(lab: Lab, name: bytes, reply: bytes) -> None:
    """It is told or taken for a pair that is not there; the worker serves on."""
    lab.pairs.strange[name] = reply
    lab.put(b"a", b"1")
    sharing = lab.share()
    run_until(lab.loop, lambda: any(words[0] == name for words in lab.pairs.seen))
    got: list[Any] = []
    run_until(lab.loop, lambda: sharing.store.send((b"PING",), got.append) and bool(got))
    assert content(lab.zone.store, lab.loop.now_ms) in ({}, {b"a": b"1"})
    assert not lab.said("unexpected")


def test_a_store_with_too_much_is_told_of(lab: Lab) -> None:
    """Once; what there is room for is there."""
    for n in range(30):
        lab.put(b"k%d" % n, bytes(60_000))
    lab.put(b"huge", bytes(70_000))
    lab.share()
    run_until(lab.loop, lambda: lab.said("memory"))
    assert 1 == sum("memory" in line for line in fake_store.lines(lab.loop))


def test_a_store_without_tracking_is_told_of(lab: Lab) -> None:
    """What changes there would not be seen."""
    lab.pairs.strange[b"CLIENT"] = b"-ERR unknown subcommand\r\n"
    sharing = lab.share()
    run_until(lab.loop, lambda: lab.said("CLIENT failed") or sharing.store.is_up)


def test_changes_are_made_in_the_store_first(lab: Lab) -> None:
    """And here when it has said so; what it refuses is not changed."""
    sharing = lab.share()
    run_until(lab.loop, lambda: sharing.store.is_up)
    got: list[Any] = []

    def answered(is_sent: bool) -> Any:
        assert is_sent
        run_until(lab.loop, lambda: bool(got))
        return got.pop()

    assert b"OK" == answered(sharing.add(b"a", b"1", None, b"NX", got.append))
    assert {b"a": b"1"} == content(lab.zone.store, lab.loop.now_ms)
    assert answered(sharing.add(b"a", b"2", None, b"NX", got.append)) is None
    assert {b"a": b"1"} == content(lab.zone.store, lab.loop.now_ms)
    assert b"OK" == answered(sharing.add(b"a", b"2", 60_000, b"XX", got.append))
    assert (b"2", 60_000) == lab.pairs.pairs[PREFIX + b"a"]
    assert 1 == answered(sharing.expire(b"a", None, got.append))
    assert (b"2", -1) == lab.pairs.pairs[PREFIX + b"a"]
    assert 1 == answered(sharing.expire(b"a", 5000, got.append))
    assert 0 == answered(sharing.expire(b"b", 5000, got.append))
    assert 1 == answered(sharing.remove([b"a", b"b"], got.append))
    assert {} == content(lab.zone.store, lab.loop.now_ms)
    lab.pairs.strange[b"SET"] = b"-OOM command not allowed\r\n"
    assert "OOM" == answered(sharing.add(b"c", b"1", None, b"NX", got.append)).code
    assert {} == content(lab.zone.store, lab.loop.now_ms)


def test_a_damaged_zone_is_told_of(lab: Lab) -> None:
    """As everywhere; nothing raises."""
    sharing = lab.share()
    run_until(lab.loop, lambda: sharing.store.is_up)
    words = lab.zone.store.words
    words[0] = 77
    sharing.store.send((b"PING",))
    lab.put(b"a", b"1")
    lab.pairs.invalidate(PREFIX + b"a")
    sharing.store.send((b"PING",))
    run_until(lab.loop, lambda: lab.said('keyval_zone "z" is damaged'))
    assert issubclass(shm.DAMAGE[0], Exception)


@given(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8))
def test_no_zone_has_the_keys_of_another(one: str, other: str) -> None:
    """Whatever their names are."""
    conf: Any = type("Conf", (), {"prefix": b"p"})
    first, second = (stores.keys_of(conf, "keyval", name) for name in (one, other))
    assert (one == other) == first.startswith(second) or one == other


@pytest.mark.parametrize(("prefix", "pattern"), [
    (b"a:b", b"a:b*"), (b"a*?[]^\\", b"a\\*\\?\\[\\]\\^\\\\*"),
])
def test_a_pattern_fits_what_begins_so(prefix: bytes, pattern: bytes) -> None:
    """Characters of patterns stand for themselves."""
    assert pattern == keyval_sharing.pattern_of(prefix)
