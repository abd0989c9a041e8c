"""PROXY protocol headers in front of datagrams: among ourselves, and with dnsdist."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxstream.wire import proxy_protocol as pp
from tests.support import backends as b
from tests.support.clients import UdpClient
from tests.support.dns import Dnsmasq, dig
from tests.support.dnsdist import Dnsdist
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until

HEAD = (
    "worker_processes 2; events { worker_connections 512; } stream { "
    "log_format f '$remote_addr $remote_port $realip_remote_addr $proxy_protocol_addr "
    "$proxy_protocol_server_addr $status $proxy_protocol_dropped'; access_log logs/access.log f; "
)
SERVER = ("198.51.100.1", 53)
RECORDS = {"www.example.com": ["192.0.2.80"], "mail.example.com": ["192.0.2.25"]}


def headed(host: str, port: int, payload: bytes) -> bytes:
    """Return a datagram with a client's header."""
    return pp.build_v2((host, port), SERVER, pp.DGRAM) + payload


def split(data: bytes) -> tuple[pp.ProxyHeader | None, bytes]:
    """Take the header off a datagram."""
    if not data.startswith(pp.SIGNATURE):
        return None, data
    header = pp.parse_datagram(data)
    assert pp.verify_crc32c(data[: header.length])
    return header, data[header.length :]


@pytest.mark.effect("proxy_protocol_datagrams")
def test_every_datagram_bears_the_header(ngxstream: ProxyFactory, backends) -> None:
    """With `every` each datagram begins with it, those of a burst and empty ones too."""
    server = backends.udp(b.udp_silent, rcvbuf=1 << 20)
    program = ngxstream(
        f"{HEAD} server {{ listen 127.0.0.1:@in@ udp; proxy_protocol v2; "
        f"proxy_protocol_datagrams every; proxy_pass {server.text}; }} }}"
    )
    sent = [b"%03d" % n + b"x" * (n % 7) for n in range(100)] + [b"", b"end"]
    with UdpClient(program.address("in")) as client:
        for data in sent:
            client.send(data)
        seen = [split(data) for data in server.wait_seen(len(sent))]
        assert sent == [payload for _, payload in seen]
        wanted = (*client.name, *program.address("in"))
        for header, _ in seen:
            assert header is not None
            assert pp.DGRAM == header.transport
            found = (header.src_addr, header.src_port, header.dst_addr, header.dst_port)
            assert wanted == found


def test_the_first_datagram_bears_it_by_default(ngxstream: ProxyFactory, backends) -> None:
    """Without the directive, the header is in front of a session's first datagram alone."""
    server = backends.udp(b.udp_silent)
    program = ngxstream(
        f"{HEAD} server {{ listen 127.0.0.1:@in@ udp; proxy_protocol v2; "
        f"proxy_pass {server.text}; }} }}"
    )
    with UdpClient(program.address("in")) as client:
        for data in (b"one", b"two", b"three"):
            client.send(data)
        seen = [split(data) for data in server.wait_seen(3)]
    assert [b"one", b"two", b"three"] == [payload for _, payload in seen]
    assert [True, False, False] == [header is not None for header, _ in seen]


@pytest.mark.parametrize("requests", ["", "proxy_requests 2;"], ids=["session", "counted"])
def test_a_datagram_without_room_for_the_header(
    requests: str, ngxstream: ProxyFactory, backends
) -> None:
    """A datagram that its header makes too large is dropped; the session goes on."""
    server = backends.udp(b.udp_silent, rcvbuf=1 << 20)
    program = ngxstream(
        f"{HEAD} server {{ listen 127.0.0.1:@in@ udp; proxy_protocol v2; {requests} "
        f"proxy_protocol_datagrams every; proxy_pass {server.text}; }} }}"
    )
    with UdpClient(program.address("in")) as client:
        for data in (b"one", bytes(65507), b"three"):
            client.send(data)
        seen = [split(data)[1] for data in server.wait_seen(2)]
    assert [b"one", b"three"] == seen
    (line,) = program.wait_log("datagram is too large to be sent")
    assert "[error]" in line


def test_a_first_datagram_without_room_for_the_header(ngxstream: ProxyFactory, backends) -> None:
    """What would follow it has no owner: the session is a 500, the next one is whole."""
    server = backends.udp(b.udp_silent)
    program = ngxstream(
        f"{HEAD} server {{ listen 127.0.0.1:@in@ udp; proxy_protocol v2; "
        f"proxy_pass {server.text}; }} }}"
    )
    with UdpClient(program.address("in")) as client:
        client.send(bytes(65507))
        wait_until(program.access_log, what="the session ends")
        assert "500" == program.access_log()[0].split()[5]
        client.send(b"two")
        client.send(b"three")
        seen = [split(data) for data in server.wait_seen(2)]
    assert [b"two", b"three"] == [payload for _, payload in seen]
    assert seen[0][0] is not None


