"""The verdict on a reload, brought to whoever asked for it: `-s reload` waits and fails with it.

nginx has no counterpart: its `-s reload` sends a signal and leaves, and why a configuration was
refused is in the error log alone.

1. The master listens at an abstract Unix address that its pid names: its Desk. Whoever wants a
   verdict connects before it sends HUP, and waits.
2. On HUP the master admits all who have connected by then, reads the configuration, and tells
   them. Signals that merge into one are so answered all.
3. Who cannot connect (another net namespace, an older master) asks no more than nginx's would.
4. Both sides look at whom the kernel says they talk to: the master answers its own user and root,
   the other side believes the process that it has signalled.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from ngxstream.core import log

PATIENCE_S: Final = 90.0  # what systemd grants to an ExecReload too
BACKLOG: Final = 64
MAX_TEXT: Final = 16 * log.MAX_LINE
ACCEPTED: Final = b"+"
REFUSED: Final = b"-"
_UCRED: Final = struct.Struct("=iII")  # pid, uid, gid


def address_of(pid: int) -> str:
    """Return the abstract address of a master.

    Pids mean something in one pid namespace only, and containers may share the net namespace.
    """
    return f"\0ngxstream/{pid_namespace()}/{pid}/verdict"


def pid_namespace() -> int:
    """Return what tells this process's pid namespace from others; 0 for unknown."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end of a Unix connection."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(packed)
    return pid, uid


class Desk:
    """Where the master tells verdicts. Nothing here blocks."""

    __slots__ = ("_sock", "_waiting")

    def __init__(self, to: log.Log) -> None:
        """Open it; where that fails nobody is told, and the log says so."""
        self._waiting: list[socket.socket] = []
        self._sock: socket.socket | None = None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            sock.bind(address_of(os.getpid()))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            to.error(log.NOTICE, "-s reload will not be told how it went: bind() failed", error)
            return
        self._sock = sock

    def admit(self) -> None:
        """Take in all who wait for the verdict on what is read from now on."""
        while self._sock is not None:
            try:
                asking, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError:
                continue  # one who has left already
            if peer_of(asking)[1] not in (0, os.geteuid()):
                asking.close()
                continue
            asking.setblocking(False)
            self._waiting.append(asking)

    def accept(self) -> None:
        """Tell them that the configuration serves now."""
        self._tell(ACCEPTED)

    def refuse(self, text: str) -> None:
        """Tell them that it does not, and why. shape: lines as the console says them"""
        self._tell(REFUSED + log.encode(text)[: MAX_TEXT - 1])

    def _tell(self, message: bytes) -> None:
        for asking in self._waiting:
            with asking:
                try:
                    asking.send(message)
                except OSError:
                    continue  # did not wait
        self._waiting.clear()

    def close(self) -> None:
        """Close this process's copy: a worker's, or before another program is executed."""
        for asking in self._waiting:
            asking.close()
        self._waiting.clear()
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Hearing(log.Log):
    """A log that remembers what was wrong, beside writing it."""

    __slots__ = ("complaints",)

    def __init__(self, to: log.Log) -> None:
        """shape: writes where `to` does"""
        super().__init__(to.targets, clock=to.clock, console=to.console)
        self.complaints: list[str] = []

    def write(self, level: int, text: str) -> None:
        """Write a line, and keep it if it is worse than a warning."""
        if level < log.WARN:
            self.complaints.append(f"[{log.NAMES[level]}] {text}")
        super().write(level, text)

    @property
    def text(self) -> str:
        """What was wrong, a line each."""
        return "\n".join(self.complaints)


class Inquiry:
    """One who asks: connected before the signal is sent."""

    __slots__ = ("_sock",)

    def __init__(self, pid: int) -> None:
        """Connect to the master of that pid, if it tells verdicts."""
        self._sock: socket.socket | None = None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            sock.connect(address_of(pid))
            if peer_of(sock)[0] != pid:
                raise PermissionError
        except OSError:
            sock.close()
            return
        self._sock = sock

    def wait(self, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> bool:
        """Wait for the verdict and say what was wrong. returns: False for a refusal, or no answer

        Where there is nobody to ask, all is well, as far as anybody knows.
        """
        if self._sock is None:
            return True
        with self._sock as sock:
            sock.settimeout(patience_s)
            try:
                message = sock.recv(MAX_TEXT)
            except TimeoutError:
                say(f"[emerg] the master process did not say within {patience_s:g}s whether it "
                    "reloads")
                return False
            except OSError:
                message = b""
        if message[:1] == ACCEPTED:
            return True
        text = message[1:].decode("utf-8", "surrogateescape")
        for line in text.split("\n"):
            say(line or "[emerg] the master process ended before it reloaded")
        return False
