"""modules/proxy/udp_to_server.py: what waits for room, and what a refusal leaves of a drain."""

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event import poller
from ngxstream.event.poller import LEVEL
from ngxstream.event.recycle import SocketPool
from ngxstream.modules.proxy import udp_to_server
from tests.support import owned, ports
from tests.support.udp_in_process import UdpInProcess

UDP = socket.SOCK_DGRAM
KINDS = {
    "plain": "",
    "headed": "proxy_protocol v2; proxy_protocol_datagrams every;",
    "rated": "proxy_upload_rate 10m;",
}


def serve(servers: str, more: str = "", stream: str = "") -> UdpInProcess:
    """Serve one listener before an upstream of these servers."""
    return UdpInProcess(
        f"stream {{ {stream} upstream group {{ {servers} }} server {{ "
        f"listen 127.0.0.1:{ports.free_udp_port()} udp; proxy_pass group; {more} }} }}"
    )


def content_of(served: UdpInProcess) -> Any:
    """Return the content of the only session."""
    (s,) = served.loop.sessions
    return s.content


def turn_until_all_is_read(served: UdpInProcess) -> None:
    """Turn the loop as long as anything waits in the listening socket."""
    while select.select([served.listeners[0].sock], [], [], 0)[0]:
        served.loop.turn(0)


@pytest.fixture
def client() -> Iterator[socket.socket]:
    """Give a client's socket."""
    with socket.socket(socket.AF_INET, UDP) as sock:
        yield sock


def payload_of(data: bytes) -> bytes:
    """Return what is behind the PROXY protocol header, if there is one."""
    return data[data.index(owned.MAGIC) :]


def receive_all(sock: socket.socket) -> list[bytes]:
    """Return what waits in a socket."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(4096))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_only_so_many_datagrams_wait_for_room(
    kind: str, client: socket.socket, tmp_path: Path
) -> None:
    """A server takes ten datagrams and reads none: QUEUED wait, in order, the rest is dropped."""
    path = str(tmp_path / "server")
    with socket.socket(socket.AF_UNIX, UDP) as server, serve(
        f"server unix:{path};", KINDS[kind]
    ) as served:
        server.bind(path)
        server.setblocking(False)
        client.connect(served.address())
        count = 200
        for n in range(count):
            client.send(owned.datagram(1, n))
            if n % 7 == 0:
                turn_until_all_is_read(served)
        turn_until_all_is_read(served)
        proxy = content_of(served)
        assert udp_to_server.QUEUED == len(proxy.queue)
        got: list[bytes] = []
        while select.select([server], [], [], 0)[0]:
            got += receive_all(server)
            served.loop.turn(0)
        taken = len(got)
        assert count == taken + proxy.dropped
        assert [owned.datagram(1, n) for n in range(taken)] == [
            payload_of(data) for data in got
        ]
        assert proxy.queue is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", ["unequal", "equal"])
def test_a_refusal_within_a_drain_goes_on_with_the_next_server(
    kind: str, sizes: str, client: socket.socket
) -> None:
    """What a client sent in one drain, after what was refused, is the next server's."""
    with socket.socket(socket.AF_INET, UDP) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        dead, alive = ports.free_udp_port(), server.getsockname()[1]
        with serve(f"server 127.0.0.1:{dead}; server 127.0.0.1:{alive};", KINDS[kind]) as served:
            client.connect(served.address())
            served.listeners[0]._limit = 64
            size = 100 if sizes == "equal" else 0
            sent = [owned.datagram(1, n, size) for n in range(6)]
            for data in sent:
                client.send(data)
            served.loop.turn(0)
            served.loop.turn(0)
            got = [payload_of(data) for data in receive_all(server)]
            assert sent[0] == got[0]
            assert [data for data in sent if data in got] == got
            proxy = content_of(served)
            assert (6, 6) == (proxy.requests, len(got) + proxy.dropped)
        assert [] == served.alerts()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", ["unequal", "equal"])
def test_a_refusal_within_a_drain_ends_a_session_and_nothing_else(
    kind: str, sizes: str, client: socket.socket
) -> None:
    """The only server refuses the first of six: the session is over, the next one may begin."""
    with serve(f"server 127.0.0.1:{ports.free_udp_port()};", KINDS[kind]) as served:
        client.connect(served.address())
        served.listeners[0]._limit = 64
        for n in range(6):
            client.send(owned.datagram(1, n, 100 if sizes == "equal" else 0))
        served.loop.turn(0)
        served.loop.turn(0)
        assert [] == served.alerts()
        assert not served.loop.sessions
        assert not served.listeners[0].table
        client.setblocking(False)
        with contextlib.suppress(ConnectionRefusedError):
            client.send(b"again")
        served.loop.turn(0)
        assert [] == served.alerts()


