"""`proxy_bind $remote_addr transparent` beside nginx, on hosts of their own.

Every test that both programs can pass runs on both; what nginx cannot do says so.
"""

import re
import socket
from pathlib import Path

import pytest

from tests.support import backends as b
from tests.support import hosts, tools
from tests.support.clients import TcpClient, UdpClient, tcp_exchange, udp_exchange
from tests.support.netns import Namespaces
from tests.support.proxies import Proxy, ProxyFactory

pytestmark = pytest.mark.root

PORT = 5300
HEAD = "worker_processes 2; events { worker_connections 1024; } stream { "


def conf(family: int, bind: str, udp: bool, more: str = "") -> str:
    """Return one server that proxies to the backend from the client's address."""
    front, back = hosts.bracketed(hosts.FRONT[family]), hosts.bracketed(hosts.BACKEND[family])
    kind = " udp" if udp else ""
    return (
        f"{HEAD} server {{ listen {front}:53{kind}; proxy_bind {bind} transparent; {more} "
        f"proxy_pass {back}:{PORT}; }} }}"
    )


def backend(net: Namespaces, family: int, udp: bool) -> b.UdpBackend | b.TcpBackend:
    """Start an echo server on the backend's host."""
    if udp:
        return b.UdpBackend(
            host=hosts.BACKEND[family], port=PORT, netns=net.name("backend"), rcvbuf=1 << 20
        )
    return b.TcpBackend(
        b.echo, host=hosts.BACKEND[family], port=PORT, netns=net.name("backend")
    )


@pytest.fixture
def net(namespaces: Namespaces) -> Namespaces:
    """Give the three hosts, with replies routed back through the proxy."""
    hosts.three(namespaces)
    hosts.replies_to_proxy(namespaces, PORT)
    return namespaces


BINDS = {
    (4, "address"): "$remote_addr",
    (4, "port"): "$remote_addr:$remote_port",
    (6, "address"): "$remote_addr",
    (6, "port"): "[$remote_addr]:$remote_port",
}


@pytest.mark.parametrize(("family", "form"), list(BINDS), ids=str)
def test_a_thousand_datagrams(family: int, form: str, net, proxy: ProxyFactory) -> None:
    """1000 datagrams of 20 clients are answered; the backend sees each client's address."""
    with backend(net, family, udp=True) as server:
        proxy(conf(family, BINDS[family, form], udp=True), netns=net.name("proxy"))
        names = hosts.udp_round(
            net, (hosts.FRONT[family], 53), hosts.CLIENT[family], 1000
        )
        seen = server.sources
    assert 1000 == seen.total()
    assert {hosts.CLIENT[family]} == {host for host, _ in seen}
    if form == "port":
        assert set(names) == set(seen)


@pytest.mark.parametrize(("family", "form"), list(BINDS), ids=str)
def test_a_hundred_connections(family: int, form: str, net, proxy: ProxyFactory) -> None:
    """100 connections are echoed; the backend sees each client's address."""
    with backend(net, family, udp=False) as server:
        proxy(conf(family, BINDS[family, form], udp=False), netns=net.name("proxy"))
        names = hosts.tcp_round(net, (hosts.FRONT[family], 53), hosts.CLIENT[family], 100)
        seen = [conversation.peer for conversation in server.wait_accepted(100)]
    assert {hosts.CLIENT[family]} == {peer[0] for peer in seen}
    if form == "port":
        assert sorted(names) == sorted((peer[0], peer[1]) for peer in seen)


