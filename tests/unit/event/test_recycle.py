"""Recycled sockets: a new port each time, and never a former session's answer."""

import socket
from contextlib import ExitStack

import pytest

from ngxstream.event import poller
from ngxstream.event.connection import raw_socket
from ngxstream.event.recycle import SocketPool
from tests.support.engine import engine

UDP = socket.SOCK_DGRAM


def test_a_recycled_socket_has_a_new_port_and_an_empty_queue() -> None:
    """Answers to the former session, early, late and doubled, are never read by the next one."""
    with ExitStack() as stack, engine() as loop:
        server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        server.bind(("127.0.0.1", 0))
        pool = loop.get(SocketPool)
        stack.callback(pool.close)
        sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        loop.register(sock.fileno(), lambda mask: None)
        ports = set()
        for turn in range(50):
            assert 0 == sock.connect_ex(server.getsockname())
            port = sock.getsockname()
            ports.add(port)
            server.sendto(b"answer %d" % turn, port)
            server.sendto(b"doubled", port)
            assert b"answer %d" % turn == sock.recv(100)
            assert pool.give(sock, sock.fileno(), socket.AF_INET)
            server.sendto(b"late", port)
            again = pool.take(socket.AF_INET)
            assert again is sock
            try:
                assert not again.recv(100), "the queue is not empty"
            except BlockingIOError:
                pass
        assert len(ports) > 40


def test_a_pending_icmp_error_does_not_reach_the_next_session() -> None:
    """A refusal of the former session's datagram is read away with its answers."""
    with ExitStack() as stack, engine() as loop:
        closed = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        closed.bind(("127.0.0.1", 0))
        address = closed.getsockname()
        closed.close()
        pool = loop.get(SocketPool)
        stack.callback(pool.close)
        sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        loop.register(sock.fileno(), lambda mask: None)
        sock.connect_ex(address)
        sock.send(b"x")
        assert pool.give(sock, sock.fileno(), socket.AF_INET)
        again = pool.take(socket.AF_INET)
        assert 0 == again.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_a_resting_socket_is_emptied_by_the_turn_and_keeps_no_poll_awake() -> None:
    """What a session left unread is thrown away in the next turn; the one after has no event."""
    with ExitStack() as stack, engine() as loop:
        server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        server.bind(("127.0.0.1", 0))
        pool = loop.get(SocketPool)
        stack.callback(pool.close)
        sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        loop.register(sock.fileno(), lambda mask: None, poller.LEVEL)
        sock.connect_ex(server.getsockname())
        server.sendto(b"doubled", sock.getsockname())
        assert pool.give(sock, sock.fileno(), socket.AF_INET)
        assert pool.take_rested(socket.AF_INET) is None  # it was not asked yet
        before = loop.turns
        loop.turn(10_000)
        assert [] == loop.poller.poll(0)
        loop.turn(0)
        assert before + 2 == loop.turns
        assert pool.take_rested(socket.AF_INET6) is None
        assert (sock, sock.fileno()) == pool.take_rested(socket.AF_INET)
        again = sock
        assert pool.take_rested(socket.AF_INET) is None
        assert 0 == again.connect_ex(server.getsockname())
        server.sendto(b"its own", again.getsockname())
        assert b"its own" == again.recv(100)


def test_a_socket_is_not_taken_in_the_turn_that_empties_it() -> None:
    """A client that comes before its event, or behind it, gets another one."""
    with ExitStack() as stack, engine() as loop:
        server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        server.bind(("127.0.0.1", 0))
        pool = loop.get(SocketPool)
        stack.callback(pool.close)
        sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        first, last = (stack.enter_context(socket.socket(socket.AF_INET, UDP)) for _ in range(2))
        found: list[object] = []

        def begin(mask: int) -> None:
            found.append(pool.take_rested(socket.AF_INET))
            found.append(pool.take(socket.AF_INET, rested=True))

        for one in (first, last):
            one.bind(("127.0.0.1", 0))
            loop.register(one.fileno(), begin, poller.LEVEL)
        loop.register(sock.fileno(), lambda mask: None, poller.LEVEL)
        sock.connect_ex(server.getsockname())
        server.sendto(b"client", first.getsockname())  # ready first: in this order they are told
        server.sendto(b"doubled", sock.getsockname())
        server.sendto(b"client", last.getsockname())
        assert pool.give(sock, sock.fileno(), socket.AF_INET)
        loop.turn(10_000)
        assert [None] * 4 == found
        loop.turn(10_000)
        assert (sock, sock.fileno()) == found[4]


