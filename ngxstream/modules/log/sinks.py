"""Where access log lines go: a file, a buffer before a file, a path made of variables, syslog.

Answers for ngx_stream_log_handler, ngx_stream_log_write, ngx_stream_log_script_write,
ngx_stream_log_gzip and ngx_stream_log_flush (ngx_stream_log_module.c).

1. A buffer of whole lines, or what core/gather.py makes of the lines of a turn, is one write(2) to
   a file opened for appending: lines of several workers are never mixed.
2. After ENOSPC a log is left alone for the rest of the second; other errors are logged once a
   minute.
3. The value of a variable cannot lead out of the directory that the text around it names: a path
   with a `..` that no literal wrote, or with a NUL, is not opened.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, log, log_rate
from ngxstream.core.facts import Fact
from ngxstream.modules.log import open_cache

if TYPE_CHECKING:
    from ngxstream.core.facts import Cell
    from ngxstream.core.files import OpenFile
    from ngxstream.core.gather import Gatherer
    from ngxstream.core.log import Log
    from ngxstream.core.syslog import Syslog
    from ngxstream.event.loop import Loop
    from ngxstream.event.timers import Timer
    from ngxstream.modules.log.formats import Format
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue

Take = Callable[["Session"], None]
Write = Callable[[bytes, bytes, int, "Gatherer"], int]  # path, line, loop time, what waits

LEFT_OUT: Final = Fact(
    "access_log_left_out", log_rate.LOG, "Sessions that `access_log … sample=` left out."
)
LEFT_OUT_KEY: Final = "access_log_left_out"  # in ctx: how many, before the line being written

MINUTE_MS: Final = 60_000
GZIP_WINDOW: Final = 31  # the largest window, in a gzip wrapper


class Failures:
    """The failed writes of one log, an alert a minute. Source: ngx_stream_log_write"""

    __slots__ = ("full_second", "_logged_ms")

    def __init__(self) -> None:
        self.full_second = 0  # loop time; 0 for none
        self._logged_ms: int | None = None

    def is_full(self, now_ms: int) -> bool:
        """Tell whether the disk was found full in this second."""
        return now_ms // 1000 == self.full_second

    def failed(self, s: Session, path: str, error: OSError) -> None:
        """A write failed."""
        now_ms = s.loop.now_ms
        if error.errno == errno.ENOSPC:
            self.full_second = now_ms // 1000
        if self._may_log(now_ms):
            s.log_error(log.ALERT, f'write() to "{path}" failed', error.errno)

    def incomplete(self, s: Session, path: str, written: int, size: int) -> None:
        """A write took only part of what it was given."""
        if self._may_log(s.loop.now_ms):
            s.log_error(log.ALERT, f'write() to "{path}" was incomplete: {written} of {size}')

    def _may_log(self, now_ms: int) -> bool:
        if self._logged_ms is not None and now_ms - self._logged_ms < MINUTE_MS:
            return False
        self._logged_ms = now_ms
        return True


class Buffer:
    """Lines of one worker for one file; flush_ms 0 is no timer, gzip a level or 0.

    All logs to the file share it.
    """

    __slots__ = ("_lines", "_timer", "_used", "file", "flush_ms", "gzip", "size")

    def __init__(self, file: OpenFile, size: int, flush_ms: int, gzip: int) -> None:
        self.file = file
        self.size = size
        self.flush_ms = flush_ms
        self.gzip = gzip
        self._lines: list[bytes] = []
        self._used = 0
        self._timer: Timer | None = None

    @property
    def settings(self) -> tuple[int, int, int]:
        """What two logs to one file have to agree on."""
        return self.size, self.flush_ms, self.gzip

    def add(self, line: bytes, loop: Loop) -> bool:
        """Take a line if it fits."""
        used = self._used + len(line)
        if used > self.size:
            return False
        if not self._lines and self.flush_ms:
            # the loop's log takes what the timer cannot write: there is no session then
            self._timer = loop.call_later(
                self.flush_ms, lambda: self.flush(loop.log), cancelable=True
            )
        self._lines.append(line)
        self._used = used
        return True

    def drain(self) -> bytes:
        """Return all lines and forget them; the timer is off."""
        data = b"".join(self._lines)
        self._lines.clear()
        self._used = 0
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        return data

    def write(self, data: bytes) -> int:
        """Write whole lines; returns how many bytes of them went. Raises: OSError"""
        self.file.chunk.gatherer.write()
        if not self.gzip:
            return os.write(self.file.fd, data)
        packed = zlib.compress(data, self.gzip, GZIP_WINDOW)
        written = os.write(self.file.fd, packed)
        # half a member cannot be read: all or nothing
        return len(data) if written == len(packed) else 0

    def flush(self, to: Log | None = None) -> None:
        """Write all lines now. Source: ngx_stream_log_flush"""
        data = self.drain()
        if not data:
            return
        try:
            written = self.write(data)
        except OSError as error:
            text = f'write() to "{self.file.path}" failed {errors.strerror(error.errno or 0)}'
        else:
            if written == len(data):
                return
            text = f'write() to "{self.file.path}" was incomplete: {written} of {len(data)}'
        if to is not None and to.level >= log.ALERT:
            to.write(log.ALERT, text)


class FileSink:
    """A log without a buffer of its own."""

    __slots__ = ("_failures", "_file", "_line")

    def __init__(self, file: OpenFile, made: Format) -> None:
        self._file = file
        self._failures = Failures()
        self._line = made

    def take(self, s: Session) -> None:
        """Have the line of a session written."""
        failures = self._failures
        if failures.full_second and failures.is_full(s.loop.now_ms):
            return
        file = self._file
        file.chunk.add(self._line.line(s), file, partial(failures.failed, s, file.path))


class BufferedSink:
    """A log whose lines wait in a buffer."""

    __slots__ = ("_buffer", "_failures", "_line")

    def __init__(self, buffer: Buffer, made: Format) -> None:
        self._buffer = buffer
        self._failures = Failures()
        self._line = made

    def take(self, s: Session) -> None:
        """Buffer a session's line, writing the buffer first if it is full."""
        loop, failures, buffer = s.loop, self._failures, self._buffer
        if failures.full_second and failures.is_full(loop.now_ms):
            return
        line = self._line.line(s)
        if buffer.add(line, loop):
            return
        self._write(s, buffer.drain())
        if not buffer.add(line, loop):
            self._write(s, line)  # longer than the whole buffer

    def _write(self, s: Session, data: bytes) -> None:
        if not data:
            return
        try:
            written = self._buffer.write(data)
        except OSError as error:
            self._failures.failed(s, self._buffer.file.path, error)
            return
        if written != len(data):
            self._failures.incomplete(s, self._buffer.file.path, written, len(data))