def capabilities(program: Proxy) -> list[int]:
    """Return the effective capabilities of the workers, as bits."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in program.worker_pids()]
    return [int(re.findall(r"(?m)^CapEff:\s+(\w+)$", status)[0], 16) for status in statuses]


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_a_worker_without_root_needs_net_raw_alone(
    udp: bool, net: Namespaces, proxy: ProxyFactory
) -> None:
    """A worker of user daemon serves transparently, and has CAP_NET_RAW and nothing else."""
    with backend(net, 4, udp) as server:
        text = f"user daemon; {conf(4, '$remote_addr', udp)}"
        program = proxy(text, netns=net.name("proxy"))
        front = (hosts.FRONT[4], 53)
        (hosts.udp_round if udp else hosts.tcp_round)(net, front, hosts.CLIENT[4], 20)
        assert [1 << 13] * 2 == capabilities(program)
        if isinstance(server, b.UdpBackend):
            assert {hosts.CLIENT[4]} == {host for host, _ in server.sources}
        else:
            assert {hosts.CLIENT[4]} == {c.peer[0] for c in server.wait_accepted(20)}


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_a_low_port_of_the_client_s(udp: bool, net: Namespaces, ngxstream: ProxyFactory) -> None:
    """A client that asks from port 53 keeps it, though the worker is not root (nginx fails)."""
    exchange = udp_exchange if udp else tcp_exchange
    with backend(net, 4, udp) as server:
        text = f"user daemon; {conf(4, '$remote_addr:$remote_port', udp)}"
        program = ngxstream(text, netns=net.name("proxy"))
        options = {} if udp else {"size": 5}
        answer = exchange(
            (hosts.FRONT[4], 53),
            b"hello",
            source=(hosts.CLIENT[4], 53),
            netns=net.name("client"),
            **options,
        )
        assert b"hello" == answer
        assert [1 << 13 | 1 << 10] * 2 == capabilities(program)
        if isinstance(server, b.UdpBackend):
            assert [(hosts.CLIENT[4], 53)] == list(server.sources)
        else:
            assert (hosts.CLIENT[4], 53) == server.wait_accepted(1)[0].peer[:2]


@pytest.mark.parametrize("bind", ["$remote_addr:$remote_port", "$both"])
def test_an_ipv6_client_without_brackets(
    bind: str, net: Namespaces, ngxstream: ProxyFactory
) -> None:
    """The unbracketed form binds to the client's address and port (nginx to nobody's)."""
    more = "set $both $remote_addr:$remote_port;" if bind == "$both" else ""
    with backend(net, 6, udp=True) as server:
        ngxstream(conf(6, bind, udp=True, more=more), netns=net.name("proxy"))
        names = hosts.udp_round(net, (hosts.FRONT[6], 53), hosts.CLIENT[6], 20, sockets=5)
        assert set(names) == set(server.sources)


def test_a_mapped_client_is_an_ipv4_one(net: Namespaces, ngxstream: ProxyFactory) -> None:
    """A client that came by a socket of both families is bound as the IPv4 address it has."""
    with backend(net, 4, udp=True) as server:
        text = (
            f"{HEAD} server {{ listen [::]:53 udp ipv6only=off; "
            f"proxy_bind $remote_addr:$remote_port transparent; "
            f"proxy_pass {hosts.BACKEND[4]}:{PORT}; }} }}"
        )
        ngxstream(text, netns=net.name("proxy"))
        names = hosts.udp_round(net, (hosts.FRONT[4], 53), hosts.CLIENT[4], 20, sockets=5)
        assert set(names) == set(server.sources)


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_families_that_do_not_match(udp: bool, net: Namespaces, ngxstream: ProxyFactory) -> None:
    """An IPv6 client cannot be the source towards an IPv4 server: 500, and nothing gets there.

    nginx fails one step earlier, in setsockopt().
    """
    kind = " udp" if udp else ""
    text = (
        f"{HEAD} log_format f '$status $upstream_addr'; access_log logs/access.log f; server {{ "
        f"listen [{hosts.FRONT[6]}]:53{kind}; proxy_bind $remote_addr transparent; "
        f"proxy_pass {hosts.BACKEND[4]}:{PORT}; }} }}"
    )
    with backend(net, 4, udp) as server:
        program = ngxstream(text, netns=net.name("proxy"))
        address = (hosts.FRONT[6], 53)
        if udp:
            with UdpClient(address, source=(hosts.CLIENT[6], 0), netns=net.name("client")) as c:
                c.send(b"hello")
                program.wait_log(r"bind\(")
        else:
            source = (hosts.CLIENT[6], 0)
            assert b"" == tcp_exchange(address, source=source, netns=net.name("client"))
        (line,) = program.wait_log(r"\[crit\]")
        said = f"bind({hosts.CLIENT[6]}) failed (97: Address family not supported by protocol)"
        assert said in line
        assert not (server.datagrams if isinstance(server, b.UdpBackend) else server.accepted)


def test_a_capability_that_is_missing_is_named(net: Namespaces, ngxstream: ProxyFactory) -> None:
    """A program without CAP_NET_RAW says so, and the client gets 500, not our own address."""
    with backend(net, 4, udp=False) as server:
        text = conf(4, "$remote_addr", udp=False)
        proxy = without_net_raw(ngxstream(text, start=False, netns=net.name("proxy")))
        address = (hosts.FRONT[4], 53)
        assert b"" == tcp_exchange(address, netns=net.name("client"))
        (line,) = proxy.wait_log(r"\[crit\]")
        assert (
            "setsockopt(IP_TRANSPARENT) failed: CAP_NET_RAW is missing "
            "(1: Operation not permitted) while connecting to upstream" in line
        )
        assert 0 == server.accepted


def without_net_raw(proxy: Proxy) -> Proxy:
    """Start a program that can neither have CAP_NET_RAW nor CAP_NET_ADMIN."""
    command = proxy.command
    dropped = ("--bounding-set", "-net_raw,-net_admin", "--inh-caps", "-net_raw,-net_admin")
    words = [tools.require("setpriv"), *dropped]
    proxy.command = lambda: [*words, *command()]  # type: ignore[method-assign]
    return proxy.start()


def test_one_client_socket_at_two_addresses(net: Namespaces, ngxstream: ProxyFactory) -> None:
    """Answers cannot be told apart when one socket asks one server through two listening
    addresses: the second session is refused, and answers never come from the wrong address.
    """
    with backend(net, 4, udp=True) as server:
        one = (
            "proxy_bind $remote_addr:$remote_port transparent; "
            f"proxy_pass {hosts.BACKEND[4]}:{PORT}; "
        )
        front = hosts.FRONT[4]
        text = (
            f"{HEAD} server {{ listen {front}:53 udp; {one} }} "
            f"server {{ listen {front}:54 udp; {one} }} }}"
        )
        program = ngxstream(text, netns=net.name("proxy"))
        with UdpClient((front, 53), connected=False, netns=net.name("client")) as client:
            client.send(b"first")
            assert (b"first", (front, 53)) == client.recv_from()
            client.address = (front, 54)
            client.send(b"second")
            (line,) = program.wait_log("belong to a session of another listening address")
            assert "(98: Address already in use)" in line
            client.address = (front, 53)
            client.send(b"third")
            assert (b"third", (front, 53)) == client.recv_from()
        assert [b"first", b"third"] == server.datagrams


def test_a_port_that_the_proxy_s_host_uses_itself(
    net: Namespaces, proxy: ProxyFactory
) -> None:
    """A client on the proxy's own host has its port taken by its own socket: 500, said why."""
    with backend(net, 4, udp=True):
        program = proxy(
            conf(4, "$remote_addr:$remote_port", udp=True), netns=net.name("proxy")
        )
        with UdpClient((hosts.FRONT[4], 53), netns=net.name("proxy")) as client:
            client.send(b"hello")
            (line,) = program.wait_log(r"\[crit\]")
            said = f"bind({hosts.FRONT[4]}:{client.name[1]}) failed (98: Address already in use)"
        assert said in line


