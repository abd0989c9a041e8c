"""Mailboxes: whole messages with descriptors, in order, whoever writes what into them."""

import contextlib
import functools
import os
import pickle
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.ipc import port
from ngxstream.ipc.codec import CodecError
from ngxstream.process import mailbox
from tests.support import descriptors, strangers, tools
from tests.support.engine import engine, run_until

WHERE = (socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", 53))
PEER = ("127.0.0.1", 5353)


@pytest.fixture
def box() -> Iterator[mailbox.Mailbox]:
    """Give both ends of a mailbox."""
    made = mailbox.Mailbox()
    yield made
    made.close()


MESSAGES = [
    (mailbox.STOPPED, 7, [7, 8]),
    (mailbox.WAITING, 7, [b"", b"x" * 65_535]),
    (mailbox.DATAGRAMS, WHERE, (PEER, b"\x7f\0\0\1"), PEER, b"\x7f\0\0\1", [b"a"]),
    (mailbox.DATAGRAMS, WHERE, None, None, None, []),
    (mailbox.DONE, 7),
]


def test_messages_come_whole_and_in_order(box: mailbox.Mailbox) -> None:
    """As they were put, large ones too, with the name of their sender."""
    inbox = mailbox.Inbox(box.reader)
    with engine() as loop:
        outbox = mailbox.Outbox(loop, box.writer)
        for kind, *values in MESSAGES:
            outbox.put(kind, *values)
        outbox.put(mailbox.SESSIONS, [b"s" * 100_000, b""], b"\2\0", fds=[0, 1])
        assert outbox.send()
        for kind, *values in MESSAGES:
            mail = inbox.receive()
            assert (kind, tuple(values), []) == (mail.kind, mail.values, mail.fds)
            assert (os.getpid(), os.geteuid()) == (mail.pid, mail.uid)
        mail = inbox.receive()
        assert ([b"s" * 100_000, b""], b"\2\0") == mail.values
        assert 2 == len(mail.fds)
        port.close_all(mail.fds)
        with pytest.raises(BlockingIOError):
            inbox.receive()


def test_what_finds_no_room_waits_in_order(box: mailbox.Mailbox) -> None:
    """A full mailbox is filled again as it is read."""
    inbox = mailbox.Inbox(box.reader)
    with engine() as loop:
        outbox = mailbox.Outbox(loop, box.writer)
        for number in range(1, 2000):
            outbox.put(mailbox.STOPPED, number, [number] * 50)
        outbox.pump()
        assert outbox.waiting
        found = []

        def read() -> bool:
            while True:
                try:
                    found.append(inbox.receive().values[0])
                except BlockingIOError:
                    return len(found) == 1999

        run_until(loop, read)
        assert list(range(1, 2000)) == found
        assert not outbox.waiting


def test_a_pickle_is_nothing(box: mailbox.Mailbox, tmp_path: Path) -> None:
    """What would run code where it is unpickled is refused."""
    inbox = mailbox.Inbox(box.reader)
    canary = tmp_path / "executed"
    words = ("touch", str(canary))
    evil = pickle.dumps(_Runs(words))
    box.writer.send(evil)
    with pytest.raises((CodecError, ValueError)):
        inbox.receive()
    assert not canary.exists()


class _Runs:
    """What runs a program where it is unpickled."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def __reduce__(self) -> tuple[object, ...]:
        """Have it run."""
        return subprocess.call, (self.words,)


@pytest.mark.parametrize(
    ("kind", "values", "fds", "why"),
    [
        (mailbox.DONE, (7,), [0], "descriptors where"),
        (mailbox.SESSIONS, ([b"a", b"b"], b"\1\1"), [0], "descriptors where"),
        (mailbox.SESSIONS, ([b"a"], b"\1"), [0, 1], "descriptors where"),
        (mailbox.SESSIONS, ([b"a"], b"\1"), [], "descriptors where"),
        (mailbox.SESSIONS, ([b"a"], b""), [], "1 sessions, sockets of 0"),
        (mailbox.SESSIONS, ([], b"\1"), [0], "0 sessions, sockets of 1"),
    ],
)
def test_each_session_has_the_descriptors_it_says(
    box: mailbox.Mailbox, kind: int, values: tuple, fds: list[int], why: str
) -> None:
    """And nothing else has any; what is too much is closed."""
    inbox = mailbox.Inbox(box.reader)
    with engine() as loop:
        outbox = mailbox.Outbox(loop, box.writer)
        outbox.put(kind, *values, fds=fds)
        assert outbox.send()
    before = descriptors.count()
    with pytest.raises(CodecError, match=why):
        inbox.receive()
    assert before == descriptors.count()


@given(st.integers(0, 255), st.binary(max_size=300), st.integers(0, 3))
def test_any_message_is_mail_or_the_error(kind: int, payload: bytes, count: int) -> None:
    """Neither outcome leaves a descriptor open."""
    box = mailbox.Mailbox()
    inbox = mailbox.Inbox(box.reader)
    before = descriptors.count()
    port.Packet(kind, payload, [0] * count).send(box.writer)
    try:
        port.close_all(inbox.receive().fds)
    except CodecError:
        pass
    assert before == descriptors.count()
    box.close()


def test_only_users_that_are_stated_write(box: mailbox.Mailbox) -> None:
    """A worker's user may; a stranger who got the descriptor may not."""
    tools.require_root()
    inbox = mailbox.Inbox(box.reader, [strangers.NOBODY, None])
    for uid in (strangers.NOBODY, 65_533):
        strangers.run_as(uid, lambda: port.Packet(mailbox.DONE).send(box.writer))
    with pytest.raises(CodecError, match="lacks a field"):
        inbox.receive()
    with pytest.raises(CodecError, match="of user 65533 speaks where only a worker may"):
        inbox.receive()


def test_what_is_fed_leaves_time_for_others() -> None:
    """A few messages in a turn: two boxes get theirs by turns, however fast their readers are."""
    boxes = [mailbox.Mailbox() for _ in range(2)]
    inboxes = [mailbox.Inbox(one.reader) for one in boxes]
    with engine() as loop:
        left = [20, 20]
        out: list[mailbox.Outbox] = []

        def feed(n: int) -> bool:
            if not left[n]:
                return False
            left[n] -= 1
            out[n].put(mailbox.DONE, 21 - left[n])
            return True

        out += [
            mailbox.Outbox(loop, one.writer, functools.partial(feed, n))
            for n, one in enumerate(boxes)
        ]
        for one in out:
            one.pump()
        found: list[int] = []

        def read() -> bool:
            for n, inbox in enumerate(inboxes):
                try:
                    while True:
                        inbox.receive()
                        found.append(n)
                except BlockingIOError:
                    continue
            assert abs(found.count(0) - found.count(1)) <= mailbox.FEEDS
            return len(found) == 40

        run_until(loop, read)
        for one in out:
            one.close()
    for box in boxes:
        box.close()


def test_a_large_message_waits_for_a_descriptor() -> None:
    """Without one it is not lost: it goes as soon as there is one again."""
    box = mailbox.Mailbox()
    inbox = mailbox.Inbox(box.reader)

    def starve() -> None:
        limit = max(map(int, os.listdir("/proc/self/fd"))) + 1
        with engine() as loop:
            filled = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit + 20, limit + 20))
            with contextlib.suppress(OSError):
                while True:
                    filled.append(os.dup(0))
            outbox = mailbox.Outbox(loop, box.writer)
            outbox.put(mailbox.WAITING, 7, [b"x" * 60_000] * 2)
            outbox.pump()
            assert 1 == outbox.waiting
            for _ in range(2):  # one here, one at the reader
                os.close(filled.pop())
            run_until(loop, lambda: not outbox.waiting)
            assert [b"x" * 60_000] * 2 == inbox.receive().values[1]

    strangers.run_as(os.geteuid(), starve)
    box.close()


def test_what_a_message_may_bring_is_bounded() -> None:
    """Many times what sessions are sent by, and a small part of a worker's memory."""
    assert 1 << 20 <= mailbox.MAX_BYTES <= 1 << 22
