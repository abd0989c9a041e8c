"""Transports and TLS halves on a loop turned by hand, against the ssl module's own client."""

import contextlib
import fcntl
import os
import socket
import ssl
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import codes
from ngxstream.core.log import Log
from ngxstream.event import (
    libssl_context,
    libssl_sessions,
    poller,
    pump,
    tls,
    tls_protocols,
    tls_pump,
)
from ngxstream.event.loop import Loop, PoisoningLoop
from tests.support import certs
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> certs.Pair:
    """Give a certificate."""
    return certs.Authority(tmp_path_factory.mktemp("ca")).issue("a.test")


def make_context(pair: certs.Pair) -> libssl_context.Context:
    """Make a server's context."""
    context = libssl_context.Context(tls_protocols.DEFAULT, server_side=True)
    context.add_certificate(str(pair.cert), str(pair.key), None)
    return context


@pytest.fixture(params=["epoll", "poll"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    """Give a loop on each kind of readiness."""
    made = PoisoningLoop(Log([]), poller.POLLERS[request.param](512))
    yield made
    for _ in range(3):
        made.turn(wait_ms=0)
    made.poller.close()


class Client:
    """The ssl module's client at the other end of a socket pair, never waiting."""

    def __init__(self, sock: socket.socket, version: ssl.TLSVersion | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if version is not None:
            context.maximum_version = version
        sock.setblocking(False)
        self.sock = context.wrap_socket(sock, do_handshake_on_connect=False)

    def shakes(self) -> bool:
        """Take a step; tell whether the handshake is over."""
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def write(self, data: bytes) -> int:
        """Write what there is room for."""
        try:
            return self.sock.send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0

    def read(self) -> bytes | None:
        """Read what is there; None when nothing is, b"" at the end."""
        try:
            return self.sock.recv(1 << 16)
        except ssl.SSLWantReadError:
            return None


def join(loop: Loop, context: Any, **options: Any) -> tuple[tls.Transport, Client]:
    """Shake hands over a socket pair."""
    left, right = socket.socketpair()
    left.setblocking(False)
    for sock in (left, right):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    transport = tls.Transport(loop, context, left)
    client = Client(right, **options)

    def is_done() -> bool:
        over = client.shakes()
        return transport.handshake() == codes.OK and over

    wait_until(is_done, PATIENCE, "the handshake")
    return transport, client


class Owner:
    """The owner of a pair of halves; notes what it is told."""

    timeout = 60_000

    def __init__(self) -> None:
        self.deadline = 0
        self.ended: list[Any] = []
        self.errors: list[OSError] = []

    def on_end(self, half: pump.Half) -> None:
        """Note the end of a direction."""
        self.ended.append(half)

    def on_read_error(self, half: pump.Half, error: OSError) -> None:
        """Note a failed read."""
        self.errors.append(error)

    def on_write_error(self, half: pump.Half, error: OSError) -> None:
        """Note a failed write."""
        self.errors.append(error)

    def on_bulky(self, half: pump.Half) -> bool:
        """Never change to splicing."""
        return False

    def on_fault(self) -> None:
        """Fail: nothing unexpected may happen."""
        raise AssertionError("a fault")


class Relay:
    """A TLS client and a plain backend, joined by two halves."""

    def __init__(self, loop: Loop, context: Any, **options: Any) -> None:
        self.loop = loop
        self.transport, self.client = join(loop, context, **options)
        peer, self.backend = socket.socketpair()
        for sock in (peer, self.backend):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.peer = peer
        owner = self.owner = Owner()
        up = self.up = tls_pump.half(
            owner, loop, self.transport, self.transport.fd, peer, peer.fileno()
        )
        down = self.down = tls_pump.half(
            owner, loop, peer, peer.fileno(), self.transport, self.transport.fd
        )
        up.twin, down.twin = down, up
        loop.register(self.transport.fd, up.on_event)
        loop.register(peer.fileno(), down.on_event)

    def turn_until(self, condition: Any, what: str) -> None:
        """Turn the loop until something holds."""

        def turn() -> bool:
            self.loop.turn(wait_ms=1)
            return bool(condition())

        wait_until(turn, PATIENCE, what, every=0)

    def close(self) -> None:
        """Let go of everything at once."""
        for sock in (self.transport, self.peer):
            self.loop.poller.forget(sock.fileno())
        self.transport.quiet = True
        self.up.close()
        self.down.close()
        self.transport.close()
        for plain in (self.client.sock, self.peer, self.backend):
            plain.close()


def exchange(relay: Relay, to_backend: bytes, to_client: bytes) -> tuple[bytes, bytes]:
    """Send both ways at once; return what came."""
    came_up, came_down = bytearray(), bytearray()
    sent = [0, 0]

    def is_through() -> bool:
        if sent[0] < len(to_backend):
            sent[0] += relay.client.write(to_backend[sent[0] :])
        if sent[1] < len(to_client):
            with contextlib.suppress(BlockingIOError):
                sent[1] += relay.backend.send(to_client[sent[1] :])
        with contextlib.suppress(BlockingIOError):
            came_up.extend(relay.backend.recv(1 << 16))
        came_down.extend(relay.client.read() or b"")
        return len(came_up) == len(to_backend) and len(came_down) == len(to_client)

    relay.turn_until(is_through, "all bytes on both sides")
    return bytes(came_up), bytes(came_down)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bytes_pass_both_ways_at_once(loop: Loop, pair: certs.Pair, version) -> None:
    """A megabyte each way through small socket buffers arrives as it was sent."""
    relay = Relay(loop, make_context(pair), version=version)
    up, down = os.urandom(1 << 20), os.urandom(1 << 20)
    assert (up, down) == exchange(relay, up, down)
    assert (len(up), len(up)) == (relay.up.received, relay.up.sent)
    assert (len(down), len(down)) == (relay.down.received, relay.down.sent)
    assert [] == relay.owner.errors
    relay.close()


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40000), max_size=8), st.lists(st.integers(1, 40000), max_size=8))
def test_any_sizes_of_writes_arrive_whole(tls_pair, ups: list[int], downs: list[int]) -> None:
    """However the bytes are cut, they come out in order and complete."""
    made = PoisoningLoop(Log([]))
    relay = Relay(made, make_context(tls_pair))
    for n, size in enumerate([*ups, *downs]):
        data = bytes((n + i) & 0xFF for i in range(size))
        up, down = (data, b"") if n < len(ups) else (b"", data)
        assert (up, down) == exchange(relay, up, down)
    relay.close()
    made.turn(wait_ms=0)
    made.poller.close()


