r"""The error log: levels, lines and the targets that receive them (ngx_log.c).

A Log is a set of targets, each with a threshold of its own; `Log.level` is the most talkative of
them, so that a caller pays one comparison for a line nobody wants. Writing never raises: a log
that cannot be written to must not take a session with it.

1. A line has at most MAX_LINE bytes with its line feed; gather.py writes it.
2. One message is one line of text in a target, whoever wrote what it quotes: a line feed, an
   escape, any character that is not to be printed, and bytes that are not UTF-8 are written as
   `\x1B` (core/escape.py). So nobody forges a line, colours it or hides one.
3. While the console is open (start-up, -t, -s), a message of warn or worse is also said there, as
   `nginx: [emerg] …`, unless a target has just written it to the same standard error.
"""

from __future__ import annotations

import errno
import mmap
import os
import traceback
from collections.abc import Iterable
from typing import Final, Protocol

from ngxstream.core import clock as clocks
from ngxstream.core import escape, files, gather

STDERR: Final = 0
EMERG: Final = 1
ALERT: Final = 2
CRIT: Final = 3
ERR: Final = 4
WARN: Final = 5
NOTICE: Final = 6
INFO: Final = 7
DEBUG: Final = 8

NAMES: Final = ("stderr", "emerg", "alert", "crit", "error", "warn", "notice", "info", "debug")
LEVELS: Final = {name: level for level, name in enumerate(NAMES) if level != STDERR}

MAX_LINE: Final = 2048  # NGX_MAX_ERROR_STR, the line feed included
ERRNO_ROOM: Final = 50  # of which an errno may claim the last
STDERR_FD: Final = 2
SHORT: Final = 1500  # characters of a message that no head makes too long



