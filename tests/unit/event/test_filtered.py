"""event/filtered.py: a direction through a filter, against a model, by each poller."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.event import filtered, libssl_context, pump, tls, tls_protocols, tls_pump
from ngxstream.event.filtered import FilteredHalf
from ngxstream.event.loop import Loop
from tests.support import certs
from tests.support.engine import engine, run_until

POLLERS = ("epoll", "poll", "select")


class Through:
    """A filter that keeps what it was given, and may answer late."""

    def __init__(self, make: Callable[[bytes], bytes], last: bytes = b"", *, room: int = 65536,
                 is_late: bool = False) -> None:
        self.make = make
        self.last = last
        self.room = room
        self.most = 1 << 20
        self.is_late = is_late
        self.given: list[bytes] = []
        self.half: Any = None
        self.full: list[int] = []
        self.ends = 0
        self.owed: list[bytes] = []  # what a late one has yet to answer

    def begin(self, half: FilteredHalf) -> None:
        self.half = half

    def _answer(self, made: bytes) -> bytes | None:
        if not self.is_late:
            return made
        assert [] == self.owed, "it was given more before it had answered"
        self.owed.append(made)
        self.half.loop.post(self.answer_late)
        return None

    def answer_late(self) -> None:
        if self.half is not None:
            self.half.go_on(self.owed.pop())

    def take(self, data: bytes) -> bytes | None:
        assert type(data) is bytes
        self.given.append(data)
        return self._answer(self.make(data))

    def end(self) -> bytes | None:
        self.ends += 1
        return self._answer(self.last)

    def on_full(self, waiting: int) -> None:
        self.full.append(waiting)
        self.half.owner.close()

    def close(self) -> None:
        self.half = None


class Relay:
    """An owner of two halves: near is the client's, far the server's."""

    def __init__(self, loop: Loop, near: Any, far: Any, up: Through | None,
                 down: Through | None = None) -> None:
        self.loop = loop
        self.deadline = 0
        self.timeout = 60_000
        self.ended: list[str] = []
        self.errors: list[int | None] = []
        self.near, self.far = near, far
        fds = near.fileno(), far.fileno()

        def make(through: Any, source: Any, source_fd: int, sink: Any, sink_fd: int) -> Any:
            if through is None:
                return tls_pump.half(self, loop, source, source_fd, sink, sink_fd)
            return FilteredHalf(self, loop, source, source_fd, sink, sink_fd, through=through)

        self.up = make(up, near, fds[0], far, fds[1])
        self.down = make(down, far, fds[1], near, fds[0])
        self.up.twin, self.down.twin = self.down, self.up
        loop.register(fds[0], self.up.on_event)
        loop.register(fds[1], self.down.on_event)

    def on_last(self, half: Any) -> None:
        self.ended.append("last")

    def on_held_back(self, half: Any) -> None:
        raise AssertionError("nothing is held back")

    def on_end(self, half: Any) -> None:
        assert half.eof and half.pending is None
        self.ended.append("up" if half is self.up else "down")
        if half.owner is not None:
            (self.far if half is self.up else self.near).shutdown(socket.SHUT_WR)

    def on_read_error(self, half: Any, error: OSError) -> None:
        self.errors.append(error.errno)

    def on_write_error(self, half: Any, error: OSError) -> None:
        self.errors.append(error.errno)
        self.close()

    def on_bulky(self, half: Any) -> bool:
        return False

    def on_fault(self) -> None:
        raise AssertionError("an exception came out")

    def close(self) -> None:
        self.loop.unregister(self.near.fileno())
        self.loop.unregister(self.far.fileno())
        self.up.close()
        self.down.close()


@contextmanager
def pair(stack: ExitStack, buffer: int = 0) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a TCP connection, which do not wait."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    if buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    one = stack.enter_context(socket.create_connection(listener.getsockname()))
    if buffer:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    two, _ = listener.accept()
    stack.enter_context(two)
    for sock in (one, two):
        sock.setblocking(False)
    yield one, two


@contextmanager
def joined(name: str, up: Through | None, down: Through | None = None, buffer: int = 0,
           ) -> Iterator[tuple[Loop, Relay, socket.socket, socket.socket]]:
    """Give a relay between a client and a server."""
    with ExitStack() as stack, engine(name) as loop:
        client, near = stack.enter_context(pair(stack, buffer))
        far, server = stack.enter_context(pair(stack, buffer))
        relay = Relay(loop, near, far, up, down)
        try:
            yield loop, relay, client, server
        finally:
            if relay.up.owner is not None:
                relay.close()


class Reading:
    """What comes out of a socket."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.data = b""
        self.is_over = False

    def step(self, size: int = 1 << 16) -> bool:
        """Read a bit. Returns: whether it has ended"""
        try:
            piece = self.sock.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError):
            return self.is_over
        self.data += piece
        self.is_over = self.is_over or not piece
        return self.is_over


