"""The rendezvous of a new master with the workers that outlived theirs: it gets their listening
sockets and their UDP clients, and they leave when it serves.

nginx has no counterpart: after SIGKILL of the master its workers keep the addresses, and a new
master fails to bind.

1. A worker that sees its master die listens at an abstract Unix address, named after the pid file
   and its own pid: an orphan. It serves on. One that was leaving already does so, too, but has
   nothing to give: it wants to be told when all is to end.
2. A new master finds the orphans of its pid file in the kernel's table of Unix sockets, before it
   binds, and connects to all. The connection is an orphan's channel from then on: it obeys.
3. The orphan of the newest configuration gives its listening sockets. They are the same sockets:
   nobody is refused, and nothing that is queued in them is lost.
4. When the new master's workers have begun, orphans of the same configuration, to the byte, hand
   their UDP clients over as at a reload, and all leave when their sessions have ended. Should the
   new master die before that, they are orphans again.
5. Neither side believes a stranger. An orphan obeys root and the user its master was. A master
   takes nothing but sockets that a master made, and asks the kernel what they are; clients are
   handed over by processes of the workers' user alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.conf import dump
from ngxstream.core import log as logs
from ngxstream.event import inherited, poller
from ngxstream.process import channel as channels
from ngxstream.process import verdict
from ngxstream.process.channel import Channel

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.process.cycle import Cycle

ANSWER_S: Final = 2.0  # how long all orphans together may take to answer, and one to give
CHUNK: Final = 250  # descriptors in a message
BACKLOG: Final = 4
TABLE: Final = "/proc/net/unix"


def prefix_of(path: str) -> str:
    """Return how the addresses of a pid file's orphans begin; a pid follows."""
    real = os.path.realpath(path).encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(real, digest_size=16).hexdigest()
    return f"\0ngxstream/{verdict.pid_namespace()}/{digest}/"


def digest_of(cycle: Cycle) -> str:
    """Return what tells the text of a configuration from others."""
    reading, options = cycle.reading, cycle.options
    text = dump.dump(*reading.sources) + options.directives.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


# -- the worker's side -----------------------------------------------------------------------------


class Orphan:
    """Where a worker waits for a new master, once its own has died."""

    __slots__ = ("_adopted", "_loop", "_owner", "_sock")

    def __init__(
        self, loop: Loop, path: str, owner: int, adopted: Callable[[Channel], None]
    ) -> None:
        """Wait from now on.

        shape: path of the pid file; owner is the user id of the master that died; adopted(channel)
        is called once. raises: OSError where nobody can be waited for
        """
        self._loop = loop
        self._owner = owner
        self._adopted = adopted
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.setblocking(False)
            self._sock.bind(f"{prefix_of(path)}{os.getpid()}")
            self._sock.listen(BACKLOG)
        except OSError:
            self._sock.close()
            raise
        loop.register(self._sock.fileno(), self.on_readable, poller.LEVEL)

    def on_readable(self, mask: int) -> None:
        """Look who comes."""
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        if verdict.peer_of(sock)[1] not in (0, self._owner):
            sock.close()
            return
        self.close()
        self._adopted(Channel(sock))

    def close(self) -> None:
        """Wait no more."""
        self._loop.unregister(self._sock.fileno())
        self._loop.close_later(self._sock)


def introduce(to: Channel, cycle: Cycle | None) -> None:
    """Tell a new master who this worker is. shape: a cycle it serves; None if it is leaving"""
    told = (0, "") if cycle is None else (cycle.generation, digest_of(cycle))
    text = json.dumps(dict(zip(("generation", "digest"), told, strict=True)))
    to.send(channels.ORPHAN, text.encode())


def give(to: Channel, listenings: Sequence[Listening]) -> None:
    """Send all listening sockets, groups in the order of their numbers."""
    fds = [sock.fileno() for one in listenings for sock in one.socks if sock.fileno() >= 0]
    for at in range(0, len(fds), CHUNK):
        to.send(channels.SOCKETS, b"more", fds[at : at + CHUNK])
    to.send(channels.SOCKETS, b"last")


# -- the new master's side -------------------------------------------------------------------------


