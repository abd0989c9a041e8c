"""Probing: each way a dialogue with a server ends, over every poller, and that nothing is left."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import select
import socket
import ssl
import struct
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core import errors
from ngxstream.event import libssl_context, probing, tls, tls_protocols
from ngxstream.event.loop import Loop
from ngxstream.event.probing import Outcome, Probing, Target
from tests.support import ports, processes, tools
from tests.support.certs import Authority, Pair
from tests.support.engine import engine, run_until

STREAM = int(socket.SOCK_STREAM)
DGRAM = int(socket.SOCK_DGRAM)
POLLERS = ("epoll", "poll", "select")
LONG_MS = 30_000
Dialogue = Generator[bytes, bytes, None]


class NotWellError(Exception):
    """What the dialogues here say of a server."""


def ask(send: bytes, expect: bytes) -> Dialogue:
    """Send a text and wait for an answer that ends with another one."""
    data = yield send
    while not data.endswith(expect):
        if b"no" in data:
            raise NotWellError("it says no")
        data += yield b""


def tell(*texts: bytes) -> Dialogue:
    """Send texts, and wait for nothing."""
    for text in texts:
        _ = yield text


class Lab:
    """A loop and one probe at a time; sees that everything is given back."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.outcomes: list[Outcome] = []

    def begin(
        self, address: Any, dialogue: Dialogue, *, kind: int = STREAM, timeout_ms: int = LONG_MS,
        most: int = 1 << 14, **target: Any,
    ) -> Probing:
        """Begin a probe."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        if isinstance(address, tuple) and len(address) == 4:
            family = socket.AF_INET6
        made = Probing(
            self.loop, Target(family, address, "the server", kind, **target), dialogue, timeout_ms,
            most, self.outcomes.append, NotWellError,
        )
        made.begin()
        assert not self.outcomes, "done() is called in a later turn"
        return made

    def outcome(self) -> Outcome:
        """Turn until the probe is over."""
        run_until(self.loop, lambda: self.outcomes)
        return self.outcomes.pop()

    def probe(self, *args: Any, **more: Any) -> Outcome:
        """Make a probe."""
        self.begin(*args, **more)
        return self.outcome()


def sockets() -> set[str]:
    """Return the sockets that are open."""
    return {link for link in processes.open_files(os.getpid()) if link.startswith("socket:")}


@pytest.fixture(params=POLLERS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Give a lab over each poller; at its end nothing is left of any probe."""
    with engine(request.param) as loop:
        before, free = sockets(), loop.free_connections
        yield Lab(loop)
        loop.turn(0)
        assert free == loop.free_connections
        assert not loop.handlers
        assert not any(loop.timers._buckets.values())
        assert loop.live == 0
        assert sockets() - before == set()


@contextlib.contextmanager
def listening(address: Any = ("127.0.0.1", 0), kind: int = STREAM) -> Iterator[socket.socket]:
    """Give a socket that listens, and does not wait long."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, kind) as sock:
        sock.bind(address)
        if kind == STREAM:
            sock.listen(8)
        sock.settimeout(20)
        yield sock


@contextlib.contextmanager
def accepted(server: socket.socket) -> Iterator[socket.socket]:
    """Accept one client."""
    client, _ = server.accept()
    with client:
        client.settimeout(20)
        yield client


# -- streams -----------------------------------------------------------------------------------


def test_a_server_that_answers_as_expected_passes(lab: Lab) -> None:
    """The outcome shows what was said on both sides."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"ping", b"pong"))
        with accepted(server) as peer:
            peer.sendall(b"pong")
            outcome = lab.outcome()
            assert peer.recv(100) == b"ping"
    assert outcome == (True, "well", b"ping", b"pong", None)


def test_a_server_that_speaks_first_byte_by_byte_passes(lab: Lab) -> None:
    """Each piece goes to the dialogue as it comes."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"", b"ready\n"))
        with accepted(server) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"ready\n":
                peer.send(bytes((byte,)))
                lab.loop.turn(5)
            assert lab.outcome().passed


def test_a_connection_alone_passes_where_nothing_is_said(lab: Lab) -> None:
    """And what is only sent passes when it is sent, all of it."""
    with listening() as server:
        assert lab.probe(server.getsockname(), tell()).passed
        assert lab.probe(server.getsockname(), tell(b"one", b"two")).sent == b"onetwo"
        with accepted(server):
            pass
        with accepted(server) as peer:
            assert peer.recv(100) == b"onetwo"


def test_what_a_dialogue_says_of_a_server_is_the_outcome(lab: Lab) -> None:
    """With its words."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"ping", b"pong"))
        with accepted(server) as peer:
            peer.sendall(b"no")
            assert lab.outcome()[:2] == (False, "it says no")


