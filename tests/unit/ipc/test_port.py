"""Ports: who may speak, what is taken, what stays open; with a hostile process at the other end."""

import array
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.ipc import codec, port
from ngxstream.ipc.codec import CodecError
from ngxstream.ipc.port import Packet, Port, Speaker
from tests.support import descriptors, strangers, tools

HEAD = struct.Struct("<BBBBI")
MOST = 1 << 20


def head(size: int, flags: int = 0, version: int = codec.VERSION) -> bytes:
    """Return the head of a message of kind 1."""
    return HEAD.pack(port.MAGIC, version, 1, flags, size)


class Pair:
    """A port and the socket at its other end."""

    def __init__(self, speaker: Speaker | None = None, max_fds: int = 4) -> None:
        ours, self.other = port.pair()
        speaker = speaker or Speaker.of("a friend")
        self.port = Port(ours, speaker, max_bytes=MOST, max_fds=max_fds)

    def refuses(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send a packet that has to be refused, and leave nothing open; the next one is taken."""
        before = descriptors.numbers()
        socket.send_fds(self.other, [data], fds)
        with pytest.raises(CodecError):
            self.port.receive()
        assert before == descriptors.numbers()
        Packet(2, b"next").send(self.other)
        assert (2, b"next") == self.port.receive()[:2]

    def close(self) -> None:
        """Close both ends."""
        self.port.close()
        self.other.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Give a port that takes four descriptors."""
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def memory() -> Iterator[int]:
    """Give a sealed memfd of the text "payload"."""
    fd = port.seal(b"payload")
    yield fd
    os.close(fd)


# -- messages --------------------------------------------------------------------------------------


@given(st.integers(1, 255), st.integers(0, 3 * port.INLINE), st.integers(0, 600))
def test_a_message_of_any_size_comes_whole(kind: int, size: int, count: int) -> None:
    """With as many descriptors as it was given, and the sender's name from the kernel."""
    pair = Pair(max_fds=1000)
    payload = os.urandom(size)
    sender = Port(pair.other, Speaker.of("nobody"), max_bytes=0)
    assert sender.send(kind, payload, [0] * count)
    message = pair.port.receive()
    assert (kind, payload, count) == (message.kind, message.payload, len(message.fds))
    assert (os.getpid(), os.geteuid()) == (message.pid, message.uid)
    assert not any(map(os.get_inheritable, message.fds))
    message.close()
    pair.close()


def test_nothing_is_no_end_and_the_end_is_no_message(pair: Pair) -> None:
    """An empty port would block; an empty packet is refused; an end is an end."""
    with pytest.raises(BlockingIOError):
        pair.port.receive()
    pair.refuses(b"")
    pair.other.close()
    with pytest.raises(EOFError):
        pair.port.receive()
    assert not pair.port.send(1)


def test_who_dies_with_something_unread_was_heard_all_the_same(pair: Pair) -> None:
    """The kernel tells of the reset before it gives what was sent."""
    speaker = Port(pair.other, Speaker.of("nobody"), max_bytes=0)
    for kind in (1, 2):
        assert speaker.send(kind)
    assert pair.port.send(3)
    speaker.close()
    assert [1, 2] == [pair.port.receive().kind for _ in range(2)]
    with pytest.raises(EOFError):
        pair.port.receive()


def test_a_message_in_many_packets_waits_for_room(pair: Pair) -> None:
    """What does not fit at once goes out as the reader makes room, or the end is closed."""
    pair.other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    sender = Port(pair.other, Speaker.of("nobody"), max_bytes=0)
    sent = 0
    while sender.send(1, bytes(100)):
        sent += 1
    assert not sender.send(1, b"", [0] * 1000)
    for _ in range(sent):
        pair.port.receive()
    with pytest.raises(BlockingIOError):  # no half of it
        pair.port.receive()


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        head(0)[:-1],
        b"\x80\5" + bytes(6),
        head(0, version=codec.VERSION + 1),
        head(1),
        head(0) + b"x",
        head(MOST + 1),
        head(0, flags=4),
        head(0, flags=port.SEALED),
        head(0, flags=port.MORE),
        head(port.INLINE + 1) + bytes(port.INLINE + 1),
    ],
)
def test_what_is_no_message_is_refused(pair: Pair, data: bytes) -> None:
    """And its descriptors are closed."""
    pair.refuses(data)
    if data[3:4] != b"\2":
        pair.refuses(data, (0, 1, 2))


def test_a_newer_version_is_refused_by_name(pair: Pair) -> None:
    """The error names both versions."""
    pair.other.send(head(0, version=9))
    with pytest.raises(CodecError, match=f"a message of version 9, not {codec.VERSION} as ours"):
        pair.port.receive()