def test_the_real_client_is_what_is_seen(ngxstream: ProxyFactory, backends) -> None:
    """Access rules, hashes, limits, variables and logs speak of the client in the header."""
    servers = [backends.udp(b.udp_tagged(name)) for name in "ab"]
    lines = "".join(f"server {one.text};" for one in servers)
    program = ngxstream(
        f"{HEAD} limit_conn_zone $remote_addr zone=z:64k; "
        f"upstream u {{ hash $remote_addr$remote_port consistent; {lines} }} "
        "server { listen 127.0.0.1:@in@ udp proxy_protocol; set_real_ip_from 127.0.0.1; "
        "deny 192.0.2.66; limit_conn z 2; proxy_responses 1; proxy_requests 0; proxy_pass u; } }"
    )
    with UdpClient(program.address("in")) as peer:
        answers: dict[int, set[bytes]] = {}
        for _ in range(2):
            for n in range(24):  # by chance all of eight are one server's
                peer.send(headed(f"192.0.2.{n}", 1000 + n, b"q"))
                answers.setdefault(n, set()).add(peer.recv()[:1])
        assert all(len(tags) == 1 for tags in answers.values())
        assert {b"a", b"b"} == set().union(*answers.values())
        peer.send(headed("192.0.2.66", 5, b"denied"))
        wait_until(lambda: len(program.access_log()) >= 49, what="49 sessions")
    logged = [line.split() for line in program.access_log()]
    assert ["192.0.2.66", "5", "127.0.0.1", "192.0.2.66", SERVER[0], "403", "0"] in logged
    assert ["192.0.2.3", "1003", "127.0.0.1", "192.0.2.3", SERVER[0], "200", "0"] in logged


