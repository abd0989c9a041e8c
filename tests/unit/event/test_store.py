"""The connection to a store: what is sent, what comes back, and every way in which it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.event import store as stores
from ngxstream.event.loop import Loop
from ngxstream.event.store import LOST, Store
from ngxstream.wire.resp import ErrorReply, Push
from tests.support import fake_store
from tests.support.backends import BackendFactory, Conversation
from tests.support.engine import engine, run_until
from tests.support.fake_store import Watcher, options, speaking, usual


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop that has all its slots again in the end."""
    with engine() as made:
        made.log = fake_store.remembering()
        yield made
        for store in made_stores:
            store.close()
        made_stores.clear()
        made.turn(0)
        assert 512 == made.free_connections


made_stores: list[Store] = []


def connected(loop: Loop, *args: Any, **more: Any) -> Store:
    """Return a store that takes commands."""
    store = made(loop, *args, **more)
    run_until(loop, lambda: store.is_up)
    return store


def made(loop: Loop, *args: Any, **more: Any) -> Store:
    """Return a store."""
    store = Store(loop, options(*args, **more))
    made_stores.append(store)
    return store


def said(loop: Loop, *patterns: str) -> bool:
    """Tell whether the log has lines with these words."""
    found = list(fake_store.lines(loop))
    return all(any(one in line for line in found) for one in patterns)


def test_replies_that_nobody_asked_for_at_the_beginning(
    loop: Loop, backends: BackendFactory
) -> None:
    """The server is away, and is tried again."""
    broken = [True]

    def talk(words: list[bytes]) -> bytes:
        if broken:
            broken.clear()
            return fake_store.HELLO + 3 * fake_store.OK
        return usual(words)

    connected(loop, backends.tcp(speaking(talk)).address[1])
    assert said(loop, "a reply that nobody asked for")
    assert not said(loop, "unexpected")


def test_what_was_said_goes_out_before_the_end(loop: Loop, backends: BackendFactory) -> None:
    """Nobody hears of the end, and no reply is waited for."""
    seen: list[list[bytes]] = []
    store = connected(loop, backends.tcp(speaking(usual, seen)).address[1])
    watcher = Watcher(store)
    got: list[Any] = []
    assert store.send((b"LAST",), got.append)
    store.close()
    run_until(loop, lambda: [b"LAST"] in seen)
    assert [b"CLIENT", b"REPLY", b"OFF"] == seen[-2]
    assert [] == watcher.seen == got


def test_commands_of_a_turn_go_out_together(loop: Loop, backends: BackendFactory) -> None:
    """Each done is given its own reply, in order, in a later turn."""
    pieces: list[bytes] = []

    def script(conversation: Conversation) -> None:
        while data := conversation.recv():
            pieces.append(data)
            if data.startswith(b"*2\r\n$5\r\nHELLO"):
                conversation.send(fake_store.HELLO + fake_store.OK)
            else:
                conversation.send(b":1\r\n-ERR no\r\n_\r\n")

    store = connected(loop, backends.tcp(script).address[1])
    got: list[Any] = []
    for word in (b"A", b"B", b"C"):
        assert store.send((word,), got.append)
    assert [] == got
    run_until(loop, lambda: len(got) == 3)
    assert [1, ErrorReply("ERR no"), None] == got
    assert b"*1\r\n$1\r\nA\r\n*1\r\n$1\r\nB\r\n*1\r\n$1\r\nC\r\n" == pieces[-1]


def test_a_listener_that_raises_ends_nothing(loop: Loop, backends: BackendFactory) -> None:
    """The others hear, and replies go on; nobody's done is called twice."""

    def answer(words: list[bytes]) -> bytes:
        return b">2\r\n+invalidate\r\n_\r\n+yes\r\n" if words[0] == b"X" else usual(words)

    store = made(loop, backends.tcp(speaking(answer)).address[1])
    first = Watcher(store)
    first.on_push = first.on_up = lambda *_: 1 / 0  # type: ignore[assignment, method-assign]
    second = Watcher(store)
    run_until(loop, lambda: store.is_up)
    got: list[Any] = []
    store.send((b"X",), lambda _: 1 / 0)  # type: ignore[arg-type]
    store.send((b"X",), got.append)
    run_until(loop, lambda: bool(got))
    assert [b"yes"] == got
    assert ["up", Push([b"invalidate", None]), Push([b"invalidate", None])] == second.seen


