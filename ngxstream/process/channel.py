"""Channels: how the master speaks to a worker, and how a worker hears that the master is gone.

Answers for src/os/unix/ngx_channel.c. One SOCK_SEQPACKET pair for each worker: a message is one
packet, a command byte, a payload, and descriptors if any; its end of file means that the process
at the other end has died. Signals remain: a command is what the master says, a signal what an
operator says.
"""

from __future__ import annotations

import array
import math
import select
import socket
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

QUIT: Final = 1
TERMINATE: Final = 2
REOPEN: Final = 3
HANDOVER: Final = 4  # a packed Plan, and the mailboxes of those who take over
GO: Final = 5  # nobody is left who could hand over: read
READY: Final = 6  # said by a worker: it has begun
ORPHAN: Final = 7  # said by a worker to a new master: its generation and configuration
GIVE: Final = 8  # a new master wants the listening sockets
FAILED: Final = 10  # said by a worker: why it cannot begin
SOCKETS: Final = 9  # the answer: sockets, and whether there are more

MAX_FDS: Final = 253  # SCM_MAX_FD
MAX_MESSAGE: Final = 65536
_INT: Final = array.array("i").itemsize


def wait_readable(fds: Iterable[int], wait_s: float) -> list[int]:
    """Wait until one of some descriptors has something to read, or its other end is gone.

    shape: the descriptors of which that is true, none when the time is up. Their numbers may be
    any: a master of many addresses has more than the 1024 that select(2) knows
    """
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _ in poller.poll(math.ceil(wait_s * 1000))]


class Message(NamedTuple):
    """What came through a channel. The receiver owns the descriptors."""

    command: int
    payload: bytes
    fds: list[int]


class Channel:
    """One end of a pair. Nothing here blocks."""

    __slots__ = ("sock",)

    def __init__(self, sock: socket.socket) -> None:
        """shape: a SOCK_SEQPACKET socket, owned from now on."""
        sock.setblocking(False)
        self.sock = sock

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Return the master's end and the worker's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ours), Channel(theirs)

    def fileno(self) -> int:
        """Return the descriptor, for a poller."""
        return self.sock.fileno()

    def send(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Send one message whole. returns: False when the other end is gone or does not read.

        shape: 0 < command < 256, at most MAX_MESSAGE - 1 bytes and MAX_FDS descriptors
        """
        try:
            socket.send_fds(self.sock, [bytes([command]), payload], fds)
        except OSError:
            return False
        return True

    def receive(self) -> Message:
        """Return the next message. raises: BlockingIOError for none, EOFError for never again"""
        # socket.recv_fds() forgets its flags, and these descriptors must not survive an exec
        data, ancillary, _, _ = self.sock.recvmsg(
            MAX_MESSAGE, socket.CMSG_LEN(MAX_FDS * _INT), socket.MSG_CMSG_CLOEXEC
        )
        fds = [
            fd
            for level, kind, packed in ancillary
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            for fd in array.array("i", packed[: len(packed) - len(packed) % _INT])
        ]
        if not data:
            raise EOFError("the other end of the channel is gone")
        return Message(data[0], data[1:], fds)

    def close(self) -> None:
        """Close this end."""
        self.sock.close()
