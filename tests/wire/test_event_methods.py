"""The relay under each event method, through the whole program; what a slow reader costs."""

import hashlib
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event import loop
from tests.support import backends as b
from tests.support import processes
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.proxies import ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

every_method = pytest.mark.parametrize("method", ["epoll", "poll", "select"])
MIB = 1 << 20
SMALL = "proxy_socket_rcvbuf 64k; "  # what the kernel holds is not what the proxy holds


def serving(method: str, servers: str) -> str:
    """Return a configuration of one worker that uses the method."""
    return (
        f"events {{ use {method}; }} stream {{ log_format f '$status $bytes_sent'; "
        f"access_log logs/access.log f; {servers} }}"
    )


def to(address: str, more: str = "") -> str:
    """Return a server that proxies to an address."""
    return f"server {{ listen 127.0.0.1:@in@; proxy_pass {address}; {more} }}"


class Flood:
    """A backend's script that sends so much, and tells how much the proxy has taken."""

    def __init__(self, size: int, end: str = "close") -> None:
        """Shape: end is what it does when told to stop, ``close`` or ``reset``."""
        self.data = random.Random(size).randbytes(size)
        self.sent = 0
        self.end = end
        self.stop = threading.Event()

    def __call__(self, conversation: b.Conversation) -> None:
        """Send everything, or until told to stop."""
        conversation.sock.settimeout(0.05)
        while self.sent < len(self.data) and not self.stop.is_set():
            if conversation.stopping.is_set():
                return
            try:
                self.sent += conversation.sock.send(self.data[self.sent : self.sent + 65536])
            except TimeoutError:
                continue
        if self.stop.is_set() and self.end == "reset":
            conversation.reset()

    def wait_stuck(self) -> None:
        """Wait until the proxy takes no more."""
        before = [-1] * 30

        def is_stuck() -> bool:
            before.append(self.sent)
            return self.sent > 0 and before[-30] == self.sent

        wait_until(is_stuck, what="the backend cannot send any more")


def memory(pid: int) -> int:
    """Return the bytes a process has to itself."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("Private_")]
    return sum(int(words[1]) for words in lines) * 1024


@every_method
def test_megabytes_pass_both_ways_at_once(method: str, ngxstream, backends) -> None:
    """What an echo sends back while the client still sends is what was sent."""
    program = ngxstream(serving(method, to(backends.tcp().text)))
    data = random.Random(method).randbytes(6 * MIB)
    with TcpClient(program.address("in")) as client:
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        answer = client.recv_exactly(len(data))
        sender.join(PATIENCE)
    assert hashlib.sha256(data).digest() == hashlib.sha256(answer).digest()


@every_method
def test_a_slow_reader_stops_the_reading_of_its_peer(method: str, ngxstream, backends) -> None:
    """Clients that do not read cost what the buffers hold, and get everything when they do."""
    floods = [Flood(12 * MIB) for _ in range(4)]
    queue = list(floods)
    backend = backends.tcp(lambda conversation: queue[conversation.number - 1](conversation))
    program = ngxstream(
        serving(method, SMALL + to(backend.text)).replace("@in@;", "@in@ sndbuf=64k;"),
        env={loop.POISON: ""},  # spoiling a buffer makes all of it resident
    )
    (worker,) = program.worker_pids()
    idle = memory(worker)
    clients = [TcpClient(program.address("in"), rcvbuf=65536) for _ in floods]
    for flood in floods:
        flood.wait_stuck()
    assert memory(worker) - idle < len(floods) * MIB
    for flood in floods:
        assert flood.sent < len(flood.data)
    for client in clients:
        digest = hashlib.sha256(client.recv_exactly(12 * MIB)).digest()
        assert digest == hashlib.sha256(floods[0].data).digest()
        client.close()
    wait_until(lambda: len(program.access_log()) == len(floods))
    assert [f"200 {12 * MIB}"] * len(floods) == program.access_log()


@every_method
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_backend_that_ends_while_its_client_does_not_read(
    method: str, end: str, ngxstream, backends
) -> None:
    """The worker sleeps until the client reads; it spins over nobody's end."""
    flood = Flood(24 * MIB, end)
    backend = backends.tcp(flood)
    program = ngxstream(
        serving(
            method,
            SMALL + to(backend.text) + " server { listen 127.0.0.1:@tick@; return tick; }",
        )
    )
    (worker,) = program.worker_pids()
    client = TcpClient(program.address("in"), rcvbuf=65536)
    flood.wait_stuck()
    flood.stop.set()
    before = processes.cpu_seconds(worker)
    for _ in range(50):
        assert b"tick" == tcp_exchange(program.address("tick"))
    beats = [-1.0] * 100

    def is_quiet() -> bool:
        beats.append(processes.cpu_seconds(worker))
        return len(beats) > 200

    wait_until(is_quiet)  # two hundred looks, a hundredth of a second apart
    assert processes.cpu_seconds(worker) - before < 0.8
    if end == "close":
        assert flood.data[: flood.sent] == client.recv_exactly(flood.sent)
        assert b"" == client.recv()
    client.close()
    wait_until(lambda: len(program.access_log()) == 51)


@every_method
def test_half_close_and_next_upstream(method: str, ngxstream, backends) -> None:
    """Half-closes are passed on, and refused connections go to the next server."""
    late = backends.tcp(b.half_close(b"answer"))
    with b.refusing_tcp() as (host, port):
        servers = f"upstream u {{ server {host}:{port}; server {late.text}; }} "
        program = ngxstream(serving(method, servers + to("u", "proxy_half_close on;")))
        for _ in range(4):
            assert b"answer" == tcp_exchange(program.address("in"), b"question", half_close=True)


@every_method
def test_datagrams_of_many_clients(method: str, ngxstream, backends) -> None:
    """Forty clients' datagrams come back to whom they belong, of any size."""
    echo = backends.udp()
    program = ngxstream(
        f"events {{ use {method}; }} stream {{ server {{ listen 127.0.0.1:@in@ udp; "
        f"proxy_pass {echo.text}; }} }}"
    )
    clients = [UdpClient(program.address("in")) for _ in range(40)]
    for size in (0, 1, 1400, 40000):
        for number, client in enumerate(clients):
            payload = bytes([number]) * size
            assert payload == client.exchange(payload)
    for client in clients:
        client.close()


@every_method
@pytest.mark.effect("use", "events")
def test_timeouts_end_sessions(method: str, ngxstream: ProxyFactory, backends: Any) -> None:
    """proxy_timeout is kept whoever waits for the kernel."""
    mute = backends.tcp(b.silent)
    program = ngxstream(serving(method, to(mute.text, "proxy_timeout 300ms;")))
    assert b"" == tcp_exchange(program.address("in"), b"anybody?")
    program.wait_log(r"\[info\] .*connection timed out \(110: Connection timed out\)")
