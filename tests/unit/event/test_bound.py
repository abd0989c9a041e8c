"""Whose sockets are in the way of a UDP address."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ngxstream.event import bound
from tests.support import ports


class Binder:
    """Binds UDP sockets that end with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack

    def __call__(
        self, host: str, port: int = 0, *, only6: bool = True
    ) -> socket.socket:
        """Return a socket bound to host and port, sharable with others of its kind.

        Args: port 0 is one that nobody is bound to, at any address; the kernel's own choice may
        be in use at another one, or by somebody who shares it
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self.stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
        sock.bind((host, port or ports.free_udp_port()))
        return sock


def ours(*socks: socket.socket) -> bound.Neighbours:
    """Return what knows these sockets as ours."""
    known = bound.Neighbours()
    known.add(socks)
    return known


@pytest.fixture
def bind() -> Iterator[Binder]:
    """Give a function that binds sockets."""
    with ExitStack() as stack:
        yield Binder(stack)


def port_of(sock: socket.socket) -> int:
    """Return the port a socket is bound to."""
    return sock.getsockname()[1]


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("::1", "::1"),
        ("::", "::1"),
        ("::1", "::"),
        ("::", "127.0.0.1"),
        ("127.0.0.1", "::"),
    ],
)
def test_own_sockets_are_told_from_foreign_ones(
    bind: Binder, held: str, wanted: str
) -> None:
    """An address is ours when nobody else's socket is in the way of it."""
    sock = bind(held, only6=False)
    address = (
        (wanted, port_of(sock), 0, 0) if ":" in wanted else (wanted, port_of(sock))
    )
    assert ours(sock).alone_block(address)
    assert not ours().alone_block(address)


def test_one_foreign_socket_among_own_ones_counts(bind: Binder) -> None:
    """A third one at the same port takes the address away."""
    own = bind("127.0.0.2")
    bind("127.0.0.3", port_of(own))
    assert ours(own).alone_block(("127.0.0.2", port_of(own)))
    assert not ours(own).alone_block(("0.0.0.0", port_of(own)))


def test_other_ports_and_addresses_are_not_in_the_way(bind: Binder) -> None:
    """Where nothing is in the way, nothing is ours either."""
    own = bind("127.0.0.2")
    assert not ours(own).alone_block(("127.0.0.4", port_of(own)))
    other = bind("127.0.0.2")
    assert not ours(own).alone_block(("127.0.0.2", port_of(other)))


def test_closed_sockets_are_passed_over(bind: Binder) -> None:
    """A socket closed meanwhile belongs to nobody."""
    sock = bind("127.0.0.1")
    port = port_of(sock)
    sock.close()
    assert not ours(sock).alone_block(("127.0.0.1", port))


def test_a_socket_bound_after_the_first_question_is_known(bind: Binder) -> None:
    """The kernel's table is read once; what is ours is counted as it comes."""
    first = bind("127.0.0.1")
    known = ours(first)
    assert known.alone_block(("127.0.0.1", port_of(first)))
    second = bind("0.0.0.0")
    assert not known.alone_block(("127.0.0.1", port_of(second)))
    known.add([second])
    assert known.alone_block(("127.0.0.1", port_of(second)))
