"""modules/proxy/udp.py: the usual way of a first datagram is the general one, in short."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from typing import Any, Self

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ngxstream.core import log
from ngxstream.event import poller
from ngxstream.event.recycle import SocketPool
from tests.support import ports
from tests.support.udp_in_process import UdpInProcess

UDP = socket.SOCK_DGRAM
GENERAL = "proxy_next_upstream_tries 9;"  # more than there are servers: it only is not usual
CLIENTS = 3


class World:
    """A group of two servers that have just answered, its clients, and sockets that rest."""

    def __init__(self, lines: str, *, parameters: str = "", method: str = "",
                 connections: int = 4096) -> None:
        self.servers = [udp_socket() for _ in range(2)]
        self.ports = [sock.getsockname()[1] for sock in self.servers]
        group = "".join(f"server 127.0.0.1:{port} {parameters};" for port in self.ports)
        listen, other = ports.free_udp_port(), ports.free_udp_port()
        self.served = UdpInProcess(
            f"stream {{ upstream u {{ {method} {group} }} "
            f"server {{ listen 127.0.0.1:{listen} udp; proxy_pass u; {lines} }} "
            f"server {{ listen 127.0.0.1:{other} udp; proxy_pass u; proxy_timeout 1h; }} }}",
            level=log.INFO, connections=connections,
        )
        self.loop = self.served.loop
        self.clients = [udp_socket() for _ in range(CLIENTS)]
        for client in self.clients:
            client.connect(self.served.address())
        self.names = {listen: "L", other: "other"}
        self.names |= {port: f"S{n}" for n, port in enumerate(self.ports)}
        self.asked: list[tuple[bytes, int, Any]] = []  # what a server got: datagram, server, source
        self.seen: list[tuple[str, bytes]] = []
        self.number = 0
        self.warm()

    def warm(self) -> None:
        """Have each server answer, whatever the first listener wants, and two sockets rest."""
        for _ in (0, 1):
            with udp_socket() as client:
                client.sendto(b"warm", self.served.address(1))
                self.turn()
            self.answer(0)
        while self.loop.sessions:
            self.end()
        for _ in range(3):
            self.turn()
        assert 2 == len(self.loop.get(SocketPool))
        self.seen.clear()

    def turn(self) -> None:
        """Turn the loop until nothing comes any more, and note what everybody received."""
        for _ in range(3):
            self.loop.turn(wait_ms=0)
        for n, server in enumerate(self.servers):
            with contextlib.suppress(OSError):
                while True:
                    data, source = server.recvfrom(100)
                    self.asked.append((data, n, source))
                    self.seen.append((f"S{n}", data))
        for n, client in enumerate(self.clients):
            with contextlib.suppress(BlockingIOError):
                while True:
                    data = client.recv(100)
                    assert data.startswith(b"%d:" % n), "an answer to another client"
                    self.seen.append((f"C{n}", data))

    def ask(self, client: int, count: int) -> None:
        """Have a client send some datagrams."""
        for _ in range(count):
            self.number += 1
            self.clients[client].send(b"%d:%d" % (client, self.number))
        self.turn()

    def answer(self, n: int, *, again: bool = False) -> None:
        """Have a server answer one datagram, or do so without forgetting it."""
        if self.asked:
            n %= len(self.asked)
            data, server, source = self.asked[n] if again else self.asked.pop(n)
            with contextlib.suppress(OSError):
                self.servers[server].sendto(data + b"!", source)
            self.turn()

    def close_server(self, n: int) -> None:
        """Have a server go."""
        self.servers[n].close()
        self.asked = [one for one in self.asked if one[1] != n]

    def open_server(self, n: int) -> None:
        """Have it come back."""
        self.servers[n].close()
        self.servers[n] = udp_socket(self.ports[n])

    def end(self) -> None:
        """End the oldest session."""
        for s in sorted(self.loop.sessions, key=lambda s: s.c.number)[:1]:
            s.finalize(200)
        self.turn()

    def outcome(self) -> list[Any]:
        """Return all that anybody can tell of it."""
        sessions = sorted(self.loop.sessions, key=lambda s: s.c.number)
        tier: Any = self.served.built.conf.upstreams[0].balancer.tier  # type: ignore[union-attr]
        lines = [
            (level, re.sub(r"127\.0\.0\.1:(\d+)", lambda m: self.names.get(int(m[1]), "-"), text))
            for level, text in self.served.target.lines
        ]
        return [
            self.seen, lines, self.loop.free_connections, self.loop.live,
            [(peer.state.conns, peer.state.fails, peer.state.effective_weight, peer.state.waiting)
             for peer in tier.peers],
            [(s.c.number, s.action, s.content.peer.name == tier.peers[0].name,
              s.content.counts(), s.content.datagrams(), s.content.dropped, s.c.placed,
              bool(s.content.tick), s.content.deadline > 0, s.content.family, s.content.connected,
              [(one.peer_name == tier.peers[0].name, one.bytes_sent, one.bytes_received,
                one.connect_ms >= 0, one.first_byte_ms >= 0) for one in s.states])
             for s in sessions],
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.served.close()
        for sock in (*self.servers, *self.clients):
            sock.close()


def udp_socket(port: int = 0) -> socket.socket:
    """Return one that does not wait; at a port outside of those that the kernel draws."""
    sock = socket.socket(socket.AF_INET, UDP)
    sock.bind(("127.0.0.1", port or ports.free_udp_port()))
    sock.setblocking(False)
    return sock


STEP = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, CLIENTS - 1), st.sampled_from([1, 1, 1, 2, 3])),
    st.tuples(st.just("answer"), st.integers(0, 9)),
    st.tuples(st.just("answer twice"), st.integers(0, 9)),
    st.tuples(st.sampled_from(["close_server", "open_server"]), st.integers(0, 1)),
    st.tuples(st.just("end")),
)


def play(world: World, steps: list[tuple[Any, ...]]) -> list[Any]:
    """Do it; return the outcome."""
    for what, *args in steps:
        if what == "answer twice":
            world.answer(*args, again=True)
        else:
            getattr(world, what)(*args)
        world.turn()
    return world.outcome()


@given(
    lines=st.sampled_from([
        "", "proxy_responses 0;", "proxy_responses 1;", "proxy_requests 1;", "proxy_requests 2;",
        "proxy_requests 1; proxy_responses 1;", "proxy_requests 2; proxy_responses 1;",
        "proxy_responses 1; proxy_next_upstream off;",
    ]),
    parameters=st.sampled_from(["", "max_fails=0", "max_conns=1"]),
    connections=st.sampled_from([4096, 5, 4]),
    steps=st.lists(STEP, max_size=14),
)
@example("proxy_requests 1;", "", 4096, [("ask", 0, 1), ("ask", 0, 1), ("answer", 0)])
@example("proxy_responses 0;", "", 4096, [("ask", 0, 1), ("ask", 0, 1)])
@example("", "", 5, [("ask", 0, 1), ("ask", 1, 1), ("ask", 2, 1)])
@example("", "", 4096, [("close_server", 0), ("close_server", 1), ("ask", 0, 2)])
@example("", "", 4096, [("close_server", 0), ("ask", 0, 2), ("ask", 0, 1), ("answer", 1)])
@example("", "max_conns=1", 4096, [("ask", 0, 1), ("ask", 1, 1), ("ask", 2, 1)])
@settings(max_examples=40)
def test_the_usual_way_is_the_general_one(
    lines: str, parameters: str, connections: int, steps: list[tuple[Any, ...]]
) -> None:
    """Whatever the servers do: who gets what, what is counted, and what the log says."""
    found = []
    for way in ("", GENERAL):
        with World(lines + way, parameters=parameters, connections=connections) as world:
            assert bool(way) != world.served.built.conf.servers[0].proxy.is_usual  # type: ignore[union-attr]
            found.append(play(world, steps))
    assert found[1] == found[0]


@pytest.mark.parametrize("way", ["", GENERAL])
def test_a_method_that_goes_by_the_connect_hears_of_it(way: str) -> None:
    """No session waits for it any more."""
    with World(way, method="least_time connect inflight;") as world:
        world.ask(0, 1)
        assert [0, 1] == sorted(entry[0] for entry in world.outcome()[4])
        assert [0, 0] == [entry[3] for entry in world.outcome()[4]]


class Faulty(socket.SocketType):
    """A socket whose calls fail as they are told to."""

    connects: list[int]  # errno of each connect(), 0 for none
    sends: list[int]

    def connect_ex(self, address: Any, /) -> int:
        """Fail, or connect."""
        return (self.connects and self.connects.pop(0)) or super().connect_ex(address)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Fail, or send."""
        code = self.sends and self.sends.pop(0)
        if code:
            raise OSError(code, os.strerror(code))
        return super().send(data, flags)


