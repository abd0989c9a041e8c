"""One UDP port, several names: QUIC clients come to the server of the name in their hello."""

import contextlib
import itertools
import random
import socket
from collections.abc import Callable

import pytest

from ngxstream.wire import proxy_protocol as pp
from tests.support import clients, quic
from tests.support.backends import BackendFactory, UdpBackend, udp_tagged
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

NAMES = ("one", "two", "other")
CONF = """worker_processes {workers}; events {{}}
stream {{
    log_format f '$status $ssl_preread_server_name/$ssl_preread_alpn_protocols $bytes_received';
    access_log logs/access.log f;
    map $ssl_preread_server_name $backend {{
        hostnames; one.test {one}; *.two.test {two}; default {other};
    }}
    server {{
        listen {listen}@quic@ udp;
        ssl_preread on;
        preread_timeout {preread};
        proxy_pass $backend;
        proxy_timeout {timeout};
    }}
}}
"""
Pair = tuple[Proxy, Proxy]
SENT = {"one.test": "one", "a.two.test": "two", "x.test": "other", "": "other"}


def serve(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int = 1, timeout: str = "10m",
    preread: str = "30s", listen: str = "127.0.0.1:",
) -> tuple[Proxy, dict[str, UdpBackend]]:
    """Serve three backends by name."""
    made = {name: backends.udp(udp_tagged(name)) for name in NAMES}
    words = {name: backend.text for name, backend in made.items()}
    text = CONF.format(
        workers=workers, timeout=timeout, preread=preread, listen=listen, **words
    )
    return ngxstream(text), made


def flights(count: int, size: int = 0) -> list[tuple[str, list[bytes]]]:
    """Return the datagrams of so many connections, shuffled; the hello tells which it is."""
    dice = random.Random(count)
    made = []
    for number, name in zip(range(count), itertools.cycle(SENT), strict=False):
        client = quic.Client(
            dice.choice((quic.V1, quic.V2)), dice.randbytes(dice.randint(8, 20)),
            dice.randbytes(dice.randint(0, 20)), dice.randbytes(dice.choice((0, 0, 40))),
        )
        datagrams = client.datagrams(quic.hello(name, ("h3", f"c{number}"), size))
        dice.shuffle(datagrams)
        made.append((name, datagrams))
    return made


@pytest.mark.effect("ssl_preread")
@pytest.mark.parametrize("size", [0, 3300], ids=["one datagram", "three datagrams"])
@pytest.mark.parametrize("workers", [1, 4])
def test_clients_come_to_the_server_of_their_name(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int, size: int
) -> None:
    """All datagrams of a connection, in the order they came, and those behind the hello."""
    proxy, made = serve(ngxstream, backends, workers)
    front = proxy.address("quic")
    expected: dict[str, list[list[bytes]]] = {name: [] for name in NAMES}
    flight = flights(32, size)
    with contextlib.ExitStack() as stack:  # all stay open: none gets the port of another's session
        for at in range(0, len(flight), 8):  # no more at once than the receive buffer holds
            begun = [
                (stack.enter_context(clients.UdpClient(front)), SENT[name], datagrams)
                for name, datagrams in flight[at : at + 8]
            ]
            for client, server, datagrams in begun:
                expected[server].append([*datagrams, b"later"])
                for datagram in datagrams:
                    client.send(datagram)
            for client, server, datagrams in begun:
                for datagram in datagrams:
                    assert server.encode() + b":" + datagram == client.recv()
                assert server.encode() + b":later" == client.exchange(b"later")
    for name, backend in made.items():
        seen: dict[object, list[bytes]] = {}
        for datagram, source in backend.seen:
            seen.setdefault(source, []).append(datagram)
        assert sorted(expected[name]) == sorted(seen.values())
    proxy.assert_healthy()