def test_a_user_that_cannot_keep_the_capability(net: Namespaces, ngxstream: ProxyFactory) -> None:
    """A worker whose container has no CAP_NET_RAW starts, and says that it is not held."""
    text = f"user daemon; {conf(4, '$remote_addr', udp=False)}"
    proxy = without_net_raw(ngxstream(text, start=False, netns=net.name("proxy")))
    lines = proxy.wait_log("CAP_NET_RAW cannot be kept: not held", count=2)
    assert all("[error]" in line for line in lines)
    assert [0, 0] == capabilities(proxy)


def test_one_client_port_towards_two_servers(net: Namespaces, ngxstream: ProxyFactory) -> None:
    """A client's TCP port can lead to two servers at once; to one and the same it cannot (500)."""
    front = hosts.FRONT[4]
    client = (hosts.CLIENT[4], 40_000)
    tcp = [
        b.TcpBackend(b.echo, host=hosts.BACKEND[4], port=port, netns=net.name("backend"))
        for port in (PORT, PORT + 1)
    ]
    mark = ("-p", "tcp", "-s", hosts.BACKEND[4], "-j", "MARK", "--set-mark", "1")
    net.run("proxy", "iptables", "-t", "mangle", "-A", "PREROUTING", *mark)
    servers = "".join(
        f"server {{ listen {front}:{listen}; proxy_pass {hosts.BACKEND[4]}:{port}; "
        "proxy_bind $remote_addr:$remote_port transparent; }"
        for listen, port in ((53, PORT), (54, PORT + 1), (55, PORT))
    )
    with tcp[0], tcp[1]:
        program = ngxstream(f"{HEAD} {servers} }}", netns=net.name("proxy"))
        options = {"source": client, "netns": net.name("client")}
        with (
            ReusedClient((front, 53), **options) as one,
            ReusedClient((front, 54), **options) as two,
        ):
            for n in range(3):
                for connection in (one, two):
                    connection.send(b"%d" % n)
                    assert b"%d" % n == connection.recv_exactly(1)
            with ReusedClient((front, 55), **options) as same:
                assert b"" == same.recv_to_eof()
        (line,) = program.wait_log("this client has such a connection already")
        assert "[crit]" in line
        assert "(99: Cannot assign requested address)" in line
        peers = [one_of.wait_accepted(1)[0].peer[:2] for one_of in tcp]
        assert [client, client] == peers


