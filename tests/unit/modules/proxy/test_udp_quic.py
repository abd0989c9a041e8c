"""proxy_quic: sessions go on by connection ids, and an address is believed when it is proved.

The packets are what a proxy sees of them; nobody here could open one.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.core import log, shm
from ngxstream.core.shm_ids import IdTable
from ngxstream.event import loop
from ngxstream.event.udp_ids import ClientIds
from ngxstream.modules.proxy import quic_conf, quic_paths, udp_quic
from tests.support import ports, quic
from tests.support.udp_in_process import UdpInProcess

FIRST = b"original"  # the id that a client begins with
SERVERS = b"\x01server-id"  # the one that the server answers with
KINDS = {
    "plain": "",
    "rated": "proxy_upload_rate 10m; proxy_download_rate 10m;",
    "headed": "proxy_protocol v2; proxy_protocol_datagrams every;",
    "debug": "error_log logs/e.log debug;",
}


class Lab:
    """A server, a client, and addresses that it moves to."""

    def __init__(self, words: str = "proxy_quic on any_host;", *, listen: str = "127.0.0.1",
                 level: int = log.INFO) -> None:
        self.server, self.client = self.socket(), self.socket()
        self.now_ms = 1_000_000
        self.patch = pytest.MonkeyPatch()  # time passes when the test says so
        self.patch.setattr(loop, "monotonic_ns", lambda: self.now_ms * 1_000_000)
        self.served = UdpInProcess(
            f"stream {{ server {{ listen {listen}:{ports.free_udp_port()} udp; {words} "
            f"proxy_pass 127.0.0.1:{self.server.getsockname()[1]}; }} }}",
            level=level,
        )
        self.loop = self.served.loop
        self.source: Any = None  # where the server hears the session from

    @staticmethod
    def socket(host: str = "127.0.0.1") -> socket.socket:
        """Return a socket of an address that nobody has had."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host, 0))
        sock.setblocking(False)
        return sock

    def turn(self) -> None:
        """Let everything happen that can."""
        for _ in range(8):
            self.loop.turn(wait_ms=0)

    def send(self, *datagrams: bytes, by: socket.socket | None = None) -> list[bytes]:
        """Have a client send. Returns: what the server got"""
        for one in datagrams:
            (by or self.client).sendto(one, self.served.address())
        self.turn()
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, source = self.server.recvfrom(70_000)
                found.append(data)
                self.source = source
        return found

    def answer(self, *datagrams: bytes) -> None:
        """Have the server answer the session that it heard last."""
        for one in datagrams:
            self.server.sendto(one, self.source)
        self.turn()

    @staticmethod
    def got(sock: socket.socket) -> list[bytes]:
        """Return what has come to an address."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(sock.recv(70_000))
        return found

    def shake(self, name: bytes = SERVERS, first: bytes = FIRST) -> None:
        """Have client and server shake hands."""
        self.send(quic.opaque(quic.INITIAL, 1100, destination=first, source=b"cli"))
        self.answer(quic.opaque(quic.HANDSHAKE, destination=b"cli", source=name))
        self.send(quic.opaque(quic.HANDSHAKE, destination=name, source=b"cli"))
        self.send(quic.short(name))
        self.got(self.client)

    def prove(self, by: socket.socket, name: bytes = SERVERS) -> None:
        """Have the client go on from another address until it is proved."""
        self.send(quic.short(name, size=600), by=by)
        self.answer(quic.short(b"cli", size=100))
        self.now_ms += quic_paths.QUIET_MS
        self.turn()
        self.send(quic.short(name), by=by)

    @property
    def only(self) -> Any:
        """The ids of the only session."""
        (s,) = self.loop.sessions
        return s.module_ctx(quic_conf.KEY)

    def names(self) -> set[bytes]:
        """Return all ids that are known."""
        return {name for _, name in self.loop.get(ClientIds)._known}

    def close(self) -> None:
        """Close everything."""
        self.served.close()
        self.patch.undo()
        for sock in (self.server, self.client):
            sock.close()
        assert not self.loop.get(ClientIds).count
        assert not self.served.alerts()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Give a proxy with ids."""
    made = Lab()
    yield made
    made.close()