def test_bad_headers_are_counted(ngxstream: ProxyFactory, backends) -> None:
    """What was dropped is a variable and a line of the log; nothing of it gets to the server."""
    server = backends.udp()
    program = ngxstream(
        "worker_processes 1; " + HEAD.partition("; ")[2]
        + "server { listen 127.0.0.1:@in@ udp proxy_protocol; set_real_ip_from 127.0.0.1; "
        f"proxy_responses 1; proxy_pass {server.text}; }} }}"
    )
    with UdpClient(program.address("in")) as peer:
        for data in (b"no header", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", pp.SIGNATURE + b"!"):
            peer.send(data)
        peer.send(headed("192.0.2.1", 7, b"sound"))
        assert b"sound" == peer.recv()
        wait_until(program.access_log, what="the session ends")
    assert ["192.0.2.1", "7", "127.0.0.1", "192.0.2.1", SERVER[0], "200", "3"] == (
        program.access_log()[0].split()
    )
    assert [b"sound"] == server.datagrams
    (line,) = program.wait_log("dropped: it has no PROXY protocol header")
    assert "dropped so far: 1" in line


def test_strangers_are_not_believed(ngxstream: ProxyFactory, backends) -> None:
    """A sound header from a peer that set_real_ip_from does not name is dropped with the rest."""
    server = backends.udp()
    program = ngxstream(
        f"{HEAD} server {{ listen 127.0.0.1:@in@ udp proxy_protocol; "
        f"set_real_ip_from 127.0.0.7; proxy_pass {server.text}; }} }}"
    )
    with UdpClient(program.address("in")) as stranger:
        stranger.send(headed("192.0.2.1", 7, b"believe me"))
        program.wait_log("dropped: its peer is not trusted")
    with UdpClient(program.address("in"), source=("127.0.0.7", 0)) as peer:
        assert b"trust me" == peer.exchange(headed("192.0.2.1", 7, b"trust me"))
    assert [b"trust me"] == server.datagrams


def test_proxy_requests_behind_a_peer(ngxstream: ProxyFactory, backends) -> None:
    """A client's quota of datagrams is its own; the next session keeps the header's client."""
    server = backends.udp(b.udp_silent)
    program = ngxstream(
        f"{HEAD} server {{ listen 127.0.0.1:@in@ udp proxy_protocol; proxy_responses 0; "
        f"set_real_ip_from 127.0.0.1; proxy_requests 2; proxy_pass {server.text}; }} }}"
    )
    with UdpClient(program.address("in")) as peer:
        for n in range(12):
            peer.send(headed(f"192.0.2.{n % 2}", 9, b"%d" % n))
        wait_until(lambda: len(program.access_log()) >= 6, what="six sessions")
        wait_until(lambda: len(server.datagrams) >= 12, what="twelve datagrams")
    assert sorted(b"%d" % n for n in range(12)) == sorted(server.datagrams)
    clients = [line.split()[0] for line in program.access_log()]
    assert ["192.0.2.0"] * 3 + ["192.0.2.1"] * 3 == sorted(clients)


def test_a_chain_of_two_programs(ngxstream: ProxyFactory, backends) -> None:
    """What one sends, with `every` or `first`, another takes: the address arrives."""
    server = backends.udp()
    inner = ngxstream(
        f"{HEAD} server {{ listen 127.0.0.1:@every@ udp proxy_protocol; "
        f"set_real_ip_from 127.0.0.1; proxy_timeout 1s; proxy_pass {server.text}; }} "
        "server { listen 127.0.0.1:@first@ udp proxy_protocol=first; "
        f"set_real_ip_from 127.0.0.1; proxy_timeout 1s; proxy_pass {server.text}; }} }}"
    )
    outer = ngxstream(
        f"{HEAD} proxy_protocol v2; server {{ listen 127.0.0.1:@every@ udp; "
        f"proxy_protocol_datagrams every; proxy_pass 127.0.0.1:{inner.port('every')}; }} "
        "server { listen 127.0.0.1:@first@ udp; "
        f"proxy_pass 127.0.0.1:{inner.port('first')}; }} }}"
    )
    names = set()
    for way in ("every", "first"):
        for n in range(3):
            with UdpClient(outer.address(way), source=(f"127.0.0.{n + 5}", 0)) as client:
                for data in (b"1", b"2", b"3"):
                    assert data == client.exchange(data)
                names.add((client.name[0], str(client.name[1])))
    wait_until(lambda: len(inner.access_log()) >= 6, what="six sessions end")
    assert names == {tuple(line.split()[:2]) for line in inner.access_log()}


@pytest.mark.parametrize("way", ["every", "first"])
def test_clients_behind_a_peer_survive_a_reload(
    way: str, ngxstream: ProxyFactory, backends
) -> None:
    """Sessions of a peer's clients go on over reloads, and keep their server's socket."""
    server = backends.udp()
    text = (
        f"{HEAD} server {{ listen 127.0.0.1:@in@ udp proxy_protocol={way}; proxy_timeout 60s; "
        f"set_real_ip_from 127.0.0.1; proxy_pass {server.text}; }} }}"
    )
    program = ngxstream(text)
    many = range(5) if way == "every" else range(1)
    peers = [UdpClient(program.address("in")) for _ in range(6)]
    try:
        for turn in range(3):
            for peer in peers:
                for n in many:
                    payload = b"%d %d" % (n, turn)
                    header = way == "every" or not turn
                    peer.send(headed(f"192.0.2.{n}", 99, payload) if header else payload)
                    assert payload == peer.recv()
            program.reload()
        assert 6 * len(many) == len(server.sources)
        assert {3} == set(server.sources.values())
        assert not [record for record in program.records() if "dropped" in record.message]
    finally:
        for peer in peers:
            peer.close()
    program.stop()
    logged = [line.split()[0] for line in program.access_log()]
    assert {f"192.0.2.{n}" for n in many} >= set(logged)


def test_warnings(ngxstream: ProxyFactory) -> None:
    """-t warns of the version 1 text on UDP, and of a listener that would believe nobody."""
    events = "events {} stream { server { listen 127.0.0.1:@in@ udp"
    said = ngxstream(
        f"{events}; proxy_protocol on; proxy_pass 127.0.0.1:9; }} }}", start=False
    ).test()
    assert 0 == said.code
    assert '[warn] "proxy_protocol on" says TCP in front of datagrams' in said.stderr
    said = ngxstream(
        f"{events} proxy_protocol; proxy_pass 127.0.0.1:9; }} }}", start=False
    ).test()
    assert 0 == said.code
    assert 'takes no datagrams without "set_real_ip_from"' in said.stderr


@pytest.mark.refusal("proxy_protocol_datagrams", "listen")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "listen 127.0.0.1:@in@ udp; proxy_protocol on; proxy_protocol_datagrams every",
            '"proxy_protocol_datagrams every" needs "proxy_protocol v2" in',
        ),
        (
            "listen 127.0.0.1:@in@ proxy_protocol=first",
            'invalid parameter "proxy_protocol=first" in',
        ),
        ("listen 127.0.0.1:@in@ udp proxy_protocol=no", 'invalid parameter "proxy_protocol=no"'),
        (
            "listen 127.0.0.1:@in@ udp; proxy_protocol_datagrams all",
            'invalid value "all" in',
        ),
    ],
    ids=["v1 every", "tcp", "unknown word", "unknown value"],
)
def test_what_is_refused(lines: str, message: str, ngxstream: ProxyFactory) -> None:
    """Words that mean nothing together are errors that name file and line."""
    text = f"events {{}} stream {{ server {{ {lines}; proxy_pass 127.0.0.1:9; }} }}"
    said = ngxstream(text, start=False).test()
    assert 1 == said.code
    assert message in said.stderr
    assert "nginx.conf:1" in said.stderr


