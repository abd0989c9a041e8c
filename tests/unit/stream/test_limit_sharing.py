"""Limits that hosts share: what a worker tells the store, and what it learns from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.core import shm
from ngxstream.core.shm_buckets import REFUSED, UNIT, BucketTable
from ngxstream.event import store as store_module
from ngxstream.event.loop import Loop
from ngxstream.stream import limit_sharing, stores
from ngxstream.stream.limit_sharing import SharedBuckets, SharedCounts
from ngxstream.stream.stores import StoreConf
from tests.support import fake_store
from tests.support.backends import BackendFactory
from tests.support.engine import engine, run_until

RATE = 60  # units a minute: one a second
MOST = 10 * UNIT


class Lab:
    """A store that the test answers for, and what was told to it."""

    def __init__(self, loop: Loop, backends: BackendFactory) -> None:
        self.loop = loop
        self.numbers: dict[bytes, int] = {}  # what is answered, by key
        self.strange = b""
        self.is_quiet = False  # no reply is sent any more
        self.told: list[list[bytes]] = []
        self.loaded = 0
        port = backends.tcp(fake_store.speaking(self.answer)).address[1]
        cell: Any = type("Cell", (), {"at": 0})
        self.conf, self.next = (
            StoreConf("url", fake_store.options(port, timeout_ms=200), b"p",
                      (cell, cell, cell, cell), cell) for _ in range(2)
        )

    def answer(self, words: list[bytes]) -> bytes:
        """Answer a command."""
        self.is_quiet |= words[:2] == [b"CLIENT", b"REPLY"]
        said = self._reply(words)
        return b"" if self.is_quiet else said

    def _reply(self, words: list[bytes]) -> bytes:
        if words[0] == b"SCRIPT":
            self.loaded += 1
            return b"+sha\r\n"
        if words[0] != b"EVALSHA":
            return fake_store.usual(words)
        self.told.append(words[3:])
        return self.strange or b":%d\r\n" % self.numbers.get(words[3], 0)

    def wait(self, count: int) -> None:
        """Turn until so much was told."""
        run_until(self.loop, lambda: len(self.told) >= count)

    def settle(self, sharing: Any) -> None:
        """Turn until all that was sent has been answered."""
        got: list[Any] = []
        assert sharing.store.send((b"PING",), got.append)
        run_until(self.loop, lambda: bool(got))


@pytest.fixture
def lab(backends: BackendFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Give one."""
    monkeypatch.setattr(limit_sharing, "SYNC_MS", 1)
    with engine() as loop:
        loop.log = fake_store.remembering()
        made = Lab(loop, backends)
        yield made
        stores.close(loop, [made.conf, made.next])
        loop.turn(0)


def buckets(lab: Lab) -> SharedBuckets:
    """Return the buckets of a zone, whose store can be used."""
    table = BucketTable(shm.Zone("z", shm.LEAST, "test"))
    made = SharedBuckets(lab.loop, lab.conf, "limit z", table, RATE)
    run_until(lab.loop, lambda: made.store.is_up)
    return made


def pour(made: SharedBuckets, key: bytes = b"a") -> int:
    """Pour in a unit."""
    return made.pour(key, UNIT, RATE, MOST, made.loop.now_ms)


def test_what_is_poured_is_told_together(lab: Lab) -> None:
    """Of each key once, with what came since; what is refused is not told."""
    made = buckets(lab)
    for _ in range(10):
        assert pour(made) > 0
    assert REFUSED == pour(made)
    made.spend(b"b", 5, RATE, lab.loop.now_ms)
    made.spend(b"c", 0, RATE, lab.loop.now_ms)
    lab.wait(2)
    assert [[b"p:limit:z:a", b"60", b"10000"], [b"p:limit:z:b", b"60", b"5"]] == lab.told


def test_what_other_hosts_poured_counts_here(lab: Lab) -> None:
    """With what this worker has not told yet."""
    made = buckets(lab)
    lab.numbers[b"p:limit:z:a"] = 9000
    pour(made)
    lab.wait(1)
    pour(made)  # not told yet when the answer comes
    lab.settle(made)
    assert 9900 <= made.level(b"a", RATE, lab.loop.now_ms) <= MOST
    assert REFUSED == pour(made)
    assert (1, made.capacity) == (made.used, made.capacity)


def test_a_lower_level_elsewhere_frees_nobody(lab: Lab) -> None:
    """What this host has let pass counts here in any case."""
    made = buckets(lab)
    for _ in range(10):
        pour(made)
    lab.wait(1)
    lab.settle(made)
    assert REFUSED == pour(made)