@pytest.fixture(scope="module")
def tls_pair(pair: certs.Pair) -> certs.Pair:
    """Give the certificate to a property test."""
    return pair


@pytest.mark.parametrize("politely", [True, False])
def test_the_end_of_a_client_is_an_end(loop: Loop, pair: certs.Pair, politely: bool) -> None:
    """With close_notify or without: what came before it is passed on, then the direction ends."""
    relay = Relay(loop, make_context(pair))
    relay.client.write(b"last words")
    if politely:
        with pytest.raises(ssl.SSLWantReadError):
            relay.client.sock.unwrap()
    else:
        relay.client.read()  # what is unread would turn the close into a reset
        relay.client.sock.close()
    relay.turn_until(lambda: relay.owner.ended, "the end")
    assert b"last words" == relay.backend.recv(100)
    assert ([relay.up], []) == (relay.owner.ended, relay.owner.errors)
    relay.close()


def test_garbage_after_the_handshake_is_an_error(loop: Loop, pair: certs.Pair) -> None:
    """A record that does not decrypt is told as nginx tells it, and ends the direction."""
    relay = Relay(loop, make_context(pair))
    raw = relay.client.sock.detach()
    os.write(raw, b"\x17\x03\x03\x00\x20" + bytes(32))
    relay.turn_until(lambda: relay.owner.ended, "the end")
    (error,) = relay.owner.errors
    assert isinstance(error, tls.Failure)
    assert error.message.startswith("SSL_read() failed (SSL: error:0A000119:SSL routines::decrypt")
    assert error.code is None
    os.close(raw)
    relay.close()