def test_a_fault_while_datagrams_wait_for_room_ends_the_session(
    client: socket.socket, tmp_path: Path
) -> None:
    """What waits raises when there is room: one alert, and the session is over."""
    path = str(tmp_path / "server")
    with socket.socket(socket.AF_UNIX, UDP) as server, serve(f"server unix:{path};") as served:
        server.bind(path)
        server.setblocking(False)
        client.connect(served.address())
        for n in range(30):
            client.send(owned.datagram(1, n))
        turn_until_all_is_read(served)
        content_of(served).state = None
        receive_all(server)
        for _ in range(3):
            served.loop.turn(0)
        assert 1 == len(served.alerts())
        assert not served.loop.sessions


@pytest.mark.parametrize("kind", ["plain", "headed"])
@pytest.mark.parametrize("is_full", [False, True])
def test_what_waits_for_room_goes_to_the_next_server_when_one_vanishes(
    kind: str, is_full: bool, client: socket.socket, tmp_path: Path
) -> None:
    """It goes in order, behind what waits there already, and what is lost is counted."""
    paths = [str(tmp_path / name) for name in "ab"]
    servers = "".join(f"server unix:{path};" for path in paths)
    with (
        socket.socket(socket.AF_UNIX, UDP) as one,
        socket.socket(socket.AF_UNIX, UDP) as other,
        socket.socket(socket.AF_UNIX, UDP) as stranger,
        serve(servers, KINDS[kind]) as served,
    ):
        for sock, path in zip((one, other), paths, strict=True):
            sock.bind(path)
            sock.setblocking(False)
        stranger.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while is_full:
                stranger.sendto(b"of somebody else", paths[1])
        client.connect(served.address())
        count = 30
        for n in range(count):
            client.send(owned.datagram(1, n))
        turn_until_all_is_read(served)
        proxy = content_of(served)
        waiting = len(proxy.queue)
        one.close()
        got: list[bytes] = []
        for _ in range(10):
            served.loop.turn(0)
            if select.select([other], [], [], 0)[0]:
                got += [data for data in receive_all(other) if data != b"of somebody else"]
        assert all(data.count(b"QUIT") == (kind == "headed") for data in got)
        found = [payload_of(data) for data in got]
        sent = [owned.datagram(1, n) for n in range(count)]
        assert [sent[0], *sent[count - waiting + 1 :]] == found
        assert count == len(found) + proxy.dropped
        assert proxy.queue is None
    assert [] == served.alerts()


def test_a_rested_socket_that_draws_its_server_s_port_is_not_used(client: socket.socket) -> None:
    """The server has gone, and the port is the socket's own: the next server is tried."""
    dead = ports.free_udp_port()
    with socket.socket(socket.AF_INET, UDP) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        alive = server.getsockname()[1]
        with serve(f"server 127.0.0.1:{dead}; server 127.0.0.1:{alive};") as served:
            rested = socket.SocketType(socket.AF_INET, UDP)
            rested.setblocking(False)
            rested.bind(("127.0.0.1", dead))
            served.loop.register(rested.fileno(), lambda mask: None, LEVEL)
            assert served.loop.get(SocketPool).give(rested, rested.fileno(), socket.AF_INET)
            for _ in range(2):
                served.loop.turn(0)  # it rests
            client.connect(served.address())
            client.setblocking(False)
            for n in range(3):
                client.send(owned.datagram(1, n))
            turn_until_all_is_read(served)
            served.loop.turn(0)
            assert [owned.datagram(1, n) for n in range(3)] == receive_all(server)
            assert [] == receive_all(client)
            with socket.socket(socket.AF_INET, UDP) as back:
                back.bind(("127.0.0.1", dead))  # the server may come back
        assert [] == served.alerts()


def test_a_datagram_that_is_too_large_is_dropped_alone(client: socket.socket) -> None:
    """It is nobody's fault: it is counted once, and the session goes on."""
    with socket.socket(socket.AF_INET, UDP) as server:
        server.bind(("127.0.0.1", 0))
        with serve(f"server 127.0.0.1:{server.getsockname()[1]};") as served:
            client.connect(served.address())
            client.send(b"?")
            turn_until_all_is_read(served)
            proxy = content_of(served)
            proxy.send(memoryview(bytes(65_530)))
            assert (1, 0, False) == (proxy.dropped, proxy.s.status, proxy.failed)


def test_a_server_that_has_answered_and_refuses_then_ends_the_session(
    client: socket.socket,
) -> None:
    """Another server would not know of what went before."""
    dead = ports.free_udp_port()
    with socket.socket(socket.AF_INET, UDP) as server:
        server.bind(("127.0.0.1", 0))
        alive = server.getsockname()[1]
        with serve(f"server 127.0.0.1:{alive}; server 127.0.0.1:{dead};") as served:
            client.connect(served.address())
            client.send(b"?")
            turn_until_all_is_read(served)
            proxy = content_of(served)
            proxy.responses = 1
            proxy.send_failed(ConnectionRefusedError(111, "refused"))
            assert (200, True) == (proxy.s.status, proxy.failed)
            assert not served.loop.sessions


