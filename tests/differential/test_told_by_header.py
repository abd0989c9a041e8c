"""The PROXY protocol between hosts: a second program tells each client what it was told of it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import hosts
from tests.support.clients import TcpClient, UdpClient
from tests.support.netns import Namespaces
from tests.support.proxies import Ngxstream, Proxy, ProxyFactory

pytestmark = pytest.mark.root

PORT = 5300
HEAD = "worker_processes 2; events { worker_connections 1024; } stream { "


def teller(net: Namespaces, family: int, folder: Path) -> Proxy:
    """Start what stands behind: it answers with the client's address and port, as it was told."""
    back, inner = hosts.bracketed(hosts.BACKEND[family]), hosts.INNER[family]
    lines = "".join(
        f"server {{ listen {back}:{PORT}{udp} proxy_protocol; set_real_ip_from {inner}; "
        'return "$remote_addr $remote_port"; }'
        for udp in ("", " udp")
    )
    return Ngxstream(f"{HEAD} {lines} }}", folder, netns=net.name("backend"))


@pytest.mark.parametrize("family", [4, 6])
def test_a_thousand_datagrams(
    family: int, namespaces: Namespaces, ngxstream: ProxyFactory, tmp_path: Path
) -> None:
    """1000 datagrams of 20 clients are told by header; nginx knows no such thing on UDP."""
    hosts.three(namespaces)
    front, back = hosts.bracketed(hosts.FRONT[family]), hosts.bracketed(hosts.BACKEND[family])
    with teller(namespaces, family, tmp_path):
        ngxstream(
            f"{HEAD} server {{ listen {front}:53 udp; proxy_protocol v2; "
            f"proxy_protocol_datagrams every; proxy_pass {back}:{PORT}; }} }}",
            netns=namespaces.name("proxy"),
        )
        address = (hosts.FRONT[family], 53)
        clients = [
            UdpClient(address, source=(source, 0), netns=namespaces.name("client"))
            for source in (hosts.CLIENT[family], hosts.CLIENT2[family])
            for _ in range(10)
        ]
        try:
            for n in range(1000):
                client = clients[n % 20]
                expected = "{} {}".format(*client.name).encode()
                assert expected == client.exchange(b"who am I?")
        finally:
            for client in clients:
                client.close()


@pytest.mark.parametrize("family", [4, 6])
def test_a_hundred_connections(
    family: int, namespaces: Namespaces, proxy: ProxyFactory, tmp_path: Path
) -> None:
    """100 connections are told by header, from either program."""
    hosts.three(namespaces)
    front, back = hosts.bracketed(hosts.FRONT[family]), hosts.bracketed(hosts.BACKEND[family])
    with teller(namespaces, family, tmp_path):
        proxy(
            f"{HEAD} server {{ listen {front}:53; proxy_protocol on; "
            f"proxy_pass {back}:{PORT}; }} }}",
            netns=namespaces.name("proxy"),
        )

        def ask(n: int) -> bool:
            source = (hosts.CLIENT, hosts.CLIENT2)[n % 2][family]
            with TcpClient(
                (hosts.FRONT[family], 53), source=(source, 0), netns=namespaces.name("client")
            ) as client:
                name = client.sock.getsockname()
                return f"{name[0]} {name[1]}".encode() == client.recv_to_eof()

        with ThreadPoolExecutor(max_workers=8) as pool:
            assert [True] * 100 == list(pool.map(ask, range(100)))
