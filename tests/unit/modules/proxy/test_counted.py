"""Sessions whose peers are counted: what is told of each, while it goes on and when it ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core.shm_facts import Rows
from ngxstream.modules.proxy import counted
from ngxstream.modules.upstream import peer_view
from ngxstream.stream import live_counts, peer_facts
from ngxstream.stream.core import StreamConf
from ngxstream.stream.peer_facts import Books
from ngxstream.stream.peer_state import UNHEALTHY
from tests.support import ports
from tests.support.backends import TcpBackend, reset
from tests.support.in_process import InProcess, settle
from tests.support.moving import World
from tests.support.udp_in_process import UdpInProcess

API = "server { listen 127.0.0.1:@api@; api; }"
ZONES = pytest.mark.parametrize("zone", ["", "zone z 64k;"], ids=["plain", "zone"])


class Seen:
    """What is counted of the peers of the only group."""

    def __init__(self, stream: StreamConf, loop: Any) -> None:
        self.stream = stream
        self.loop = loop
        (self.conf,) = [one for one in stream.upstreams if one.facts is not None]

    def now(self, n: int = 0) -> dict[str, int]:
        """Return the counters of a peer that are not 0."""
        self.loop.get(Books).flush()
        (some,) = peer_view.gather(self.conf, self.loop.now_ms)
        names = ("connections", "sent", "received", "fails", "unavail")
        found = dict(zip(names, some[n].counts, strict=True), active=some[n].active)
        return {name: count for name, count in found.items() if count}

    def cells(self, which: int, n: int = 0) -> list[int]:
        """Return other cells of a peer."""
        self.loop.get(Books).flush()
        shown = list(peer_view.view.peers(self.conf))
        return peer_view.counted_of(self.conf, which, shown)[n]

    def ends(self, n: int = 0) -> dict[str, int]:
        """Return why sessions ended that a peer had."""
        cells = self.cells(peer_facts.ENDS_BLOCK, n)
        return {word: n for word, n in zip(peer_facts.WORDS, cells, strict=True) if n}

    def times(self, n: int = 0) -> list[int]:
        """Return how many times of each kind there are."""
        cells = self.cells(peer_facts.TIMES_BLOCK, n)
        counts = []
        for fact in peer_facts.TIMES:
            counts.append(sum(cells[: fact.width - 1]))
            cells = cells[fact.width :]
        return counts

    def server_facts(self) -> peer_facts.ServerFacts:
        """Return what is counted of the server that proxies."""
        (server,) = [one for one in self.stream.servers if one.proxy.upstream is self.conf]
        assert server.facts is not None
        return server.facts

    def server_ends(self) -> dict[str, int]:
        """Return why sessions of that server ended."""
        self.loop.get(Books).flush()
        facts = self.server_facts()
        return {word: n for word, n in zip(peer_facts.WORDS, facts.ends.totals(), strict=True) if n}


def serving(servers: str, zone: str = "", server: str = "") -> InProcess:
    """Serve a group of these servers."""
    return InProcess(
        f"stream {{ upstream u {{ {zone} {servers} }} "
        f"server {{ listen 127.0.0.1:@a@; proxy_pass u; {server} }} {API} }}"
    )


def received(served: InProcess, client: socket.socket) -> bytes:
    """Return what comes next."""

    def some() -> bytes:
        try:
            return client.recv(100)
        except BlockingIOError:
            return b""

    return bytes(served.turn_until(some))


def closed_port() -> str:
    """Return an address that refuses."""
    return f"127.0.0.1:{ports.free_port()}"


@ZONES
def test_a_tcp_session_is_counted_when_it_ends(zone: str) -> None:
    """Its bytes, its times, and why it ended, for its peer and its server."""

    def answer(conversation: Any) -> None:
        conversation.recv_exactly(5)
        conversation.send(b"hello you")

    with TcpBackend(answer) as backend, serving(f"server {backend.text};", zone) as served:
        seen = Seen(served.conf, served.loop)
        client = served.connect()
        client.send(b"hello")
        assert b"hello you" == served.read(client)
        served.turn_until(lambda: not served.loop.sessions)
        expected = {"connections": 1, "sent": 5, "received": 9}
        assert (expected, {"closed": 1}, [1, 1, 1]) == (seen.now(), seen.ends(), seen.times())
        assert {"closed": 1} == seen.server_ends()


@ZONES
def test_a_session_that_goes_on_is_counted_once_a_second(zone: str) -> None:
    """Each byte and each time once, whoever looks how often; it is active until its end."""
    with TcpBackend() as backend, serving(f"server {backend.text};", zone) as served:
        seen = Seen(served.conf, served.loop)
        client = served.connect()
        for n in (1, 2):
            client.send(b"ping")
            assert b"ping" == received(served, client)
            (session,) = served.loop.sessions
            for _ in range(2):
                live_counts.look(session)
                expected = {"connections": 1, "active": 1, "sent": 4 * n, "received": 4 * n}
                assert (expected, [1, 1, 0]) == (seen.now(), seen.times())
        client.close()
        served.turn_until(lambda: not served.loop.sessions)
        assert {"connections": 1, "sent": 8, "received": 8} == seen.now()
        assert ({"closed": 1}, [1, 1, 1]) == (seen.ends(), seen.times())


@ZONES
def test_an_attempt_that_fails_counts_against_its_peer(zone: str) -> None:
    """As a failure, and once as unavailable; why the session ended is the last one's."""
    lines = f"server {closed_port()}; server {closed_port()};"
    with serving(lines, zone) as served:
        seen = Seen(served.conf, served.loop)
        served.read(served.connect())
        failure = {"connections": 1, "fails": 1, "unavail": 1}
        assert [failure, failure] == [seen.now(0), seen.now(1)]
        assert {"connect_failed": 1} == {**seen.ends(0), **seen.ends(1)}
        assert {"connect_failed": 1} == seen.server_ends()
        assert [0, 0, 0] == seen.times()
        served.read(served.connect())
        assert failure == seen.now()
        assert {"connect_failed": 1, "no_live_upstreams": 1} == seen.server_ends()