def test_a_refused_connection_fails(lab: Lab) -> None:
    """Whether the kernel says so at once or later."""
    outcome = lab.probe(("127.0.0.1", ports.free_port()), tell())
    assert not outcome.passed
    assert outcome.text.endswith("failed (111: Connection refused)")


def test_a_unix_socket_is_probed_too(lab: Lab, tmp_path: Path) -> None:
    """And one that is not there fails at once."""
    path = str(tmp_path / "s")
    with listening(path) as server:
        lab.begin(path, ask(b"ping", b"pong"))
        with accepted(server) as peer:
            peer.sendall(b"pong")
            assert lab.outcome().passed
    assert not lab.probe(str(tmp_path / "none"), tell()).passed


def test_a_reset_fails(lab: Lab) -> None:
    """In the middle of an answer."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"ping", b"pong"))
        with accepted(server) as peer:
            run_until(lab.loop, lambda: _has_come(peer))
            peer.recv(100)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        outcome = lab.outcome()
    assert outcome[:2] == (False, "recv() failed (104: Connection reset by peer)")


@pytest.mark.parametrize(
    ("said", "text"), [(b"", "connection before it said anything"), (b"po", "connection")]
)
def test_a_server_that_closes_early_fails(lab: Lab, said: bytes, text: str) -> None:
    """Before it has said all that was expected."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"ping", b"pong"))
        with accepted(server) as peer:
            run_until(lab.loop, lambda: _has_come(peer))
            peer.recv(100)
            peer.sendall(said)
        assert lab.outcome()[:2] == (False, f"the server closed the {text}")


def _has_come(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


@pytest.mark.parametrize(
    ("said", "text"), [(b"", "no answer in time"), (b"po", "no full answer in time")]
)
def test_an_answer_that_does_not_come_in_time_fails(lab: Lab, said: bytes, text: str) -> None:
    """None, and one that does not end."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"ping", b"pong"), timeout_ms=50)
        with accepted(server) as peer:
            peer.sendall(said)
            assert lab.outcome()[:2] == (False, text)


def test_a_connection_that_does_not_come_in_time_fails(lab: Lab) -> None:
    """The server's queue is full: the kernel does not answer."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        outcome = lab.probe(server.getsockname(), tell(), timeout_ms=50)
    assert outcome[:2] == (False, "no connection in time")


def test_a_server_that_does_not_read_fails(lab: Lab) -> None:
    """What it sends meanwhile does not keep the worker busy."""
    with listening() as server:
        lab.begin(server.getsockname(), tell(b"x" * (16 << 20)), timeout_ms=200)
        with accepted(server) as peer:
            peer.sendall(b"noise")
            turns = 0
            while not lab.outcomes:
                lab.loop.turn(1000)
                turns += 1
            assert lab.outcome()[:2] == (False, "it does not read in time")
    assert turns < 50


def test_a_text_that_does_not_fit_the_socket_is_sent_in_parts(lab: Lab) -> None:
    """As the server reads it."""
    size = 8 << 20
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"x" * size, b"pong"))
        with accepted(server) as peer:
            peer.setblocking(False)
            count = 0

            def drain() -> bool:
                nonlocal count
                with contextlib.suppress(BlockingIOError):
                    count += len(peer.recv(1 << 20))
                return count == size

            run_until(lab.loop, drain)
            peer.sendall(b"pong")
            assert lab.outcome().passed


def test_an_endless_answer_fails(lab: Lab) -> None:
    """After `most` bytes, of which few are kept."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"", b"pong"), most=10_000)
        with accepted(server) as peer:
            peer.sendall(b"x" * 100_000)
            outcome = lab.outcome()
    assert outcome[:2] == (False, "no end of the answer in 10000 bytes")
    assert len(outcome.received) == probing.KEPT


def test_an_answer_in_too_many_pieces_fails(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte it would be looked at as often as there are bytes."""
    monkeypatch.setattr(probing, "MOST_READS", 3)
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"", b"pong"))
        with accepted(server) as peer:
            while not lab.outcomes:
                peer.send(b"x")
                lab.loop.turn(5)
            assert lab.outcome()[:2] == (False, "no end of the answer in 3 pieces")


