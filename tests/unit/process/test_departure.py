"""A leaving worker's side of the hand-over: which way each session goes, and what goes with it."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import codes
from ngxstream.event.udp import UdpListener
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.stream import content, preread, session, travel
from ngxstream.stream.content import Content, ContentKind, Read, Restore
from ngxstream.stream.session import Session
from tests.support import descriptors, moving
from tests.support.moving import World, world

__all__ = ["world"]


class UnpackableProxy(UdpProxy):
    """A proxied session whose record cannot be made."""

    __slots__ = ()

    def waiting(self) -> list[bytes]:
        raise ValueError("no good")


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_session_whose_record_cannot_be_made_ends_alone(world: World, is_ready: bool) -> None:
    """The others of its message go on at their new place; it has a server, or waits for one."""
    others = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    mine = world.client
    sources = {}
    for client in (mine, *others):
        if client is not mine:
            client.bind(("127.0.0.1", 0))
            client.setblocking(False)
        world.client = client
        sources[client] = world.exchange(b"before")
    bad = others[1].getsockname()
    (failing,) = [s for s in world.old.loop.sessions if s.c.sockaddr == bad]
    if is_ready:
        failing.content.__class__ = UnpackableProxy
    else:
        failing.content.close()
        failing.content = None
        failing.preread = "no good"
    free = world.old.loop.free_connections
    world.hand_over()
    assert not world.old.loop.sessions
    assert free + 2 * 5 - (not is_ready) == world.old.loop.free_connections
    assert 4 == len(world.new.loop.sessions)
    for client in (mine, others[0], *others[2:]):
        world.client = client
        assert sources[client] == world.exchange(b"after")
    for client in others:
        client.close()
    world.client = mine
    alerts = [line for line in world.log.read_text().splitlines() if "[alert]" in line]
    assert 1 == len(alerts)
    assert ("no good" if is_ready else "TypeError") in alerts[0]


def test_a_session_without_content_begins_anew(world: World) -> None:
    """With all that its client has sent, in order; it leaves nothing behind."""
    s: Any = world.old.only_session()
    s.content.close()
    s.content, s.preread = None, b"first"
    s.c.table.table[s.c.key] = SimpleNamespace(c=s.c, kept=[b"second", b"third"])
    world.hand_over()
    assert (set(), {}) == (world.old.loop.sessions, world.old.service.udp_listeners[0].table)
    heard = []
    for _ in range(3):
        world.turn(lambda: moving.has_datagram(world.backend))
        heard.append(world.backend.recvfrom(100))
    assert [b"first", b"second", b"third"] == [data for data, _ in heard]
    assert 1 == len({source for _, source in heard})
    assert 3 == world.new.only_session().content.requests  # type: ignore[union-attr]


def test_what_is_not_taken_back_loses_no_datagram(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zone may be damaged: it is told, and the session begins anew."""

    def fail(_: Session) -> None:
        raise ValueError("no good")

    keeps = world.cycle.stream.keeps  # type: ignore[union-attr]
    for key in ("limit_sess", "limit_datagram"):
        monkeypatch.setitem(keeps, key, keeps[key]._replace(anew=fail))
    s: Any = world.old.only_session()
    s.content.close()
    s.content, s.preread = None, b"first"
    world.hand_over()
    world.turn(lambda: moving.has_datagram(world.backend))
    assert b"first" == world.backend.recv(100)
    assert 2 == world.log.read_text().count("[alert]")


class FullGate(UdpListener):
    """A listener whose socket has no room."""

    __slots__ = ()

    def send_to(self, c, data: bytes) -> int:
        raise BlockingIOError


