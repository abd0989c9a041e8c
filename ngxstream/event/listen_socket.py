"""One listening socket: made, bound, set to listen, tuned.

Answers for the inner part of ngx_open_listening_sockets and ngx_configure_listening_sockets
(src/core/ngx_connection.c); which sockets there are is the business of listening.py.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, inet
from ngxstream.core import log as logs
from ngxstream.event import bound, steering

if TYPE_CHECKING:
    from ngxstream.event.listen_options import ListenOptions

IPPROTO_MPTCP: Final = 262
IP_PKTINFO: Final = 8
SO_REUSEADDR: Final = (socket.SOL_SOCKET, socket.SO_REUSEADDR)
SO_REUSEPORT: Final = (socket.SOL_SOCKET, socket.SO_REUSEPORT)


class InUseError(OSError):
    """The address is in use."""


def _failed(what: str, options: ListenOptions, error: OSError) -> errors.ListenError:
    return errors.ListenError(f"{what} {options.text} failed", errno=error)


def make(options: ListenOptions) -> socket.socket:
    """Make an unbound socket. Raises: ListenError"""
    protocol = IPPROTO_MPTCP if options.multipath else 0
    try:
        sock = socket.socket(options.family, options.socktype | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        raise _failed("socket()", options, error) from None
    return sock


def bind(sock: socket.socket, options: ListenOptions, first: socket.socket | None,
         own: bound.Neighbours, *, replaces: bool = False, test: bool = False) -> None:
    """Bind by the rules of the address's kind.

    Args: first: The socket of the group that is joined, None where there is none; own knows
    the sockets that are ours; replaces tells that a socket of another protocol is at the
    address still. Raises: InUseError, ListenError
    """
    sockaddr = options.sockaddr if first is None else first.getsockname()
    exclusive = options.is_udp and first is None
    if not options.is_udp:
        _set(sock, SO_REUSEADDR, 1, "setsockopt(SO_REUSEADDR)", options)
    if replaces or (options.is_group and not exclusive and not test):
        _set(sock, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)
    if options.family == socket.AF_INET6:
        only = options.ipv6only is not False
        _set(
            sock, (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), only, "setsockopt(IPV6_V6ONLY)",
            options,
        )
    try:
        _bind_to(sock, options, sockaddr)
    except InUseError:
        if test or not exclusive or not isinstance(sockaddr, tuple):
            raise
        if not own.alone_block(sockaddr):
            raise
        # only sockets of ours conflict: a wildcard and an address of one port
        _set(sock, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)
        _bind_to(sock, options, sockaddr)
    if options.family == socket.AF_UNIX:
        _open_path(options, test)
    elif exclusive and not test:
        _set(sock, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)


def _bind_to(sock: socket.socket, options: ListenOptions, sockaddr: inet.SockAddr) -> None:
    try:
        sock.bind(sockaddr)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InUseError(error.errno, error.strerror) from None
        raise _failed("bind() to", options, error) from None


def _open_path(options: ListenOptions, test: bool) -> None:
    """Let everybody connect to a Unix socket; a test leaves none behind."""
    path = options.path
    if is_abstract(path):
        return
    try:
        os.chmod(path, 0o666)
    except OSError as error:
        raise errors.ListenError(f'chmod() "{os.fsdecode(path)}" failed', errno=error) from None
    if test:
        try:
            os.unlink(path)
        except OSError as error:
            raise errors.ListenError(f"unlink() {os.fsdecode(path)} failed", errno=error) from None


def is_abstract(path: str | bytes) -> bool:
    """Tell whether a Unix address is no path in the file system."""
    return path[:1] in ("\0", b"\0")


def listen(sock: socket.socket, options: ListenOptions) -> None:
    """Begin to queue connections. Raises: ListenError"""
    try:
        sock.listen(options.backlog)
    except OSError as error:
        raise errors.ListenError(
            f"listen() to {options.text}, backlog {options.backlog} failed", errno=error
        ) from None


def _set(sock: socket.socket, option: tuple[int, int], value: int, what: str,
         options: ListenOptions) -> None:
    try:
        sock.setsockopt(*option, value)
    except OSError as error:
        raise _failed(what, options, error) from None


def allow_joining(sock: socket.socket, options: ListenOptions) -> None:
    """Let others join the address of an open socket."""
    if not sock.getsockopt(*SO_REUSEPORT):
        _set(sock, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)


def found_group(socks: Sequence[socket.socket], options: ListenOptions) -> None:
    """Make the group of a UDP address and steer everything to its first socket.

    Sockets that join later get nothing before Listening.steer() says so. A lone socket has no
    group that a program could be attached to: a passing second one founds it.
    """
    if len(socks) != 1:
        return
    first = socks[0]
    with make(options) as second:
        _set(second, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)
        if options.family == socket.AF_INET6:
            only = first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        try:
            second.bind(first.getsockname())
            steering.attach(first, 1)
        except OSError:
            return  # a kernel without the option: Listening.steer() will say so


def tune(sock: socket.socket, options: ListenOptions, before: ListenOptions | None,
         log: logs.Log) -> None:
    """Set the options of an open socket; what fails is logged as an [alert] and left so.

    Args: before: What an adopted socket was opened with, None for a new one
    Source: ngx_configure_listening_sockets, whose order this is
    """

    def attempt(level: int, name: int, value: int, what: str) -> None:
        try:
            sock.setsockopt(level, name, value)
        except OSError as error:
            log.error(logs.ALERT, f"setsockopt({what}) {options.text} failed, ignored", error)

    if options.rcvbuf is not None:
        attempt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.rcvbuf, f"SO_RCVBUF, {options.rcvbuf}")
    if options.sndbuf is not None:
        attempt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.sndbuf, f"SO_SNDBUF, {options.sndbuf}")
    if options.is_udp:
        if options.wildcard and options.family == socket.AF_INET:
            attempt(socket.IPPROTO_IP, IP_PKTINFO, 1, "IP_PKTINFO")
        elif options.wildcard and options.family == socket.AF_INET6:
            attempt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO")
        return
    if options.family != socket.AF_UNIX:
        nodelay = options.nodelay
        attempt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay, f"TCP_NODELAY, {nodelay:d}")
    keepalive = options.keepalive
    if keepalive is not None:
        on = keepalive != "off"
        attempt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, on, f"SO_KEEPALIVE, {on:d}")
        if isinstance(keepalive, tuple):
            for word, value in zip(("IDLE", "INTVL", "CNT"), keepalive, strict=True):
                if value:
                    name = getattr(socket, f"TCP_KEEP{word}")
                    attempt(socket.IPPROTO_TCP, name, value, f"TCP_KEEP{word}, {value}")
    if options.fastopen is not None:
        attempt(
            socket.IPPROTO_TCP, socket.TCP_FASTOPEN, options.fastopen,
            f"TCP_FASTOPEN, {options.fastopen}",
        )
    if before is not None and before.backlog != options.backlog:
        try:
            sock.listen(options.backlog)
        except OSError as error:
            log.error(
                logs.ALERT,
                f"listen() to {options.text}, backlog {options.backlog} failed, ignored",
                error,
            )
    if options.deferred != (before is not None and before.deferred):
        value = int(options.deferred)  # seconds
        attempt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, value, f"TCP_DEFER_ACCEPT, {value}")