def double(data: bytes) -> bytes:
    """Make twice as many bytes of each."""
    return bytes(byte for byte in data for _ in range(2))


@settings(max_examples=30)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=3000), max_size=8),
    room=st.sampled_from([1, 7, 1000, 65536]),
    is_late=st.booleans(),
    name=st.sampled_from(POLLERS),
    make=st.sampled_from([double, bytes.upper, lambda data: b"", lambda data: data]),
    last=st.sampled_from([b"", b"bye"]),
)
def test_what_comes_out_is_what_the_filter_makes(
    pieces: list[bytes], room: int, is_late: bool, name: str, make: Callable[[bytes], bytes],
    last: bytes,
) -> None:
    """However the bytes are cut, whenever it answers; its last bytes are behind all others."""
    through = Through(make, last, room=room, is_late=is_late)
    with joined(name, through) as (loop, relay, client, server):
        seen = Reading(server)
        for piece in pieces:
            client.send(piece)
            loop.turn(wait_ms=0)
        client.shutdown(socket.SHUT_WR)
        run_until(loop, seen.step)
        whole = b"".join(pieces)
        assert whole == b"".join(through.given)
        assert all(len(piece) <= room for piece in through.given)
        assert make(whole) + last == seen.data
        assert (1, ["last", "up"]) == (through.ends, relay.ended)
        assert (len(whole), len(seen.data)) == (relay.up.received, relay.up.sent)


@pytest.mark.parametrize("name", POLLERS)
@pytest.mark.parametrize("is_late", [False, True])
def test_a_sink_that_takes_nothing_stops_the_source(name: str, is_late: bool) -> None:
    """One piece's worth waits, and the filter is given no more; all of it arrives in the end."""
    through = Through(double, b"end", room=4096, is_late=is_late)
    with joined(name, through, buffer=4096) as (loop, relay, client, server):
        sent = 0
        data = bytes(range(256)) * 1024

        def is_stuck() -> bool:
            nonlocal sent
            try:
                sent += client.send(data[sent:])
            except BlockingIOError:
                return relay.up.pending is not None
            return False

        run_until(loop, is_stuck)
        given = len(through.given)
        for _ in range(20):
            loop.turn(wait_ms=0)
        assert given == len(through.given)
        assert 0 < relay.up.waiting() <= 2 * 4096
        seen = Reading(server)

        def is_done() -> bool:
            nonlocal sent
            try:
                if sent < len(data):
                    sent += client.send(data[sent:])
                    if sent == len(data):
                        client.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                pass
            return seen.step()

        run_until(loop, is_done)
        assert double(data) + b"end" == seen.data


@pytest.mark.parametrize("name", POLLERS)
def test_more_than_may_wait_is_told(name: str) -> None:
    """Of what one piece was made into."""
    through = Through(lambda data: data * 8_000_000)
    through.most = 1000
    with joined(name, through, buffer=4096) as (loop, _, client, _):
        client.send(b"x")
        run_until(loop, lambda: through.full)
        assert through.full[0] > 1000
        assert through.half is None


def test_a_source_is_not_read_while_the_filter_works() -> None:
    """Not by further events of it; what came meanwhile is the next piece."""
    through = Through(bytes.upper)
    through._answer = lambda made: None  # type: ignore[method-assign, assignment]
    with joined("epoll", through) as (loop, relay, client, server):
        client.send(b"one")
        run_until(loop, lambda: through.given)
        client.send(b"two")
        client.send(b"three")
        for _ in range(5):
            loop.turn(wait_ms=1)
        assert [b"one"] == through.given
        relay.up.go_on(b"1")
        seen = Reading(server)
        run_until(loop, lambda: seen.step() or len(through.given) == 2)
        assert ([b"one", b"twothree"], b"1") == (through.given, seen.data)


def test_what_is_pushed_comes_before_what_a_call_returns() -> None:
    """And behind what waits."""
    through = Through(bytes.upper)

    def push_too(data: bytes) -> bytes:
        through.half.push(b"<")
        through.half.twin.push(b"hello")
        return data

    through.make = push_too
    with joined("epoll", through) as (loop, _, client, server):
        client.send(b"a")
        seen, back = Reading(server), Reading(client)
        run_until(loop, lambda: seen.step() or back.step() or (seen.data and back.data))
        assert (b"<a", b"hello") == (seen.data, back.data)


