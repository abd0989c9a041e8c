"""Signals by name: what -s sends, what the processes obey and how a loop hears it, what the log
calls them (ngx_process.c signals[], ngx_os_signal_process).
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Final

# What -s knows.
COMMANDS: Final[Mapping[str, signal.Signals]] = {
    "stop": signal.SIGTERM, "quit": signal.SIGQUIT, "reopen": signal.SIGUSR1,
    "reload": signal.SIGHUP,
}

TERMINATE: Final = frozenset((signal.SIGTERM, signal.SIGINT))
SHUTDOWN: Final = signal.SIGQUIT
RECONFIGURE: Final = signal.SIGHUP
REOPEN: Final = signal.SIGUSR1
CHANGE_BINARY: Final = signal.SIGUSR2
NO_ACCEPT: Final = signal.SIGWINCH

# Every signal a process of ours listens to; SIGPIPE and SIGSYS are ignored.
HANDLED: Final = frozenset((
    *TERMINATE, SHUTDOWN, RECONFIGURE, REOPEN, CHANGE_BINARY, NO_ACCEPT,
    signal.SIGCHLD, signal.SIGALRM, signal.SIGIO,
))
IGNORED: Final = (signal.SIGPIPE, signal.SIGSYS)


def is_ending() -> bool:
    """Tell whether a signal waits that ends the process, at once or in grace."""
    return not (TERMINATE | {SHUTDOWN}).isdisjoint(signal.sigpending())


def name_of(number: int) -> str:
    """Return `SIGHUP`, or `SIG42` for a signal without a name."""
    if number == signal.SIGIO:
        return "SIGIO"  # Python may prefer the other name, SIGPOLL
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def received(number: int, sender: int | None = None, action: str = "") -> str:
    """Return the log's `signal 1 (SIGHUP) received from 7, reconfiguring`.

    Args: sender: the pid where the kernel told it; action: one of nginx's words or ""
    Source: ngx_process.c ngx_signal_handler
    """
    origin = f" from {sender}" if sender else ""
    told = f", {action}" if action else ""
    return f"signal {number} ({name_of(number)}) received{origin}{told}"


class Receiver:
    """Signals as bytes the loop can read."""

    __slots__ = ("_reader", "_writer", "_obey")

    def __init__(self, heard: Iterable[int], obey: Callable[[int], None]) -> None:
        """Take these signals from now on; `obey(number)` is called from the loop."""
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._obey = obey
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in heard:
            signal.signal(number, _nothing)  # the byte in the socket is all we want
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._reader.fileno()

    def on_readable(self, mask: int) -> None:
        """Obey every signal that came, in order."""
        with contextlib.suppress(BlockingIOError):
            for number in self._reader.recv(4096):
                self._obey(number)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing: Python has put the signal's number into the wakeup socket already."""
