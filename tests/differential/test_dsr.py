"""Direct server return beside nginx: what the proxy forwards it forgets, and answers pass it by."""

from collections.abc import Callable

import pytest

from tests.support import backends as b
from tests.support import hosts
from tests.support.clients import UdpClient
from tests.support.netns import Namespaces
from tests.support.processes import children
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root

PORT = 5300
WAYS = {"by the proxy": hosts.dsr_by_proxy, "by the backend": hosts.dsr_by_backend}
Way = Callable[[Namespaces, int, int], None]


def conf(family: int, more: str = "") -> str:
    """Return a server that forwards from the client's address and port and expects nothing."""
    front, back = hosts.bracketed(hosts.FRONT[family]), hosts.bracketed(hosts.BACKEND[family])
    return (
        "worker_processes 2; events { worker_connections 1024; } stream { "
        "log_format f '$remote_addr:$remote_port $status $upstream_bytes_sent'; "
        f"access_log logs/access.log f; server {{ listen {front}:53 udp; proxy_responses 0; "
        f"proxy_bind {'[$remote_addr]' if family == 6 else '$remote_addr'}:$remote_port "
        f"transparent; proxy_pass {back}:{PORT}; {more} }} }}"
    )


def backend(net: Namespaces, family: int, answer: b.Answer = b.udp_echo) -> b.UdpBackend:
    """Start an echo server."""
    return b.UdpBackend(
        answer, hosts.BACKEND[family], PORT, netns=net.name("backend"), rcvbuf=1 << 20
    )


def sockets(program: Proxy) -> int:
    """Count the UDP sockets of the workers that are bound to a client's address."""
    found = 0
    for pid in children(program.pid):
        for table in ("udp", "udp6"):
            with open(f"/proc/{pid}/net/{table}") as file:
                lines = [line.split()[1] for line in file][1:]
            found = max(found, sum(client_hex(address) for address in lines))
    return found


def client_hex(address: str) -> bool:
    """Tell whether an address of /proc/net is the client's 10.91.1.2 or 10.91.1.3."""
    return address.startswith(("02015B0A:", "03015B0A:"))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_thousand_datagrams(
    way: Way, family: int, namespaces: Namespaces, proxy: ProxyFactory
) -> None:
    """1000 datagrams of 20 clients are answered past the proxy, from the address that was asked.

    nginx connects a socket for each datagram. While it is open, Linux takes an answer that is to
    be forwarded for one of the socket's, and drops it: nginx needs that turned off.
    """
    hosts.three(namespaces)
    way(namespaces, PORT, 53)
    if proxy.name == "nginx":
        namespaces.sysctl("proxy", "net.ipv4.udp_early_demux", 0)
    with backend(namespaces, family) as server:
        program = proxy(conf(family), netns=namespaces.name("proxy"))
        names = hosts.udp_round(
            namespaces, (hosts.FRONT[family], 53), hosts.CLIENT[family], 1000
        )
        assert 1000 == len(server.datagrams)
        assert set(names) == set(server.sources)
        wait_until(lambda: len(program.access_log()) >= 1000, what="1000 sessions")
    assert {"200"} == {line.split()[1] for line in program.access_log()}


def test_a_client_has_one_socket(namespaces: Namespaces, ngxstream: ProxyFactory) -> None:
    """A socket is kept for each client, and no more of them than the bound."""
    hosts.three(namespaces)
    hosts.dsr_by_proxy(namespaces, PORT, 53)
    with backend(namespaces, 4) as server:
        text = conf(4).replace("worker_processes 2", "worker_processes 1").replace("1024", "100")
        program = ngxstream(text, netns=namespaces.name("proxy"))
        address = (hosts.FRONT[4], 53)
        hosts.udp_round(namespaces, address, hosts.CLIENT[4], 200, sockets=4)
        assert 4 == sockets(program)
        hosts.udp_round(namespaces, address, hosts.CLIENT2[4], 200, sockets=100)
        assert 25 == sockets(program)  # a fourth of worker_connections
        assert 400 == len(server.datagrams)


def test_an_answer_that_loses_its_way_is_not_kept(
    namespaces: Namespaces, ngxstream: ProxyFactory
) -> None:
    """Answers that are delivered to the proxy by mistake are dropped, and nothing fills up."""
    hosts.three(namespaces)
    hosts.replies_to_proxy(namespaces, PORT)
    with backend(namespaces, 4) as server:
        program = ngxstream(conf(4), netns=namespaces.name("proxy"))
        with UdpClient((hosts.FRONT[4], 53), netns=namespaces.name("client")) as client:
            for _ in range(20):
                client.send(b"x" * 1000)
            server.wait_seen(20)
            assert [] == client.drain()
        with open(f"/proc/{program.worker_pids()[0]}/net/udp") as file:
            queued = [line.split()[4] for line in file][1:]
        assert {"00000000:00000000"} == set(queued)


def test_a_missing_route_is_named(namespaces: Namespaces, ngxstream: ProxyFactory) -> None:
    """Without a way to the server the session is a 502, and the log says: no route."""
    hosts.three(namespaces)
    text = conf(4).replace(hosts.BACKEND[4], "203.0.113.9")
    program = ngxstream(text, netns=namespaces.name("proxy"))
    with UdpClient((hosts.FRONT[4], 53), netns=namespaces.name("client")) as client:
        client.send(b"x")
        (line,) = program.wait_log("failed: no route")
        assert "sendto() 203.0.113.9:5300 from 10.91.1.2:" in line
        assert "(101: Network is unreachable)" in line
        wait_until(program.access_log, what="the session ends")
    assert "502" == program.access_log()[0].split()[1]


def test_a_header_in_front(namespaces: Namespaces, ngxstream: ProxyFactory) -> None:
    """The PROXY protocol and direct server return go together: each datagram bears the header."""
    hosts.three(namespaces)
    with backend(namespaces, 4, b.udp_silent) as server:
        ngxstream(conf(4, "proxy_protocol v2;"), netns=namespaces.name("proxy"))
        with UdpClient((hosts.FRONT[4], 53), netns=namespaces.name("client")) as client:
            client.send(b"one")
            client.send(b"two")
            seen = server.wait_seen(2)
    assert all(data.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x12") for data in seen)
    assert [b"one", b"two"] == [data[-3:] for data in seen]