def test_too_many_descriptors_are_refused(pair: Pair) -> None:
    """More than the port takes, and more than a packet may have."""
    pair.refuses(head(0), (0,) * 5)
    pair.refuses(head(0), (0,) * 253)


def test_memory_has_to_be_sealed(pair: Pair) -> None:
    """What the sender could change or cut while it is read is not read."""
    fd = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.write(fd, b"payload")
    pair.refuses(head(7, flags=port.SEALED), (fd,))
    for seals in (fcntl.F_SEAL_WRITE, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        pair.refuses(head(7, flags=port.SEALED), (fd,))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    socket.send_fds(pair.other, [head(7, flags=port.SEALED)], [fd])
    assert b"payload" == pair.port.receive().payload
    os.close(fd)


def test_memory_has_to_be_as_long_as_it_is_said(pair: Pair, memory: int) -> None:
    """Neither longer nor shorter, and nothing stands beside it."""
    for size in (6, 8, 0):
        pair.refuses(head(size, flags=port.SEALED), (memory,))
    pair.refuses(head(7, flags=port.SEALED) + b"payload", (memory,))


def test_what_is_no_memory_is_refused(pair: Pair, tmp_path: Path) -> None:
    """A file, a pipe, a socket."""
    reader, writer = os.pipe()
    with open(tmp_path / "file", "wb") as file, socket.socket() as sock:
        for fd in (file.fileno(), reader, sock.fileno()):
            pair.refuses(head(0, flags=port.SEALED), (fd,))
    os.close(reader)
    os.close(writer)


@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_packet_is_a_message_or_the_error(data: bytes, count: int) -> None:
    """Neither outcome leaves a descriptor open."""
    pair = Pair()
    before = descriptors.numbers()
    socket.send_fds(pair.other, [head(len(data)) + data] if count % 2 else [data], [0] * count)
    try:
        pair.port.receive().close()
    except (CodecError, EOFError):
        pass
    assert before == descriptors.numbers()
    pair.close()


def test_a_message_without_an_end_takes_no_more_than_one(pair: Pair) -> None:
    """Packets that promise more are refused once they are over the bound."""
    pair.close()
    pair = Pair(max_fds=300)
    before = descriptors.count()
    for _ in range(2):
        socket.send_fds(pair.other, [head(0, flags=port.MORE)], [0] * port.MAX_FDS)
    with pytest.raises(CodecError, match="more than 300 descriptors"):
        pair.port.receive()
    assert before == descriptors.count()
    pair.close()


def test_what_came_before_a_packet_that_was_cut_off_is_closed(pair: Pair) -> None:
    """Its descriptors do not join the next message."""
    pair.close()
    pair = Pair(max_fds=300)
    before = descriptors.count()
    socket.send_fds(pair.other, [head(0, flags=port.MORE)], [0, 1])
    pair.other.send(bytes(port.INLINE * 2))
    with pytest.raises(CodecError, match="cut off"):
        pair.port.receive()
    assert before == descriptors.count()
    pair.other.send(head(0))
    assert [] == pair.port.receive().fds
    pair.close()


# -- who speaks ------------------------------------------------------------------------------------


def test_a_stranger_with_the_descriptor_is_not_listened_to(pair: Pair) -> None:
    """The kernel says who sent, whoever made the pair; its descriptors are closed."""
    tools.require_root()
    before = descriptors.count()
    strangers.run_as(strangers.NOBODY, lambda: Packet(1, b"obey", [0, 1]).send(pair.other))
    with pytest.raises(CodecError, match="of user 65534 speaks where only a friend may"):
        pair.port.receive()
    assert before == descriptors.count()


def test_a_stated_user_may_speak() -> None:
    """The worker's user, for instance."""
    tools.require_root()
    pair = Pair(Speaker.of("a worker", strangers.NOBODY))
    strangers.run_as(strangers.NOBODY, lambda: Packet(1, b"said").send(pair.other))
    message = pair.port.receive()
    assert (b"said", strangers.NOBODY) == (message.payload, message.uid)
    pair.close()


def test_a_stranger_cannot_speak_in_another_s_name(pair: Pair) -> None:
    """Credentials that are not the sender's do not leave it."""
    tools.require_root()

    def lie() -> None:
        with pytest.raises(PermissionError):
            pair.other.sendmsg(
                [head(0)],
                [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("=iII", 1, 0, 0))],
            )

    strangers.run_as(strangers.NOBODY, lie)


def test_where_one_process_is_stated_no_other_may_speak() -> None:
    """Not even of the same user."""
    pair = Pair(Speaker.of("the other master", pid=os.getpid() + 1))
    pair.other.send(head(0))
    with pytest.raises(CodecError, match="speaks where only the other master may"):
        pair.port.receive()
    pair.close()


