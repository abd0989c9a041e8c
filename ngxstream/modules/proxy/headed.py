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
            self._send_each(views)
            return
        pc: Any = self.pc
        state: Any = self.state
        for first, end, size in datagram.runs(whole):
            if end - first == 1:
                send(whole[first])
                if self.pc is not pc or self.queue:
                    self._send_rest(pc, views[end:])
                    return
                continue
            try:
                state.bytes_sent += pc.sendmsg(whole[first:end], datagram.segment_control(size))
            except OSError as error:
                if self._burst_failed(error):
                    self._send_each(views[first:])
                else:
                    self._send_rest(pc, views[end:])
                return

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Cut a coalesced message up: each of its datagrams needs the header."""
        return self.take(datagram.split(view, size))


class HeadedUdpProxy(Headed):
    """A session whose every datagram says who the client is."""

    __slots__ = ()


class HeadedCountedUdpProxy(Headed, CountedUdpProxy):
    """The same with proxy_requests."""

    __slots__ = ()

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Cut a burst up, at the quota too."""
        return CountedUdpProxy.take_burst(self, view, size)
