"""Addresses that are not proved: what they are told, and when they are."""

from __future__ import annotations

from typing import Any

import pytest

from ngxstream.event import datagram
from ngxstream.modules.proxy.quic_paths import ANSWER, MOST_PATHS, PATH_MS, QUIET_MS, Paths, Tap

FAR, NEAR = ("192.0.2.1", 1), ("192.0.2.2", 2)
NOW = 1000


class Sock:
    """A socket that notes what is sent; it fails for some."""

    def __init__(self, *broken: Any) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.broken = broken

    def sendmsg(self, views: Any, control: Any, flags: int, address: Any) -> int:
        """Send one message."""
        if address in self.broken:
            raise PermissionError
        data = b"".join(views)
        self.sent.append((data, address))
        return len(data)

    def sendto(self, view: Any, address: Any) -> int:
        """Send one datagram."""
        return self.sendmsg((view,), (), 0, address)


def begun(*addresses: Any, size: int = 100) -> Paths:
    """Return addresses that something has come from."""
    paths = Paths()
    for n, address in enumerate(addresses):
        paths.begin(address, address, NOW + n)
        paths.count(address, size, NOW + n, is_near=address == NEAR)
    return paths


def views(*sizes: int) -> list[memoryview]:
    """Return datagrams of such sizes."""
    return [memoryview(bytes(size)) for size in sizes]


def test_as_much_is_told_as_was_earned() -> None:
    """A smaller datagram may still fit; the one of the same host gets all."""
    paths, sock = begun(FAR, NEAR), Sock()
    paths.copy(sock, None, views(200, 150, 100, 1))
    assert [200, 100] == [len(data) for data, to in sock.sent if to == FAR]
    assert [200, 150, 100, 1] == [len(data) for data, to in sock.sent if to == NEAR]
    path = paths.by_address[FAR]
    assert ANSWER * path.received == path.sent


def test_who_cannot_be_told_is_nobody_s_loss() -> None:
    """The others are, and it is not counted as told."""
    paths, sock = begun(FAR, NEAR), Sock(FAR)
    paths.copy(sock, [], views(10))
    assert [(bytes(10), NEAR)] == sock.sent
    assert not paths.by_address[FAR].is_answered


def test_one_is_proved_that_goes_on_after_it_was_told_while_nobody_else_does() -> None:
    """Not before QUIET_MS are over, nor for having sent a lot."""
    paths = begun(FAR)
    for _ in range(3):
        paths.count(FAR, 100, NOW, is_near=False)
    assert not paths.is_proved(FAR, NOW + QUIET_MS)
    paths.copy(Sock(), None, views(10))
    assert not paths.is_proved(FAR, NOW + QUIET_MS)
    paths.count(FAR, 100, NOW, is_near=False)
    assert not paths.is_proved(FAR, NOW + QUIET_MS - 1)
    assert paths.is_proved(FAR, NOW + QUIET_MS)
    paths.on_heard(NOW + 1)
    assert not paths.is_proved(FAR, NOW + 2 * QUIET_MS)
    assert not paths.is_proved(NEAR, NOW + 2 * QUIET_MS)


def test_there_are_few_and_they_are_forgotten() -> None:
    """The one least of which is known gives way; and all that nothing comes from for PATH_MS."""
    paths = begun(NEAR)
    paths.by_address[NEAR].rounds = 1
    for n in range(10):
        address = ("198.51.100.1", n)
        paths.begin(address, address, NOW + n)
        paths.count(address, 1, NOW + n, is_near=False)
    assert MOST_PATHS == len(paths.by_address)
    assert NEAR in paths.by_address
    paths.on_heard(NOW + PATH_MS + 7)
    assert {("198.51.100.1", n) for n in range(7, 10)} == set(paths.by_address)
    assert paths.near is None
    paths.clear()
    assert {} == paths.by_address


def test_a_tap_shows_what_was_sent_datagram_by_datagram() -> None:
    """However it was sent; what could not be sent is not shown."""
    shown: list[int] = []
    tap = Tap(Sock(FAR), lambda seen: shown.extend(map(len, seen)))
    assert 5 == tap.sendto(memoryview(bytes(5)), NEAR)
    assert 250 == tap.sendmsg(views(250), datagram.segment_control(100), 0, NEAR)
    assert 250 == tap.sendmsg(views(100, 100, 50), datagram.segment_control(100), 0, NEAR)
    assert 7 == tap.sendmsg(views(7), [], 0, NEAR)
    with pytest.raises(PermissionError):
        tap.sendto(memoryview(b"x"), FAR)
    assert [5, 100, 100, 50, 100, 100, 50, 7] == shown


def test_what_comes_without_another_answer_is_no_further_round() -> None:
    """The address that is answered has spoken: what another one was told before proves nothing."""
    paths, sock = begun(FAR), Sock()
    paths.copy(sock, None, views(10))
    paths.count(FAR, 10, NOW, is_near=False)
    paths.on_heard(NOW)
    paths.count(FAR, 10, NOW, is_near=False)
    assert not paths.is_proved(FAR, NOW + QUIET_MS)
    paths.copy(sock, None, views(10))
    assert not paths.is_proved(FAR, NOW + QUIET_MS)
    paths.count(FAR, 10, NOW, is_near=False)
    assert not paths.is_proved(FAR, NOW + QUIET_MS - 1)
    assert paths.is_proved(FAR, NOW + QUIET_MS)
