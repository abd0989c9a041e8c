"""Facts of the core: who came to a server that is watched, and how that ended."""

import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ngxstream.conf import directive as d
from ngxstream.stream import core_facts
from ngxstream.stream.core import StreamConf
from ngxstream.stream.module import StreamModule
from ngxstream.stream.session import Session
from tests.support.in_process import InProcess, build
from tests.support.moving import World, world

__all__ = ["world"]


def _watch(scope: Any, module: Any, st: Any) -> None:
    """What a directive that has a server counted does."""
    core_facts.watch(scope.owner, scope.builder.facts, st.args[0])


WATCH = StreamModule(
    "watch", (d.Directive("watch", d.SERVER, d.TAKE1, _watch, "Counts clients."),)
)
(kept,) = core_facts.KEEPS
# the names of facts, without "server_"
CLASSES = ("sessions_2xx", "sessions_4xx", "sessions_5xx")


class Watched(InProcess):
    """A stream block with servers that are counted."""

    def __init__(self, text: str) -> None:
        """Serve it."""
        super().__init__(f"stream {{ {text} }}", more=(WATCH,))

    def seen(self, label: str) -> dict[str, int]:
        """Return a server's facts that are not 0; they add up."""
        found = {name.removeprefix("server_"): n for name, n in self.facts(label).items()}
        parts = (found.get(name, 0) for name in ("processing", "discarded", *CLASSES))
        assert found.get("connections", 0) == sum(parts)
        return found

    def ask(self, number: int = 0) -> bytes:
        """Connect, and return all that comes."""
        return self.read(self.connect(number))


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Watched]:
    """Serve what the test is marked with."""
    with Watched(request.param) as made:
        yield made


def serving(text: str) -> pytest.MarkDecorator:
    """Mark a test with the servers that it is about."""
    return pytest.mark.parametrize("served", [text], indirect=True)


@serving(
    "server { listen 127.0.0.1:@a@; watch a; return four; } "
    "server { listen 127.0.0.1:@b@; watch b; deny all; return x; } "
    "server { listen 127.0.0.1:@c@; watch b; } server { listen 127.0.0.1:@d@; return none; }"
)
def test_sessions_are_counted_by_how_they_end(served: Watched) -> None:
    """Each label has its own sessions by class and bytes; several servers may have one label."""
    for number in (0, 1, 2, 3, 0, 2):
        served.ask(number)
    assert {"connections": 2, "sessions_2xx": 2, "sent": 8} == served.seen("a")
    assert {"connections": 3, "sessions_4xx": 1, "sessions_5xx": 2} == served.seen("b")
    assert {"a", "b", ""} == {cell.label for cell, _ in served.conf.facts.totals()}


def test_who_is_not_watched_pays_nothing() -> None:
    """An address without such a server has the sessions it would have had."""
    text = ("stream {{ server {{ listen 127.0.0.1:1; {} return a; }} "
            "server {{ listen 127.0.0.1:2; return b; }} }}")
    before, after = build(text.format("")), build(text.format("watch a;"), more=(WATCH,))
    assert before.conf is not None
    assert after.conf is not None
    plain = [listening.default for listening in before.conf.listenings]
    (watched, other) = [listening.default for listening in after.conf.listenings]
    assert [address.default_server.handler for address in plain] == [a.begin for a in plain]
    assert other.begin is other.default_server.handler
    assert watched.begin is not watched.default_server.handler
    assert [len(a.engine) for a in plain] == [len(watched.engine), len(other.engine)]


@pytest.fixture
def waiting() -> Iterator[tuple[Watched, socket.socket]]:
    """Give a server with a session that goes on, and its client."""
    with socket.create_server(("127.0.0.1", 0)) as backend:
        port = backend.getsockname()[1]
        with Watched(
            f"server {{ listen 127.0.0.1:@a@; watch a; proxy_pass 127.0.0.1:{port}; }}"
        ) as served:
            client = served.connect()
            client.send(b"hello")
            served.turn_until(lambda: select.select([backend], [], [], 0)[0])
            peer, _ = backend.accept()
            with peer:
                served.turn_until(lambda: select.select([peer], [], [], 0)[0])
                yield served, client


