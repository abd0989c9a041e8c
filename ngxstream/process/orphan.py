"""A worker whose master has died: where it waits for a new one, and what it gives that one.

It listens at an abstract Unix address, named after the pid file and its own pid. Who connects and
is root or the user that its master was becomes its master. What a new master does is in
rendezvous.py.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.conf import dump
from ngxstream.event import eviction, poller
from ngxstream.ipc import codec, port
from ngxstream.ipc.codec import Field, Record
from ngxstream.process import channel as channels
from ngxstream.process import pidfile
from ngxstream.process.channel import Channel

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.event.timers import Timer
    from ngxstream.process.cycle import Cycle
    from ngxstream.process.directives import MainConf
    from ngxstream.process.options import Options

PAUSE_MS: Final = 100  # before an orphan without descriptors looks again who has come
AGAIN_MS: Final = 10  # before another try to send
CHUNK: Final = channels.MAX_FDS  # descriptors in a message
BACKLOG: Final = 64
_NO_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE))

ORPHANED: Final = Record(
    "orphan", Field(1, "generation", codec.UINT, 0),
    Field(2, "digest", codec.Text(64, is_word=True), ""),
)
SOCKETS_GIVEN: Final = Record("sockets", Field(1, "last", codec.BOOL, False))


def place_of(main: MainConf, options: Options) -> str:
    """Return the path that orphans are found by: the pid file, or the configuration if that is a
    device (/dev/null, for any number of masters).
    """
    return options.conf_file if pidfile.is_device(main.pid) else main.pid


def prefix_of(path: str) -> str:
    """Return how the addresses of a pid file's orphans begin; a pid follows.

    Pids mean something in one pid namespace only, and containers may share the net namespace.
    """
    real = os.path.realpath(path).encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(real, digest_size=16).hexdigest()
    return f"\0ngxstream/{pid_namespace()}/{digest}/"


def pid_namespace() -> int:
    """Return the number of this process's pid namespace, 0 if unknown."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def digest_of(cycle: Cycle) -> str:
    """Return a hash of the text of a configuration."""
    reading, options = cycle.reading, cycle.options
    text = dump.dump(*reading.sources) + options.directives.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


class Orphan:
    """The listening socket of a worker whose master has died."""

    __slots__ = ("_adopted", "_loop", "_owner", "_pause", "_sock")

    def __init__(
        self, loop: Loop, path: str, owner: int, adopted: Callable[[Channel], None]
    ) -> None:
        """Wait from now on.

        Args: path: as of place_of(); owner: the user id of the master that died; adopted(channel):
        called once. Raises: OSError where it cannot listen
        """
        self._loop = loop
        self._owner = owner
        self._adopted = adopted
        self._sock = port.listen(f"{prefix_of(path)}{os.getpid()}", BACKLOG)
        self._pause: Timer | None = None  # where there are no descriptors
        loop.register(self._sock.fileno(), self.on_readable, poller.LEVEL)

    def on_readable(self, mask: int) -> None:
        """Accept a connection; refuse other users, as many at a time as may have queued."""
        for _ in range(BACKLOG):
            try:
                sock = port.accept(self._sock)
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._make_descriptor()
                return
            if port.peer_of(sock)[1] in (0, self._owner):
                self.close()
                self._adopted(Channel.to_master(sock, self._owner))
                return
            sock.close()

    def _make_descriptor(self) -> None:
        """Free a descriptor for the connection that waits, or look again later: do not spin."""
        loop = self._loop
        evict = loop.get(eviction.Eviction)
        if not (evict.make_descriptor() or evict.give_spare()):
            loop.unregister(self._sock.fileno())
            self._pause = loop.call_later(PAUSE_MS, self._look, cancelable=True)

    def _look(self) -> None:
        self._pause = None
        self._loop.register(self._sock.fileno(), self.on_readable, poller.LEVEL)

    def close(self) -> None:
        """Wait no more."""
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.unregister(self._sock.fileno())
        self._loop.close_later(self._sock)


def introduce(to: Channel, cycle: Cycle | None) -> None:
    """Tell a new master who this worker is. Args: cycle: one it serves; None if it is leaving"""
    told = (0, "") if cycle is None else (cycle.generation, digest_of(cycle))
    to.send(channels.ORPHAN, ORPHANED.encode(told))


def give(loop: Loop, to: Channel, listenings: Sequence[Listening]) -> None:
    """Send all listening sockets, groups in the order of their numbers, as there is room."""
    _give(loop, to, [sock for one in listenings for sock in one.socks if sock.fileno() >= 0])


def _give(loop: Loop, to: Channel, socks: list[socket.socket]) -> None:
    is_last = False
    while not is_last:
        is_last = not socks
        fds = [sock.fileno() for sock in socks[:CHUNK] if sock.fileno() >= 0]
        if not to.send(channels.SOCKETS, SOCKETS_GIVEN.encode((is_last,)), fds):
            if to.fileno() >= 0 and not loop.exiting and not port.is_gone(to.sock):
                again = functools.partial(_give, loop, to, socks)
                loop.call_later(AGAIN_MS, again, cancelable=True)
            return
        socks = socks[CHUNK:]
