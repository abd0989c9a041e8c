"""Connection: what there is to know of a client's socket. It never decides; owners do.

Answers for ngx_connection_t (src/core/ngx_connection.h), client side.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from ngxstream.core import codes

if TYPE_CHECKING:
    from ngxstream.core.inet import SockAddr
    from ngxstream.event.drops import Drops
    from ngxstream.event.listening import Listening
    from ngxstream.event.recycle import SocketPool
    from ngxstream.event.tls import Transport
    from ngxstream.event.udp_clients import Sink

    Stream: TypeAlias = socket.SocketType | Transport  # connected; a TLS transport has its methods


class Table(Protocol):
    """Where a UDP client is listed, so that its datagrams find their session (event/udp.py)."""

    family: int
    sock: Any  # the listening socket
    table: dict[Any, Sink]
    listening: Listening
    sockets: SocketPool  # towards the servers of its clients
    lost: Drops

    def send_to(self, c: Connection, data: bytes, /) -> int:
        """Send one datagram to the client."""

    def control_for(self, c: Connection, /) -> list[tuple[int, int, bytes]] | None:
        """Return the control data that an answer to the client carries."""

    def again(self, c: Connection, views: list[memoryview], /) -> None:
        """Take datagrams of a client that its session kept before it was ready for any."""

    def give(self, c: Connection, views: list[memoryview]) -> list[memoryview]:
        """Give a session datagrams of its client. Returns: what it does not want"""

    def enlist(self, c: Connection, sink: Sink) -> None:
        """Send a client's datagrams to a sink from now on."""

    def go_on(self, c: Connection, run: Callable[[], None]) -> None:
        """Run a session on that took its client's datagrams until now; it lists itself anew."""

    def forget(self, c: Connection) -> None:
        """Take the client out."""

    def rename(self, c: Connection, key: Any, tag: bytes, sink: Sink) -> None:
        """Know the client by another key from now on."""

    def take_apart(self, key: Any, view: memoryview) -> None:
        """Give a datagram to the session of a key that it does not come by, or begin that."""

    def kept_for(self, c: Connection) -> list[bytes]:
        """Return what came from a client while its session was not ready."""


class Connection:
    """A client: TCP with a socket of its own, UDP behind the listening socket."""

    __slots__ = (
        "sock",  # socket (raw `_socket`), or a TLS transport; UDP: the listening socket
        "fd",  # int: of sock
        "is_udp",  # bool
        "family",  # int: of sockaddr
        "sockaddr",  # client's address as the socket module gives it; after realip the real one
        "local",  # sockaddr | None: the address the client used, once known
        "number",  # int: $connection
        "received",  # int: bytes from the client
        "sent",  # int: bytes to the client
        "listening",  # Listening it came in by
        "table",  # Table | None: of a UDP client while it is listed or can be answered
        "key",  # what the table knows it by
        "placed",  # bool: UDP: its session is listed, or wants no more than its first datagram
        "closed",  # bool: owned by Loop.close_connection
        "passes",  # int: how often `pass` has handed it on
        "reserved",  # int: slots it holds for what its session will connect to
    )

    def __init__(self, sock: Stream, fd: int, family: int, sockaddr: SockAddr, number: int,
                 listening: Listening, table: Table | None = None, key: Any = None,
                 reserved: int = 0) -> None:
        """Args: table, key: of a UDP client, behind the listening socket `sock`"""
        self.sock = sock
        self.fd = fd
        self.is_udp = table is not None
        self.family = family
        self.sockaddr = sockaddr
        self.local: SockAddr | None = None
        self.number = number
        self.received = 0
        self.sent = 0
        self.listening = listening
        self.table = table
        self.key = key
        self.placed = False
        self.closed = False
        self.passes = 0
        self.reserved = reserved

    def local_sockaddr(self) -> SockAddr:
        """Return the address the client connected to. Source: ngx_connection_local_sockaddr"""
        local = self.local
        if local is None:
            options = self.listening.options
            if options.wildcard and not self.is_udp:
                try:
                    local = self.sock.getsockname()
                except OSError:
                    local = options.sockaddr
            else:
                local = options.sockaddr
            self.local = local
        return local

    def send(self, data: bytes | memoryview) -> int:
        """Send off the hot path, without waiting. Returns: bytes sent, or AGAIN. Raises: OSError"""
        try:
            if self.table is not None:
                sent = self.table.send_to(self, bytes(data))
            else:
                sent = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return codes.AGAIN
        self.sent += sent
        return sent


# a socket of the bare C class of (family, kind), or (family, kind, 0, fd) of a descriptor, which
# is not checked: 3 µs less than socket.socket, which wraps enums
raw_socket: Final = socket.SocketType
