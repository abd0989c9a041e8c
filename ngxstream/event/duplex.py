"""Duplex: a stream socket, plain or under TLS, that tasks read and write.

It is bounded by its users: nothing is read that nobody asked for, and no more waits to be written
than `limit`. Whose socket it is, and what an error means, its owner knows.

1. read() gives what there is, at most as much as asked for, and b"" at the end for ever after.
2. write() sends what there is room for; the rest is sent while the loop goes on. An error of that
   is raised by whatever is called next.
3. A task that finds data without waiting lets everybody else go on after SHARE_NS: a peer that
   sends as fast as it can takes no more of a turn, and what is done with one piece is no part of
   the time limit of the next.
"""

from __future__ import annotations

import errno
import os
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import poller, tasks

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

PIECE: Final = 65_536  # bytes read or written by one call of the kernel
SHARE_NS: Final = 1_000_000


class ClosedError(OSError):
    """The socket was closed here."""

    def __init__(self) -> None:
        super().__init__(errno.EBADF, "the connection is closed")


class Share:
    """The time of one reader in a turn."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun = monotonic_ns()

    async def take(self) -> None:
        """Let others go on if the share is used up. Called before something is given."""
        if monotonic_ns() - self._begun >= SHARE_NS:
            await tasks.NextTurn()
            self.begin()

    def begin(self) -> None:
        """Begin a share: the task has waited."""
        self._begun = monotonic_ns()


class Duplex:
    """Both directions of one socket."""

    __slots__ = (
        "drained",  # Edge: nothing waits to be written any more
        "error",  # OSError | None: by which writing has failed
        "fd",
        "is_closed",
        "limit",  # int: bytes that may wait
        "loop",
        "moved_ms",  # int: when bytes went either way last, loop ms
        "out",  # bytearray: waits to be written
        "readable",  # Edge
        "received",  # int: bytes
        "sent",
        "share",
        "sock",
    )

    def __init__(self, loop: Loop, sock: Any, limit: int) -> None:
        """Args: sock: non-blocking; open() watches it"""
        self.loop = loop
        self.sock = sock
        self.fd: int = sock.fileno()
        self.limit = limit
        self.moved_ms = loop.now_ms
        self.received = 0
        self.sent = 0
        self.error: OSError | None = None
        self.is_closed = False
        self.out = bytearray()
        self.readable = tasks.Edge()
        self.drained = tasks.Edge()
        self.share = Share()

    def open(self) -> None:
        """Watch the socket. Raises: OSError where the poller cannot"""
        self.loop.register(self.fd, self.on_event)

    def on_event(self, mask: int) -> None:
        """Go on with both directions: under TLS each may have waited for the other's event."""
        if self.is_closed:
            return
        if self.out:
            self._flush()
        if mask & poller.READABLE:
            if self.readable.is_awaited:
                self.readable.tell()
            else:
                self.loop.poller.hold_read(self.fd)

    def on_fault(self) -> None:
        """Close after an exception nobody expected."""
        self.close()

    def count(self, received: int, sent: int) -> None:
        """Count bytes that went either way."""
        self.moved_ms = self.loop.now_ms
        self.received += received
        self.sent += sent

    # -- reading -------------------------------------------------------------------------------

    async def read(self, most: int = PIECE) -> bytes:
        """Read at most so many bytes. Returns: b"" at the end. Raises: OSError"""
        share = self.share
        await share.take()
        while True:
            data = self.take(most)
            if data is not None:
                return data
            self.loop.poller.release_read(self.fd)
            await self.readable.next()
            share.begin()

    def take(self, most: int) -> bytes | None:
        """Return what there is, None where there is nothing now. Raises: OSError"""
        if self.is_closed:
            raise ClosedError
        room = self.loop.view[: min(most, PIECE)]
        try:
            count: int = self.sock.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return None
        self.count(count, 0)
        return bytes(room[:count])

    # -- writing -------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send, now or while the loop goes on.

        Raises: BufferError where more than `limit` would wait: nothing of it is sent; OSError
        """
        self._check()
        waiting = len(self.out)
        if waiting + len(data) > self.limit:
            raise BufferError(f"{waiting} of {self.limit} bytes wait to be sent already")
        self.out += data
        if not waiting:
            self._flush()
            self._check()

    def _check(self) -> None:
        if self.is_closed:
            raise ClosedError
        error = self.error
        if error is not None:  # a new one each time: a traceback would lead back here
            raise OSError(error.errno, os.strerror(error.errno or 0))

    def _flush(self) -> None:
        """Send what there is room for."""
        out = self.out
        while out:
            try:
                count: int = self.sock.send(bytes(out[:PIECE]))
            except (BlockingIOError, InterruptedError):
                self.loop.poller.want_write(self.fd)
                return
            except OSError as error:
                out.clear()
                self.fail(error)
                break
            del out[:count]
            self.count(0, count)
        self.drained.tell()

    def fail(self, error: OSError) -> None:
        """Note that writing has failed."""
        self.error = OSError(error.errno, error.strerror)

    async def drain(self) -> None:
        """Wait until the kernel has taken all that was written. Raises: OSError"""
        await self.share.take()
        self._check()
        while self.out:
            await self.drained.next()
            self.share.begin()
            self._check()

    # -- the end -------------------------------------------------------------------------------

    def detach(self) -> None:
        """Let go of the socket, which stays open; what waits is not sent. Idempotent."""
        if self.out and hasattr(self.sock, "quiet"):  # no close_notify: it was not all
            self.sock.quiet = True
        self.is_closed = True
        self.out.clear()

    def close(self) -> None:
        """Close the socket at the end of the turn; who waits is told. Idempotent."""
        if not self.is_closed:
            self.detach()
            self.loop.close_later(self.sock)
            self.readable.tell()
            self.drained.tell()
