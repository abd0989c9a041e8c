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

Bursts: what the gate drained for this client in one turn leaves in one GSO message where sizes
allow, and what the server answered in one turn leaves in one towards the client
(event/datagram.py). A path that cannot do GSO is found out once and noted at info.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, errors, log
from ngxstream.event import datagram, poller, udp
from ngxstream.modules.proxy import handler
from ngxstream.modules.proxy.conf import UNLIMITED
from ngxstream.stream.upstream import CONNECT, FIRST_BYTE
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer

QUEUED: Final = 64  # datagrams waiting for room towards the server
NEVER_MS: Final = 1 << 62
_NO_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE))


class UdpProxy(handler.Proxy):
    """The content of a proxied UDP session."""

    __slots__ = (
        "inbox",  # list[memoryview]: the gate's, see event/udp.py
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
        self.inbox: list[memoryview] = []
        self.gate = gate
        self.control = gate.control_for(c)
        self.client = udp.peer_of(c.key)
        self.requests = 1
        self.responses = 0
        self.expected = self.conf.responses
        self.failed = False
        self.gso = True
        self.client_gso = True
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
            sock = self.loop.udp_sockets.take(peer.family)
            if sock is not None:
                if not sock.connect_ex(peer.sockaddr):
                    return sock, True
                self.loop.close_later(sock)
        try:
            return super().open(peer, local, transparent)
        except errors.InternalError as error:
            if error.errno not in _NO_DESCRIPTORS:
                raise
            room = self.loop.room
            if self.family and room.make():
                sock = self.loop.udp_sockets.take(peer.family)  # of the session that gave way
                if sock is not None and not sock.connect_ex(peer.sockaddr):
                    return sock, True
            if not room.may_complain():
                error.level = "info"
            raise

    def begin(self, ready: bool) -> None:
        """Send the first datagram: a UDP socket is connected at once."""
        s, loop, conf = self.s, self.loop, self.conf
        state: Any = self.state
        self.connected = True
        self.selection.notify(self.peer, CONNECT)  # type: ignore[arg-type]
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
        for data in kept:
            view = memoryview(data)
            sink = gate.table.get(c.key)
            if sink is None:  # this session is over, or has what it wants
                gate.again(c, view)
            else:
                sink.inbox.append(view)
                sink.take()

    def proxy_header(self) -> bytes:
        """Return the PROXY protocol header that goes in front of the first datagram."""
        src, dst = self.c.sockaddr, self.c.local_sockaddr()
        if self.conf.proxy_protocol == 1:
            return proxy_protocol.build_v1(src, dst)
        return proxy_protocol.build_v2(src, dst, proxy_protocol.DGRAM)

    # -- from the client -----------------------------------------------------------------------

    def take(self) -> None:
        """Send on what the client sent. # hot: once a client and turn"""
        inbox = self.inbox
        if len(inbox) == 1:
            view = inbox.pop()
            self.requests += 1
            self.c.received += len(view)
            self.send(view)
        else:
            self.requests += len(inbox)
            self.c.received += sum(map(len, inbox))
            self.send_many(inbox)
            inbox.clear()
        self.deadline = self.loop.now_ms + self.timeout
        if not self.expected:
            self.settle()

    def take_burst(self, view: memoryview, size: int) -> None:
        """Send on a coalesced message as it came."""
        count = -(-len(view) // size)
        self.requests += count
        self.c.received += len(view)
        if self.gso and self.queue is None:
            try:
                self.state.bytes_sent += self.pc.sendmsg(  # type: ignore[union-attr]
                    (view,), datagram.segment_control(size)
                )
            except OSError as error:
                if not self._burst_failed(error):
                    return
                self._send_each(datagram.split(view, size))
        else:
            self._send_each(datagram.split(view, size))
        self.deadline = self.loop.now_ms + self.timeout
        if not self.expected:
            self.settle()

    def send(self, data: bytes | memoryview) -> None:
        """Send one datagram to the server, or queue it when there is no room."""
        if self.queue is not None:
            self._enqueue(data)
            return
        try:
            self.state.bytes_sent += self.pc.send(data)  # type: ignore[union-attr]
        except BlockingIOError:
            self._enqueue(data)
        except OSError as error:
            self._send_failed(error)

    def send_many(self, views: list[memoryview]) -> None:
        """Send several datagrams, in as few messages as their sizes allow."""
        if not self.gso or self.queue is not None:
            self._send_each(views)
            return
        for first, end, size in datagram.runs(views):
            if end - first == 1:
                self.send(views[first])
                continue
            try:
                self.state.bytes_sent += self.pc.sendmsg(  # type: ignore[union-attr]
                    views[first:end], datagram.segment_control(size)
                )
            except OSError as error:
                if not self._burst_failed(error):
                    return
                self._send_each(views[first:])
                return

    def _send_each(self, views: list[memoryview]) -> None:
        for view in views:
            if self.pc is None:
                return
            self.send(view)

    def _burst_failed(self, error: OSError) -> bool:
        """Tell whether the datagrams of a failed burst should be sent one by one."""
        if isinstance(error, BlockingIOError):
            return True
        if datagram.is_no_gso(error):
            self.gso = False
            self.s.log_error(log.INFO, "sending datagrams one by one", error.errno)
            return True
        self._send_failed(error)
        return False

    def _send_failed(self, error: OSError) -> None:
        """A failed send counts against the peer, and ends the session if it was answered before.

        A datagram that is too large, by itself or with a header, is nobody's fault: it is dropped.
        """
        s = self.s
        if error.errno == errno.EMSGSIZE:
            self.dropped += 1
            s.log_error(log.ERR, "datagram is too large to be sent", error.errno)
            return
        s.action = "proxying and sending to upstream"
        s.log_error(handler.upstream_level(error), "sendmsg() failed", error.errno)
        if not self.responses:
            self.fail_over()
            return
        self.failed = True
        s.finalize(codes.STREAM_OK)

    def _enqueue(self, data: bytes | memoryview) -> None:
        queue = self.queue
        if queue is None:
            queue = self.queue = []
            loop = self.loop
            on_event = loop.handlers[self.pc_fd]
            loop.unregister(self.pc_fd)
            loop.register(self.pc_fd, _Room(self, on_event).on_event, poller.IN | poller.OUT)
        if len(queue) >= QUEUED:
            self.dropped += 1
        else:
            queue.append(bytes(data))

    def flush(self) -> bool:
        """Send what waited for room. returns: whether all of it is gone"""
        queue = self.queue or []
        while queue:
            try:
                self.state.bytes_sent += self.pc.send(queue[0])  # type: ignore[union-attr]
            except BlockingIOError:
                return False
            except OSError as error:
                self._send_failed(error)
                if self.s.status:
                    return False
            queue.pop(0)
        self.queue = None
        return True

    # -- from the server -----------------------------------------------------------------------

    def on_event(self, mask: int) -> None:
        """Drain the server's answers to the client.

        # hot: once a session and turn; one receive and one send for one answer
        """
        slots = self.loop.slots
        limit = self.limit
        receive = self.pc.recv_into
        if limit == 1:
            try:
                n = receive(slots[0])
            except BlockingIOError:
                return
            except OSError as error:
                self.on_refused(error)
                return
            self.responses += 1
            state: Any = self.state
            if state.first_byte_ms < 0:
                self.first_byte()
            state.bytes_received += n
            # more are owed, or worth a look now and then: drain two next time
            if self.responses < self.requests or not self.responses & 63:
                self.limit = 2
            self.answer(slots[0][:n])
        else:
            views = []
            failure = None
            try:
                for slot in slots[:limit]:
                    n = receive(slot)
                    views.append(slot[:n])
            except BlockingIOError:
                self.limit = max(1, len(views))
            except OSError as error:
                failure = error
            else:
                self.limit = min(len(slots), limit * 2)
            if views:
                if self.state.first_byte_ms < 0:  # type: ignore[union-attr]
                    self.first_byte()
                self.responses += len(views)
                self.state.bytes_received += sum(map(len, views))  # type: ignore[union-attr]
                if len(views) == 1:
                    self.answer(views[0])
                else:
                    self.answer_many(views)
                    if len(views) >= 8:
                        self._hint(views)
            if failure is not None and not self.s.status:
                self.on_refused(failure)
                return
        self.deadline = self.loop.now_ms + self.timeout
        if self.expected != UNLIMITED:
            self.settle()

    def first_byte(self) -> None:
        """Note the time of the first answer, or of the first refusal."""
        state = self.state
        assert state is not None
        state.first_byte_ms = self.loop.now_ms - state.start_ms
        self.first = b""
        if self.peer is not None:
            self.selection.notify(self.peer, FIRST_BYTE)

    def on_event_gro(self, mask: int) -> None:
        """Drain the answers of a server that sends with GSO."""
        slots = self.loop.slots
        count = 0
        dry = False
        for slot in slots[:16]:
            try:
                n, ancillary, _, _ = self.pc.recvmsg_into((slot,), 64)
            except BlockingIOError:
                dry = True
                break
            except OSError as error:
                self.on_refused(error)
                return
            view = slot[:n]
            size = datagram.gro_size(ancillary)
            self.state.bytes_received += n  # type: ignore[union-attr]
            if 0 < size < n:
                count = -(-n // size)
                self.responses += count
                self.gro_hints = 0
                self.answer_burst(view, size)
            else:
                self.responses += 1
                self.gro_hints += 1
                self.answer(view)
            if self.s.status:
                return
        if dry and self.gro_hints > 512:  # what is queued would lose its cuts
            self.gro_hints = -(1 << 30)  # this server does not coalesce: not tried again
            self.gro = False
            datagram.set_gro(self.pc, False)
            self.loop.register(self.pc_fd, self.on_event)
        self.deadline = self.loop.now_ms + self.timeout
        if self.expected != UNLIMITED:
            self.settle()

    def _hint(self, views: list[memoryview]) -> None:
        """Notice long runs of one size: the server may be sending with GSO."""
        size = len(views[0])
        if all(len(view) == size for view in views[1:-1]):
            self.gro_hints += 1
            if self.gro_hints == 4 and not self.gro and datagram.set_gro(self.pc, True):
                self.gro = True
                self.gro_hints = 0
                if self.queue is None:
                    self.loop.register(self.pc_fd, self.on_event_gro)

    def answer(self, view: memoryview) -> None:
        """Send one datagram to the client. # hot"""
        try:
            if self.control is None:
                self.gate.sock.sendto(view, self.client)
            else:
                self.gate.sock.sendmsg((view,), self.control, 0, self.client)
        except BlockingIOError:
            self._answer_later((view,))
            return
        except OSError as error:
            self._answer_failed(error)
            return
        self.c.sent += len(view)

    def answer_many(self, views: list[memoryview]) -> None:
        """Send several datagrams to the client, in as few messages as their sizes allow."""
        if not self.client_gso:
            for view in views:
                self.answer(view)
            return
        control = self.control or []
        send = self.gate.sock.sendmsg
        for first, end, size in datagram.runs(views):
            if end - first == 1:
                self.answer(views[first])
                continue
            try:
                self.c.sent += send(
                    views[first:end], control + datagram.segment_control(size), 0, self.client
                )
            except BlockingIOError:
                self._answer_later(views[first:end])
            except OSError as error:
                if not datagram.is_no_gso(error):
                    self._answer_failed(error)
                    return
                self.client_gso = False
                self.s.log_error(log.INFO, "answering datagrams one by one", error.errno)
                for view in views[first:]:
                    self.answer(view)
                return

    def answer_burst(self, view: memoryview, size: int) -> None:
        """Send a coalesced message on as it came."""
        if not self.client_gso:
            self.answer_many(datagram.split(view, size))
            return
        try:
            self.c.sent += self.gate.sock.sendmsg(
                (view,), (self.control or []) + datagram.segment_control(size), 0, self.client
            )
        except BlockingIOError:
            self._answer_later(datagram.split(view, size))
        except OSError as error:
            if not datagram.is_no_gso(error):
                self._answer_failed(error)
                return
            self.client_gso = False
            self.s.log_error(log.INFO, "answering datagrams one by one", error.errno)
            for part in datagram.split(view, size):
                self.answer(part)

    def _answer_later(self, views: Any) -> None:
        for view in views:
            try:
                self.c.sent += self.gate.send_to(self.c, bytes(view))
            except BlockingIOError:
                self.dropped += 1
            except OSError as error:
                self._answer_failed(error)
                return

    def _answer_failed(self, error: OSError) -> None:
        s = self.s
        s.action = "proxying and sending to client"
        s.log_error(handler.client_level(error), "sendmsg() failed", error.errno)
        s.finalize(codes.STREAM_OK)

    def on_refused(self, error: OSError) -> None:
        """The server's host refused a datagram (ICMP): a failure of the peer.

        Before any response the next server gets the first datagram; after one, the refusal is a
        response like another, as in nginx.
        source: ngx_stream_proxy_process (recv error on a datagram socket)
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
        """End the session if all that is expected has come. returns: whether it ended

        source: ngx_stream_proxy_test_finalize
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
            and loop.udp_sockets.give(pc, self.pc_fd, self.family)
        ):
            self.pc = None
            loop.free_connections += 1
        else:
            self._close_peer()
        if self.inbox:
            self.inbox.clear()


class CountedUdpProxy(UdpProxy):
    """A session that takes only so many datagrams: what comes after begins a new one."""

    __slots__ = ()

    def take(self) -> None:
        """Send on as many datagrams as the session may take; the gate begins anew with the rest."""
        room = self.conf.requests - self.requests
        rest = self.inbox[room:]
        del self.inbox[room:]
        super().take()
        if not self.s.status:
            self.settle()
        c, gate = self.c, self.gate
        for view in rest:
            sink = gate.table.get(c.key)
            if sink is None:
                gate.again(c, view)
            else:
                sink.inbox.append(view)
                sink.take()

    def take_burst(self, view: memoryview, size: int) -> None:
        """Cut a burst at the quota."""
        self.inbox.extend(datagram.split(view, size))
        self.take()


class _Room:
    """Waits, in a session's place, for room towards its server."""

    __slots__ = ("proxy", "go_on")

    def __init__(self, proxy: UdpProxy, go_on: Any) -> None:
        self.proxy = proxy
        self.go_on = go_on

    def on_event(self, mask: int) -> None:
        """Send what waits, then let the session's own handler have the socket back."""
        proxy = self.proxy
        if mask & poller.OUT and proxy.flush():
            loop = proxy.loop
            loop.unregister(proxy.pc_fd)
            loop.register(proxy.pc_fd, self.go_on, poller.LEVEL)
            if proxy.settle():
                return
        if mask & poller.READABLE and not proxy.s.status:
            self.go_on(mask)
