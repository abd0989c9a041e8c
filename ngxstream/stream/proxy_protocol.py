"""Reading a client's PROXY protocol header before its session begins.

Answers for ngx_stream_proxy_protocol_handler (ngx_stream_handler.c); the format is
wire/proxy_protocol.py's.

nginx wants the whole header in its first look at the socket. Here it may come in pieces: as long
as bytes can only be part of the header they are taken out of the kernel; where its end shows, no
more is taken than belongs to it.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from ngxstream.core.codes import BAD_REQUEST, INTERNAL_SERVER_ERROR, STREAM_OK
from ngxstream.core.log import DEBUG, ERR, INFO
from ngxstream.stream import endings, session, tracing
from ngxstream.wire import proxy_protocol, reader

if TYPE_CHECKING:
    from ngxstream.event.timers import Timer
    from ngxstream.stream.session import Session


def begin(s: Session) -> None:
    """Read the header, then let the session begin: the `begin` of an AddressConf."""
    s.action = "reading PROXY protocol"
    HeaderReader(s).read()


class HeaderReader:
    """One session's waiting for its header."""

    __slots__ = ("s", "taken", "timer")

    def __init__(self, s: Session) -> None:
        self.s = s
        self.taken = b""  # what was taken out of the kernel so far: part of a header, no more
        self.timer: Timer | None = None

    def on_event(self, mask: int) -> None:
        """Go on reading."""
        if self.timer is not None:
            self.read()

    def on_timeout(self) -> None:
        """Give up: proxy_protocol_timeout is over."""
        self.timer = None
        self.s.log_error(INFO, "client timed out", errno.ETIMEDOUT)
        self.s.end(STREAM_OK, endings.CLIENT_TIMEOUT)

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self._stop()
        self.s.finalize(INTERNAL_SERVER_ERROR)

    def read(self) -> None:
        """Read as far as the header goes."""
        s = self.s
        sock = s.c.sock
        while True:
            left = proxy_protocol.MAX_HEADER - len(self.taken)
            try:
                peeked = sock.recv(left, socket.MSG_PEEK)
            except BlockingIOError:
                self._wait()
                return
            except OSError as error:
                self._stop()
                s.client_error(error, "recv() failed")
                s.end(STREAM_OK, endings.of_client(error))
                return
            data = self.taken + peeked
            try:
                header = proxy_protocol.parse(data)
                if isinstance(header, reader.NeedMore):
                    if not peeked or len(data) == proxy_protocol.MAX_HEADER:
                        raise proxy_protocol.cut_short(data)
                    self.taken += sock.recv(len(peeked))
                    continue
            except proxy_protocol.BrokenHeader as error:
                self._stop()
                s.log_error(ERR, str(error))
                s.end(BAD_REQUEST, endings.PROTOCOL_ERROR)
                return
            sock.recv(header.length - len(self.taken))
            self._stop()
            s.proxy_protocol = header
            if s.log.level >= DEBUG:
                tracing.tell_header(s, header)
            s.action = "initializing session"
            session.begin(s)
            return

    def _wait(self) -> None:
        if self.timer is None:
            s = self.s
            self.timer = s.loop.call_later(s.server.core.proxy_protocol_timeout, self.on_timeout)
            s.add_cleanup(self.timer.cancel)  # the session may be ended from outside
            s.loop.register(s.c.fd, self.on_event)

    def _stop(self) -> None:
        # on_event stays registered until the session registers something else: it does nothing
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