def test_a_slow_filter_has_its_share_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on in the next one."""
    monkeypatch.setattr(filtered, "SHARE_NS", -1)
    through = Through(bytes.upper, room=1)
    with joined("epoll", through) as (loop, _, client, server):
        client.send(b"abc")
        seen = Reading(server)
        turns = 0
        while len(seen.data) < 3:
            before = len(through.given)
            loop.turn(wait_ms=10)
            turns += 1
            seen.step()
            assert len(through.given) - before <= 2  # by its event, and by what was posted
        assert turns > 1


def test_what_was_read_before_goes_first() -> None:
    """Without an event of the socket."""
    through = Through(bytes.upper)
    with joined("epoll", through) as (loop, relay, client, server):
        loop.turn(wait_ms=0)
        relay.up.begin_with(b"first ")
        client.send(b"second")
        seen = Reading(server)
        run_until(loop, lambda: seen.step() or len(seen.data) == 12)
        assert (b"FIRST SECOND", 12) == (seen.data, relay.up.received)


@pytest.mark.parametrize("is_late", [False, True])
def test_a_rate_holds_for_what_is_read(is_late: bool) -> None:
    """What the filter makes of it does not count; the source rests meanwhile."""
    through = Through(double, is_late=is_late)
    with joined("epoll", through) as (loop, relay, client, server):
        relay.up.limiter = pump.RateLimiter(10, loop.now_ms)
        loop.register(relay.near.fileno(), relay.up.on_event_rated)
        client.send(b"x" * 100)
        seen = Reading(server)
        run_until(loop, lambda: seen.step() or relay.up.limiter.paused)
        run_until(loop, lambda: seen.step() or len(seen.data) >= 20)
        assert relay.up.received <= 10 * (loop.now_ms // 1000 - relay.up.limiter.start_s + 1)
        assert 2 * relay.up.received >= len(seen.data)


def test_a_closed_half_takes_no_late_answer() -> None:
    """Nothing comes of it, and nothing is kept."""
    through = Through(bytes.upper)
    through._answer = lambda made: None  # type: ignore[method-assign, assignment]
    with joined("epoll", through) as (loop, relay, client, server):
        client.send(b"x")
        run_until(loop, lambda: through.given)
        half = relay.up
        relay.close()
        half.go_on(b"late")
        assert (None, None, 0) == (half.filter, half.owner, half.sent)
        seen = Reading(server)
        seen.step()
        assert b"" == seen.data


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> certs.Pair:
    """Give a certificate."""
    return certs.Authority(tmp_path_factory.mktemp("ca")).issue("a.test")


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("name", POLLERS)
def test_both_directions_of_a_tls_client(name: str, is_late: bool, certificate: certs.Pair) -> None:
    """Whole records, more than a buffer at once, both ends of stream."""
    context = libssl_context.Context(tls_protocols.DEFAULT, server_side=True)
    context.add_certificate(str(certificate.cert), str(certificate.key), None)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    data = bytes(range(256)) * 1000
    with ExitStack() as stack, engine(name) as loop:
        outer, near = stack.enter_context(pair(stack))
        far, server = stack.enter_context(pair(stack))
        transport = tls.Transport(loop, context, near)
        client = stack.enter_context(
            trusting.wrap_socket(outer, do_handshake_on_connect=False)
        )

        def is_shaken() -> bool:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                transport.handshake()
                return False
            return True

        run_until(loop, is_shaken)
        while not transport.is_done:
            transport.handshake()
        up, down = Through(bytes.swapcase, b"U", is_late=is_late), Through(double, b"D")
        relay = Relay(loop, transport, far, up, down)
        seen, back = Reading(server), Reading(client)
        left = memoryview(data)

        def is_sent() -> bool:
            nonlocal left
            try:
                left = left[client.send(left[:16384]):]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                pass
            seen.step()
            return not left

        run_until(loop, is_sent)
        server.sendall(b"ok")
        run_until(loop, lambda: (seen.step(), back.step()) and back.data == b"ookk"
                  and len(seen.data) == len(data))
        assert data.swapcase() == seen.data
        server.shutdown(socket.SHUT_WR)
        run_until(loop, lambda: back.step() or back.data.endswith(b"D"))
        assert b"ookkD" == back.data
        relay.close()
        transport.close()
        transport._release()


@pytest.mark.parametrize("name", POLLERS)
def test_who_comes_when_a_turn_is_used_up_waits_for_another(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are expensive to one filter leave the turn to others; nothing is lost by it."""
    monkeypatch.setattr(filtered, "CHEAP_NS", -1)
    through = Through(double, b"end", room=10)
    with joined(name, through) as (loop, relay, client, server):
        budget = relay.up.budget
        loop.turn(wait_ms=0)
        budget.has_share(None)
        budget.charge(1 << 40)  # by somebody else
        relay.up.on_event(1)
        assert relay.up.is_put_off
        client.send(b"0123456789" * 10)
        client.shutdown(socket.SHUT_WR)
        assert [] == through.given
        seen = Reading(server)
        run_until(loop, seen.step)
        assert double(b"0123456789" * 10) + b"end" == seen.data
        assert not relay.up.is_put_off