def test_only_the_first_bytes_of_an_answer_are_heard(lab: Lab) -> None:
    """What is expected may be among them, whatever follows."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"", b"pong"), most=4)
        with accepted(server) as peer:
            peer.sendall(b"pong and more")
            assert lab.outcome().passed


def test_a_header_goes_in_front(lab: Lab) -> None:
    """Of a stream, and of the first datagram."""
    with listening() as server:
        assert lab.probe(server.getsockname(), tell(b"text"), header=b"PROXY ").passed
        with accepted(server) as peer:
            assert peer.recv(100, socket.MSG_WAITALL) == b"PROXY text"
    with listening(kind=DGRAM) as server:
        lab.begin(server.getsockname(), ask(b"ping", b"pong"), kind=DGRAM, header=b"PROXY ")
        lab.loop.turn(0)
        data, client = server.recvfrom(100)
        server.sendto(b"pong", client)
        assert lab.outcome().passed
    assert data == b"PROXY ping"


# -- datagrams ---------------------------------------------------------------------------------


def test_a_datagram_that_answers_passes(lab: Lab) -> None:
    """Also after others, of which one is empty."""
    with listening(kind=DGRAM) as server:
        lab.begin(server.getsockname(), ask(b"ping", b"pong"), kind=DGRAM)
        lab.loop.turn(0)
        data, client = server.recvfrom(100)
        for answer in (b"other", b"", b"pong"):
            server.sendto(answer, client)
        assert data == b"ping"
        assert lab.outcome().passed


def test_a_closed_port_fails_at_once(lab: Lab) -> None:
    """By the ICMP message, whether an answer is expected or not."""
    for dialogue in (ask(b"ping", b"pong"), tell(b"ping")):
        outcome = lab.probe(("127.0.0.1", ports.free_udp_port()), dialogue, kind=DGRAM)
        assert outcome[:2] == (False, "recv() failed (111: Connection refused)")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_host_that_cannot_be_reached_fails(lab: Lab, host: str) -> None:
    """A router says so, or this host, which has asked for it in vain on its own network."""
    tools.require_root()
    is_v6 = ":" in host
    if is_v6:
        tools.require_ipv6()
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if is_v6 else socket.IPPROTO_ICMP
    with (
        socket.socket(family, DGRAM) as server,
        socket.socket(family, socket.SOCK_RAW, protocol) as router,
    ):
        server.bind((host, 0))
        lab.begin(server.getsockname(), tell(b"ping"), kind=DGRAM)
        lab.loop.turn(0)
        _, client = server.recvfrom(100)
        udp = struct.pack(">4H", client[1], server.getsockname()[1], 12, 0) + b"ping"
        raw = socket.inet_pton(family, host)
        if is_v6:
            head = b"\x60\0\0\0" + struct.pack(">HBB", len(udp), 17, 64) + raw + raw
            message = b"\1\3" + bytes(6) + head + udp  # the kernel adds the checksum
        else:
            head = struct.pack(">BBHHHBBH", 0x45, 0, 32, 1, 0, 64, 17, 0) + raw + raw
            message = b"\3\1" + bytes(6) + head + udp
            total = sum(struct.unpack(f">{len(message) // 2}H", message))
            total = (total & 0xFFFF) + (total >> 16)
            message = message[:2] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + (
                message[4:]
            )
        router.sendto(message, (host, 0))
        outcome = lab.outcome()
    assert outcome[:2] == (False, "recv() failed (113: No route to host)")


def test_what_has_nothing_to_hear_passes_when_the_time_is_up(lab: Lab) -> None:
    """Nobody has spoken against it."""
    with listening(kind=DGRAM) as server:
        outcome = lab.probe(server.getsockname(), tell(b"ping"), kind=DGRAM, timeout_ms=50)
        assert server.recv(100) == b"ping"
    assert outcome[:2] == (True, "nothing speaks against it")


def test_what_has_nothing_to_hear_passes_when_something_comes(lab: Lab) -> None:
    """Somebody is there."""
    with listening(kind=DGRAM) as server:
        lab.begin(server.getsockname(), tell(b"ping"), kind=DGRAM)
        lab.loop.turn(0)
        server.sendto(b"what?", server.recvfrom(100)[1])
        assert lab.outcome()[:2] == (True, "it answers")


def test_a_datagram_that_does_not_come_in_time_fails(lab: Lab) -> None:
    """Where one is expected."""
    with listening(kind=DGRAM) as server:
        outcome = lab.probe(server.getsockname(), ask(b"a", b"b"), kind=DGRAM, timeout_ms=50)
    assert outcome[:2] == (False, "no answer in time")


# -- TLS ---------------------------------------------------------------------------------------


class Secure:
    """TLS without a name; says what it is told to say of the certificate."""

    def __init__(self, said: str = "", error: errors.NgxError | None = None) -> None:
        self.context = libssl_context.Context(tls_protocols.DEFAULT, server_side=False)
        self.said = said
        self.error = error

    def begin(self, loop: Loop, sock: socket.SocketType) -> tls.Transport:
        """Begin."""
        if self.error is not None:
            raise self.error
        return tls.Transport(loop, self.context, sock)

    def complaint(self, transport: tls.Transport) -> str:
        """Complain."""
        return self.said


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Give a certificate of 30 days."""
    return Authority(tmp_path_factory.mktemp("ca")).issue("probed")