class ReusedClient(TcpClient):
    """A connection from a port that others of the test have as well."""

    def __init__(self, address: tuple[str, int], *, source: tuple[str, int], netns: str) -> None:
        self.sock = b.make_socket(b.family_of(address[0]), socket.SOCK_STREAM, netns)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.settimeout(20)
        self.sock.bind(source)
        self.sock.connect(address)


def test_a_client_socket_stays_claimed_over_a_reload(
    net: Namespaces, ngxstream: ProxyFactory
) -> None:
    """A transparent UDP session goes on over a reload, and still owns its answers."""
    front = hosts.FRONT[4]
    servers = "".join(
        f"server {{ listen {front}:{listen} udp; proxy_pass {hosts.BACKEND[4]}:{PORT}; "
        "proxy_bind $remote_addr:$remote_port transparent; }"
        for listen in (53, 54)
    )
    with backend(net, 4, udp=True) as server:
        program = ngxstream(f"{HEAD} {servers} }}", netns=net.name("proxy"))
        with UdpClient((front, 53), connected=False, netns=net.name("client")) as client:
            for n in range(3):
                client.send(b"%d" % n)
                assert (b"%d" % n, (front, 53)) == client.recv_from()
                program.reload()
            client.address = (front, 54)
            client.send(b"other")
            program.wait_log("belong to a session of another listening address")
            client.address = (front, 53)
            client.send(b"3")
            assert (b"3", (front, 53)) == client.recv_from()
        assert [b"0", b"1", b"2", b"3"] == server.datagrams
