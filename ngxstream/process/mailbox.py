"""Mailboxes: what one worker says to another, in whole messages with descriptors.

nginx has no counterpart. A mailbox is a SOCK_SEQPACKET pair for one place among the workers of a
generation. The master makes all of them before it forks and keeps both ends: a worker that is
killed leaves its mail to the one that takes its place.

A message is a kind and values (pickled: both sides are processes of one service, under one user),
with at most MAX_FDS descriptors. It arrives whole or not at all, and messages of one sender arrive
in order.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import pickle
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import poller

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

STOPPED: Final = 1  # (pid, pids): I read my listening sockets no more; so will all of these
SESSIONS: Final = 2  # ([packed session]), a descriptor each
WAITING: Final = 3  # (address, key, [datagram]): what a session sent before has yet to send
DATAGRAMS: Final = 4  # (address, key, peer, local, [datagram]) of a client of yours
DONE: Final = 5  # (pid): that was all

MAX_FDS: Final = 250  # SCM_MAX_FD is 253
MAX_BYTES: Final = 1 << 17  # what one receive takes; a message fits a socket's default buffer
AGAIN_MS: Final = 10  # before another try where the kernel tells no other time
_INT: Final = array.array("i").itemsize
_PASSING: Final = frozenset((errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM))


class Mailbox:
    """Both ends of one mailbox, as the master keeps them."""

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.reader.setblocking(False)
        self.writer.setblocking(False)

    def close(self) -> None:
        """Close both ends in this process."""
        self.reader.close()
        self.writer.close()


class Outbox:
    """A writing end as one sender uses it: what finds no room waits, in order."""

    __slots__ = ("_feed", "_loop", "_queue", "_sock", "_timer", "_watching", "gone")

    def __init__(
        self, loop: Loop, sock: socket.socket, feed: Callable[[], bool] | None = None
    ) -> None:
        """shape: feed puts more when all is sent, and says whether it did"""
        self._loop = loop
        self._sock = sock
        self._queue: deque[tuple[bytes, Sequence[int], Sequence[Any]]] = deque()
        self._feed = feed
        self._watching = False
        self._timer = False
        self.gone = False  # nobody will ever read it

    def put(
        self, kind: int, *values: Any, fds: Sequence[int] = (), socks: Sequence[Any] = ()
    ) -> None:
        """Send one message, or have it wait; the socks are closed once it is sent."""
        self.put_packed(pickle.dumps((kind, *values), 5), fds, socks)

    def put_packed(self, data: bytes, fds: Sequence[int] = (), socks: Sequence[Any] = ()) -> None:
        """Send a message that is pickled already."""
        self._queue.append((data, fds, socks))

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._queue)

    def pump(self, mask: int = 0) -> None:
        """Send what waits, as far as there is room."""
        while self.send():
            if self._feed is None or not self._feed():
                self._watch(False)
                return

    def send(self) -> bool:
        """Send what waits, asking for no more. returns: whether all of it is gone"""
        queue = self._queue
        while queue:
            data, fds, socks = queue[0]
            try:
                if fds:
                    socket.send_fds(self._sock, [data], fds)
                else:
                    self._sock.send(data)
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
            self._loop.doomed.extend(socks)
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
        self._sock.close()


def receive(sock: socket.socket) -> tuple[tuple[Any, ...], list[int]]:
    """Return the next message and its descriptors, which the caller owns.

    raises: BlockingIOError for none, EOFError for never again, ValueError for what is no message
    """
    data, ancillary, _, _ = sock.recvmsg(
        MAX_BYTES, socket.CMSG_LEN(MAX_FDS * _INT), socket.MSG_CMSG_CLOEXEC
    )
    fds = [
        fd
        for level, kind, packed in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for fd in array.array("i", packed[: len(packed) - len(packed) % _INT])
    ]
    if not data:
        raise EOFError("the mailbox is gone")
    try:
        message = pickle.loads(data)
    except (pickle.UnpicklingError, AttributeError, ImportError, IndexError, EOFError) as error:
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        raise ValueError(str(error)) from None
    return message, fds
