"""Listening sockets: opened by the master, adopted at a reload, inherited by the workers.

Answers for src/core/ngx_connection.c (ngx_open_listening_sockets, ngx_configure_listening_sockets)
and the listening part of ngx_init_cycle (src/core/ngx_cycle.c).

1. A set of listenings is opened beside the old one. What both have is the same socket; open()
   changes no socket option of it, configure() does, once the new set is meant.
2. TCP: one socket for all workers, or with `reuseport` one for each. UDP over IP: always one for
   each, in a group that steering.py directs, so that a client has one worker. Unix datagrams: one
   socket, served by worker 0 alone.
3. A group never loses a socket while its address is listened at: with fewer workers than before,
   what is queued in the surplus ones is read by worker number mod workers.
4. A UDP address that anybody else serves is in use: the first socket is bound without any reuse
   option (nginx's SO_REUSEADDR would let it steal the traffic), SO_REUSEPORT comes after.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ngxstream.core import errors
from ngxstream.core import log as logs
from ngxstream.event import bound, steering

BACKLOG: Final = 511  # NGX_LISTEN_BACKLOG on Linux
TRIES: Final = 5
RETRY_S: Final = 0.5
IPPROTO_MPTCP: Final = 262
IP_PKTINFO: Final = 8

SO_REUSEADDR = (socket.SOL_SOCKET, socket.SO_REUSEADDR)
SO_REUSEPORT = (socket.SOL_SOCKET, socket.SO_REUSEPORT)


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """What a `listen` directive says of one address.

    shape: sockaddr as the socket module takes it for the family (a path for AF_UNIX); text as
    nginx prints it; sizes in bytes, None for what is left to the system; keepalive is "on", "off"
    or (idle s, interval s, count) with 0 for the system's; `set` tells that an option was given
    that one address may have once, `bind` that the address has a socket of its own.
    source: ngx_stream_listen_t
    """

    family: int
    socktype: int
    sockaddr: Any
    text: str
    wildcard: bool = False
    set: bool = False
    bind: bool = False
    default_server: bool = False
    ssl: bool = False
    proxy_protocol: bool = False
    backlog: int = BACKLOG
    rcvbuf: int | None = None
    sndbuf: int | None = None
    fastopen: int | None = None
    deferred: bool = False
    ipv6only: bool | None = None
    reuseport: bool = False
    multipath: bool = False
    keepalive: str | tuple[int, int, int] | None = None

    @property
    def key(self) -> tuple[int, int, Any]:
        """What makes two addresses the same."""
        return self.socktype, self.family, self.sockaddr

    @property
    def port_key(self) -> tuple[int, int, int]:
        """What addresses have in common that one wildcard socket can serve."""
        port = self.sockaddr[1] if self.family != socket.AF_UNIX else 0
        return self.socktype, self.family, port

    @property
    def is_udp(self) -> bool:
        """Tell whether it is for datagrams."""
        return self.socktype == socket.SOCK_DGRAM

    @property
    def is_group(self) -> bool:
        """Tell whether every worker has a socket of its own."""
        return self.family != socket.AF_UNIX and (self.is_udp or self.reuseport)


class Listening:
    """An open listening address of one cycle. The sockets are shared with cycles before and after.

    source: ngx_listening_t
    """

    __slots__ = ("options", "socks", "opened", "previous")

    def __init__(self, options: ListenOptions, previous: Listening | None = None) -> None:
        self.options = options
        self.socks: list[socket.socket] = list(previous.socks) if previous else []
        self.opened: list[socket.socket] = []  # those of socks that this cycle opened
        self.previous = previous  # the adopted one, until configure()

    def __repr__(self) -> str:
        return f"<Listening {self.options.text} {[s.fileno() for s in self.socks]}>"

    def for_worker(self, worker: int, workers: int) -> list[socket.socket]:
        """Return the sockets that one of the workers reads, its own first.

        shape: worker is 0 <= worker < workers
        """
        options = self.options
        if options.is_group:
            return self.socks[worker::workers]
        if options.is_udp:
            return self.socks if worker == 0 else []
        # the others are left from a `reuseport` that was taken back: what they hold is accepted
        shared, *left = self.socks
        return [shared, *left[worker::workers]]

    def is_shared(self, sock: socket.socket) -> bool:
        """Tell whether several workers accept on one of the sockets (EPOLLEXCLUSIVE is for it)."""
        options = self.options
        return not options.is_group and not options.is_udp and sock is self.socks[0]

    def steer(self, workers: int, log: logs.Log) -> None:
        """Have the kernel hand every UDP client to its worker from now on."""
        if not (self.options.is_group and self.options.is_udp):
            return
        try:
            steering.attach(self.socks[0], workers)
        except OSError as error:
            log.error(
                logs.WARN,
                f"setsockopt(SO_ATTACH_REUSEPORT_CBPF) {self.options.text} failed, ignored",
                error,
            )


def open_all(
    wanted: Iterable[ListenOptions],
    old: Iterable[Listening],
    *,
    workers: int,
    log: logs.Log,
    test: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Listening]:
    """Open what is wanted, adopting what an old set (or an inherited one) has already.

    shape: workers counts the processes that will serve (1 without a master); with test (-t) an
    address in use is passed over, and nothing listens when this returns but Unix sockets are gone
    raises: ListenError; everything opened so far is closed again
    source: ngx_open_listening_sockets
    """
    adoptable = {listening.options.key: listening for listening in old}
    found = [Listening(options, adoptable.get(options.key)) for options in wanted]
    try:
        for _ in range(TRIES):
            failed = False
            for listening in found:
                if not _open(listening, found, adoptable.values(), workers, log, test):
                    failed = True
            if not failed:
                return found
            log.error(logs.NOTICE, "try again to bind() after 500ms")
            sleep(RETRY_S)
    except errors.ListenError:
        abandon(found)
        raise
    abandon(found)
    raise errors.ListenError("still could not bind()")


def _open(
    listening: Listening,
    found: Sequence[Listening],
    old: Iterable[Listening],
    workers: int,
    log: logs.Log,
    test: bool,
) -> bool:
    """Open the sockets one address still lacks. returns: False when it is in use, to be retried"""
    options = listening.options
    replaced = _protocol_change(listening)
    wanted = workers if options.is_group and not test else 1
    if replaced or (len(listening.socks) < wanted and listening.socks):
        for sock in listening.socks:
            _set_reuseport(sock, options)
    if replaced:
        listening.socks = []
        listening.previous = None
    while len(listening.socks) < wanted:
        sock = _socket(options)
        try:
            own = [sock for other in (*found, *old) for sock in other.socks]
            _bind(sock, listening, replaced, own, test)
            if not options.is_udp:
                _listen(sock, options)
        except _InUseError as error:
            sock.close()
            if test:
                return True
            log.error(logs.EMERG, f"bind() to {options.text} failed", error)
            return False
        except errors.ListenError:
            sock.close()
            raise
        listening.socks.append(sock)
        listening.opened.append(sock)
        if options.is_group and options.is_udp and not test:
            _found_group(listening)
    return True


def _protocol_change(listening: Listening) -> bool:
    """Tell whether adopted sockets have the wrong protocol: `multipath` came or went."""
    if listening.previous is None or listening.options.is_udp:
        return False
    if listening.options.family == socket.AF_UNIX:
        return False
    now = listening.previous.socks[0].proto == IPPROTO_MPTCP
    return now != listening.options.multipath


class _InUseError(OSError):
    """The address is in use."""


def _failed(what: str, options: ListenOptions, error: OSError) -> errors.ListenError:
    return errors.ListenError(f"{what} {options.text} failed", errno=error)


def _socket(options: ListenOptions) -> socket.socket:
    """Make an unbound socket. raises: ListenError"""
    protocol = IPPROTO_MPTCP if options.multipath else 0
    try:
        sock = socket.socket(options.family, options.socktype | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        raise _failed("socket()", options, error) from None
    sock.set_inheritable(False)
    return sock


def _bind(
    sock: socket.socket,
    listening: Listening,
    replaces: bool,
    own: Sequence[socket.socket],
    test: bool,
) -> None:
    """Bind by the rules of the address's kind. raises: _InUseError, ListenError"""
    options = listening.options
    joins = bool(listening.socks)
    sockaddr = listening.socks[0].getsockname() if joins else options.sockaddr
    exclusive = options.is_udp and not joins
    if not options.is_udp:
        _set(sock, SO_REUSEADDR, 1, "setsockopt(SO_REUSEADDR)", options)
    if replaces or (options.is_group and not exclusive and not test):
        _set(sock, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)
    if options.family == socket.AF_INET6:
        only = options.ipv6only is not False
        _set(
            sock,
            (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
            only,
            "setsockopt(IPV6_V6ONLY)",
            options,
        )
    try:
        _bind_to(sock, options, sockaddr)
    except _InUseError:
        if test or not exclusive or not options.is_group or not bound.only_by(own, sockaddr):
            raise
        # nobody but ourselves is in the way: a wildcard and an address of one port
        _set(sock, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)
        _bind_to(sock, options, sockaddr)
    if options.family == socket.AF_UNIX:
        _open_path(options, test)
    elif exclusive and not test:
        _set(sock, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)


def _bind_to(sock: socket.socket, options: ListenOptions, sockaddr: Any) -> None:
    try:
        sock.bind(sockaddr)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _InUseError(error.errno, error.strerror) from None
        raise _failed("bind() to", options, error) from None


def _open_path(options: ListenOptions, test: bool) -> None:
    """Let everybody connect to a Unix socket; a test leaves none behind."""
    path = options.sockaddr
    if _is_abstract(path):
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


def _is_abstract(path: str | bytes) -> bool:
    return path[:1] in ("\0", b"\0")


def _listen(sock: socket.socket, options: ListenOptions) -> None:
    try:
        sock.listen(options.backlog)
    except OSError as error:
        raise errors.ListenError(
            f"listen() to {options.text}, backlog {options.backlog} failed", errno=error
        ) from None


def _set(
    sock: socket.socket, option: tuple[int, int], value: int, what: str, options: ListenOptions
) -> None:
    try:
        sock.setsockopt(*option, value)
    except OSError as error:
        raise _failed(what, options, error) from None


def _set_reuseport(sock: socket.socket, options: ListenOptions) -> None:
    """Let others join the address of an open socket."""
    if not sock.getsockopt(*SO_REUSEPORT):
        _set(sock, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)


def _found_group(listening: Listening) -> None:
    """Make the group of a UDP address and steer everything to its first socket.

    Sockets that join later get nothing before steer() says so. A lone socket has no group that a
    program could be attached to: a passing second one founds it.
    """
    if len(listening.socks) != 1:
        return
    options, first = listening.options, listening.socks[0]
    with _socket(options) as second:
        _set(second, SO_REUSEPORT, 1, "setsockopt(SO_REUSEPORT)", options)
        if options.family == socket.AF_INET6:
            only = first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        try:
            second.bind(first.getsockname())
            steering.attach(first, 1)
        except OSError:
            return  # a kernel without the option: steer() will say so


# -- once the new set is meant -----------------------------------------------------------------


def configure(listenings: Iterable[Listening], *, workers: int, log: logs.Log) -> None:
    """Set the options of all sockets, and steer the groups.

    What fails is an [alert] and is lived with, as in nginx.
    source: ngx_configure_listening_sockets
    """
    for listening in listenings:
        previous = listening.previous
        for sock in listening.socks:
            fresh = sock in listening.opened
            _configure(sock, listening.options, None if fresh else previous, fresh, log)
        listening.steer(workers, log)


def _configure(
    sock: socket.socket,
    options: ListenOptions,
    previous: Listening | None,
    fresh: bool,
    log: logs.Log,
) -> None:
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
            socket.IPPROTO_TCP,
            socket.TCP_FASTOPEN,
            options.fastopen,
            f"TCP_FASTOPEN, {options.fastopen}",
        )
    if previous is not None and previous.options.backlog != options.backlog:
        try:
            sock.listen(options.backlog)
        except OSError as error:
            log.error(
                logs.ALERT,
                f"listen() to {options.text}, backlog {options.backlog} failed, ignored",
                error,
            )
    was_deferred = previous is not None and previous.options.deferred
    if options.deferred != was_deferred and (options.deferred or not fresh):
        value = int(options.deferred)
        attempt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, value, f"TCP_DEFER_ACCEPT, {value}")


