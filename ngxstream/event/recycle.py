"""Upstream UDP sockets that serve one session after another, each time from a new port.

A session of one question and one answer pays more for its socket than for its datagrams:
socket(), epoll_ctl() and close() cost 7 of the 11 µs that a new connected socket takes (Linux
6.18). What makes a socket a session's own is not the descriptor but the port, and the port can be
given back without the descriptor: connect(2) to AF_UNSPEC dissolves the association, and the
kernel takes a socket that it had bound by itself off its port.

Why no answer can reach another client
--------------------------------------
1. The port is given up when the session ends. From then on the kernel finds no socket for a late
   or doubled answer and says "port unreachable", exactly as after close().
2. While it rests, the socket has no port, so nothing can be queued on it.
3. What was queued before is read and thrown away before the socket is used again. A resting
   socket stays in the poller's set, level-triggered: what it holds is reported by the next poll and
   thrown away in that turn. One that has rested through a whole turn is empty, and is not asked;
   one that has not is read until it is empty, where there are no descriptors for a new one.
4. The next connect() binds a port that the kernel draws as it does for a new socket. An answer to
   an old port reaches a new session only if the kernel draws that very port again, which is as
   likely as with a socket closed and opened: nothing can tell the difference.

A socket bound by the configuration (proxy_bind) keeps its port through AF_UNSPEC, and one with
options of its own is not like the others: neither is recycled.
"""

from __future__ import annotations

import ctypes
import functools
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

IDLE_LIMIT: Final = 1024  # resting sockets of a worker, both families together
MOST_READS: Final = 1024  # of what a session has left in one
_UNSPEC: Final = bytes(16)  # struct sockaddr with sa_family AF_UNSPEC

# the socket module has no way to spell an AF_UNSPEC address
_connect: Final = ctypes.PyDLL(None).connect


class SocketPool:
    """The resting UDP sockets of a worker."""

    __slots__ = ("_loop", "_idle", "_count", "limit")

    def __init__(self, loop: Loop, limit: int = IDLE_LIMIT) -> None:
        self._loop = loop
        self._idle: dict[int, deque[tuple[socket.SocketType, int, int]]] = {
            socket.AF_INET: deque(),  # socket, fd, Loop.turns
            socket.AF_INET6: deque(),
        }
        self._count = 0
        self.limit = limit

    def take(self, family: int, *, rested: bool = False) -> socket.SocketType | None:
        """Return an unconnected, empty socket, or None where there is none.

        Its fd is watched still (level-triggered): registering it replaces the handler.

        Args: rested: Only one that need not be asked whether it is empty. # hot: asking costs 1.5
        of the 27 µs of a session, so a new socket is cheaper after its first few uses (2026-11)
        """
        idle = self._idle.get(family)
        if not idle:
            return None
        is_fresh = idle[0][2] + 2 > self._loop.turns
        if is_fresh and rested:
            return None
        sock, _, _ = idle.popleft()
        self._count -= 1
        if is_fresh and not self._empty(sock):
            self._loop.close_later(sock)
            return None
        return sock

    def take_rested(self, family: int) -> tuple[socket.SocketType, int] | None:
        """Return a rested socket and its fd. # hot: as take(), for a session that begins"""
        idle = self._idle.get(family)
        if not idle:
            return None
        sock, fd, turn = idle[0]
        if turn + 2 > self._loop.turns:
            return None
        idle.popleft()
        self._count -= 1
        return sock, fd

    def give(self, sock: socket.SocketType, fd: int, family: int) -> bool:
        """Take a session's socket for a rest. Returns: False when it is to be closed instead

        That is one that is not watched, too: its session has ended before it was. Nobody who takes
        it would hear of an answer.
        """
        loop = self._loop
        if (
            self._count >= self.limit
            or fd not in loop.handlers
            or _connect(fd, _UNSPEC, len(_UNSPEC)) != 0
        ):
            return False
        loop.handlers[fd] = functools.partial(self._drain, sock)
        self._idle[family].append((sock, fd, loop.turns))
        self._count += 1
        return True

    def drop(self) -> bool:
        """Close a resting socket at the end of the turn. Returns: whether there was one"""
        for idle in self._idle.values():
            if idle:
                sock, _, _ = idle.popleft()
                self._count -= 1
                self._loop.close_later(sock)
                return True
        return False

    def _drain(self, sock: socket.SocketType, mask: int) -> None:
        """Throw away what a former session left in its socket."""
        self._empty(sock)

    def _empty(self, sock: socket.SocketType) -> bool:
        """Throw away what is in a socket. Returns: whether it is empty now"""
        receive, slot = sock.recv_into, self._loop.view
        for _ in range(MOST_READS):
            try:
                receive(slot)
            except BlockingIOError:
                return True
            except OSError:
                pass  # an ICMP error of the former session: reading it clears it
        return False

    def close(self) -> None:
        """Close what rests."""
        for idle in self._idle.values():
            while idle:
                sock, fd, _ = idle.popleft()
                self._loop.poller.forget(fd)
                sock.close()
        self._count = 0

    def __len__(self) -> int:
        return self._count
