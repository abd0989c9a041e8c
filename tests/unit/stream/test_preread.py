"""The preread phase: what is looked at, what stays, and when it is over."""

import contextlib
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core.codes import AGAIN, DECLINED, DONE, ERROR, FORBIDDEN, OK
from ngxstream.core.log import ERR
from ngxstream.event import datagram, eviction, poller
from ngxstream.stream import content, endings, phases, preread, session
from tests.support import owned, ports
from tests.support.in_process import InProcess
from tests.support.udp_in_process import UdpInProcess

TEXT = """stream {{ server {{ listen 127.0.0.1:@main@; {}
    return "$protocol $bytes_received"; }} }}"""
BUFFER = 64


class Handler:
    """A preread handler that keeps what it was shown and decides once it has seen enough."""

    def __init__(self, enough: int, code: int = OK) -> None:
        self.enough = enough
        self.code = code
        self.shown: list[bytes] = []

    def __call__(self, s: Any) -> int:
        """Answer AGAIN until `enough` bytes are there."""
        self.shown.append(s.preread)
        return self.code if len(s.preread) >= self.enough else AGAIN


class Transport:
    """What a TLS session has in the place of its socket."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.recv_into = sock.recv_into
        self.send = sock.send
        self.close = sock.close


Serve = Callable[..., InProcess]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a factory of served blocks whose preread phase asks one handler."""
    all_served = []

    def make(
        *handlers: Any, timeout: str = "30s", wrapped: bool = False, by: Any = None
    ) -> InProcess:
        conf = f"preread_buffer_size {BUFFER}; preread_timeout {timeout};"
        made = InProcess(TEXT.format(conf), poller=by and by())
        all_served.append(made)
        address = made.conf.listenings[0].default
        after = len(handlers)
        address.engine = (
            *((preread.check, handler, after) for handler in handlers),
            (phases.check_content, phases.run_content, after + 1),
        )
        address.begin = session.begin  # there are phases to walk now
        if wrapped:

            def begin(s: session.Session) -> None:
                s.c.sock = Transport(s.c.sock)
                session.begin(s)

            address.begin = begin
        return made

    yield make
    for made in all_served:
        made.close()


def exchange(served: InProcess, *pieces: bytes, half_close: bool = False) -> tuple[bytes, int]:
    """Send pieces in turns of their own; return the answer and $status."""
    client = served.connect()
    served.turn_until(lambda: served.sessions, "the session")
    for piece in pieces:
        client.send(piece)
        for _ in range(2):
            served.loop.turn(wait_ms=1)
    if half_close:
        client.shutdown(socket.SHUT_WR)
    return served.read(client), served.sessions[0].status


def test_a_handler_that_needs_nothing_waits_for_nothing(serve: Serve) -> None:
    """The first question comes without data; an answer is an answer."""
    handler = Handler(0)
    assert (b"TCP 0", 200) == exchange(serve(handler))
    assert [b""] == handler.shown


def test_what_was_peeked_stays_in_the_socket(serve: Serve) -> None:
    """The handler sees everything so far; the kernel still has it, nothing counts as received."""
    handler = Handler(4)
    served = serve(handler)
    kept: list[bytes] = []

    def content(s: session.Session) -> None:
        kept.extend([s.preread, s.c.sock.recv(100)])
        s.finalize(200)

    served.conf.servers[0].handler = content
    exchange(served, b"ab", b"cd")
    assert [b"", b"ab", b"abcd"] == handler.shown
    assert [b"", b"abcd"] == kept


def test_what_came_through_tls_is_kept(serve: Serve) -> None:
    """A transport cannot be peeked at: the bytes wait in the session for who proxies them."""
    handler = Handler(4)
    served = serve(handler, wrapped=True)
    kept: list[bytes] = []

    def content(s: session.Session) -> None:
        kept.append(s.preread)
        s.finalize(200)

    served.conf.servers[0].handler = content
    exchange(served, b"ab", b"cd")
    assert [b"", b"ab", b"abcd"] == handler.shown
    assert [b"abcd"] == kept


@pytest.mark.effect("preread_buffer_size")
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_buffer_is_a_bad_request(serve: Serve, wrapped: bool) -> None:
    """preread_buffer_size bytes that decide nothing end the session with 400."""
    served = serve(Handler(BUFFER + 1), wrapped=wrapped)
    assert (b"", 400) == exchange(served, bytes(BUFFER))
    (line,) = [text for level, text in served.target.lines if level == "error"]
    assert "preread buffer full while prereading client data, client: 127.0.0.1" in line


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_buffer_may_be_just_enough(serve: Serve, wrapped: bool) -> None:
    """The last byte of the buffer may be the one that decides."""
    assert 200 == exchange(serve(Handler(BUFFER), wrapped=wrapped), bytes(BUFFER))[1]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("pieces", [(), (b"ab",)])
