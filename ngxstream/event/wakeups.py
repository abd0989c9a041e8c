"""Wake-ups of listening sockets that several workers share: one that cannot be used is passed on.

With EPOLLEXCLUSIVE the kernel wakes one of the workers that wait, for each client that comes
(epoll_ctl(2)); nginx's worker accepts the client then, and resets it when it has no connection for
it (ngx_event_accept, ngx_get_connection). Here a worker without free slots leaves the client in the
backlog, and must see to it that another one is woken:

1. A listener without free slots is watched no more, so that no further wake-up comes to it.
2. The wake-up that it has had is passed on: the workers share an eventfd, watched exclusively by
   those in which every listener has free slots. Who reads it looks at all its listeners. Listeners
   whose sessions take another number of slots have another one: where two are too many for a
   worker, it may still be woken for a client who takes one.
3. What nobody has read by the next look (accept_mutex_delay) tells that all workers are full.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ngxstream.event import poller

if TYPE_CHECKING:
    from ngxstream.event.accept import TcpListener
    from ngxstream.event.loop import Loop

SLOTS: Final = (1, 2)  # a session may take (stream/core.py)
READ_MS: Final = 50  # a waiting worker reads within this, whatever else it has to do


def make() -> dict[int, int]:
    """Make, before the fork, a descriptor for each number of slots. Raises: OSError"""
    made: dict[int, int] = {}
    try:
        for slots in SLOTS:
            made[slots] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    except OSError:
        close(made)
        raise
    return made


def close(made: dict[int, int]) -> None:
    """Close this process's copies of what make() returned, and forget them."""
    while made:
        os.close(made.popitem()[1])


class Relay:
    """One worker's part in it, for the listeners whose sessions take the same number of slots."""

    __slots__ = ("_fd", "_full", "_listeners", "_loop", "_passed_ms", "_watched")

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._listeners: set[TcpListener] = set()
        self._full: set[TcpListener] = set()
        self._passed_ms = -1  # when it passed one on, until it was asked what became of it
        self._watched = False

    def join(self, listener: TcpListener) -> None:
        """Look at a listener, which has free slots, whenever a wake-up is passed on."""
        self._listeners.add(listener)
        self._full.discard(listener)
        self._watch()

    def leave(self, listener: TcpListener, *, full: bool = False) -> None:
        """Look at it no more: it is closed, or full and comes back."""
        self._listeners.discard(listener)
        self._full.discard(listener)
        if full:
            self._full.add(listener)
        self._watch()

    def pass_on(self) -> None:
        """Have another worker look at its listeners."""
        if self._passed_ms < 0:
            self._passed_ms = self._loop.now_ms
        os.eventfd_write(self._fd, 1)

    def is_unread(self) -> bool:
        """Tell whether no worker had slots for what was passed on; it is taken back then."""
        passed_ms = self._passed_ms
        if passed_ms < 0 or self._loop.now_ms - passed_ms < READ_MS:
            return False
        self._passed_ms = -1
        return self._take()

    def on_readable(self, mask: int) -> None:
        """Look at all listeners for another worker's client."""
        if self._take():
            for listener in self._listeners:
                self._loop.post(listener.look)

    def _take(self) -> bool:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False  # another worker was faster
        return True

    def _watch(self) -> None:
        wanted = bool(self._listeners) and not self._full
        if wanted == self._watched:
            return
        self._watched = wanted
        if wanted:
            self._loop.register(self._fd, self.on_readable, poller.LEVEL | poller.EXCLUSIVE)
        else:
            self._loop.unregister(self._fd)
