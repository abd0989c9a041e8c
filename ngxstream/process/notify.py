"""What the service manager is told: ready, reloading, stopping, and a line for `systemctl status`.

nginx has no counterpart. The protocol is sd_notify(3)'s: lines of NAME=value in one datagram to
the Unix socket that NOTIFY_SOCKET names. Where nobody has named one, nothing is said. A manager
that does not listen is left alone: the service goes on.

During an upgrade (USR2) the old master says nothing when it leaves: systemd finds the new one by
the pid file (PIDFile=), and the new one says so itself when the old one is gone. Told of it
earlier, by MAINPID, systemd would supervise a process that is not yet its child, and not wait for
it when it is stopped.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from ngxstream.core import escape, log

VARIABLE: Final = "NOTIFY_SOCKET"
PATIENCE_S: Final = 1.0  # how long a busy manager may take to accept a message
MAX_STATUS: Final = 500


class Notifier:
    """One process's line to the service manager."""

    __slots__ = ("_address",)

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read NOTIFY_SOCKET: a path, or `@` and an abstract name."""
        name = environ.get(VARIABLE, "")
        self._address = ""
        if name[:1] in ("/", "@") and len(name) > 1:
            self._address = "\0" + name[1:] if name[0] == "@" else name

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager to talk to."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Say that the service serves: after its start, and after every reload."""
        self._send("READY=1", f"MAINPID={os.getpid()}", _status(status))

    def reloading(self) -> None:
        """Say that a new configuration is read. ready() has to follow, however that ends."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}", _status("reloading"))

    def stopping(self, status: str) -> None:
        """Say that the service ends."""
        self._send("STOPPING=1", _status(status))

    def status(self, status: str) -> None:
        """Set the status line that `systemctl status` shows."""
        self._send(_status(status))

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE_S)
            try:
                sock.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
            except (OSError, ValueError):
                return  # nobody listens; a ValueError is a NUL in the name


def _status(text: str) -> str:
    """Return the line for people: one line, nothing a terminal would obey, and not too long."""
    line = escape.printed(log.encode(text.replace("\n", "; "))).decode()
    return "STATUS=" + line[:MAX_STATUS]
