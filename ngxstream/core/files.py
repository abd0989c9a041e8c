"""Files that are appended to and reopened on a signal: every log goes through one
(ngx_conf_file.c ngx_conf_open_file, ngx_cycle.c ngx_reopen_files).

The table of a configuration holds one OpenFile per path, whoever asks: an error_log and an
access_log of the same path share a descriptor. The master opens them all before it forks, so that
workers without rights can write; after a USR1 each process opens the new file for itself, and the
master gives it to the workers' user first.

/dev/stdout and /dev/stderr, and whatever links to them, are descriptors that the process has. The
kernel opens them anew only where it can: not if they are sockets (as under systemd), or another
user's pipe. Then the descriptor itself is used, where nginx refuses to start.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, gather

if TYPE_CHECKING:
    from ngxstream.core.log import Log

EMERG: Final = 1  # core/log.py builds on this module
MODE: Final = 0o644
FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
CLOSED: Final = -1
_OWN: Final = re.compile(r"/proc/(?:self|thread-self|\d+)(?:/task/\d+)?/fd")
_MAX_LINKS: Final = 40


def c_string(text: str) -> str:
    """Return what the C library sees of a text: it ends at the first NUL."""
    return text.partition("\0")[0]


def _bytes(path: str) -> bytes:
    return c_string(path).encode("utf-8", "surrogateescape")


def own_descriptor(path: str) -> int | None:
    """Return the number of the descriptor of this process that a path names, None for a file.

    /dev/stdout, /dev/fd/3, /proc/self/fd/1, or a link to one of these
    """
    for _ in range(_MAX_LINKS):
        folder, name = os.path.split(path)
        real = os.path.realpath(folder)
        if _OWN.fullmatch(real):
            own = os.path.realpath("/proc/self/fd"), os.path.realpath("/proc/thread-self/fd")
            return int(name) if real in own and name.isdigit() else None
        try:
            path = os.path.join(folder, os.readlink(path))
        except (OSError, ValueError):
            return None
    return None


def _open(path: str) -> int:
    """Open a path for appending, or get another descriptor of what it is here. Raises: OSError"""
    try:
        return os.open(_bytes(path), FLAGS, MODE)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EACCES):
            raise
        own = own_descriptor(path)
        if own is None:
            raise
        return os.dup(own)


class OpenFile:
    """One file that is appended to; standard error has the path "" and the descriptor 2."""

    __slots__ = (
        "path",   # str: absolute; "" for standard error
        "fd",     # int: CLOSED until the cycle has opened it
        "flush",  # (() -> None) | None: called before a reopening, for whoever buffers
        "chunk",  # gather.Chunk: lines that wait until the turn ends
    )

    def __init__(self, path: str, fd: int = CLOSED) -> None:
        self.path = path
        self.fd = fd
        self.flush: Callable[[], None] | None = None
        self.chunk = gather.Chunk(gather.Gatherer())

    def gather(self, lines: gather.Gatherer) -> None:
        """Have lines wait with others of the process until the turn of its loop ends."""
        self.chunk.gatherer.write()
        self.chunk = lines.chunk_of(self)

    def open(self) -> None:
        """Open for appending, made with mode 0644 if it is not there.

        Raises: UnplacedError with nginx's words
        """
        if self.fd != CLOSED:
            return
        try:
            self.fd = _open(self.path)
        except OSError as error:
            raise errors.UnplacedError(f'open() "{self.path}" failed', errno=error) from None

    def close(self) -> None:
        """Close it; standard error stays."""
        if self.path and self.fd != CLOSED:
            self.chunk.gatherer.write()
            fd, self.fd = self.fd, CLOSED
            os.close(fd)

    def reopen(self, log: Log, owner: int | None = None) -> None:
        """Open the path anew and drop the old descriptor; keep it where that fails.

        Args: owner: the user id the file shall belong to (the master's business), None to
        leave it; what fails is said as emerg
        Source: ngx_cycle.c ngx_reopen_files
        """
        if not self.path:
            return
        if self.flush is not None:
            self.flush()
        self.chunk.gatherer.write()
        path = _bytes(self.path)
        try:
            fd = _open(self.path)
        except OSError as error:
            log.error(EMERG, f'open() "{self.path}" failed', error)
            return
        if owner is not None and own_descriptor(self.path) is not None:
            owner = None  # what it leads to is not the log's alone
        if owner is not None and not self._give(path, owner, log):
            os.close(fd)
            return
        old, self.fd = self.fd, fd
        self.gather(self.chunk.gatherer)
        if old != CLOSED:
            os.close(old)

    def _give(self, path: bytes, owner: int, log: Log) -> bool:
        """Have the file belong to `owner` and be writable by it."""
        step = "stat"
        try:
            info = os.stat(path)
            if info.st_uid != owner:
                step = "chown"
                os.chown(path, owner, -1)
            wanted = stat.S_IRUSR | stat.S_IWUSR
            if info.st_mode & wanted != wanted:
                step = "chmod"
                os.chmod(path, stat.S_IMODE(info.st_mode) | wanted)
        except OSError as error:
            log.error(EMERG, f'{step}() "{self.path}" failed', error)
            return False
        return True


class OpenFiles:
    """The files of one configuration, by path. Source: ngx_cycle.c open_files"""

    __slots__ = ("_files",)

    def __init__(self) -> None:
        self._files: dict[str, OpenFile] = {}

    def get(self, path: str) -> OpenFile:
        """Return the file of a path, the same one for everybody. Args: path: absolute"""
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = OpenFile(c_string(path))
        return file

    def stderr(self) -> OpenFile:
        """Return standard error."""
        file = self._files.get("")
        if file is None:
            file = self._files[""] = OpenFile("", 2)
        return file

    @property
    def uses_stderr(self) -> bool:
        """Whether somebody logs to standard error, which then must not be redirected."""
        return "" in self._files

    def __iter__(self) -> Iterator[OpenFile]:
        """Iterate over the files in the order in which they were asked for."""
        return iter(self._files.values())

    def open_all(self) -> None:
        """Open every file. Raises: UnplacedError; what was opened by then is closed again"""
        opened: list[OpenFile] = []
        try:
            for file in self._files.values():
                if file.fd == CLOSED:
                    file.open()
                    opened.append(file)
        except errors.UnplacedError:
            for file in opened:
                file.close()
            raise

    def reopen_all(self, log: Log, owner: int | None = None) -> None:
        """Reopen every file, as on USR1; see OpenFile.reopen."""
        for file in self._files.values():
            file.reopen(log, owner)

    def close_all(self) -> None:
        """Close every file: the configuration is abandoned or replaced."""
        for file in self._files.values():
            file.close()
