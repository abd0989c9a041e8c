"""Sessions by the ids in datagrams: found here, passed on to who has them, or nobody's."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import shm
from ngxstream.core.shm_ids import IdTable
from ngxstream.event import drops, udp_ids
from ngxstream.event.udp_ids import ClientIds
from tests.support import quic

WHERE = (2, 2, ("127.0.0.1", 443))
PEER = ("192.0.2.1", 4711)


class Worker:
    """A worker's ids, and what it passes on. It is told its number and has a pid of its own."""

    def __init__(self, number: int, pid: int, table: IdTable | None) -> None:
        self.faults: list[Any] = []
        self.loop: Any = SimpleNamespace(
            pid=pid, worker=number, now_ms=1000, fault=self.faults.append
        )
        self.ids = ClientIds(self.loop)
        self.ids.shared = table
        self.passed: list[tuple[int, int]] = []  # hops, worker
        self.ids.forward = self.forward
        self.lost = drops.Drops()
        self.listener: Any = SimpleNamespace(
            listening=SimpleNamespace(options=SimpleNamespace(key=WHERE)), lost=self.lost
        )

    def forward(self, listener: Any, key: Any, peer: Any, data: Any, hops: int, to: int) -> bool:
        """Note what is passed on."""
        assert (listener, key, peer) == (self.listener, PEER, PEER)
        self.passed.append((hops, to))
        return True

    def find(self, data: bytes, hops: int = 0) -> bool:
        """Have a datagram found."""
        return self.ids.find_within(self.listener, PEER, PEER, memoryview(data), hops)


class Known:
    """A session."""

    def __init__(self, *, answer: bool = True) -> None:
        self.c: Any = None
        self.ids: list[bytes] = []
        self.got: list[bytes] = []
        self.answer = answer

    def take_from(self, key: Any, peer: Any, view: memoryview) -> bool:
        """Take a datagram."""
        self.got.append(bytes(view))
        if view[-1:] == b"!":
            raise ZeroDivisionError
        return self.answer

    def on_fault(self) -> None:
        """Nothing is to be ended."""


@pytest.fixture
def pair() -> tuple[Worker, Worker]:
    """Give two workers; the other one's process is always there."""
    table = IdTable(shm.Zone("z", shm.LEAST, "test"))
    return Worker(0, os.getpid(), table), Worker(1, os.getppid(), table)


@pytest.mark.parametrize("name", [b"four", b"eightlet", b"x" * 20])
def test_ids_of_any_length_are_found_in_either_header(name: bytes) -> None:
    """In a long one where it says so, in a short one behind the first byte."""
    one, known = Worker(0, 1, None), Known()
    assert not one.find(quic.short(name))
    assert one.ids.add(WHERE, name, known)
    assert one.ids.add(WHERE, b"another", Known())
    packets = [quic.short(name), quic.opaque(quic.HANDSHAKE, destination=name),
               b"\xff\x0a\x0a\x0a\x0a" + bytes((len(name),)) + name + b"\0" + bytes(40)]
    assert [True] * 3 == [one.find(packet) for packet in packets]
    assert packets == known.got
    one.ids.drop(WHERE, name, known)
    assert [False] * 3 == [one.find(packet) for packet in packets]


def test_what_is_no_packet_is_nobody_s() -> None:
    """Too short for its id and its protection, or with a header that is cut off."""
    one = Worker(0, 1, None)
    one.ids.add(WHERE, b"eightlet", Known())
    whole = quic.short(b"eightlet", size=60)
    long = quic.opaque(quic.HANDSHAKE, destination=b"eightlet")
    for data in (b"", b"\xc0", b"A", whole[: 1 + 8 + udp_ids.LEAST - 1], long[:10], long[:13],
                 b"\xc0\0\0\0\1\x15" + bytes(60)):
        assert not one.find(data)
    assert one.find(whole[: 1 + 8 + udp_ids.LEAST])


def test_an_id_is_one_session_s_at_one_address() -> None:
    """It is not to be had by another one, nor what is too short by any."""
    one, known = Worker(0, 1, None), Known()
    assert one.ids.add(WHERE, b"eightlet", known)
    assert not one.ids.add(WHERE, b"eightlet", Known())
    assert one.ids.add((2, 2, ("127.0.0.1", 444)), b"eightlet", Known())
    assert not one.ids.add(WHERE, b"abc", known)
    one.ids.drop(WHERE, b"eightlet", Known())
    assert one.find(quic.short(b"eightlet"))
    assert 2 == one.ids.count


