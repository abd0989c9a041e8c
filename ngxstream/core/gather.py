"""Lines of log files on their way to write(2): those of one turn of the loop go together.

Answers for the write(2) of ngx_log.c and of ngx_stream_log_write, where each line has its own.

1. Lines of one file are written in the order in which they were said, whoever says them and
   under whichever name, and whole: a write has all of its lines or, longer than the limit, one.
2. Between turns nothing waits: a loop that sleeps, a start, a fork or an exit has nothing to lose.
   A process that is killed inside of a turn loses what that turn has said so far.
3. Who says many messages of one level in a turn has them kept as they are: they become lines, with
   one `head` before each, and bytes together, when they are written.
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
MESSAGES: Final = 256  # that wait; then they are written

Spell = Callable[[str, list[str]], list[bytes]]


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

    def write_before(self, fd: int) -> None:
        """Write all if something waits for a file that is now written to by another descriptor."""
        if self.waiting:
            info = os.fstat(fd)
            if self._chunks.get((info.st_dev, info.st_ino)) in self.waiting:
                self.write()


class Chunk:
    """Lines that wait for one file."""

    __slots__ = (
        "gatherer",
        "level",  # int: of the messages that may be put here, 0 for none
        "limit",
        "messages",  # list[str]: behind all of _lines
        "_file",
        "_head",  # str: what each of them begins with
        "_lines",  # list[bytes]: of one line or, no longer than the limit, several
        "_size",  # int: of _lines
        "_spell",
        "_tell",
        "__weakref__",
    )

    def __init__(self, gatherer: Gatherer, limit: int = 0) -> None:
        """Args: limit: bytes of one write, 0 for a line in each."""
        self.gatherer = gatherer
        self.limit = limit
        self.level = 0
        self.messages: list[str] = []
        self._head = ""
        self._spell: Spell
        self._lines: list[bytes] = []
        self._size = 0
        self._file: OpenFile
        self._tell: list[Callable[[OSError], None]] = []

    def add(self, line: bytes, file: OpenFile, tell: Callable[[OSError], None]) -> None:
        """Take a line, to be written to the file; `tell` is called if it cannot be."""
        self._end_messages()
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

    def begin_messages(self, level: int, head: str, file: OpenFile, spell: Spell,
                       tell: Callable[[OSError], None]) -> bool:
        """Take messages of a level until a line or another level comes, or all is written.

        Whoever has one appends it to `messages`, and calls write() of the gatherer at MESSAGES of
        them. Args: spell: makes lines of a head and messages; others as of add()
        Returns: False where none are taken
        """
        if self.limit < LIMIT or not self.gatherer.active:
            return False
        self._end_messages()
        if self._size >= self.limit:  # levels that take turns wait no longer than one does
            self.gatherer.write()
        if not self._lines:
            self.gatherer.waiting.append(self)
        self.level = level
        self._head = head
        self._file = file
        self._spell = spell
        self._tell.append(tell)
        return True

    def _end_messages(self) -> None:
        """Put the messages among the lines, in their place."""
        if self.level:
            self.level = 0
            messages, self.messages = self.messages, []
            lines = self._spell(self._head, messages)
            self._lines += lines
            self._size += sum(map(len, lines))

    def write(self) -> None:
        """Write all lines; what is left of a short write is tried again, until it fails."""
        try:
            self._end_messages()
        finally:  # messages that cannot be spelled keep no line back
            self._write()

    def _write(self) -> None:
        lines, tell, fd = self._lines, self._tell, self._file.fd
        pieces = [b"".join(lines)] if self._size <= self.limit else _pieces(lines, self.limit)
        self._lines, self._tell, self._size = [], [], 0
        try:
            for data in pieces:
                while data:
                    written = os.write(fd, data)
                    if not written:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    data = data[written:]  # noqa: PLW2901
        except OSError as error:
            for each in tell:
                each(error)


def _pieces(lines: list[bytes], limit: int) -> list[bytes]:
    """Join lines up to a limit; one that is longer stays alone."""
    pieces: list[bytes] = []
    piece: list[bytes] = []
    size = 0
    for line in lines:
        size += len(line)
        if size > limit and piece:
            pieces.append(b"".join(piece))
            piece, size = [], len(line)
        piece.append(line)
    return [*pieces, b"".join(piece)]