@pytest.mark.parametrize(
    ("mask", "status", "expected"),
    [(poller.OUT, 0, []), (poller.IN, 0, [poller.IN]), (poller.IN, 200, [])],
)
def test_while_datagrams_wait_answers_are_read_when_there_are_any(
    mask: int, status: int, expected: list[int]
) -> None:
    """An event of room alone reads nothing, and who has ended reads nothing more."""
    asked: list[int] = []
    proxy: Any = SimpleNamespace(flush=lambda: False, s=SimpleNamespace(status=status))
    udp_to_server._Room(proxy, asked.append).on_event(mask)
    assert expected == asked


@pytest.fixture
def servers() -> Iterator[list[socket.socket]]:
    """Give three servers."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_INET, UDP)) for _ in range(3)]
        for sock in made:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        yield made


def group_of(servers: list[socket.socket]) -> str:
    """Write the lines of an upstream of these servers."""
    return " ".join(f"server 127.0.0.1:{sock.getsockname()[1]};" for sock in servers)


def refuse(proxy: Any, server: socket.socket) -> None:
    """Have a session's server go away, and the session hear of it."""
    server.close()
    proxy.pc.send(b"?")
    assert select.select([proxy.pc], [], [], 20)[0]
    proxy.on_event(0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_lost_is_counted_once_however_many_servers_refuse(
    kind: str, client: socket.socket, servers: list[socket.socket]
) -> None:
    """Four of five datagrams are lost with the first server, and not again with the second."""
    with serve(group_of(servers), KINDS[kind]) as served:
        client.connect(served.address())
        for n in range(5):
            client.send(owned.datagram(1, n))
            turn_until_all_is_read(served)
        proxy = content_of(served)
        for server in servers[:2]:
            refuse(proxy, server)
            assert 4 == proxy.dropped
        assert [owned.datagram(1, 0)] == [payload_of(one) for one in receive_all(servers[2])]


def test_the_next_server_of_a_session_that_is_full_takes_nothing_from_the_next_session(
    client: socket.socket, servers: list[socket.socket]
) -> None:
    """Two datagrams are all that it takes: the client's further ones go on to its later session."""
    with serve(group_of(servers), "proxy_requests 2; proxy_responses 1;") as served:
        client.connect(served.address())
        for n in range(3):
            client.send(owned.datagram(1, n))
            turn_until_all_is_read(served)
        first, second = sorted(served.loop.sessions, key=lambda s: s.c.number)
        refuse(first.content, servers[0])
        client.send(owned.datagram(1, 3))
        turn_until_all_is_read(served)
        assert {first, second} == served.loop.sessions
        assert [2, 2] == [first.content.requests, second.content.requests]


def test_answers_rest_while_datagrams_wait_for_room(client: socket.socket, tmp_path: Path) -> None:
    """Neither direction's pause ends the other one's, whichever begins first."""
    path = str(tmp_path / "server")
    with socket.socket(socket.AF_UNIX, UDP) as server, serve(
        f"server unix:{path};", "proxy_download_rate 10;"
    ) as served:
        server.bind(path)
        server.setblocking(False)
        client.connect(served.address())
        client.send(b"?")
        turn_until_all_is_read(served)
        proxy = content_of(served)
        watched = served.loop.poller._masks  # type: ignore[attr-defined]
        proxy.state.bytes_received += 10_000
        proxy.rates.on_event(0)
        assert proxy.pc_fd not in watched
        for n in range(40):
            client.send(owned.datagram(1, n))
            turn_until_all_is_read(served)
        assert proxy.queue
        assert poller.OUT == watched[proxy.pc_fd]
        proxy.rates.download_timer.cancel()
        proxy.rates._resume()
        assert poller.IN | poller.OUT == watched[proxy.pc_fd]
        proxy.rates.on_event(0)
        assert poller.OUT == watched[proxy.pc_fd]
        got = receive_all(server)
        while proxy.queue:
            served.loop.turn(0)
            got += receive_all(server)
        assert [b"?", *(owned.datagram(1, n) for n in range(40))] == got
        assert proxy.pc_fd not in watched
        proxy.rates.download_timer.cancel()
        proxy.rates._resume()
        assert poller.LEVEL == watched[proxy.pc_fd]
        assert [] == served.alerts()


@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize("sizes", [(50, 50, 50), (50, 50, 20), (20, 50, 50), (20, 50, 30)])
def test_each_datagram_of_a_drain_or_burst_is_sent_and_counted_once(
    gso: bool, sizes: tuple[int, ...], client: socket.socket, servers: list[socket.socket]
) -> None:
    """Whether or not the path takes several in one message."""
    with serve(group_of(servers[:1])) as served:
        client.connect(served.address())
        client.send(b"?")
        turn_until_all_is_read(served)
        proxy = content_of(served)
        proxy.gso = gso
        sent = [owned.datagram(1, n, size) for n, size in enumerate(sizes)]
        proxy.take([memoryview(data) for data in sent])
        burst = [owned.datagram(1, n, 50) for n in range(5)]
        proxy.take_burst(memoryview(b"".join(burst)), 50)
        assert [b"?", *sent, *burst] == receive_all(servers[0])
        assert 1 + sum(sizes) + 250 == proxy.state.bytes_sent
        assert (9, served.loop.sessions) == (proxy.requests, {proxy.s})
