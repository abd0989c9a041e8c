"""The rendezvous of a new master with the workers that outlived theirs: it gets their listening
sockets and their UDP clients, and they leave when it serves.

nginx has no counterpart: after SIGKILL of the master its workers keep the addresses, and a new
master fails to bind.

1. A worker that sees its master die listens at an abstract Unix address, named after the pid file
   (where `pid` names a device that many may name, after the configuration) and its own pid: an
   orphan. It serves on. One that was leaving already does so, too, but has nothing to give: it
   wants to be told when all is to end.
2. A new master finds the orphans of its pid file in the kernel's table of Unix sockets, before it
   binds, and connects to all. The connection is an orphan's channel from then on: it obeys.
3. The orphan of the newest configuration gives its listening sockets. They are the same sockets:
   nobody is refused, and nothing that is queued in them is lost.
4. When the new master's workers have begun, orphans of the same configuration, to the byte, hand
   their UDP clients over as at a reload, and all leave when their sessions have ended. Should the
   new master die before that, they are orphans again.
5. Neither side believes a stranger. An orphan obeys root and the user its master was. A master asks
   processes of root, its own user and the configured one, and knows whose a process is before it
   waits for it: it waits for strangers not at all, for all others together until one deadline.
   Who may give is asked beside those who were asked and are silent, so these delay it little.
6. What is given has to be sockets that a master made (or a service manager for it), that listen or
   are bound, and are no connections. Who gives anything else has given nothing, and the next one is
   asked. What an orphan says of its configuration counts for those who agree with the giver.
7. Where no master lives, `-s` tells the orphans what it would have signalled. They wait for a
   master again when it has left.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.conf import dump
from ngxstream.core import log as logs
from ngxstream.event import eviction, inherited, poller
from ngxstream.ipc import codec, port
from ngxstream.ipc.codec import CodecError, Field, Record
from ngxstream.process import channel as channels
from ngxstream.process import pidfile
from ngxstream.process.channel import Channel

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.process.cycle import Cycle
    from ngxstream.process.directives import MainConf
    from ngxstream.process.options import Options

MEET_S: Final = 2.0  # how long all orphans together may take to say who they are
GIVE_S: Final = 4.0  # and to give, from the same moment on
LEAST_S: Final = 0.25  # how long one that gives may pause
ASK_S: Final = 1.0  # how long those who are asked before a giver, and are silent, delay it in all
HEED_S: Final = 2.0  # how long it may take all orphans together to do what -s tells them
_NO_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE))
PAUSE_MS: Final = 100  # before an orphan without descriptors looks again who has come
AGAIN_S: Final = 0.01  # before another try to connect
AGAIN_MS: Final = 10  # before another try to send
CHUNK: Final = channels.MAX_FDS  # descriptors in a message
MAX_SOCKETS: Final = 1 << 20
BACKLOG: Final = 64
TABLE: Final = "/proc/net/unix"

COMMANDS: Final = {
    "stop": channels.TERMINATE, "quit": channels.QUIT, "reopen": channels.REOPEN
}  # of -s

ORPHANED: Final = Record(
    "orphan",
    Field(1, "generation", codec.UINT, 0),
    Field(2, "digest", codec.Text(64, is_word=True), ""),
)
SOCKETS_GIVEN: Final = Record("sockets", Field(1, "last", codec.BOOL, False))


def place_of(main: MainConf, options: Options) -> str:
    """Return the path that orphans are found by: the pid file's, or the file's that names none."""
    return options.conf_file if pidfile.is_device(main.pid) else main.pid


def prefix_of(path: str) -> str:
    """Return how the addresses of a pid file's orphans begin; a pid follows.

    Pids mean something in one pid namespace only, and containers may share the net namespace.
    """
    real = os.path.realpath(path).encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(real, digest_size=16).hexdigest()
    return f"\0ngxstream/{pid_namespace()}/{digest}/"


def pid_namespace() -> int:
    """Return what tells this process's pid namespace from others; 0 for unknown."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def digest_of(cycle: Cycle) -> str:
    """Return what tells the text of a configuration from others."""
    reading, options = cycle.reading, cycle.options
    text = dump.dump(*reading.sources) + options.directives.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