def encode(text: str) -> bytes:
    """Return the bytes of a message: those of the configuration unchanged, and never a failure."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def unexpected() -> str:
    """Return how the exception that is being handled, a fault of ours, is logged: on one line."""
    return "unexpected exception: " + traceback.format_exc().strip().replace("\n", " | ")


def _cut(data: bytes, end: int = MAX_LINE - 1) -> bytes:
    """Cut a line between characters, so that it has no more bytes than `end`."""
    if len(data) <= end:
        return data
    least = end - 4
    while end > least and data[end] & 0xC0 == 0x80:  # inside a character of UTF-8
        end -= 1
    return data[:end]


def _spell(head: str, messages: list[str]) -> list[bytes]:
    """Return lines of messages behind one head: together, if nothing is to be escaped or cut."""
    if not messages:
        return []
    text = "".join(messages)
    if (
        len(max(messages, key=len)) <= SHORT and text.isascii()
        and escape.is_printed(text.encode())
    ):
        data = encode(head + f"\n{head}".join(messages) + "\n")
        if len(data) <= gather.LIMIT:
            return [data]
    return [_line(_cut(encode(head + message))) for message in messages]


def _line(data: bytes, keep: str = "") -> bytes:
    """Return the bytes of one line: escaped, and with its line feed."""
    return escape.printed(data, keep)[: MAX_LINE - 1] + b"\n"


class _Process:
    """The pid, and how lines name it; asked of the kernel once in a process, also a forked one."""

    def __init__(self) -> None:
        self._learn()
        os.register_at_fork(after_in_child=self._learn)

    def _learn(self) -> None:
        self.pid = pid = os.getpid()
        self.mark = f"{pid}#{pid}: "


PROCESS: Final = _Process()


class Target(Protocol):
    """Something that receives lines: a file, a syslog server, a ring in memory."""

    level: int  # the most talkative level it wants

    @property
    def on_stderr(self) -> bool:
        """Whether what is written appears on standard error."""

    def write(self, level: int, line: bytes) -> None:
        """Take one line with its line feed, at most MAX_LINE bytes; never raises."""

    def with_level(self, level: int) -> Target:
        """Return the same target with another threshold."""


class FileTarget:
    """A file, or standard error."""

    __slots__ = (
        "level",
        "file",         # files.OpenFile, shared with whoever logs to the same path
        "clock",
        "_full_until",  # int: the second in which the disk was full; nothing is tried in it
    )

    def __init__(self, file: files.OpenFile, level: int, clock: clocks.Clock) -> None:
        """The file may be opened later; lines before that are lost."""
        self.file = file
        self.level = level
        self.clock = clock
        self._full_until = -1

    @property
    def on_stderr(self) -> bool:
        """Whether the lines appear on standard error."""
        return self.file.fd == STDERR_FD

    def write(self, level: int, line: bytes) -> None:
        """Append one line. A full disk is left alone for the rest of the second."""
        if self._full_until >= 0 and self.clock.second() == self._full_until:
            return
        chunk = self.file.chunk
        chunk.add(line, self.file, self._failed)
        if level <= ALERT:
            chunk.gatherer.write()

    def begin_messages(self, chunk: gather.Chunk, level: int, head: str) -> bool:
        """Have messages gathered until the end of the turn. Returns: whether that may be"""
        if self._full_until >= 0 and self.clock.second() == self._full_until:
            return False
        return chunk.begin_messages(level, head, self.file, _spell, self._failed)

    def _failed(self, error: OSError) -> None:
        if error.errno == errno.ENOSPC:
            self._full_until = self.clock.second()

    def with_level(self, level: int) -> FileTarget:
        """Return the same file with another threshold."""
        return FileTarget(self.file, level, self.clock)


class MemoryTarget:
    """A ring in memory, to be read with a debugger or from /proc/PID/mem.

    It begins with `MEMLOG SIZE FILE:LINE`, so that it can be found; the ring behind that line is
    filled with spaces first and written round and round, each line whole but at the seam. The
    memory is shared with the workers, as it is after nginx's fork only until the first write: here
    one ring holds the lines of all of them. Source: ngx_log.c ngx_log_memory_writer
    """

    __slots__ = ("level", "ring", "start", "_pos")

    def __init__(self, size: int, place: str, level: int) -> None:
        """Args: size: bytes, the header included; place: FILE:LINE of the directive"""
        self.level = level
        self.ring = mmap.mmap(-1, size)
        header = encode(f"MEMLOG {size} {place}\n")
        self.ring[:len(header)] = header
        self.ring[len(header):] = b" " * (size - len(header))
        self.start = len(header)
        self._pos = mmap.mmap(-1, 8)  # where the next line goes, counted from start

    @property
    def on_stderr(self) -> bool:
        """Never."""
        return False

    @staticmethod
    def least(file: str) -> int:
        """Return the smallest size of a ring that `file` configures, in bytes."""
        # space for the header with two 20-digit numbers, and for one line
        return len("MEMLOG  :\n") + 1 + len(encode(file)) + 20 + 20 + MAX_LINE

    def write(self, level: int, line: bytes) -> None:
        """Take one line, over the oldest."""
        space = len(self.ring) - self.start
        pos = int.from_bytes(self._pos[:8], "little") % space
        self._pos[:8] = ((pos + len(line)) % space).to_bytes(8, "little")
        head = line[:space - pos]
        at = self.start + pos
        self.ring[at:at + len(head)] = head
        rest = line[len(head):]
        self.ring[self.start:self.start + len(rest)] = rest

    def with_level(self, level: int) -> MemoryTarget:
        """Return the same ring with another threshold."""
        other = object.__new__(MemoryTarget)
        other.level = level
        other.ring = self.ring
        other.start = self.start
        other._pos = self._pos
        return other

    def text(self) -> bytes:
        """Return the whole ring, header first, as a debugger would find it."""
        return self.ring[:]


class Console:
    """Standard error while somebody is still watching: start-up, -t, -s.

    It speaks under the program's name. Source: ngx_log.c ngx_log_stderr, ngx_use_stderr
    """

    __slots__ = ("program", "is_open")

    takes_all = False  # also what a target has written to standard error

    def __init__(self, program: str) -> None:
        """Args: program: `nginx` or `ngxstream`."""
        self.program = program
        self.is_open = True

    def close(self) -> None:
        """Say nothing more: the program serves, and its log is elsewhere."""
        self.is_open = False

    def say(self, text: str) -> None:
        """Write `nginx: TEXT`; line feeds and tabs of the configuration stay."""
        self.say_bytes(encode(text))

    def say_bytes(self, text: bytes) -> None:
        """Do so with the bytes of a message that may be cut."""
        data = _cut(encode(f"{self.program}: ") + text)
        try:
            os.write(STDERR_FD, _line(data, "\n\t"))  # as the configuration has them
        except OSError:
            return  # nobody is watching


class Log:
    """Where one part of the program logs: the cycle, a server, a connection under debugging."""

    __slots__ = (
        "level",    # int: the most talkative level any target wants
        "targets",  # tuple[Target, ...]
        "clock",
        "console",  # Console | None
        "_only",    # FileTarget | None: the only target
    )

    def __init__(self, targets: Iterable[Target] = (), *, clock: clocks.Clock | None = None,
                 console: Console | None = None) -> None:
        """Without targets nothing is written but what the console says."""
        self.clock = clock or clocks.Clock()
        self.console = console
        self.set_targets(targets)

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Log to these from now on."""
        self.targets: tuple[Target, ...] = tuple(targets)
        self.level: int = max((target.level for target in self.targets), default=WARN)
        only = self.targets[0] if len(self.targets) == 1 else None
        self._only = only if type(only) is FileTarget else None

    def write(self, level: int, text: str) -> None:
        """Write one line to every target that wants its level; never raises.

        Args: text: without time, level, process and line feed; callers have compared
        `level <= log.level` already, but need not have
        Source: ngx_log.c ngx_log_error_core
        """
        if WARN < level <= self.level:  # hot: most lines by far
            only = self._only
            if only is not None:
                chunk = only.file.chunk
                if chunk.level == level or only.begin_messages(chunk, level, self._head(level)):
                    messages = chunk.messages
                    messages.append(text)
                    if len(messages) >= gather.MESSAGES:
                        chunk.gatherer.write()
                    return
        head = self._head(level)
        whole = _cut(encode(head + text))
        data = _line(whole)
        on_stderr = False
        for target in self.targets:
            if level <= target.level:
                target.write(level, data)
                if target.on_stderr:
                    on_stderr = True
        console = self.console
        if console is not None and console.is_open and level <= WARN and (
            not on_stderr or console.takes_all
        ):
            # what is left of the line: nginx prints the same buffer
            console.say_bytes(f"[{NAMES[level]}] ".encode() + whole[len(head):])

    def error(self, level: int, text: str, err: int | OSError | None = None) -> None:
        """Write a line if its level is on, an errno and its text appended."""
        if level <= self.level:
            number = err.errno if isinstance(err, OSError) else err
            if number:
                if len(text) > MAX_LINE // 8:
                    text = self._leave_room(level, text)
                text = f"{text} ({number}: {os.strerror(number)})"
            self.write(level, text)

    def _head(self, level: int) -> str:
        return f"{self.clock.log_time()} [{NAMES[level]}] {PROCESS.mark}"

    def _leave_room(self, level: int, text: str) -> str:
        """Cut a text so that an errno fits behind it. Source: ngx_log.c ngx_log_errno"""
        data = encode(text)
        end = MAX_LINE - ERRNO_ROOM - len(self._head(level))
        if len(data) <= end:
            return text
        return _cut(data, end).decode("utf-8", "surrogateescape") + "..."

    def with_level(self, level: int) -> Log:
        """Return a log with the same targets, all of which want `level` (debug_connection)."""
        targets = (target.with_level(max(level, target.level)) for target in self.targets)
        return Log(targets, clock=self.clock, console=self.console)

    def uses_stderr(self) -> bool:
        """Whether a target is standard error."""
        return any(target.on_stderr for target in self.targets)

    def first_file(self) -> files.OpenFile | None:
        """Return the first file among the targets: standard error is redirected to it.

        Source: ngx_log.c ngx_log_redirect_stderr
        """
        for target in self.targets:
            file = getattr(target, "target", target)  # a rate stands before it
            if isinstance(file, FileTarget) and not file.on_stderr:
                return file.file
        return None
