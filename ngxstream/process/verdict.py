"""The result of a reload, sent to whoever asked for it: `-s reload` waits for it and fails with it.

nginx has no counterpart: its `-s reload` sends a signal and leaves, and why a configuration was
refused is in the error log alone.

1. The master listens at a path beside its pid file, with mode 0600: its own user and root alone can
   connect, and nobody else can take a place in the backlog. Whoever can read the pid file's folder
   finds it, in any network namespace. Whoever wants a verdict connects before HUP is sent.
2. On HUP the master admits all who have connected by then, reads the configuration, and tells
   them. Signals that merge into one are so answered all.
3. Where nobody listens (no path, an older master), `-s reload` does what nginx's does. Where the
   backlog is full it tries again, and fails when the time is up.
4. The configuration is checked by the master alone, once; its errors and warnings are passed on.
5. Both sides check the peer's credentials: the master answers its own user and root, the other
   side accepts a result from the process that it has signalled only.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final

from ngxstream.core import errors, log
from ngxstream.ipc import port

PATIENCE_S: Final = 90.0  # what systemd grants to an ExecReload too
AGAIN_S: Final = 0.05  # before another try where the backlog is full
BACKLOG: Final = 64
MAX_COMPLAINTS: Final = 12  # told; a range of ports in use has as many as ports, five times over
MAX_TEXT: Final = 32 * log.MAX_LINE  # what they and as many warnings come to, and some more
ACCEPTED: Final = b"+"
REFUSED: Final = b"-"
SUFFIX: Final = ".reload"
_SHORT: Final = 100  # bytes of a path that fit into a sockaddr_un, whatever is put before


def path_of(pid_path: str) -> str:
    """Return where the master of a pid file listens."""
    return pid_path + SUFFIX


class Server:
    """Where the master tells verdicts. Nothing here blocks."""

    __slots__ = ("_inode", "_log", "_path", "_sock", "_waiting")

    def __init__(self, to: log.Log, pid_path: str) -> None:
        """Listen; where that fails nobody is told, and the log says so."""
        self._log = to
        self._path = ""
        self._inode = 0
        self._waiting: list[socket.socket] = []
        self._sock: socket.socket | None = None
        self.move(pid_path)

    def move(self, pid_path: str) -> None:
        """Listen beside this pid file from now on, in the place of whoever did before."""
        path = path_of(pid_path)
        self._leave()
        try:
            if _is_regular(pid_path):  # /dev/null may be one, too
                _remove(path)
                with _short(path) as address:
                    self._sock = port.listen(address, BACKLOG)
                self._path, self._inode = path, os.lstat(path).st_ino
        except OSError as error:
            self._log.error(
                log.NOTICE,
                f"-s reload will not be told how it went: {path} cannot be listened at",
                error,
            )

    def restore(self) -> None:
        """Listen again where the path was removed; where another master listens, leave it to it."""
        pid_path = self._path.removesuffix(SUFFIX)
        if self._path and os.path.exists(pid_path) and not os.path.lexists(self._path):
            self.move(pid_path)

    def admit(self) -> None:
        """Take in all who wait for the verdict on what is read from now on."""
        while self._sock is not None:
            try:
                asking = port.accept(self._sock)
            except BlockingIOError:
                return
            except OSError as error:  # no descriptor is left: they wait for the next verdict
                self._log.error(log.ALERT, "the result of the reload could not be sent", error)
                return
            if port.peer_of(asking)[1] not in (0, os.geteuid()):
                asking.close()
                continue
            asking.setblocking(False)
            self._waiting.append(asking)

    def accept(self, text: str = "") -> None:
        """Tell them that the configuration serves now. Args: text: lines of warnings"""
        self._tell(ACCEPTED + log.encode(text)[: MAX_TEXT - 1])

    def refuse(self, text: str) -> None:
        """Tell them that it does not, and why. Args: text: lines as the console says them"""
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
        """Leave, and take the path away, unless another master listens there by now."""
        for asking in self._waiting:
            asking.close()
        self._waiting.clear()
        self._leave()

    def _leave(self) -> None:
        path, self._path = self._path, ""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        with contextlib.suppress(OSError):
            if path and os.lstat(path).st_ino == self._inode:
                os.unlink(path)


def _is_regular(path: str) -> bool:
    return stat.S_ISREG(os.lstat(path).st_mode)


def _remove(path: str) -> None:
    """Remove what a master that was killed, or an older one, has left. Raises: OSError"""
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        return


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """Give an address for a path that may be too long for a socket address. Raises: OSError"""
    if len(os.fsencode(path)) <= _SHORT:
        yield path
        return
    folder, _, name = path.rpartition("/")
    fd = os.open(folder or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


class Collector(log.Log):
    """A log that also remembers errors: a few lines, each once."""

    __slots__ = ("_first", "_last", "_more", "_warned")

    def __init__(self, to: log.Log) -> None:
        """Args: to: where it writes as well"""
        super().__init__(to.targets, clock=to.clock, console=to.console)
        self._first: dict[str, None] = {}
        self._warned: dict[str, None] = {}  # before the first of those
        self._last = ""  # what came last of all, where _first was full
        self._more = False  # others were between these

    def write(self, level: int, text: str) -> None:
        """Write a line, and keep it if it is worse than a warning."""
        line = f"[{log.NAMES[level]}] {text}"[: log.MAX_LINE]
        if level < log.WARN:
            self._keep(line)
        elif level == log.WARN and not self._first and len(self._warned) < MAX_COMPLAINTS:
            self._warned[line] = None
        super().write(level, text)

    def _keep(self, line: str) -> None:
        if line in self._first:
            return
        if len(self._first) < MAX_COMPLAINTS:
            self._first[line] = None
            return
        self._more = self._more or self._last not in ("", line)
        self._last = line

    @property
    def warnings(self) -> str:
        """What was warned of while nothing was wrong yet, a line each; the first ones."""
        return "\n".join(self._warned)

    @property
    def text(self) -> str:
        """What was wrong, a line each: the first ones, and the last one."""
        more = ["[notice] the error log says more"] if self._more else []
        return "\n".join([*self._first, *more, *([self._last] if self._last else [])])


class BusyError(errors.NgxError):
    """the master process has no place for another who asks it to reload; it was not asked"""

    level = "emerg"


class Request:
    """One who asks: connected before the signal is sent."""

    __slots__ = ("_end", "_patience_s", "_sock")

    def __init__(self, pid: int, pid_path: str, patience_s: float = PATIENCE_S) -> None:
        """Connect to the master of that pid, if it tells verdicts.

        Args: patience_s: how long connecting and waiting may take together. Raises: BusyError
        """
        self._patience_s = patience_s
        self._end = time.monotonic() + patience_s
        self._sock: socket.socket | None = None
        while True:
            try:
                with _short(path_of(pid_path)) as address:
                    sock = port.connect(address)
            except BlockingIOError:
                if time.monotonic() + AGAIN_S > self._end:
                    raise BusyError from None
                select.select((), (), (), AGAIN_S)
                continue
            except OSError:
                return
            break
        if port.peer_of(sock)[0] != pid:
            sock.close()
            return
        self._sock = sock

    @property
    def is_heard(self) -> bool:
        """Whether there is somebody to ask."""
        return self._sock is not None

    def wait(self, say: Callable[[str], None]) -> bool:
        """Wait for the verdict and say what was wrong. Returns: False for a refusal, or no answer

        Where nobody listens the result is not known: True.
        """
        if self._sock is None:
            return True
        with self._sock as sock:
            sock.settimeout(max(0.001, self._end - time.monotonic()))
            try:
                message = sock.recv(MAX_TEXT)
            except TimeoutError:
                say(f"[emerg] the master process did not say within {self._patience_s:g}s whether "
                    "it reloads")
                return False
            except OSError:
                message = b""
        accepted = message[:1] == ACCEPTED
        lines = [*filter(None, message[1:].decode("utf-8", "surrogateescape").split("\n"))]
        if not (lines or accepted):
            lines = ["[emerg] the master process ended before it reloaded"]
        for line in lines:
            say(line)
        return accepted

