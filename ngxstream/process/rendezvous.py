"""The rendezvous: where a new master finds the workers that outlived theirs, and gets their
listening sockets.

nginx has no counterpart: after SIGKILL of the master its workers keep the addresses, and a new
master fails to bind. Here the master listens, before it forks, on an abstract Unix socket whose
name follows from the pid file's path, and never accepts. Its workers inherit the socket; one that
sees its master die answers there: it sends its listening sockets, takes no new clients, and leaves
when its sessions have ended.

Nothing is believed that a stranger could say: the kernel tells each side the other's user, and
what the master takes is descriptors alone, whose addresses it asks the kernel for.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core import log as logs
from ngxstream.event import inherited, poller

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop

GIVE: Final = b"give"
MORE: Final = b"more"
LAST: Final = b"last"
ANSWER_S: Final = 1.0  # how long a worker may take to answer
CHUNK: Final = 250  # descriptors in a message
BACKLOG: Final = 64
_INT: Final = array.array("i").itemsize
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


def name_of(path: str) -> bytes:
    """Return the abstract name that belongs to a pid file."""
    digest = hashlib.blake2b(os.path.realpath(path).encode("utf-8", "surrogateescape"))
    return b"\0ngxstream-" + digest.hexdigest()[:32].encode()


def open_for(path: str) -> socket.socket | None:
    """Return the listening socket of a master; None when the name is taken."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.bind(name_of(path))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def collect(path: str, log: logs.Log) -> list[Listening]:
    """Ask all workers that outlived the master of a pid file for their listening sockets.

    returns: what they had; they take no new clients from then on
    """
    found: list[Listening] = []
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(ANSWER_S)
            try:
                sock.connect(name_of(path))
                _, uid, _ = _peer(sock)
                if uid != os.geteuid():
                    log.error(logs.WARN, f"workers of user {uid} were left alone")
                    return found
                sock.send(GIVE)
                pid, fds = _receive(sock)
            except OSError:
                return found  # nobody is there, or nobody who would answer
        if found:
            for fd in fds:
                os.close(fd)
            log.error(logs.NOTICE, f"worker process {pid} outlived its master and leaves")
            continue
        found = inherited.adopt(fds, log)
        log.error(
            logs.NOTICE,
            f"{len(fds)} listening sockets taken over from worker process {pid}, "
            "which outlived its master and leaves",
        )


def _receive(sock: socket.socket) -> tuple[int, list[int]]:
    """Return who answered, and its descriptors. raises: OSError"""
    fds: list[int] = []
    while True:
        data, ancillary, _, _ = sock.recvmsg(
            64, socket.CMSG_LEN(CHUNK * _INT), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, packed in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += array.array("i", packed[: len(packed) - len(packed) % _INT])
        word, _, pid = data.partition(b" ")
        if word == LAST and pid.isdigit():
            return int(pid), fds
        if word != MORE:
            for fd in fds:
                os.close(fd)
            raise OSError("no answer")


def _peer(sock: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of who listens, or connected, at the other end."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return pid, uid, gid


class Orphan:
    """A worker that waits for a new master, once its own has died."""

    __slots__ = ("_give", "_given", "_loop", "_owner", "_sock")

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        owner: int,
        give: Callable[[], Sequence[int]],
        given: Callable[[], None],
    ) -> None:
        """Answer from now on.

        shape: owner is the user id of the master; give() returns the listening descriptors,
        given() is called when a new master has them
        """
        self._loop = loop
        self._sock = sock
        self._owner = owner
        self._give = give
        self._given = given
        loop.register(sock.fileno(), self.on_readable, poller.LEVEL)

    def on_readable(self, mask: int) -> None:
        """Answer one new master."""
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return  # another worker was quicker
        with sock:
            sock.settimeout(ANSWER_S)
            with contextlib.suppress(OSError):
                if _peer(sock)[1] not in (0, self._owner) or sock.recv(16) != GIVE:
                    return
                fds = self._give()
                for at in range(0, len(fds), CHUNK):
                    socket.send_fds(sock, [MORE], fds[at : at + CHUNK])
                sock.send(b"%b %d" % (LAST, self._loop.pid))
                self._loop.unregister(self._sock.fileno())
                self._sock.close()
                self._given()