def test_two_speakers_cannot_mix_their_packets() -> None:
    """The packets of one message are one process's."""
    tools.require_root()
    pair = Pair(Speaker.of("a friend", strangers.NOBODY), max_fds=300)
    socket.send_fds(pair.other, [head(0, flags=port.MORE)], [0])
    strangers.run_as(strangers.NOBODY, lambda: Packet(1, b"mine").send(pair.other))
    with pytest.raises(CodecError, match="two processes speak at once"):
        pair.port.receive()
    pair.close()


# -- sockets ---------------------------------------------------------------------------------------


def test_nothing_survives_an_exec(tmp_path: Path) -> None:
    """Every way to a socket closes it on exec."""
    one, two = port.pair()
    listener = port.listen(str(tmp_path / "port"), 1)
    made = [one, two, listener, port.connect(str(tmp_path / "port")), port.accept(listener)]
    copy = os.dup(one.fileno())
    os.set_inheritable(copy, True)
    made.append(port.adopt(copy))
    assert not any(sock.get_inheritable() for sock in made)
    for sock in made:
        sock.close()


def test_a_child_has_what_it_was_given(tmp_path: Path) -> None:
    """All other ports of its parent are closed in it."""
    kept, theirs = port.pair()
    others = [*port.pair(), port.listen(str(tmp_path / "port"), 1)]
    own = Port(kept, Speaker.of("a parent"), max_bytes=100)

    def look() -> None:
        port.keep_only([own])
        assert kept.fileno() >= 0
        assert [-1] * 4 == [sock.fileno() for sock in (theirs, *others)]

    strangers.run_as(os.geteuid(), look)
    assert all(sock.fileno() >= 0 for sock in (theirs, *others))
    for sock in (kept, theirs, *others):
        sock.close()


def test_a_path_is_its_owner_s(tmp_path: Path) -> None:
    """From the first moment, whatever the umask; another user cannot connect."""
    before = os.umask(0)
    try:
        listener = port.listen(str(tmp_path / "port"), 1)
    finally:
        os.umask(before)
    assert 0o600 == (tmp_path / "port").stat().st_mode & 0o777
    listener.close()


def test_a_full_backlog_is_told_from_nobody(tmp_path: Path) -> None:
    """BlockingIOError is busy, everything else is nobody."""
    with pytest.raises(FileNotFoundError):
        port.connect(str(tmp_path / "port"))
    listener = port.listen(str(tmp_path / "port"), 0)
    first = port.connect(str(tmp_path / "port"))
    with pytest.raises(BlockingIOError):
        port.connect(str(tmp_path / "port"))
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        port.connect(str(tmp_path / "port"))
    first.close()


def test_what_is_no_port_is_not_taken_over() -> None:
    """Descriptors that came in a message are closed, those of the environment are left alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(OSError, match="is no port"):
            port.adopt(sock.fileno())
        copy = os.dup(sock.fileno())
        with pytest.raises(CodecError):
            port.writer(copy)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)
        assert sock.getsockname()


def test_an_end_knows_when_it_is_alone(pair: Pair) -> None:
    """Before anything is sent or read."""
    assert not port.is_gone(pair.port.sock)
    pair.other.close()
    assert port.is_gone(pair.port.sock)


def test_descriptors_that_did_not_fit_are_closed() -> None:
    """A process without free descriptors refuses the message, and the next one is sound."""
    pair = Pair()
    script = array.array("i", [0, 1, 2])
    socket.send_fds(pair.other, [head(0)], script.tolist())

    def starve() -> None:
        import resource  # noqa: PLC0415 - the limit is this child's alone

        used = 1 + max(map(int, os.listdir("/proc/self/fd")))  # one at least is free
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
        filled = []
        try:
            while True:
                filled.append(os.dup(0))
        except OSError:
            os.close(filled.pop())
        before = len(filled)
        with pytest.raises(CodecError, match="cut off"):
            pair.port.receive()
        os.close(os.dup(0))  # the one that fitted is free again
        assert before == len(filled)

    strangers.run_as(os.geteuid(), starve)
    pair.close()


@pytest.mark.parametrize(
    ("family", "kind", "fits"),
    [
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, True),
        (socket.AF_UNIX, socket.SOCK_STREAM, False),
        (socket.AF_UNIX, socket.SOCK_DGRAM, False),
        (socket.AF_INET, socket.SOCK_STREAM, False),
    ],
)
def test_an_end_is_a_unix_socket_of_packets(family: int, kind: int, fits: bool) -> None:
    """Anything else that came with the process stays the caller's."""
    fd = socket.socket(family, kind).detach()
    if fits:
        port.adopt(fd).close()
    else:
        with pytest.raises(OSError, match="is no port"):
            port.adopt(fd)
        os.close(fd)
