"""Listening sockets: opened by the master, adopted at a reload, inherited by the workers.

Answers for src/core/ngx_connection.c (ngx_open_listening_sockets, ngx_configure_listening_sockets)
and the listening part of ngx_init_cycle (src/core/ngx_cycle.c).

1. A set of listenings is opened beside the old one. What both have is the same socket; open()
   changes no socket option of it, configure() does, when the new set is to serve.
2. TCP: one socket for all workers, or with `reuseport` one for each. UDP over IP: always one for
   each, in a group that steering.py directs, so that a client has one worker. Unix datagrams: one
   socket, served by worker 0 alone.
3. A group never loses a socket while its address is listened at: with fewer workers than before,
   what is queued in the surplus ones is read by worker number mod workers.
4. A socket that a service manager has lent stays with it: a Unix path is never removed. Where it
   is another user's, nothing can join a UDP group: each of its sockets has one worker.
5. A configuration of thousands of UDP addresses and many workers would take more descriptors than
   there are, where nginx opens one for each. The sockets that join others at their address take a
   part of the descriptors and no more: beyond that groups are smaller than there are workers, and
   the port tells with which worker a group begins, so that all have something to read.
6. A UDP address that anybody else serves is in use: the first socket is bound without any reuse
   option (nginx's SO_REUSEADDR would let it steal the traffic), SO_REUSEPORT comes after.
"""

from __future__ import annotations

import os
import resource
import socket
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ngxstream.core import errors, inet
from ngxstream.core import log as logs
from ngxstream.event import bound, listen_socket, stale, steering
from ngxstream.event.listen_options import ListenOptions

TRIES: Final = 5
RETRY_S: Final = 0.5
SO_RCVBUFFORCE: Final = 33  # the socket module has no name for it
WIDE: Final = 4 << 20  # bytes, of the kernel's own counting
JOINING: Final = 4  # one of so many descriptors may be for a further socket of a UDP group


class Listening:
    """An open listening address of a cycle; earlier and later ones share its sockets."""

    __slots__ = ("options", "socks", "opened", "previous", "steered", "is_steered", "is_lent",
                 "is_fixed", "most")

    def __init__(self, options: ListenOptions, previous: Listening | None = None) -> None:
        self.options = options
        self.steered: int = previous.steered if previous else 0  # workers its clients are for
        self.is_steered: bool = previous.is_steered if previous else True  # the kernel can do it
        self.is_lent: bool = previous.is_lent if previous else False  # a service manager's too
        self.is_fixed: bool = previous.is_fixed if previous else False  # no socket can be added
        # sockets of a group that may have no more, for want of descriptors; else 0
        self.most: int = previous.most if previous else 0
        self.socks: list[socket.socket] = list(previous.socks) if previous else []
        self.opened: list[socket.socket] = []  # those of socks it opened itself, until configure()
        self.previous = previous  # the adopted one, until configure()

    def __repr__(self) -> str:
        return f"<Listening {self.options.text} {[s.fileno() for s in self.socks]}>"

    def for_worker(self, worker: int, workers: int) -> list[socket.socket]:
        """Return the sockets that a worker (0..workers-1) reads, its own first."""
        options = self.options
        if options.is_group:
            return self.socks[(worker - self._first(workers)) % workers :: workers]
        if options.is_udp:
            return self.socks if worker == 0 else []
        # the others are left from a `reuseport` that was taken back: what they hold is accepted
        shared, *left = self.socks
        return [shared, *left[worker::workers]]

    def is_shared(self, sock: socket.socket) -> bool:
        """Tell whether several workers accept on one of the sockets (EPOLLEXCLUSIVE is for it)."""
        options = self.options
        return not options.is_group and not options.is_udp and sock is self.socks[0]

    def spread(self, workers: int) -> int:
        """Return over how many of its sockets the clients of a UDP group are spread."""
        return min(workers, len(self.socks)) if self.is_fixed or self.most else workers

    def reader_of(self, number: int, workers: int) -> int:
        """Return the worker that reads one of the sockets of a group. Args: number: 0 or more"""
        return (number + self._first(workers)) % workers

    def _first(self, workers: int) -> int:
        """Return the worker that reads the first socket of the group."""
        return inet.port_of(self.options.sockaddr) % workers if self.most else 0

    def steer(self, workers: int, log: logs.Log) -> None:
        """Have the kernel hand every UDP client to its worker from now on."""
        if not (self.options.is_group and self.options.is_udp):
            return
        self.steered = self.spread(workers)
        if self.is_fixed and self.steered == 1:
            return  # perhaps no group at all
        try:
            steering.attach(self.socks[0], self.steered)
            self.is_steered = True
        except OSError as error:
            self.is_steered = False
            log.error(
                logs.WARN,
                f"setsockopt(SO_ATTACH_REUSEPORT_CBPF) {self.options.text} failed, ignored",
                error,
            )


