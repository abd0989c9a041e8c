"""Listening sockets that came with the process: numbers in an environment variable to Listenings.

Answers for ngx_add_inherited_sockets (src/core/nginx.c) and ngx_set_inherited_sockets
(src/core/ngx_connection.c). Beside nginx's variable it knows that of service managers that open
sockets for their services (sd_listen_fds(3), "socket activation").
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Collection, Iterable, MutableMapping
from typing import Final

from ngxstream.core import inet, ip
from ngxstream.core import log as logs
from ngxstream.event.listen_options import ListenOptions
from ngxstream.event.listening import Listening

VARIABLE: Final = "NGINX"
LENT_ON: Final = "NGXSTREAM_LENT"  # which of those in VARIABLE a service manager has lent
LENT: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
FIRST_LENT: Final = 3  # SD_LISTEN_FDS_START
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def numbers(value: str, log: logs.Log) -> list[int]:
    """Return the descriptors that the variable names (`4;5;`), up to the first bad one."""
    log.error(logs.NOTICE, f'using inherited sockets from "{value}"')
    found: list[int] = []
    at = 0
    for match in re.finditer("[:;]", value):
        number = ip.atoi(value[at : match.start()])
        if number < 0:
            log.error(
                logs.EMERG,
                f'invalid socket number "{value[at:]}" in {VARIABLE} environment variable, '
                "ignoring the rest of the variable",
            )
            return found
        found.append(number)
        at = match.end()
    if at < len(value):
        log.error(
            logs.EMERG,
            f'invalid socket number "{value[at:]}" in {VARIABLE} environment variable, ignoring',
        )
    return found


def lent(environ: MutableMapping[str, str], log: logs.Log) -> list[int]:
    """Return the descriptors that a service manager has opened for this process.

    The variables are taken away: they are not meant for programs that this process executes.
    Source: sd_listen_fds(3)
    """
    pid, count, _ = (environ.pop(name, "") for name in LENT)
    if ip.atoi(pid) != os.getpid():
        return []
    last = FIRST_LENT + ip.atoi(count)
    if last < FIRST_LENT or last > os.sysconf("SC_OPEN_MAX"):
        log.error(
            logs.EMERG, f'invalid number of sockets "{count}" in {LENT[1]} environment variable'
        )
        return []
    log.error(logs.NOTICE, f"using {last - FIRST_LENT} sockets of the service manager")
    return list(range(FIRST_LENT, last))


def mark_lent(listenings: Iterable[Listening], environ: MutableMapping[str, str]) -> None:
    """Mark inherited sockets that a service manager has lent to a master before."""
    fds = {ip.atoi(word) for word in environ.pop(LENT_ON, "").split(";")}
    for one in listenings:
        one.is_lent = not fds.isdisjoint(sock.fileno() for sock in one.socks)


def value_of(listenings: Iterable[Listening]) -> str:
    """Return what the variable says of these sockets; groups in the order of their numbers."""
    return "".join(f"{sock.fileno()};" for one in listenings for sock in one.socks)


def adopt(fds: Iterable[int], log: logs.Log, *, lent: bool = False) -> list[Listening]:
    """Make a Listening of every address; sockets of one address are its group, in order.

    What is no listening socket that may be adopted is logged and left alone. Args: lent:
    Whether a service manager listens with them when we are gone
    """
    found: dict[tuple[int, int, inet.SockAddr], Listening] = {}
    for fd in fds:
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
        except OSError as error:
            log.error(logs.CRIT, f"getsockname() of the inherited socket #{fd} failed", error)
            continue
        if sock.family not in _FAMILIES:
            log.error(logs.CRIT, f"the inherited socket #{fd} has an unsupported protocol family")
            sock.detach()
            continue
        if lent and not _is_ours_to_serve(sock):
            log.error(logs.CRIT, f"the socket #{fd} of the service manager does not listen")
            sock.detach()
            continue
        sock.setblocking(False)
        options = _options(sock)
        listening = found.setdefault(options.key, Listening(options))
        listening.socks.append(sock)
        listening.is_lent = lent
        # nobody joins a group of another user's sockets
        listening.is_fixed = options.is_udp and os.fstat(fd).st_uid != os.geteuid()
    return list(found.values())


def fault_of(fd: int, owners: Collection[int]) -> str:
    """Return why another process's descriptor cannot be our listening socket, else "".

    Args: owners: users one of whom has to have made it. The descriptor stays the caller's.
    """
    try:
        about = os.fstat(fd)
        if not stat.S_ISSOCK(about.st_mode):
            return "a descriptor that is no socket"
        if about.st_uid not in owners:
            return f"a socket that user {about.st_uid} has made"
        sock = socket.socket(fileno=fd)
    except OSError as error:
        return f"a descriptor that is not open: {error.strerror}"
    try:
        if sock.family not in _FAMILIES:
            return "a socket of an unsupported protocol family"
        if sock.type == socket.SOCK_STREAM:
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return "a stream socket that does not listen"
        elif sock.type != socket.SOCK_DGRAM:
            return "a socket of an unsupported type"
        elif _is_connected(sock):
            return "a datagram socket that is connected"
        sockaddr = sock.getsockname()
        if not sockaddr or (isinstance(sockaddr, tuple) and not sockaddr[1]):
            return "a socket that is not bound"
    except OSError as error:
        return f"a socket without an address: {error.strerror}"
    finally:
        sock.detach()
    return ""


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def merge(found: Iterable[Listening], lent: Iterable[Listening]) -> list[Listening]:
    """Put what workers of a dead master have before what a service manager lends anew.

    An address that both have is the workers': their group has all of its sockets. What is lent of
    it is one of them, and closed.
    """
    merged = {one.options.key: one for one in found}
    for one in lent:
        known = merged.setdefault(one.options.key, one)
        if known is not one:
            known.is_lent = one.is_lent
            for sock in one.socks:
                sock.close()
    return list(merged.values())


def _is_ours_to_serve(sock: socket.socket) -> bool:
    """Tell datagrams and listening streams from connections (Accept=yes)."""
    if sock.type == socket.SOCK_DGRAM:
        return True
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _options(sock: socket.socket) -> ListenOptions:
    """Tell the options of an open socket as far as a reload compares them."""
    sockaddr = sock.getsockname()
    family = int(sock.family)
    if family == socket.AF_INET6:
        sockaddr = (ip.ntop(inet.packed(sockaddr)), sockaddr[1], 0, 0)
    reuseport = deferred = False
    if family != socket.AF_UNIX:
        reuseport = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
        if sock.type == socket.SOCK_STREAM:
            deferred = bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT))
    return ListenOptions(
        family=family, socktype=int(sock.type), sockaddr=sockaddr, text=inet.sock_ntop(sockaddr),
        wildcard=inet.is_wildcard(sockaddr), reuseport=reuseport, deferred=deferred,
    )
