"""The sessions of all workers count against one limit, through kills and reloads, to the last one.

`max_conns` of a server in a zone makes the shared count visible: so many sessions and no more.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import backends as kit
from tests.support.backends import BackendFactory
from tests.support.clients import TcpClient
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

TCP = """
worker_processes 4;
events {{ worker_connections 4096; }}
stream {{
    upstream group {{ zone group 64k; server {backend} max_conns={most}; {more} }}
    server {{ listen 127.0.0.1:@front@ reuseport; proxy_pass group; }}
}}
"""


def stay(conversation: kit.Conversation) -> None:
    """Say hello and stay until the client leaves."""
    conversation.send(b"!")
    conversation.recv_to_eof()


class Clients:
    """Clients that connected and were served."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.held: list[TcpClient] = []

    def fill(self) -> int:
        """Connect until one is turned away; return how many were served."""
        served = 0
        while True:
            client = TcpClient(self.proxy.address("front"))
            if client.recv(1) != b"!":
                client.close()
                return served
            self.held.append(client)
            served += 1

    def drop_dead(self) -> int:
        """Close the clients whose worker died; return how many there were."""
        dead = []
        for client in self.held:
            client.sock.settimeout(0)
            try:
                if not client.recv(1):
                    dead.append(client)
            except BlockingIOError:
                pass
            except ConnectionResetError:
                dead.append(client)
        for client in dead:
            client.close()
            self.held.remove(client)
        return len(dead)

    def leave(self, count: int) -> None:
        """Close so many clients."""
        for client in self.held[:count]:
            client.close()
        del self.held[:count]


def said_goodbye(proxy: Proxy) -> int:
    """Return how many killed workers the master has seen go."""
    return sum("exited on signal 9" in line for line in proxy.error_log())


@pytest.mark.effect("zone")
def test_tcp_sessions_of_four_workers_a_kill_and_a_reload(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """The limit holds over all workers, a killed one's share is free, a reload changes nothing."""
    backend = backends.tcp(stay)
    text = TCP.format(backend=backend.text, most=40, more="")
    proxy = ngxstream(text, expected=("exited on signal 9",))
    clients = Clients(proxy)
    assert 40 == clients.fill()
    victim = proxy.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    proxy.wait_log("exited on signal 9")
    wait_until(lambda: len(proxy.worker_pids()) == 4, what="a new worker")
    lost = clients.drop_dead()
    assert 40 - lost == len(clients.held)
    assert lost == clients.fill()
    proxy.reload(TCP.format(backend=backend.text, most=40, more="server 127.0.0.1:1 down;"))
    assert 0 == clients.fill()  # old workers still have all of them
    clients.leave(15)
    wait_until(lambda: clients.fill() or len(clients.held) == 40, what="room again")
    while len(clients.held) < 40:
        clients.fill()
    assert 0 == clients.fill()
    clients.leave(40)


UDP = """
worker_processes 4;
worker_rlimit_nofile 20000;
error_log logs/error.log error;
events {{ worker_connections 12000; }}
stream {{
    upstream group {{ zone group 64k; server 127.0.0.1:{port} max_conns={most}; }}
    server {{ listen 127.0.0.1:@front@ udp reuseport; proxy_pass group; proxy_timeout {timeout}; }}
}}
"""

# A backend of its own process: it counts datagrams by their 4-byte text and says how many it saw.
BACKEND = """
import socket, struct, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
sock.bind(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
seen = set()
while True:
    data, sender = sock.recvfrom(64)
    if data == b"how many":
        sock.sendto(struct.pack("!I", len(seen)), sender)
    else:
        seen.add(data)
"""


class CountingBackend:
    """The other process, and how to ask it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BACKEND], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(("127.0.0.1", self.port))
        self.sock.settimeout(20)

    def seen(self) -> int:
        """Return how many different datagrams came."""
        self.sock.send(b"how many")
        number: int = struct.unpack("!I", self.sock.recv(4))[0]
        return number

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.sock.close()


@pytest.fixture
def counting() -> Iterator[CountingBackend]:
    """Give a backend in a process of its own."""
    backend = CountingBackend()
    yield backend
    backend.close()


class Sender:
    """Begins UDP sessions: each datagram comes from an address and port of its own."""

    def __init__(self, proxy: Proxy, backend: CountingBackend) -> None:
        self.proxy = proxy
        self.backend = backend
        self.number = 0
        self.front = proxy.address("front")

    def begin(self, count: int) -> int:
        """Begin so many sessions, a batch at a time; return how many reached the backend."""
        before = self.backend.seen()
        refused = self.refused()
        for start in range(0, count, 100):
            batch = min(100, count - start)
            for _ in range(batch):
                self.number += 1
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                # ports of an address are used again sooner than a session ends
                sock.bind((f"127.{self.number % 200 + 1}.{self.number // 200 % 250}.7", 0))
                sock.sendto(struct.pack("!I", self.number), self.front)
                sock.close()
            settled = before + refused + start + batch
            self.wait_settled(settled)
        return self.backend.seen() - before

    def wait_settled(self, count: int) -> None:
        """Wait until so many sessions were served or refused."""
        wait_until(
            lambda: self.backend.seen() + self.refused() >= count, what="sessions to settle"
        )

    def refused(self) -> int:
        """Return how many sessions found no live upstream."""
        path = self.proxy.prefix / "logs" / "error.log"
        return path.read_bytes().count(b"no live upstreams")


@pytest.mark.effect("zone")
@pytest.mark.slow
def test_udp_sessions_of_four_workers_count_exactly(
    ngxstream: ProxyFactory, counting: CountingBackend
) -> None:
    """10 000 UDP sessions, a killed worker, a reload: the count is exact and returns to zero."""
    most = 10_000
    text = UDP.format(port=counting.port, most=most, timeout="1h")
    proxy = ngxstream(text, expected=("exited on signal 9", "died at once"))
    sender = Sender(proxy, counting)
    assert most == sender.begin(most + 50)
    os.kill(proxy.worker_pids()[0], signal.SIGKILL)
    proxy.wait_log("exited on signal 9")
    wait_until(lambda: len(proxy.worker_pids()) == 4, what="a new worker")
    lost = sender.begin(most // 2)
    assert 0 < lost < most // 2
    assert 0 == sender.begin(50)
    # the other workers leave, and their sessions with them
    for pid in proxy.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: said_goodbye(proxy) == 5, what="the end of all of them")
    proxy.reload(UDP.format(port=counting.port, most=most, timeout="2s"))
    wait_until(lambda: len(proxy.all_worker_pids()) == 4, what="the new workers alone")
    assert most == sender.begin(most)