@pytest.fixture
def elsewhere() -> Iterator[socket.socket]:
    """Give an address of another host."""
    with Lab.socket("127.0.0.2") as sock:
        yield sock


@pytest.mark.effect("proxy_quic")
@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_a_session_goes_on_when_the_address_changes(
    words: str, elsewhere: socket.socket
) -> None:
    """The server hears it from the same port; answers come to the new address alone."""
    lab = Lab(f"proxy_quic on any_host; {words}")
    try:
        lab.shake()
        before = lab.source
        lab.prove(elsewhere)
        assert before == lab.source
        assert 1 == len(lab.loop.sessions)
        assert 1 == lab.only.migrations
        lab.got(elsewhere), lab.got(lab.client)
        lab.answer(quic.short(b"cli", b"new"))
        assert [quic.short(b"cli", b"new")] == lab.got(elsewhere)
        assert [] == lab.got(lab.client)
    finally:
        lab.close()


def test_without_it_another_address_is_another_session(elsewhere: socket.socket) -> None:
    """And nothing looks at ids."""
    lab = Lab("")
    lab.shake()
    lab.prove(elsewhere)
    assert 2 == len(lab.loop.sessions)
    assert lab.served.listeners[0].stray is None
    lab.close()


def test_ids_are_those_of_the_handshake_until_one_is_left(lab: Lab) -> None:
    """The client's first, a Retry's, the server's; then the one that the client uses."""
    lab.send(quic.opaque(quic.INITIAL, 1100, destination=FIRST, source=b"cli"))
    assert {FIRST} == lab.names()
    lab.answer(quic.opaque(quic.RETRY, destination=b"cli", source=b"by-retry"))
    lab.send(quic.opaque(quic.INITIAL, 1100, destination=b"by-retry", source=b"cli"))
    lab.answer(quic.opaque(quic.HANDSHAKE, destination=b"cli", source=SERVERS))
    assert {FIRST, b"by-retry", SERVERS} == lab.names()
    lab.send(quic.short(SERVERS))
    assert {SERVERS} == lab.names()
    lab.only.s.finalize(200)
    assert set() == lab.names()


@pytest.mark.parametrize("which", [FIRST, SERVERS])
def test_a_handshake_goes_on_from_another_address(
    lab: Lab, elsewhere: socket.socket, which: bytes
) -> None:
    """By the id that the client began with, or the server's."""
    lab.send(quic.opaque(quic.INITIAL, 1100, destination=FIRST, source=b"cli"))
    lab.answer(quic.opaque(quic.HANDSHAKE, destination=b"cli", source=SERVERS))
    packet = quic.opaque(quic.INITIAL, 1100, destination=which, source=b"cli")
    before = lab.source
    assert [packet] == lab.send(packet, by=elsewhere)
    assert before == lab.source
    assert 1 == len(lab.loop.sessions)


