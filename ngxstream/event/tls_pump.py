"""Relaying where an end of a connection is under TLS: whole buffers of small records."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ngxstream.event import pump
from ngxstream.event.tls import WANTS, Transport, released

if TYPE_CHECKING:
    from ngxstream.event.connection import Stream
    from ngxstream.event.loop import Loop


class TlsHalf(pump.Half):
    """One direction of a proxied TCP connection whose source is under TLS.

    Records are small (16 KiB at most) and sends are expensive: the buffer is filled with all there
    is before the sink is given any of it. A direction whose sink alone is under TLS is a plain
    Half.
    """

    __slots__ = ("read", "source")

    def __init__(self, owner: pump.Owner, loop: Loop, source: Transport, source_fd: int,
                 sink: Stream, sink_fd: int) -> None:
        super().__init__(owner, loop, source, source_fd, sink, sink_fd)
        self.source: Transport | None = source
        self.read = source.read

    def on_event(self, mask: int) -> None:
        """Handle any event of the source's fd; see the second rule of event/tls.py.

        # hot: one turn of a request or an answer is this function, once
        """
        twin = self.twin
        if twin is not None and twin.pending is not None:
            twin.flush()
        owner = self.owner
        if owner is None:
            return
        if self.pending is not None or self.eof:
            self.more = True
            self.loop.poller.hold_read(self.source_fd)
            return
        read, view = self.read, self.view
        size = len(view)
        for _ in range(pump.FAIR_SHARE):
            filled = 0
            dry = False
            try:
                while filled < size:
                    n = read(view[filled:])
                    if not n:
                        self.eof = True
                        break
                    filled += n
            except WANTS:
                dry = True
            except ssl.SSLZeroReturnError:
                self.eof = True
            except OSError as error:
                self.eof = True
                assert self.source is not None
                owner.on_read_error(self, self.source.failed("SSL_read() failed", error))
            if filled:
                self.received += filled
                kept = self.give(owner, view[:filled])
                if kept < 0:
                    return
                if kept:
                    break
            if self.eof:
                owner.on_end(self)
                return
            if dry:
                break
        else:
            self.loop.post(self.resume)
        owner.deadline = self.loop.now_ms + owner.timeout

    def close(self) -> None:
        """Drop all references."""
        self.read = released
        self.source = None
        super().close()


def half(owner: pump.Owner, loop: Loop, source: Stream, source_fd: int, sink: Stream,
         sink_fd: int) -> pump.Half:
    """Make the half of a direction that a Transport is at one end of."""
    if type(source) is Transport:
        made: pump.Half = TlsHalf(owner, loop, source, source_fd, sink, sink_fd)
    else:
        made = pump.Half(owner, loop, source, source_fd, sink, sink_fd)
    if type(sink) is Transport:
        made.closing = 0
    return made