class PathSink:
    """A log whose path holds variables: opened for every line, or out of a cache."""

    __slots__ = ("_failures", "_line", "_parents", "_path")

    def __init__(self, path: ComplexValue, made: Format, parents: int) -> None:
        """Args: parents: how many `..` the configuration itself has in the path"""
        self._path = path
        self._failures = Failures()
        self._line = made
        self._parents = parents

    def taker(self, cache: open_cache.OpenLogCache | None) -> Take:
        """Return what writes the line of a session, with a server's own cache."""
        if cache is None:
            return lambda s: self._take(s, open_cache.write_once)
        return lambda s: self._take(s, cache.write)

    def _take(self, s: Session, write: Write) -> None:
        now_ms = s.loop.now_ms
        failures = self._failures
        if failures.is_full(now_ms):
            return
        line = self._line.line(s)
        path = self._path.get(s)
        if b"\0" in path or (b".." in path and path.split(b"/").count(b"..") > self._parents):
            s.log_error(
                log.ERR,
                f'access log "{_shown(path)}" is not written: a variable brought ".." or a NUL',
            )
            return
        try:
            written = write(path, line, now_ms, s.loop.lines)
        except open_cache.OpenError as error:
            s.log_error(log.CRIT, f'open() "{_shown(path)}" failed', error.errno)
            return
        except OSError as error:
            failures.failed(s, _shown(path), error)
            return
        if written != len(line):
            failures.incomplete(s, _shown(path), written, len(line))


class SyslogSink:
    """A log that is sent to a syslog server."""

    __slots__ = ("_peer", "_text")

    def __init__(self, peer: Syslog, made: Format) -> None:
        self._peer = peer
        self._text = made

    def take(self, s: Session) -> None:
        """Send the line of a session, without its line feed."""
        if not self._peer.send(self._text.text(s), None, s.log):
            s.log_error(log.WARN, "send() to syslog failed")


class Sample:
    """Which sessions have a line in one log: each so many, or so many a second of a worker."""

    __slots__ = ("_cell", "_left_out", "_second", "_taken", "every", "most")

    def __init__(self, every: int, most: int, cell: Cell) -> None:
        """Args: every: one of so many, 0 for a rate; most: a second; cell: counts the others"""
        self.every = every
        self.most = most
        self._cell = cell
        self._left_out = 0  # since the last line
        self._taken = 0  # in this second; without a rate: since the last line
        self._second = -1

    def before(self, take: Take) -> Take:
        """Have some lines taken, each with how many sessions were left out before it."""

        def take_some(s: Session) -> None:
            if self._is_one(s.loop.now_ms):
                s.set_module_ctx(LEFT_OUT_KEY, self._left_out)
                self._left_out = 0
                take(s)
                s.set_module_ctx(LEFT_OUT_KEY, None)  # the next log may leave nothing out
            else:
                self._left_out += 1
                s.loop.cells[self._cell.at] += 1

        return take_some

    def _is_one(self, now_ms: int) -> bool:
        if self.every:
            return self._left_out + 1 >= self.every
        second = now_ms // 1000
        if second != self._second:
            self._second = second
            self._taken = 0
        self._taken += 1
        return self._taken <= self.most


def filtered(condition: ComplexValue, take: Take) -> Take:
    """Have a line taken only when a value is neither empty nor `0`."""

    def take_if(s: Session) -> None:
        if condition.get(s) not in (b"", b"0"):
            take(s)

    return take_if


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