def test_an_address_that_is_not_proved_gets_three_times_what_came(
    lab: Lab, elsewhere: socket.socket
) -> None:
    """The former one gets everything meanwhile."""
    lab.shake()
    packet = quic.short(SERVERS, size=400)
    lab.send(packet, by=elsewhere)
    answers = [quic.short(b"cli", bytes((n,)), size=500) for n in range(10)]
    lab.answer(*answers)
    got = lab.got(elsewhere)
    assert answers[: 3 * len(packet) // len(answers[0])] == got
    assert answers == lab.got(lab.client)
    lab.answer(*answers)
    assert [] == lab.got(elsewhere)


def test_another_port_of_the_same_host_gets_all_answers(lab: Lab) -> None:
    """The latest of them: it acknowledges a download by datagrams that are too short."""
    lab.shake()
    with Lab.socket() as former, Lab.socket() as near:
        for sock in (former, near):
            lab.send(quic.short(SERVERS), by=sock)
        answers = [quic.short(b"cli", bytes((n,)), size=1000) for n in range(10)]
        lab.answer(*answers)
        assert answers == lab.got(near) == lab.got(lab.client)
        assert [] == lab.got(former)


def test_a_burst_of_answers_is_cut_for_it(lab: Lab, elsewhere: socket.socket) -> None:
    """As many datagrams of one message as it may get."""
    lab.shake()
    lab.send(quic.short(SERVERS, size=900), by=elsewhere)
    proxy = lab.only.proxy
    burst = b"".join(quic.short(b"cli", bytes((n,)), size=996) for n in range(8))
    proxy.answer_burst(memoryview(burst), 1000)
    assert [burst[at : at + 1000] for at in (0, 1000)] == lab.got(elsewhere)
    assert 8 == len(lab.got(lab.client))


@pytest.mark.parametrize("rounds", [2, 20])
def test_who_copies_datagrams_of_a_client_that_goes_on_takes_nothing(
    lab: Lab, elsewhere: socket.socket, rounds: int
) -> None:
    """Off the path, faster than the client: RFC 9000 section 9.3.3."""
    lab.shake()
    for n in range(rounds):
        packet = quic.short(SERVERS, bytes((n,)))
        lab.send(packet, by=elsewhere)
        lab.send(packet)
        lab.now_ms += quic_paths.QUIET_MS - 1
        lab.answer(quic.short(b"cli", bytes((n,)), 30))
        assert [quic.short(b"cli", bytes((n,)), 30)] == lab.got(lab.client)
    assert 0 == lab.only.migrations


def test_a_client_that_was_quiet_has_its_answers_back_when_it_speaks(
    lab: Lab, elsewhere: socket.socket
) -> None:
    """Somebody who knew its id had them until then; from that address it begins anew."""
    lab.shake()
    lab.prove(elsewhere)
    assert 1 == lab.only.migrations
    lab.send(quic.short(SERVERS))
    lab.got(lab.client), lab.got(elsewhere)
    lab.answer(quic.short(b"cli", b"back"))
    assert [quic.short(b"cli", b"back")] == lab.got(lab.client)
    assert [] == lab.got(elsewhere)
    lab.send(quic.short(SERVERS), by=elsewhere)  # that it was proved once counts no more
    assert lab.client.getsockname() == lab.only.proxy.client
    lab.prove(elsewhere)
    assert lab.only.former == lab.client.getsockname()


def test_ids_that_nobody_has_begin_sessions(lab: Lab) -> None:
    """A guess, a datagram that is too short for a packet, one that ends within an id."""
    lab.shake()
    packets = (
        quic.short(b"\x02server-id"), quic.short(SERVERS)[:20], b"\xc0", b"A",
        quic.opaque(quic.INITIAL, destination=SERVERS, source=b"x")[:9],
    )
    with contextlib.ExitStack() as stack:
        for packet in packets:
            sock = stack.enter_context(Lab.socket())
            assert [packet] == lab.send(packet, by=sock)
    assert 1 + len(packets) == len(lab.loop.sessions)


def test_another_session_s_id_is_not_to_be_had(lab: Lab, elsewhere: socket.socket) -> None:
    """Neither by a first packet that bears it nor by a server that gives it out twice."""
    lab.shake()
    lab.send(quic.opaque(quic.INITIAL, 1100, destination=b"otherone", source=b"thief"),
             by=elsewhere)
    thief = lab.source
    lab.answer(quic.opaque(quic.HANDSHAKE, destination=b"thief", source=SERVERS))
    lab.send(quic.opaque(quic.INITIAL, 1100, destination=SERVERS, source=b"thief"), by=elsewhere)
    with Lab.socket() as moved:
        lab.send(quic.short(SERVERS), by=moved)
        assert thief != lab.source


def test_what_a_client_alone_says_takes_no_room_from_others(lab: Lab) -> None:
    """Its ids are never firm, and of no length that is tried from then on in short headers."""
    entered = []
    add = ClientIds.add

    def record(self: ClientIds, where: Any, name: bytes, known: Any, **more: bool) -> bool:
        entered.append((name, more.get("firm", False)))
        return add(self, where, name, known, **more)

    lab.patch.setattr(ClientIds, "add", record)
    made_up = [bytes((n,)) * n for n in range(4, 21)]
    for n, name in enumerate(made_up):
        with Lab.socket() as sock:
            lab.send(quic.opaque(quic.INITIAL, 1100, destination=name, source=b"cli"), by=sock)
            other = b"other-%02d" % n
            lab.send(quic.opaque(quic.HANDSHAKE, destination=other, source=b"cli"), by=sock)
            for one in (name, other, b"rotates-", b"further-"):
                lab.send(quic.short(one), by=sock)
    assert set(made_up) <= {name for name, _ in entered}
    assert not any(is_firm for _, is_firm in entered)
    assert () == lab.loop.get(ClientIds)._lengths
    lab.shake()
    assert (SERVERS, True) in entered
    assert (len(SERVERS),) == lab.loop.get(ClientIds)._lengths


def test_sessions_have_a_bounded_number_of_ids(lab: Lab) -> None:
    """However many connections a client begins; the one it uses stays."""
    lab.shake()
    for n in range(50):
        lab.send(quic.opaque(quic.INITIAL, 1100, destination=b"id%06d" % n, source=b"cli"))
    assert udp_quic.MOST_IDS == len(lab.names())
    assert SERVERS in lab.names()


def test_an_id_that_the_server_gave_in_secret_is_learnt_when_it_is_used(
    lab: Lab, elsewhere: socket.socket
) -> None:
    """From the address that is known, of the length of the first."""
    lab.shake()
    secret = bytes(reversed(SERVERS))
    lab.send(quic.short(secret))
    lab.send(quic.short(secret), by=elsewhere)
    assert 1 == len(lab.loop.sessions)


def initial(name: bytes, source: bytes = b"cli") -> bytes:
    """Return a datagram that a client begins with."""
    return quic.initial(b"\1", destination=name, source=source, size=1200)


@pytest.mark.parametrize("listen", ["127.0.0.1", "*"])
def test_connections_of_one_port_have_a_session_each(listen: str) -> None:
    """Their datagrams may come in one drain; who has ended leaves the others."""
    lab = Lab(listen=listen)
    names = {b"\x01server-id": b"first-id", b"\x02server-id": b"other-id", b"\x03serv": b"third-id"}
    sources = {}
    for name, first in names.items():
        lab.send(initial(first))
        sources[name] = lab.source
        lab.answer(quic.opaque(quic.HANDSHAKE, destination=b"cli", source=name))
        lab.send(quic.short(name))
        assert sources[name] == lab.source
    assert 3 == len(set(sources.values())) == len(lab.loop.sessions)
    listener = lab.served.listeners[0]
    for _ in range(3):
        listener._limit = 64
        lab.send(*(quic.short(name, bytes((n,))) for n in range(3) for name in names))
        for name, source in sources.items():
            lab.send(quic.short(name))
            assert source == lab.source
        client = lab.client.getsockname()
        key = client if listen != "*" else (client, b"\x7f\0\0\1")
        first = listener.table[key].c  # that all comes by, then another one
        (s,) = [one for one in lab.loop.sessions if one.c is first]
        if len(lab.loop.sessions) > 1:
            sources.pop(s.module_ctx(quic_conf.KEY).current)
            s.finalize(200)
    assert 1 == len(lab.loop.sessions) == len(listener.table)
    lab.close()


def test_a_first_datagram_that_comes_again_begins_nothing(lab: Lab) -> None:
    """Late, or twice: it is the session's own; and one that is too short begins nothing."""
    lab.shake(first=b"first-id")
    lab.send(initial(b"first-id"))
    lab.send(quic.initial(b"\1", destination=b"other-id", source=b"cli", size=1199))
    lab.send(initial(b"seven-7"))
    assert 1 == len(lab.loop.sessions)
    lab.send(initial(b"third-id"))
    assert 2 == len(lab.loop.sessions)


def test_a_session_that_ends_by_a_datagram_from_a_new_address_moves_nowhere(
    lab: Lab, elsewhere: socket.socket
) -> None:
    """Its client is in no table then, by the former address or the new one."""
    lab.shake()
    lab.send(quic.short(SERVERS, size=600), by=elsewhere)
    lab.answer(quic.short(b"cli", size=100))
    lab.now_ms += quic_paths.QUIET_MS
    lab.turn()
    held = lab.only

    class Last:
        """Takes the session's last datagram."""

        c = held.c

        def take(self, views: list[memoryview]) -> None:
            """End the session."""
            held.s.finalize(200)

    held.sink = Last()
    lab.send(quic.short(SERVERS), by=elsewhere)
    assert not lab.loop.sessions
    assert {} == lab.served.listeners[0].table


@pytest.mark.parametrize("words", ["", "ssl_preread on;"])
def test_who_forges_a_first_datagram_hurts_no_session(words: str) -> None:
    """From the client's own address: what it sends goes where it went, while a hello is awaited."""
    lab = Lab(f"proxy_quic on any_host; {words}")
    lab.shake()
    source = lab.source
    (half, _) = quic.Client(destination=b"forged-1").datagrams(quic.hello("one.test", size=1600))
    lab.send(half)
    assert 2 == len(lab.loop.sessions)
    for _ in range(20):
        assert [quic.short(SERVERS)] == lab.send(quic.short(SERVERS))
        assert source == lab.source
    lab.close()


def test_a_hello_of_several_datagrams_from_a_port_in_use_is_put_together() -> None:
    """In any order, beside what the other connection sends."""
    again = Lab("proxy_quic on; ssl_preread on;")
    again.shake()
    pieces = quic.Client(destination=b"other-id").datagrams(quic.hello("one.test", size=3000))
    again.send(pieces[2])
    again.send(quic.short(SERVERS), pieces[0])
    assert [pieces[2], pieces[0], pieces[1]] == again.send(pieces[1])
    names = [s.module_ctx("ssl_preread") for s in again.loop.sessions]
    assert b"one.test" in {one.server_name for one in names if one is not None}
    again.close()


def test_ids_that_share_a_prefix_are_one(elsewhere: socket.socket) -> None:
    """The client may use one that nobody has seen before."""
    lab = Lab("proxy_quic on prefix=7 any_host;")
    lab.shake()
    lab.prove(elsewhere, SERVERS[:7] + b"??")
    assert 1 == len(lab.loop.sessions) == lab.only.migrations
    lab.close()


def test_a_server_without_ids_keeps_nothing(lab: Lab, elsewhere: socket.socket) -> None:
    """The client's first one is forgotten with the handshake."""
    lab.send(quic.opaque(quic.INITIAL, 1100, destination=FIRST, source=b"cli"))
    lab.answer(quic.opaque(quic.HANDSHAKE, destination=b"cli", source=b""))
    lab.send(quic.short(b""))
    lab.send(quic.short(b""), by=elsewhere)
    assert 2 == len(lab.loop.sessions)


def test_the_second_datagram_lifts_the_bound_of_amplification() -> None:
    """While the handshake goes on, too; its answers are looked at all the same."""
    lab = Lab("proxy_quic on; proxy_udp_amplification 3;")
    lab.send(quic.opaque(quic.INITIAL, 1100, destination=FIRST, source=b"cli"))
    answers = [quic.opaque(quic.HANDSHAKE, 1000, destination=b"cli", source=SERVERS)] * 4
    lab.answer(*answers)
    assert 3 == len(lab.got(lab.client))
    lab.send(quic.opaque(quic.HANDSHAKE, destination=SERVERS, source=b"cli"))
    lab.answer(*answers * 4)
    assert 16 == len(lab.got(lab.client))
    assert isinstance(lab.only.c.sock, quic_paths.Tap)
    assert SERVERS in lab.names()
    lab.close()


def test_sessions_that_come_to_one_port_keep_a_place_each(lab: Lab) -> None:
    """Also those of whose ids none is in use yet."""
    firsts = [b"first-id", b"other-id", b"third-id", b"fourth-i"]
    for first in firsts:
        with Lab.socket() as sock:
            lab.send(initial(first), by=sock)
    listener = lab.served.listeners[0]
    key = lab.client.getsockname()
    for s in list(lab.loop.sessions):
        held = s.module_ctx(quic_conf.KEY)
        listener.rename(s.c, key, held.current, held)
    assert len(firsts) == len(listener.table) == len({s.c.key for s in lab.loop.sessions})


def test_addresses_are_bounded_and_forgotten(lab: Lab) -> None:
    """Those least of which is known give way; and all, when nothing comes from them."""
    lab.shake()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            lab.send(quic.short(SERVERS), by=stack.enter_context(Lab.socket()))
        assert quic_paths.MOST_PATHS == len(lab.only.paths.by_address)
        assert 1 == len(lab.loop.sessions)
    lab.now_ms += quic_paths.PATH_MS + 1
    lab.turn()
    lab.send(quic.short(SERVERS))
    assert {} == lab.only.paths.by_address
    assert not isinstance(lab.only.c.sock, quic_paths.Tap)


def test_rules_of_access_are_asked_about_the_new_address(elsewhere: socket.socket) -> None:
    """One that is denied begins a session that is refused."""
    lab = Lab("proxy_quic on; deny 127.0.0.9; allow all;")
    lab.shake()
    with Lab.socket("127.0.0.9") as denied, Lab.socket("127.0.0.8") as allowed:
        assert [] == lab.send(quic.short(SERVERS), by=denied)
        assert [quic.short(SERVERS)] == lab.send(quic.short(SERVERS), by=allowed)
    assert any("access forbidden by rule" in line for _, line in lab.served.target.lines)
    lab.close()


@pytest.mark.parametrize(("words", "host", "moves"), [
    ("proxy_quic on;", "127.0.0.9", 0),
    ("proxy_quic on;", "127.0.0.1", 1),
    ("proxy_quic on prefix=4;", "127.0.0.9", 0),
    ("proxy_quic on any_host;", "127.0.0.9", 1),
])
def test_another_host_is_answered_for_good_only_where_that_is_allowed(
    words: str, host: str, moves: int
) -> None:
    """Nobody can prove that an address is the client's: it could be anybody's who is to suffer."""
    lab = Lab(words)
    lab.shake()
    with Lab.socket(host) as other:
        lab.prove(other)
        assert moves == lab.only.migrations
        assert (not moves) == bool(lab.only.paths.by_address)
    lab.close()


def test_on_a_wildcard_the_address_that_was_used_stays(elsewhere: socket.socket) -> None:
    """A session goes on only at the address of the proxy that it began at."""
    lab = Lab(listen="*")
    lab.shake()
    lab.prove(elsewhere)
    assert 1 == lab.only.migrations
    host, port = "127.0.0.5", lab.served.address()[1]
    elsewhere.sendto(quic.short(SERVERS), (host, port))
    lab.turn()
    assert 2 == len(lab.loop.sessions)
    lab.close()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_ends_in_no_fault(lab: Lab, seed: int) -> None:
    """Mutated packets of both sides, from known addresses and new ones."""
    dice = random.Random(seed)
    lab.shake()
    pool = [
        quic.short(SERVERS), quic.opaque(quic.HANDSHAKE, destination=SERVERS, source=b"cli"),
        quic.opaque(quic.INITIAL, 300, destination=FIRST, source=b"cli"), b"",
    ]
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(Lab.socket()) for _ in range(6)]
        for _ in range(300):
            data = bytearray(dice.choice(pool))
            for _ in range(dice.randrange(4)):
                if data:
                    data[dice.randrange(min(40, len(data)))] = dice.randrange(256)
            lab.send(bytes(data[: dice.choice((5, 20, 60, 400))]),
                     by=dice.choice((lab.client, *others)))
            lab.answer(bytes(data))
            lab.now_ms += dice.randrange(300)
    assert len(lab.names()) <= udp_quic.MOST_IDS * len(lab.loop.sessions)


