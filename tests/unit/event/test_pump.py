"""Every byte of a TCP relay, in order, whatever the sizes, by each method and poller."""

import contextlib
import socket
import struct
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ngxstream.event import poller, pump, splice
from ngxstream.event.splice import PipePool
from tests.support.engine import engine, run_until

POLLERS = ("epoll", "poll", "select")
METHODS = ("copy", "quick", "splice", "no pipes")


class Relay:
    """An owner with two halves between two socket pairs: near client, far server."""

    def __init__(self, loop, stack: ExitStack, method: str, buffer: int = 0) -> None:
        self.loop = loop
        self.method = method
        self.deadline = 0
        self.tick = 0
        self.timeout = 60_000
        self.ended: list[str] = []
        self.lasts: list[str] = []
        self.errors: list[str] = []
        self.client, near = self.pair(stack, buffer)
        far, self.server = self.pair(stack, buffer)
        self.near, self.far = near, far
        self.up = pump.Half(self, loop, near, near.fileno(), far, far.fileno())
        self.down = pump.Half(self, loop, far, far.fileno(), near, near.fileno())
        self.up.twin, self.down.twin = self.down, self.up
        if method != "copy":
            self.up.quick = self.up.usual = (near.recv, far.send, self, loop)
            self.down.quick = self.down.usual = (far.recv, near.send, self, loop)
        if method == "no pipes":
            loop.get(PipePool).limit = 0
        loop.register(near.fileno(), self.up.on_event)
        loop.register(far.fileno(), self.down.on_event)

    def pair(self, stack: ExitStack, buffer: int):
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
        return one, two

    def on_last(self, half) -> None:
        self.lasts.append("up" if half is self.up else "down")

    def on_held_back(self, half) -> None:
        sink = self.far if half is self.up else self.near
        sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def on_end(self, half) -> None:
        self.ended.append("up" if half is self.up else "down")
        (self.far if half is self.up else self.near).shutdown(socket.SHUT_WR)

    def on_read_error(self, half, error: OSError) -> None:
        self.errors.append(f"read {error.errno}")

    def on_write_error(self, half, error: OSError) -> None:
        self.errors.append(f"write {error.errno}")

    def on_bulky(self, half) -> bool:
        if self.method in ("copy", "quick") or isinstance(half, splice.SpliceHalf):
            return False
        fast = splice.SpliceHalf.promote(half)
        fast.twin.twin = fast
        if half is self.up:
            self.up = fast
        else:
            self.down = fast
        self.loop.register(fast.source_fd, fast.on_event)
        self.loop.post(fast.resume)
        return True

    def on_fault(self) -> None:
        self.errors.append("fault")
        self.close()

    def close(self) -> None:
        for sock in (self.near, self.far):
            self.loop.unregister(sock.fileno())
        self.up.close()
        self.down.close()


class Stream:
    """One end: sends what it has, reads what comes, a bit at a time."""

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        self.sock = sock
        self.left = memoryview(data)
        self.got = bytearray()
        self.eof = False
        self.shut = False

    def step(self, read: int = 1 << 18) -> None:
        try:
            if self.left:
                self.left = self.left[self.sock.send(self.left[: 1 << 18]):]
            if not self.left and not self.shut:
                self.shut = True
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        try:
            data = self.sock.recv(read)
            self.got += data
            self.eof = self.eof or not data
        except BlockingIOError:
            pass


def play(
    poller_name: str, method: str, up: bytes, down: bytes, buffer: int = 0, read: int = 1 << 18
):
    """Relay two streams against each other; returns the relay's ends as seen from outside."""
    with ExitStack() as stack, engine(poller_name) as loop:
        relay = Relay(loop, stack, method, buffer)
        client, server = Stream(relay.client, up), Stream(relay.server, down)

        def done() -> bool:
            client.step(read)
            server.step(read)
            return client.eof and server.eof

        run_until(loop, done)
        counts = relay.up.received, relay.up.sent, relay.down.received, relay.down.sent
        spliced = isinstance(relay.up, splice.SpliceHalf)
        relay.close()
        assert [] == relay.errors
        return bytes(server.got), bytes(client.got), counts, spliced


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("poller_name", POLLERS)
def test_every_byte_arrives_in_order_both_ways(poller_name: str, method: str) -> None:
    """Megabytes cross at once in both directions and nothing is lost, doubled or moved."""
    up = bytes(range(256)) * 12_000
    down = bytes(reversed(range(256))) * 12_000
    at_server, at_client, counts, spliced = play(poller_name, method, up, down)
    assert up == at_server
    assert down == at_client
    assert (len(up), len(up), len(down), len(down)) == counts
    assert spliced == (method in ("splice", "no pipes"))


