"""The upgrade on the fly: what two masters, the old binary's and the new one's, have to tell each
other so that UDP sessions can go from the one's workers to the other's, and back.

Answers for ngx_exec_new_binary (src/core/nginx.c); the listening sockets go as in nginx, by the
environment variable NGINX. nginx has nothing for sessions. Here:

1. The UDP clients belong to the workers of one master at a time. The new one's read nothing of
   theirs until the old one's are told to leave (WINCH, QUIT) and hand over; and the other way round
   when the upgrade is taken back (HUP to the old, QUIT to the new). TCP is accepted by both.
2. Each master tells the other the mailboxes of its workers, the addresses it listens at, and the
   texts of the configurations its sessions live by: the other one reads them as it read its own.
   A generation's number means the same configuration to both; a new binary counts from far above.
3. What one says waits in the link until the other needs it: a master has no time to listen.

The link is a pair of sockets between two processes of one user; only the masters have it.
"""

from __future__ import annotations

import array
import os
import pickle
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.event import inherited
from ngxstream.event import loop as loops
from ngxstream.event.listening import Listening
from ngxstream.process import channel as channels

if TYPE_CHECKING:
    from ngxstream.process.cycle import Cycle

VARIABLE: Final = "NGXSTREAM_UPGRADE"
OLDBIN: Final = ".oldbin"
STEP: Final = 1_000_003  # generations of a new binary count from so far above the old one's
WAIT_S: Final = 5.0  # how long a master may take to say something the other one needs
MAX_FDS: Final = 253
_INT: Final = array.array("i").itemsize
# What Python and a service manager have put into the environment; `env` is about nginx's programs
KEPT: Final = ("PYTHON", "NOTIFY_SOCKET", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PATH", loops.POISON)


class Record(NamedTuple):
    """One configuration some session lives by. shape: steered tells the workers of an address"""

    generation: int
    texts: Mapping[str, bytes]
    steered: Mapping[Any, int]


class Estate(NamedTuple):
    """What one master tells the other. shape: no writers while it has no workers"""

    pid: int
    records: tuple[Record, ...]
    keys: tuple[Any, ...]
    writers: list[socket.socket]


def record_of(cycle: Cycle) -> Record:
    """Write a configuration down."""
    texts = {
        file.path: file.raw for source in cycle.reading.sources for file in source.files
    }
    listenings = (*cycle.listenings, *cycle.lingering)
    return Record(
        cycle.generation, texts, {one.options.key: one.steered for one in listenings}
    )


class Link:
    """One master's end. Nothing here blocks but `latest` where it is asked to wait."""

    __slots__ = ("_sock", "last")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.last: Estate | None = None

    @staticmethod
    def pair() -> tuple[Link, socket.socket]:
        """Return the end of this master and the one for the other."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Link(ours), theirs

    @classmethod
    def of_environment(cls) -> Link | None:
        """Return the link to the master that started this one, if one did."""
        value = os.environ.get(VARIABLE, "")
        if not value.isdigit():
            return None
        try:
            os.set_inheritable(int(value), False)
            sock = socket.socket(fileno=int(value))
        except OSError:
            return None
        if sock.family != socket.AF_UNIX:
            sock.detach()
            return None
        return cls(sock)

    def tell(
        self, cycles: Iterable[Cycle], keys: Iterable[Any], writers: Sequence[socket.socket]
    ) -> None:
        """Say what there is. A master that is gone does not hear it."""
        data = pickle.dumps((os.getpid(), tuple(map(record_of, cycles)), tuple(keys)), 5)
        fd = os.memfd_create("estate", os.MFD_CLOEXEC)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            fds = [fd, *(sock.fileno() for sock in writers)][:MAX_FDS]
            socket.send_fds(self._sock, [b"estate"], fds)
        except OSError:
            pass
        finally:
            os.close(fd)

    def latest(self, wait_s: float = 0.0, *, writers: bool = False) -> Estate | None:
        """Return what the other master said last; with writers, the last that had some."""
        end = time.monotonic() + wait_s
        while True:
            while (estate := self._receive()) is not None:
                self.last = estate
            last = self.last
            if last is not None and (last.writers or not writers):
                return last
            left = end - time.monotonic()
            if left <= 0 or not channels.wait_readable([self._sock.fileno()], left):
                return None
            if not self._sock.recv(1, socket.MSG_PEEK):
                return None  # the other one is gone

    def _receive(self) -> Estate | None:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(
                64, socket.CMSG_LEN(MAX_FDS * _INT), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return None
        fds = [
            fd
            for level, kind, packed in ancillary
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            for fd in array.array("i", packed[: len(packed) - len(packed) % _INT])
        ]
        if not data or not fds:
            return None
        with open(fds[0], "rb") as file:
            file.seek(0)
            pid, records, keys = pickle.loads(file.read())
        return Estate(pid, records, keys, [socket.socket(fileno=fd) for fd in fds[1:]])

    def close(self) -> None:
        """Let go of the link."""
        self._sock.close()


def execute(
    words: Sequence[str],
    environment: dict[str, str],
    listenings: Iterable[Listening],
    link: socket.socket,
    blocked: Iterable[int],
) -> int:
    """Start the new binary; return its process id.

    shape: words are what this program was called by; listenings go by the variable NGINX;
    blocked are signals that the new one is to hear
    raises: OSError. source: ngx_exec_new_binary
    """
    listenings = list(listenings)
    environment = {
        **environment,
        inherited.VARIABLE: inherited.value_of(listenings),
        VARIABLE: str(link.fileno()),
    }
    lent = inherited.value_of(one for one in listenings if one.is_lent)
    if lent:
        environment[inherited.LENT_ON] = lent
    for name, value in os.environ.items():
        if name.startswith(KEPT):
            environment.setdefault(name, value)
    pid = os.fork()
    if pid:
        return pid
    try:
        for one in listenings:
            for sock in one.socks:
                os.set_inheritable(sock.fileno(), True)
        os.set_inheritable(link.fileno(), True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, list(blocked))  # exec keeps the mask
        os.execve(words[0], list(words), environment)
    finally:
        os._exit(1)

