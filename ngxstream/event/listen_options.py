"""An address that is listened at, as the configuration has it (ngx_stream_listen_t)."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

from ngxstream.core import inet

BACKLOG: Final = 511  # NGX_LISTEN_BACKLOG on Linux


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """What a `listen` directive says of one address.

    Attributes: sockaddr as the socket module takes it for the family (a path for AF_UNIX); text as
    nginx prints it; sizes in bytes, None for what is left to the system; keepalive is "on", "off"
    or (idle s, interval s, count) with 0 for the system's; `set` tells that an option was given
    that one address may have once, `bind` that the address has a socket of its own.
    Source: ngx_stream_listen_t
    """

    family: int
    socktype: int
    sockaddr: inet.SockAddr
    text: str
    wildcard: bool = False
    set: bool = False
    bind: bool = False
    default_server: bool = False
    ssl: bool = False
    proxy_protocol: bool = False
    proxy_protocol_first: bool = False  # UDP: only the first datagram of a session has the header
    backlog: int = BACKLOG
    rcvbuf: int | None = None
    sndbuf: int | None = None
    fastopen: int | None = None
    deferred: bool = False
    ipv6only: bool | None = None
    reuseport: bool = False
    multipath: bool = False
    keepalive: str | tuple[int, int, int] | None = None
    nodelay: bool = False  # accepted sockets have TCP_NODELAY from the listening one

    @property
    def path(self) -> str | bytes:
        """The address of a Unix socket."""
        assert not isinstance(self.sockaddr, tuple)
        return self.sockaddr

    @property
    def key(self) -> tuple[int, int, inet.SockAddr]:
        """What makes two addresses the same."""
        return self.socktype, self.family, self.sockaddr

    @property
    def port_key(self) -> tuple[int, int, int]:
        """What addresses have in common that one wildcard socket can serve."""
        return self.socktype, self.family, inet.port_of(self.sockaddr)

    @property
    def is_udp(self) -> bool:
        """Tell whether it is for datagrams."""
        return self.socktype == socket.SOCK_DGRAM

    @property
    def is_group(self) -> bool:
        """Tell whether every worker has a socket of its own."""
        return self.family != socket.AF_UNIX and (self.is_udp or self.reuseport)
