"""A proxied UDP session: one connected socket to the server, datagrams counted both ways.

Answers for the SOCK_DGRAM branches of ngx_stream_proxy_module.c.

What ends a session (R is proxy_requests, N is proxy_responses):
    datagrams < R            it goes on
    datagrams = R            it is taken out of the table: the client's next datagram begins anew
    responses >= N x datagrams, nothing queued         "udp done", 200
    idle for proxy_timeout, responses as expected      "udp timed out", 200
    idle for proxy_timeout, responses missing          "upstream timed out", 502, peer failed
    refused before any response                        the next server, or 502
    room is needed for a new client                    the session idle longest gives way, 200

How datagrams cross is the business of the two halves: udp_to_server.py and udp_to_client.py.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, errors, log
from ngxstream.event import connect, datagram, eviction, poller, udp_clients
from ngxstream.modules.proxy import handler
from ngxstream.modules.proxy.conf import UNLIMITED
from ngxstream.modules.proxy.udp_to_client import ToClient
from ngxstream.modules.proxy.udp_to_server import ToServer
from ngxstream.stream.upstream import CONNECT
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer

NEVER_MS: Final = 1 << 62
HEARD_MS: Final = 1000
_NO_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE))


class UdpProxy(ToServer, ToClient):
    """The content of a proxied UDP session."""

    __slots__ = (
        "gate",  # UdpGate the client came in by
        "client",  # sockaddr answers go to
        "control",  # control data answers carry (source address), or None
        "requests",
        "responses",
        "expected",  # int: proxy_responses
        "failed",  # bool: the peer counts as failed at the end
        "gso",  # bool: the path to the server takes GSO
        "client_gso",
        "queue",  # list[bytes] | None: waiting for room towards the server
        "dropped",
        "limit",  # how many answers a drain reads without asking for EAGAIN
        "first",  # bytes: the first datagram, kept until it is answered
        "gro_hints",
        "gro",
        "family",  # of a socket that may be recycled at the end, or 0
    )

    kind = socket.SOCK_DGRAM

    def __init__(self, s: Session) -> None:
        handler.Proxy.__init__(self, s)
        c = s.c
        gate: Any = c.table
        self.gate = gate
        self.control = gate.control_for(c)
        self.client = udp_clients.peer_of(c.key)
        self.requests = 1
        self.responses = 0
        self.expected = self.conf.responses
        self.failed = False
        self.gso = True
        self.client_gso = gate.family != socket.AF_UNIX  # whose datagrams nobody would cut
        self.queue: list[bytes] | None = None
        self.dropped = 0
        self.limit = 1
        self.first = s.preread
        self.gro_hints = 0
        self.gro = False
        self.family = 0

    # -- connecting ----------------------------------------------------------------------------

    def open(self, peer: Peer, local: Any, transparent: bool) -> tuple[Any, bool]:
        """Connect a socket that rested, if there is one like we need, or a new one."""
        self.family = 0
        if local is None and self.conf.options.plain and peer.family != socket.AF_UNIX:
            self.family = peer.family
            sock = self.gate.sockets.take(peer.family, rested=True)
            if sock is not None:
                if not sock.connect_ex(peer.sockaddr):
                    # hot: who answered a moment ago has its port itself
                    if self.loop.now_ms - peer.state.heard_ms > HEARD_MS:
                        self._see_that_it_is_another(sock, peer)
                    return sock, True
                self.loop.close_later(sock)
        try:
            return super().open(peer, local, transparent)
        except errors.InternalError as error:
            if error.errno not in _NO_DESCRIPTORS:
                raise
            evict = self.loop.get(eviction.Eviction)
            sock = self.gate.sockets.take(self.family)
            if sock is None and self.family and evict.make():
                sock = self.gate.sockets.take(self.family)  # that of the session that ended
            if sock is not None and not sock.connect_ex(peer.sockaddr):
                self._see_that_it_is_another(sock, peer)
                return sock, True
            if not evict.may_log():
                error.level = "info"
            raise

    def _see_that_it_is_another(self, sock: Any, peer: Peer) -> None:
        """Let go of a socket that is connected to itself. Raises: ConnectError"""
        if connect.is_own(sock, peer.sockaddr):
            self.loop.close_later(sock)
            raise connect.refused(peer.name)

    def begin(self, ready: bool) -> None:
        """Send the first datagram: a UDP socket is connected at once."""
        s, loop, conf = self.s, self.loop, self.conf
        state: Any = self.state
        self.connected = True
        peer: Any = self.peer
        if peer.family == socket.AF_UNIX:
            self.gso = False
        self.selection.notify(peer, CONNECT)
        state.connect_ms = loop.now_ms - state.start_ms
        if s.log.level >= log.INFO:
            self.log_connected()
        s.action = "proxying connection"
        self.deadline = loop.now_ms + self.timeout
        loop.timers.add(self)
        loop.register(self.pc_fd, self.on_event, poller.LEVEL)
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
        self.enlist()

    def enlist(self) -> None:
        """Have the client's further datagrams come here."""
        if self.conf.requests == 1:
            self.gate.release(self.c)
        else:
            self.gate.enlist(self.c, self)

    def connect_late(self) -> None:
        """Connect a session that was not ready for a while; then take what came meanwhile."""
        c, gate = self.c, self.gate
        kept = gate.kept_for(c)
        gate.enlist(c, self)
        self.connect()
        if kept:
            gate.again(c, [memoryview(data) for data in kept])

    def proxy_header(self) -> bytes:
        """Return the PROXY protocol header that goes in front of the first datagram."""
        src, dst = self.c.sockaddr, self.c.local_sockaddr()
        if self.conf.proxy_protocol == 1:
            return proxy_protocol.build_v1(src, dst)
        return proxy_protocol.build_v2(src, dst, proxy_protocol.DGRAM)

    # -- failing -------------------------------------------------------------------------------

    def on_refused(self, error: OSError) -> None:
        """The server's host refused a datagram (ICMP): a failure of the peer.

        Before any response the next server gets the first datagram; after one, the refusal is a
        response like another, as in nginx.
        Source: ngx_stream_proxy_process (recv error on a datagram socket)
        """
        s = self.s
        s.action = "proxying and reading from upstream"
        s.log_error(handler.upstream_level(error), "recv() failed", error.errno)
        s.action = "proxying connection"
        if not self.responses:
            self.fail_over()
            return
        self.failed = True
        self.responses += 1
        self.deadline = self.loop.now_ms + self.timeout
        self.settle()

    def fail_over(self) -> None:
        """Go on to the next server with the first datagram, or end as 502 when there is none."""
        self.dropped += self.requests - 1  # what followed it went to the server that refuses
        self.loop.timers.remove(self)
        self.queue = None
        self.family = 0
        self.next_upstream()

    # -- changing hands ------------------------------------------------------------------------

    def pack_rates(self) -> Any:
        """Return what rate limits keep; there are none here."""
        return None

    def unpack_rates(self, packed: Any) -> None:
        """Go on with what pack_rates() returned in another process."""

    def leave(self) -> None:
        """Stop what goes on here in the background."""

    def whole(self, data: bytes) -> bytes:
        """Return a client's datagram as the server gets it."""
        return data

    def waiting(self) -> list[bytes]:
        """Return, and forget, what waits for room towards the server, as it gets it."""
        queue, self.queue = self.queue, None
        return queue or []

    # -- ending --------------------------------------------------------------------------------

    def settle(self) -> bool:
        """End the session if all that is expected has come. Returns: whether it ended

        Source: ngx_stream_proxy_test_finalize
        """
        conf = self.conf
        if self.s.status:
            return True
        if conf.requests:
            if self.requests < conf.requests:
                return False
            self.gate.forget(self.c)
        if self.expected == UNLIMITED or self.responses < self.expected * self.requests:
            return False
        if self.queue is not None:
            return False
        if self.s.log.level >= log.INFO:
            self.s.log_plain(log.INFO, f"udp done, {self._packets()}")
        self.s.finalize(codes.STREAM_OK)
        return True

    def _packets(self) -> str:
        a, b, c, d = self.counts()
        dropped = f", dropped:{self.dropped}" if self.dropped else ""
        return (
            f"packets from/to client:{self.requests}/{self.responses}, "
            f"bytes from/to client:{a}/{b}, bytes from/to upstream:{c}/{d}{dropped}"
        )

    # -- giving way ----------------------------------------------------------------------------

    @property
    def active_ms(self) -> int:
        """When something moved last, loop ms; NEVER while nothing can tell."""
        deadline = self.deadline
        return deadline - self.timeout if deadline and self.pc is not None else NEVER_MS

    @property
    def conversing(self) -> bool:
        """Whether both sides have spoken more than once: no forged source does."""
        return self.requests > 1 and self.responses > 0

    def give_way(self) -> None:
        """End for the sake of a new client."""
        s = self.s
        if s.log.level >= log.INFO:
            s.log_plain(log.INFO, f"udp session gives way to a new client, {self._packets()}")
        s.finalize(codes.STREAM_OK)

    def on_timeout(self) -> None:
        """Nothing moved for proxy_timeout."""
        s = self.s
        if self.expected == UNLIMITED or self.responses >= self.expected * self.requests:
            if s.log.level >= log.INFO:
                s.log_plain(log.INFO, f"udp timed out, {self._packets()}")
            s.finalize(codes.STREAM_OK)
            return
        s.log_error(log.ERR, "upstream timed out", errno.ETIMEDOUT)
        self.failed = True
        s.finalize(codes.BAD_GATEWAY)

    def on_fault(self) -> None:
        """An unexpected exception: end this session only."""
        self.s.finalize(codes.INTERNAL_SERVER_ERROR)

    def counts(self) -> tuple[int, int, int, int]:
        """Return bytes from and to the client, from and to the upstream."""
        state = self.state
        if state is None:
            return self.c.received, self.c.sent, 0, 0
        return self.c.received, self.c.sent, state.bytes_received, state.bytes_sent

    def close(self) -> None:
        """Let go of the peer and its socket."""
        loop, state, pc = self.loop, self.state, self.pc
        loop.timers.remove(self)
        if state is not None:
            state.session_ms = loop.now_ms - state.start_ms
        self._free(self.failed)
        if (
            pc is not None
            and self.family
            and not self.gro
            and self.queue is None
            and self.gate.sockets.give(pc, self.pc_fd, self.family)
        ):
            self.pc = None
            loop.free_connections += 1
        else:
            self._close_peer()


class CountedUdpProxy(UdpProxy):
    """A session that takes only so many datagrams: what comes after begins a new one."""

    __slots__ = ()

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Send on as many datagrams as the session may take, and return the rest."""
        room = max(0, self.conf.requests - self.requests)
        if room:
            super().take(views[:room])
        if not self.s.status:
            self.settle()
        return views[room:]

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Cut a burst at the quota."""
        return self.take(datagram.split(view, size))
