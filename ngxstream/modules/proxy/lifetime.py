"""proxy_session_lifetime: a session ends when it has lasted so long, whatever it does.

nginx has no counterpart. The time counts from when the client came (`Session.start_ms`), which goes
with a UDP session to another process: there the session is made anew, and with it its timer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.core import codes, log
from ngxstream.stream import endings

if TYPE_CHECKING:
    from ngxstream.stream.session import Session


class _End:
    """The end of one session's time."""

    __slots__ = ("s",)

    def __init__(self, s: Session) -> None:
        self.s = s

    def on_timeout(self) -> None:
        """End the session."""
        s = self.s
        if s.content is not None:
            s.content.count_live()
        s.log_error(log.INFO, "session lifetime is over")
        s.end(codes.STREAM_OK, endings.LIFETIME)

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.s.finalize(codes.INTERNAL_SERVER_ERROR)


def begin(s: Session, lifetime_ms: int) -> None:
    """Have a session end when its time is over."""
    loop = s.loop
    left_ms = max(0, s.start_ms + lifetime_ms - loop.now_ms)
    s.add_cleanup(loop.call_later(left_ms, _End(s).on_timeout, cancelable=True).cancel)
