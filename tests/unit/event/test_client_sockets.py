"""event/client_sockets.py: one socket for a client, not too many, not for too long."""

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.event import client_sockets, connect
from ngxstream.event.client_sockets import ClientSockets
from tests.support import tools
from tests.support.engine import engine

PLAIN = connect.PLAIN


@pytest.fixture
def loop() -> Any:
    """Give a loop; binding transparently needs a capability."""
    tools.require_root()
    with engine(connections=100) as made:
        yield made
        made.get(ClientSockets).close()


def client(n: int) -> tuple[str, int]:
    """Return an address that is not of this machine."""
    return f"192.0.2.{n}", 1000 + n


def test_a_client_has_one_socket(loop: Any) -> None:
    """The same address gets the same socket, another one its own; each is bound to its client."""
    sockets = loop.get(ClientSockets)
    one = sockets.get(socket.AF_INET, client(1), PLAIN)
    two = sockets.get(socket.AF_INET, client(2), PLAIN)
    assert one is sockets.get(socket.AF_INET, client(1), PLAIN)
    assert [client(1), client(2)] == [one.getsockname(), two.getsockname()]
    assert 2 == sockets.made == len(sockets)


def test_ipv6_clients_have_theirs(loop: Any) -> None:
    """IPv6 addresses are bound as well."""
    tools.require_ipv6()
    address = ("2001:db8::1", 1001, 0, 0)
    assert address == loop.get(ClientSockets).get(socket.AF_INET6, address, PLAIN).getsockname()


def test_the_one_unused_longest_gives_way(loop: Any) -> None:
    """At the bound, the least recently used socket is closed."""
    sockets = loop.get(ClientSockets)
    assert 25 == sockets.limit
    made = [sockets.get(socket.AF_INET, client(n), PLAIN) for n in range(25)]
    sockets.get(socket.AF_INET, client(0), PLAIN)
    sockets.get(socket.AF_INET, client(100), PLAIN)
    assert 25 == len(sockets)
    assert [True, False, True] == [sock.fileno() >= 0 for sock in made[:3]]


def test_sockets_age(loop: Any) -> None:
    """Unused for a while, a socket is closed; one that was used since stays its time."""
    sockets = loop.get(ClientSockets)
    start = loop.now_ms
    old, new = (sockets.get(socket.AF_INET, client(n), PLAIN) for n in (1, 2))
    loop.now_ms = start + client_sockets.KEEP_MS // 2
    sockets.get(socket.AF_INET, client(2), PLAIN)
    loop.now_ms = start + client_sockets.KEEP_MS
    sockets._sweep()
    assert (-1, True) == (old.fileno(), new.fileno() >= 0)
    loop.now_ms += client_sockets.KEEP_MS
    sockets._sweep()
    assert -1 == new.fileno()
    assert 0 == len(sockets)


def test_nothing_is_received(loop: Any) -> None:
    """What comes for such a socket is dropped by the kernel."""
    sock = loop.get(ClientSockets).get(socket.AF_INET, ("127.0.0.1", 0), PLAIN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for _ in range(10):
            other.sendto(b"x", sock.getsockname())
        # a datagram on the loopback is there when sendto() returns
        with pytest.raises(BlockingIOError):
            sock.recv(1)


class FakeLoop:
    """A loop that has nothing but a clock and timers nobody runs."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.now_ms = 1
        self.due: list[Any] = []

    def call_later(self, delay_ms: int, callback: Any, cancelable: bool = False) -> None:
        """Note a timer."""
        assert cancelable
        assert delay_ms >= 1
        self.due.append((self.now_ms + delay_ms, callback))

    def run_to(self, now_ms: int) -> None:
        """Let time pass."""
        while self.due and min(self.due)[0] <= now_ms:
            entry = min(self.due, key=lambda pair: pair[0])
            self.due.remove(entry)
            self.now_ms = entry[0]
            entry[1]()
        self.now_ms = now_ms


class FakeSocket:
    """A socket that knows whether it was closed."""

    def __init__(self) -> None:
        self.open = True

    def setsockopt(self, *_: Any) -> None:
        """Take any option."""

    def close(self) -> None:
        """Close, once."""
        assert self.open
        self.open = False


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20_000)), max_size=120))
def test_any_order_of_clients_and_pauses(steps: list[tuple[int, int]]) -> None:
    """Whoever asks when: what is handed out is open, never too many are, and all age out."""
    loop = FakeLoop(connections=64)
    made: list[FakeSocket] = []

    def open_bound(*_: Any, **__: Any) -> FakeSocket:
        made.append(FakeSocket())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connect, "open_bound", open_bound)
        sockets = ClientSockets(loop)  # type: ignore[arg-type]
        used: dict[int, int] = {}
        for n, pause in steps:
            loop.run_to(loop.now_ms + pause)
            assert sockets.get(socket.AF_INET, client(n), PLAIN).open
            used[n] = loop.now_ms
            assert sum(sock.open for sock in made) == len(sockets) <= sockets.limit
            assert len(loop.due) <= 1
        loop.run_to(loop.now_ms + 2 * client_sockets.KEEP_MS)
    assert 0 == len(sockets)
    assert not any(sock.open for sock in made)


def test_a_socket_ages_also_after_all_others_have_gone(loop: Any) -> None:
    """Whenever there is a socket, somebody comes to look at its age."""
    calls: list[Callable[[], None]] = []
    clock: Any = SimpleNamespace(
        connections=100, now_ms=0, call_later=lambda ms, call, cancelable: calls.append(call)
    )
    sockets = ClientSockets(clock)
    for n in range(3):
        sock = sockets.get(socket.AF_INET, client(n), PLAIN)
        clock.now_ms += client_sockets.KEEP_MS
        assert 1 == len(calls)
        calls.pop()()
        assert -1 == sock.fileno()
        assert [] == calls