def test_an_end_before_the_decision_ends_the_session(
    serve: Serve, wrapped: bool, pieces: tuple[bytes, ...]
) -> None:
    """A client that closes, with or without unread bytes, is let go with status 200."""
    served = serve(Handler(4), wrapped=wrapped)
    assert (b"", 200) == exchange(served, *pieces, half_close=True)


def test_time_is_counted_for_the_whole_phase(serve: Serve) -> None:
    """Bytes that decide nothing do not push preread_timeout back; 200 when it is over."""
    served = serve(Handler(BUFFER), timeout="30ms")
    client = served.connect()
    served.turn_until(lambda: served.sessions, "the session")
    s = served.sessions[0]
    for _ in range(40):
        if not s.status:
            client.send(b"x")
        served.loop.turn(wait_ms=1)
        if s.status:
            break
    served.turn_until(lambda: s.status, "the end of the session")
    assert 200 == s.status
    assert 0 == served.loop.live


@pytest.mark.parametrize(
    ("code", "status"), [(ERROR, 500), (403, 403), (OK, 200), (DECLINED, 200)]
)
def test_answers_end_or_go_on(serve: Serve, code: int, status: int) -> None:
    """A status ends the session, ERROR is a 500, OK and DECLINED go on to the content."""
    answer, said = exchange(serve(Handler(2, code)), b"ab")
    assert status == said
    assert (status == 200) == bool(answer)


def test_ok_skips_the_other_handlers(serve: Serve) -> None:
    """OK ends the phase; DECLINED asks the next handler, first without data."""
    second = Handler(3)
    exchange(serve(Handler(2, OK), second), b"abc")
    assert [] == second.shown
    exchange(serve(Handler(2, DECLINED), second), b"abc")
    assert [b"", b"abc"] == second.shown


class Elsewhere:
    """A preread handler that waits for something else than data until it is told to go on."""

    def __init__(self, *codes: int) -> None:
        self.codes = [DONE, *codes]
        self.shown: list[bytes] = []

    def __call__(self, s: Any) -> int:
        """Answer with the next code, and stay with the last one."""
        self.shown.append(s.preread)
        return self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]


def begun(served: InProcess) -> tuple[socket.socket, session.Session]:
    """Connect; return the client and its session."""
    client = served.connect()
    served.turn_until(lambda: served.sessions, "the session")
    return client, served.sessions[-1]


def turns(served: InProcess, count: int = 4) -> None:
    """Turn the loop a few times."""
    for _ in range(count):
        served.loop.turn(wait_ms=1)


@pytest.mark.parametrize("wrapped", [False, True])
def test_done_waits_for_something_else_than_data(serve: Serve, wrapped: bool) -> None:
    """The handler is asked when it says so, not when data come, and has nothing lost."""
    handler = Elsewhere(AGAIN, OK)
    served = serve(handler, wrapped=wrapped)
    client, s = begun(served)
    client.send(b"ab")
    turns(served)
    assert [b""] == handler.shown
    preread.resume(s)
    if s.status == 0:  # what was taken meanwhile was shown already
        client.send(b"c")
        turns(served)
    assert b"ab" == handler.shown[-1][:2]
    assert b"TCP" == served.read(client)[:3]
    assert (200, 0) == (s.status, served.loop.live)


@pytest.mark.parametrize("wrapped", [False, True])
def test_done_may_end_without_any_data(serve: Serve, wrapped: bool) -> None:
    """What was waited for came, and the handler lets the session pass."""
    served = serve(Elsewhere(OK), wrapped=wrapped)
    client, s = begun(served)
    turns(served)
    assert 1 < served.loop.live  # preread_timeout goes on
    preread.resume(s)
    assert b"TCP 0" == served.read(client)
    assert (200, 0) == (s.status, served.loop.live)


