"""Every poller keeps the promise of event/poller.py, each over its own system call."""

import contextlib
import select
import selectors
import socket
import struct
from collections.abc import Iterator

import pytest

from ngxstream.event import poller
from ngxstream.event.poller import EDGE, HUP, IN, LEVEL, OUT, READABLE


@pytest.fixture(params=sorted(poller.POLLERS))
def each(request: pytest.FixtureRequest) -> Iterator[poller.Poller]:
    """Give each poller."""
    made = poller.POLLERS[request.param](512)
    yield made
    made.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give the two ends of a TCP connection; the first is watched."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    near.setblocking(False)
    with near, far:
        yield near, far


def nothing(mask: int) -> None:
    """Handle an event by doing nothing."""


def heard(each: poller.Poller, fd: int, wait_ms: int = 0) -> int:
    """Return what is said of a descriptor now, 0 for nothing."""
    return dict(each.poll(wait_ms)).get(fd, 0)


def test_room_is_told_once_and_data_when_it_comes(each, ends) -> None:
    """A new connection has room; after that there is silence until something arrives."""
    near, far = ends
    each.add(near.fileno(), nothing, EDGE)
    assert heard(each, near.fileno(), 1000) & OUT
    assert 0 == heard(each, near.fileno())
    far.send(b"x")
    assert heard(each, near.fileno(), 1000) & IN


def test_the_end_of_the_stream_is_readable(each, ends) -> None:
    """A peer that closes wakes the reader."""
    near, far = ends
    each.add(near.fileno(), nothing, EDGE)
    each.poll(0)
    far.close()
    assert heard(each, near.fileno(), 1000) & READABLE


def test_a_held_descriptor_is_silent(each, ends) -> None:
    """Data that its owner does not want now is told once at most, and again when released."""
    near, far = ends
    each.add(near.fileno(), nothing, EDGE)
    each.poll(0)
    far.send(b"x")
    assert heard(each, near.fileno(), 1000) & IN
    each.hold_read(near.fileno())
    assert 0 == heard(each, near.fileno())
    each.release_read(near.fileno())
    if each.name != "epoll":  # an edge is told once: the owner goes on by itself
        assert heard(each, near.fileno(), 1000) & IN


def test_a_muted_descriptor_tells_of_no_packet(each, ends) -> None:
    """What comes in while its owner waits for room elsewhere wakes nobody, until it is unmuted."""
    near, far = ends
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    each.add(near.fileno(), nothing, EDGE)
    each.poll(0)
    each.mute_read(near.fileno())
    each.poll(0)
    for n in range(5):
        far.send(b"x")
        assert n + 1 == len(near.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        assert not heard(each, near.fileno()) & IN
    each.unmute_read(near.fileno())
    assert heard(each, near.fileno(), 1000) & IN


def test_a_reset_of_a_held_descriptor_does_not_spin(each, ends) -> None:
    """While nobody reads, a dead peer is told at most once: the loop may sleep."""
    near, far = ends
    each.add(near.fileno(), nothing, EDGE)
    each.poll(0)
    far.send(b"x")
    each.poll(1000)
    each.hold_read(near.fileno())
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    waiting = select.poll()
    waiting.register(near, 0)
    assert waiting.poll(5000)  # the reset has arrived
    assert [1, 0] >= [len(each.poll(0)), len(each.poll(0))]
    each.release_read(near.fileno())
    assert each.name == "epoll" or heard(each, near.fileno(), 1000) & (READABLE | HUP)


def test_waiting_output_is_told_when_there_is_room(each, ends) -> None:
    """A full socket is told about when its peer has read."""
    near, far = ends
    each.add(near.fileno(), nothing, EDGE)
    each.poll(0)
    with contextlib.suppress(BlockingIOError):
        while near.send(bytes(65536)):
            pass
    each.want_write(near.fileno())
    assert 0 == heard(each, near.fileno()) & OUT
    room = 0
    far.settimeout(20)
    while not room:
        far.recv(1 << 20)
        room = heard(each, near.fileno()) & OUT
    assert room
    each.no_write(near.fileno())
    assert 0 == heard(each, near.fileno()) & OUT


def test_a_level_is_told_until_it_is_gone(each, ends) -> None:
    """A level-triggered descriptor is told again and again while it has something."""
    near, far = ends
    each.add(near.fileno(), nothing, LEVEL)
    far.send(b"x")
    assert heard(each, near.fileno(), 1000) & IN
    assert heard(each, near.fileno()) & IN
    near.recv(10)
    assert 0 == heard(each, near.fileno())


def test_what_was_removed_is_silent(each, ends) -> None:
    """A descriptor taken out of the set, or forgotten before it is closed, says nothing more."""
    near, far = ends
    for leave in (each.remove, each.forget):
        each.add(near.fileno(), nothing, LEVEL)
        far.send(b"x")
        assert heard(each, near.fileno(), 1000)
        leave(near.fileno())
        assert near.fileno() not in each.handlers
        if leave == each.remove:
            assert 0 == heard(each, near.fileno())
    each.remove(near.fileno())  # once more does no harm


def test_it_is_a_selector(each, ends) -> None:
    """The selectors interface works over it: register, select, get_key, unregister."""
    near, far = ends
    key = each.register(near, selectors.EVENT_READ | selectors.EVENT_WRITE, nothing)
    assert (near.fileno(), nothing) == (key.fd, key.data)
    assert [(key, selectors.EVENT_WRITE)] == each.select(1)
    far.send(b"x")
    assert (key, selectors.EVENT_READ) in [(k, e & 1) for k, e in each.select(1)]
    assert {near.fileno(): key} == dict(each.get_map())
    with pytest.raises(KeyError):
        each.register(near, selectors.EVENT_READ)
    assert key == each.unregister(near)
    with pytest.raises(KeyError):
        each.unregister(near)


@pytest.mark.effect("epoll_events")
def test_the_kernel_reports_no_more_than_asked_for() -> None:
    """epoll_events bounds what one call brings; the rest comes with the next."""
    pairs = [socket.socketpair() for _ in range(5)]
    with poller.EpollPoller(2) as some:
        for near, far in pairs:
            some.add(near.fileno(), nothing, LEVEL)
            far.send(b"x")
        seen: set[int] = set()
        while len(seen) < 5:
            found = some.poll(1000)
            assert 0 < len(found) <= 2
            seen |= {fd for fd, _ in found}
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_select_names_its_limit() -> None:
    """A descriptor beyond FD_SETSIZE is refused in words."""
    with poller.SelectPoller() as few, pytest.raises(OSError, match="1024"):
        few.add(poller.FD_SETSIZE, nothing)
