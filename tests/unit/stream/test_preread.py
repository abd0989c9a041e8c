"""The preread phase: what is looked at, what stays, and when it is over."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ngxstream.core.codes import AGAIN, DECLINED, DONE, ERROR, OK
from ngxstream.stream import phases, preread, session
from tests.support.hall import Hall

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


Serve = Callable[..., Hall]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a factory of halls whose preread phase asks one handler."""
    halls = []

    def make(*handlers: Handler, timeout: str = "30s", wrapped: bool = False) -> Hall:
        conf = f"preread_buffer_size {BUFFER}; preread_timeout {timeout};"
        made = Hall(TEXT.format(conf))
        halls.append(made)
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
    for made in halls:
        made.close()


def exchange(hall: Hall, *pieces: bytes, half_close: bool = False) -> tuple[bytes, int]:
    """Send pieces in turns of their own; return the answer and $status."""
    client = hall.connect()
    hall.turn_until(lambda: hall.sessions, "the session")
    for piece in pieces:
        client.send(piece)
        for _ in range(2):
            hall.loop.turn(wait_ms=1)
    if half_close:
        client.shutdown(socket.SHUT_WR)
    return hall.read(client), hall.sessions[0].status


def test_a_handler_that_needs_nothing_waits_for_nothing(serve: Serve) -> None:
    """The first question comes without data; an answer is an answer."""
    handler = Handler(0)
    assert (b"TCP 0", 200) == exchange(serve(handler))
    assert [b""] == handler.shown


def test_what_was_peeked_stays_in_the_socket(serve: Serve) -> None:
    """The handler sees everything so far; the kernel still has it, nothing counts as received."""
    handler = Handler(4)
    hall = serve(handler)
    kept: list[bytes] = []

    def content(s: session.Session) -> None:
        kept.extend([s.preread, s.c.sock.recv(100)])
        s.finalize(200)

    hall.conf.servers[0].handler = content
    exchange(hall, b"ab", b"cd")
    assert [b"", b"ab", b"abcd"] == handler.shown
    assert [b"", b"abcd"] == kept


def test_what_came_through_tls_is_kept(serve: Serve) -> None:
    """A transport cannot be peeked at: the bytes wait in the session for who proxies them."""
    handler = Handler(4)
    hall = serve(handler, wrapped=True)
    kept: list[bytes] = []

    def content(s: session.Session) -> None:
        kept.append(s.preread)
        s.finalize(200)

    hall.conf.servers[0].handler = content
    exchange(hall, b"ab", b"cd")
    assert [b"", b"ab", b"abcd"] == handler.shown
    assert [b"abcd"] == kept


@pytest.mark.effect("preread_buffer_size")
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_buffer_is_a_bad_request(serve: Serve, wrapped: bool) -> None:
    """preread_buffer_size bytes that decide nothing end the session with 400."""
    hall = serve(Handler(BUFFER + 1), wrapped=wrapped)
    assert (b"", 400) == exchange(hall, bytes(BUFFER))
    (line,) = [text for level, text in hall.target.lines if level == "error"]
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
    hall = serve(Handler(4), wrapped=wrapped)
    assert (b"", 200) == exchange(hall, *pieces, half_close=True)


def test_time_is_counted_for_the_whole_phase(serve: Serve) -> None:
    """Bytes that decide nothing do not push preread_timeout back; 200 when it is over."""
    hall = serve(Handler(BUFFER), timeout="30ms")
    client = hall.connect()
    hall.turn_until(lambda: hall.sessions, "the session")
    s = hall.sessions[0]
    for _ in range(40):
        if not s.status:
            client.send(b"x")
        hall.loop.turn(wait_ms=1)
        if s.status:
            break
    hall.turn_until(lambda: s.status, "the end of the session")
    assert 200 == s.status
    assert 0 == hall.loop.live


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


def test_done_leaves_the_session_to_the_handler(serve: Serve) -> None:
    """A handler that says DONE goes on by itself."""
    hall = serve(Handler(2, DONE))
    client = hall.connect()
    client.send(b"ab")
    hall.turn_until(lambda: hall.sessions and hall.loop.live == 1, "the end of the phase")
    assert 0 == hall.sessions[0].status


def test_events_after_the_phase_change_nothing(serve: Serve) -> None:
    """A content that waits for something else is not begun anew by what the client sends."""
    begun = []
    hall = serve(Handler(2))
    hall.conf.servers[0].handler = begun.append
    client = hall.connect()
    client.send(b"ab")
    hall.turn_until(lambda: begun, "the content")
    client.send(b"more")
    for _ in range(5):
        hall.loop.turn(wait_ms=1)
    assert 1 == len(begun)


def test_a_session_ended_from_outside_leaves_no_timer(serve: Serve) -> None:
    """worker_shutdown_timeout ends sessions that still wait for their first bytes."""
    hall = serve(Handler(2))
    client = hall.connect()
    hall.turn_until(lambda: hall.sessions, "the session")
    hall.sessions[0].finalize(200)
    client.send(b"ab")
    hall.loop.turn(wait_ms=1)
    assert 0 == hall.loop.live


def test_a_handler_that_fails_at_once_ends_its_session(serve: Serve) -> None:
    """An exception before the first wait closes the client, too."""

    class Broken(Handler):
        def __call__(self, s: Any) -> int:
            raise ZeroDivisionError

    hall = serve(Broken(0))
    assert b"" == hall.read(hall.connect())
    assert ["alert"] == [level for level, _ in hall.target.lines if level == "alert"]
    assert 0 == hall.loop.live


def test_a_failing_handler_ends_its_own_session_only(serve: Serve) -> None:
    """An exception nobody expected is an alert and a 500."""

    class Broken(Handler):
        def __call__(self, s: Any) -> int:
            if s.preread:
                raise ZeroDivisionError
            return AGAIN

    hall = serve(Broken(0))
    assert (b"", 500) == exchange(hall, b"ab")
    assert ["alert"] == [level for level, _ in hall.target.lines if level == "alert"]
    assert 0 == hall.loop.live