@settings(max_examples=25)
# a FIN whose edge was told while bytes waited for a slow reader was forgotten once
@example("epoll", "copy", 51986, 51986, 4096, 1000)
@given(
    st.sampled_from(POLLERS),
    st.sampled_from(METHODS),
    st.integers(0, 400_000),
    st.integers(0, 400_000),
    st.sampled_from((0, 4096)),
    st.sampled_from((1000, 1 << 18)),
)
def test_any_amount_passes_by_any_method(poller_name, method, up, down, buffer, read) -> None:
    """Sizes, small socket buffers and slow readers change nothing about the bytes."""
    one = (bytes(range(251)) * (up // 251 + 1))[:up]
    two = (bytes(range(241)) * (down // 241 + 1))[:down]
    at_server, at_client, counts, _ = play(poller_name, method, one, two, buffer, read)
    assert one == at_server
    assert two == at_client
    assert (up, up, down, down) == counts


@pytest.mark.parametrize("method", METHODS)
def test_a_reader_that_stops_stops_its_writer(method: str) -> None:
    """With one end not reading, the relay holds a bounded amount and leaves the rest unread."""
    with ExitStack() as stack, engine() as loop:
        relay = Relay(loop, stack, method, 65536)
        data = memoryview(bytes(1 << 20))
        total = 0
        quiet = 0
        while quiet < 50:
            try:
                total += relay.client.send(data)
                quiet = 0
            except BlockingIOError:
                quiet += 1
            loop.turn(0)
        held = relay.up.received - relay.up.sent
        assert relay.up.pending is not None
        assert held <= splice.PIPE_SIZE
        assert total < 64 << 20
        relay.close()


@pytest.mark.parametrize("method", ["copy", "quick", "splice"])
@pytest.mark.parametrize("cut", ["closed", "reset"])
def test_what_a_session_left_behind_never_reaches_another(method: str, cut: str) -> None:
    """A session ends with bytes on their way; the next one over the same pipes gets its own."""
    with ExitStack() as stack, engine() as loop:
        loop.get(PipePool).limit = 1
        first = Relay(loop, stack, method)
        block = b"first" * 200_000
        for _ in range(400):
            with contextlib.suppress(BlockingIOError):
                first.client.send(block)
            loop.turn(0)
        assert first.up.pending is not None
        assert isinstance(first.up, splice.SpliceHalf) == (method == "splice")
        if isinstance(first.up, splice.SpliceHalf):
            assert first.up.pipe is not None
            assert first.up.pipe.held
        assert first.up.received > first.up.sent
        if cut == "reset":
            first.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            first.server.close()
            run_until(loop, lambda: bool(first.errors))
        first.close()
        second = Relay(loop, stack, method)
        sent, got = bytearray(), bytearray()
        block = b"second." * 30_000
        while len(got) < 4 << 20:
            if len(sent) < 4 << 20:
                with contextlib.suppress(BlockingIOError):
                    count = second.client.send(block)
                    sent += block[:count]
            loop.turn(0)
            with contextlib.suppress(BlockingIOError):
                got += second.server.recv(1 << 20)
        assert sent[: len(got)] == got
        assert isinstance(second.up, splice.SpliceHalf) == (method == "splice")
        second.close()


@pytest.mark.parametrize("method", ["copy", "quick", "splice"])
def test_a_bulky_flow_leaves_every_turn_to_the_small_ones(method: str) -> None:
    """However much a source has, others are served in the same turn, and its share is bounded."""
    with ExitStack() as stack, engine() as loop:
        bulk, small = Relay(loop, stack, method), Relay(loop, stack, method)
        share = pump.FAIR_SHARE * max(splice.PIPE_SIZE, len(loop.view))
        data = bytes(1 << 20)
        for turn in range(100):
            try:
                bulk.client.send(data)
            except BlockingIOError:
                pass
            small.client.send(bytes([turn]))
            before = bulk.up.received
            loop.turn(0)
            assert bulk.up.received - before <= share
            assert bytes([turn]) == small.server.recv(10)  # non-blocking: it is there
            try:
                bulk.server.recv(1 << 20)
            except BlockingIOError:
                pass
        assert bulk.up.received > 10 * len(loop.view)
        bulk.close()
        small.close()


def test_a_reset_source_ends_its_direction_only() -> None:
    """A reset is told as a read error and then as the end of that direction."""
    with ExitStack() as stack, engine() as loop:
        relay = Relay(loop, stack, "copy")
        relay.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        relay.client.close()
        run_until(loop, lambda: "up" in relay.ended)
        assert ["read 104"] == relay.errors
        relay.close()


def test_a_fault_in_a_half_ends_what_it_belongs_to() -> None:
    """What nobody expects in one direction is the owner's end, once; the loop goes on."""
    with ExitStack() as stack, engine() as loop:
        relay = Relay(loop, stack, "copy")
        relay.up.send = None
        relay.client.sendall(b"question")
        run_until(loop, lambda: relay.errors)
        loop.turn(0)
        assert ["fault"] == relay.errors
        assert 1 == len(loop.log.lines)


def segments_in(sock: socket.socket) -> int:
    """How many segments came to a TCP socket (tcpi_segs_in)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    return int.from_bytes(info[140:144], "little")


def test_the_last_bytes_and_the_end_leave_in_one_segment() -> None:
    """What a source said before it ended goes out together with the FIN."""
    with ExitStack() as stack, engine() as loop:
        relay = Relay(loop, stack, "copy")
        loop.turn(0)
        before = segments_in(relay.client)
        relay.server.sendall(b"answer")
        relay.server.shutdown(socket.SHUT_WR)
        run_until(loop, lambda: "down" in relay.ended)
        relay.client.setblocking(True)
        assert b"answer" == relay.client.recv(100)
        assert b"" == relay.client.recv(100)
        assert ["down"] == relay.lasts
        assert 1 == segments_in(relay.client) - before
        relay.close()


def test_nothing_is_held_back_where_no_end_follows() -> None:
    """A closing mask without an end behind the bytes does not delay them."""
    with ExitStack() as stack, engine() as loop:
        relay = Relay(loop, stack, "copy")
        loop.turn(0)
        relay.server.sendall(b"answer")
        relay.down.on_event(poller.IN | poller.RDHUP)
        assert b"answer" == relay.client.recv(100)  # non-blocking: it is there
        assert [] == relay.lasts
        relay.close()


@given(st.integers(1, 10**6), st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 10**6))))
def test_a_rate_is_never_passed(rate: int, steps) -> None:
    """However the clock moves, no more is allowed than rate times the seconds begun."""
    now = 5_000
    limiter = pump.RateLimiter(rate, now)
    moved = 0
    start = now // 1000
    for step, want in steps:
        now += step
        allowance = limiter.allowance(now, moved)
        if allowance > 0:
            moved += min(want, allowance)
        else:
            assert limiter.allowance(now + limiter.wait_ms(allowance), moved) >= 0
        assert moved <= rate * (now // 1000 - start + 1)


# -- one half, step by step ------------------------------------------------------------------------


class Steps:
    """The owner, loop, poller and both ends of a half: what they give is set, what is done kept."""

    def __init__(self, *, rate: int = 0) -> None:
        self.gives: list[bytes | OSError] = []  # what the source has
        self.takes: list[int | OSError] = []  # how much the sink takes; all when there is nothing
        self.sent = b""
        self.done: list[str] = []
        self.posted: list[object] = []
        self.later: list[int] = []
        self.deadline = 0
        self.timeout = 60_000
        self.now_ms = 1000
        self.view = memoryview(bytearray(100))
        self.poller = SimpleNamespace(
            hold_read=lambda fd: self.done.append(f"hold {fd}"),
            release_read=lambda fd: self.done.append(f"release {fd}"),
            want_write=lambda fd: self.done.append(f"want {fd}"),
            no_write=lambda fd: self.done.append(f"no {fd}"),
        )
        self.handlers: dict[int, object] = {}
        this: Any = self
        self.half = pump.Half(this, this, this, 1, this, 2)
        self.half.twin = SimpleNamespace(
            pending=None, eof=False, quick=None, usual=None,
            flush=lambda: self.done.append("twin"),
        )
        if rate:
            self.half.limiter = pump.RateLimiter(rate, self.now_ms)

    def post(self, call: object) -> None:
        """Note what is to be done later in the turn."""
        self.posted.append(call)

    def call_later(self, ms: int, call: object, *, cancelable: bool) -> None:
        """Note how long is waited."""
        self.later.append(ms)

    def recv_into(self, view: memoryview) -> int:
        """Give what is next."""
        if not self.gives:
            raise BlockingIOError
        piece = self.gives.pop(0)
        if isinstance(piece, OSError):
            raise piece
        view[: len(piece)] = piece
        return len(piece)

    def send(self, data: Any, flags: int = 0) -> int:
        """Take what is said."""
        taken = self.takes.pop(0) if self.takes else len(data)
        if isinstance(taken, OSError):
            raise taken
        self.sent += bytes(data[:taken])
        return taken

    def told(self) -> list[str]:
        """Return and forget what was done."""
        done, self.done = self.done, []
        return done

    def on_end(self, half: pump.Half) -> None:
        """Note the end."""
        self.done.append("end")

    def on_read_error(self, half: pump.Half, error: OSError) -> None:
        """Note an error."""
        self.done.append("read error")

    def on_write_error(self, half: pump.Half, error: OSError) -> None:
        """Note an error."""
        self.done.append("write error")


def test_what_a_sink_does_not_take_waits_and_the_source_with_it() -> None:
    """Nothing is read meanwhile; each time there is room some of it goes, then reading goes on."""
    steps = Steps()
    steps.gives, steps.takes = [b"0123456789"], [4]
    steps.half.on_event(poller.IN)
    assert (b"0123", ["hold 1", "want 2"]) == (steps.sent, steps.told())
    steps.half.on_event(poller.IN)
    assert (b"0123", ["hold 1"]) == (steps.sent, steps.told())
    steps.takes = [BlockingIOError(), 3]
    steps.half.flush()
    assert (b"0123", ["want 2"]) == (steps.sent, steps.told())
    steps.now_ms = 5000
    steps.half.flush()
    assert (b"0123456", ["want 2"], 65_000) == (steps.sent, steps.told(), steps.deadline)
    steps.half.flush()
    assert (b"0123456789", ["no 2", "release 1"]) == (steps.sent, steps.told())
    assert [steps.half.resume] == steps.posted
    assert (10, 10, None, False) == (
        steps.half.received, steps.half.sent, steps.half.pending, steps.half.more
    )


def test_a_flush_with_nothing_to_send_does_nothing() -> None:
    """Nor one after the half was closed."""
    steps = Steps()
    steps.half.flush()
    steps.half.pending = memoryview(b"x")
    steps.half.owner = None
    steps.half.flush()
    assert ([], b"") == (steps.told(), steps.sent)


@pytest.mark.parametrize("rated", [False, True])
@pytest.mark.parametrize("error", [False, True])
def test_after_its_end_a_source_is_not_read(rated: bool, error: bool) -> None:
    """An end, or an error that counts as one, is told once."""
    steps = Steps(rate=1000 if rated else 0)
    on_event = steps.half.on_event_rated if rated else steps.half.on_event
    steps.gives = [ConnectionResetError() if error else b""]
    on_event(poller.IN)
    assert ["read error"] * error + ["end"] == steps.told()
    steps.gives = [b"more"]
    on_event(poller.IN)
    assert (["hold 1"], b"", 0) == (steps.told(), steps.sent, steps.half.received)


def test_an_end_is_told_when_the_sink_has_taken_all_before_it() -> None:
    """The end came while something was pending."""
    steps = Steps()
    steps.half.pending = memoryview(b"rest")
    steps.half.eof = True
    steps.half.flush()
    assert (b"rest", ["no 2", "end"], []) == (steps.sent, steps.told(), steps.posted)


def test_a_sink_that_fails_ends_it() -> None:
    """While sending, while flushing, while pushing; what was read counts, nothing was sent."""
    for rated in False, True:
        steps = Steps(rate=1000 if rated else 0)
        steps.gives, steps.takes = [b"x", b"y"], [BrokenPipeError()]
        (steps.half.on_event_rated if rated else steps.half.on_event)(poller.IN)
        assert (["write error"], 1, 0) == (steps.told(), steps.half.received, steps.half.sent)
    steps = Steps()
    steps.half.pending = memoryview(b"x")
    steps.takes = [BrokenPipeError(), BrokenPipeError()]
    steps.half.flush()
    steps.half.pending = None
    steps.half.push(b"y")
    assert (["write error"] * 2, 0, None) == (steps.told(), steps.half.sent, steps.half.pending)


def test_what_is_pushed_waits_behind_what_is_pending() -> None:
    """Bytes that did not come from the source keep their place."""
    steps = Steps()
    steps.takes = [2, 0]
    steps.half.push(b"abcd")
    steps.half.push(b"ef")
    assert (b"ab", ["hold 1", "want 2"]) == (steps.sent, steps.told())
    steps.takes = []
    steps.half.flush()
    assert b"abcdef" == steps.sent


def test_a_rated_source_rests_as_long_as_its_bytes_take() -> None:
    """It is read no more meanwhile, and proxy_timeout runs from the end of the rest."""
    steps = Steps(rate=100)
    steps.gives = [b"x" * 50, b"y"]
    steps.half.on_event_rated(poller.IN)
    assert (["hold 1"], [500], 61_500) == (steps.told(), steps.later, steps.deadline)
    assert steps.half.limiter.paused
    steps.half.on_event_rated(poller.IN)
    assert (["hold 1"], 50) == (steps.told(), steps.half.received)
    steps.half._unpause()
    assert ["release 1"] == steps.told()
    assert not steps.half.limiter.paused
    assert not steps.half.more


def test_a_rated_source_is_read_no_further_than_allowed() -> None:
    """The first second's worth is taken, the next read waits for the next second."""
    steps = Steps(rate=50)
    steps.gives = [b"x" * 50]
    steps.half.limiter.rate = 50
    steps.half.on_event_rated(poller.IN)
    assert [1000] == steps.later
    steps.half.limiter.paused = False
    steps.gives = [b"y"]
    steps.half.on_event_rated(poller.IN)
    assert ([1000, 1], 50) == (steps.later, steps.half.received)
    steps.half.pending = memoryview(b"z")
    steps.told()
    steps.half._unpause()  # the sink is full: flush() goes on
    assert [] == steps.told()


def test_a_rated_half_flushes_its_twin_and_keeps_what_the_sink_does_not_take() -> None:
    """Room is for the other direction; a full sink stops this one, rate or not."""
    steps = Steps(rate=1_000_000)
    steps.half.twin.pending = b"x"
    steps.half.on_event_rated(poller.OUT)
    assert ["twin"] == steps.told()
    steps.gives, steps.takes = [b"abc", b"d"], [1]
    steps.half.on_event_rated(poller.IN)
    assert (["hold 1", "want 2"], b"a", 3) == (steps.told(), steps.sent, steps.half.received)
    assert [] == steps.posted


def test_one_source_does_not_keep_a_turn() -> None:
    """After FAIR_SHARE full reads the others have theirs."""
    for rated in False, True:
        steps = Steps(rate=1_000_000 if rated else 0)
        steps.half.owner.on_bulky = lambda half: False  # type: ignore[method-assign, union-attr]
        steps.gives = [b"x" * 100] * (pump.FAIR_SHARE + 5)
        (steps.half.on_event_rated if rated else steps.half.on_event)(poller.IN)
        assert (5, [steps.half.resume]) == (len(steps.gives), steps.posted)
        assert 61_000 == steps.deadline


def test_short_messages_go_the_short_way_while_nothing_is_pending_or_over() -> None:
    """In neither direction: an event of one tells of room for the other's bytes."""
    with ExitStack() as stack, engine() as loop:
        relay = Relay(loop, stack, "quick")
        up, down = relay.up, relay.down
        usual = up.quick, down.quick
        assert None not in usual
        up.block(memoryview(b"up"))
        assert (None, None) == (up.quick, down.quick)
        down.block(memoryview(b"down"))
        up.flush()
        assert (None, None) == (up.quick, down.quick)
        up.on_event(pump.FLOWING)  # of the client's socket: there is room for the server's bytes
        assert down.pending is None
        assert usual == (up.quick, down.quick)
        for half, other in ((up, down), (down, up)):
            half.eof = True
            other.block(memoryview(b"more"))
            other.flush()
            assert (None, None) != (half.quick, other.quick)
            assert half.quick is None
            half.clear()
            assert half.quick is None
            half.eof = False
            half.clear()
        assert usual == (up.quick, down.quick)
        up._on_source_end(relay)
        assert up.quick is None
        relay.close()
        assert [None] * 4 == [up.quick, up.usual, down.quick, down.usual]
