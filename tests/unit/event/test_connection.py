"""What a client's connection tells of itself, and how it is written to off the hot path."""

import socket
from types import SimpleNamespace
from typing import Any

from ngxstream.core import codes
from ngxstream.event.connection import Connection, raw_socket
from tests.support.waiting import wait_until


def listening(wildcard: bool = False) -> Any:
    """Return what a connection asks of its listening socket."""
    return SimpleNamespace(options=SimpleNamespace(wildcard=wildcard, sockaddr=("192.0.2.1", 53)))


class Table:
    """A table of UDP clients that notes what is sent to them."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send_to(self, c: Connection, data: bytes) -> int:
        """Note a datagram."""
        self.sent.append(data)
        return len(data)


def test_the_local_address_is_that_of_the_listening_socket() -> None:
    """The kernel is asked only where that stands for several."""
    one, other = socket.socketpair()
    with one, other:
        fixed = Connection(one, one.fileno(), 1, "", 1, listening())
        assert ("192.0.2.1", 53) == fixed.local_sockaddr()
        asked = Connection(one, one.fileno(), 1, "", 2, listening(wildcard=True))
        assert one.getsockname() == asked.local_sockaddr()
    gone = Connection(one, -1, 1, "", 3, listening(wildcard=True))
    assert ("192.0.2.1", 53) == gone.local_sockaddr()


def test_what_was_sent_is_counted() -> None:
    """Until the client does not read any more."""
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        c = Connection(one, one.fileno(), 1, "", 1, listening())
        assert (5, 5) == (c.send(b"hello"), c.sent)
        wait_until(lambda: c.send(bytes(65536)) == codes.AGAIN)
        sent = c.sent
        assert (codes.AGAIN, sent) == (c.send(b"more"), c.sent)


def test_a_udp_client_is_sent_to_by_its_table() -> None:
    """What is sent is one datagram of bytes."""
    table: Any = Table()
    c = Connection(None, -1, 2, ("192.0.2.9", 1), 1, listening(), table, "key")
    assert (True, 3, 3) == (c.is_udp, c.send(memoryview(b"abc")), c.sent)
    assert [b"abc"] == table.sent


def test_a_raw_socket_takes_a_descriptor_over() -> None:
    """Of the bare class, and with the flags that the kind bears."""
    first = raw_socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    again = raw_socket(socket.AF_INET, socket.SOCK_DGRAM, 0, first.detach())
    again.bind(("127.0.0.1", 0))
    assert again.getsockname()[1]
    again.close()
