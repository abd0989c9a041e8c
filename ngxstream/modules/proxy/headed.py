"""UDP sessions with a PROXY protocol header in front of every datagram (proxy_protocol_datagrams).

nginx has no counterpart: there the first datagram of a session alone bears the header. Most
receivers, dnsdist among them, look at each datagram by itself.

The header of a session never changes, so it is made once. A datagram that has no room for it is
dropped and counted (UdpProxy._send_failed); the session goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ngxstream.event import datagram
from ngxstream.modules.proxy.udp import CountedUdpProxy, UdpProxy

if TYPE_CHECKING:
    from ngxstream.stream.session import Session


class Headed(UdpProxy):
    """What the two kinds of session have in common."""

    __slots__ = ("header",)

    def __init__(self, s: Session) -> None:
        super().__init__(s)
        self.header = super().proxy_header()

    def proxy_header(self) -> bytes:
        """Return nothing more for the first datagram: send() knows."""
        return b""

    def whole(self, data: bytes) -> bytes:
        """Put the header in front."""
        return self.header + data

    def send(self, data: bytes | memoryview) -> None:
        """Send one datagram behind the header."""
        super().send(b"".join((self.header, data)))

    def send_many(self, views: list[memoryview]) -> None:
        """Send several datagrams, each behind the header, in as few messages as may be."""
        header = self.header
        send = super().send
        whole = [memoryview(b"".join((header, view))) for view in views]
        if not self.gso or self.queue is not None:
            for view in whole:
                self._send_whole(view, send)
            return
        state: Any = self.state
        for first, end, size in datagram.runs(whole):
            if end - first == 1:
                self._send_whole(whole[first], send)
                continue
            try:
                state.bytes_sent += self.pc.sendmsg(
                    whole[first:end], datagram.segment_control(size)
                )
            except OSError as error:
                if not self._burst_failed(error):
                    return
                for view in whole[first:]:
                    self._send_whole(view, send)
                return

    def _send_whole(self, view: memoryview, send: Any) -> None:
        if self.pc is not None:
            send(view)

    def take_burst(self, view: memoryview, size: int) -> None:
        """Cut a coalesced message up: each of its datagrams needs the header."""
        self.inbox.extend(datagram.split(view, size))
        self.take()


class HeadedUdpProxy(Headed):
    """A session whose every datagram says who the client is."""

    __slots__ = ()


class HeadedCountedUdpProxy(Headed, CountedUdpProxy):
    """The same with proxy_requests."""

    __slots__ = ()

    def take_burst(self, view: memoryview, size: int) -> None:
        """Cut a burst up, at the quota too."""
        CountedUdpProxy.take_burst(self, view, size)