@pytest.mark.parametrize("wrapped", [False, True])
def test_done_is_in_the_time_of_the_phase(serve: Serve, wrapped: bool) -> None:
    """preread_timeout ends a session whose handler waits elsewhere."""
    served = serve(Elsewhere(DONE), timeout="50ms", wrapped=wrapped)
    client, s = begun(served)
    assert b"" == served.read(client)
    assert (200, "preread_timeout") == (s.status, s.ending.reason.word)  # type: ignore[union-attr]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("codes", "status"), [((OK,), 200), ((AGAIN, AGAIN), 400)])
def test_a_full_buffer_ends_who_wants_more(
    serve: Serve, wrapped: bool, codes: tuple[int, ...], status: int
) -> None:
    """It is no harm while the handler waits elsewhere, and no more than the buffer is read."""
    served = serve(Elsewhere(*codes), wrapped=wrapped)
    client, s = begun(served)
    client.send(bytes(BUFFER + 10))
    turns(served)
    assert (0, len(s.preread) <= BUFFER) == (s.status, True)
    preread.resume(s)
    served.read(client)
    assert status == s.status


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_client_that_leaves_ends_what_waits_elsewhere(serve: Serve, wrapped: bool) -> None:
    """It has sent nothing, or resets the connection."""
    served = serve(Elsewhere(DONE), wrapped=wrapped)
    client, s = begun(served)
    client.shutdown(socket.SHUT_WR)
    served.turn_until(lambda: s.status, "the end")
    assert (200, "closed", "client") == (s.status, *ended(s))
    client, s = begun(served)
    client.send(b"ab")
    turns(served)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    served.turn_until(lambda: s.status, "the end")
    assert (200, "client_rst", "client") == (s.status, *ended(s))
    assert 0 == served.loop.live


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("codes", "said", "who"), [((OK,), b"TCP", "proxy"), ((AGAIN, AGAIN), b"", "client")]
)
def test_who_has_sent_something_may_end_his_direction(
    serve: Serve, wrapped: bool, codes: tuple[int, ...], said: bytes, who: str
) -> None:
    """What was sent is looked at all the same; a handler that wants more gets none."""
    served = serve(Elsewhere(*codes), wrapped=wrapped)
    client, s = begun(served)
    client.send(b"ab")
    client.shutdown(socket.SHUT_WR)
    turns(served)
    assert 0 == s.status
    preread.resume(s)
    assert said == served.read(client)[:3]
    assert (200, "closed", who) == (s.status, *ended(s))


@pytest.mark.parametrize("by", [poller.PollPoller, poller.SelectPoller])
def test_levels_that_nobody_reads_do_not_keep_the_loop_busy(serve: Serve, by: Any) -> None:
    """Under poll and select a full buffer, or the client's end, is left alone until it is asked."""
    served = serve(Elsewhere(OK), by=by)
    heard: list[int] = []
    served.conf.servers[0].handler = lambda s: s.loop.register(s.c.fd, heard.append)
    client, s = begun(served)
    client.send(b"ab")
    client.shutdown(socket.SHUT_WR)
    served.turn_until(lambda: s.preread == b"ab", "the bytes")
    turns(served)
    assert [] == served.loop.poller.poll(0)
    preread.resume(s)
    served.turn_until(lambda: heard, "the end, which the content is told of")


def ended(s: session.Session) -> tuple[str, str]:
    """Return why a session has ended, and who did."""
    ending = endings.of(s)
    return ending.reason.word, ending.who


def test_events_after_the_phase_change_nothing(serve: Serve) -> None:
    """A content that waits for something else is not begun anew by what the client sends."""
    begun = []
    served = serve(Handler(2))
    served.conf.servers[0].handler = begun.append
    client = served.connect()
    client.send(b"ab")
    served.turn_until(lambda: begun, "the content")
    client.send(b"more")
    for _ in range(5):
        served.loop.turn(wait_ms=1)
    assert 1 == len(begun)


def test_a_session_ended_from_outside_leaves_no_timer(serve: Serve) -> None:
    """worker_shutdown_timeout ends sessions that still wait for their first bytes."""
    served = serve(Handler(2))
    client = served.connect()
    served.turn_until(lambda: served.sessions, "the session")
    served.sessions[0].finalize(200)
    client.send(b"ab")
    served.loop.turn(wait_ms=1)
    assert 0 == served.loop.live


def test_a_handler_that_fails_at_once_ends_its_session(serve: Serve) -> None:
    """An exception before the first wait closes the client, too."""

    class Broken(Handler):
        def __call__(self, s: Any) -> int:
            raise ZeroDivisionError

    served = serve(Broken(0))
    assert b"" == served.read(served.connect())
    assert ["alert"] == [level for level, _ in served.target.lines if level == "alert"]
    assert 0 == served.loop.live