# -- the worker's side -----------------------------------------------------------------------------


class Orphan:
    """Where a worker waits for a new master, once its own has died."""

    __slots__ = ("_adopted", "_loop", "_owner", "_pause", "_sock")

    def __init__(
        self, loop: Loop, path: str, owner: int, adopted: Callable[[Channel], None]
    ) -> None:
        """Wait from now on.

        Args: path: as of place_of(); owner: the user id of the master that died; adopted(channel):
        called once. Raises: OSError where nobody can be waited for
        """
        self._loop = loop
        self._owner = owner
        self._adopted = adopted
        self._sock = port.listen(f"{prefix_of(path)}{os.getpid()}", BACKLOG)
        self._pause: Any = None  # the timer of the next look, where there are no descriptors
        loop.register(self._sock.fileno(), self.on_readable, poller.LEVEL)

    def on_readable(self, mask: int) -> None:
        """Look who comes; strangers leave as many at a time as may have queued."""
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
        """Have a descriptor for who waits: it may be a master. Do not spin without one."""
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


# -- the new master's side -------------------------------------------------------------------------


class Survivor:
    """An orphan as the new master knows it."""

    __slots__ = ("channel", "digest", "generation", "is_known", "pid", "uid")

    def __init__(self, pid: int, uid: int, channel: Channel) -> None:
        """Know it by what the kernel says.

        generation and digest are what it says of itself, 0 and "" before that; is_known tells
        that it has said it
        """
        self.pid = pid
        self.uid = uid
        self.channel = channel
        self.generation = 0
        self.digest = ""
        self.is_known = False

    def hear(self) -> None:
        """Take what it says of itself; nonsense is nothing."""
        try:
            message = self.channel.receive()
            port.close_all(message.fds)
            if message.command == channels.ORPHAN:
                self.generation, self.digest = ORPHANED.decode(message.payload)
                self.is_known = True
        except (CodecError, EOFError, OSError):
            return

    def refuse(self) -> None:
        """Take nothing more from it, and close what has come."""
        with contextlib.suppress(EOFError, OSError):
            self.channel.sock.shutdown(socket.SHUT_RD)
            while True:
                try:
                    port.close_all(self.channel.receive().fds)
                except OSError as error:
                    if error.errno != errno.EPROTO:  # nonsense; there may be more behind it
                        raise


