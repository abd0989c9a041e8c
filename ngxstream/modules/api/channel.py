"""The bytes of an API client, in and out: when it is its turn, and how long it may take.

What is done with them is another's: Client of serving.py.
"""

from __future__ import annotations

import socket
from time import monotonic_ns
from typing import TYPE_CHECKING

from ngxstream.core.codes import AGAIN, STREAM_OK
from ngxstream.event import slices
from ngxstream.event.poller import READABLE
from ngxstream.modules.api import states
from ngxstream.stream import endings
from ngxstream.stream.content import Content

if TYPE_CHECKING:
    from ngxstream.stream.session import Session


class Channel(Content):
    """A connection whose owner takes steps while there is something to do."""

    __slots__ = (
        "s",
        "slices",
        "out",  # bytes that wait for the client
        "is_scheduled",
        "deadline",
        "tick",
    )

    def __init__(self, s: Session) -> None:
        self.s = s
        self.slices = s.loop.get(slices.Slices)
        self.out = b""
        self.is_scheduled = False
        self.deadline = 0
        self.tick = 0

    # -- the owner's part ----------------------------------------------------------------------

    @property
    def is_deaf(self) -> bool:
        """Whether nothing is read for now."""
        raise NotImplementedError

    def step(self, over: int) -> bool:
        """Take one step. Args: over: ns, when the slice is. Returns: whether there may be more"""
        raise NotImplementedError

    def on_sent(self) -> None:
        """Called when the client has taken some bytes."""
        raise NotImplementedError

    def on_timeout(self) -> None:
        """Called when the time is over that wait() gave."""
        raise NotImplementedError

    # -- turns ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Have steps taken from now on."""
        s = self.s
        s.set_nodelay()
        s.loop.register(s.c.fd, self.on_event)

    def on_event(self, mask: int) -> None:
        """Go on: there is something to read, or room to write."""
        if self.out or (mask & READABLE and not self.is_deaf):
            self.schedule()

    def schedule(self) -> None:
        """Go on when it is this client's turn."""
        if not self.is_scheduled and not self.s.status:
            self.is_scheduled = True
            self.slices.add(self.go_on)

    def go_on(self) -> None:
        """Do what can be done, for no longer than the slice."""
        self.is_scheduled = False
        s = self.s
        over = self.slices.over
        while not s.status and (self._flush() if self.out else self.step(over)):
            if monotonic_ns() >= over:
                self.schedule()
                return
        if not s.status:
            poller = s.loop.poller
            if self.is_deaf:
                poller.hold_read(s.c.fd)
            else:
                poller.release_read(s.c.fd)

    def wait(self, ms: int) -> None:
        """Give the client so much time."""
        loop = self.s.loop
        self.deadline = loop.now_ms + max(1, ms)
        loop.timers.add(self)

    # -- bytes ---------------------------------------------------------------------------------

    def recv(self) -> bytes | None:
        """Read. Returns: b"" at the end, None where there is nothing now, or not any more"""
        s = self.s
        try:
            data: bytes = s.c.sock.recv(states.READ)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            s.client_error(error, "recv() failed")
            s.end(STREAM_OK, endings.of_client(error))
            return None
        s.c.received += len(data)
        return data

    def _flush(self) -> bool:
        s = self.s
        try:
            sent = s.c.send(self.out)
        except OSError as error:
            s.client_error(error, "send() failed")
            s.end(STREAM_OK, endings.of_client(error))
            return False
        if sent == AGAIN:
            s.loop.poller.want_write(s.c.fd)
            return False
        self.out = self.out[sent:]
        self.on_sent()
        return True

    def say_end(self) -> None:
        """Tell the client that nothing more comes, while it is still listened to."""
        sock = self.s.c.sock
        if isinstance(sock, socket.SocketType):  # TLS says it when it is closed
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the client is gone already: the read will say so

    def close(self) -> None:
        """Let go of everything."""
        self.s.loop.timers.remove(self)