def test_who_is_there_is_counted_once(waiting: tuple[Watched, socket.socket]) -> None:
    """A client is processed until his session ends."""
    served, client = waiting
    assert {"connections": 1, "processing": 1} == served.seen("a")
    client.close()
    served.turn_until(lambda: served.sessions[0].status)
    assert {"connections": 1, "sessions_2xx": 1, "received": 5} == served.seen("a")


def test_a_session_that_moves_is_counted_once(waiting: tuple[Watched, socket.socket]) -> None:
    """Where it comes from it is processed no more, where it goes on it ends."""
    served, _ = waiting
    (s,) = served.sessions
    assert kept.pack(s) is True
    content, s.content = s.content, None
    for cleanup in s.abandon():
        cleanup()
    assert {"connections": 1} == {
        name.removeprefix("server_"): n for name, n in served.facts("a").items()
    }
    served.loop.sessions.add(s)
    s.status, s.content = 0, content
    kept.unpack(s, True)
    assert {"connections": 1, "processing": 1} == served.seen("a")
    s.finalize(502)
    assert {"connections": 1, "sessions_5xx": 1, "received": 5} == served.seen("a")


def test_a_session_that_fails_while_it_is_packed_is_counted(
    waiting: tuple[Watched, socket.socket]
) -> None:
    """It ends where it is."""
    served, _ = waiting
    assert kept.pack(served.sessions[0])
    served.sessions[0].finalize(500)
    assert {"connections": 1, "sessions_5xx": 1, "received": 5} == served.seen("a")


@pytest.mark.parametrize("is_watched", [False, True])
def test_that_a_session_is_watched_travels(world: World, is_watched: bool) -> None:
    """In the process that it goes on in it has an end to count as well, and no other has."""
    before = world.old.only_session()
    if is_watched:
        core_facts.watching(lambda s: None)(before)
    world.hand_over()
    after = world.new.only_session()
    assert before is not after
    assert [is_watched, None] == [bool(kept.pack(after)), kept.pack(before)]


@serving(
    "server { listen 127.0.0.1:@a@; watch a; pass 127.0.0.1:@b@; } "
    "server { listen 127.0.0.1:@b@; watch b; return text; }"
)
def test_a_client_who_is_passed_on_ends_elsewhere(served: Watched) -> None:
    """Where it came first it is discarded."""
    assert b"text" == served.ask()
    assert {"connections": 1, "discarded": 1} == served.seen("a")
    assert {"connections": 1, "sessions_2xx": 1, "sent": 4} == served.seen("b")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("watch a;", "watch b;", ({"connections": 1, "discarded": 1},
                                  {"connections": 1, "sessions_2xx": 1, "sent": 1})),
        ("watch a;", "", ({"connections": 1, "discarded": 1}, {})),
        ("", "watch b;", ({}, {"connections": 1, "sessions_2xx": 1, "sent": 1})),
        ("watch a;", "watch a;", ({"connections": 1, "sessions_2xx": 1, "sent": 1}, {})),
    ],
)
def test_a_server_that_is_selected_has_the_session(
    first: str, second: str, expected: tuple[dict[str, int], dict[str, int]]
) -> None:
    """It counts where it ends; where it began it is discarded, unless both have one label."""
    with Watched(
        f"map x $name {{ default b; }} server {{ listen 127.0.0.1:@a@; {first} return $name; }} "
        f"server {{ listen 127.0.0.1:@a@; server_name b; {second} return b; }}"
    ) as served:
        served.conf.listenings[0].default.begin = _selecting(served.conf)
        assert b"b" == served.ask()
        assert expected == (served.seen("a"), served.seen("b"))


def _selecting(conf: StreamConf) -> Callable[[Session], None]:
    """Return a first step of sessions that selects the second server, as a handler might."""

    def select(s: Session) -> None:
        s.select_server(conf.servers[1])
        s.server.handler(s)

    return core_facts.watching(select)


def test_no_session_that_is_not_watched_says_anything_when_it_moves() -> None:
    """There is no record of it."""
    with Watched("server { listen 127.0.0.1:@a@; return a; }") as served:
        served.ask()
        assert kept.pack(served.sessions[0]) is None
