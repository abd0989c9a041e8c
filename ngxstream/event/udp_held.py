"""Datagrams that a UDP listener reads and keeps while sessions change hands.

nginx has no counterpart. The socket belongs to the master; who reads it changes at a reload. A
listener that will take over holds what comes: the kernel's queue, which is small, does not run over
while the sessions are on their way. Past a bound it reads no more, and the kernel holds the rest.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import datagram, drops

if TYPE_CHECKING:
    from ngxstream.event.udp import UdpListener

DATAGRAMS: Final = 65_536
BYTES: Final = 64 << 20
READ: Final = 256  # in a turn
# key, peer, packed local address | None, datagram
OneHeld = tuple[Any, Any, bytes | None, bytes]


class Held:
    """What one listener holds, in order."""

    __slots__ = ("_listener", "_size", "datagrams")

    def __init__(self, listener: UdpListener) -> None:
        self._listener = listener
        self._size = 0
        self.datagrams: deque[OneHeld] = deque()

    def on_readable(self, mask: int) -> None:
        """Keep what came; what is another worker's is passed on at once."""
        listener = self._listener
        view = listener.loop.view
        for _ in range(READ):
            if self._is_full:
                listener.loop.poller.remove(listener.fd)
                listener.open = False
                return
            try:
                n, ancillary, _, peer = listener.sock.recvmsg_into(
                    (view,), datagram.ANCILLARY_SPACE
                )
            except BlockingIOError:
                return
            except OSError as error:
                listener.on_error(error)
                return
            local, size = datagram.facts(ancillary)
            key = (peer, local) if listener.pktinfo else peer
            for part in datagram.split(view[:n], size) if 0 < size < n else (view[:n],):
                pass_on = listener.pass_on
                if pass_on is None or not pass_on(listener, key, peer, part):
                    self.keep(key, peer, local, bytes(part))

    @property
    def _is_full(self) -> bool:
        return len(self.datagrams) >= DATAGRAMS or self._size >= BYTES

    def keep(self, key: Any, peer: Any, local: bytes | None, data: bytes) -> None:
        """Hold one datagram."""
        if self._is_full:
            self._listener.lost.drop(drops.HELD)
            return
        self.datagrams.append((key, peer, local, data))
        self._size += len(data)

    def take(self) -> list[OneHeld]:
        """Return, and forget, what is held."""
        found = list(self.datagrams)
        self.datagrams.clear()
        self._size = 0
        return found
