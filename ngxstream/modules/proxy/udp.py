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
from ngxstream.modules.proxy import udp_any_port, udp_filtered, udp_leaving, udp_state
from ngxstream.modules.proxy.handler import NO_DESCRIPTORS
from ngxstream.modules.proxy.udp_to_server import ToServer
from ngxstream.stream import endings
from ngxstream.stream.upstream import CONNECT, UpstreamState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ngxstream.event.connection import Table
    from ngxstream.event.udp_clients import Sink
    from ngxstream.stream.upstream import Peer

HEARD_MS: Final = 1000


class UdpProxy(ToServer):
    """The content of a proxied UDP session."""

    __slots__ = ()

    kind = socket.SOCK_DGRAM

    def start(self) -> None:
        """Choose a server and send it the datagram. # hot: the usual way, in one function

        That is a new session by a socket that rested, to a server that has answered lately. What is
        not usual goes the way of handler.py, from where it is not.
        """
        s, c, loop, conf = self.s, self.c, self.loop, self.conf
        if not conf.is_usual or s.log.level >= log.DEBUG or loop.free_connections <= 0:
            super().start()
            return
        upstream = self.upstream
        self.peer_name = upstream.name
        selection = self.selection = upstream.balancer.select(s)  # type: ignore[union-attr]
        s.action = "connecting to upstream"
        now_ms = loop.now_ms
        state = self.state = UpstreamState(now_ms)
        s.states = [state]
        try:
            peer = self.peer = selection.get()
        except errors.NoLivePeers:
            self.find_none(state)
            return
        self.peer_name = peer.name
        if now_ms - peer.state.heard_ms > HEARD_MS:
            self.connect()
            return
        found = c.table.sockets.take_rested(peer.family)  # type: ignore[union-attr]
        if found is None:
            self.connect()
            return
        pc, fd = found
        if pc.connect_ex(peer.sockaddr):
            loop.close_later(pc)
            self.connect()
            return
        self.family = peer.family
        state.peer_name = peer.name
        state.connect_ms = 0
        loop.free_connections -= 1
        loop.next_number()  # upstream connections count in $connection too
        self.pc = pc
        self.pc_fd = fd
        self.connected = True
        selection.notify(peer, CONNECT)
        if s.log.level >= log.INFO:
            self.log_connected()
        s.action = "proxying connection"
        self.deadline = now_ms + self.timeout
        loop.timers.add(self)
        loop.handlers[fd] = self.on_event  # it is watched still
        try:
            state.bytes_sent = pc.send(self.first)
        except OSError:
            self.send(self.first)  # again: it tells what to do
            if self.pc is not pc:
                return  # it was refused: the next server has it, or the session is over
        if (conf.requests or not self.expected) and (s.status or self.settle()):
            return
        if 0 < conf.requests <= self.requests:
            c.placed = True  # the client's next datagram begins anew
        else:
            self.enlist()

    def open(self, peer: Peer, local: Any, transparent: bool) -> tuple[Any, bool]:
        """Connect a socket that rested, if there is one like we need, or a new one."""
        conf = self.conf
        self.family = 0
        if conf.lender is not None:
            lent = conf.lender.open(self, peer, local)
            self.is_lent = lent is not None
            if lent is not None:
                return lent, True
        if conf.any_port:
            own = udp_any_port.open_socket(conf, peer, local)
            if own is not None:
                return own, True
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
        on_event: Callable[[int], None] = self.on_event if rates is None else rates.on_event
        send = self.send_first
        if rates is not None:
            rates.begin()
        if s.server.filters is not None:
            filtered = self.filtered or udp_filtered.Filtered(self)
            if s.status:
                return
            on_event, send = filtered.reader(on_event), filtered.begin
        loop.register(self.pc_fd, on_event, poller.LEVEL)
        pc = self.pc
        send()
        if self.pc is not pc:
            return  # it was refused: the next server has it, or the session is over
        is_due = conf.requests or not self.expected or self.spared
        if s.status or (is_due and self.settle()):
            return
        if 0 < conf.requests <= self.requests:
            self.c.placed = True  # the client's next datagram begins anew
        else:
            self.enlist()

    def send_first(self) -> None:
        """Send the first datagram of the client, or what a filter has made of it."""
        s, conf = self.s, self.conf
        first = self.first
        if conf.proxy_protocol:
            first = self.proxy_header() + first
        dropped, pc = self.dropped, self.pc
        self.send(first)
        if self.pc is not pc:
            return
        if self.dropped > dropped and conf.proxy_protocol and not conf.every_datagram:
            # what follows would come without the header that says whose it is
            s.end(codes.INTERNAL_SERVER_ERROR, endings.UPSTREAM_ERROR)

    def enlist(self) -> None:
        """Have the client's further datagrams come here, past the steps that are configured."""
        sink: Sink = self
        for step in self.conf.steps:
            sink = step(self, sink)
        self.c.table.enlist(self.c, sink)  # type: ignore[union-attr]

    def avoid_server(self) -> None:
        """Have another server get the client's next datagram, if any more come here."""
        conf = self.conf
        is_listed = not 0 < conf.requests <= self.requests
        if self.pc is not None and is_listed and udp_leaving.may_leave(conf):
            self.c.table.enlist(self.c, udp_leaving.Leaving(self))  # type: ignore[union-attr]

    def connect_late(self) -> None:
        """Connect a session that was not ready for a while; then take what came meanwhile."""
        c = self.c
        table: Table = c.table  # type: ignore[assignment]
        kept = table.kept_for(c)
        table.enlist(c, self)
        self.connect()
        if kept:
            table.again(c, [memoryview(data) for data in kept])

    def send_to_client(self, data: bytes, most: int) -> bool:
        """Send a datagram that is no answer of the server. See Content"""
        udp_filtered.answer(self, data)
        return True

    def send_to_upstream(self, data: bytes, most: int) -> bool:
        """Send a datagram like one of the client. See Content"""
        if not self.connected or self.pc is None:
            return False
        udp_filtered.send(self, data)
        return True

    way = udp_state.way
    pack = udp_state.pack
    release = udp_state.release
    send_waiting = udp_state.send_waiting

    def resumed(self) -> None:
        """Go on where another process has left it."""

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
