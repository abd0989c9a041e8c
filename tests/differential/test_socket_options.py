"""The parameters of `listen`, and what directives set on sockets, as the kernel tells it.

Both programs run the same configuration; options are read off their sockets (sockets.borrowed),
nothing is taken from a log.
"""

import re
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import ports, sockets, tools
from tests.support.backends import BackendFactory, silent
from tests.support.clients import TcpClient, UdpClient, tcp_exchange, udp_exchange
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

MPTCP = 262  # IPPROTO_MPTCP

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
OF_STREAMS = {
    "keepalive": (SOL, socket.SO_KEEPALIVE),
    "keepidle": (TCP, socket.TCP_KEEPIDLE),
    "keepintvl": (TCP, socket.TCP_KEEPINTVL),
    "keepcnt": (TCP, socket.TCP_KEEPCNT),
    "fastopen": (TCP, socket.TCP_FASTOPEN),
    "defer": (TCP, socket.TCP_DEFER_ACCEPT),
    "rcvbuf": (SOL, socket.SO_RCVBUF),
    "sndbuf": (SOL, socket.SO_SNDBUF),
    "reuseport": (SOL, socket.SO_REUSEPORT),
}
OF_DATAGRAMS = {
    "rcvbuf": (SOL, socket.SO_RCVBUF),
    "sndbuf": (SOL, socket.SO_SNDBUF),
}
OF_V6 = {"v6only": (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)}

SERVES = "events {{}} stream {{ server {{ listen {}; return x; }} }}"


def listening(program: Proxy, name: str) -> list[dict[str, int]]:
    """Return what the kernel says of each socket that listens on a port of the configuration."""
    (worker,) = program.worker_pids()
    with sockets.borrowed(worker) as found:
        mine = [
            sock
            for sock in found
            if sockets.port_of(sock) == program.port(name) and sockets.is_listening(sock)
        ]
        wanted = [
            (OF_STREAMS if sock.type == socket.SOCK_STREAM else OF_DATAGRAMS)
            | (OF_V6 if sock.family == socket.AF_INET6 else {})
            for sock in mine
        ]
        return [sockets.options(sock, names) for sock, names in zip(mine, wanted, strict=True)]


PARAMETERS = {
    "rcvbuf": ("127.0.0.1:@in@ rcvbuf=32k", {"rcvbuf": 2 * 32768}),
    "sndbuf": ("127.0.0.1:@in@ sndbuf=24k", {"sndbuf": 2 * 24576}),
    "fastopen": ("127.0.0.1:@in@ fastopen=17", {"fastopen": 17}),
    "so_keepalive=on": ("127.0.0.1:@in@ so_keepalive=on", {"keepalive": 1}),
    "so_keepalive=off": ("127.0.0.1:@in@ so_keepalive=off", {"keepalive": 0}),
    "so_keepalive of numbers": (
        "127.0.0.1:@in@ so_keepalive=11:7:3",
        {"keepalive": 1, "keepidle": 11, "keepintvl": 7, "keepcnt": 3},
    ),
    "reuseport": ("127.0.0.1:@in@ reuseport", {"reuseport": 1}),
    "no reuseport": ("127.0.0.1:@in@", {"reuseport": 0, "keepalive": 0, "fastopen": 0}),
    "ipv6only": ("[::1]:@in@ ipv6only=on", {"v6only": 1}),
    "ipv6only by default": ("[::]:@in@", {"v6only": 1}),
    "ipv6only=off": ("[::]:@in@ ipv6only=off", {"v6only": 0}),
    "udp rcvbuf": ("127.0.0.1:@in@ udp rcvbuf=32k", {"rcvbuf": 2 * 32768}),
    "udp sndbuf": ("127.0.0.1:@in@ udp sndbuf=24k", {"sndbuf": 2 * 24576}),
}


@pytest.mark.effect("listen")
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_of_listen_reaches_the_socket(name: str, proxy: ProxyFactory) -> None:
    """What a parameter asks for is what the kernel says of the listening socket."""
    if "[::" in PARAMETERS[name][0]:
        tools.require_ipv6()
    text, expected = PARAMETERS[name]
    program = proxy(SERVES.format(text))
    (found,) = listening(program, "in")
    assert expected == {key: found[key] for key in expected}