@pytest.fixture
def rested() -> Any:
    """Give a world and a way to have a socket rest there that fails as it is told to."""
    with World("") as world:
        pool = world.loop.get(SocketPool)

        def put(*, connects: list[int], sends: list[int]) -> Faulty:
            sock = Faulty(socket.AF_INET, UDP)
            sock.setblocking(False)
            sock.connects, sock.sends = connects, sends
            world.loop.register(sock.fileno(), lambda mask: None, poller.LEVEL)
            assert pool.give(sock, sock.fileno(), socket.AF_INET)
            for _ in range(2):
                world.turn()
            return sock

        while pool.drop():
            world.turn()
        world.seen.clear()
        yield world, put


def test_a_rested_socket_that_cannot_be_connected_is_closed(rested: Any) -> None:
    """The session has another one, which counts; no server is blamed."""
    world, put = rested
    socks = [put(connects=[errno.ENETUNREACH], sends=[]) for _ in range(2)]
    before = world.loop.free_connections
    world.ask(0, 2)
    assert [("S0", b"0:1"), ("S0", b"0:2")] == world.seen
    assert [-1, -1] == [sock.fileno() for sock in socks]
    assert before - 2 == world.loop.free_connections
    assert [(1, 0), (0, 0)] == [entry[:2] for entry in world.outcome()[4]]
    world.end()
    assert before == world.loop.free_connections


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.EPERM, errno.ECONNREFUSED])
def test_a_first_datagram_that_failed_once_is_sent_once(rested: Any, code: int) -> None:
    """By the same socket; those that follow it, too."""
    world, put = rested
    sock = put(connects=[], sends=[code])
    world.ask(0, 1)
    assert [("S0", b"0:1")] == world.seen
    (s,) = world.loop.sessions
    assert (s.content.pc, 3, 1) == (sock, s.content.counts()[3], len(s.states))
    world.ask(0, 1)
    assert [("S0", b"0:1"), ("S0", b"0:2")] == world.seen


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.EPERM, errno.ECONNREFUSED])
def test_a_first_datagram_that_cannot_be_sent_goes_to_the_next_server(
    rested: Any, code: int
) -> None:
    """Once, with all that follow it; the socket neither goes on nor rests."""
    world, put = rested
    sock = put(connects=[], sends=[code, code])
    world.ask(0, 1)
    world.ask(0, 1)
    assert [("S1", b"0:1"), ("S1", b"0:2")] == world.seen
    assert (-1, 0) == (sock.fileno(), len(world.loop.get(SocketPool)))
    assert [(0, 1), (1, 0)] == [entry[:2] for entry in world.outcome()[4]]
    world.answer(1)
    assert ("C0", b"0:2!") == world.seen[-1]