def test_a_reset_is_told_with_its_errno(loop: Loop, pair: certs.Pair) -> None:
    """ECONNRESET comes through as it is."""
    door = socket.create_server(("127.0.0.1", 0))
    plain = socket.create_connection(door.getsockname())
    accepted, _ = door.accept()
    accepted.setblocking(False)
    transport = tls.Transport(loop, make_context(pair), accepted)
    client = Client(plain)
    wait_until(
        lambda: client.shakes() & (transport.handshake() == codes.OK), PATIENCE, "the handshake"
    )
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.sock.close()
    door.close()
    failed: list[tls.Failure] = []

    def has_failed() -> bool:
        try:
            transport.recv_into(bytearray(10))
        except BlockingIOError:
            pass
        except tls.Failure as failure:
            failed.append(failure)
        return bool(failed)

    wait_until(has_failed, PATIENCE, "the failure")
    assert [("SSL_read() failed", 104)] == [(one.message, one.code) for one in failed]
    transport.close()


def test_who_closes_first_waits_for_the_answer(loop: Loop, pair: certs.Pair) -> None:
    """close() says the end, lingers with slot and life, and goes when the client has ended too."""
    transport, client = join(loop, make_context(pair))
    slots, live = loop.free_connections, loop.live
    loop.register(transport.fd, lambda mask: None)
    loop.close_later(transport)
    loop.turn(wait_ms=0)
    assert (slots - 1, live + 1) == (loop.free_connections, loop.live)

    def heard() -> bytes | None:
        loop.turn(wait_ms=1)
        return client.read()

    wait_until(lambda: heard() == b"", PATIENCE, "close_notify")
    client.sock.close()

    def is_over() -> bool:
        loop.turn(wait_ms=1)
        return loop.live == live

    wait_until(is_over, PATIENCE, "the end of the lingering")
    assert (slots, 0) == (loop.free_connections, transport.pointer)


def test_a_client_that_does_not_answer_is_waited_for_no_longer(
    loop: Loop, pair: certs.Pair
) -> None:
    """After three seconds of the loop's clock the lingering ends."""
    transport, client = join(loop, make_context(pair))
    live = loop.live
    transport.close()
    assert live + 1 == loop.live
    assert loop.now_ms + tls.LINGER_MS == transport.deadline
    loop.timers.expire(transport.deadline + 10, lambda _: None)
    loop.turn(wait_ms=0)
    assert live == loop.live
    client.sock.close()


class Store(dict[bytes, bytes]):
    """A cache of sessions."""

    def put(self, key: bytes, data: bytes, expires_s: int) -> None:
        """Keep a session."""
        self[key] = data

    def remove(self, key: bytes) -> None:
        """Forget a session."""
        self.pop(key, None)


@pytest.mark.parametrize("how", ["with close_notify", "without", "by a reset", "here, quietly"])
def test_a_session_outlives_its_connection_however_that_ends(
    loop: Loop, pair: certs.Pair, how: str
) -> None:
    """The library would forget one that ended without a close_notify of ours; nginx has it not."""
    context, store = make_context(pair), Store()
    context.set_options(libssl_context.NO_TICKET)
    context.set_session_cache(
        libssl_context.CACHE_SERVER | libssl_context.CACHE_NO_INTERNAL, None, 300
    )
    libssl_sessions.use_store(context, store)
    transport, client = join(loop, context, version=ssl.TLSVersion.TLSv1_2)
    if how == "with close_notify":
        with contextlib.suppress(ssl.SSLWantReadError):
            client.sock.unwrap()
    if how == "by a reset":
        transport.send(b"unread")
    if how == "here, quietly":
        transport.quiet = True
    else:
        client.sock.close()
        with contextlib.suppress(tls.Failure):
            assert 0 == transport.recv_into(bytearray(10))
    transport.close()
    assert 0 == transport.pointer
    assert 1 == len(store)
    client.sock.close()


