"""Mailboxes: what one worker says to another, in whole messages with descriptors.

nginx has no counterpart. A mailbox is a pair of ports (ipc/port.py) for one place among the workers
of a generation. The master makes all of them before it forks and keeps both ends: a worker that is
killed leaves its mail to the one that takes its place.

A message is a kind and values by the schema of that kind, with at most MAX_FDS descriptors. It
arrives whole or not at all, and messages of one sender arrive in order. Senders may be of another
user (a reload may change it, and so may an upgrade): the receiver checks what it is sent.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.event import poller
from ngxstream.ipc import addresses, codec, port
from ngxstream.ipc.codec import Field, List, Record
from ngxstream.ipc.port import Packet, Port, Speaker

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

STOPPED: Final = 1  # (pid, pids): I read my listening sockets no more; so will all of these
SESSIONS: Final = 2  # ([packed session], a byte for each: how many descriptors it has)
WAITING: Final = 3  # (number, [datagram]): what the session of a $connection has yet to send
DATAGRAMS: Final = 4  # (address, key, peer, local, [datagram]) of a client of yours
DONE: Final = 5  # (pid): that was all
# as DATAGRAMS, and how often they were passed on: of a client whose session, which is known by an
# id in them, is yours
FOUND: Final = 6
OFFER: Final = 7  # (worker, number): the session of a $connection would come to you
WANTED: Final = 8  # (number): it may

MAX_FDS: Final = port.MAX_FDS
MAX_BYTES: Final = 4 << 20  # of a message; sessions are sent by some 48 kB
MAX_FOREIGN: Final = 1 << 17  # of another user's: decoding it takes milliseconds
MAX_DATAGRAM: Final = 65_535 + 256  # and a header in front of it
FEEDS: Final = 4  # messages of sessions in a turn: as many as a socket's default buffer holds
AGAIN_MS: Final = 10  # before another try where the kernel tells no other time
_PASSING: Final = frozenset((errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE))

_DATAGRAMS: Final = List(codec.Bytes(MAX_DATAGRAM), 4096)
_SCHEMAS: Final = {
    STOPPED: Record(
        "STOPPED", Field(1, "pid", codec.PID), Field(2, "pids", List(codec.PID, 65_536), [])
    ),
    SESSIONS: Record(
        "SESSIONS", Field(1, "sessions", List(codec.Bytes(MAX_BYTES), MAX_FDS)),
        Field(2, "sockets", codec.Bytes(MAX_FDS)),
    ),
    WAITING: Record("WAITING", Field(1, "number", codec.UINT), Field(2, "datagrams", _DATAGRAMS)),
    DATAGRAMS: Record(
        "DATAGRAMS", Field(1, "where", addresses.LISTEN_KEY), Field(2, "key", addresses.CLIENT_KEY),
        Field(3, "peer", addresses.ADDRESS),
        Field(4, "local", codec.Optional(codec.Bytes(16)), None), Field(5, "datagrams", _DATAGRAMS),
    ),
    DONE: Record("DONE", Field(1, "pid", codec.PID)),
    FOUND: Record(
        "FOUND", Field(1, "where", addresses.LISTEN_KEY), Field(2, "key", addresses.CLIENT_KEY),
        Field(3, "peer", addresses.ADDRESS),
        Field(4, "local", codec.Optional(codec.Bytes(16)), None), Field(5, "datagrams", _DATAGRAMS),
        Field(6, "hops", codec.Int(0, 16)),
    ),
    OFFER: Record(
        "OFFER", Field(1, "worker", codec.Int(0, 65_535)), Field(2, "number", codec.UINT)
    ),
    WANTED: Record("WANTED", Field(1, "number", codec.UINT)),
}


class Mail(NamedTuple):
    """One message. The receiver owns the descriptors; the kernel vouches for pid and uid."""

    kind: int
    values: tuple[Any, ...]
    fds: list[int]
    pid: int
    uid: int


class Mailbox:
    """Both ends of one mailbox, as the master keeps them."""

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = port.pair()
        self.reader.setblocking(False)
        self.writer.setblocking(False)

    def close(self) -> None:
        """Close both ends in this process."""
        self.reader.close()
        self.writer.close()


class Outbox:
    """The writing end of one sender: what does not fit in the socket waits, in order."""

    __slots__ = ("_feed", "_loop", "_posted", "_queue", "_sock", "_timer", "_watching", "gone")

    def __init__(
        self, loop: Loop, sock: socket.socket, feed: Callable[[], bool] | None = None
    ) -> None:
        """Args: feed: puts more when all is sent, and says whether it did"""
        self._loop = loop
        self._sock = sock
        self._queue: deque[tuple[Packet, Sequence[Any]]] = deque()
        self._feed = feed
        self._watching = False
        self._timer = False
        self._posted = False
        self.gone = False  # nobody will ever read it

    def put(
        self, kind: int, *values: Any, fds: Sequence[int] = (), socks: Sequence[Any] = ()
    ) -> None:
        """Send one message, or have it wait; the socks are closed once it is sent."""
        self._queue.append((Packet(kind, _SCHEMAS[kind].encode(values), fds), socks))

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._queue)

    def pump(self, mask: int = 0) -> None:
        """Send what waits, as far as the socket takes it, and a few more messages per turn.

        Thousands of sessions take seconds: other workers and clients are served in between.
        """
        for _ in range(FEEDS):
            if not self.send():
                return
            if self._feed is None or not self._feed():
                self._watch(False)
                return
        if self.send() and not self._watching and not self._posted:
            self._posted = True
            self._loop.post(self._go_on)

    def _go_on(self) -> None:
        self._posted = False
        self.pump()

    def send(self) -> bool:
        """Send what waits, asking for no more. Returns: whether all of it is gone"""
        queue = self._queue
        while queue:
            packet, socks = queue[0]
            try:
                packet.send(self._sock)
            except BlockingIOError:
                self._watch(True)
                return False
            except OSError as error:
                if error.errno in _PASSING:
                    self._watch(False)
                    self._try_later()
                    return False
                self.gone = True
            queue.popleft()
            packet.close()
            self._loop.closing.extend(socks)
        return True

    def _watch(self, on: bool) -> None:
        if on != self._watching:
            self._watching = on
            fd = self._sock.fileno()
            if on:
                self._loop.register(fd, self.pump, poller.OUT)
            else:
                self._loop.poller.remove(fd)

    def _try_later(self) -> None:
        if not self._timer:
            self._timer = True
            self._loop.call_later(AGAIN_MS, self._again, cancelable=True)

    def _again(self) -> None:
        self._timer = False
        self.pump()

    def close(self) -> None:
        """Close this process's copy."""
        self._watch(False)
        for packet, _ in self._queue:
            packet.close()
        self._sock.close()