def test_a_session_that_does_not_take_it_lets_another_one_begin() -> None:
    """Its address is denied, say."""
    one = Worker(0, 1, None)
    one.ids.add(WHERE, b"eightlet", Known(answer=False))
    assert not one.find(quic.short(b"eightlet"))


def test_a_fault_is_the_session_s_own() -> None:
    """The others of the drain go on."""
    one, known = Worker(0, 1, None), Known()
    one.ids.add(WHERE, b"eightlet", known)
    assert one.find(quic.short(b"eightlet") + b"!")
    assert [known] == one.faults


def test_another_worker_s_is_passed_on(pair: tuple[Worker, Worker]) -> None:
    """Also what has come by way of one that had it; no more often than HOPS."""
    here, there = pair
    there.ids.add(WHERE, b"eightlet", Known(), firm=True)
    packet = quic.short(b"eightlet")
    assert here.find(packet)
    assert here.find(packet, udp_ids.HOPS - 1)
    assert [(1, 1), (udp_ids.HOPS, 1)] == here.passed
    here.ids.find(here.listener, PEER, PEER, quic.short(b"otherlet"))
    assert 2 == len(here.passed)


def test_what_was_passed_on_too_often_is_dropped(pair: tuple[Worker, Worker]) -> None:
    """While the session is on its way; then it is nobody's."""
    here, there = pair
    there.ids.add(WHERE, b"eightlet", Known())
    assert here.find(quic.short(b"eightlet"), udp_ids.HOPS)
    assert (1, []) == (here.lost.total, here.passed)
    here.loop.now_ms += udp_ids.ARRIVING_MS + 1
    assert not here.find(quic.short(b"eightlet"), udp_ids.HOPS)


def test_a_session_that_is_on_its_way_here_is_waited_for(pair: tuple[Worker, Worker]) -> None:
    """No other one begins meanwhile; what comes is dropped. Then it is here."""
    here, there = pair
    known = Known()
    there.ids.add(WHERE, b"eightlet", known, firm=True)
    there.ids.give(WHERE, b"eightlet", Known(), 0)  # it is another one's
    assert here.find(quic.short(b"eightlet")) and here.passed.pop()
    there.ids.give(WHERE, b"eightlet", known, 0)
    there.ids.drop(WHERE, b"eightlet", known)  # it is not its own any more
    packet = quic.short(b"eightlet")
    assert there.find(packet) and [(1, 0)] == there.passed
    assert here.find(packet) and not here.passed
    assert here.ids.add(WHERE, b"eightlet", known, firm=True)
    assert here.find(packet) and [packet] == known.got


def test_a_session_that_never_arrives_is_forgotten(pair: tuple[Worker, Worker]) -> None:
    """After a while a client that bears its id begins anew."""
    here, there = pair
    known = Known()
    there.ids.add(WHERE, b"eightlet", known)
    there.ids.give(WHERE, b"eightlet", known, 0)
    here.loop.now_ms += udp_ids.ARRIVING_MS + 1
    assert not here.find(quic.short(b"eightlet"))


def test_another_worker_s_id_is_not_to_be_had(pair: tuple[Worker, Worker]) -> None:
    """A client's first packet may bear whatever it likes."""
    here, there = pair
    there.ids.add(WHERE, b"eightlet", Known())
    assert not here.ids.add(WHERE, b"eightlet", Known())


def test_a_session_that_goes_elsewhere_is_waited_for_by_all(pair: tuple[Worker, Worker]) -> None:
    """Whoever sees its client meanwhile drops what comes, until it is somewhere again."""
    here, there = pair
    known = Known()
    there.ids.add(WHERE, b"eightlet", known, firm=True)
    there.ids.drop(WHERE, b"eightlet", known, is_leaving=True)
    packet = quic.short(b"eightlet")
    assert here.find(packet) and there.find(packet)
    assert [1, 1] == [one.lost.total for one in pair] and not here.passed + there.passed
    assert here.ids.add(WHERE, b"eightlet", known)
    assert here.find(packet) and [packet] == known.got
    here.ids.drop(WHERE, b"eightlet", known, is_leaving=True)
    here.loop.now_ms += udp_ids.ARRIVING_MS + 1
    assert not here.find(packet)


def test_while_sessions_change_hands_a_short_header_begins_nothing() -> None:
    """Whatever its id; a long one does, and what is too short to be a packet."""
    one = Worker(0, 1, None)
    one.ids.awaits = lambda: True
    assert one.find(quic.short(b"eightlet"))
    assert 1 == one.lost.total
    assert not one.find(quic.opaque(quic.INITIAL, destination=b"eightlet"))
    assert not one.find(b"hello")
    one.ids.awaits = lambda: False
    assert not one.find(quic.short(b"eightlet"))
