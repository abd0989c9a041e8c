"""event/overflow.py: what the kernel dropped is told of, once a second."""

import socket
from collections.abc import Iterator

import pytest

from ngxstream.event import overflow
from tests.support.engine import engine


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a socket with a small buffer, and one that sends to it."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        sender.connect(sock.getsockname())
        yield sock, sender


def came(sock: socket.socket) -> int:
    """Read all that is queued; return how many datagrams it was."""
    count = 0
    while True:
        try:
            sock.recv(100)
        except BlockingIOError:
            return count
        count += 1


def test_drops_are_counted_from_the_beginning_and_told_once_a_second(pair) -> None:
    """Nothing is said of what was dropped before, nor twice; each notice has the whole count."""
    sock, sender = pair
    for _ in range(50):
        sender.send(b"x")
    before = 50 - came(sock)
    assert before == overflow.drops(sock)
    with engine() as loop:
        its = overflow.Overflow(loop, sock, "127.0.0.1:514")
        its.look()
        assert [] == loop.log.lines
        for _ in range(50):
            sender.send(b"x")
        its.look()
        assert [] == loop.log.lines  # within the same second
        loop.now_ms += 1000
        its.look()
        loop.now_ms += 1000
        its.look()
        total = 100 - came(sock) - (50 - before)
        text = (
            "the receive buffer was full, server: 127.0.0.1:514, datagrams dropped by the "
            f'kernel so far: {total}, see the "rcvbuf" parameter of "listen"'
        )
        assert [(6, text)] == loop.log.lines


def test_a_socket_that_does_not_count_has_dropped_nothing() -> None:
    """A kernel without SO_MEMINFO, as a closed socket here, is no failure."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.close()
    assert 0 == overflow.drops(sock)