@ZONES
def test_the_only_server_of_a_group_is_never_unavailable(zone: str) -> None:
    """Its failures are counted all the same."""
    with serving(f"server {closed_port()};", zone) as served:
        seen = Seen(served.conf, served.loop)
        for _ in range(3):
            served.read(served.connect())
        assert {"connections": 3, "fails": 3} == seen.now()


def test_a_session_that_was_reset_has_its_own_reason() -> None:
    """Told by the session, not the usual one."""
    with TcpBackend(reset) as backend, serving(f"server {backend.text};") as served:
        seen = Seen(served.conf, served.loop)
        client = served.connect()
        client.send(b"x")
        served.turn_until(lambda: seen.now().get("connections") and not served.loop.sessions)
        assert {"upstream_rst": 1} == seen.ends() == seen.server_ends()


def test_a_session_without_a_socket_is_given_back() -> None:
    """There are no connections left: the peer was chosen, that is all."""
    with TcpBackend() as backend, serving(f"server {backend.text};") as served:
        seen = Seen(served.conf, served.loop)
        served.loop.free_connections = 1
        served.read(served.connect())
        assert {"connections": 1} == seen.now()
        (peer,) = peer_view.view.peers(seen.conf)
        assert 0 == peer.peer.state.conns


@pytest.mark.parametrize("level", ["warn", "debug"])
def test_the_kind_of_a_session_is_the_server_s(level: str) -> None:
    """At debug level it tells what it does as well."""
    with TcpBackend() as backend, serving(f"server {backend.text};",
                                          server=f"error_log stderr {level};") as served:
        served.connect()
        served.turn_until(lambda: served.loop.sessions)


# -- UDP -----------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Serve a session that has exchanged one datagram, with an api."""
    server = getattr(request, "param", "")
    api = f"server {{ listen 127.0.0.1:{ports.free_port()}; api; }}"
    with World(tmp_path, stream=api, server=server) as made:
        made.exchange(b"hello")
        yield made
    vars(made).clear()  # pytest keeps it while it is seen what is left open


def test_a_udp_session_is_counted_wherever_it_is(world: World) -> None:
    """Looked at or not, its bytes are counted once, and it goes on in one worker."""
    assert world.cycle.stream is not None
    old = Seen(world.cycle.stream, world.old.loop)
    new = Seen(world.cycle.stream, world.new.loop)
    session = world.old.only_session()
    assert isinstance(session.content, counted.CountedUdp)
    live_counts.look(session)
    assert {"connections": 1, "active": 1, "sent": 5, "received": 5} == old.now()
    world.exchange(b"three")
    world.hand_over()
    old.now()
    moved = {"connections": 1, "active": 1, "sent": 10, "received": 10}
    assert (moved, [0, 1, 0]) == (new.now(), new.times())
    world.exchange(b"more")
    world.new.only_session().finalize(200)
    done = {"connections": 1, "sent": 14, "received": 14}
    assert (done, [0, 1, 1]) == (new.now(), new.times())