def test_a_rested_socket_needs_a_connection_too(rested: Any) -> None:
    """Where worker_connections has none left the session ends, and the socket rests on."""
    world, put = rested
    put(connects=[], sends=[])
    world.loop.free_connections = 1  # the client's own
    world.ask(0, 1)
    (line,) = [text for level, text in world.served.target.lines if level == "alert"]
    assert "worker_connections are not enough while connecting to upstream" in line
    assert ([], 1, 1) == (world.seen, world.loop.free_connections, len(world.loop.get(SocketPool)))


def test_a_session_that_no_server_takes_is_over(rested: Any) -> None:
    """It is listed no more: the client's next datagram begins another one."""
    world, put = rested
    for _ in range(2):
        put(connects=[], sends=[errno.ECONNREFUSED] * 2)
    world.ask(0, 1)
    assert ([], set(), 0) == (world.seen, world.loop.sessions, world.loop.live)
    assert ({}, []) == (world.served.listeners[0].table, world.served.alerts())


def test_a_first_datagram_without_room_waits_for_it(rested: Any) -> None:
    """The socket does not rest while it does; the session goes on as any."""
    world, put = rested
    put(connects=[], sends=[errno.EAGAIN] * 3)
    world.ask(0, 1)
    world.ask(0, 1)
    world.turn()
    assert [("S0", b"0:1"), ("S0", b"0:2")] == world.seen
    world.answer(0)
    assert ("C0", b"0:1!") == world.seen[-1]
