"""A UDP session whose server was found unhealthy: another one gets the client's next datagram.

nginx has no counterpart: there such a session goes on asking the server until it idles. Here it
goes on with another server of its group, if proxy_next_upstream is on: a new socket, and one more
address in $upstream_addr. It is made to do so when that is seen (stream/withdrawals.py), so a
session that has a good server pays nothing: no step of its datagrams looks at health.

1. Nothing happens before the client speaks: who has had its answer may never ask again, and answers
   that are on their way still come.
2. A session stays where it is while there is no other server to be used, and looks for one at most
   once in LOOK_MS; and when its server is healthy again, or all are used (`fail_open`).
3. With proxy_requests a session changes no server: its client's further datagrams begin another
   one, as they do when that many have come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.core import codes
from ngxstream.event import datagram
from ngxstream.stream.peer_state import UNHEALTHY

if TYPE_CHECKING:
    from ngxstream.event.connection import Table
    from ngxstream.event.udp_clients import Sink
    from ngxstream.modules.proxy.conf import ProxyConf
    from ngxstream.modules.proxy.udp import UdpProxy

LOOK_MS: Final = 1000


def may_leave(conf: ProxyConf) -> bool:
    """Tell whether sessions of a server may go on with another one; else they stay."""
    return conf.next_upstream and conf.next_upstream_tries != 1


class Leaving:
    """Takes a client's datagrams in the place of its session."""

    __slots__ = ("c", "proxy", "sink", "_look_ms")

    def __init__(self, proxy: UdpProxy) -> None:
        self.c = proxy.c
        self.proxy = proxy
        sink: Sink = proxy
        for step in proxy.conf.steps:
            sink = step(proxy, sink)
        self.sink = sink  # where datagrams go while the session stays
        self._look_ms = 0  # loop ms before which nobody looks for another server

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Go on with another server, if there is one; or with the one there was."""
        proxy, now_ms = self.proxy, self.proxy.loop.now_ms
        if now_ms < self._look_ms:
            return self.sink.take(views)
        table: Table = self.c.table  # type: ignore[assignment]
        peer = proxy.peer
        if peer is None or not peer.state.status & UNHEALTHY:
            table.enlist(self.c, self.sink)
            return self.sink.take(views)
        if not self._has_another():
            self._look_ms = now_ms + LOOK_MS
            return self.sink.take(views)
        if proxy.conf.requests:
            table.forget(self.c)
            return views
        rest = proxy.change_server(views)
        if proxy.s.status:
            return rest if proxy.s.status == codes.STREAM_OK else None
        proxy.count_live()
        return table.give(self.c, rest) if rest else None

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Do the same with the datagrams of a coalesced message."""
        return self.take(datagram.split(view, size))

    def _has_another(self) -> bool:
        """Tell whether a session that begins now would find a server."""
        proxy = self.proxy
        balancer = proxy.upstream.balancer
        return balancer is not None and bool(balancer.select(proxy.s).foresee())

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.proxy.on_fault()