class Inbox:
    """A reading end as the worker of its place uses it."""

    __slots__ = ("_port", "_trusted")

    def __init__(self, sock: socket.socket, users: Iterable[int | None] = ()) -> None:
        """Args: users: whose workers may write, besides root and this process's own user"""
        speaker = Speaker.of("a worker", *users)
        self._trusted = frozenset((0, os.geteuid()))
        self._port = Port(sock, speaker, max_bytes=MAX_BYTES, max_fds=MAX_FDS)

    def fileno(self) -> int:
        """Return the descriptor, for a poller."""
        return self._port.fileno()

    def is_foreign(self, uid: int) -> bool:
        """Tell whether a message is of another user, but for root."""
        return uid not in self._trusted

    def receive(self, is_over: Callable[[int, int], bool] = lambda kind, pid: False) -> Mail:
        """Return the next message.

        Args: is_over: asked with kind and pid of another user's, before it is decoded, whether
        there can be none of that kind any more.

        Raises: BlockingIOError for none, EOFError when the other end is closed, CodecError if
        refused, OSError
        """
        message = self._port.receive()
        try:
            if self.is_foreign(message.uid):
                if len(message.payload) > MAX_FOREIGN:
                    raise codec.CodecError(f"user {message.uid} says too much at once")
                if is_over(message.kind, message.pid):
                    raise codec.CodecError(
                        f"process {message.pid} of user {message.uid} may not say it any more"
                    )
            schema = _SCHEMAS.get(message.kind)
            if schema is None:
                raise codec.CodecError(f"a message of the unknown kind {message.kind}")
            values = schema.decode(message.payload)
            wanted = 0
            if message.kind == SESSIONS:
                sessions, sockets = values
                if len(sessions) != len(sockets):
                    raise codec.CodecError(f"{len(sessions)} sessions, sockets of {len(sockets)}")
                wanted = sum(sockets)
            if len(message.fds) != wanted:
                raise codec.CodecError(f"{len(message.fds)} descriptors where {wanted} belong")
        except codec.CodecError:
            message.close()
            raise
        return Mail(message.kind, values, message.fds, message.pid, message.uid)
