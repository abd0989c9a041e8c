"""What becomes of a session whose function raised, and how it is told."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from ngxstream.core import codes, escape, log, tracebacks
from ngxstream.modules.py import loading
from ngxstream.scripting import running

if TYPE_CHECKING:
    from ngxstream.event.time_limit import TimeLimit
    from ngxstream.modules.py.loading import Hook
    from ngxstream.stream.session import Session

MOST_LINES: Final = 200  # of a traceback
TEXT_MS: Final = 100  # the time that an exception has to say what it is


class Teller(Protocol):
    """Where a line is written that belongs to no session."""

    limit: TimeLimit

    def log(self, level: int, message: str) -> None:
        """Write a line."""


def tell(s: Session, hook: Hook | None, error: BaseException) -> None:
    """Log an exception of a function: one line, and the traceback at level debug.

    The exception loses its frames: what it came through is no part of a reference cycle.
    """
    word = hook.word if hook is not None else "?"
    limit = running.limit_of(s.loop)
    s.log_error(log.ERR, f'"{word}" failed: {said(limit, error)}')
    if s.log.level >= log.DEBUG:
        for line in _lines(limit, error):
            s.log_plain(log.DEBUG, line)
    tracebacks.forget(error)


def tell_of(to: Teller, word: str, error: BaseException) -> None:
    """Log an exception of a function that no session called."""
    to.log(log.ERR, f'"{word}" failed: {said(to.limit, error)}')
    for line in _lines(to.limit, error):
        to.log(log.DEBUG, line)
    tracebacks.forget(error)


def failed(s: Session, hook: Hook | None, error: BaseException) -> int:
    """Tell of an exception; return what becomes of the session, as a phase's handler does."""
    tell(s, hook, error)
    return codes.INTERNAL_SERVER_ERROR


def said(limit: TimeLimit, error: BaseException) -> str:
    """Return what an exception says, as logs have it, on one line."""
    return loading.described(error, _tried(limit, "", str, error))


def _lines(limit: TimeLimit, error: BaseException) -> list[str]:
    text = "".join(_tried(limit, [], traceback.format_exception, error))
    return [escape.shown(line) for line in text.splitlines()[-MOST_LINES:]]


def _tried(limit: TimeLimit, default: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Call what calls a user's __str__."""
    try:
        return limit.call(TEXT_MS, function, *args)
    except BaseException:  # noqa: BLE001 - there is an exception to be told of already
        return default

