"""A proxied UDP session: connecting it, its place in the client's table, and moving it.

Answers for the SOCK_DGRAM branches of ngx_stream_proxy_connect and ngx_stream_proxy_init_upstream
(ngx_stream_proxy_module.c). What the session holds, and what ends it, is in udp_exchange.py.

There is one class of sessions. What the configuration asks for besides was chosen when it was read
(ProxyConf.steps, ProxyConf.lender): what a client's datagrams pass before they come here, and whose
socket they leave by.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, errors, log
from ngxstream.event import connect, eviction, poller
from ngxstream.event.connect import UNIX
from ngxstream.modules.proxy import udp_state
from ngxstream.modules.proxy.handler import NO_DESCRIPTORS
from ngxstream.modules.proxy.udp_to_server import ToServer
from ngxstream.stream.upstream import CONNECT

if TYPE_CHECKING:
    from ngxstream.event.connection import Table
    from ngxstream.event.udp_clients import Sink
    from ngxstream.stream.upstream import Peer

HEARD_MS: Final = 1000


class UdpProxy(ToServer):
    """The content of a proxied UDP session."""

    __slots__ = ()

    kind = socket.SOCK_DGRAM

    def open(self, peer: Peer, local: Any, transparent: bool) -> tuple[Any, bool]:
        """Connect a socket that rested, if there is one like we need, or a new one."""
        conf = self.conf
        self.family = 0
        if conf.lender is not None:
            lent = conf.lender.open(self, peer, local)
            self.is_lent = lent is not None
            if lent is not None:
                return lent, True
        if local is None and conf.options.plain and peer.family != UNIX:
            self.family = peer.family
            sock = self.c.table.sockets.take(peer.family, rested=True)  # type: ignore[union-attr]
            if sock is not None:
                if not sock.connect_ex(peer.sockaddr):
                    # hot: who answered a moment ago has its port itself
                    if self.loop.now_ms - peer.state.heard_ms > HEARD_MS:
                        self._refuse_own(sock, peer)
                    return sock, True
                self.loop.close_later(sock)
        try:
            return super().open(peer, local, transparent)
        except errors.InternalError as error:
            if error.errno not in NO_DESCRIPTORS:
                raise
            evict = self.loop.get(eviction.Eviction)
            sockets = self.c.table.sockets  # type: ignore[union-attr]
            sock = sockets.take(self.family)
            if sock is None and self.family and evict.make():
                sock = sockets.take(self.family)  # that of the session that ended
            if sock is not None and not sock.connect_ex(peer.sockaddr):
                self._refuse_own(sock, peer)
                return sock, True
            if not evict.may_log():
                error.level = "info"
            raise

    def _refuse_own(self, sock: Any, peer: Peer) -> None:
        """Close a socket that is connected to itself. Raises: ConnectError"""
        if connect.is_own(sock, peer.sockaddr):
            self.loop.close_later(sock)
            raise connect.refused(peer.name)

    def begin(self, ready: bool) -> None:
        """Send the first datagram: a UDP socket is connected at once."""
        s, loop, conf = self.s, self.loop, self.conf
        state: Any = self.state
        self.connected = True
        peer: Any = self.peer
        self.selection.notify(peer, CONNECT)
        state.connect_ms = loop.now_ms - state.start_ms
        if s.log.level >= log.INFO:
            self.log_connected()
        s.action = "proxying connection"
        if self.is_lent:
            conf.lender.begin(self)  # type: ignore[union-attr]
            return
        if peer.family == UNIX:
            self.gso = False
        self.deadline = loop.now_ms + self.timeout
        loop.timers.add(self)
        rates = self.rates
        loop.register(self.pc_fd, self.on_event if rates is None else rates.on_event, poller.LEVEL)
        first = self.first
        if conf.proxy_protocol:
            first = self.proxy_header() + first
        dropped = self.dropped
        pc = self.pc
        self.send(first)
        if self.pc is not pc:
            return  # it was refused: the next server has it, or the session is over
        if self.dropped > dropped and conf.proxy_protocol and not conf.every_datagram:
            # what follows would come without the header that says whose it is
            s.finalize(codes.INTERNAL_SERVER_ERROR)
        if s.status or ((conf.requests or not self.expected) and self.settle()):
            return
        if 0 < conf.requests <= self.requests:
            self.c.placed = True  # the client's next datagram begins anew
        else:
            self.enlist()

    def enlist(self) -> None:
        """Have the client's further datagrams come here, past the steps that are configured."""
        sink: Sink = self
        for step in self.conf.steps:
            sink = step(self, sink)
        self.c.table.enlist(self.c, sink)  # type: ignore[union-attr]

    def connect_late(self) -> None:
        """Connect a session that was not ready for a while; then take what came meanwhile."""
        c = self.c
        table: Table = c.table  # type: ignore[assignment]
        kept = table.kept_for(c)
        table.enlist(c, self)
        self.connect()
        if kept:
            table.again(c, [memoryview(data) for data in kept])

    way = udp_state.way
    pack = udp_state.pack
    release = udp_state.release
    send_waiting = udp_state.send_waiting

    def pack_rates(self) -> tuple[int | None, int | None, int] | None:
        """Return what rate limits keep, if there are any."""
        return None if self.rates is None else self.rates.pack()

    def unpack_rates(self, packed: tuple[int | None, int | None, int]) -> None:
        """Go on with what pack_rates() returned in another process."""
        if self.rates is not None:
            self.rates.unpack(packed)

    def waiting(self) -> list[bytes]:
        """Return, and forget, what waits for room or for the rate, as the server gets it."""
        queue, self.queue = self.queue, None
        delayed = self.rates.take_delayed() if self.rates is not None else []
        return [*(queue or ()), *delayed]
