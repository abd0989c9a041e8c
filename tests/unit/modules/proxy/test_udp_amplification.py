"""proxy_udp_amplification: a client of one datagram gets so much, a client of two gets all."""

import contextlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event import datagram
from ngxstream.modules.proxy import udp_amplification
from tests.support import moving, ports, quic
from tests.support.in_process import build
from tests.support.moving import World
from tests.support.udp_in_process import UdpInProcess
from tests.support.waiting import wait_until


class Lab:
    """A UDP proxy in this process, its client and its server."""

    def __init__(self, stack: ExitStack, server: str = "", host: str = "127.0.0.1:") -> None:
        self.back = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.back.bind(("127.0.0.1", 0))
        self.client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.client.bind(("127.0.0.1", 0))
        for sock in (self.back, self.client):
            sock.setblocking(False)
        self.served = stack.enter_context(UdpInProcess(
            f"stream {{ server {{ listen {host}{ports.free_port()} udp; {server} "
            f"proxy_udp_amplification 3; "
            f"proxy_pass 127.0.0.1:{self.back.getsockname()[1]}; }} }}"
        ))
        self.proxy: Any = None

    def turn(self, sock: socket.socket, count: int = 1) -> list[bytes]:
        """Turn until so many datagrams have come to a socket; some turns for none."""
        found: list[bytes] = []
        turns = 0

        def is_over() -> bool:
            nonlocal turns
            turns += 1
            self.served.loop.turn(wait_ms=2)
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, by = sock.recvfrom(65_536)
                    found.append(data)
                    if sock is self.back:
                        self.proxy = by
            return len(found) >= count if count else turns == 10

        wait_until(is_over, every=0)
        return found

    def ask(self, data: bytes) -> None:
        """Have a datagram of the client reach the server."""
        self.client.sendto(data, self.served.address())
        assert [data] == self.turn(self.back)

    def answer(self, *sizes: int) -> None:
        """Have the server answer."""
        for size in sizes:
            self.back.sendto(bytes(size), self.proxy)

    @property
    def content(self) -> Any:
        """The content of the only session."""
        (s,) = self.served.loop.sessions
        return s.content


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close everything at the end."""
    with ExitStack() as made:
        yield made


@pytest.mark.effect("proxy_udp_amplification")
def test_one_datagram_is_worth_so_many_bytes(stack: ExitStack) -> None:
    """An answer that is too much is dropped and counted, one that fits still passes."""
    lab = Lab(stack)
    lab.ask(bytes(100))
    lab.answer(200, 150, 100, 1)
    assert [200, 100] == [len(data) for data in lab.turn(lab.client, 2)]
    assert [] == lab.turn(lab.client, 0)
    content = lab.content
    assert (300, 2, 4) == (content.c.sent, content.dropped, content.responses)
    assert 2 == lab.served.listeners[0].lost.total


def test_the_second_datagram_lifts_the_bound(stack: ExitStack) -> None:
    """From then on nothing stands in the way, neither of what is sent nor of what comes."""
    lab = Lab(stack)
    lab.ask(b"?")
    lab.answer(500)
    assert [] == lab.turn(lab.client, 0)
    listener = lab.served.listeners[0]
    key = lab.client.getsockname()
    assert isinstance(listener.table[key], udp_amplification.Unproved)
    lab.ask(b"??")
    assert listener.table[key] is lab.content
    assert lab.content.c.sock is listener.sock
    lab.answer(500, 600)
    assert [500, 600] == [len(data) for data in lab.turn(lab.client, 2)]


def test_a_client_whose_answer_was_too_much_may_ask_again(stack: ExitStack) -> None:
    """Its session waits for it, though all answers that were owed have come."""
    lab = Lab(stack, "proxy_responses 1;")
    lab.ask(b"?")
    lab.answer(500)
    assert [] == lab.turn(lab.client, 0)
    lab.ask(b"?")
    lab.answer(500)
    assert [500] == [len(data) for data in lab.turn(lab.client)]
    lab.content.on_timeout()
    assert not lab.served.loop.sessions  # and no failure of its server
    assert [] == [text for level, text in lab.served.target.lines if level == "error"]


def test_where_each_datagram_is_a_session_the_bound_holds_for_all(stack: ExitStack) -> None:
    """The session ends with its answer, dropped or not."""
    lab = Lab(stack, "proxy_requests 1; proxy_responses 1;")
    for _ in range(2):
        lab.ask(b"?")
        lab.answer(500)
        assert [] == lab.turn(lab.client, 0)
        assert not lab.served.loop.sessions
    lab.ask(bytes(200))
    lab.answer(500)
    assert 500 == len(lab.turn(lab.client)[0])


def test_answers_leave_from_the_address_that_was_asked(stack: ExitStack) -> None:
    """Also of a wildcard socket, and several that come together."""
    lab = Lab(stack, host="0.0.0.0:")
    lab.ask(bytes(100))
    content = lab.content
    assert content.control
    views = [memoryview(bytes(90)) for _ in range(5)]
    content.answer_many(views)
    assert [90] * 3 == [len(data) for data in lab.turn(lab.client, 3)]
    content.c.sent = 0
    content.answer_burst(memoryview(bytes(400)), 120)
    assert [120, 120, 40] == [len(data) for data in lab.turn(lab.client, 3)]
    assert 280 == content.c.sent
    content.c.sent = 290
    content.answer(memoryview(bytes(11)))
    content.answer(memoryview(bytes(10)))
    assert [10] == [len(data) for data in lab.turn(lab.client)]


def test_what_finds_no_room_is_not_sent_later(stack: ExitStack) -> None:
    """What waits for room would not be looked at again."""
    lab = Lab(stack)
    lab.ask(bytes(100))
    content = lab.content

    class Full:
        def sendmsg(self, *_: object) -> int:
            raise BlockingIOError

    bound = content.c.sock
    bound._sock = Full()
    content.answer_many([memoryview(bytes(50))] * 2)
    assert 2 == content.dropped
    assert not lab.served.listeners[0].answers.queue
    bound._sock = lab.served.listeners[0].sock


def test_control_data_of_a_burst_is_taken_apart() -> None:
    """What divides it, and the rest."""
    other = (0, 8, bytes(12))
    assert ([other], 1200) == datagram.unsegmented([other, *datagram.segment_control(1200)])
    assert ([], 0) == datagram.unsegmented([])


def test_a_session_that_moves_is_bounded_there(tmp_path: Path) -> None:
    """Unless its client has proved itself; nothing of a session is left that has gone."""
    with World(tmp_path, server="proxy_udp_amplification 3;") as world:
        world.exchange(b"hello")
        before = world.old.only_session().c
        world.hand_over()
        c = world.new.only_session().c
        assert not isinstance(before.sock, udp_amplification.Bound)
        assert isinstance(c.sock, udp_amplification.Bound)
        world.exchange(b"still there")
        assert not isinstance(c.sock, udp_amplification.Bound)
    assert moving.CONF


def test_a_client_that_has_proved_itself_stays_so(tmp_path: Path) -> None:
    """In the next process, too."""
    with World(tmp_path, server="proxy_udp_amplification 3;") as world:
        world.exchange(b"hello")
        world.exchange(b"hello")
        world.hand_over()
        assert not isinstance(world.new.only_session().c.sock, udp_amplification.Bound)
        world.exchange(b"still there")


@pytest.mark.refusal("proxy_udp_amplification")
@pytest.mark.parametrize("word", ["0", "-1", "65536", "x"])
def test_nonsense_is_refused(word: str) -> None:
    """It is a number of bytes, or off."""
    text = "stream { server { listen 9 udp; proxy_udp_amplification %s; proxy_pass 127.0.0.1:9; } }"
    error = build(text % word).error
    assert "invalid" in error or "must be between 1 and 65535" in error
    built = build(text % "off")
    assert built.conf is not None
    assert 0 == built.conf.servers[0].proxy.amplification


def test_a_bound_is_lifted_where_another_server_had_to_be_tried(stack: ExitStack) -> None:
    """A client of `proxy_quic`, whose handshake takes more than one datagram, gets all of it."""
    back, client = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    for _ in range(2))
    for sock in (back, client):
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    served = stack.enter_context(UdpInProcess(
        f"stream {{ upstream u {{ server 127.0.0.1:{ports.free_udp_port()}; "
        f"server 127.0.0.1:{back.getsockname()[1]} backup; }} "
        f"server {{ listen 127.0.0.1:{ports.free_udp_port()} udp; proxy_quic on; "
        f"proxy_udp_amplification 3; proxy_pass u; }} }}"
    ))

    def received(sock: socket.socket, count: int) -> list[Any]:
        found: list[Any] = []

        def is_over() -> bool:
            served.loop.turn(wait_ms=2)
            with contextlib.suppress(BlockingIOError):
                found.append(sock.recvfrom(65_536))
            return len(found) >= count

        wait_until(is_over, every=0)
        return found

    client.sendto(quic.opaque(quic.INITIAL, 1100, destination=b"original", source=b"cli"),
                  served.address())
    ((_, proxy),) = received(back, 1)
    answer = quic.opaque(quic.HANDSHAKE, 1100, destination=b"cli", source=b"\x01server-id")
    back.sendto(answer, proxy)
    received(client, 1)
    client.sendto(quic.opaque(quic.HANDSHAKE, destination=b"\x01server-id", source=b"cli"),
                  served.address())
    received(back, 1)
    for _ in range(10):
        back.sendto(answer, proxy)
    assert 10 == len(received(client, 10))
