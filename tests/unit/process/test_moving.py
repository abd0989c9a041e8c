"""Sessions that are known by ids, between two workers: their datagrams, and then themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event.udp_ids import ClientIds
from ngxstream.modules.proxy import quic_conf
from ngxstream.process import mailbox, moving
from tests.support import quic
from tests.support.moving import World, has_datagram, world_of_root
from tests.support.moving_clock import MovingClock
from tests.support.strangers import NOBODY

__all__ = ["world_of_root"]

NAME = b"server-id"
PACKET = quic.short(NAME, b"moved")


class Two:
    """A worker with a session, number 1, and another one, number 0."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, server="proxy_quic on;")
        self.old, self.new = self.world.old, self.world.new
        self.may_move = True
        self.boxes = [
            mailbox.Outbox(self.old.loop, self.new.box.writer),
            mailbox.Outbox(self.new.loop, self.old.box.writer),
        ]
        service: Any = SimpleNamespace(
            worker=1, cycle=self.world.cycle, places=self.old.service.places,
            is_current=lambda one: True,
        )
        self.moving = moving.Moving(self.old.loop, service, self.boxes, lambda: self.may_move)
        self.old.arrival._moving = self.moving  # it is told what comes by mail
        theirs: Any = SimpleNamespace(worker=0, others_settle=False)
        self.new.arrival._moving = self.other = moving.Moving(
            self.new.loop, theirs, self.boxes, lambda: self.is_there
        )
        self.new.loop.get(ClientIds).forward = None
        self.is_there = True
        self.new.arrival.go()
        self.world.turn(lambda: self.new.arrival.settled)
        self.new.service.close_listeners()  # one of them reads the socket that both have
        self.world.exchange(quic.opaque(quic.INITIAL, 300, destination=b"original", source=NAME))
        self.world.exchange(quic.short(NAME))

    @property
    def session(self) -> Any:
        """The session, where it was."""
        return self.old.only_session()

    def move(self) -> None:
        """Have it moved, if it may be."""
        self.moving.on_moved(self.session, self.session.module_ctx(quic_conf.KEY))

    def found(self, hops: int = 1) -> None:
        """Have the other worker told a datagram of it, from another address."""
        listener: Any = self.old.service.listener_of(self.world.key)
        peer = ("127.0.0.7", 4711)
        assert self.moving.forward(listener, peer, peer, PACKET, hops, 0)
        self.world.turn(lambda: True)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    """Give both."""
    made = Two(tmp_path)
    with made.world:
        yield made


def test_a_session_goes_to_the_worker_of_its_new_address(two: Two) -> None:
    """With its socket and its ids; what waits for room goes along."""
    two.session.content.queue = [b"waited"]
    two.move()
    two.world.turn(lambda: two.new.loop.sessions and has_datagram(two.world.backend))
    assert b"waited" == two.world.backend.recv(100)
    assert not two.old.loop.sessions
    assert (0, 1) == tuple(one.loop.get(ClientIds).count for one in (two.old, two.new))
    two.found()
    two.world.turn(lambda: has_datagram(two.world.backend))
    assert PACKET == two.world.backend.recv(100)


def test_it_stays_while_sessions_change_hands_anyway(two: Two) -> None:
    """And when it is over, or has no server at the moment."""
    two.may_move = False
    two.move()
    two.may_move = True
    two.session.content.connected = False
    two.move()
    two.session.content.connected = True
    s = two.session
    known = s.module_ctx(quic_conf.KEY)
    assert 1 == len(two.old.loop.sessions)
    s.finalize(200)
    two.moving.on_moved(s, known)
    two.world.turn(lambda: True)
    assert not two.new.loop.sessions


def test_a_worker_that_hands_over_wants_none(two: Two) -> None:
    """The session stays where it is, and is offered again."""
    two.is_there = False
    two.move()
    for _ in range(5):
        two.world.turn(lambda: True)
    assert 1 == len(two.old.loop.sessions)
    two.is_there = True
    two.move()
    two.world.turn(lambda: two.new.loop.sessions)
    assert not two.old.loop.sessions


def test_whoever_wants_one_stays_for_it(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not leave before the session has had the time to come."""
    before = two.new.loop.live
    two.other.on_offer(1, 4711)
    two.other.on_offer(2, 4711)  # there is no such worker
    assert before + 1 == two.new.loop.live
    MovingClock(monkeypatch).move(two.new.loop, moving.HOLD_MS)
    assert before == two.new.loop.live


def test_what_was_not_offered_is_not_sent(two: Two) -> None:
    """Nor what has ended, or hands over, meanwhile."""
    two.moving.on_wanted(4711)
    s = two.session
    known = s.module_ctx(quic_conf.KEY)
    two.moving.on_moved(s, known)
    two.may_move = False
    two.moving.on_wanted(s.c.number)
    two.may_move = True
    two.moving.on_wanted(s.c.number)
    assert 1 == len(two.old.loop.sessions)
    two.moving.on_moved(s, known)
    s.finalize(200)
    two.moving.on_wanted(s.c.number)
    assert {} == two.moving._offered


def test_a_datagram_whose_session_is_over_begins_none(two: Two) -> None:
    """It is dropped and counted: its client begins where its datagrams come in."""
    listener: Any = two.new.service.listener_of(two.world.key)
    before = listener.lost.total
    two.found()
    two.world.turn(lambda: listener.lost.total > before)
    assert not two.new.loop.sessions


def test_a_worker_that_there_is_not_gets_nothing(two: Two) -> None:
    """A former configuration had more."""
    listener: Any = two.old.service.listener_of(two.world.key)
    assert not two.moving.forward(listener, None, None, PACKET, 1, 2)


def test_what_waits_for_another_worker_is_bounded(two: Two) -> None:
    """One that does not read: the rest is dropped and counted."""
    listener: Any = two.old.service.listener_of(two.world.key)
    peer = ("127.0.0.7", 4711)
    for _ in range(4 * moving.QUEUED):
        assert two.moving.forward(listener, peer, peer, bytes(1200), 1, 0)
    box = two.boxes[0]
    assert moving.QUEUED == box.waiting
    assert listener.lost.total >= moving.QUEUED
    two.move()
    assert 1 == len(two.old.loop.sessions)  # and no session is sent behind so much


def test_another_user_s_process_passes_on_nothing(two: Two) -> None:
    """What bears an id gets into a session of ours."""
    two.move()
    two.world.turn(lambda: two.new.loop.sessions)
    peer = ("127.0.0.7", 4711)
    two.world.say(mailbox.FOUND, two.world.key, peer, peer, None, [PACKET], 1, uid=NOBODY)
    assert not has_datagram(two.world.backend)
    assert 1 == two.new.arrival.refused.total


def test_what_cannot_be_of_the_address_is_refused(two: Two) -> None:
    """A key of another family, or of another client than is said."""
    peer = ("127.0.0.7", 4711)
    for key in (("::1", 4711, 0, 0), ("127.0.0.8", 4711)):
        two.world.say(mailbox.FOUND, two.world.key, key, peer, None, [PACKET], 1)
    assert 2 == two.new.arrival.refused.total
