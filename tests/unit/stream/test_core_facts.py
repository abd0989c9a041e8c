"""Facts of the core: who came to a server that is watched, and how that ended."""

import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ngxstream.stream import core_facts, endings
from ngxstream.stream.core import StreamConf
from ngxstream.stream.peer_facts import Books
from ngxstream.stream.session import Session
from tests.support.in_process import InProcess, build, settle
from tests.support.moving import KEPT, World

(kept,) = core_facts.KEEPS
# the names of facts, without "server_"
CLASSES = ("sessions_2xx", "sessions_4xx", "sessions_5xx")


class Watched(InProcess):
    """A stream block with servers that are counted."""

    def __init__(self, text: str) -> None:
        """Serve it."""
        super().__init__(f"stream {{ {text} }}")

    def seen(self, label: str) -> dict[str, int]:
        """Return a server's facts that are not 0; they add up."""
        self.loop.turn(0)
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
    "server { listen 127.0.0.1:@a@; status_zone a; return four; } "
    "server { listen 127.0.0.1:@b@; status_zone b; deny all; return x; } "
    "server { listen 127.0.0.1:@c@; status_zone b; } server { listen 127.0.0.1:@d@; return none; }"
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
    before, after = build(text.format("")), build(text.format("status_zone a;"))
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
            f"server {{ listen 127.0.0.1:@a@; status_zone a; proxy_pass 127.0.0.1:{port}; }}"
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


def test_a_session_that_moves_is_counted_once(tmp_path: Path) -> None:
    """It is a client of one server, and so are its bytes, whichever process has which of them."""
    with World(tmp_path, server="status_zone a;") as world:
        world.exchange(b"hello")
        assert {"connections": 1, "processing": 1} == seen(world)
        world.hand_over()
        moved = {"received": 5, "sent": 5}
        assert {"connections": 1, "processing": 1, **moved} == seen(world)
        world.exchange(b"again")
        assert not world.old.loop.sessions
        world.new.only_session().finalize(502)
        moved = {"received": 10, "sent": 10}
        assert {"connections": 1, "sessions_5xx": 1, **moved} == seen(world)


def test_a_session_that_moves_twice_is_counted_once(tmp_path: Path) -> None:
    """It leaves where it is now, and nowhere else."""
    with World(tmp_path, server="status_zone a;") as world:
        world.exchange(b"hello")
        world.hand_over()
        s = world.new.only_session()
        assert kept.pack(s) is True
        s.content.close()
        world.new.loop.call_all(s.abandon())
        world.new.loop.close_connection(s.c)
        assert {"connections": 1, "received": 5, "sent": 5} == seen(world)


def seen(world: World) -> dict[str, int]:
    """Return the facts of the server that are not 0."""
    assert world.cycle.stream is not None
    for place in (world.old, world.new):
        settle(world.cycle.stream, place.loop)
    return {
        cell.fact.name.removeprefix("server_"): n
        for cell, n in world.cycle.facts.totals() if n and cell.label == "a"
    }


def test_a_session_that_fails_while_it_is_packed_is_counted(
    waiting: tuple[Watched, socket.socket]
) -> None:
    """It ends where it is."""
    served, _ = waiting
    assert kept.pack(served.sessions[0])
    served.sessions[0].finalize(500)
    assert {"connections": 1, "sessions_5xx": 1, "received": 5} == served.seen("a")


def test_a_session_of_nobody_that_is_watched_says_nothing_when_it_moves(tmp_path: Path) -> None:
    """There is no record of it, and nothing is counted of it where it goes."""
    with World(tmp_path) as world:
        world.exchange(b"hello")
        assert kept.pack(world.old.only_session()) is None
        world.hand_over()
        kept.unpack(world.new.only_session(), True)  # as a process might say that is not trusted
        assert world.new.only_session().counted is None


def test_a_session_whose_counts_were_not_told_is_counted(tmp_path: Path) -> None:
    """A process that says nothing of what it has counted does no harm."""
    with World(tmp_path, server="status_zone a;") as world:
        world.exchange(b"hello")
        values, proxied, sock = world.parcel()
        values[KEPT] = [one for one in values[KEPT] if one[0] != core_facts.WATCHED]
        world.post(values, proxied, sock.fileno())
        sock.close()
        world.new.only_session().finalize(200)
        counted = seen(world)
        assert (1, 1) == (counted["connections"], counted["sessions_2xx"])


def test_a_session_that_begins_anew_elsewhere_was_accepted_once(tmp_path: Path) -> None:
    """What waited for more datagrams is discarded where it leaves and begins where it comes."""
    with World(tmp_path, server="status_zone a;") as world:
        world.exchange(b"hello")
        s = world.old.only_session()
        core_facts.passed_on(s)
        s.content.close()
        world.old.loop.call_all(s.abandon())
        assert {"connections": 1, "discarded": 1, "received": 5, "sent": 5} == seen(world)
        totals = {cell.fact.name: n for cell, n in world.cycle.facts.totals()}
        assert totals["connections_accepted"] == 0
        world.old.loop.close_connection(s.c)


@serving(
    "server { listen 127.0.0.1:@a@; status_zone a; pass 127.0.0.1:@b@; } "
    "server { listen 127.0.0.1:@b@; status_zone b; return text; }"
)
def test_a_client_who_is_passed_on_ends_elsewhere(served: Watched) -> None:
    """Where it came first it is discarded."""
    assert b"text" == served.ask()
    assert {"connections": 1, "discarded": 1} == served.seen("a")
    assert {"connections": 1, "sessions_2xx": 1, "sent": 4} == served.seen("b")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("status_zone a;", "status_zone b;", ({"connections": 1, "discarded": 1},
                                              {"connections": 1, "sessions_2xx": 1, "sent": 1})),
        ("status_zone a;", "", ({"connections": 1, "discarded": 1}, {})),
        ("", "status_zone b;", ({}, {"connections": 1, "sessions_2xx": 1, "sent": 1})),
        ("status_zone a;", "status_zone a;",
         ({"connections": 1, "sessions_2xx": 1, "sent": 1}, {})),
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

    first = conf.servers[0].watched
    assert first is not None
    return core_facts.watching(select, first)


def test_no_session_that_is_not_watched_says_anything_when_it_moves() -> None:
    """There is no record of it."""
    with Watched("server { listen 127.0.0.1:@a@; return a; }") as served:
        served.ask()
        assert kept.pack(served.sessions[0]) is None


def test_why_sessions_end_is_counted_once() -> None:
    """By the last step of the session, or by the attempt at a server that it ended with."""
    with InProcess("""stream { server { listen 127.0.0.1:@z@; api; }
        server { listen 127.0.0.1:@a@; return text; }
        server { listen 127.0.0.1:@b@; deny all; return x; }
        server { listen 127.0.0.1:@c@; proxy_pass 127.0.0.1:@a@; }
        server { listen 127.0.0.1:@d@; proxy_pass 127.0.0.1:1; }
        server { listen 127.0.0.1:@e@; pass 127.0.0.1:@a@; } }""") as served:
        for number in range(1, 6):
            served.read(served.connect(number))
        served.turn_until(lambda: not served.loop.sessions)
        served.loop.get(Books).flush()
        found = [
            {why.word: n for why, n in zip(endings.ALL, server.facts.ends.totals(), strict=True)
             if n}
            for server in served.conf.servers[1:] if server.facts is not None
        ]
    once = {"closed": 1}
    assert [{"closed": 3}, {"denied": 1}, once, {"connect_failed": 1}, {}] == found
