"""How a new master finds the workers that outlived theirs (orphan.py): it gets their listening
sockets and their UDP clients, and they leave when it serves.

nginx has no counterpart: after SIGKILL of the master its workers keep the addresses, and a new
master fails to bind.

1. A new master finds the orphans of its pid file in the kernel's table of Unix sockets, before it
   binds, and connects to all. The connection is an orphan's channel from then on: it obeys.
2. The orphan of the newest configuration gives its listening sockets. They are the same sockets:
   nobody is refused, and nothing that is queued in them is lost.
3. When the new master's workers have begun, orphans of the same configuration, to the byte, hand
   their UDP clients over as at a reload, and all leave when their sessions have ended. Should the
   new master die before that, they are orphans again.
4. Only processes of root, of the master's own user and of the configured one are asked. Whose a
   process is, is known before it is waited for. One deadline holds for all that are asked.
   While one that was asked is silent, the next is asked too, so silent ones delay it little.
5. What is given has to be sockets that a master made (or a service manager for it), that listen or
   are bound, and are not connected. If anything else comes, all of that orphan's descriptors are
   closed, and the next one is asked. Orphans hand UDP clients over only if they state the same
   configuration as the one whose sockets were taken.
6. Where no master lives, `-s` sends the command to the orphans. They wait for a master again when
   it has left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import log as logs
from ngxstream.event import inherited
from ngxstream.ipc import port
from ngxstream.ipc.codec import CodecError
from ngxstream.process import channel as channels
from ngxstream.process import orphan, pidfile
from ngxstream.process.channel import Channel

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.process.cycle import Cycle
    from ngxstream.process.directives import MainConf
    from ngxstream.process.options import Options

MEET_S: Final = 2.0  # how long all orphans together may take to say who they are
GIVE_S: Final = 4.0  # and to give, from the same moment on
LEAST_S: Final = 0.25  # how long the one that sends sockets may pause
ASK_S: Final = 1.0  # how much all those that are asked and stay silent may delay it together
OBEY_S: Final = 2.0  # how long all orphans together may take to do what -s tells them
AGAIN_S: Final = 0.01  # before another try to connect
MAX_SOCKETS: Final = 1 << 20
TABLE: Final = "/proc/net/unix"

COMMANDS: Final = {
    "stop": channels.TERMINATE, "quit": channels.QUIT, "reopen": channels.REOPEN
}  # of -s


class Survivor:
    """An orphan as the new master knows it."""

    __slots__ = ("channel", "digest", "generation", "is_known", "pid", "uid")

    def __init__(self, pid: int, uid: int, channel: Channel) -> None:
        self.pid = pid
        self.uid = uid
        self.channel = channel
        self.generation = 0  # this and the digest are what it says of itself
        self.digest = ""
        self.is_known = False  # it has said it

    def read(self) -> None:
        """Read what it says of itself; ignore what is malformed."""
        try:
            message = self.channel.receive()
            port.close_all(message.fds)
            if message.command == channels.ORPHAN:
                self.generation, self.digest = orphan.ORPHANED.decode(message.payload)
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
                    if error.errno != errno.EPROTO:  # malformed; there may be more behind it
                        raise


class Survivors:
    """All orphans of a pid file."""

    __slots__ = ("_known", "_foreign", "_users", "all")

    def __init__(self) -> None:
        self.all: list[Survivor] = []
        self._known: set[int] = set()
        self._foreign = 0  # processes of other users that were there
        self._users: frozenset[int] = frozenset((0, os.geteuid()))

    def matching(self, known: Iterable[Cycle]) -> list[Survivor]:
        """Return those of the newest generation that serve by a configuration of `known`.

        Their generation is the same, and the text to the byte: what their sessions name is there.
        """
        digests = {cycle.generation: orphan.digest_of(cycle) for cycle in known}
        same = [one for one in self.all if one.digest and one.digest == digests.get(one.generation)]
        newest = max((one.generation for one in same), default=0)
        return [one for one in same if one.generation == newest]

    def collect(self, cycle: Cycle) -> list[Listening]:
        """Find all orphans of the cycle's pid file and have one give its sockets.

        A cycle of the same text goes on with the generation of theirs: sessions name it.
        """
        end = time.monotonic() + GIVE_S
        self._meet_all(cycle.main, cycle.options)
        if self._foreign:
            cycle.log.error(
                logs.WARN,
                f"{self._foreign} processes of other users than root and the configured one "
                "pretend that they outlived a master, they are not listened to",
            )
        stream = cycle.stream
        named = {conf.options.key for conf in stream.listenings} if stream is not None else set()
        best: list[Listening] = []
        source: Survivor | None = None
        with contextlib.closing(self._offers(end, cycle.log)) as offers:
            for one, fds in offers:
                found = inherited.adopt(fds, cycle.log)
                is_wanted = not named.isdisjoint(listening.options.key for listening in found)
                if best and not is_wanted:
                    _drop(found)
                    continue
                _drop(best)
                best, source = found, one
                if is_wanted or not named:
                    break
        if source is not None:
            cycle.log.error(
                logs.NOTICE,
                f"{len(self.all)} worker processes outlived their master, "
                f"{sum(len(one.socks) for one in best)} listening sockets taken over from "
                f"{source.pid}",
            )
            if source.digest == orphan.digest_of(cycle):
                cycle.generation = source.generation
                cycle.takes_over = cycle.main.master_process
        return best

    def _offers(
        self, end: float, log: logs.Log
    ) -> Generator[tuple[Survivor, list[int]], None, None]:
        """Ask for listening sockets, the newest generation first; yield orphans and what they sent.

        Whenever all that were asked are silent for a moment, one more is asked.
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
        """Send a command to all orphans of a pid file, and wait until they have it.

        Returns: the pids of those who have, and of those who have not
        """
        self._meet_all(main, options)
        told = {one.channel.fileno(): one for one in self.all if pidfile.is_ours(one.pid)}
        pids = {one.pid for one in told.values()}
        for one in told.values():
            one.channel.send(command)
            with contextlib.suppress(OSError):
                one.channel.sock.shutdown(socket.SHUT_WR)  # it closes its end when it has read all
        done: list[int] = []
        end = time.monotonic() + OBEY_S
        while told and (left := end - time.monotonic()) > 0:
            for fd in channels.wait_readable(told, left):
                if not port.is_gone(told[fd].channel.sock):
                    told[fd].read()
                elif (one := told.pop(fd)).is_known:
                    done.append(one.pid)
        return sorted(done), sorted(pids.difference(done))

    def pids(self, main: MainConf, options: Options) -> list[int]:
        """Return the pids of all who wait for a master, without a word to them."""
        users = self._users | ({main.user.uid} if main.user is not None else set())
        prefix = orphan.prefix_of(orphan.place_of(main, options))
        return sorted(name.pid for name in _names(prefix) if pidfile.user_of(name.pid) in users)

    def _meet_all(self, main: MainConf, options: Options) -> None:
        if main.user is not None:
            self._users |= {main.user.uid}
        self._foreign = 0
        self.meet(orphan.place_of(main, options))

    def meet(self, path: str) -> list[Survivor]:
        """Connect to the orphans that are not known yet, and read who they are.

        Args: path: as of orphan.place_of(). Returns: the new ones
        """
        end = time.monotonic() + MEET_S
        new = self._connect_all(path, end)
        self._known.update(one.pid for one in new)
        self.all += new
        waiting = {one.channel.fileno(): one for one in new}
        while waiting and (left := end - time.monotonic()) > 0:
            for fd in channels.wait_readable(waiting, left):
                waiting.pop(fd).read()
        return new

    def _connect_all(self, path: str, end: float) -> list[Survivor]:
        """Connect to all who may be orphans of a pid file, until the end of the time at most."""
        prefix = orphan.prefix_of(path)
        users = self._users
        found: list[Survivor] = []
        names = []
        for name in _names(prefix):
            if pidfile.user_of(name.pid) not in users:
                self._foreign += 1
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
                    channel = Channel.to_worker(sock, uid, max_fds=orphan.CHUNK)
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
        return any(map(pidfile.is_ours, self.living()))

    def living(self) -> list[int]:
        """Return the pids of those whose ends of the channels are open."""
        return [
            one.pid for one in self.all
            if one.channel.fileno() >= 0 and not port.is_gone(one.channel.sock)
        ]

    def tell(self, command: int) -> None:
        """Send a command to all of them."""
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
    """Return the sockets that an orphan sends; none if anything else is among them."""
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
            (is_last,) = orphan.SOCKETS_GIVEN.decode(message.payload)
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
