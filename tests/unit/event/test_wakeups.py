"""Wake-ups that workers pass on to each other. See test_accept.py too."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.event import wakeups


@pytest.fixture
def fd() -> Iterator[int]:
    """Give what all workers share."""
    made = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
    yield made
    os.close(made)


class Worker:
    """A loop that is nothing but a time and a list of what is watched."""

    def __init__(self, fd: int) -> None:
        self.now_ms = 1000
        self.watched: list[int] = []
        self.changes = 0
        self.posted: list[Any] = []
        self.post = self.posted.append
        loop: Any = self
        self.relay = wakeups.Relay(loop, fd)

    def register(self, fd: int, call: Any, mask: int) -> None:
        """Watch a descriptor."""
        self.watched.append(fd)
        self.changes += 1

    def unregister(self, fd: int) -> None:
        """Watch it no more."""
        self.watched.remove(fd)
        self.changes += 1


class Listener:
    """What is looked at."""

    def __init__(self) -> None:
        self.look = object()


def listener() -> Any:
    """Return one."""
    return Listener()


def test_who_passed_nothing_on_takes_no_other_worker_s(fd: int) -> None:
    """A wake-up that is under way between others is left to them."""
    one, two = Worker(fd), Worker(fd)
    one.relay.pass_on()
    two.now_ms += 10 * wakeups.READ_MS
    assert not two.relay.is_unread()
    one.now_ms += wakeups.READ_MS
    assert one.relay.is_unread()


def test_a_wake_up_is_unread_after_its_time_and_once(fd: int) -> None:
    """Before, others may still come; then it is taken back; the next one has its own time."""
    one = Worker(fd)
    one.relay.pass_on()
    one.now_ms += wakeups.READ_MS - 1
    assert not one.relay.is_unread()
    one.now_ms += 1
    assert [True, False] == [one.relay.is_unread(), one.relay.is_unread()]
    one.relay.pass_on()
    assert not one.relay.is_unread()
    one.now_ms += wakeups.READ_MS
    assert one.relay.is_unread()


def test_a_wake_up_that_another_took_was_heard(fd: int) -> None:
    """One worker looks at all its listeners, the other one hears that it has."""
    one, two = Worker(fd), Worker(fd)
    first, second = listener(), listener()
    two.relay.join(first)
    two.relay.join(second)
    one.relay.pass_on()
    two.relay.on_readable(0)
    assert {first.look, second.look} == set(two.posted)
    two.relay.on_readable(0)  # nothing is there any more
    assert 2 == len(two.posted)
    one.now_ms += wakeups.READ_MS
    assert not one.relay.is_unread()


def test_wake_ups_are_watched_while_there_are_listeners_and_none_is_full(fd: int) -> None:
    """Nothing is told to the kernel that it knows already."""
    one = Worker(fd)
    first, second = listener(), listener()
    one.relay.leave(first)
    assert ([], 0) == (one.watched, one.changes)
    one.relay.join(first)
    one.relay.join(second)
    assert ([fd], 1) == (one.watched, one.changes)
    one.relay.leave(first, full=True)
    assert ([], 2) == (one.watched, one.changes)
    one.relay.join(first)
    assert ([fd], 3) == (one.watched, one.changes)
    one.relay.leave(first)
    one.relay.leave(second)
    assert ([], 4) == (one.watched, one.changes)