@pytest.mark.effect("listen")
def test_deferred_waits_for_the_first_bytes(ngxstream: ProxyFactory) -> None:
    """A deferred socket gives a connection to the program when it has said something."""
    program = ngxstream(SERVES.format("127.0.0.1:@in@ deferred"))
    (found,) = listening(program, "in")
    assert found["defer"] > 0
    with TcpClient(program.address("in")) as client:
        assert b"x" == client.exchange(b"?")


@pytest.mark.effect("listen")
@pytest.mark.parametrize(("words", "expected"), [("backlog=33", 33), ("", 511)])
def test_the_backlog_is_as_long_as_asked_for(
    words: str, expected: int, proxy: ProxyFactory
) -> None:
    """backlog is the length of the queue that ss shows, 511 by default."""
    program = proxy(SERVES.format(f"127.0.0.1:@in@ {words}"))
    shown = subprocess.run(
        [tools.require("ss"), "-Hltn", f"sport = :{program.port('in')}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert expected == int(shown.split()[2])


@pytest.mark.effect("listen")
def test_multipath_is_mptcp(ngxstream: ProxyFactory) -> None:
    """A multipath socket speaks MPTCP (the nginx at hand is older than the parameter)."""
    program = ngxstream(SERVES.format("127.0.0.1:@in@ multipath"))
    (worker,) = program.worker_pids()
    with sockets.borrowed(worker) as found:
        protocols = [
            sock.getsockopt(SOL, socket.SO_PROTOCOL)
            for sock in found
            if sockets.port_of(sock) == program.port("in")
        ]
    assert [MPTCP] == protocols
    assert b"x" == tcp_exchange(program.address("in"))


@pytest.mark.effect("listen")
def test_bind_makes_a_socket_of_its_own(proxy: ProxyFactory) -> None:
    """Beside a wildcard an address has no socket of its own, unless `bind` asks for one."""
    text = (
        "events {} stream { server { listen @a@ udp; return any; } "
        "server { listen 127.0.0.2:@a@ udp; return two; } "
        "server { listen 127.0.0.3:@a@ udp bind; return three; } }"
    )
    program = proxy(text)
    assert 2 == len(listening(program, "a"))
    said = [udp_exchange((f"127.0.0.{n}", program.port("a")), b"?") for n in (1, 2, 3)]
    assert [b"any", b"two", b"three"] == said


@pytest.mark.effect("listen", "server")
def test_a_range_of_ports_is_served(proxy: ProxyFactory) -> None:
    """Each port of a range answers, over TCP and over UDP, and the one after it does not."""
    program = proxy("events {}", start=False)
    first = ports.free_port_range(4)
    program.write(
        "events {} stream { "
        f"server {{ listen 127.0.0.1:{first}-{first + 2}; return $server_port; }} "
        f"server {{ listen 127.0.0.1:{first}-{first + 2} udp; return $server_port; }} }}"
    )
    program.start()
    for port in range(first, first + 3):
        assert b"%d" % port == tcp_exchange(("127.0.0.1", port))
        assert b"%d" % port == udp_exchange(("127.0.0.1", port), b"?")
    with pytest.raises(ConnectionRefusedError):
        tcp_exchange(("127.0.0.1", first + 3))


@pytest.mark.effect("listen")
def test_one_socket_serves_both_families_with_ipv6only_off(proxy: ProxyFactory) -> None:
    """A [::] socket without ipv6only is reached over IPv4 too, and logs mapped addresses alike."""
    tools.require_ipv6()
    program = proxy(
        "events {} stream { server { listen [::]:@in@ ipv6only=off; return $remote_addr; } }"
    )
    assert b"::1" == tcp_exchange(("::1", program.port("in")))
    assert b"::ffff:127.0.0.1" == tcp_exchange(("127.0.0.1", program.port("in")))


# -- what other directives set -------------------------------------------------------------------


def pair(program: Proxy, upstream: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return what the kernel says of the only proxied session: (client's side, upstream's side)."""
    wanted = {"nodelay": (TCP, socket.TCP_NODELAY), **OF_STREAMS}
    (worker,) = program.worker_pids()

    def both() -> Any:
        with sockets.borrowed(worker) as found:
            streams = [
                sock
                for sock in found
                if sock.type == socket.SOCK_STREAM and not sockets.is_listening(sock)
            ]
            ours = [s for s in streams if sockets.port_of(s) == program.port("in")]
            theirs = [s for s in streams if sockets.peer_port_of(s) == upstream]
            if not ours or not theirs:
                return None
            return sockets.options(ours[0], wanted), sockets.options(theirs[0], wanted)

    found: tuple[dict[str, int], dict[str, int]] = wait_until(both, what="a proxied session")
    return found


@pytest.mark.effect("tcp_nodelay")
@pytest.mark.parametrize(("word", "expected"), [("", 1), ("tcp_nodelay off;", 0)])
def test_tcp_nodelay_is_set_on_both_sides(
    word: str, expected: int, proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """Nagle's algorithm is off towards client and upstream, unless tcp_nodelay is."""
    backend = backends.tcp()
    program = proxy(
        f"events {{}} stream {{ {word} server {{ listen 127.0.0.1:@in@; "
        f"proxy_pass {backend.text}; }} }}"
    )
    with TcpClient(program.address("in")) as client:
        client.exchange(b"x")
        ours, theirs = pair(program, backend.port)
    assert (expected, expected) == (ours["nodelay"], theirs["nodelay"])


@pytest.mark.effect("tcp_nodelay")
@pytest.mark.parametrize(("here", "there", "expected"), [("on", "off", 1), ("off", "on", 0)])
def test_tcp_nodelay_is_a_server_s_own(
    here: str, there: str, expected: int, proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """What one server says of tcp_nodelay does not reach the connections of another."""
    backend = backends.tcp()
    program = proxy(
        "events {} stream { "
        f"server {{ listen 127.0.0.1:@in@; tcp_nodelay {here}; proxy_pass {backend.text}; }} "
        f"server {{ listen 127.0.0.1:@there@; tcp_nodelay {there}; proxy_pass {backend.text}; }} }}"
    )
    with TcpClient(program.address("in")) as client:
        client.exchange(b"x")
        ours, theirs = pair(program, backend.port)
    assert (expected, expected) == (ours["nodelay"], theirs["nodelay"])


UPSTREAM: dict[str, tuple[str, dict[str, int]]] = {
    "keepalive": ("proxy_socket_keepalive on;", {"keepalive": 1}),
    "no keepalive": ("", {"keepalive": 0}),
    "rcvbuf": ("proxy_socket_rcvbuf 32k;", {"rcvbuf": 2 * 32768}),
    "sndbuf": ("proxy_socket_sndbuf 24k;", {"sndbuf": 2 * 24576}),
}


@pytest.mark.effect("proxy_socket_keepalive", "proxy_socket_rcvbuf", "proxy_socket_sndbuf")
@pytest.mark.parametrize("name", UPSTREAM)
def test_options_of_upstream_sockets(
    name: str, proxy: ProxyFactory, backends: BackendFactory, newer_than: Callable[..., None]
) -> None:
    """What proxy_socket_… asks for is set on the upstream's socket."""
    word, expected = UPSTREAM[name]
    newer_than(proxy, word, "proxy_socket_rcvbuf", "proxy_socket_sndbuf")
    backend = backends.tcp(silent)
    program = proxy(
        f"events {{}} stream {{ server {{ listen 127.0.0.1:@in@; {word} "
        f"proxy_pass {backend.text}; }} }}"
    )
    with TcpClient(program.address("in")) as client:
        client.send(b"x")
        backend.wait_accepted(1)
        _, theirs = pair(program, backend.port)
    assert expected == {key: theirs[key] for key in expected}


@pytest.mark.effect("proxy_socket_rcvbuf", "proxy_socket_sndbuf")
def test_buffers_of_udp_upstream_sockets(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """The buffers of a UDP session's socket are those asked for."""
    backend = backends.udp()
    program = ngxstream(
        "events {} stream { proxy_socket_rcvbuf 32k; proxy_socket_sndbuf 24k; "
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {backend.text}; }} }}"
    )
    (worker,) = program.worker_pids()
    with UdpClient(program.address("in")) as client:
        assert b"x" == client.exchange(b"x")
        with sockets.borrowed(worker) as found:
            found_options = [
                sockets.options(sock, OF_DATAGRAMS)
                for sock in found
                if sockets.peer_port_of(sock) == backend.port
            ]
    assert [{"rcvbuf": 2 * 32768, "sndbuf": 2 * 24576}] == found_options


@pytest.fixture
def newer_than() -> Callable[..., None]:
    """Give a function that skips nginx where a text has a directive it does not know yet."""

    def skip(proxy: ProxyFactory, text: str, *unknown: str) -> None:
        if proxy.name == "nginx" and any(re.search(rf"\b{name}\b", text) for name in unknown):
            pytest.skip("newer than the nginx at hand")

    return skip