def test_many_keys_are_told_in_turns(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of more than is bounded nobody is told."""
    monkeypatch.setattr(limit_sharing, "MOST_KEYS", 3)
    monkeypatch.setattr(limit_sharing, "MOST_NOTED", 8)
    made = buckets(lab)
    for n in range(20):
        assert pour(made, b"%d" % n) > 0
    lab.wait(8)
    lab.settle(made)
    assert 8 == len(lab.told)


def test_an_error_is_told_of_once_a_second(lab: Lab) -> None:
    """A script that is not known is loaded again."""
    made = buckets(lab)
    lab.settle(made)
    lab.strange = b"-NOSCRIPT No matching script.\r\n"
    loaded = lab.loaded
    for n in range(5):
        pour(made, b"%d" % n)
    lab.wait(5)
    lab.settle(made)
    assert lab.loaded == loaded + 1  # however many were told meanwhile
    pour(made, b"later")
    lab.wait(6)
    lab.settle(made)
    assert lab.loaded == loaded + 2
    assert 1 == sum("NOSCRIPT" in line for line in fake_store.lines(lab.loop))


def test_a_script_that_cannot_be_sent_is_loaded_in_a_moment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where too much waits for the store: hosts share again, without a new connection."""
    made = buckets(lab)
    lab.settle(made)
    lab.strange = b"-NOSCRIPT No matching script.\r\n"
    pour(made)
    lab.wait(1)
    with monkeypatch.context() as full:
        full.setattr(store_module, "MOST_WAITING", 0)
        run_until(lab.loop, lambda: not made.store._waiting)
    lab.strange = b""
    lab.told.clear()
    pour(made)
    lab.wait(1)
    made.on_down()
    with monkeypatch.context() as full:
        full.setattr(store_module, "MOST_WAITING", 0)
        made.on_up()
        pour(made)
        assert not made._new
    loaded = lab.loaded
    run_until(lab.loop, lambda: lab.loaded > loaded)
    pour(made)
    lab.wait(2)


def test_while_the_store_is_away_nothing_is_noted(lab: Lab, backends: BackendFactory) -> None:
    """And the host limits by itself."""
    made = buckets(lab)
    pour(made)
    made.on_down()
    pour(made)
    assert not made._new
    made.on_up()
    pour(made)
    lab.wait(1)
    assert [b"p:limit:z:a", b"60", b"1000"] == lab.told[-1]


def counts(lab: Lab) -> SharedCounts:
    """Return what is counted of a zone, whose store can be used."""
    made = SharedCounts(lab.loop, lab.conf, "limit z", b"host")
    run_until(lab.loop, lambda: made.store.is_up)
    return made


def test_sessions_are_told_of_as_a_number(lab: Lab) -> None:
    """That of this worker; what others have is learnt."""
    made = counts(lab)
    worker = b"%d.0" % lab.loop.pid
    lab.numbers[b"p:limit:z:a"] = 3
    made.began(b"a")
    made.began(b"a")
    lab.wait(1)
    lab.settle(made)
    assert [[b"p:limit:z:a", b"host:", worker, b"2", b"30000"]] == lab.told
    assert (3, 0) == (made.elsewhere(b"a"), made.elsewhere(b"b"))
    made.ended(b"a")
    made.ended(b"a")
    lab.numbers.clear()
    lab.wait(2)
    lab.settle(made)
    assert b"0" == lab.told[-1][3]
    assert 0 == made.elsewhere(b"a")


def test_what_was_learnt_is_forgotten(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody has said it again."""
    monkeypatch.setattr(limit_sharing, "COUNT_MS", 0)
    made = counts(lab)
    lab.numbers[b"p:limit:z:a"] = 3
    made.look(b"a")
    lab.wait(1)
    lab.settle(made)
    assert 0 == made.elsewhere(b"a")


def test_sessions_that_go_on_are_told_of_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before what was said is void; and when the store is back."""
    monkeypatch.setattr(limit_sharing, "RENEW_MS", 5)
    made = counts(lab)
    made.began(b"a")
    lab.wait(3)
    made.on_down()
    lab.told.clear()
    made.on_up()
    lab.wait(1)
    assert b"1" == lab.told[-1][3]


def test_a_host_alone_limits_as_without_a_store(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store hears of a session when its bucket has leaked for a while, and answers later."""
    made = buckets(lab)
    monkeypatch.setattr(limit_sharing, "SYNC_MS", 100)
    now_ms = made.loop.now_ms
    rate = made._rate = 60 * 20  # one in 50 ms
    assert made.pour(b"a", UNIT, rate, UNIT, now_ms) == UNIT
    made._new.clear()
    for after_ms, number in ((100, UNIT), (110, UNIT), (140, UNIT)):
        monkeypatch.setattr(made.loop, "now_ms", now_ms + after_ms)
        made._answered(b"a", now_ms + 100, number)
        assert 0 == made.level(b"a", rate, now_ms + after_ms)
    made._answered(b"a", now_ms + 140, 5 * UNIT)  # others' sessions count all the same
    assert 3 * UNIT == made.level(b"a", rate, now_ms + 140)
    monkeypatch.undo()


@pytest.mark.parametrize("number", [-7, 10**19])
def test_numbers_of_a_strange_store(lab: Lab, number: int) -> None:
    """They raise nothing; a level has its bound."""
    made, other = buckets(lab), counts(lab)
    lab.numbers = dict.fromkeys((b"p:limit:z:a", b"p:limit:z:b"), number)
    pour(made)
    other.began(b"b")
    lab.wait(2)
    lab.settle(made)
    assert (number > 0) == (pour(made) == REFUSED)
    assert (number > 0) == bool(other.elsewhere(b"b"))
    assert not any("unexpected" in line for line in fake_store.lines(lab.loop))


def test_a_worker_that_leaves_says_that_its_sessions_are_over(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the connection ends, of however many keys; then it says no more."""
    monkeypatch.setattr(limit_sharing, "MOST_KEYS", 2)
    made = counts(lab)
    monkeypatch.setattr(limit_sharing, "SYNC_MS", 60_000)
    for n in range(5):
        made.began(b"%d" % n)
    made.ended(b"0")
    made.stop()
    made.stop()
    made.ended(b"1")
    made.began(b"2")
    stores.close(lab.loop, [lab.conf])
    run_until(lab.loop, lambda: len(lab.told) == 5)
    assert {b"0"} == {words[3] for words in lab.told}
    assert not made._own.get(b"1")
    assert not made.store.listeners


def test_two_configurations_in_one_process(lab: Lab) -> None:
    """Each says its own, from the first moment; the former goes and leaves the connection."""
    former = counts(lab)
    made = SharedCounts(lab.loop, lab.next, "limit z", b"host")
    assert made.store is former.store
    former.began(b"a")
    made.began(b"a")
    lab.wait(2)
    assert 2 == len({words[2] for words in lab.told})
    former.stop()
    stores.close(lab.loop, [lab.conf])
    assert made.store.is_up
    assert [made] == [one for one in made.store.listeners if isinstance(one, SharedCounts)]


def test_no_more_is_known_of_others_than_is_bounded(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known is kept up to date; of more keys each host counts by itself."""
    monkeypatch.setattr(limit_sharing, "MOST_KNOWN", 2)
    made = counts(lab)
    for key, number in ((b"a", 1), (b"b", 2), (b"c", 3), (b"a", 4)):
        made._learn(key, number, 0)
    assert [4, 2, 0] == [made.elsewhere(key) for key in (b"a", b"b", b"c")]
    made._learn(b"b", 0, 0)
    made._learn(b"c", 3, 0)
    assert [4, 0, 3] == [made.elsewhere(key) for key in (b"a", b"b", b"c")]


def test_what_the_connection_does_not_take_is_told_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is lost while the store is there."""
    made = buckets(lab)
    with monkeypatch.context() as full:
        full.setattr(store_module, "MOST_WAITING", 0)
        pour(made)
        made._sync()
        assert {b"a": UNIT} == made._new
    lab.wait(1)
    assert [[b"p:limit:z:a", b"60", b"1000"]] == lab.told


def test_a_long_key_is_of_this_host_alone(lab: Lab) -> None:
    """Clients choose how long a name of theirs is: many of these would fill the connection."""
    made = buckets(lab)
    long, fits = (b"k" * (limit_sharing.MOST_KEY + more) for more in (1, 0))
    for key in (long, fits):
        for _ in range(10):
            assert pour(made, key) > 0
        assert REFUSED == pour(made, key)
    lab.wait(1)
    lab.settle(made)
    assert [b"p:limit:z:" + fits] == [words[0] for words in lab.told]


def test_a_worker_that_leaves_tells_what_it_has_poured(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing after that, whatever comes."""
    made = buckets(lab)
    monkeypatch.setattr(limit_sharing, "SYNC_MS", 60_000)
    pour(made)
    made.stop()
    pour(made)
    assert not made._new
    stores.close(lab.loop, [lab.conf])
    run_until(lab.loop, lambda: bool(lab.told))
    assert [[b"p:limit:z:a", b"60", b"1000"]] == lab.told


def test_sessions_are_told_of_when_the_store_is_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that go on, at once; what has changed before is not."""
    made = counts(lab)
    monkeypatch.setattr(limit_sharing, "SYNC_MS", 60_000)
    made.began(b"a")
    made.began(b"b")
    made.ended(b"b")
    assert {b"a", b"b"} == set(made._changed)
    made.on_down()
    assert not made._changed
    made.on_up()
    assert {b"a"} == set(made._changed)


def test_sessions_that_the_connection_does_not_take_are_told_of_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what was poured is."""
    made = counts(lab)
    with monkeypatch.context() as full:
        full.setattr(store_module, "MOST_WAITING", 0)
        made.began(b"a")
        made._sync()
        assert {b"a": None} == made._changed
    lab.wait(1)
    assert b"1" == lab.told[0][3]
