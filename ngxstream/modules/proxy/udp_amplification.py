"""proxy_udp_amplification: how much a client gets that may never have sent what bears its address.

nginx has no counterpart. A datagram with a forged source has the server answer somebody else, with
more bytes than were sent: reflection. A host that has sent one datagram gets at most so many bytes
for each of its own, as a QUIC server does before an address is validated (RFC 9000, 8.1: three).

1. What a session sends its client leaves by a Bound in the place of the listener's socket, until
   the client's second datagram comes: then that socket is back, and nothing is in its way.
2. An answer that is too much is dropped and counted; those that are smaller still pass. The session
   waits for its client then, not for its server: a client that is there asks again, and lifts the
   bound by that. Where each datagram is a session (proxy_requests 1) the bound holds for all.
3. It is no proof: who forges one datagram may forge two. What limits that is a rate by address
   (limit_datagram, limit_bandwidth download).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ngxstream.event import datagram, drops
from ngxstream.modules.proxy.conf import UNLIMITED
from ngxstream.modules.proxy.quic_paths import Tap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ngxstream.event.udp_answers import Control
    from ngxstream.event.udp_clients import Sink
    from ngxstream.modules.proxy.udp import UdpProxy
    from ngxstream.modules.proxy.udp_exchange import Exchange


class Bound:
    """Sends a session's answers while they are not too many."""

    __slots__ = ("_most", "_proxy", "_sock")

    def __init__(self, proxy: Exchange) -> None:
        self._proxy = proxy
        self._most = proxy.conf.amplification
        self._sock: Any = proxy.c.sock

    def sendto(self, view: memoryview, client: Any) -> int:
        """Send one datagram. Returns: bytes that were sent"""
        return self._one(view, [], client, 0)

    def sendmsg(
        self, views: Sequence[memoryview], control: Control, flags: int, client: Any
    ) -> int:
        """Send one datagram, or several one by one. Returns: bytes that were sent"""
        control, size = datagram.unsegmented(control)
        if size and len(views) == 1:
            views = datagram.split(views[0], size)
        sent = 0
        for view in views:
            sent += self._one(view, control, client, sent)
        return sent

    def _one(self, view: memoryview, control: Control, client: Any, before: int) -> int:
        """Send one datagram unless it is too much. Args: before: bytes that are not counted yet"""
        c = self._proxy.c
        if len(view) > self._most * c.received - c.sent - before:
            self._drop()
            return 0
        try:
            sent: int = self._sock.sendmsg((view,), control, 0, client)
        except BlockingIOError:  # what waited would not be looked at again
            self._drop()
            return 0
        return sent

    def _drop(self) -> None:
        proxy = self._proxy
        proxy.dropped += 1
        if proxy.c.table is not None:
            proxy.c.table.lost.drop(drops.AMPLIFIED)
        if not proxy.conf.requests:
            proxy.expected = UNLIMITED  # its client may ask again

    def lift(self) -> None:
        """Give the session the listener's socket. Idempotent."""
        c: Any = self._proxy.c
        if c.sock is self:
            c.sock = self._sock
        elif isinstance(c.sock, Tap) and c.sock.sock is self:
            c.sock.sock = self._sock


class Unproved:
    """Takes a client's second datagram: it lifts the bound, and makes way for the session."""

    __slots__ = ("_bound", "_proxy", "_sink", "c")

    def __init__(self, proxy: UdpProxy, sink: Sink, bound: Bound) -> None:
        self.c = proxy.c
        self._proxy = proxy
        self._sink = sink
        self._bound = bound

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Lift the bound."""
        self._lift()
        return self._sink.take(views)

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Do the same before a coalesced message."""
        self._lift()
        return self._sink.take_burst(view, size)

    def _lift(self) -> None:
        self._bound.lift()
        table: Any = self.c.table
        if table.table.get(self.c.key) is self:
            table.enlist(self.c, self._sink)

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self._proxy.on_fault()


def begin(proxy: Exchange) -> None:
    """Bound what a session sends its client."""
    bound: Any = Bound(proxy)
    proxy.c.sock = bound
    proxy.s.add_cleanup(bound.lift)


def step(proxy: UdpProxy, sink: Sink) -> Sink:
    """Have the client's next datagram lift the bound, if there is one. A step of udp_steps.py"""
    bound: Any = proxy.c.sock
    if isinstance(bound, Tap):  # another server had to be tried, and the session is listed again
        bound = bound.sock
    if not isinstance(bound, Bound):
        return sink
    if proxy.datagrams()[0] > 1:  # it came from another process
        bound.lift()
        return sink
    return Unproved(proxy, sink, bound)