def test_a_text_that_waits_for_room_is_returned_once(tmp_path: Path) -> None:
    """By the worker that leaves: its session ends where it began."""
    with World(tmp_path) as world:
        (listener,) = [
            one for one in world.old.service.udp_listeners
            if one.listening.options.sockaddr[0] == "127.0.0.2"
        ]
        listener.__class__ = FullGate
        world.client.sendto(b"one", ("127.0.0.2", world.address[1]))
        world.turn(lambda: world.old.loop.sessions)
        world.hand_over()
        assert 1 == len(world.old.loop.sessions)
        listener.__class__ = UdpListener
        world.turn(lambda: not world.old.loop.sessions)
        assert b"nothing" == world.client.recv(100)
        with pytest.raises(BlockingIOError):
            world.client.recv(100)
        assert "[alert]" not in world.log.read_text()


def test_what_waits_goes_by_its_own_session(tmp_path: Path) -> None:
    """Not by the one that its client has begun since."""
    with World(tmp_path, server="proxy_requests 2; proxy_responses 9;") as world:
        source = world.exchange(b"one")
        full: Any = world.old.only_session().content
        world.exchange(b"two")
        assert source != world.exchange(b"three")
        full.queue = [b"waited", b"too"]
        world.hand_over()
        for data in (b"waited", b"too"):
            world.turn(lambda: moving.has_datagram(world.backend))
            assert (data, source) == world.backend.recvfrom(100)


class Greedy(Content):
    """A content with so many sockets, that gets what its client sends."""

    __slots__ = ("c", "s", "said", "sockets")

    def __init__(self, s, fds: Sequence[int]) -> None:
        self.s = s
        self.c = s.c
        self.sockets = [os.fdopen(fd, "rb", buffering=0) for fd in fds]
        self.said: list[bytes] = []

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()

    def way(self) -> int:
        return content.MOVES

    def waiting(self) -> list[bytes]:
        return [b"first", b"second"]

    def pack(self) -> content.Packed:
        return content.Packed("greedy", b"its own", self.sockets)

    def enlist(self) -> None:
        self.s.c.table.enlist(self.c, self)

    def send_waiting(self, data: bytes) -> None:
        self.said.append(data)


def read(data: bytes, fds: Sequence[int], server, is_shared: bool) -> Restore:
    """Look at one that came."""
    assert b"its own" == data
    kept = tuple(fds)

    def restore(s, current) -> Content:
        s.content = Greedy(s, kept)
        return s.content

    return restore


def read_broken(*values) -> Restore:
    """Look at one that cannot be made anew."""

    def restore(s, current) -> Content:
        read(*values)(s, current)
        raise ValueError("no good")

    return restore


def greedy(world: World, count: int, read: Read = read) -> None:
    """Have the old session be of another module's content."""
    world.cycle.stream.contents["greedy"] = ContentKind("greedy", Greedy, read)
    s = world.old.only_session()
    s.content.close()  # type: ignore[union-attr]
    held = s.content = Greedy(s, [os.open("/dev/null", os.O_RDONLY) for _ in range(count)])
    held.enlist()


@pytest.mark.parametrize("count", [0, 1, 130])
def test_any_module_s_content_moves_with_its_sockets(world: World, count: int) -> None:
    """However many, and what waits behind it; nothing stays open where it was."""
    greedy(world, count)
    world.old.loop.turn(0)  # closes what the former content had
    before = descriptors.count()
    world.hand_over()
    held: Any = world.new.only_session().content
    assert [b"first", b"second"] == held.said
    table = world.new.service.udp_listeners[0].table
    assert (count, held) == (len(held.sockets), table[held.c.key])
    assert all(os.readlink(f"/proc/self/fd/{one.fileno()}") == "/dev/null" for one in held.sockets)
    assert before == descriptors.count()
    world.new.only_session().finalize(200)
    assert before - count == descriptors.count()


def test_more_sockets_than_a_message_takes_end_their_session(world: World) -> None:
    """Only that session is ended."""
    greedy(world, 131)
    world.hand_over()
    assert not world.old.loop.sessions | world.new.loop.sessions
    assert "a session with 131 sockets" in world.log.read_text()