def abandon(listenings: Iterable[Listening]) -> None:
    """Close what this set opened, and nothing else.

    The last that joined a group leaves first: the numbers of the others stay.
    """
    for listening in listenings:
        for sock in reversed(listening.opened):
            is_path = sock.family == socket.AF_UNIX and not _is_abstract(sock.getsockname())
            if is_path:
                _unlink(sock.getsockname())
            sock.close()
        listening.opened.clear()


def release(old: Iterable[Listening], new: Iterable[Listening], *, log: logs.Log) -> None:
    """Close what only the old set has, Unix sockets with their paths. source: ngx_init_cycle"""
    kept = {id(sock) for listening in new for sock in listening.socks}
    for listening in old:
        paths = []
        for sock in listening.socks:
            if id(sock) in kept or sock.fileno() < 0:
                continue
            if listening.options.family == socket.AF_UNIX:
                paths.append(listening.options.sockaddr)
            sock.close()
        for path in paths:
            if not _is_abstract(path):
                log.error(logs.WARN, f"deleting socket {os.fsdecode(path)}")
                error = _unlink(path)
                if error is not None:
                    log.error(logs.EMERG, f"unlink() {os.fsdecode(path)} failed", error)


def close_all(listenings: Iterable[Listening], *, unlink: bool, log: logs.Log) -> None:
    """Close all sockets of this process. shape: unlink says whether Unix paths go as well

    source: ngx_close_listening_sockets
    """
    for listening in listenings:
        is_open = any(sock.fileno() >= 0 for sock in listening.socks)
        for sock in listening.socks:
            sock.close()
        path = listening.options.sockaddr
        if unlink and is_open and listening.options.family == socket.AF_UNIX:
            error = None if _is_abstract(path) else _unlink(path)
            if error is not None:
                log.error(logs.EMERG, f"unlink() {os.fsdecode(path)} failed", error)


def _unlink(path: str | bytes) -> OSError | None:
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    except OSError as error:
        return error
    return None
