"""proxy_udp_any_port: sessions whose server answers from ports of its own, here and elsewhere."""

import contextlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event.any_port import AnyPort
from tests.support import moving, ports
from tests.support.in_process import build
from tests.support.moving import World
from tests.support.udp_in_process import UdpInProcess
from tests.support.waiting import wait_until

ON = "proxy_udp_any_port on;"
PORT = -1  # of a proxied session's values


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close everything at the end."""
    with ExitStack() as made:
        yield made


class Lab:
    """A UDP proxy in this process, its client, and two ports of its server's host."""

    def __init__(self, stack: ExitStack, server: str = ON, level: int = 4) -> None:
        self.client, self.back, self.other = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)
        )
        for sock in (self.client, self.back, self.other):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        self.served = stack.enter_context(UdpInProcess(
            f"stream {{ server {{ listen 127.0.0.1:{ports.free_port()} udp; {server} "
            f"proxy_pass 127.0.0.1:{self.back.getsockname()[1]}; }} }}", level=level
        ))

    def read(self, sock: socket.socket) -> tuple[bytes, Any]:
        """Turn until a datagram comes."""

        def look() -> tuple[bytes, Any] | None:
            self.served.loop.turn(wait_ms=2)
            with contextlib.suppress(BlockingIOError):
                return sock.recvfrom(100)
            return None

        found: tuple[bytes, Any] = wait_until(look, every=0)
        return found

    def ask(self, data: bytes, of: socket.socket) -> Any:
        """Have the client ask; return whom the server's host is to answer."""
        self.client.sendto(data, self.served.address())
        found, by = self.read(of)
        assert data == found
        return by


@pytest.mark.effect("proxy_udp_any_port")
@pytest.mark.parametrize("level", [4, 8])
def test_a_session_goes_on_with_the_port_that_answers(stack: ExitStack, level: int) -> None:
    """The client sees one address all the time; at debug level too."""
    lab = Lab(stack, level=level)
    proxy = lab.ask(b"read", lab.back)
    lab.other.sendto(b"data 1", ("127.0.0.1", proxy[1]))
    assert (b"data 1", lab.served.address()) == lab.read(lab.client)
    assert proxy == lab.ask(b"ack 1", lab.other)
    (s,) = lab.served.loop.sessions
    assert (2, 1) == s.content.datagrams()  # type: ignore[union-attr]


def test_without_it_other_ports_are_not_heard(stack: ExitStack) -> None:
    """As in nginx: the kernel drops what they send."""
    lab = Lab(stack, "")
    proxy = lab.ask(b"read", lab.back)
    lab.other.sendto(b"data 1", proxy)
    lab.back.sendto(b"good", proxy)
    assert b"good" == lab.read(lab.client)[0]


def test_a_server_that_refuses_is_left(stack: ExitStack) -> None:
    """Its refusal is heard of, and counts."""
    lab = Lab(stack)
    lab.back.close()
    lab.client.sendto(b"?", lab.served.address())

    def is_over() -> bool:
        lab.served.loop.turn(wait_ms=2)
        return any("refused" in text for _, text in lab.served.target.lines)

    wait_until(is_over, every=0)
    assert not lab.served.loop.sessions


def test_its_socket_serves_no_other_session(stack: ExitStack) -> None:
    """Whoever knew it could go on sending."""
    lab = Lab(stack, f"{ON} proxy_responses 1;")
    used = lab.ask(b"read", lab.back)
    (s,) = lab.served.loop.sessions
    pc = s.content.pc  # type: ignore[union-attr]
    lab.back.sendto(b"data", ("127.0.0.1", used[1]))
    lab.read(lab.client)
    lab.served.loop.turn(wait_ms=0)
    assert not lab.served.loop.sessions
    assert pc.fileno() == -1


def test_a_session_moves_with_the_port_that_answered(tmp_path: Path) -> None:
    """It is heard by the same port there, and goes on with the server's other one."""
    with World(tmp_path, server=ON) as world, socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as other:
        other.bind(("127.0.0.1", 0))
        other.setblocking(False)
        source = world.exchange(b"hello")
        other.sendto(b"data", source)
        world.turn(lambda: moving.has_datagram(world.client))
        assert b"data" == world.client.recv(100)
        world.hand_over()
        pc = world.new.only_session().content.pc  # type: ignore[union-attr]
        assert isinstance(pc, AnyPort)
        world.client.sendto(b"ack", world.address)
        world.turn(lambda: moving.has_datagram(other))
        assert (b"ack", source) == other.recvfrom(100)


@pytest.mark.parametrize(
    ("server", "port", "is_connected", "words"),
    [
        (ON, 7, True, "a socket that is connected"),
        (ON, 0, False, "a socket without a server"),
        ("", 7, False, "a port that its server has no use for"),
    ],
)
def test_a_socket_that_is_another_one_than_it_states_is_refused(
    tmp_path: Path, server: str, port: int, is_connected: bool, words: str
) -> None:
    """Another process says so, which may be another user's."""
    with World(tmp_path, server=server) as world:
        world.exchange(b"hello")
        values, proxied, sock = world.parcel()
        with contextlib.closing(sock), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            if is_connected:
                own.connect(world.backend.getsockname())
            proxied[PORT] = port
            world.post(values, proxied, own.fileno())
            assert not world.new.loop.sessions
            assert words in world.warnings()[0]


@pytest.mark.refusal("proxy_udp_any_port")
def test_nonsense_is_refused() -> None:
    """It is a flag."""
    text = "stream { server { listen 9 udp; proxy_udp_any_port 69; proxy_pass 127.0.0.1:9; } }"
    assert 'it must be "on" or "off"' in build(text).error
