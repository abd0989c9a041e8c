"""event/udp_proxied.py: which datagram is whose, and which is nobody's."""

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import udp_answers, udp_proxied
from ngxstream.event.connection import Connection
from ngxstream.event.listen_options import ListenOptions
from ngxstream.event.loop import Loop
from ngxstream.event.udp_proxied import ProxiedUdpListener
from ngxstream.wire import proxy_protocol as pp
from tests.support.engine import engine

ALICE = ("192.0.2.1", 1001)
BOB = ("192.0.2.2", 1002)
CAROL = ("2001:db8::3", 1003, 0, 0)
SERVER = ("198.51.100.1", 53)


def headed(client: Any, payload: bytes = b"", **options: Any) -> bytes:
    """Return a datagram with a client's header."""
    server = SERVER if len(client) == 2 else ("2001:db8::53", 53, 0, 0)
    return pp.build_v2(client, server, options.pop("transport", pp.DGRAM), **options) + payload


class Sink:
    """A session that keeps what it is given."""

    def __init__(self, c: Connection) -> None:
        self.c = c
        self.got: list[bytes] = []

    def take(self, views: list[memoryview]) -> None:
        """Keep copies."""
        self.got += [bytes(view) for view in views]


class Bench:
    """A listener on a socket of its own, its sessions, and peers that send to it."""

    def __init__(self, loop: Loop, host: str = "127.0.0.1", *, first: bool = False) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.loop = loop
        self.sock = socket.SocketType(family, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.sock.setblocking(False)
        port = self.sock.getsockname()[1]
        wildcard = host == "0.0.0.0"
        if wildcard:
            self.sock.setsockopt(socket.IPPROTO_IP, udp_answers.IP_PKTINFO, 1)
        self.address = ("127.0.0.1" if wildcard else host, port)
        self.options = ListenOptions(
            family=family,
            socktype=socket.SOCK_DGRAM,
            sockaddr=self.sock.getsockname(),
            text=f"{host}:{port}",
            wildcard=wildcard,
            proxy_protocol=True,
            proxy_protocol_first=first,
        )
        self.trusted = {"127.0.0.1", "::1"}
        self.sinks: list[Sink] = []
        self.headers: list[pp.ProxyHeader] = []
        self.listener = ProxiedUdpListener(
            loop, self, self.sock, self.begin, believes=lambda p, _: p[0] in self.trusted
        )
        self.peers = [self.peer() for _ in range(2)]

    def peer(self) -> socket.socket:
        """Make a peer's socket."""
        made = socket.socket(self.sock.family, socket.SOCK_DGRAM)
        made.connect(self.address)
        return made

    def begin(self, c: Connection, loop: Loop, first: bytes, header: pp.ProxyHeader | None) -> None:
        """Begin a session."""
        sink = Sink(c)
        sink.got.append(first)
        self.sinks.append(sink)
        self.headers.append(header)
        self.listener.enlist(c, sink)

    def send(self, *datagrams: bytes, peer: int = 0) -> None:
        """Have a peer send, and the listener read."""
        for data in datagrams:
            self.peers[peer].send(data)
        for _ in range(4):
            self.loop.turn(wait_ms=20)

    def got(self) -> list[list[bytes]]:
        """Return what each session got."""
        return [sink.got for sink in self.sinks]

    def refused(self) -> dict[str, int]:
        """Return the reasons that were met, and how often."""
        return {reason: n for reason, n in self.listener.refused.items() if n}

    def close(self) -> None:
        """Close the sockets."""
        for sink in self.sinks:
            self.loop.close_connection(sink.c)
        self.listener.close()
        for sock in (self.sock, *self.peers):
            sock.close()


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::1"])
def bench(request: pytest.FixtureRequest) -> Any:
    """Give a bench whose peers put a header in front of every datagram."""
    with engine() as loop:
        made = Bench(loop, request.param)
        yield made
        made.close()


@pytest.fixture
def first() -> Any:
    """Give a bench whose peers put a header in front of a session's first datagram."""
    with engine() as loop:
        made = Bench(loop, first=True)
        yield made
        made.close()


def test_one_socket_carries_many_clients(bench: Bench) -> None:
    """Each client behind a peer's socket has a session; an IPv6 client behind an IPv4 peer too."""
    bench.send(headed(ALICE, b"a1"), headed(BOB, b"b1"), headed(CAROL, b"c1"), headed(ALICE, b"a2"))
    bench.send(headed(BOB, b"b2"), headed(CAROL, b""), headed(ALICE, b"a3"))
    assert [[b"a1", b"a2", b"a3"], [b"b1", b"b2"], [b"c1", b""]] == bench.got()
    assert [ALICE[0], BOB[0], CAROL[0]] == [header.src_addr for header in bench.headers]
    assert {} == bench.refused()


def test_one_client_behind_two_sockets_is_two_sessions(bench: Bench) -> None:
    """Answers go back by the socket a question came from: peers' sockets are told apart."""
    bench.send(headed(ALICE, b"by one"))
    bench.send(headed(ALICE, b"by two"), peer=1)
    assert [[b"by one"], [b"by two"]] == bench.got()


def test_answers_go_to_the_peer(bench: Bench) -> None:
    """What is sent to a session's client goes to the socket its datagrams came from."""
    bench.send(headed(ALICE, b"question"))
    bench.listener.send_to(bench.sinks[0].c, b"answer")
    bench.peers[0].settimeout(20)
    assert b"answer" == bench.peers[0].recv(100)


def test_tlvs_do_not_make_another_client(bench: Bench) -> None:
    """A client is its addresses and ports; what else a header says may change."""
    unique = [pp.build_tlv(pp.TLV_UNIQUE_ID, bytes([n])) for n in (1, 2)]
    bench.send(*(headed(ALICE, b"x", tlvs=tlv) for tlv in unique))
    assert [[b"x", b"x"]] == bench.got()
    assert b"\x01" == pp.find_tlv(bench.headers[0].tlvs, "unique_id")


def test_local_is_the_peer_itself(bench: Bench) -> None:
    """A header of command LOCAL begins a session that has no client but the peer."""
    bench.send(pp.SIGNATURE + b"\x20\x00\x00\x00" + b"are you there", headed(ALICE, b"a"))
    assert [[b"are you there"], [b"a"]] == bench.got()
    assert not bench.headers[0].has_client
    assert bench.peers[0].getsockname()[:2] == bench.sinks[0].c.sockaddr[:2]


WHOLE = headed(ALICE, b"payload")
BAD = {
    "no header": (b"payload", udp_proxied.MISSING),
    "nothing at all": (b"", udp_proxied.MISSING),
    "half a signature": (pp.SIGNATURE[:7], udp_proxied.MISSING),
    "version 1": (b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\nx", udp_proxied.TEXT),
    "cut in the fixed part": (WHOLE[:14], udp_proxied.BROKEN),
    "cut in the addresses": (WHOLE[:20], udp_proxied.BROKEN),
    "a length past the end": (WHOLE[:14] + b"\x0f\xff" + WHOLE[16:], udp_proxied.BROKEN),
    "a length that cuts the addresses": (
        WHOLE[:14] + b"\0\x04" + WHOLE[16:], udp_proxied.BROKEN
    ),
    "version 3": (WHOLE[:12] + b"\x31" + WHOLE[13:], udp_proxied.BROKEN),
    "an unknown command": (WHOLE[:12] + b"\x2f" + WHOLE[13:], udp_proxied.BROKEN),
    "of a stream": (headed(ALICE, b"x", transport=pp.STREAM), udp_proxied.MISMATCH),
    "an unspecified family": (WHOLE[:13] + b"\x00" + WHOLE[14:], udp_proxied.MISMATCH),
    "a unix family": (
        pp.SIGNATURE + b"\x21\x32\x00\xd8" + bytes(216), udp_proxied.MISMATCH
    ),
    "the addresses of another family": (
        WHOLE[:13] + b"\x22" + WHOLE[14:], udp_proxied.BROKEN
    ),
    "a forged address under the old checksum": (
        WHOLE[:16] + b"\x0a\0\0\x01" + WHOLE[20:], udp_proxied.CHECKSUM
    ),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_what_cannot_be_believed_is_dropped(data: bytes, reason: str, bench: Bench) -> None:
    """A datagram without a sound header begins nothing, is counted, and the log says why."""
    bench.send(data)
    assert [] == bench.got()
    assert {reason: 1} == bench.refused()
    ((_, line),) = [entry for entry in bench.loop.log.lines if "dropped" in entry[1]]  # type: ignore[attr-defined]
    assert reason in line
    bench.send(headed(ALICE, b"and on it goes"))
    assert [[b"and on it goes"]] == bench.got()


def test_a_peer_that_is_not_trusted(bench: Bench) -> None:
    """Whatever a stranger sends is dropped; the log hears of it once a second."""
    bench.trusted.clear()
    bench.send(headed(ALICE, b"x"), b"y", headed(BOB, b"z"))
    assert [] == bench.got()
    assert {udp_proxied.UNTRUSTED: 3} == bench.refused()
    assert 1 == sum("not trusted" in line for _, line in bench.loop.log.lines)  # type: ignore[attr-defined]


def test_first_datagrams_speak_for_what_follows(first: Bench) -> None:
    """With `first`, what follows without a header belongs to the session its socket began."""
    first.send(headed(ALICE, b"a1"), b"a2")
    first.send(headed(BOB, b"b1"), b"b2", peer=1)
    first.send(b"a3")
    assert [[b"a1", b"a2", b"a3"], [b"b1", b"b2"]] == first.got()


def test_with_first_nothing_comes_before_a_header(first: Bench) -> None:
    """Without a session a datagram without a header is nobody's, and so it is after its end."""
    first.send(b"early")
    first.send(headed(ALICE, b"a1"))
    first.loop.close_connection(first.sinks[0].c)
    first.send(b"late")
    assert [[b"a1"]] == first.got()
    assert {udp_proxied.MISSING: 2} == first.refused()


def test_with_first_the_same_header_again_is_believed(first: Bench) -> None:
    """A peer that starts anew for the same client goes on with its session."""
    first.send(headed(ALICE, b"a1"), headed(ALICE, b"a2"), b"a3")
    assert [[b"a1", b"a2", b"a3"]] == first.got()


@pytest.mark.parametrize(
    "forged", [headed(BOB, b"I am Bob"), WHOLE[:20]], ids=["another client", "cut"]
)
def test_with_first_a_client_cannot_become_another(forged: bytes, first: Bench) -> None:
    """A header inside of what a client sent is not believed, and ends the doubtful session."""
    first.send(headed(ALICE, b"a1"), b"a2", forged, b"a3")
    assert [[b"a1", b"a2"]] == first.got()
    assert {udp_proxied.CHANGED: 1, udp_proxied.MISSING: 1} == first.refused()
    first.send(headed(BOB, b"b1"))
    assert [[b"a1", b"a2"], [b"b1"]] == first.got()


def test_a_session_from_another_worker_knows_its_peer(first: Bench) -> None:
    """What follows a session that was handed over finds it, without a header."""
    first.send(headed(ALICE, b"a1"))
    sink = first.sinks[0]
    with engine() as loop:
        other = Bench(loop, first=True)
        peer = other.peers[0].getsockname()
        sink.c.key = (peer, sink.c.key[1])
        other.listener.enlist(sink.c, sink)
        other.send(b"a2")
        assert [[b"a1", b"a2"]] == first.got()
        assert {} == other.refused()
        del other.listener.table[sink.c.key]
        other.close()


def test_payloads_of_another_worker_keep_their_client(bench: Bench) -> None:
    """A datagram whose header was read elsewhere begins or continues its client's session."""
    bench.send(headed(ALICE, b"a1"))
    key = bench.sinks[0].c.key
    bench.listener.deliver(key, key[0], key[1], b"a2")
    assert [[b"a1", b"a2"]] == bench.got()
    bench.loop.close_connection(bench.sinks[0].c)
    bench.listener._by_tag.clear()
    bench.listener.deliver(key, key[0], key[1], b"a3")
    assert [[b"a1", b"a2"], [b"a3"]] == bench.got()
    assert ALICE == (bench.headers[1].src_addr, bench.headers[1].src_port)


def test_many_headers_are_not_remembered_for_ever(bench: Bench) -> None:
    """What is remembered of headers stays within its bound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(udp_proxied, "REMEMBERED", 4)
        for n in range(20):
            bench.send(headed(("192.0.2.9", 2000 + n), b"x"))
    assert 20 == len(bench.got())
    assert len(bench.listener._headers) <= 4
    assert len(bench.listener._by_tag) <= 4


def test_peers_whose_sessions_are_over_are_forgotten_those_of_others_are_not_looked_at(
    first: Bench,
) -> None:
    """However many sessions there are, a new one does not go through all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(udp_proxied, "REMEMBERED", 4)
        known = first.listener._sole
        first.peers += [first.peer() for _ in range(40)]
        for n in range(12):
            first.send(headed(ALICE, b"x"), peer=n)
        assert known is first.listener._sole
        assert 12 == len(known)
        for n in range(12, 40):
            first.send(headed(ALICE, b"x"), peer=n)
            first.loop.close_connection(first.sinks[n].c)
        assert 40 == len(first.sinks)
        assert len(first.listener._sole) <= 2 * 12 + 4 + 1
        first.send(b"y", peer=3)
        assert [b"x", b"y"] == first.sinks[3].got


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    """Whatever stands in a datagram, reading it ends in a client or in one of the reasons."""
    for data in (noise, WHOLE[:at] + noise, pp.SIGNATURE + noise):
        reason = ""
        try:
            tag, header = udp_proxied.read(memoryview(data))
        except udp_proxied.RefusedError as error:
            reason = str(error)
        assert not reason or reason in udp_proxied.REASONS
        if not reason:
            assert header.length <= len(data)
            again = udp_proxied.header_of(tag)
            assert (header.src_addr, header.src_port) == (again.src_addr, again.src_port)
