"""any_port: a socket hears all ports of one host, answers the latest, and hears nobody else."""

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ngxstream.event import any_port
from ngxstream.event.any_port import AnyPort
from tests.support.waiting import wait_until

SO_DETACH_FILTER = 27
HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
every_family = pytest.mark.parametrize("family", HOSTS, ids=["IPv4", "IPv6"])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close everything at the end."""
    with ExitStack() as made:
        yield made


def server(stack: ExitStack, host: str = "127.0.0.1") -> socket.socket:
    """Return a socket of a server's host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    sock.bind((host, 0))
    sock.settimeout(20)
    return sock


def towards(stack: ExitStack, there: socket.socket, port: int = 0) -> AnyPort:
    """Return a socket towards a server."""
    sock = socket.SocketType(there.family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    made = AnyPort(sock, there.getsockname(), port)
    sock.bind((HOSTS[socket.AddressFamily(there.family)], 0))
    stack.callback(made.close)
    return made


def received(one: AnyPort) -> bytes:
    """Return the next datagram."""
    slot = memoryview(bytearray(100))

    def receive() -> bytes | None:
        with contextlib.suppress(BlockingIOError):
            return bytes(slot[: one.recv_into(slot)])
        return None

    found: bytes = wait_until(receive)
    return found


def error_of(call: Callable[[], Any]) -> OSError:
    """Return the error that a call raises, once it raises one."""

    def fails() -> OSError | None:
        try:
            call()
        except BlockingIOError:
            return None
        except OSError as error:
            return error
        return None

    found: OSError = wait_until(fails)
    return found


@every_family
def test_what_is_sent_goes_to_the_port_that_answered_last(
    stack: ExitStack, family: socket.AddressFamily
) -> None:
    """Beginning with the one that is configured."""
    first, second = server(stack, HOSTS[family]), server(stack, HOSTS[family])
    one = towards(stack, first)
    assert 3 == one.send(b"one")
    assert (b"one", one.getsockname()) == first.recvfrom(100)
    second.sendto(b"from another port", one.getsockname())
    assert b"from another port" == received(one)
    one.send(b"two")
    assert b"two" == second.recv(100)
    first.sendto(b"back", one.getsockname())
    assert b"back" == received(one)
    assert 6 == one.sendmsg([memoryview(b"thr"), memoryview(b"ee!")])
    assert b"three!" == first.recv(100)
    slot = memoryview(bytearray(100))
    second.sendto(b"coalesced", one.getsockname())
    n, _, _, source = wait_until(lambda: message(one, slot))
    assert (b"coalesced", second.getsockname()) == (bytes(slot[:n]), source)


def message(one: AnyPort, slot: memoryview) -> Any:
    """Return a message if there is one."""
    with contextlib.suppress(BlockingIOError):
        return one.recvmsg_into((slot,), 64)
    return None


@pytest.mark.parametrize("has_filter", [True, False])
def test_another_host_is_not_heard(stack: ExitStack, has_filter: bool) -> None:
    """Neither with the kernel's filter nor by what looks again."""
    first, stranger = server(stack), server(stack, "127.0.0.2")
    one = towards(stack, first)
    if not has_filter:
        one.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    for _ in range(200):
        stranger.sendto(b"evil", one.getsockname())
    first.sendto(b"good", one.getsockname())
    assert b"good" == received(one)
    assert one.target == first.getsockname()
    slot = memoryview(bytearray(100))
    for _ in range(5):
        stranger.sendto(b"evil", one.getsockname())
        with pytest.raises(BlockingIOError):
            one.recvmsg_into((slot,), 64)


@pytest.mark.parametrize("has_filter", [True, False])
def test_a_host_of_ipv4_may_have_an_address_of_ipv6(stack: ExitStack, has_filter: bool) -> None:
    """Its answers pass, its refusals are heard, and another host of IPv4 is not."""
    first, stranger = server(stack), server(stack, "127.0.0.2")
    port = first.getsockname()[1]
    sock = socket.SocketType(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setblocking(False)
    one = AnyPort(sock, ("::ffff:127.0.0.1", port, 0, 0))
    stack.callback(one.close)
    sock.bind(("::", 0))
    if not has_filter:
        one.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    source = "127.0.0.1", one.getsockname()[1]
    for _ in range(40):
        stranger.sendto(b"evil", source)
    server(stack).sendto(b"good", source)
    assert b"good" == received(one)
    first.sendto(b"back", source)
    assert b"back" == received(one)
    first.close()
    one.send(b"?")
    slot = memoryview(bytearray(100))
    assert errno.ECONNREFUSED == error_of(lambda: one.recv_into(slot)).errno


def test_a_filter_is_for_one_address_of_ipv6(stack: ExitStack) -> None:
    """All four words of it."""
    for host in ("::2", "1::1", "0:0:1::1", "::1:0:1"):
        one = towards(stack, server(stack, "::1"))
        any_port.attach(one.sock, socket.inet_pton(socket.AF_INET6, host))
        stranger = server(stack, "::1")
        stranger.sendto(b"evil", one.getsockname())
        with pytest.raises(BlockingIOError):
            one.sock.recv(100)
        one.close()


@every_family
def test_the_configured_port_may_refuse(stack: ExitStack, family: socket.AddressFamily) -> None:
    """As a connected socket hears of it, by the next send or receive."""
    gone = server(stack, HOSTS[family])
    one = towards(stack, gone)
    gone.close()
    one.send(b"?")
    slot = memoryview(bytearray(100))
    assert errno.ECONNREFUSED == error_of(lambda: one.recv_into(slot)).errno
    assert errno.ECONNREFUSED == error_of(lambda: one.send(b"?")).errno


@every_family
def test_a_port_that_is_through_is_left(stack: ExitStack, family: socket.AddressFamily) -> None:
    """What is sent goes to the configured one again, and nobody counts it as a failure."""
    first, second = server(stack, HOSTS[family]), server(stack, HOSTS[family])
    one = towards(stack, first)
    second.sendto(b"!", one.getsockname())
    received(one)
    second.close()
    slot = memoryview(bytearray(100))

    def is_left() -> bool:
        one.send(b"?")
        with contextlib.suppress(BlockingIOError):
            one.recv_into(slot)
        return bool(one.target == first.getsockname())

    wait_until(is_left)
    one.send(b"again")
    while first.recv(100) != b"again":
        pass


def test_another_s_refusal_is_not_believed(stack: ExitStack) -> None:
    """Nor is one that names nobody."""
    one = towards(stack, server(stack))

    class Told:
        """A socket with errors of others."""

        def __init__(self, *addresses: Any) -> None:
            self.addresses = list(addresses)

        def recvmsg(self, *_: object) -> Any:
            if not self.addresses:
                raise BlockingIOError
            return b"", [], 0, self.addresses.pop()

    kept, refused = one.sock, ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    for queue, is_old in (
        ([("127.0.0.2", 9)], True), ([kept.getsockname()], True), ([one.target], False),
        ([("127.0.0.2", 9), one.target], False), ([], False),
    ):
        one.sock = Told(*queue)  # type: ignore[assignment]
        assert is_old == one._is_old(refused)
    for number in (errno.EPROTO, errno.EHOSTDOWN, errno.ENOPROTOOPT, errno.EMSGSIZE):
        for address, is_old in ((("127.0.0.2", 9), True), (one.target, False)):
            one.sock = Told(address)  # type: ignore[assignment]
            assert is_old == one._is_old(OSError(number, "of the network"), is_sent=False)
    configured, one.target = one.target, ("127.0.0.1", 9)
    for number, target in ((errno.EMSGSIZE, one.target), (errno.ECONNREFUSED, configured)):
        one.sock = Told(("127.0.0.1", 9))  # type: ignore[assignment]
        assert one._is_old(OSError(number, "of the other port"), is_sent=False)
        assert target == one.target
    one.sock = Told(("127.0.0.2", 9))  # type: ignore[assignment]
    assert not one._is_old(OSError(errno.EMSGSIZE, "what is sent is too long"))
    assert not one._is_old(BlockingIOError(errno.EAGAIN, "later"))
    one.sock = kept


def test_a_socket_goes_on_with_the_port_that_answered(stack: ExitStack) -> None:
    """In another process; it says what a connected one says."""
    first, second = server(stack), server(stack)
    one = towards(stack, first, second.getsockname()[1])
    one.send(b"moved")
    assert b"moved" == second.recv(100)
    assert one.fileno() == one.sock.fileno()
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM
    assert one.family == socket.AF_INET