def open_all(wanted: Iterable[ListenOptions], old: Iterable[Listening], *, workers: int,
             log: logs.Log, test: bool = False,
             sleep: Callable[[float], None] = time.sleep) -> list[Listening]:
    """Open what is wanted, adopting what an old set (or an inherited one) has already.

    Args: workers: Counts the processes that will serve (1 without a master); with test (-t) an
    address in use is passed over, and nothing listens when this returns but Unix sockets are gone
    Raises: ListenError; everything opened so far is closed again
    Source: ngx_open_listening_sockets
    """
    adoptable = {listening.options.key: listening for listening in old}
    found = [Listening(options, adoptable.get(options.key)) for options in wanted]
    _limit_groups(found, workers)
    try:
        for _ in range(TRIES):
            own = bound.Neighbours()  # who else is there may have changed
            for listening in (*adoptable.values(), *found):
                if listening.options.is_group:
                    own.add(listening.socks)
            failed = False
            for listening in found:
                if not _open(listening, own, workers, log, test):
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


def _limit_groups(found: Sequence[Listening], workers: int) -> None:
    """Settle how many sockets the UDP groups of a set may have.

    What a group of this master's has stays as it is: whose a client is must not change with it.
    One that came from elsewhere is counted anew, as its former owner did.
    """
    groups = [
        one for one in found if one.options.is_group and one.options.is_udp and not one.is_fixed
    ]
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or len(groups) * (workers - 1) <= limit // JOINING:
        return
    most = 1 + limit // JOINING // len(groups)
    for one in groups:
        if (one.previous is None or not one.previous.steered) and len(one.socks) <= most < workers:
            one.most = most


def _open(listening: Listening, own: bound.Neighbours, workers: int, log: logs.Log,
          test: bool) -> bool:
    """Open the sockets one address still lacks. Returns: False when it is in use, to be retried"""
    options = listening.options
    replaced = _protocol_change(listening)
    wanted = min(workers, listening.most or workers) if options.is_group and not test else 1
    if listening.is_fixed:
        wanted = len(listening.socks)
    elif listening.is_lent and options.is_group and options.is_udp and len(listening.socks) == 1:
        listen_socket.allow_joining(listening.socks[0], options)
        listen_socket.found_group(listening.socks, options)
    if replaced or (len(listening.socks) < wanted and listening.socks):
        for sock in listening.socks:
            listen_socket.allow_joining(sock, options)
    if replaced:
        listening.socks = []
        listening.previous = None
    while len(listening.socks) < wanted:
        sock = listen_socket.make(options)
        try:
            first = listening.socks[0] if listening.socks else None
            listen_socket.bind(sock, options, first, own, replaces=replaced, test=test)
            if not options.is_udp:
                listen_socket.listen(sock, options)
        except listen_socket.InUseError as error:
            sock.close()
            if test:
                return True
            if options.family == socket.AF_UNIX and stale.remove(options.path):
                text = f"{options.text} of a program that is gone, is removed"
                log.error(logs.NOTICE, text)
                continue
            log.error(logs.EMERG, f"bind() to {options.text} failed", error)
            return False
        except errors.ListenError:
            sock.close()
            raise
        listening.socks.append(sock)
        listening.opened.append(sock)
        if options.is_group:
            own.add((sock,))
        if options.is_group and options.is_udp and not test:
            listen_socket.found_group(listening.socks, options)
    return True