def test_a_content_that_cannot_be_made_anew_ends_alone(world: World) -> None:
    """With its sockets and its slots; the reader of the mailbox goes on."""
    free = world.new.loop.free_connections
    greedy(world, 2, read_broken)
    world.hand_over()
    assert not world.new.loop.sessions
    assert free == world.new.loop.free_connections
    assert "no good" in world.log.read_text()
    assert 'a "greedy" cannot be made anew' in world.warnings()[0]


def test_a_session_that_prereads_begins_anew_at_its_new_owner(tmp_path: Path) -> None:
    """It wants three datagrams and has two: both go along, and the third completes them there."""
    shown: list[tuple[Any, list[bytes]]] = []

    def want_three(s: Session) -> int:
        shown.append((s.loop, preread.datagrams(s)))
        return codes.OK if len(shown[-1][1]) == 3 else codes.AGAIN

    with World(tmp_path) as world:
        stream: Any = world.cycle.stream
        address = stream.listenings[0].default
        address.engine = ((preread.check, want_three, 1), *address.engine)
        address.begin = session.begin
        for data in (b"one", b"two"):
            world.client.sendto(data, world.address)
            world.turn(lambda data=data: shown and shown[-1][1][-1] == data)
        world.hand_over()
        assert not world.old.loop.sessions
        assert not world.old.service.udp_listeners[0].table
        world.client.sendto(b"three", world.address)
        world.turn(lambda: len(shown) == 5)
        assert (world.new.loop, [b"one", b"two", b"three"]) == shown[-1]
        assert [b"one", b"two", b"three"] == [world.backend.recv(100) for _ in range(3)]
        assert 3 == world.new.only_session().content.requests  # type: ignore[union-attr]


def test_a_session_that_was_not_counted_gives_nothing_back(tmp_path: Path) -> None:
    """In a dry run those pass that would have been refused."""
    with World(tmp_path, stream="""
        limit_sess_zone all zone=s:64k rate=1r/m; limit_sess_dry_run on;
        limit_datagram_zone all zone=d:64k rate=1r/m; limit_datagram_dry_run on;
    """, server="limit_sess zone=s; limit_datagram zone=d burst=0;") as world:
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        for n, client in enumerate(clients, 1):
            client.sendto(b"?", world.address)
            world.turn(lambda n=n: len(world.old.loop.sessions) == n)
        refused = [s for s in world.old.loop.sessions
                   if s.module_ctx("limit_sess") == b"REJECTED_DRY_RUN"]
        assert 2 == len(refused)
        for s in refused:
            travel.begin_anew(s, world.old.service.places)
        data = world.cycle.stream.data  # type: ignore[union-attr]
        for kind, name in (("limit_sess", "s"), ("limit_datagram", "d")):
            assert 0 < data[kind][name].table.level(b"all", 1, world.old.loop.now_ms)
        for client in clients:
            client.close()


def test_a_session_that_begins_anew_is_counted_once(tmp_path: Path) -> None:
    """Whoever waited for the turn that a limit gives waits for it again, and is not refused."""
    with World(tmp_path, stream="""
        limit_sess_zone all zone=s:64k rate=1r/m;
        limit_datagram_zone all zone=d:64k rate=1r/m;
    """, server="limit_sess zone=s burst=3; limit_datagram zone=d burst=3;") as world:
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
        for n, client in enumerate(clients, 1):
            client.sendto(b"?", world.address)
            world.turn(lambda n=n: len(world.old.loop.sessions) == n)
        world.hand_over()
        world.turn(lambda: not world.old.loop.sessions)
        world.turn(lambda: len(world.new.loop.sessions) == 4)
        log = world.log.read_text()
        assert "limiting" not in log
        assert 3 + 3 == log.count("delaying session")
        data = world.cycle.stream.data  # type: ignore[union-attr]
        for kind, name in (("limit_sess", "s"), ("limit_datagram", "d")):
            table = data[kind][name].table
            assert 3000 < table.level(b"all", 1, world.new.loop.now_ms) <= 4000
        for client in clients:
            client.close()