def test_the_first_hello_alone_is_read(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """What a client begins later from the same port goes where the session goes."""
    proxy, _ = serve(ngxstream, backends)
    first, second = quic.Client(), quic.Client(destination=b"another")
    with clients.UdpClient(proxy.address("quic")) as client:
        for one, name in ((first, "one.test"), (second, "a.two.test")):
            (datagram,) = one.datagrams(quic.hello(name))
            assert b"one:" + datagram == client.exchange(datagram)


@pytest.mark.parametrize("listen", ["127.0.0.1:", "*:"], ids=["address", "wildcard"])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_reload_keeps_what_the_hello_said(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int, listen: str
) -> None:
    """Sessions go on with their name; one that waits for the rest of its hello begins anew."""
    proxy, _ = serve(ngxstream, backends, workers, timeout="2s", listen=listen)
    front = proxy.address("quic")
    whole, cut = quic.Client(), quic.Client(quic.V2)
    (hello,) = whole.datagrams(quic.hello("one.test", ("h3", "doq")))
    pieces = cut.datagrams(quic.hello("a.two.test", size=3300))
    with clients.UdpClient(front) as known, clients.UdpClient(front) as begun:
        assert b"one:" + hello == known.exchange(hello)
        begun.send(pieces[0])
        begun.send(pieces[2])
        for _ in range(2):
            proxy.reload()
            assert b"one:more" == known.exchange(b"more")
        begun.send(pieces[1])
        answers = sorted(begun.recv() for _ in pieces)
        assert sorted(b"two:" + piece for piece in pieces) == answers
        lines = wait_until(lambda: len(found := proxy.access_log()) == 2 and found)
    assert {
        f"200 one.test/h3,doq {len(hello) + 8}", f"200 a.two.test/h3 {sum(map(len, pieces))}"
    } == set(lines)
    proxy.assert_healthy()


def test_a_coalesced_burst_is_read_datagram_by_datagram(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """All three datagrams of a hello are in the socket before the first one is read."""
    proxy, _ = serve(ngxstream, backends)
    pieces = quic.Client().datagrams(quic.hello("one.test", size=3300))
    with clients.UdpClient(proxy.address("quic")) as client:
        client.sock.sendmsg(pieces, [(socket.IPPROTO_UDP, 103, (1200).to_bytes(2, "little"))])
        assert [b"one:" + piece for piece in pieces] == [client.recv() for _ in pieces]


def test_a_hello_may_come_behind_proxy_headers(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """In front of each datagram, from another proxy that has two clients at one port."""
    backend = backends.udp(udp_tagged("one"))
    proxy = ngxstream(
        "events {} stream { log_format f '$proxy_protocol_addr $ssl_preread_server_name'; "
        "access_log logs/access.log f; server { listen 127.0.0.1:@quic@ udp proxy_protocol; "
        "set_real_ip_from 127.0.0.1; "
        f"ssl_preread on; proxy_timeout 1s; proxy_pass {backend.text}; }} }}"
    )
    flights = {
        host: quic.Client().datagrams(quic.hello(name, size=3300))
        for host, name in (("192.0.2.1", "one.test"), ("192.0.2.2", "a.two.test"))
    }
    with clients.UdpClient(proxy.address("quic")) as client:
        for pieces in zip(*flights.values(), strict=True):
            for host, piece in zip(flights, pieces, strict=True):
                header = pp.build_v2((host, 4711), ("198.51.100.1", 443), pp.DGRAM)
                client.send(header + piece)
        expected = sorted(b"one:" + piece for pieces in flights.values() for piece in pieces)
        assert expected == sorted(client.recv() for _ in expected)
        lines = proxy.wait_log("", count=2, name="logs/access.log")
    assert ["192.0.2.1 one.test", "192.0.2.2 a.two.test"] == sorted(lines)


def test_noise_hurts_nobody(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """Datagrams of every kind from ever new sources, mutated hellos among them, and clients."""
    proxy, _ = serve(ngxstream, backends, 2, preread="1s", timeout="1s")
    front = proxy.address("quic")
    dice = random.Random(1)
    partial = quic.Client().datagrams(quic.hello("one.test", size=3300))[0]
    (hello,) = quic.Client().datagrams(quic.hello("a.two.test"))
    with contextlib.ExitStack() as stack:
        for number in range(300):
            noise = bytearray(dice.choice((
                partial, quic.opaque(quic.ZERO_RTT, 900), dice.randbytes(40),
                quic.Client().initial(dice.randbytes(30)), quic.Client().initial(b"\x1c\0\0\0"),
            )))
            if number % 2:
                noise[dice.randrange(len(noise))] ^= 1 << dice.randrange(8)
            # all stay open: a port of one that is gone might be another one's
            stack.enter_context(clients.UdpClient(front)).send(bytes(noise))
            if number % 15 == 14:
                client = stack.enter_context(clients.UdpClient(front))
                assert b"two:" + hello == client.exchange(hello)
    wait_until(lambda: len(proxy.access_log()) == 320, what="all sessions have ended")
    assert {"200", "502"} >= {line.split()[0] for line in proxy.access_log()}
    proxy.assert_healthy()


def test_a_message_says_what_nginx_reads_of_it_in_records(both: Callable[..., Pair]) -> None:
    """Version, name and protocols of one message: over TCP to nginx, in Initial packets to us."""
    nginx, ours = both(
        "events {} stream { ssl_preread on; server { listen 127.0.0.1:@in@; "
        "listen 127.0.0.1:@in@ udp; return '$ssl_preread_protocol|$ssl_preread_server_name|"
        "$ssl_preread_alpn_protocols'; } }"
    )
    usual = quic.hello("one.test", ("h3", "hq"))
    older = usual.replace(b"\0\x2b\0\3\2\3\4", b"\x7a\x2b\0\3\2\3\4")  # lists no versions
    assert older != usual
    expected = {
        usual: "TLSv1.3|one.test|h3,hq", older: "TLSv1.2|one.test|h3,hq",
        quic.hello("", ()): "TLSv1.3||", quic.hello("", ("h3",), 900): "TLSv1.3||h3",
    }
    for message, said in expected.items():
        record = b"\x16\3\1" + len(message).to_bytes(2, "big") + message
        with clients.TcpClient(nginx.address("in")) as client:
            client.send(record)
            assert said.encode() == client.recv()
        (datagram,) = quic.Client().datagrams(message)
        assert said.encode() == clients.udp_exchange(ours.address("in"), datagram)


def test_nginx_reads_no_hello_of_a_datagram(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """It takes the directive, and the variables stay empty: all go to the default."""
    to = backends.udp(udp_tagged("one")), backends.udp(udp_tagged("other"))
    running = proxy(
        "events {} stream { map $ssl_preread_server_name $to { one.test "
        f"{to[0].text}; default {to[1].text}; }} "
        "server { listen 127.0.0.1:@quic@ udp; ssl_preread on; proxy_pass $to; } }"
    )
    (hello,) = quic.Client().datagrams(quic.hello("one.test"))
    with clients.UdpClient(running.address("quic")) as client:
        expected = b"other:" if proxy.name == "nginx" else b"one:"
        assert expected + hello == client.exchange(hello)