def test_what_bears_another_worker_s_id_goes_there_from_a_port_that_is_known_here(
    lab: Lab,
) -> None:
    """A connection that is over had the port; its session lasts until it has been idle."""
    lab.shake()
    passed: list[tuple[Any, bytes, int]] = []

    def forward(listener: Any, key: Any, peer: Any, data: Any, hops: int, to: int) -> bool:
        passed.append((key, bytes(data), to))
        return True

    ids = lab.loop.get(ClientIds)
    ids.shared, ids.forward = IdTable(shm.Zone("z", shm.LEAST, "test")), forward
    listener = lab.served.listeners[0]
    where = listener.listening.options.key
    ids.shared.put(hash((where, b"\x07elsewhere"[:9])), 9, os.getppid(), 3, lab.loop.now_ms)
    packet = quic.short(b"\x07elsewhere"[:9])
    assert [quic.short(SERVERS)] == lab.send(quic.short(SERVERS), packet)
    assert [(lab.client.getsockname(), packet, 3)] == passed
    assert SERVERS == lab.only.current
    ids.shared = ids.forward = None


@pytest.mark.parametrize(("words", "name"), [
    ("proxy_quic on prefix=4 any_host;", b"\x01abcdefgh"), ("proxy_quic on any_host;", b"\x01abc"),
])
def test_who_begins_with_an_id_like_another_s_is_another_client(words: str, name: bytes) -> None:
    """Its id is as long as it says: what it begins with by chance makes it no id of another."""
    with contextlib.closing(Lab(words)) as lab, lab.socket() as stranger:
        lab.shake(name)
        lab.answer(quic.short(b"cli"))
        assert lab.got(lab.client)
        mine = lab.source
        hello = initial(b"\x01abc-of-mine", b"own")
        assert [hello] == lab.send(hello, by=stranger)
        assert mine != lab.source
        answer = quic.opaque(quic.HANDSHAKE, 100, destination=b"own", source=b"\x02another")
        lab.answer(answer)
        assert [answer] == lab.got(stranger)
        assert [] == lab.got(lab.client)


def test_connections_of_one_port_whose_ids_share_a_prefix() -> None:
    """The handshake of the second one goes on by what its server has answered with."""
    with contextlib.closing(Lab("proxy_quic on prefix=4;")) as lab:
        lab.shake(b"\x01abcdefgh")
        lab.send(initial(b"second-one", b"own"))
        source = lab.source
        lab.answer(quic.opaque(quic.HANDSHAKE, 100, destination=b"own", source=b"\x02xyz-other"))
        lab.source = None
        assert 1 == len(lab.send(initial(b"\x02xyz-other", b"own")))
        assert source == lab.source
        assert 2 == len(lab.loop.sessions)


def test_a_first_packet_that_comes_again_from_elsewhere_is_of_the_session(
    lab: Lab, elsewhere: socket.socket
) -> None:
    """Its id is the same: a NAT has forgotten the client before the server has answered."""
    lab.send(initial(b"original-id"))
    source = lab.source
    assert 1 == len(lab.send(initial(b"original-id"), by=elsewhere))
    assert source == lab.source
    assert 1 == len(lab.loop.sessions)
