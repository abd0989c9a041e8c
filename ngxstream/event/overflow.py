"""Tells of datagrams that the kernel dropped at a listening socket whose receive buffer was full.

nginx has no counterpart. The count is the socket's own (SO_MEMINFO, Linux 4.12), so nothing is
asked for with each datagram: `look` is called where a drain did not come to the end of the queue.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

NOTICE: Final = 6
SO_MEMINFO: Final = 55  # socket has no name for it: nine numbers of 32 bits, the last is the drops
EVERY_MS: Final = 1000


def drops(sock: socket.socket) -> int:
    """Return how many datagrams a socket has dropped; 0 where the kernel does not say."""
    with contextlib.suppress(OSError, struct.error):
        return int(struct.unpack_from("=9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[8])
    return 0


class Overflow:
    """What one worker knows of the drops of one socket."""

    __slots__ = ("_due_ms", "_known", "_loop", "_sock", "_text")

    def __init__(self, loop: Loop, sock: socket.socket, text: str) -> None:
        """Begin with what was dropped until now. Args: text: the listening address in the log."""
        self._loop = loop
        self._sock = sock
        self._text = text
        self._known = drops(sock)
        self._due_ms = 0

    def look(self) -> None:
        """Say how many were dropped if it is more than before; once a second at most."""
        loop = self._loop
        if loop.now_ms < self._due_ms:
            return
        self._due_ms = loop.now_ms + EVERY_MS
        dropped = drops(self._sock)
        if dropped != self._known:
            self._known = dropped
            if loop.log.level >= NOTICE:
                loop.log.write(
                    NOTICE,
                    f"the receive buffer was full, server: {self._text}, datagrams dropped by the "
                    f'kernel so far: {dropped}, see the "rcvbuf" parameter of "listen"',
                )
