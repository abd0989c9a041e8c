"""modules/proxy/udp_to_client.py: each answer is sent once, in order, however it is sent."""

import errno
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ngxstream.event import datagram
from ngxstream.event.recycle import SocketPool
from tests.support import owned, ports
from tests.support.udp_in_process import UdpInProcess

UDP = socket.SOCK_DGRAM


class Answered:
    """A server, a client, and the session between them that has had one exchange."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        self.server.bind(("127.0.0.1", 0))
        self.server.settimeout(20)
        port = self.server.getsockname()[1]
        self.served = stack.enter_context(
            UdpInProcess(
                f"stream {{ server {{ listen 127.0.0.1:{ports.free_udp_port()} udp; "
                f"proxy_pass 127.0.0.1:{port}; }} }}"
            )
        )
        self.client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        self.client.settimeout(20)
        self.client.connect(self.served.address())
        self.client.send(b"?")
        self.turn(self.served.listeners[0].sock)
        _, self.proxy = self.server.recvfrom(100)
        (s,) = self.served.loop.sessions
        self.content: Any = s.content

    def turn(self, sock: Any) -> None:
        """Turn until a socket has been read empty."""
        self.served.loop.turn(0)
        while select.select([sock], [], [], 0)[0]:
            self.served.loop.turn(0)

    def answer(self, count: int, size: int = 100) -> list[bytes]:
        """Have the server send so many datagrams; return what the client receives, in order."""
        sent = [owned.datagram(1, n, size) for n in range(count)]
        for data in sent:
            self.server.sendto(data, self.proxy)
        self.turn(self.content.pc)
        return [self.client.recv(4096) for _ in sent]


@pytest.fixture
def answered() -> Iterator[Answered]:
    """Give a session."""
    with ExitStack() as stack:
        yield Answered(stack)


class Noted:
    """A socket that notes what is sent, and refuses what a path without GSO refuses."""

    def __init__(self, *, gso: bool) -> None:
        self.gso = gso
        self.sent: list[bytes] = []

    def sendto(self, view: Any, client: Any) -> int:
        """Send one datagram."""
        self.sent.append(bytes(view))
        return len(view)

    def sendmsg(self, views: Any, control: Any, flags: int, client: Any) -> int:
        """Send several in one message."""
        if not self.gso:
            raise OSError(errno.EIO, "no")
        size = int.from_bytes(control[-1][2][:2], "little")
        whole = b"".join(views)
        self.sent += [whole[at : at + size] for at in range(0, len(whole), size)]
        return len(whole)


@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize("sizes", [(10, 20, 20, 5), (30, 30, 30), (7, 9), (40, 30, 20, 10)])
def test_several_answers_are_sent_once_each(
    answered: Answered, sizes: tuple[int, ...], gso: bool
) -> None:
    """In order and whole, whether the path takes several in a message or not."""
    noted = answered.content.c.sock = Noted(gso=gso)
    before = answered.content.c.sent
    sent = [bytes([n]) * size for n, size in enumerate(sizes)]
    answered.content.answer_many([memoryview(data) for data in sent])
    assert sent == noted.sent
    assert sum(sizes) == answered.content.c.sent - before
    answered.content.answer_many([memoryview(data) for data in sent])  # it is known by now
    assert sent * 2 == noted.sent


@pytest.mark.parametrize("gso", [True, False])
def test_a_coalesced_answer_is_the_datagrams_the_server_sent(
    answered: Answered, gso: bool
) -> None:
    """Where the client's path cannot do the same, they are sent one by one."""
    noted = answered.content.c.sock = Noted(gso=gso)
    for _ in range(2):
        answered.content.answer_burst(memoryview(b"aabbc"), 2)
    assert [b"aa", b"bb", b"c"] * 2 == noted.sent
    assert gso == answered.content.client_gso


