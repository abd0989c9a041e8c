"""Recycled sockets: a new port each time, and never a former session's answer."""

import socket
from contextlib import ExitStack

import pytest

from ngxstream.event import poller
from ngxstream.event.connection import raw_socket
from tests.support import ports
from tests.support.engine import engine

UDP = socket.SOCK_DGRAM


def test_a_recycled_socket_has_a_new_port_and_an_empty_queue() -> None:
    """Answers to the former session, early, late and doubled, are never read by the next one."""
    with ExitStack() as stack, engine() as loop:
        server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        server.bind(("127.0.0.1", 0))
        pool = loop.udp_sockets
        stack.callback(pool.close)
        sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        loop.register(sock.fileno(), lambda mask: None)
        ports = set()
        assert 0 == sock.connect_ex(server.getsockname())
        for turn in range(50):
            port = sock.getsockname()
            ports.add(port)
            server.sendto(b"answer %d" % turn, port)
            server.sendto(b"doubled", port)
            assert b"answer %d" % turn == sock.recv(100)
            assert pool.give(sock, sock.fileno(), socket.AF_INET)
            server.sendto(b"late", port)
            again = pool.take(socket.AF_INET, server.getsockname())
            assert again is sock
            assert server.getsockname() == again.getpeername()
            try:
                assert not again.recv(100), "the queue is not empty"
            except BlockingIOError:
                pass
        assert len(ports) > 40


def test_a_pending_icmp_error_does_not_reach_the_next_session() -> None:
    """A refusal of the former session's datagram is read away with its answers."""
    with ExitStack() as stack, engine() as loop:
        address = "127.0.0.1", ports.free_udp_port()  # nobody is there
        pool = loop.udp_sockets
        stack.callback(pool.close)
        sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        loop.register(sock.fileno(), lambda mask: None)
        sock.connect_ex(address)
        sock.send(b"x")
        assert pool.give(sock, sock.fileno(), socket.AF_INET)
        again = pool.take(socket.AF_INET, address)
        assert 0 == again.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_a_resting_socket_is_emptied_by_the_turn_and_keeps_no_poll_awake() -> None:
    """What a session left unread is thrown away in the next turn; the one after has no event."""
    with ExitStack() as stack, engine() as loop:
        server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        server.bind(("127.0.0.1", 0))
        pool = loop.udp_sockets
        stack.callback(pool.close)
        sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        loop.register(sock.fileno(), lambda mask: None, poller.LEVEL)
        sock.connect_ex(server.getsockname())
        server.sendto(b"doubled", sock.getsockname())
        assert pool.give(sock, sock.fileno(), socket.AF_INET)
        before = loop.turns
        loop.turn(10_000)
        assert [] == loop.poller.poll(0)
        loop.turn(0)
        assert before + 2 == loop.turns
        again = pool.take(socket.AF_INET, server.getsockname())
        assert again is sock
        server.sendto(b"its own", again.getsockname())
        assert b"its own" == again.recv(100)


@pytest.mark.parametrize("address", [("::1", 5353, 0, 0), ("::1", 9, 0x12345, 1)])
def test_a_recycled_socket_of_ipv6_is_connected_to_the_whole_address(address) -> None:
    """Port, flow and scope are those of the peer."""
    with ExitStack() as stack, engine() as loop:
        pool = loop.udp_sockets
        stack.callback(pool.close)
        twin = stack.enter_context(socket.socket(socket.AF_INET6, UDP))
        twin.connect(address)
        sock = raw_socket(socket.AF_INET6, UDP | socket.SOCK_NONBLOCK)
        loop.register(sock.fileno(), lambda mask: None, poller.LEVEL)
        assert pool.give(sock, sock.fileno(), socket.AF_INET6)
        again = pool.take(socket.AF_INET6, address)
        stack.callback(again.close)
        assert twin.getpeername() == again.getpeername()


def test_a_recycled_socket_that_cannot_connect_is_closed() -> None:
    """An address that nothing leads to gives no socket, and loses none."""
    with ExitStack() as stack, engine() as loop:
        pool = loop.udp_sockets
        stack.callback(pool.close)
        sock = raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK)
        loop.register(sock.fileno(), lambda mask: None, poller.LEVEL)
        assert pool.give(sock, sock.fileno(), socket.AF_INET)
        assert pool.take(socket.AF_INET, ("255.255.255.255", 9)) is None  # needs SO_BROADCAST
        assert (0, [sock]) == (len(pool), loop.doomed)
        loop.turn(0)


def test_no_more_rest_than_the_limit() -> None:
    """A pool that is full leaves the closing to its caller."""
    with engine() as loop:
        pool = loop.udp_sockets
        pool.limit = 1
        socks = [raw_socket(socket.AF_INET, UDP | socket.SOCK_NONBLOCK) for _ in range(2)]
        for sock in socks:
            loop.register(sock.fileno(), lambda mask: None)
        assert [True, False] == [pool.give(s, s.fileno(), socket.AF_INET) for s in socks]
        assert 1 == len(pool)
        pool.close()
        socks[1].close()
