"""Relaying where an end of a connection is under TLS: whole buffers of small records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.event import pump, tls
from ngxstream.event.tls import Transport

if TYPE_CHECKING:
    from ngxstream.event.connection import Stream
    from ngxstream.event.loop import Loop


class TlsHalf(pump.Half):
    """One direction of a proxied TCP connection whose source is under TLS.

    Records are small (16 KiB at most) and sends are expensive: the buffer is filled with all there
    is before the sink is given any of it. A direction whose sink alone is under TLS is a plain
    Half.
    """

    __slots__ = (
        "read_at",  # method of the source
        "address",  # int: where the view begins
    )

    def __init__(self, owner: pump.Owner, loop: Loop, source: Transport, source_fd: int,
                 sink: Stream, sink_fd: int) -> None:
        super().__init__(owner, loop, source, source_fd, sink, sink_fd)
        self.read_at = source.read_at
        self.address = loop.get(tls.view_address)

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
        read_at, address, view = self.read_at, self.address, self.view
        size = len(view)
        for _ in range(pump.FAIR_SHARE):
            filled = 0
            dry = False
            try:
                while filled < size:
                    n = read_at(address + filled, size - filled)
                    if n <= 0:
                        if n:
                            dry = True
                        else:
                            self.eof = True
                        break
                    filled += n
            except OSError as error:
                self.eof = True
                owner.on_read_error(self, error)
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


def half(owner: pump.Owner, loop: Loop, source: Stream, source_fd: int, sink: Stream,
         sink_fd: int) -> pump.Half:
    """Make the half of a direction that a Transport is at one end of."""
    kind = TlsHalf if type(source) is Transport else pump.Half
    made = kind(owner, loop, source, source_fd, sink, sink_fd)  # type: ignore[arg-type]
    if type(sink) is Transport:
        made.closing = 0
    return made