def test_nothing_is_asked_of_a_connection_that_is_closed(loop: Loop, pair: certs.Pair) -> None:
    """Whoever has it still waits in vain, and the library is not given a null pointer."""
    transport, client = join(loop, make_context(pair))
    transport.quiet = True
    transport.close()
    transport.close()
    with pytest.raises(BlockingIOError):
        transport.recv_into(bytearray(10))
    with pytest.raises(BlockingIOError):
        transport.send(b"late")
    assert (tls.NOT_NOW, False) == (transport.read_at(0, 1), transport.has_pending())
    assert codes.ERROR == transport.handshake()
    client.sock.close()


def test_connections_are_freed_with_what_they_hold(loop: Loop, pair: certs.Pair) -> None:
    """Handshakes and ends, polite or not, do not grow the process."""
    context = make_context(pair)

    def once(is_quiet: bool) -> None:
        transport, client = join(loop, context)
        transport.send(b"x" * 3000)
        transport.quiet = is_quiet
        client.sock.close()
        transport.close()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    for n in range(60):
        once(n % 2 == 0)
    before = resident()
    for n in range(200):
        once(n % 2 == 0)
    assert resident() - before < 2 << 20


@pytest.mark.parametrize("is_kernel", [False, True])
def test_where_the_kernel_may_decrypt_little_is_read_at_once(
    loop: Loop, pair: certs.Pair, is_kernel: bool
) -> None:
    """OpenSSL counts what the kernel has decrypted in 16 bits: a buffer of 64 KiB loses bytes."""
    context = make_context(pair)
    if is_kernel:
        context.run_commands([("Options", "KTLS")], "")
    assert is_kernel == context.may_use_kernel()
    transport, client = join(loop, context, version=ssl.TLSVersion.TLSv1_2)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    sent = sum(client.write(b"x" * 1000) for _ in range(40))
    assert sent > 20_000
    assert 1 == transport.recv_into(bytearray(1))
    left = fcntl.ioctl(transport.fd, termios.FIONREAD, bytes(4))
    assert is_kernel == (int.from_bytes(left, sys.byteorder) > 0)
    transport.quiet = True
    transport.close()
    client.sock.close()


def test_a_client_that_was_not_given_all_hears_no_end(loop: Loop, pair: certs.Pair) -> None:
    """A quiet close sends no close_notify: the client sees a truncation."""
    transport, client = join(loop, make_context(pair))
    transport.quiet = True
    transport.close()
    client.sock.context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    seen: list[BaseException | bytes] = []

    def ended() -> bool:
        try:
            data = client.read()
        except (ssl.SSLError, BrokenPipeError) as error:
            seen.append(error)  # a pipe breaks where the client tells a closed socket of it
            return True
        if data is not None:
            seen.append(data)
        return data == b""

    wait_until(ended, PATIENCE, "the end")
    assert isinstance(seen[-1], ssl.SSLEOFError | BrokenPipeError) or seen[-1] == b""
    client.sock.close()


def test_a_failed_handshake_closes_without_a_word(loop: Loop, pair: certs.Pair) -> None:
    """What is no ClientHello fails; the transport can be closed and is gone."""
    left, right = socket.socketpair()
    left.setblocking(False)
    transport = tls.Transport(loop, make_context(pair), left)
    right.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert codes.ERROR == transport.handshake()
    message, number = transport.failure
    assert message.startswith("SSL_do_handshake() failed (SSL: error:0A00009C:SSL routines::http")
    assert None is number
    transport.close()
    assert -1 == transport.sock.fileno()
    right.close()