def _protocol_change(listening: Listening) -> bool:
    """Tell whether adopted sockets have the wrong protocol: `multipath` came or went."""
    if listening.previous is None or listening.options.is_udp:
        return False
    if listening.options.family == socket.AF_UNIX:
        return False
    now = listening.previous.socks[0].proto == listen_socket.IPPROTO_MPTCP
    return now != listening.options.multipath


# -- once the new set is to serve -----------------------------------------------------------------


def configure(listenings: Iterable[Listening], *, workers: int, log: logs.Log,
              defer: bool = False) -> None:
    """Set the options of all sockets, and steer the groups.

    What fails is logged as an [alert] and left so, as in nginx. With defer, a group that is steered
    to another number of workers stays so until they have handed their clients over. Until settle()
    it can be undone: restore() and abandon() do it.
    Source: ngx_configure_listening_sockets
    """
    for listening in listenings:
        before = None if listening.previous is None else listening.previous.options
        for sock in listening.socks:
            known = None if sock in listening.opened else before
            listen_socket.tune(sock, listening.options, known, log)
        if defer and before is not None:
            listening.steered = listening.spread(workers)
        else:
            listening.steer(workers, log)


def settle(listenings: Iterable[Listening]) -> None:
    """Forget how to undo: the set serves from now on."""
    for listening in listenings:
        listening.previous = None
        listening.opened.clear()


def restore(listenings: Iterable[Listening], *, log: logs.Log) -> None:
    """Give adopted sockets the options back that they were adopted with."""
    for listening in listenings:
        previous = listening.previous
        if previous is not None:
            for sock in previous.socks:
                listen_socket.tune(sock, previous.options, listening.options, log)


def widen(listenings: Iterable[Listening]) -> None:
    """Enlarge the buffers of UDP sockets that are about to be unread for some milliseconds.

    The kernel's default holds 256 small datagrams: 43 ms at 6000 a second. A size that was
    configured stays.
    """
    for listening in listenings:
        if not listening.options.is_udp or listening.options.rcvbuf is not None:
            continue
        for sock in listening.socks:
            try:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= WIDE:
                    continue
                try:
                    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WIDE)
                except PermissionError:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WIDE)  # to rmem_max
            except OSError:
                continue  # larger or not: nothing depends on it


def abandon(listenings: Iterable[Listening]) -> None:
    """Close what this set opened, and nothing else.

    The last that joined a group leaves first: the numbers of the others stay.
    """
    for listening in listenings:
        for sock in reversed(listening.opened):
            is_path = sock.family == socket.AF_UNIX and not listen_socket.is_abstract(
                sock.getsockname()
            )
            if is_path:
                _unlink(sock.getsockname())
            sock.close()
        listening.opened.clear()


def release(old: Iterable[Listening], new: Iterable[Listening], *, log: logs.Log) -> None:
    """Close what only the old set has, Unix sockets with their paths. Source: ngx_init_cycle"""
    kept = {id(sock) for listening in new for sock in listening.socks}
    for listening in old:
        paths = []
        for sock in listening.socks:
            if id(sock) in kept or sock.fileno() < 0:
                continue
            if listening.options.family == socket.AF_UNIX and not listening.is_lent:
                paths.append(listening.options.path)
            sock.close()
        if listening.is_lent and listening.socks and id(listening.socks[0]) not in kept:
            text = listening.options.text
            log.error(logs.WARN, f"no server listens at {text}, a socket of the service manager")
        for path in paths:
            if not listen_socket.is_abstract(path):
                log.error(logs.WARN, f"deleting socket {os.fsdecode(path)}")
                _unlink(path, log)


def close_all(listenings: Iterable[Listening], *, unlink: bool, log: logs.Log) -> None:
    """Close all sockets, with `unlink` Unix paths too. Source: ngx_close_listening_sockets"""
    for listening in listenings:
        is_open = any(sock.fileno() >= 0 for sock in listening.socks)
        for sock in listening.socks:
            sock.close()
        if listening.is_lent:
            continue
        if unlink and is_open and listening.options.family == socket.AF_UNIX:
            _unlink(listening.options.path, log)


def _unlink(path: str | bytes, log: logs.Log | None = None) -> None:
    try:
        if not listen_socket.is_abstract(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    except OSError as error:
        if log is not None:
            log.error(logs.EMERG, f"unlink() {os.fsdecode(path)} failed", error)
