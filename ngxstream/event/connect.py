"""Connecting to a peer: socket, options, bind, connect, in nginx's order.

Answers for ngx_event_connect_peer (src/event/ngx_event_connect.c). This is the seam where the
errno of a failed attempt becomes a PeerError (the next peer may be tried) or an InternalError
(it may not: nothing is wrong with the peer).
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, inet
from ngxstream.event.connection import raw_socket

if TYPE_CHECKING:
    from ngxstream.core.inet import SockAddr
    from ngxstream.event.connection import Stream


# plain ints: an enum's `|` costs as much as a small system call, and more to pass than an int
TCP: Final = int(socket.IPPROTO_TCP)
NODELAY: Final = int(socket.TCP_NODELAY)
STREAM: Final = int(socket.SOCK_STREAM)
DGRAM: Final = int(socket.SOCK_DGRAM)
UNIX: Final = int(socket.AF_UNIX)
NONBLOCK: Final = int(socket.SOCK_NONBLOCK)
IP_BIND_ADDRESS_NO_PORT: Final = 24
IP_TRANSPARENT: Final = 19
IPV6_TRANSPARENT: Final = 75
ALL_PORTS: Final = range(1, 65536)
_AT_ONCE: Final = struct.pack("=ii", 1, 0)  # struct linger: close() resets

# errnos of an unreachable peer: logged as error; the others are crit
_PEER_ERRNOS: Final = frozenset({
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EAGAIN,  # the last: a Unix peer's backlog is full
})
_BEGUN: Final = frozenset((0, errno.EINPROGRESS))


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """What a configuration asks of the sockets towards its peers; sizes in bytes."""

    rcvbuf: int = 0
    sndbuf: int = 0
    keepalive: bool = False
    plain: bool = field(init=False)  # there is nothing to set

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain", not (self.rcvbuf or self.sndbuf or self.keepalive))


PLAIN: Final = PeerOptions()


class ConnectError(errors.PeerError):
    """connect() failed"""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, errno=code)
        self.level = "error" if code in _PEER_ERRNOS else "crit"


class BindError(errors.InternalError):
    """bind() failed"""

    level = "crit"


def connect_peer(family: int, kind: int, sockaddr: SockAddr, name: str,
                 options: PeerOptions = PLAIN, local: SockAddr | None = None,
                 transparent: bool = False,
                 drawn: range = ALL_PORTS) -> tuple[socket.SocketType, bool]:
    """Begin a connection.

    Args: kind: SOCK_STREAM or SOCK_DGRAM; name: The peer as logged; local: What to bind to, port 0
    for any; drawn: ephemeral_ports(). Returns: (bare non-blocking socket, connected already)
    Raises: ConnectError (try the next peer), BindError, InternalError (do not)
    """
    sock = open_bound(family, kind, options, local, transparent=transparent)
    try:
        code = sock.connect_ex(sockaddr)
    except OSError as error:  # an address the family cannot have
        sock.close()
        raise errors.InternalError("connecting to upstream failed", errno=error) from None
    if code in _BEGUN:
        # hot: asking costs 1.2 of the 72 µs of a session (2026-11)
        may_be_own = family != UNIX and (local is not None or sockaddr[1] in drawn)
        if may_be_own and is_own(sock, sockaddr):
            _let_go(sock, kind)
            raise refused(name)
        return sock, code == 0
    sock.close()
    if transparent and local is not None:
        raise transparent_error(f"connect() to {name}", local, code)
    raise ConnectError(f"connect() to {name} failed", code)


def connect_plainly(family: int, sockaddr: SockAddr, name: str,
                    drawn: range) -> tuple[socket.SocketType, bool]:
    """Begin a TCP connection from no address in particular, with no options.

    # hot: as connect_peer(), in one function

    Args: family: no Unix one; the others, Returns and Raises: as connect_peer()
    """
    try:
        sock = raw_socket(family, STREAM | NONBLOCK)
    except OSError as error:
        raise errors.InternalError("socket() failed", errno=error) from None
    try:
        code = sock.connect_ex(sockaddr)
    except OSError as error:  # an address the family cannot have
        sock.close()
        raise errors.InternalError("connecting to upstream failed", errno=error) from None
    if code not in _BEGUN:
        sock.close()
        raise ConnectError(f"connect() to {name} failed", code)
    if sockaddr[1] in drawn and is_own(sock, sockaddr):
        _let_go(sock, STREAM)
        raise refused(name)
    return sock, not code


def _let_go(sock: socket.SocketType, kind: int) -> None:
    """Close a socket that is connected to itself."""
    if kind == STREAM:  # no TIME_WAIT, which would hold the port as well
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    sock.close()


def set_nodelay(sock: Stream, family: int) -> None:
    """Have what is sent on a connection wait for no more (TCP_NODELAY), where it is one of TCP."""
    if family != UNIX:
        try:
            sock.setsockopt(TCP, NODELAY, 1)
        except OSError:
            pass  # the other end is gone already: whoever reads or sends next is told


def is_own(sock: socket.SocketType, sockaddr: SockAddr) -> bool:
    """Tell whether a socket, no Unix one, is connected to itself.

    Where nobody listens at a port of this host the kernel may draw that port for the socket, once
    in some 28 000 times. The client would be answered by what it sent, and the server could not
    come back to its port while the session lasts.
    """
    own = sock.getsockname()
    return bool(own[1] == sockaddr[1] and own[0] == sockaddr[0])


def ephemeral_ports(_: object) -> range:
    """Return the ports that the kernel draws (ip_local_port_range); all if it does not say."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            lowest, highest = map(int, file.read().split())
    except (OSError, ValueError):
        return ALL_PORTS
    return range(lowest, highest + 1)