class Survivor:
    """An orphan as the new master knows it."""

    __slots__ = ("channel", "digest", "generation", "pid", "uid")

    def __init__(self, pid: int, uid: int, channel: Channel) -> None:
        """shape: generation and digest are what it says of itself, 0 and "" before that"""
        self.pid = pid
        self.uid = uid
        self.channel = channel
        self.generation = 0
        self.digest = ""

    def hear(self) -> None:
        """Take what it says of itself; nonsense is nothing. raises: BlockingIOError"""
        with contextlib.suppress(EOFError, ConnectionError, ValueError, TypeError, KeyError):
            message = self.channel.receive()
            for fd in message.fds:
                os.close(fd)
            if message.command == channels.ORPHAN:
                told = json.loads(message.payload)
                self.generation, self.digest = int(told["generation"]), str(told["digest"])


class Survivors:
    """All orphans of a pid file."""

    __slots__ = ("_digest", "_known", "_users", "all")

    def __init__(self) -> None:
        """Know none yet."""
        self.all: list[Survivor] = []
        self._known: set[int] = set()
        self._digest = ""
        self._users: frozenset[int] = frozenset()

    @property
    def heirs(self) -> list[Survivor]:
        """Those who serve by the very configuration that the new master serves by."""
        same = [
            one for one in self.all if one.digest == self._digest and one.uid in self._users
        ]
        newest = max((one.generation for one in same), default=0)
        return [one for one in same if one.generation == newest]

    def collect(self, cycle: Cycle) -> list[Listening]:
        """Find all orphans of the cycle's pid file and have one give its sockets.

        A cycle of the same text goes on with the generation of theirs: sessions name it.
        """
        user = cycle.main.user
        self._users = frozenset((0, os.geteuid() if user is None else user.uid))
        self._digest = digest_of(cycle)
        self.meet(cycle.main.pid)
        for one in sorted(self.all, key=lambda one: -one.generation):
            fds = _take(one.channel) if one.generation else None
            if not fds:
                continue
            cycle.log.error(
                logs.NOTICE,
                f"{len(self.all)} worker processes outlived their master, {len(fds)} listening "
                f"sockets taken over from {one.pid}",
            )
            if one in self.heirs:
                cycle.generation = one.generation
                cycle.is_heir = cycle.main.master_process
            return inherited.adopt(fds, cycle.log)
        return []

    def meet(self, path: str) -> list[Survivor]:
        """Connect to the orphans that are not known yet, and hear who they are.

        shape: path of the pid file; returns the new ones
        """
        new = [one for one in _connect(path) if one.pid not in self._known]
        self._known.update(one.pid for one in new)
        self.all += new
        waiting = {one.channel.fileno(): one for one in new}
        end = time.monotonic() + ANSWER_S
        while waiting and (left := end - time.monotonic()) > 0:
            for fd in channels.wait_readable(waiting, left):
                waiting.pop(fd).hear()
        return new

    def tell(self, command: int) -> None:
        """Tell all of them; who has left already does not hear it."""
        for one in self.all:
            one.channel.send(command)

    def close(self) -> None:
        """Close this process's ends: a worker's."""
        for one in self.all:
            one.channel.close()
        self.all.clear()


def _connect(path: str) -> Iterator[Survivor]:
    """Connect to every orphan of a pid file."""
    prefix = prefix_of(path)
    for name in _names(prefix):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            sock.connect(name)
            pid, uid = verdict.peer_of(sock)
        except OSError:
            sock.close()
            continue
        if name != f"{prefix}{pid}":
            sock.close()
            continue
        yield Survivor(pid, uid, Channel(sock))


def _names(prefix: str) -> list[str]:
    """Return the abstract addresses that begin like this."""
    shown = b"@" + prefix[1:].encode()
    try:
        with open(TABLE, "rb") as table:
            rows = [line.split(None, 7) for line in table]
    except OSError:
        return []
    found = {row[7].strip() for row in rows if len(row) == 8 and row[7].startswith(shown)}
    return sorted("\0" + name[1:].decode("ascii", "replace") for name in found)


def _take(channel: Channel) -> list[int] | None:
    """Return the sockets of an orphan, None if it gives none in time."""
    fds: list[int] = []
    end = time.monotonic() + ANSWER_S
    channel.send(channels.GIVE)
    while (left := end - time.monotonic()) > 0:
        if not channels.wait_readable([channel.fileno()], left):
            break
        try:
            message = channel.receive()
        except (EOFError, OSError):
            break
        for fd in message.fds:
            # sockets that a master has made, or a service manager for it
            if message.command == channels.SOCKETS and os.fstat(fd).st_uid in (0, os.geteuid()):
                fds.append(fd)
            else:
                os.close(fd)
        if message.command == channels.SOCKETS and message.payload == b"last":
            return fds
    for fd in fds:
        os.close(fd)
    return None