def test_all_answers_come_in_order_and_more_are_read_at_a_time(answered: Answered) -> None:
    """A server that sends many is read in larger and larger drains."""
    limits = []
    for _ in range(3):
        expected = [owned.datagram(1, n, 100) for n in range(64)]
        assert expected == answered.answer(64)
        limits.append(answered.content.limit)
    assert max(limits) > 1
    assert 193 == answered.content.responses + 1
    answered.content.limit = 4
    for n in range(8):
        answered.server.sendto(owned.datagram(1, n, 100), answered.proxy)
    answered.content.requests += 100  # the server owes more than are read
    answered.content.gro = False
    type(answered.content).on_event(answered.content, 0)
    assert 8 == answered.content.limit


def test_a_server_that_sends_runs_is_read_as_one_that_coalesces(answered: Answered) -> None:
    """Four drains of eight or more datagrams of one size switch it on, where the kernel can."""
    content = answered.content
    views = [memoryview(bytes(100))] * 9
    for n in range(4):
        assert n == content.gro_hints
        content.c.sock = Noted(gso=True)
        content.requests += 100
        content.limit = 9
        for _ in range(9):
            answered.server.sendto(bytes(100), answered.proxy)
        type(content).on_event(content, 0)
    assert content.gro == bool(content.pc.getsockopt(17, 104))  # UDP_GRO
    assert content.gro
    content.gro_hints = 0
    content._hint([*views[:4], memoryview(b"x"), *views])
    assert 0 == content.gro_hints


def test_how_the_server_is_read_is_not_switched_while_datagrams_wait_for_room(
    answered: Answered,
) -> None:
    """Who waits for room reads the answers meanwhile, as it was begun."""
    content = answered.content
    content.queue = [b"!"]
    content.watch()
    waiting = answered.served.loop.handlers[content.pc_fd]
    content.gro_hints = 3
    content._hint([memoryview(bytes(100))] * 9)
    assert (3, False) == (content.gro_hints, content.gro)
    content.gro = True
    content.gro_hints = 1000
    content.on_event_gro(0)
    assert content.gro
    assert waiting == answered.served.loop.handlers[content.pc_fd]


class Full(Noted):
    """A listening socket without room for what is sent past its waiting list."""

    def sendto(self, view: Any, client: Any) -> int:
        """Refuse it."""
        raise BlockingIOError


def test_an_answer_without_room_waits_for_it(answered: Answered) -> None:
    """The session goes on."""
    answered.content.c.sock = Full(gso=False)
    assert [owned.datagram(1, 0, 100)] == answered.answer(1)
    assert (100, 1) == (answered.content.c.sent, answered.content.responses)
    assert not answered.content.s.status


@pytest.mark.parametrize(("what", "resting"), [("nothing", 1), ("gro", 0), ("queue", 0)])
def test_a_socket_that_is_not_like_the_others_does_not_rest(
    answered: Answered, what: str, resting: int
) -> None:
    """One that coalesces, or tells of room, would do so for another client's session."""
    content, loop = answered.content, answered.served.loop
    if what == "gro":
        assert datagram.set_gro(content.pc, True)
        content.gro = True
    elif what == "queue":
        content.queue = [b"!"]
        content.watch()
    content.s.finalize(200)
    loop.turn(0)
    assert (resting, []) == (len(loop.get(SocketPool)), loop.poller.poll(0))


@pytest.mark.parametrize("asked", [1, 2, 3, 5])
def test_no_more_answers_are_passed_on_than_are_due(asked: int) -> None:
    """However many wait, and however many are read at once."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        served = stack.enter_context(UdpInProcess(
            f"stream {{ server {{ listen 127.0.0.1:{ports.free_udp_port()} udp; "
            f"proxy_pass 127.0.0.1:{server.getsockname()[1]}; proxy_responses {asked}; }} }}"
        ))
        client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        client.settimeout(20)
        client.connect(served.address())
        client.send(b"?")
        while not served.loop.sessions:
            served.loop.turn(0)
        _, proxy = server.recvfrom(100)
        for n in range(20):
            server.sendto(b"%d" % n, proxy)
        while served.loop.sessions:
            served.loop.turn(0)
        assert [b"%d" % n for n in range(asked)] == [client.recv(100) for _ in range(asked)]
        assert not select.select([client], [], [], 0)[0]
