"""open_log_file_cache: log files whose paths hold variables, kept open from line to line.

Answers for what ngx_open_file_cache.c does for logs (`of.log`). One cache belongs to one directive
and fills in each worker by itself.

1. A file stays open once it was used `min_uses` times, until nothing was written to it for
   `inactive` seconds or more than `max` files are open; the oldest goes first.
2. After `valid` seconds the path is looked at again: a file that was moved away is opened anew.
3. Time is the loop's, in milliseconds; nothing happens while nobody writes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ngxstream.core import files

if TYPE_CHECKING:
    from ngxstream.core.gather import Gatherer

CLOSED: Final = -1


class OpenError(OSError):
    """A path could not be opened, as opposed to written to."""


class Entry:
    """One path."""

    __slots__ = ("accessed_ms", "checked_ms", "fd", "identity", "uses")

    def __init__(self, now_ms: int) -> None:
        self.fd = CLOSED
        self.identity = (0, 0)  # device and inode of what is open
        self.uses = 0
        self.accessed_ms = now_ms
        self.checked_ms = now_ms


class OpenLogCache:
    """The files of one open_log_file_cache."""

    __slots__ = ("_entries", "inactive_ms", "max", "min_uses", "valid_ms")

    def __init__(self, most: int, inactive_s: int, min_uses: int, valid_s: int) -> None:
        """Take the settings as the directive gives them."""
        self.max = most
        self.inactive_ms = inactive_s * 1000
        self.min_uses = min_uses
        self.valid_ms = valid_s * 1000
        self._entries: dict[bytes, Entry] = {}  # the one used longest ago is first

    def __len__(self) -> int:
        """Return how many paths are known."""
        return len(self._entries)

    def write(self, path: bytes, line: bytes, now_ms: int, lines: Gatherer) -> int:
        """Append a line to a path, behind those that wait for the same file.

        Returns: the bytes written. Raises: OSError, OpenError
        """
        entries = self._entries
        entry = entries.pop(path, None)
        if entry is None:
            self._expire(now_ms, room=True)
            entry = Entry(now_ms)
        else:
            self._expire(now_ms, room=False)
            if entry.fd != CLOSED and now_ms - entry.checked_ms >= self.valid_ms:
                self._check(path, entry)
                entry.checked_ms = now_ms
        entry.uses += 1
        entry.accessed_ms = now_ms
        if entry.fd == CLOSED:
            entry.fd = open_log(path)
            info = os.fstat(entry.fd)
            entry.identity = (info.st_dev, info.st_ino)
            entry.checked_ms = now_ms
        entries[path] = entry
        try:
            lines.write_before(entry.fd)
            return os.write(entry.fd, line)
        finally:
            if entry.uses < self.min_uses:
                _close(entry)

    def clear(self) -> None:
        """Close everything: the logs are being reopened, or the worker leaves."""
        for entry in self._entries.values():
            _close(entry)
        self._entries.clear()

    def _check(self, path: bytes, entry: Entry) -> None:
        """Close what the path does not name any more."""
        try:
            info = os.stat(path)
        except OSError:
            _close(entry)
            return
        if (info.st_dev, info.st_ino) != entry.identity:
            _close(entry)

    def _expire(self, now_ms: int, *, room: bool) -> None:
        """Forget up to two idle entries, or the oldest. Source: ngx_expire_old_cached_files"""
        entries = self._entries
        for _ in range(2):
            path = next(iter(entries), None)
            if path is None:
                return
            full = room and len(entries) >= self.max
            if not full and now_ms - entries[path].accessed_ms <= self.inactive_ms:
                return
            _close(entries.pop(path))


def open_log(path: bytes) -> int:
    """Open a log for appending; returns the descriptor. Raises: OpenError"""
    try:
        return os.open(path, files.FLAGS, files.MODE)
    except OSError as error:
        raise OpenError(error.errno, error.strerror) from None


def write_once(path: bytes, line: bytes, now_ms: int, lines: Gatherer) -> int:
    """Do the same with a path that is not kept open. Raises: OSError, OpenError"""
    fd = open_log(path)
    try:
        lines.write_before(fd)
        return os.write(fd, line)
    finally:
        os.close(fd)


def _close(entry: Entry) -> None:
    if entry.fd != CLOSED:
        os.close(entry.fd)
        entry.fd = CLOSED