class Survivors:
    """All orphans of a pid file."""

    __slots__ = ("_digest", "_giver", "_known", "_strangers", "_users", "all")

    def __init__(self) -> None:
        """Know none yet."""
        self.all: list[Survivor] = []
        self._known: set[int] = set()
        self._digest = ""
        self._giver: Survivor | None = None
        self._strangers = 0  # processes of other users that were there
        self._users: frozenset[int] = frozenset((0, os.geteuid()))

    @property
    def heirs(self) -> list[Survivor]:
        """Those who serve by the very configuration that the new master serves by."""
        same = [one for one in self.all if one.digest == self._digest and one.generation]
        if self._giver is not None:
            generation = self._giver.generation
        else:  # another master has gone, and its sockets are ours already
            generation = max((one.generation for one in same), default=0)
        return [one for one in same if one.generation == generation]

    def collect(self, cycle: Cycle) -> list[Listening]:
        """Find all orphans of the cycle's pid file and have one give its sockets.

        A cycle of the same text goes on with the generation of theirs: sessions name it.
        """
        self._digest = digest_of(cycle)
        end = time.monotonic() + GIVE_S
        self._meet_all(cycle.main, cycle.options)
        if self._strangers:
            cycle.log.error(
                logs.WARN,
                f"{self._strangers} processes of other users than root and the configured one "
                "pretend that they outlived a master, they are not listened to",
            )
        stream = cycle.stream
        named = {conf.options.key for conf in stream.listenings} if stream is not None else set()
        best: list[Listening] = []
        with contextlib.closing(self._gifts(end, cycle.log)) as gifts:
            for one, fds in gifts:
                found = inherited.adopt(fds, cycle.log)
                is_wanted = not named.isdisjoint(listening.options.key for listening in found)
                if best and not is_wanted:
                    _drop(found)
                    continue
                _drop(best)
                best, self._giver = found, one
                if is_wanted or not named:
                    break
        giver = self._giver
        if giver is not None:
            cycle.log.error(
                logs.NOTICE,
                f"{len(self.all)} worker processes outlived their master, "
                f"{sum(len(one.socks) for one in best)} listening sockets taken over from "
                f"{giver.pid}",
            )
            if giver in self.heirs:
                cycle.generation = giver.generation
                cycle.is_heir = cycle.main.master_process
        return best

    def _gifts(
        self, end: float, log: logs.Log
    ) -> Generator[tuple[Survivor, list[int]], None, None]:
        """Ask for listening sockets, the newest generation first; give who has some, and these.

        Whenever all who were asked are silent for a moment, one more is asked.
        """
        rest = sorted(filter(lambda one: one.generation, self.all), key=lambda one: one.generation)
        pause = min(LEAST_S, ASK_S / max(1, len(rest)))
        asked: dict[int, Survivor] = {}
        try:
            while (rest or asked) and (left := end - time.monotonic()) > 0:
                wait_s = min(pause, left) if rest else left
                ready = channels.wait_readable(asked, wait_s) if asked else []
                for one in map(asked.pop, ready):
                    if fds := _take(one, left / 2, log):
                        yield one, fds
                if rest and not ready:
                    one = rest.pop()
                    one.channel.send(channels.GIVE)
                    asked[one.channel.fileno()] = one
        finally:
            for one in asked.values():
                one.refuse()

    def order(self, main: MainConf, options: Options, command: int) -> tuple[list[int], list[int]]:
        """Tell all orphans of a pid file something, and wait until they have heard it.

        Returns: the pids of those who have, and of those who have not
        """
        self._meet_all(main, options)
        told = {one.channel.fileno(): one for one in self.all if pidfile.is_ours(one.pid)}
        pids = {one.pid for one in told.values()}
        for one in told.values():
            one.channel.send(command)
            with contextlib.suppress(OSError):
                one.channel.sock.shutdown(socket.SHUT_WR)  # it closes its end when it comes to that
        done: list[int] = []
        end = time.monotonic() + HEED_S
        while told and (left := end - time.monotonic()) > 0:
            for fd in channels.wait_readable(told, left):
                if not port.is_gone(told[fd].channel.sock):
                    told[fd].hear()
                elif (one := told.pop(fd)).is_known:
                    done.append(one.pid)
        return sorted(done), sorted(pids.difference(done))

    def _meet_all(self, main: MainConf, options: Options) -> None:
        if main.user is not None:
            self._users |= {main.user.uid}
        self._strangers = 0
        self.meet(place_of(main, options))

    def meet(self, path: str) -> list[Survivor]:
        """Connect to the orphans that are not known yet, and hear who they are.

        Args: path: as of place_of(). Returns: the new ones
        """
        end = time.monotonic() + MEET_S
        new = self._connect_all(path, end)
        self._known.update(one.pid for one in new)
        self.all += new
        waiting = {one.channel.fileno(): one for one in new}
        while waiting and (left := end - time.monotonic()) > 0:
            for fd in channels.wait_readable(waiting, left):
                waiting.pop(fd).hear()
        return new

    def _connect_all(self, path: str, end: float) -> list[Survivor]:
        """Connect to all who may be orphans of a pid file, until the end of the time at most."""
        prefix = prefix_of(path)
        users = self._users
        found: list[Survivor] = []
        names = []
        for name in _names(prefix):
            if _user_of(name.pid) not in users:
                self._strangers += 1
            elif name.pid not in self._known:
                names.append(name)
        while names:
            busy = []
            for name in names:
                try:
                    sock = port.connect(f"{prefix}{name.pid}")
                except BlockingIOError:
                    if _holds(name):  # strangers fill the backlog of one of ours
                        busy.append(name)
                    continue
                except OSError:
                    continue
                pid, uid = port.peer_of(sock)
                if pid == name.pid and uid in users:
                    channel = Channel.to_worker(sock, uid, max_fds=CHUNK)
                    found.append(Survivor(pid, uid, channel))
                else:
                    sock.close()
            names = busy
            if time.monotonic() + AGAIN_S > end:
                break
            if names:
                time.sleep(AGAIN_S)
        return found

    @property
    def are_left(self) -> bool:
        """Whether any of them is there, and no other program that pretends to be one."""
        there = (one for one in self.all if not port.is_gone(one.channel.sock))
        return any(pidfile.is_ours(one.pid) for one in there)

    def tell(self, command: int) -> None:
        """Tell all of them; who has left already does not hear it."""
        for one in self.all:
            one.channel.send(command)

    def close(self) -> None:
        """Close this process's ends."""
        for one in self.all:
            one.channel.close()
        self.all.clear()


