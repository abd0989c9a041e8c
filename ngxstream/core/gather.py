"""Lines of log files on their way to write(2): those of one turn of the loop go together.

Answers for the write(2) of ngx_log.c and of ngx_stream_log_write, where each line has its own.

1. Lines of one file are written in the order in which they were said, whoever says them and
   under whichever name, and whole: a write has all of its lines or, longer than the limit, one.
2. Between turns nothing waits: a loop that sleeps, a start, a fork or an exit has nothing to lose.
   A process that is killed inside of a turn loses what that turn has said so far.
3. Who says many short lines of text in a turn has them put behind one another as they are, behind
   a `head` that is made once: they become bytes together, when they are written.
4. An alert, standard error and what is neither file nor pipe (a terminal, a socket, whose reader
   may take a write for a message) is written at once, behind all that was said before it.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ngxstream.core.files import OpenFile

LIMIT: Final = 65536  # bytes of a write; into a pipe PIPE_BUF, or other processes' lines cut ours
LINES: Final = 256  # of text in a write
SHORT: Final = 200  # characters of such a line behind its head, so that LIMIT holds


class Gatherer:
    """What a process has said in this turn and not written yet."""

    __slots__ = ("active", "waiting", "_chunks")

    def __init__(self) -> None:
        """Gather nothing until a turn begins."""
        self.active = False  # in a turn
        self.waiting: list[Chunk] = []  # those with lines, in the order of their first ones
        # by device and inode: names of one file share a chunk
        self._chunks: weakref.WeakValueDictionary[tuple[int, int], Chunk]
        self._chunks = weakref.WeakValueDictionary()

    def chunk_of(self, file: OpenFile) -> Chunk:
        """Return where lines for a file wait."""
        try:
            info = os.fstat(file.fd)
        except OSError:
            return Chunk(self)
        if not file.path or not (stat.S_ISREG(info.st_mode) or stat.S_ISFIFO(info.st_mode)):
            return Chunk(self)
        limit = LIMIT
        if stat.S_ISFIFO(info.st_mode):  # one that does not block takes what it has room for
            limit = select.PIPE_BUF if os.get_blocking(file.fd) else 0
        return self._chunks.setdefault((info.st_dev, info.st_ino), Chunk(self, limit))

    def write(self) -> None:
        """Write all that waits."""
        waiting = self.waiting
        while waiting:
            waiting.pop(0).write()


class Chunk:
    """Lines that wait for one file."""

    __slots__ = (
        "gatherer", "heads", "limit", "texts", "_lines", "_size", "_file", "_spell", "_tell",
        "__weakref__",
    )

    def __init__(self, gatherer: Gatherer, limit: int = 0) -> None:
        """Args: limit: bytes of one write, 0 for a line in each."""
        self.gatherer = gatherer
        self.limit = limit
        # what lines of text begin with, by their level; nothing while they may not be put here
        self.heads: dict[int, str] = {}
        self.texts: list[str] = []  # behind all of _lines
        self._spell: Callable[[list[str]], bytes]
        self._lines: list[bytes] = []
        self._size = 0
        self._file: OpenFile
        self._tell: list[Callable[[OSError], None]] = []

    def add(self, line: bytes, file: OpenFile, tell: Callable[[OSError], None]) -> None:
        """Take a line, to be written to the file; `tell` is called if it cannot be."""
        if self.texts:
            self._take_texts()
        size = self._size + len(line)
        if size > self.limit and self._lines:
            self.gatherer.write()
            size = len(line)
        if not self._lines:
            self.gatherer.waiting.append(self)
        self._lines.append(line)
        self._size = size
        self._file = file
        self._tell.append(tell)
        if size > self.limit or not self.gatherer.active:
            self.gatherer.write()

    def begin_texts(self, level: int, head: str, file: OpenFile,
                    spell: Callable[[list[str]], bytes],
                    tell: Callable[[OSError], None]) -> bool:
        """Take lines of text of a level until the next write. Returns: False where none are taken

        Whoever says one appends it to `texts`, behind its head and with its line feed, and calls
        write() of the gatherer at LINES of them. Args: spell: makes the bytes; others as of add()
        """
        if self.limit < LIMIT or not self.gatherer.active:
            return False
        if not self._lines and not self.texts:
            self.gatherer.waiting.append(self)
        self.heads[level] = head
        self._file = file
        self._spell = spell
        self._tell.append(tell)
        return True

    def _take_texts(self) -> None:
        """Put the lines of text among the others, in their place."""
        data = self._spell(self.texts)
        self.texts = []
        self._lines.append(data)
        self._size += len(data)

    def write(self) -> None:
        """Write all lines; what is left of a short write is tried again, until it fails."""
        if self.heads:
            self.heads = {}
            if self.texts:
                self._take_texts()
        data, tell, fd = b"".join(self._lines), self._tell, self._file.fd
        self._lines, self._tell, self._size = [], [], 0
        try:
            while data:
                written = os.write(fd, data)
                if not written:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                data = data[written:]
        except OSError as error:
            for each in tell:
                each(error)
