"""Listeners that count their drains."""

import socket
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.event.loop import Loop
from ngxstream.event.udp import UdpListener
from ngxstream.event.udp_counted import Drains, counted
from ngxstream.event.udp_proxied import ProxiedUdpListener
from tests.support.engine import Listener, engine

UDP = socket.SOCK_DGRAM


class Sink:
    """A session that takes everything."""

    def __init__(self, c: Any) -> None:
        self.c = c
        self.count = 1

    def take(self, views: list[memoryview]) -> None:
        """Count datagrams."""
        self.count += len(views)


def listening(loop: Loop, host: str, sinks: list[Sink]) -> tuple[Listener, UdpListener]:
    """Have a listener that counts listen in the place of a plain one."""

    def begin(c: Any, loop: Loop, first: bytes, header: Any) -> None:
        sinks.append(Sink(c))
        c.table.enlist(c, sinks[-1])

    plain = Listener(loop, begin, UDP, host)
    plain.listener.close()
    return plain, counted(UdpListener)(loop, plain, plain.sock, begin)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 150), max_size=8), st.sampled_from(("127.0.0.1", "0.0.0.0")))
def test_every_datagram_is_counted_once(bursts: list[int], host: str) -> None:
    """However many wait; drains are one for each turn that found some."""
    sinks: list[Sink] = []
    with engine() as loop, socket.socket(type=UDP) as client:
        made, _ = listening(loop, host, sinks)
        made.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.connect(("127.0.0.1", made.address[1]))
        drains = 0
        for burst in bursts:
            for _ in range(burst):
                client.send(b"x")
            before = sum(sink.count for sink in sinks)
            while sum(sink.count for sink in sinks) < before + burst:
                loop.turn(0)
                drains += 1
        count = loop.get(Drains)
        datagrams = sum(sink.count for sink in sinks)
        assert datagrams == count.datagrams
        assert drains == count.drains
        assert (drains, datagrams) == count.take()
        assert (0, 0) == count.take()
        made.sock.close()


def test_a_listener_behind_proxies_counts_too() -> None:
    """Also what it refuses."""
    with engine() as loop, socket.socket(type=UDP) as client:
        plain = Listener(loop, lambda *_: None, UDP)
        plain.listener.close()
        plain.options = SimpleNamespace(  # type: ignore[assignment]
            wildcard=False, text="here", proxy_protocol_first=False
        )
        lost = counted(ProxiedUdpListener)(
            loop, plain, plain.sock, lambda *_: None, believes=lambda *_: True
        ).lost
        client.connect(plain.address)
        for _ in range(5):
            client.send(b"no header")
        while lost.total < 5:
            loop.turn(0)
        assert 5 == loop.get(Drains).datagrams
        plain.sock.close()
