"""Channels: how the master sends commands to a worker, and how a worker learns that the master is
gone.

Answers for src/os/unix/ngx_channel.c. A channel is a pair of ports (ipc/port.py), one pair for each
worker; a message is a command, a payload, and descriptors if any; its end of file means that the
process at the other end has died. Signals remain for the operator; the master uses commands.
"""

from __future__ import annotations

import errno
import math
import select
import socket
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ngxstream.ipc import port
from ngxstream.ipc.codec import CodecError
from ngxstream.ipc.port import Port, Speaker

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
STAY: Final = 11  # those before this worker are about to be told to leave

MAX_FDS: Final = port.MAX_FDS
MAX_BYTES: Final = 64 << 20  # what the master tells: 100 000 addresses are some 5 MB
MAX_WORKERS: Final = 65_536  # mailboxes in a plan
ANSWER: Final = 4096  # bytes: what a worker tells


def wait_readable(fds: Iterable[int], wait_s: float) -> list[int]:
    """Wait until one of some descriptors has something to read, or its other end is gone.

    Returns: the descriptors of which that is true, none when the time is up. Their numbers may be
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

    __slots__ = ("_port", "sock")

    def __init__(self, end: Port) -> None:
        self._port = end
        self.sock = end.sock

    @classmethod
    def to_master(cls, sock: socket.socket, owner: int | None = None) -> Channel:
        """Make a worker's end. Args: owner: the master's user, this process's own if not given"""
        speaker = Speaker.of("the master", owner)
        return cls(Port(sock, speaker, max_bytes=MAX_BYTES, max_fds=MAX_WORKERS))

    @classmethod
    def to_worker(
        cls, sock: socket.socket, user: int | None = None, *, max_fds: int = 0
    ) -> Channel:
        """Make a master's end. Args: user: the worker's"""
        speaker = Speaker.of("a worker", user)
        return cls(Port(sock, speaker, max_bytes=ANSWER, max_fds=max_fds))

    @staticmethod
    def pair(user: int | None = None) -> tuple[Channel, Channel]:
        """Return the master's end and the worker's. Args: user: the worker's, once it is one"""
        ours, theirs = port.pair()
        return Channel.to_worker(ours, user), Channel.to_master(theirs)

    def fileno(self) -> int:
        """Return the descriptor, for a poller."""
        return self.sock.fileno()

    def send(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Send one message whole. Returns: False when the other end is gone or does not read

        Args: command: 0 < command < 256
        """
        return self._port.send(command, payload, fds)

    def receive(self) -> Message:
        """Return the next message.

        Raises: BlockingIOError for none, EOFError when the other end is closed, OSError,
        EPROTO for a malformed message or a sender that is not allowed
        """
        try:
            message = self._port.receive()
        except CodecError as error:
            raise OSError(errno.EPROTO, str(error)) from None
        return Message(message.kind, message.payload, message.fds)

    def close(self) -> None:
        """Close this end."""
        self._port.close()
