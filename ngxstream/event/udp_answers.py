"""Answers to the clients of a UDP listener: from the address they used, waiting where need be."""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from ngxstream.event import drops, poller, udp_clients

if TYPE_CHECKING:
    from ngxstream.event.connection import Connection
    from ngxstream.event.udp import UdpListener

IP_PKTINFO: Final = 8  # socket has no name for it
QUEUED: Final = 256  # datagrams waiting for room in the socket, for all clients of a listener

Control = list[tuple[int, int, bytes]]


class Answers:
    """What leaves by one listening socket."""

    __slots__ = ("_listener", "queue")

    def __init__(self, listener: UdpListener) -> None:
        self._listener = listener
        self.queue: deque[tuple[Connection, bytes]] = deque()

    def control_for(self, c: Connection) -> Control | None:
        """Return the control data that answers from the address the client used."""
        if not self._listener.pktinfo or c.local is None:
            return None
        host = udp_clients.local_of(c.key)
        if len(host) == 4:
            return [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, host, bytes(4)))]
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16sI", host, 0))]

    def send_to(self, c: Connection, data: bytes) -> int:
        """Send a datagram, or queue it (up to a bound) if the buffer is full; return its size."""
        listener = self._listener
        if not self.queue:
            try:
                return self._send(c, data)
            except BlockingIOError:
                loop = listener.loop
                loop.poller.remove(listener.fd)
                loop.register(listener.fd, self.on_room, poller.IN | poller.OUT)
        if len(self.queue) >= QUEUED:
            listener.lost.drop(drops.ANSWER)
            raise BlockingIOError
        self.queue.append((c, bytes(data)))
        return len(data)

    def _send(self, c: Connection, data: bytes) -> int:
        peer = udp_clients.peer_of(c.key)
        control = self.control_for(c)
        sock = self._listener.sock
        if control is None:
            return int(sock.sendto(data, peer))
        return int(sock.sendmsg((data,), control, 0, peer))

    def on_room(self, mask: int) -> None:
        """Send what waits, then let the listener have the socket back."""
        queue, listener = self.queue, self._listener
        while queue:
            c, data = queue.popleft()
            try:
                self._send(c, data)
            except BlockingIOError:
                queue.appendleft((c, data))
                break
            except OSError:
                listener.lost.drop(drops.ANSWER)  # this client's path failed; the others' go on
            except Exception:
                listener.loop.fault(None)
        else:
            if listener.open:
                listener.loop.poller.remove(listener.fd)
                listener.watch()
            else:
                listener.loop.unregister(listener.fd)
        if mask & poller.IN and listener.open:
            listener.choose()(mask)
