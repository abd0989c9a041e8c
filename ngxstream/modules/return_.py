"""return: send the client a text and close (ngx_stream_return_module.c)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.conf.directive import SERVER, TAKE1, Directive
from ngxstream.core.codes import AGAIN, INTERNAL_SERVER_ERROR, OK, STREAM_OK
from ngxstream.core.log import DEBUG, INFO
from ngxstream.stream import endings, explaining, values
from ngxstream.stream.content import RETURNING, Content, ContentKind, Shown
from ngxstream.stream.explaining import Answer
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.timers import Timer
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue

TIMEOUT_MS: Final = 5_000  # between two writes
SHOWN: Final = 64  # bytes of the text that an explanation quotes
UDP_RETRY_MS: Final = 10  # the listening socket's buffer is full: no event tells when it is not


@dataclass(frozen=True, slots=True)
class ReturnConf:
    """The text a server returns."""

    text: ComplexValue | None = None


def handle(s: Session) -> None:
    """Begin to return the text: the content handler. Source: ngx_stream_return_handler"""
    s.action = "returning text"
    text = s.server.return_.text.get(s)
    if not text:
        s.finalize(STREAM_OK)
        return
    if s.log.level >= DEBUG:
        s.log_plain(DEBUG, f'stream return text: "{text.decode("utf-8", "surrogateescape")}"')
    content = s.content = Returning(s, text)
    content.write()


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Say what is returned."""
    text = s.server.return_.text.get(s)
    why = f"{len(text)} bytes: {text[:SHOWN].decode('utf-8', 'replace')!r}" if text else "nothing"
    explanation.end(explaining.RETURNED, f"return: {why}", STREAM_OK)
    return Answer(OK, why)


class Returning(Content):
    """One text on its way to the client."""

    __slots__ = ("s", "rest", "timer", "retry", "is_waiting")

    def __init__(self, s: Session, text: bytes) -> None:
        self.s = s
        self.rest = text
        self.timer: Timer | None = None
        self.retry: Timer | None = None
        self.is_waiting = False

    def write(self) -> None:
        """Send what there is room for. Source: ngx_stream_return_write_handler"""
        s = self.s
        while self.rest:
            try:
                sent = s.c.send(self.rest)
            except OSError as error:
                s.client_error(error, f"{'sendmsg' if s.c.is_udp else 'writev'}() failed")
                s.end(INTERNAL_SERVER_ERROR, endings.of_client(error))
                return
            if sent == AGAIN:
                self._wait()
                return
            self.rest = self.rest[sent:]
            self._stop()
        s.finalize(STREAM_OK)

    def on_event(self, mask: int) -> None:
        """Go on sending: there may be room."""
        if self.is_waiting:
            self.write()

    def on_timeout(self) -> None:
        """Give up: the client takes nothing."""
        self.s.log_error(INFO, "connection timed out", errno.ETIMEDOUT)
        self.s.end(STREAM_OK, endings.CLIENT_TIMEOUT)

    def shown(self) -> Shown:
        """Return what is to be told of it."""
        return Shown(RETURNING)

    def close(self) -> None:
        """Cancel the timers."""
        self.is_waiting = False
        self._stop()
        if self.retry is not None:
            self.retry.cancel()

    def _wait(self) -> None:
        s = self.s
        self.is_waiting = True
        if self.timer is None:
            self.timer = s.loop.call_later(TIMEOUT_MS, self.on_timeout)
        if s.c.is_udp:
            self.retry = s.loop.call_later(UDP_RETRY_MS, self.write)
        else:
            s.loop.register(s.c.fd, self.on_event)
            s.loop.poller.want_write(s.c.fd)

    def _stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def _return(scope: Scope, module: Module, st: Statement) -> None:
    values.value("text")(scope, module, st)
    scope.owner.serve_by(handle, scope, st, slots=1)


MODULE = StreamModule(
    name="return_",
    directives=(
        Directive("return", SERVER, TAKE1, _return, "A text to send to every client."),
    ),
    conf=ReturnConf,
    explains=((handle, _explain),),
    contents=(ContentKind("returned text", Returning, stays="it ends within TIMEOUT_MS"),),
)
