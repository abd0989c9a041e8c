"""UDP sockets bound to clients' own addresses, kept between datagrams that are not answered here.

With direct server return a datagram is sent on from the client's address and forgotten. Making
and closing a socket for each would cost several times what the datagram does, so one socket is
kept for each client: bounded in number (the one unused longest gives way), and aged out.

The sockets are not connected. That one of them serves every server is the lesser reason. Linux
finds the connected socket of a packet before it routes it (early demux), and a packet that has a
socket is not forwarded: answers on their way through this host to the client would be dropped.

Nothing is received: a filter drops what would be queued.
"""

from __future__ import annotations

import array
import socket
import struct
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.event import connect

if TYPE_CHECKING:
    from ngxstream.core.inet import SockAddr
    from ngxstream.event.loop import Loop

SO_ATTACH_FILTER: Final = 26
KEEP_MS: Final = 30_000  # unused for that long, a socket goes
SHARE: Final = 4  # one in so many of worker_connections may be one of these
LEAST: Final = 16


@dataclass(slots=True)
class _Kept:
    sock: socket.SocketType
    used_ms: int  # loop ms


class ClientSockets:
    """A worker's sockets that send from clients' addresses."""

    __slots__ = ("_loop", "_kept", "_is_sweeping", "limit", "made")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        # sockaddr, with the options if there are any ; the latest used is the last
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._is_sweeping = False
        self.limit = max(LEAST, loop.connections // SHARE)
        self.made = 0

    def get(self, family: int, sockaddr: SockAddr,
            options: connect.PeerOptions) -> socket.SocketType:
        """Return a client's socket, made if needed. Raises: BindError, InternalError"""
        kept = self._kept
        key = sockaddr if options.plain else (sockaddr, options)
        found = kept.get(key)
        if found is not None:
            found.used_ms = self._loop.now_ms
            kept.move_to_end(key)
            return found.sock
        sock = connect.open_bound(family, socket.SOCK_DGRAM, options, sockaddr, transparent=True)
        _receive_nothing(sock)
        if len(kept) >= self.limit:
            kept.popitem(last=False)[1].sock.close()
        kept[key] = _Kept(sock, self._loop.now_ms)
        self.made += 1
        if not self._is_sweeping:
            self._is_sweeping = True
            self._loop.call_later(KEEP_MS, self._sweep, cancelable=True)
        return sock

    def _sweep(self) -> None:
        """Close what was not used for long; come back while there is anything."""
        latest = self._loop.now_ms - KEEP_MS
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if oldest.used_ms > latest:
                self._loop.call_later(oldest.used_ms - latest, self._sweep, cancelable=True)
                return
            self._kept.popitem(last=False)[1].sock.close()
        self._is_sweeping = False

    def close(self) -> None:
        """Close all."""
        while self._kept:
            self._kept.popitem()[1].sock.close()

    def __len__(self) -> int:
        return len(self._kept)


def _receive_nothing(sock: socket.SocketType) -> None:
    """Have the kernel drop whatever comes for a socket."""
    program = array.array("B", struct.pack("=HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K, 0 bytes
    address, _ = program.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, address))