class _Name(NamedTuple):
    """An address that an orphan may have. Args: inode: of the socket that has it"""

    pid: int
    inode: str


def _names(prefix: str) -> list[_Name]:
    """Return what the kernel's table has with this prefix, one for each pid."""
    shown = b"@" + prefix[1:].encode()
    try:
        with open(TABLE, "rb") as table:
            rows = [line.split(None, 7) for line in table]
    except OSError:
        return []
    found: dict[int, _Name] = {}
    for row in rows:
        if len(row) == 8 and row[7].startswith(shown):
            number = row[7].strip()[len(shown) :]
            # a connection to the address has its name, too, and no flag that it listens
            if number.isdigit() and len(number) < 11 and int(row[3], 16) & _LISTENS:
                found[int(number)] = _Name(int(number), row[6].decode())
    return [found[pid] for pid in sorted(found)]


_LISTENS: Final = 0x10000  # __SO_ACCEPTCON


def _user_of(pid: int) -> int:
    """Return the effective user of a process, -1 where there is none."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def _holds(name: _Name) -> bool:
    """Tell whether a process has the socket at the address that has its pid."""
    wanted = f"socket:[{name.inode}]"
    folder = f"/proc/{name.pid}/fd"
    try:
        return any(_link(f"{folder}/{fd}") == wanted for fd in os.listdir(folder))
    except OSError:
        return False


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _take(one: Survivor, wait_s: float, log: logs.Log) -> list[int]:
    """Return the sockets of an orphan that begins to give, none if it gives what is none."""
    fds: list[int] = []
    end = time.monotonic() + wait_s
    owners = (0, os.geteuid())
    fault = ""
    while not fault:
        try:
            message = one.channel.receive()
            fds += message.fds
            faults = [inherited.fault_of(fd, owners) for fd in message.fds]
            fault = next(filter(None, faults), "")
            if message.command != channels.SOCKETS:
                fault = "something else"
            (is_last,) = SOCKETS_GIVEN.decode(message.payload)
        except BlockingIOError:
            left = min(LEAST_S, end - time.monotonic())
            if left <= 0 or not channels.wait_readable([one.channel.fileno()], left):
                fault = "nothing more in time"
            continue
        except (CodecError, EOFError, OSError) as error:
            fault = str(error)
            break
        if is_last and not fault:
            return fds
        if not message.fds or len(fds) > MAX_SOCKETS:
            fault = fault or "too few or too many"
    port.close_all(fds)
    log.error(
        logs.WARN,
        f"worker process {one.pid} that outlived its master gives no listening sockets: {fault}",
    )
    one.refuse()
    return []


def _drop(listenings: Iterable[Listening]) -> None:
    """Close sockets that are another orphan's as well."""
    for listening in listenings:
        for sock in listening.socks:
            sock.close()