def serve_tls(peer: socket.socket, pair: Pair, lab: Lab) -> ssl.SSLSocket:
    """Shake hands as a server, with the lab's loop turning in between."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    peer.setblocking(False)
    wrapped = context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)

    def is_done() -> bool:
        with contextlib.suppress(ssl.SSLWantReadError):
            wrapped.do_handshake()
            return True
        return False

    run_until(lab.loop, is_done)
    return wrapped


def test_a_dialogue_goes_through_tls_below_which_the_header_is(lab: Lab, pair: Pair) -> None:
    """The outcome says for how long the server's certificate is valid."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"ping", b"pong"), secure=Secure(), header=b"PROXY ")
        with accepted(server) as peer:
            run_until(lab.loop, lambda: _has_come(peer))
            assert peer.recv(6) == b"PROXY "
            wrapped = serve_tls(peer, pair, lab)
            wrapped.sendall(b"pong")
            outcome = lab.outcome()
            assert wrapped.recv(100) == b"ping"
            wrapped.close()
    assert outcome.passed
    assert outcome.days_left in (29, 30)
    assert outcome.sent == b"ping"


def test_a_certificate_that_does_not_please_fails(lab: Lab, pair: Pair) -> None:
    """With what is wrong with it."""
    with listening() as server:
        lab.begin(server.getsockname(), tell(), secure=Secure("it is of somebody else"))
        with accepted(server) as peer:
            serve_tls(peer, pair, lab).close()
            outcome = lab.outcome()
    assert outcome[:2] == (False, "it is of somebody else")
    assert outcome.days_left in (29, 30)


@pytest.mark.parametrize(
    ("said", "text"),
    [(b"220 ready\r\n", "wrong version number"), (None, "closed connection in SSL handshake")],
)
def test_a_server_that_speaks_no_tls_fails(lab: Lab, said: bytes | None, text: str) -> None:
    """Whatever it does instead."""
    with listening() as server:
        lab.begin(server.getsockname(), tell(), secure=Secure())
        with accepted(server) as peer:
            run_until(lab.loop, lambda: _has_come(peer))
            peer.recv(4096)
            if said is not None:
                peer.sendall(said)
            else:
                peer.shutdown(socket.SHUT_WR)
            outcome = lab.outcome()
    assert not outcome.passed
    assert text in outcome.text


def test_a_handshake_that_does_not_end_in_time_fails(lab: Lab) -> None:
    """The server is silent."""
    with listening() as server:
        outcome = lab.probe(server.getsockname(), tell(), secure=Secure(), timeout_ms=50)
    assert outcome[:2] == (False, "no TLS handshake in time")


def test_tls_that_cannot_begin_is_no_fault_of_the_server(lab: Lab) -> None:
    """Nothing is known of it."""
    with listening() as server:
        secure = Secure(error=errors.InternalError("no TLS today"))
        assert lab.probe(server.getsockname(), tell(), secure=secure)[:2] == (None, "no TLS today")


# -- what is our own fault -----------------------------------------------------------------------