def refused(name: str) -> ConnectError:
    """Return the error of a peer that is not there."""
    return ConnectError(f"connect() to {name} failed", errno.ECONNREFUSED)


def open_bound(family: int, kind: int, options: PeerOptions, local: SockAddr | None, *,
               transparent: bool) -> socket.SocketType:
    """Return a bare non-blocking socket with its options, bound if there is an address to bind to.

    Raises: BindError, InternalError
    """
    try:
        sock = raw_socket(family, kind | NONBLOCK)
    except OSError as error:
        raise errors.InternalError("socket() failed", errno=error) from None
    try:
        if not options.plain:
            _set_options(sock, kind, options)
        if local is not None:
            _bind(sock, family, kind, local, transparent)
    except OSError as error:  # an option refused
        sock.close()
        raise errors.InternalError("connecting to upstream failed", errno=error) from None
    except errors.NgxError:
        sock.close()
        raise
    return sock


def transparent_error(what: str, local: SockAddr, code: int) -> errors.NgxError:
    """Make the error of a connect() or sendto() that failed from a client's address."""
    text = f"{what} from {inet.sock_ntop(local)} failed"
    if code == errno.EADDRNOTAVAIL and inet.port_of(local):
        # nothing is wrong with the peer
        return BindError(f"{text}: this client has such a connection already", errno=code)
    if code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        text += ": no route"
    return ConnectError(text, code)


def _set_options(sock: socket.SocketType, kind: int, options: PeerOptions) -> None:
    if options.rcvbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.rcvbuf)
    if options.sndbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.sndbuf)
    if options.keepalive and kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _bind(sock: socket.SocketType, family: int, kind: int, local: SockAddr,
          transparent: bool) -> None:
    if transparent:
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        except OSError as error:
            option = "IPV6_TRANSPARENT" if family == socket.AF_INET6 else "IP_TRANSPARENT"
            why = ": CAP_NET_RAW is missing" if error.errno == errno.EPERM else ""
            raise BindError(f"setsockopt({option}) failed{why}", errno=error) from None
    if family != socket.AF_UNIX:
        if local[1]:
            # of a client's TCP port too: it may lead to several servers, and be used again
            # while an earlier connection is in TIME_WAIT; connect() sees to it that none is doubled
            if kind == socket.SOCK_DGRAM or transparent:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        sock.bind(local)
    except OSError as error:
        text = inet.sock_ntop(local) if inet.port_of(local) else inet.host_of(local)
        why = ""
        if error.errno == errno.EACCES and family != socket.AF_UNIX:
            why = ": CAP_NET_BIND_SERVICE is missing"
        raise BindError(f"bind({text}) failed{why}", errno=error) from None
