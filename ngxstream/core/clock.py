"""The wall clock as logs spell it: each form of the time is made once a second (ngx_times.c).

Formatting a local time costs ten times what the rest of a log line does, so a Clock keeps the
strings of the current second. It never answers for timeouts: those go by monotonic_ms().
"""

from __future__ import annotations

import re
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


def monotonic_ms() -> int:
    """Return CLOCK_MONOTONIC in milliseconds: one clock for all processes of the host."""
    return time.monotonic_ns() // 1_000_000


def _zone(offset_s: int, between: str) -> str:
    """Spell an offset from UTC in seconds, its seconds cut off."""
    hours, minutes = divmod(abs(offset_s) // 60, 60)
    return f"{'-' if offset_s < 0 else '+'}{hours:02d}{between}{minutes:02d}"


# -- RFC 3339, as the API spells times -------------------------------------------------------------

_RFC3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DAYS_TO_1970: Final = 719_162  # from the year 1
LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999


def is_time(time_ms: int) -> bool:
    """Tell whether rfc3339() can spell a time."""
    return 0 <= time_ms <= LAST_MS


def rfc3339(time_ms: int) -> str:
    """Return `2026-11-21T19:15:03.250Z`. Args: time_ms: since 1970, in milliseconds; see is_time"""
    second, rest_ms = divmod(time_ms, 1000)
    t = time.gmtime(second)
    return (f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}T"
            f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}.{rest_ms:03d}Z")


def parse_rfc3339(text: str) -> int:
    """Return the milliseconds since 1970 of a time that says its zone. Raises: ValueError"""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("no time")
    fraction, sign, hours, minutes = match.group(7, 8, 9, 10)
    second = seconds_of(*map(int, match.group(1, 2, 3, 4, 5, 6)))
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            raise ValueError("no zone")
        second -= int(sign + "1") * (int(hours) * 60 + int(minutes)) * 60
    return second * 1000 + int((fraction or "")[:3].ljust(3, "0"))


def seconds_of(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    """Return the seconds since 1970 of a time in UTC. Raises: ValueError where there is none

    (The modules of the library for it take 400 KB.)
    """
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not (1 <= month <= 12 and 1 <= day <= _DAYS[month - 1] + (is_leap and month == 2)
            and hour < 24 and minute < 60 and second <= 60):
        raise ValueError("no time")
    past = year - 1
    days = past * 365 + past // 4 - past // 100 + past // 400 - _DAYS_TO_1970
    days += sum(_DAYS[: month - 1]) + (is_leap and month > 2) + day - 1
    return ((days * 24 + hour) * 60 + minute) * 60 + second