@pytest.mark.parametrize("world", ["proxy_responses 1;"], indirect=True)
def test_a_udp_session_that_is_over_at_once_is_counted(world: World) -> None:
    """With its choice, its time, and its datagrams."""
    assert world.cycle.stream is not None
    seen = Seen(world.cycle.stream, world.old.loop)
    world.exchange(b"hello")
    assert {"connections": 2, "sent": 10, "received": 10} == seen.now()
    assert ({"responses_complete": 2}, [0, 2, 2]) == (seen.ends(), seen.times())
    facts = seen.server_facts()
    at = facts.times.place(peer_facts.SERVER_DATAGRAMS)
    assert [0, 2] == facts.times.totals()[at : at + 2]
    assert {"responses_complete": 2} == seen.server_ends()


def test_a_udp_session_that_idled_says_so(world: World) -> None:
    """When its time is over; not when it had to rest."""
    assert world.cycle.stream is not None
    seen = Seen(world.cycle.stream, world.old.loop)
    session = world.old.only_session()
    content: Any = session.content
    content.on_timeout()
    assert ({"idle": 1}, {"idle": 1}) == (seen.ends(), seen.server_ends())
    assert {"connections": 1, "sent": 5, "received": 5} == seen.now()


@pytest.mark.parametrize("world", ["proxy_responses 1; proxy_requests 2;"], indirect=True)
def test_a_udp_server_that_owes_answers_has_failed(world: World) -> None:
    """The reason is its own, and the server's."""
    assert world.cycle.stream is not None
    seen = Seen(world.cycle.stream, world.old.loop)
    world.client.sendto(b"x", world.address)
    world.turn(lambda: world.old.only_session().content.requests == 2)  # type: ignore[union-attr]
    content: Any = world.old.only_session().content
    content.on_timeout()
    expected = {"connections": 1, "fails": 1, "sent": 6, "received": 5}
    assert (expected, {"upstream_timeout": 1}) == (seen.now(), seen.ends())
    assert {"upstream_timeout": 1} == seen.server_ends()


def test_a_udp_socket_that_is_refused_counts_against_its_peer(world: World) -> None:
    """Before any answer the session ends, as there is no other server."""
    assert world.cycle.stream is not None
    seen = Seen(world.cycle.stream, world.old.loop)
    world.old.only_session().finalize(200)
    world.backend.close()
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.sendto(b"x", world.address)
    world.turn(lambda: seen.now().get("fails"))
    other.close()
    assert {"connections": 2, "fails": 1, "sent": 6, "received": 5} == seen.now()
    assert {"connect_failed": 1, "responses_complete": 1} == seen.ends()


def test_a_udp_session_that_changes_its_server_is_counted_at_both() -> None:
    """Once as a session of the server block, with all its datagrams; no server has failed."""
    second = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    second.bind(("127.0.0.1", 0))
    second.setblocking(False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
        first.bind(("127.0.0.1", 0))
        lines = "".join(f"server 127.0.0.1:{one.getsockname()[1]};" for one in (first, second))
        port = ports.free_udp_port()
        served = UdpInProcess(
            f"stream {{ upstream u {{ zone u 64k; {lines} }} "
            f"server {{ listen 127.0.0.1:{port} udp; proxy_pass u; status_zone z; }} "
            f"server {{ listen 127.0.0.1:{ports.free_port()}; api; }} }}"
        )
        with served, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            conf: Any = served.built.conf
            rows = Rows()
            conf.facts.attach(rows)
            served.loop.cells = rows.cells
            seen = Seen(conf, served.loop)
            for data in (b"one", b"two"):
                client.sendto(data, served.address())
                served.loop.turn(0)
                (s,) = served.loop.sessions
                peer = s.content.peer
                peer.state.status |= UNHEALTHY
                s.content.look_at_server()
            client.sendto(b"three", served.address())
            served.loop.turn(0)
            s.finalize(200)
            expected = [
                {"connections": 1, "sent": 3}, {"connections": 1, "sent": 8}
            ]
            assert expected == [seen.now(n) for n in (0, 1)]
            facts = seen.server_facts()
            at = facts.times.place(peer_facts.SERVER_DATAGRAMS)
            assert [0, 0, 1] == facts.times.totals()[at : at + 3]
            settle(conf, served.loop)
            (cell,) = [n for cell, n in conf.facts.totals()
                       if cell.fact.name == "server_received" and cell.label == "z"]
            assert 11 == cell
    second.close()