@pytest.mark.parametrize(("answer", "last", "why"), [
    (None, LOST, "it closed the connection"),
    (b"nonsense\r\n", LOST, "no reply"),
    (b"+a\r\n+b\r\n+c\r\n+d\r\n", b"b", "a reply that nobody asked for"),
])
def test_a_server_that_breaks_off_is_away(
    loop: Loop, backends: BackendFactory, answer: bytes | None, last: object, why: str
) -> None:
    """Who waits is told that no reply comes; the next connection is as good as the first."""
    broken = [True]

    def talk(words: list[bytes]) -> Any:
        if words[0] == b"X" and broken:
            broken.clear()
            return answer
        return usual(words)

    store = connected(loop, backends.tcp(speaking(talk)).address[1])
    watcher = Watcher(store)
    got: list[Any] = []
    store.send((b"X",), got.append)
    store.send((b"Y",), got.append)
    run_until(loop, lambda: "up" in watcher.seen)
    assert last == got[-1]
    assert 2 == len(got)
    assert ["down", "up"] == watcher.seen
    assert said(loop, f'store "test" is away: {why}', "is back after")
    store.send((b"Y",), got.append)
    run_until(loop, lambda: len(got) == 3)
    assert b"OK" == got[-1]


def test_a_server_that_does_not_answer_is_away(loop: Loop, backends: BackendFactory) -> None:
    """After the timeout; while it is away nothing is taken."""

    def script(conversation: Conversation) -> None:
        conversation.recv()
        conversation.send(fake_store.HELLO + fake_store.OK)
        conversation.recv_to_eof()

    store = connected(loop, backends.tcp(script).address[1], timeout_ms=50)
    got: list[Any] = []
    store.send((b"X",), got.append)
    run_until(loop, lambda: bool(got))
    assert [LOST] == got
    assert not store.is_up
    assert not store.send((b"Y",), got.append)
    assert said(loop, "no reply in time")


def test_a_server_that_never_says_hello_is_away(loop: Loop, backends: BackendFactory) -> None:
    """A connection is not there before the server has said who it is."""
    store = made(loop, backends.tcp(Conversation.recv_to_eof).address[1], timeout_ms=50)
    run_until(loop, lambda: said(loop, "no connection in time"))
    assert not store.is_up


def test_what_a_server_refuses_is_told(loop: Loop, backends: BackendFactory) -> None:
    """With the name of the command, and without the password."""
    seen: list[list[bytes]] = []

    def answer(words: list[bytes]) -> bytes:
        return b"-WRONGPASS invalid\r\n" if words[0] == b"HELLO" else fake_store.OK

    port = backends.tcp(speaking(answer, seen)).address[1]
    made(loop, port, user=b"me", password=b"secret", db=7)
    run_until(loop, lambda: said(loop, 'HELLO failed: "WRONGPASS invalid"'))
    assert [b"HELLO", b"3", b"AUTH", b"me", b"secret"] == seen[0]
    assert not said(loop, "secret")
    run_until(loop, lambda: [b"SELECT", b"7"] in seen)


