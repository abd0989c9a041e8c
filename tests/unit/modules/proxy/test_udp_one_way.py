"""modules/proxy/udp_one_way.py: drains without sessions, and one server's trouble in them."""

import contextlib
import socket
from contextlib import ExitStack

import pytest

from ngxstream.core.shm_facts import Rows
from ngxstream.modules.proxy import udp_one_way
from ngxstream.modules.proxy.udp_one_way import shared_sockets
from tests.support import owned, ports
from tests.support.in_process import settle
from tests.support.udp_in_process import UdpInProcess

UDP = socket.SOCK_DGRAM


def test_a_fault_on_the_way_to_one_server_keeps_nothing_from_another() -> None:
    """Of two servers' halves of a drain one raises: it is lost and counted, the other arrives."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.socket(socket.AF_INET, UDP)) for _ in range(2)]
        for server in servers:
            server.bind(("127.0.0.1", 0))
            server.setblocking(False)
        listed = " ".join(f"server 127.0.0.1:{server.getsockname()[1]};" for server in servers)
        served = stack.enter_context(
            UdpInProcess(
                f"stream {{ upstream group {{ {listed} }} server {{ "
                f"listen 127.0.0.1:{ports.free_udp_port()} udp; proxy_pass group; "
                "proxy_requests 1; proxy_responses 0; } }"
            )
        )
        listener = served.listeners[0]
        assert listener.forward is not None
        listener._limit = 64
        client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        client.connect(served.address())
        for n in range(2):
            client.send(owned.datagram(1, n))
        served.loop.turn(0)
        served.loop.turn(0)
        for key, sock in list(served.loop.get(shared_sockets).items()):
            if key[0] == servers[0].getsockname():
                stack.callback(sock.close)
                broken = stack.enter_context(contextlib.closing(Broken()))
                served.loop.get(shared_sockets)[key] = broken
        listener._limit = 64
        for n in range(2, 12):
            client.send(owned.datagram(1, n))
        served.loop.turn(0)
        served.loop.turn(0)
        got = []
        with contextlib.suppress(BlockingIOError):
            while True:
                got.append(owned.owner_of(servers[1].recv(4096)))
        assert 6 == len(got)
        assert got == sorted((1, n) for n in range(12) if (1, n) in got)
        assert 5 == listener.lost.own
        assert served.alerts()


@pytest.mark.parametrize(("zone", "counts"), [("", False), ("status_zone a;", True)])
def test_datagrams_are_counted_as_the_sessions_they_would_be(
    monkeypatch: pytest.MonkeyPatch, zone: str, counts: bool
) -> None:
    """Where the server is watched, by another class; one that is dropped is a failure."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        server.bind(("127.0.0.1", 0))
        served = stack.enter_context(
            UdpInProcess(
                f"stream {{ server {{ listen 127.0.0.1:{ports.free_udp_port()} udp; {zone} "
                f"proxy_pass 127.0.0.1:{server.getsockname()[1]}; "
                "proxy_requests 1; proxy_responses 0; } }"
            )
        )
        assert served.built.conf is not None
        facts, rows = served.built.conf.facts, Rows()
        facts.attach(rows)
        served.loop.cells = rows.cells
        forward = served.listeners[0].forward
        assert counts == isinstance(forward, udp_one_way.CountedForwarder)
        client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        client.connect(served.address())
        for n in range(3):
            client.send(bytes(n + 1))
        for _ in range(4):
            served.loop.turn(0)
        for sock in served.loop.get(shared_sockets).values():
            stack.callback(sock.close)
        if isinstance(forward, udp_one_way.CountedForwarder):
            monkeypatch.setattr(udp_one_way.Forwarder, "_send", lambda *_: 1)
            client.send(b"1234")
            served.loop.turn(0)
        settle(served.built.conf, served.loop)
        expected = {"connections_accepted": 4, "server_connections": 4, "server_sessions_2xx": 3,
                    "server_sessions_5xx": 1, "server_received": 10}
        found = {cell.fact.name: n for cell, n in facts.totals() if n}
        assert (expected if counts else {}) == found


class Broken:
    """A socket of which nothing can be expected."""

    def close(self) -> None:
        """Do nothing."""