def test_a_refusal_does_not_hide_the_answer_behind_it() -> None:
    """Both are thrown away, whoever does it."""
    with ExitStack() as stack, engine() as loop:
        pool = loop.get(SocketPool)
        stack.callback(pool.close)
        for is_fresh in (True, False):
            with socket.socket(socket.AF_INET, UDP) as server:
                server.bind(("127.0.0.1", 0))
                sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
                stack.callback(sock.close)
                loop.register(sock.fileno(), lambda mask: None, poller.LEVEL)
                sock.connect_ex(server.getsockname())
                server.sendto(b"doubled", sock.getsockname())
            sock.send(b"x")
            assert pool.give(sock, sock.fileno(), socket.AF_INET)
            if not is_fresh:
                loop.turn(10_000)
            again = pool.take(socket.AF_INET)
            assert again is sock
            with pytest.raises(BlockingIOError):
                again.recv(100)


def test_no_more_rest_than_the_limit() -> None:
    """A pool that is full leaves the closing to its caller."""
    with engine() as loop:
        pool = loop.get(SocketPool)
        pool.limit = 1
        socks = [raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK) for _ in range(2)]
        for sock in socks:
            loop.register(sock.fileno(), lambda mask: None)
        assert [True, False] == [pool.give(s, s.fileno(), socket.AF_INET) for s in socks]
        assert 1 == len(pool)
        pool.close()
        socks[1].close()


def test_a_socket_that_nobody_watched_does_not_rest() -> None:
    """Who took it would take it for watched, and hear of no answer."""
    with ExitStack() as stack, engine() as loop:
        pool = loop.get(SocketPool)
        stack.callback(pool.close)
        sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        assert not pool.give(sock, sock.fileno(), socket.AF_INET)
        assert 0 == len(pool)
        assert sock.fileno() not in loop.handlers


def test_what_rests_is_counted_and_may_be_closed_instead() -> None:
    """Who takes or drops a socket makes a place for another; a dropped one is closed."""
    with engine() as loop:
        pool = loop.get(SocketPool)
        socks = [raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK) for _ in range(2)]
        for sock in socks:
            loop.register(sock.fileno(), lambda mask: None)
            assert pool.give(sock, sock.fileno(), socket.AF_INET)
        assert 2 == len(pool)
        first = pool.take(socket.AF_INET)
        assert (socks[0], 1) == (first, len(pool))
        assert pool.drop()
        loop.turn(0)
        assert (-1, 0, False) == (socks[1].fileno(), len(pool), pool.drop())
        assert pool.take(socket.AF_INET) is None
        first.close()


class Spoiled(socket.SocketType):
    """A socket that fails whenever it is read."""

    def recv_into(self, *_: object) -> int:
        """Fail."""
        raise PermissionError


def test_a_socket_that_cannot_be_emptied_is_closed() -> None:
    """Whatever the kernel says for ever, nobody waits for the end of it."""
    with ExitStack() as stack, engine() as loop:
        pool = loop.get(SocketPool)
        stack.callback(pool.close)
        sock = Spoiled(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        fd = sock.fileno()
        loop.register(fd, lambda mask: None)
        assert pool.give(sock, fd, socket.AF_INET)
        loop.handlers[fd](poller.IN)
        assert pool.take(socket.AF_INET) is None
        loop.turn(0)
        assert (-1, False) == (sock.fileno(), fd in loop.handlers)
