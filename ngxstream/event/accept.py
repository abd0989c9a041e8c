"""A TCP listener of a worker: accepts bursts of clients and begins the session of each.

Answers for src/event/ngx_event_accept.c.

1. The listening socket is level-triggered (and exclusive with several workers): a burst may stop
   anywhere.
2. A client is accepted with all the slots of worker_connections its session may take: that towards
   its server is the session's own from the start, and cannot be missing when it connects.
3. Without slots or descriptors a client is left to the other workers (wakeups.py). Where none of
   them has any, idle UDP sessions give way (eviction.py).
4. When that does not help either, the kernel's backlog holds the clients until one that is served
   has left, or for a while; nothing spins.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ngxstream.event import connect, eviction, poller
from ngxstream.event.connection import Connection

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.event.timers import Timer
    from ngxstream.event.wakeups import Relay

ALERT: Final = 2
CRIT: Final = 3
BURST: Final = 16
PAUSE_MS: Final = 500  # accept_mutex_delay's default
# the client went away between SYN and accept, or the network hiccuped: accept(2), "Error handling"
_PASSING: Final = frozenset({
    errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN,
    errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH,
})
_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE))
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class TcpListener:
    """Accepts on one listening socket in one worker."""

    __slots__ = (
        "_loop",
        "_eviction",
        "_listening",
        "_sock",  # the bare socket: its _accept() is what socket.accept() wraps
        "_fd",
        "_begin",  # called with (Connection, Loop)
        "_family",
        "_burst",
        "_mask",
        "_pause_ms",
        "_timer",  # of the next look while it is paused
        "_alerted_ms",
        "_slots",  # int: of worker_connections for a session
        "_relay",  # Relay | None: to other workers that accept on this socket
        "_is_last",  # bool: no other worker has slots
        "_is_starved",  # bool: it is paused for another reason than slots
        "_is_tight",  # bool: descriptors have run out while clients wait
        "open",
    )

    def __init__(self, loop: Loop, listening: Listening, sock: socket.SocketType,
                 begin: Callable[[Connection, Loop], object], *, burst: int = BURST,
                 exclusive: bool = False, pause_ms: int = PAUSE_MS, slots: int = 1,
                 relay: Relay | None = None) -> None:
        """Accept from now on.

        Args: sock: One of listening's; begin: Called with each client's connection and the loop;
        burst: Clients taken before others have their turn; exclusive: Other workers accept on it
        too; pause_ms: Before another try without slots; slots: Of worker_connections that a
        session may take; relay: Leads to those other workers.
        """
        self._loop = loop
        self._eviction = loop.get(eviction.Eviction)
        self._listening = listening
        self._sock = sock
        self._fd = sock.fileno()
        self._begin = begin
        self._family = int(sock.family)
        self._burst = burst
        self._mask = poller.LEVEL | (poller.EXCLUSIVE if exclusive else 0)
        self._pause_ms = pause_ms
        self._timer: Timer | None = None
        self._alerted_ms = 0
        self._slots = slots
        self._relay = relay
        self._is_last = relay is None
        self._is_starved = False
        self._is_tight = False
        self.open = True
        self._eviction.has_descriptors(0)  # and a spare one from now on
        self._watch()

    def on_readable(self, mask: int) -> None:
        """Accept up to a burst of clients."""
        loop = self._loop
        # the C method under socket.accept()
        accept = self._sock._accept  # type: ignore[attr-defined]  # noqa: SLF001
        family, listening, begin = self._family, self._listening, self._begin
        make, slots = socket.SocketType, self._slots
        for n in range(self._burst):
            if loop.free_connections < slots or self._is_tight:
                if n and self._is_last:
                    return  # the next turn tells whether anybody waits
                if not self._has_slots():
                    return
            try:
                fd, sockaddr = accept()
            except BlockingIOError:
                self._is_tight = False
                if self._relay is not None:
                    self._is_last = False  # nobody waits any more
                    if loop.free_connections < slots:
                        self.pause()  # who comes next is for others
                return
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                self._failed(error)
                return
            sock = make(family, connect.STREAM, 0, fd)
            sock.setblocking(False)
            loop.free_connections -= slots
            loop.live += 1
            number = loop.next_number()
            c = Connection(sock, fd, family, sockaddr, number, listening, None, None, slots - 1)
            try:
                begin(c, loop)
            except Exception:  # noqa: BLE001 - who comes behind him is accepted
                loop.fault(None)
                loop.end_sessions_of(c)

    def _has_slots(self) -> bool:
        """Tell whether a client can be served; where no other worker can, sessions give way."""
        loop = self._loop
        if self._is_tight and not self._eviction.has_descriptors(self._slots):
            self._failed(OSError(errno.EMFILE, ""))
            return False
        while loop.free_connections < self._slots:
            if not self._is_last or not self._eviction.make():
                self._exhausted(f"{loop.connections} worker_connections are not enough")
                return False
        return True

    def _failed(self, error: OSError) -> None:
        code = error.errno or 0
        if code in _DESCRIPTORS:
            self._is_tight = True
            if self._is_last and self._eviction.make_descriptor():
                return  # it is there in the next turn, which tells of the client again
        level = CRIT if code in _EXHAUSTED else ALERT
        if self._loop.log.level >= level:
            self._loop.log.write(level, f"accept4() failed ({code}: {os.strerror(code)})")
        self._is_starved = True
        self._leave()

    def _exhausted(self, message: str) -> None:
        loop = self._loop
        if self._is_last and loop.now_ms - self._alerted_ms >= 1000:
            self._alerted_ms = loop.now_ms
            if loop.log.level >= ALERT:
                text = self._listening.options.text
                loop.log.write(ALERT, f"{message} while accepting new connection on {text}")
        self._leave()

    def _leave(self) -> None:
        """Leave the clients that wait to other workers."""
        self.pause()
        if self._relay is not None:
            self._relay.pass_on()

    def pause(self) -> None:
        """Leave clients in the kernel's backlog until one has left here, or for a while."""
        if not self.open or self._timer is not None:
            return
        loop = self._loop
        loop.unregister(self._fd)
        if self._relay is not None:
            self._relay.leave(self, full=True)
        self._timer = loop.call_later(self._pause_ms, self._resume, cancelable=True)
        loop.waiting.add(self._on_freed)

    def look(self) -> None:
        """Accept who waits, which another worker has no slots for."""
        if self.open and self._timer is None:
            self.on_readable(poller.IN)

    def _on_freed(self) -> None:
        """Accept again when a client has left and there are slots."""
        if not self.open or self._timer is None:
            return
        loop = self._loop
        if loop.free_connections >= self._slots and (
            not self._is_tight or self._eviction.has_descriptors(self._slots)
        ):
            self._timer.cancel()
            self._watch()
        else:
            loop.waiting.add(self._on_freed)

    def _resume(self) -> None:
        """Try again, unless another worker can do better."""
        self._timer = None
        if not self.open:
            return
        loop, relay = self._loop, self._relay
        if relay is not None:
            self._is_last = relay.is_unread()
            if not (self._is_last or self._is_starved or loop.free_connections >= self._slots):
                self._timer = loop.call_later(self._pause_ms, self._resume, cancelable=True)
                relay.pass_on()  # for who has come since
                return
        self._watch()

    def _watch(self) -> None:
        self._timer = None
        self._is_starved = False
        self._loop.register(self._fd, self.on_readable, self._mask)
        if self._relay is not None:
            self._relay.join(self)

    def close(self) -> None:
        """Accept no more. The listening socket stays open: the listener does not own it."""
        if not self.open:
            return
        self.open = False
        if self._relay is not None:
            self._relay.leave(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        else:
            self._loop.unregister(self._fd)