def test_without_a_slot_nothing_is_known_of_the_server(lab: Lab) -> None:
    """worker_connections are for clients first."""
    lab.loop.free_connections, free = 0, lab.loop.free_connections
    outcome = lab.probe(("127.0.0.1", 1), tell())
    lab.loop.free_connections = free
    assert outcome[:2] == (None, "512 worker_connections are not enough")


def test_without_descriptors_nothing_is_known_of_the_server(lab: Lab) -> None:
    """And the next probe is made as ever."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listening() as server:
        address = server.getsockname()
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        holes = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    holes.append(os.dup(0))
            outcome = lab.probe(address, tell())
        finally:
            for fd in holes:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert outcome[:2] == (None, "socket() failed (24: Too many open files)")
        assert lab.probe(address, tell()).passed


def test_a_descriptor_that_cannot_be_watched_is_given_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As select()'s are from 1024 on."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "it cannot be watched")

    with listening() as server:
        monkeypatch.setattr(lab.loop, "register", refuse)
        outcome = lab.probe(server.getsockname(), tell())
    assert outcome[:2] == (None, "it cannot be watched")


def test_a_dialogue_that_breaks_is_a_fault_of_ours(lab: Lab) -> None:
    """It is logged as one, and nothing is known of the server."""

    def broken() -> Dialogue:
        yield b"ping"
        raise ValueError("broken")

    with listening() as server:
        assert lab.probe(server.getsockname(), broken()).passed is None
    assert any("broken" in line for _, line in lab.loop.log.lines)  # type: ignore[attr-defined]


def test_a_fault_of_the_loop_ends_it(lab: Lab) -> None:
    """Its owner hears."""
    with listening() as server:
        lab.begin(server.getsockname(), ask(b"", b"x")).on_fault()
        assert lab.outcome()[:2] == (None, "unexpected error")


# -- the end -------------------------------------------------------------------------------------


def stubborn() -> Dialogue:
    """Wait, and do not end when asked to."""
    try:
        yield b"ping"
        yield b""
    except GeneratorExit:
        yield b"not yet"


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("kind", [STREAM, DGRAM])
@pytest.mark.parametrize("make", [lambda: ask(b"ping", b"pong"), stubborn])
def test_a_probe_can_be_given_up_at_any_time(
    lab: Lab, turns: int, kind: int, make: Callable[[], Dialogue]
) -> None:
    """done() is not called then, and nothing is left."""
    with listening(kind=kind) as server:
        made = lab.begin(server.getsockname(), make(), kind=kind)
        for _ in range(turns):
            lab.loop.turn(0)
        made.cancel()
        made.cancel()
        lab.loop.turn(0)
    assert not lab.outcomes


@pytest.mark.parametrize("turns", range(5))
def test_a_handshake_can_be_given_up_at_any_time(lab: Lab, pair: Pair, turns: int) -> None:
    """Before, while and after it is made."""
    with listening() as server:
        made = lab.begin(server.getsockname(), ask(b"", b"x"), secure=Secure())
        with accepted(server) as peer:
            wrapped = serve_tls(peer, pair, lab) if turns > 2 else peer
            for _ in range(turns):
                lab.loop.turn(0)
            made.cancel()
            lab.loop.turn(0)
            wrapped.close()
    assert not lab.outcomes


def test_nothing_needs_the_cyclic_collector(lab: Lab, pair: Pair) -> None:
    """A probe and its dialogue are gone when it is over, however it ended."""
    gone: list[weakref.ref[Dialogue]] = []

    def begin(address: Any, dialogue: Dialogue, **more: Any) -> None:
        gone.append(weakref.ref(dialogue))
        lab.begin(address, dialogue, **more)

    gc.collect()
    gc.disable()
    try:
        with listening() as server, listening(kind=DGRAM) as other:
            begin(server.getsockname(), tell(b"x"))
            lab.outcome()
            begin(server.getsockname(), ask(b"", b"x"), timeout_ms=20)
            lab.outcome()
            begin(("127.0.0.1", ports.free_port()), tell())
            lab.outcome()
            begin(other.getsockname(), tell(b"x"), kind=DGRAM, timeout_ms=20)
            lab.outcome()
        with listening() as server:
            begin(server.getsockname(), tell(), secure=Secure())
            with accepted(server) as peer:
                serve_tls(peer, pair, lab).close()
                lab.outcome()
        lab.loop.turn(0)
        assert [one() for one in gone] == [None] * 5
    finally:
        gc.enable()
