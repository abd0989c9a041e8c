"""modules/proxy/udp_rated.py: pauses and proxy_timeout, and what may wait in a pause."""

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ngxstream.modules.proxy import udp_rated
from tests.support import owned, ports
from tests.support.udp_in_process import UdpInProcess

UDP = socket.SOCK_DGRAM


class Rated:
    """A listener with a rate before one server, a client, and a clock that is set by hand."""

    def __init__(self, stack: ExitStack, lines: str, first: str = "") -> None:
        """Args: first is a server that is tried before the one that is there"""
        self.server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        self.server.bind(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.served = stack.enter_context(
            UdpInProcess(
                f"stream {{ upstream group {{ {first} "
                f"server 127.0.0.1:{self.server.getsockname()[1]}; }} server {{ "
                f"listen 127.0.0.1:{ports.free_udp_port()} udp; proxy_pass group; {lines} }} }}"
            )
        )
        self.client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        self.client.connect(self.served.address())
        self.client.setblocking(False)
        self.served.listeners[0]._limit = 64

    @property
    def sessions(self) -> int:
        """How many sessions live."""
        return len(self.served.loop.sessions)

    def content(self) -> Any:
        """Return the content of the only session."""
        (s,) = self.served.loop.sessions
        return s.content

    def read(self) -> None:
        """Turn until nothing waits that may be read."""
        self.served.loop.turn(0)
        while select.select([self.served.loop.poller._epoll], [], [], 0)[0]:
            self.served.loop.turn(0)

    def at(self, ms: int) -> None:
        """Have it be so many ms later than the session began, for the timers alone."""
        loop = self.served.loop
        loop.now_ms = self.content().started_ms + ms
        loop.timers.expire(loop.now_ms, lambda callback: callback())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close everything at the end."""
    with ExitStack() as made:
        yield made


def test_an_upload_at_rest_does_not_run_into_proxy_timeout(stack: ExitStack) -> None:
    """A datagram that has to wait 5 s leaves after that, with a timeout of 2 s; then it counts."""
    rated = Rated(stack, "proxy_upload_rate 100; proxy_timeout 2s;")
    for n in range(2):
        rated.client.send(owned.datagram(1, n, 600))
        rated.read()
    for ms in range(0, 7000, 500):
        rated.at(ms)
        assert 1 == rated.sessions
        if rated.content().rates.upload_timer is None:
            break
    assert ms >= 5000
    assert [owned.datagram(1, n, 600) for n in range(2)] == [rated.server.recv(2048) for _ in "12"]
    rated.at(ms + 1900)
    assert 1 == rated.sessions
    rated.at(ms + 2100)
    assert 0 == rated.sessions


def test_a_download_at_rest_does_not_run_into_proxy_timeout(stack: ExitStack) -> None:
    """An answer that has to wait 5 s in the kernel is sent after that; then the timeout counts."""
    rated = Rated(stack, "proxy_download_rate 100; proxy_timeout 2s;")
    rated.client.send(b"?")
    rated.read()
    _, proxy = rated.server.recvfrom(100)
    for n in range(2):
        rated.server.sendto(owned.datagram(1, n, 600), proxy)
    rated.served.loop.turn(0)
    rated.served.loop.turn(0)
    assert owned.datagram(1, 0, 600) == rated.client.recv(2048)
    assert rated.content().rates.download_timer is not None
    rated.client.send(b"!")  # the other direction does not cut the rest short
    rated.served.loop.turn(0)
    content = rated.content()
    for ms in range(0, 8000, 500):
        rated.at(ms)
        assert 1 == rated.sessions
        if content.rates.download_timer is None:
            assert content.deadline == rated.served.loop.now_ms + content.timeout
            content.rates.on_event(0)  # as the loop would, at the time that is set
        if content.responses == 2:
            break
    assert ms >= 5000
    assert owned.datagram(1, 1, 600) == rated.client.recv(2048)
    rated.at(ms + 1900)
    assert 1 == rated.sessions
    rated.at(ms + 2100)
    assert 0 == rated.sessions


@pytest.mark.parametrize("size", [16, 4000, 4096])
def test_only_so_many_datagrams_and_bytes_wait_for_the_rate(stack: ExitStack, size: int) -> None:
    """DELAYED datagrams or DELAYED_BYTES wait, in order; the rest is dropped and counted."""
    rated = Rated(stack, "proxy_upload_rate 1;")
    count = 300
    for n in range(count):
        rated.client.send(owned.datagram(1, n, size))
        if n % 20 == 0:
            rated.read()
    rated.read()
    content = rated.content()
    most = min(udp_rated.DELAYED, -(-udp_rated.DELAYED_BYTES // size))
    assert most == len(content.rates.delayed)
    assert [owned.datagram(1, n, size) for n in range(1, most + 1)] == list(content.rates.delayed)
    assert (most * size, count - 1 - most) == (content.rates.delayed_bytes, content.dropped)
    content.rates.stop()


def test_what_waits_for_the_rate_goes_to_the_next_server(stack: ExitStack) -> None:
    """The server refuses while datagrams wait: they are sent to the next one, and not counted."""
    dead = f"server 127.0.0.1:{ports.free_udp_port()};"
    rated = Rated(stack, "proxy_upload_rate 100; proxy_timeout 2s;", dead)
    sent = [owned.datagram(1, n, 600) for n in range(3)]
    for data in sent:
        rated.client.send(data)
    rated.served.loop.turn(0)
    rated.served.loop.turn(0)
    content = rated.content()
    assert sent[0] == rated.server.recv(2048)
    assert (sent[1:], 0) == (list(content.rates.delayed), content.dropped)
    assert content.rates.upload_timer is not None
    content.rates.stop()


def test_a_coalesced_message_waits_for_the_rate_too(stack: ExitStack) -> None:
    """What the kernel has joined is as many datagrams as the client sent."""
    rated = Rated(stack, "proxy_upload_rate 1;")
    sent = [owned.datagram(1, n, 600) for n in range(3)]
    rated.client.send(sent[0])
    rated.read()
    content = rated.content()
    assert content.rates.take_burst(memoryview(sent[1] + sent[2]), 600) is None
    assert sent[1:] == list(content.rates.delayed)
    content.rates.stop()


def test_a_session_that_ends_while_it_sends_on_waits_no_more(stack: ExitStack) -> None:
    """The server is gone when the rate allows the next datagram: nothing is left to come back."""
    rated = Rated(stack, "proxy_upload_rate 100; proxy_timeout 2s;")
    for n in range(4):
        rated.client.send(owned.datagram(1, n, 600))
    rated.read()
    content = rated.content()
    rates = content.rates
    assert 3 == len(rates.delayed)
    rated.server.close()
    content.pc.send(b"x")  # refused: the next send is told
    for ms in range(0, 60_000, 500):
        rated.at(ms)
        if not rated.sessions:
            break
    assert 0 == rated.sessions
    assert rates.upload_timer is None
    assert content.rates is None  # no circle is left


def test_what_comes_after_the_last_one_begins_anew_while_that_one_waits(stack: ExitStack) -> None:
    """With proxy_requests 2, the second waits for the rate: the third is the next session's."""
    rated = Rated(stack, "proxy_upload_rate 1; proxy_requests 2;")
    sent = [owned.datagram(1, n, 600) for n in range(3)]
    for data in sent:
        rated.client.send(data)
        rated.read()
    assert 2 == rated.sessions
    assert [sent[0], sent[2]] == [rated.server.recv(2048) for _ in "12"]
    assert [0, 0] == [s.content.dropped for s in rated.served.loop.sessions]
