"""Fire and forget: spread as the balancer says, by few sockets, logged where logs are on."""

import socket
from collections import Counter

import pytest

from tests.support import owned
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until

CONF = """
error_log logs/error.log {level};
events {{}}
stream {{
    log_format f "$status $upstream_addr $datagrams_dropped";
    {log}
    upstream group {{ {servers} }}
    server {{
        listen 127.0.0.1:@main@ udp rcvbuf=1m; proxy_pass group;
        proxy_requests 1; proxy_responses 0;
    }}
}}
"""
LOGGED = "access_log logs/access.log f;"
COUNT = 210


def receiver() -> socket.socket:
    """Make a backend that only listens."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def drain(sock: socket.socket) -> list[tuple[bytes, int]]:
    """Return what came so far, and from which port."""
    found = []
    while True:
        try:
            data, peer = sock.recvfrom(4096)
        except BlockingIOError:
            return found
        found.append((data, peer[1]))


@pytest.mark.parametrize("log", ["", LOGGED], ids=["no-session", "session"])
def test_weights_are_kept_to_the_datagram(log: str, ngxstream: ProxyFactory) -> None:
    """Servers of weights 4, 2 and 1 get 120, 60 and 30 of 210 datagrams, each from one port."""
    backends = [receiver() for _ in range(3)]
    servers = " ".join(
        f"server 127.0.0.1:{sock.getsockname()[1]} weight={weight};"
        for sock, weight in zip(backends, (4, 2, 1), strict=True)
    )
    running = ngxstream(CONF.format(level="error", log=log, servers=servers))
    got: list[list[tuple[bytes, int]]] = [[], [], []]
    sent = []
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(7)]
    for n in range(COUNT):
        sent.append(owned.datagram(n % 7, n, 16 + n * 7 % 900))
        clients[n % 7].sendto(sent[-1], running.address("main"))

    def is_all() -> bool:
        for sock, own in zip(backends, got, strict=True):
            own.extend(drain(sock))
        return sum(map(len, got)) == COUNT

    wait_until(is_all, what="all datagrams")
    assert [120, 60, 30] == [len(own) for own in got]
    assert sorted(sent) == sorted(data for own in got for data, _ in own)
    assert [1, 1, 1] == [len({port for _, port in own}) for own in got]
    if log:
        lines = running.wait_log("^200 ", name="logs/access.log", count=COUNT)
        assert {120, 60, 30} == set(Counter(line.split()[1] for line in lines).values())
        assert all(line.endswith(" 0") for line in lines)
    for sock in (*clients, *backends):
        sock.close()


@pytest.mark.parametrize("log", ["", LOGGED], ids=["no-session", "session"])
def test_a_refusing_server_stops_nothing(log: str, ngxstream: ProxyFactory) -> None:
    """One of two servers is gone: the other gets its half, as nobody waits for refusals."""
    with receiver() as backend:
        servers = f"server 127.0.0.1:{backend.getsockname()[1]}; server 127.0.0.1:@gone@;"
        running = ngxstream(CONF.format(level="error", log=log, servers=servers))
        got: list[tuple[bytes, int]] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for n in range(100):
                client.sendto(owned.datagram(1, n), running.address("main"))

        def is_all() -> bool:
            got.extend(drain(backend))
            return len(got) == 50

        wait_until(is_all, what="every second datagram")
        found = {owned.owner_of(data) for data, _ in got}
        assert 50 == len(found)
        assert found <= {(1, n) for n in range(100)}