def test_a_failing_handler_ends_its_own_session_only(serve: Serve) -> None:
    """An exception nobody expected is an alert and a 500."""

    class Broken(Handler):
        def __call__(self, s: Any) -> int:
            if s.preread:
                raise ZeroDivisionError
            return AGAIN

    served = serve(Broken(0))
    assert (b"", 500) == exchange(served, b"ab")
    assert ["alert"] == [level for level, _ in served.target.lines if level == "alert"]
    assert 0 == served.loop.live


# -- datagrams -------------------------------------------------------------------------------------

UDP = socket.SOCK_DGRAM


class Wanting:
    """A preread handler that wants so many datagrams of a session, and decides then."""

    def __init__(self, count: int, code: int = OK) -> None:
        self.count = count
        self.code = code
        self.shown: list[list[bytes]] = []

    def __call__(self, s: Any) -> int:
        """Answer AGAIN until `count` datagrams are there."""
        self.shown.append(preread.datagrams(s))
        return self.code if len(self.shown[-1]) >= self.count else AGAIN


class Datagrams:
    """A UDP listener whose preread phase asks some handlers, its client and its server."""

    def __init__(
        self, stack: ExitStack, *handlers: Any, lines: str = "", gro: bool = False
    ) -> None:
        self.server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        self.server.bind(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.served = stack.enter_context(
            UdpInProcess(
                f"stream {{ server {{ listen 127.0.0.1:{ports.free_udp_port()} udp; "
                f"proxy_pass 127.0.0.1:{self.server.getsockname()[1]}; {lines} }} }}",
                gro=gro,
            )
        )
        address = self.address = self.served.built.conf.listenings[0].default  # type: ignore[union-attr]
        after = len(handlers)
        address.engine = (
            *((preread.check, handler, after) for handler in handlers),
            (phases.check_content, phases.run_content, after + 1),
        )
        address.begin = session.begin
        self.ended: list[tuple[int, int]] = []
        address.log_handlers = (lambda s: self.ended.append((s.status, s.c.received)) or OK,)
        self.client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        self.client.connect(self.served.address())
        self.listener = self.served.listeners[0]
        self.number = 0

    def send(self, *batches: int, size: int = 100) -> list[bytes]:
        """Send so many datagrams at a time, each time in one drain; return all of them."""
        sent = []
        for count in batches:
            for _ in range(count):
                sent.append(owned.datagram(1, self.number, size))
                self.client.send(sent[-1])
                self.number += 1
            self.listener._limit = 64
            self.turn()
        return sent

    def turn(self) -> None:
        """Turn until nothing waits."""
        self.served.loop.turn(0)
        while self.served.loop.posted or select.select([self.listener.sock], [], [], 0)[0]:
            self.served.loop.turn(0)

    def got(self) -> list[bytes]:
        """Return what the server has received."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.server.recv(65536))
        return found

    def only(self) -> Any:
        """Return the only session."""
        (s,) = self.served.loop.sessions
        return s


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close everything at the end."""
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize("batches", [(1, 1, 1, 1, 1), (5,), (2, 3), (1, 4)])
def test_a_handler_gets_the_datagrams_it_wants_and_the_content_all(
    stack: ExitStack, batches: tuple[int, ...]
) -> None:
    """It is asked anew with each; what was kept goes on in order, whole, and is counted once."""
    handler = Wanting(3)
    place = Datagrams(stack, handler)
    sent = place.send(*batches)
    assert [sent[:1], sent[:2], sent[:3]] == handler.shown
    assert sent == place.got()
    s = place.only()
    assert (5, 500) == (s.content.requests, s.c.received)
    assert (s.ctx or {}).get(preread.KEY) is None
    assert place.send(1) == place.got()
    assert place.served.loop.live == 1  # the session: no timer waits


def test_a_coalesced_message_is_as_many_datagrams(stack: ExitStack) -> None:
    """What a peer sent with GSO is looked at datagram by datagram."""
    handler = Wanting(3)
    place = Datagrams(stack, handler, gro=True)
    sent = place.send(1)
    more = [owned.datagram(1, n, 100) for n in range(1, 7)]
    place.client.sendmsg(more, datagram.segment_control(100))
    place.turn()
    assert [sent, sent + more[:1], sent + more[:2]] == handler.shown
    assert sent + more == place.got()


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    wanted=st.integers(1, 4),
    quota=st.sampled_from((0, 1, 2, 5)),
)
def test_nothing_is_lost_or_doubled_however_datagrams_come(
    batches: list[int], wanted: int, quota: int
) -> None:
    """Each is the server's, or kept by the session that waits for more, in order."""
    with ExitStack() as stack:
        place = Datagrams(stack, Wanting(wanted), lines=f"proxy_requests {quota};")
        sent = place.send(*batches)
        waiting = [s for s in place.served.loop.sessions if isinstance(s.content, preread.Further)]
        kept = [data for s in waiting for data in preread.datagrams(s)]
        assert len(waiting) <= 1
        assert len(kept) < wanted
        assert sent == place.got() + kept
        received = sum(s.c.received for s in place.served.loop.sessions)
        assert sum(map(len, sent)) - sum(map(len, kept[1:])) == received
        assert [] == place.ended
        assert [] == place.served.alerts()