# -- dnsdist ---------------------------------------------------------------------------------


@pytest.fixture
def dnsmasq(tmp_path: Path) -> Iterator[Dnsmasq]:
    """Give a name server."""
    with Dnsmasq(RECORDS, folder=tmp_path) as server:
        yield server


def test_dnsdist_in_front(ngxstream: ProxyFactory, dnsmasq: Dnsmasq, tmp_path: Path) -> None:
    """Real DNS comes by dnsdist, whose few sockets carry all clients; each is seen as itself."""
    program = ngxstream(
        f"{HEAD} server {{ listen 127.0.0.1:@dns@ udp proxy_protocol; "
        "set_real_ip_from 127.0.0.1; deny 127.0.0.66; proxy_responses 1; "
        f"proxy_pass {dnsmasq.text}; }} }}"
    )
    lua = f'newServer({{address="127.0.0.1:{program.port("dns")}", useProxyProtocol=true}})'
    with Dnsdist(lua, tmp_path) as front:
        front.ready("www.example.com")
        clients = [f"127.0.0.{n}" for n in range(10, 20)]
        for client in clients:
            for name, records in RECORDS.items():
                answer = dig(name, "127.0.0.1", front.port, extra=("-b", client))
                assert records == answer.records
        assert not dig("www.example.com", "127.0.0.1", front.port, timeout=1,
                       extra=("-b", "127.0.0.66"))
        wait_until(
            lambda: any(line.startswith("127.0.0.66 ") for line in program.access_log()),
            what="the denied client is logged",
        )
    logged = [line.split() for line in program.access_log()]
    by_client = {fields[0] for fields in logged if fields[0] == fields[3]}
    assert {*clients, "127.0.0.66"} <= by_client
    assert {"403"} == {fields[5] for fields in logged if fields[0] == "127.0.0.66"}
    # the health checks are LOCAL, without a client, and were served: else nothing would be asked
    assert any(fields[0] == "127.0.0.1" and fields[3] == "-" for fields in logged)
    assert not [record for record in program.records() if "dropped" in record.message]


def test_dnsdist_behind(ngxstream: ProxyFactory, dnsmasq: Dnsmasq, tmp_path: Path) -> None:
    """Real DNS goes to dnsdist with `every`; its rules see each client's own address."""
    lua = (
        'setProxyProtocolACL({"127.0.0.1/32"})\n'
        'denied = newNMG()\ndenied:addMask("127.0.0.66/32")\n'
        "addAction(NetmaskGroupRule(denied), RCodeAction(DNSRCode.REFUSED))\n"
        'others = newNMG()\nothers:addMask("127.0.0.1/32")\n'
        "addAction(NetmaskGroupRule(others), RCodeAction(DNSRCode.SERVFAIL))\n"
        f'newServer({{address="{dnsmasq.text}"}})'
    )
    with Dnsdist(lua, tmp_path) as behind:
        program = ngxstream(
            f"{HEAD} server {{ listen 127.0.0.1:@dns@ udp; proxy_protocol v2; "
            "proxy_protocol_datagrams every; proxy_responses 1; proxy_timeout 5s; "
            f"proxy_pass 127.0.0.1:{behind.port}; }} }}"
        )
        port = program.port("dns")
        wait_until(
            lambda: dig("www.example.com", "127.0.0.1", port, timeout=1,
                        extra=("-b", "127.0.0.9")).records,
            what="dnsdist answers",
        )
        for client in (f"127.0.0.{n}" for n in range(10, 20)):
            for name, records in RECORDS.items():
                answer = dig(name, "127.0.0.1", port, extra=("-b", client))
                assert records == answer.records, answer.text + behind.log()
        assert "REFUSED" == dig(
            "www.example.com", "127.0.0.1", port, extra=("-b", "127.0.0.66")
        ).status
        # many questions from one socket: one session, a header before each
        query = (
            b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01"
        )
        with UdpClient(("127.0.0.1", port), source=("127.0.0.30", 0)) as client:
            for n in range(50):
                answer = client.exchange(n.to_bytes(2, "big") + query[2:])
                assert n.to_bytes(2, "big") == answer[:2]
                assert socket.inet_aton("192.0.2.80") in answer
