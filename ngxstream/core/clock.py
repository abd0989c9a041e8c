"""The wall clock as logs spell it: each form of the time is made once a second (ngx_times.c).

Formatting a local time costs ten times what the rest of a log line does, so a Clock keeps the
strings of the current second. It never answers for timeouts: the loop has a monotonic clock
for those.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Log lines are English whatever the locale, as nginx's.
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Clock:
    """Local time, spelled; `now()` is where the seconds since 1970 come from."""

    __slots__ = (
        "now",      # () -> float, seconds since 1970
        "_second",  # int: the second that the fields below belong to
        "_fields",  # time.struct_time of it, local
        "_log",     # str: as in error_log
        "_syslog",  # str: as in a syslog header
        "_local",   # bytes: as in the Common Log Format
        "_iso8601",  # bytes
    )

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """Args: now: replaced in tests only."""
        self.now = now
        self._second = -1
        self._fields = time.struct_time((0,) * 9)
        self._log = ""
        self._syslog = ""
        self._local = b""
        self._iso8601 = b""

    def second(self) -> int:
        """Return the current second since 1970, with the strings of that second at hand."""
        second = int(self.now())
        if second != self._second:
            self._second = second
            self._fields = time.localtime(second)
            self._log = ""
            self._syslog = ""
            self._local = b""
            self._iso8601 = b""
        return second

    def log_time(self) -> str:
        """Return `2026/11/21 20:15:03`. Source: ngx_times.c ngx_cached_err_log_time"""
        self.second()
        if not self._log:
            t = self._fields
            self._log = (f"{t.tm_year:4d}/{t.tm_mon:02d}/{t.tm_mday:02d} "
                         f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}")
        return self._log

    def syslog_time(self) -> str:
        """Return `Nov  1 20:15:03`, the day padded with a space. Source: RFC 3164 §4.1.2"""
        self.second()
        if not self._syslog:
            t = self._fields
            self._syslog = (f"{MONTHS[t.tm_mon - 1]} {t.tm_mday:2d} "
                            f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}")
        return self._syslog

    def local_time(self) -> bytes:
        """Return `21/Nov/2026:20:15:03 +0100`. Source: ngx_times.c ngx_cached_http_log_time"""
        self.second()
        if not self._local:
            t = self._fields
            self._local = (f"{t.tm_mday:02d}/{MONTHS[t.tm_mon - 1]}/{t.tm_year}:{t.tm_hour:02d}:"
                           f"{t.tm_min:02d}:{t.tm_sec:02d} {_zone(t.tm_gmtoff, '')}").encode()
        return self._local

    def iso8601_time(self) -> bytes:
        """Return `2026-11-21T20:15:03+01:00`. Source: ngx_times.c ngx_cached_http_log_iso8601"""
        self.second()
        if not self._iso8601:
            t = self._fields
            self._iso8601 = (f"{t.tm_year:4d}-{t.tm_mon:02d}-{t.tm_mday:02d}T{t.tm_hour:02d}:"
                             f"{t.tm_min:02d}:{t.tm_sec:02d}{_zone(t.tm_gmtoff, ':')}").encode()
        return self._iso8601


def _zone(offset_s: int, between: str) -> str:
    """Spell an offset from UTC in seconds, its seconds cut off."""
    hours, minutes = divmod(abs(offset_s) // 60, 60)
    return f"{'-' if offset_s < 0 else '+'}{hours:02d}{between}{minutes:02d}"