def test_idle_connections_are_asked(
    loop: Loop, backends: BackendFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PING shows whether the server is there still."""
    monkeypatch.setattr(stores, "IDLE_MS", 0)
    seen: list[list[bytes]] = []
    connected(loop, backends.tcp(speaking(usual, seen)).address[1], timeout_ms=80)
    run_until(loop, lambda: [b"PING"] in seen)


def test_no_more_waits_than_is_bounded(
    loop: Loop, backends: BackendFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more command is not taken."""
    monkeypatch.setattr(stores, "MOST_WAITING", 3)
    store = connected(loop, backends.tcp(speaking(usual)).address[1])
    assert [True, True, True, False] == [store.send((b"X",)) for _ in range(4)]


def test_a_server_that_does_not_read_is_away(
    loop: Loop, backends: BackendFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than is bounded does not wait for it."""
    monkeypatch.setattr(stores, "MOST_BYTES", 1 << 16)

    def script(conversation: Conversation) -> None:
        conversation.recv()
        conversation.send(fake_store.HELLO + fake_store.OK)
        conversation.hold()

    store = connected(loop, backends.tcp(script).address[1], timeout_ms=60_000)
    got: list[Any] = []
    store.send((b"SET", b"k", bytes(1 << 17)), got.append)
    run_until(loop, lambda: bool(got))
    assert [LOST] == got
    assert said(loop, "it does not read what it is sent")


def test_the_next_address_is_tried(loop: Loop, backends: BackendFactory) -> None:
    """When one cannot be reached."""
    store = connected(loop, 1, backends.tcp(speaking(usual)).address[1])
    line = 'store "test" is away: connect() to 127.0.0.1:1 failed (111: Connection refused)'
    assert line in fake_store.lines(loop)
    assert store.is_up


def test_sentinel_says_where_the_master_is(loop: Loop, backends: BackendFactory) -> None:
    """Each time anew: when the server says that it is none any more, too."""
    demoted: list[bytes] = []

    def answer(words: list[bytes]) -> bytes:
        if words[0] == b"SET" and not demoted:
            demoted.append(words[0])
            return b"-READONLY You can't write against a read only replica.\r\n"
        return usual(words)

    master = backends.tcp(speaking(answer)).address[1]
    asked: list[list[bytes]] = []
    where = [b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(master)), master)]
    sentinel = backends.tcp(speaking(
        lambda words: where[0] if words[0] == b"SENTINEL" else fake_store.OK, asked
    )).address[1]
    store = connected(loop, sentinel, service="fleet", sentinel_password=b"word")
    assert [b"AUTH", b"word"] in asked
    assert [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"fleet"] in asked
    got: list[Any] = []
    store.send((b"SET", b"a", b"b"), got.append)
    run_until(loop, lambda: not store.is_up)
    assert said(loop, "it is no master any more")
    run_until(loop, lambda: store.is_up)
    assert "READONLY" == got[0].code


@pytest.mark.parametrize(("where", "why"), [
    (b"*-1\r\n", 'Sentinel knows no master "fleet"'),
    (b"*2\r\n$1\r\na\r\n$1\r\nx\r\n", "Sentinel names no address"),
    (b"*2\r\n$1\r\na\r\n$6\r\n999999\r\n", "Sentinel names no address"),
    (b"*2\r\n$1\r\na\r\n$5\r\n65536\r\n", "Sentinel names no address"),
    (b"*2\r\n$1\r\na\r\n$1\r\n0\r\n", "Sentinel names no address"),
    # the first digits alone are a port
    (b"*2\r\n$9\r\n127.0.0.1\r\n$9\r\n000443000\r\n", "Sentinel names no address"),
    (b"*2\r\n$1\r\na\r\n$5000\r\n" + b"4" * 5000 + b"\r\n", "Sentinel names no address"),
    (b":1\r\n", "Sentinel names no address"),
    (b"-ERR no\r\n", 'SENTINEL failed: "ERR no"'),
    (b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n%05d\r\n", "it is no master"),
])
def test_what_sentinel_says_may_be_nonsense(
    loop: Loop, backends: BackendFactory, where: bytes, why: str
) -> None:
    """It is told, and asked for again."""
    replica = backends.tcp(speaking(
        lambda words: b"*1\r\n+slave\r\n" if words[0] == b"ROLE" else usual(words)
    )).address[1]
    text = where % replica if b"%05d" in where else where
    made(loop, backends.tcp(speaking(lambda _: text)).address[1], service="fleet")
    run_until(loop, lambda: said(loop, why))
