"""A worker that waits for a new master; masters that come are in test_rendezvous.py."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event.eviction import Eviction
from ngxstream.event.loop import Loop
from ngxstream.ipc import port
from ngxstream.process import orphan
from ngxstream.process.channel import Channel
from tests.support import descriptors
from tests.support.engine import engine, run_until


class Waiting(NamedTuple):
    """An orphan that waits. Args: name: its address"""

    loop: Loop
    adopted: list[Channel]
    name: str


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    """Give an orphan on a loop of its own."""
    with engine() as loop:
        adopted: list[Channel] = []
        waits = orphan.Orphan(loop, str(tmp_path / "pid"), os.geteuid(), adopted.append)
        yield Waiting(loop, adopted, f"{orphan.prefix_of(str(tmp_path / 'pid'))}{os.getpid()}")
        for channel in adopted:
            channel.close()
        if not adopted:
            waits.close()
        loop.turn(0)  # closes what is to be


def test_an_orphan_without_descriptors_does_not_spin(waiting: Waiting) -> None:
    """Who comes when there is none is let in later; until then the loop sleeps."""
    master = port.connect(waiting.name)
    with descriptors.none_left():
        for _ in range(3):
            waiting.loop.turn(0)
        assert [] == [fd for fd, _ in waiting.loop.poller.poll(0)]
    run_until(waiting.loop, lambda: waiting.adopted)
    master.close()


def test_an_orphan_has_a_descriptor_for_its_master(waiting: Waiting) -> None:
    """With all others in use it takes the one that is kept for such a case."""
    reserve = waiting.loop.get(Eviction)
    assert reserve.has_descriptors(1)
    master = port.connect(waiting.name)
    with descriptors.none_left():
        run_until(waiting.loop, lambda: waiting.adopted)
        assert not reserve.give_spare()
    master.close()


@given(st.lists(st.sampled_from(["a", "b", "..", "."]), max_size=6))
def test_a_pid_file_has_one_name(parts: list[str]) -> None:
    """All spellings of a path give the same name."""
    path = "/nowhere/" + "/".join([*parts, "pid"])
    assert orphan.prefix_of(os.path.normpath(path)) == orphan.prefix_of(path)
    assert orphan.prefix_of(path) != orphan.prefix_of(path + "2")


@pytest.mark.parametrize("gone", [False, True])
def test_who_cannot_be_told_now_is_told_later_unless_it_is_gone(gone: bool) -> None:
    """While its master reads slowly an orphan tries again; it stops when the master has closed."""
    calls: list[Any] = []
    loop: Any = SimpleNamespace(
        call_later=lambda ms, call, cancelable: calls.append(call), exiting=False
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    answers = [False, True, True]
    with ours, theirs:
        if gone:
            theirs.close()
        to: Any = SimpleNamespace(
            sock=ours, fileno=ours.fileno, send=lambda kind, data, fds: answers.pop(0)
        )
        orphan.give(loop, to, [])
        assert (not gone) == bool(calls)
        if not gone:
            calls.pop()()
            assert [True] == answers
            assert [] == calls
