"""Signals by name: what -s sends, what the processes obey, what the log calls them
(ngx_process.c signals[], ngx_os_signal_process).
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Final

# What -s knows.
COMMANDS: Final[Mapping[str, signal.Signals]] = {
    "stop": signal.SIGTERM,
    "quit": signal.SIGQUIT,
    "reopen": signal.SIGUSR1,
    "reload": signal.SIGHUP,
}

TERMINATE: Final = frozenset((signal.SIGTERM, signal.SIGINT))
SHUTDOWN: Final = signal.SIGQUIT
RECONFIGURE: Final = signal.SIGHUP
REOPEN: Final = signal.SIGUSR1
CHANGE_BINARY: Final = signal.SIGUSR2
NO_ACCEPT: Final = signal.SIGWINCH

# Every signal a process of ours listens to; SIGPIPE and SIGSYS are ignored.
HEARD: Final = frozenset((
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

    shape: sender is the pid where the kernel told it; action is one of nginx's words or ""
    source: ngx_process.c ngx_signal_handler
    """
    origin = f" from {sender}" if sender else ""
    told = f", {action}" if action else ""
    return f"signal {number} ({name_of(number)}) received{origin}{told}"