@pytest.mark.parametrize(
    ("size", "most"), [(100, 64), (1000, 17), (16_384, 1)], ids=["number", "bytes", "first"]
)
def test_what_may_be_kept_is_bounded(stack: ExitStack, size: int, most: int) -> None:
    """So many datagrams or bytes that were not enough are a 400, as over TCP; the next begins."""
    place = Datagrams(stack, Wanting(100))
    place.served.target.lines.clear()
    place.served.log.level = ERR
    place.send(*[1] * (most - 1), size=size)
    assert [] == place.ended
    place.send(1, size=size)
    assert [(400, most * size)] == place.ended
    (said,) = place.served.target.lines
    assert said[0] == "error"
    assert "preread buffer full while prereading client data, udp client" in said[1]
    assert not place.listener.table
    assert [] == place.got()
    if most > 1:
        place.send(1)
        assert preread.datagrams(place.only()) == [owned.datagram(1, most, 100)]


def test_a_client_that_sends_no_more_is_given_up(stack: ExitStack) -> None:
    """After preread_timeout the session ends with 200, its datagrams counted, nothing sent on."""
    place = Datagrams(stack, Wanting(3), lines="preread_timeout 2s;")
    loop = place.served.loop
    place.send(1, 1)
    loop.now_ms += 1900
    loop.timers.expire(loop.now_ms, lambda callback: None)
    assert [] == place.ended
    loop.now_ms += 200
    loop.timers.expire(loop.now_ms, lambda callback: None)
    assert [(200, 200)] == place.ended
    assert ([], 0) == (place.got(), loop.live)
    place.send(1)
    assert 1 == len(loop.sessions)


def test_a_refusal_is_of_its_own_session_alone(stack: ExitStack) -> None:
    """The handler refuses with the third of four datagrams: the fourth begins the next session."""
    place = Datagrams(stack, Wanting(3, FORBIDDEN))
    sent = place.send(4)
    assert [(403, 300)] == place.ended
    assert sent[3:] == preread.datagrams(place.only())
    assert [] == place.got()


def test_the_next_handler_sees_what_the_former_one_wanted(stack: ExitStack) -> None:
    """And may want more."""
    first, second = Wanting(2, DECLINED), Wanting(4)
    place = Datagrams(stack, first, second)
    sent = place.send(5)
    assert [sent[:1], sent[:2]] == first.shown
    assert [sent[:2], sent[:3], sent[:4]] == second.shown
    assert sent == place.got()


def test_a_handler_that_fails_ends_its_session(stack: ExitStack) -> None:
    """It raises with the second datagram: one alert, a 500, and nothing stays."""

    def fail(s: session.Session) -> int:
        if len(preread.datagrams(s)) > 1:
            raise ValueError("no good")
        return AGAIN

    place = Datagrams(stack, fail)
    place.send(1, 1)
    assert [500] == [status for status, _ in place.ended]
    assert 1 == len(place.served.alerts())
    assert ({}, 0) == (place.listener.table, place.served.loop.live)


def test_a_content_that_waits_gets_what_was_kept_when_it_is_ready(stack: ExitStack) -> None:
    """Its name is being resolved, say: what came behind the first datagram waits for it."""
    place = Datagrams(stack, Wanting(3))
    place.address.default_server.handler = lambda s: None
    sent = place.send(2, 2)
    s = place.only()
    assert sent[:1] == [s.preread]
    assert sent[1:] == place.listener.kept_for(s.c)


