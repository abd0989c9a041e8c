"""The TCP gate: accepts bursts of clients and hands each to the hall.

Answers for src/event/ngx_event_accept.c.

1. The listening socket is level-triggered (and exclusive with several workers): a burst may stop
   anywhere.
2. Out of descriptors or of worker_connections, the gate closes for a while and the kernel's
   backlog holds the clients; nothing spins.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import connect, libssl, poller
from ngxstream.event.connection import Connection

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop

ALERT: Final = 2
CRIT: Final = 3
BURST: Final = 16
PAUSE_MS: Final = 500  # accept_mutex_delay's default
# the client went away between SYN and accept, or the network hiccuped: accept(2), "Error handling"
_PASSING: Final = frozenset(
    (
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    )
)
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class TcpGate:
    """Accepts on one listening socket in one worker."""

    __slots__ = (
        "_loop",
        "_listening",
        "_sock",  # the bare socket: its _accept() is what socket.accept() wraps
        "_fd",
        "_begin",  # called with (Connection, Loop)
        "_family",
        "_make",  # class of the sockets: TLS wants a weak reference to them
        "_burst",
        "_mask",
        "_pause_ms",
        "_timer",
        "_alerted_ms",
        "open",
    )

    def __init__(
        self,
        loop: Loop,
        listening: Listening,
        sock: Any,
        begin: Callable[[Connection, Loop], Any],
        *,
        burst: int = BURST,
        exclusive: bool = False,
        pause_ms: int = PAUSE_MS,
    ) -> None:
        self._loop = loop
        self._listening = listening
        self._sock = sock
        self._fd = sock.fileno()
        self._begin = begin
        self._family = int(sock.family)
        self._make = libssl.WrappedSocket if listening.options.ssl else socket.SocketType
        self._burst = burst
        self._mask = poller.LEVEL | (poller.EXCLUSIVE if exclusive else 0)
        self._pause_ms = pause_ms
        self._timer: Any = None
        self._alerted_ms = 0
        self.open = True
        loop.register(self._fd, self.on_readable, self._mask)

    def on_readable(self, mask: int) -> None:
        """Accept up to a burst of clients."""
        loop = self._loop
        accept = self._sock._accept  # noqa: SLF001 - the C method under socket.accept()
        family, listening, begin = self._family, self._listening, self._begin
        make = self._make
        for _ in range(self._burst):
            if loop.free_connections <= 0:
                self._exhausted(f"{loop.connections} worker_connections are not enough")
                return
            try:
                fd, sockaddr = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                self._failed(error)
                return
            sock = make(family, connect.STREAM, 0, fd)
            sock.setblocking(False)
            loop.free_connections -= 1
            loop.live += 1
            begin(Connection(sock, fd, family, sockaddr, loop.next_number(), listening), loop)

    def _failed(self, error: OSError) -> None:
        code = error.errno or 0
        level = CRIT if code in _EXHAUSTED else ALERT
        if self._loop.log.level >= level:
            self._loop.log.write(level, f"accept4() failed ({code}: {os.strerror(code)})")
        self.pause()

    def _exhausted(self, message: str) -> None:
        loop = self._loop
        if loop.now_ms - self._alerted_ms >= 1000:
            self._alerted_ms = loop.now_ms
            if loop.log.level >= ALERT:
                text = self._listening.options.text
                loop.log.write(ALERT, f"{message} while accepting new connection on {text}")
        self.pause()

    def pause(self) -> None:
        """Leave clients in the kernel's backlog for a while."""
        if self.open and self._timer is None:
            self._loop.unregister(self._fd)
            self._timer = self._loop.call_later(self._pause_ms, self._resume, cancelable=True)

    def _resume(self) -> None:
        self._timer = None
        if self.open:
            self._loop.register(self._fd, self.on_readable, self._mask)

    def close(self) -> None:
        """Accept no more. The listening socket stays open: the gate does not own it."""
        if not self.open:
            return
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        else:
            self._loop.unregister(self._fd)