def test_a_handler_that_needs_one_datagram_costs_nothing(stack: ExitStack) -> None:
    """Nothing is made for a session whose handlers want no more."""
    handler = Wanting(1)
    place = Datagrams(stack, handler)
    sent = place.send(1)
    assert ([sent], None) == (handler.shown, place.only().ctx)
    assert sent == place.got()


def test_a_session_that_is_ended_from_outside_waits_no_more(stack: ExitStack) -> None:
    """By a shutdown, say."""
    place = Datagrams(stack, Wanting(3))
    place.send(2)
    place.only().finalize(200)
    assert ({}, 0) == (place.listener.table, place.served.loop.live)


def test_many_sessions_that_want_no_more_begin_in_one_drain(stack: ExitStack) -> None:
    """Of 960 datagrams each session wants two and takes one: calls are not nested."""
    place = Datagrams(stack, Wanting(2), gro=True)
    place.address.default_server.handler = lambda s: s.finalize(200)
    place.listener._limit = 64
    for _ in range(16):
        place.client.sendmsg([bytes(20)] * 60, datagram.segment_control(20))
    place.turn()
    assert ([(200, 20)] * 959, []) == (place.ended, place.served.alerts())
    assert [bytes(20)] == preread.datagrams(place.only())


class Resumed(Wanting):
    """Waits elsewhere first; wants so many datagrams then."""

    def __init__(self, count: int, code: int = OK) -> None:
        super().__init__(count, code)
        self.is_elsewhere = True

    def __call__(self, s: Any) -> int:
        """Answer DONE until it is told otherwise."""
        code = super().__call__(s)
        return DONE if self.is_elsewhere else code


def test_datagrams_that_come_while_it_waits_elsewhere_are_not_lost(stack: ExitStack) -> None:
    """They are kept, shown once it goes on, and go to the content in order."""
    handler = Resumed(3)
    place = Datagrams(stack, handler)
    sent = place.send(1, 2, 2)
    assert ([sent[:1]], []) == (handler.shown, place.got())
    handler.is_elsewhere = False
    preread.resume(place.only())
    assert [sent[:1], sent] == handler.shown
    assert sent == place.got()
    assert 500 == place.only().c.received


def test_who_waits_elsewhere_may_want_more_datagrams(stack: ExitStack) -> None:
    """And gets them as if it had wanted them at once."""
    handler = Resumed(3)
    place = Datagrams(stack, handler)
    sent = place.send(1)
    handler.is_elsewhere = False
    preread.resume(place.only())
    assert [] == place.got()
    sent += place.send(1, 1)
    assert sent == place.got()


def test_what_comes_while_it_waits_elsewhere_is_bounded(stack: ExitStack) -> None:
    """What is over the buffer is dropped, and counted; the session goes on with what there is."""
    handler = Resumed(1)
    place = Datagrams(stack, handler)
    sent = place.send(*[1] * 40, size=1000)
    assert (23, []) == (place.listener.lost.total, place.ended)
    handler.is_elsewhere = False
    preread.resume(place.only())
    assert sent[:17] == place.got()
    assert place.send(1) == place.got()


def test_a_refusal_after_waiting_elsewhere_has_taken_what_came(stack: ExitStack) -> None:
    """The client's datagrams so far are the session's, which ends; the next begins another one."""
    handler = Resumed(1, FORBIDDEN)
    place = Datagrams(stack, handler)
    place.send(2)
    handler.is_elsewhere = False
    preread.resume(place.only())
    assert ([(403, 200)], {}) == (place.ended, place.listener.table)
    place.send(1)
    assert [(403, 200), (403, 100)] == place.ended


def test_sessions_that_wait_give_way_to_new_clients(stack: ExitStack) -> None:
    """Sources that send one datagram and no more lock nobody out once they have idled for 1 s."""
    place = Datagrams(stack, Wanting(3))
    loop = place.served.loop
    loop.free_connections = 6
    strangers = [stack.enter_context(socket.socket(socket.AF_INET, UDP)) for _ in range(6)]
    for stranger in strangers:
        stranger.connect(place.served.address())
        stranger.send(b"?")
        place.turn()
    assert 0 == loop.free_connections
    assert len(loop.sessions) == 6
    waited = loop.sessions.copy()
    for s in waited:
        s.content.active_ms -= 5000
        assert content.ANEW == s.content.way()
    loop.get(eviction.Eviction)._looked_ms -= 1000
    place.send(1)
    assert [(200, 1)] == place.ended
    assert 1 == len(loop.sessions - waited)
    assert [] == place.served.alerts()
