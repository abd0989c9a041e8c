"""A proxied TCP session: wait for the connect, send what goes first, relay, end.

Answers for ngx_stream_proxy_connect_handler, ngx_stream_proxy_init_upstream and
ngx_stream_proxy_test_finalize (ngx_stream_proxy_module.c), TCP side.

    start ► connect ► on_connect ► established ► ready ► relay ◄──► on_end ► finalize
               ▲          │ failed,     │   ▲
               ├──────────┘ timed out   └───┘ TLS (tls.py): failed ► next_upstream
               └─ next_upstream

The client is not read before the upstream is connected: its bytes wait in the kernel, and
its FIN does not end the attempt (nginx reads one buffer ahead; nobody can tell).
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from ngxstream.core import codes, errors, log
from ngxstream.event import connect, pump, splice, tls_pump
from ngxstream.event import tls as event_tls
from ngxstream.event.connect import UNIX
from ngxstream.event.poller import OUT, READABLE
from ngxstream.modules.proxy import filtered, handler, tls
from ngxstream.stream import endings
from ngxstream.stream.upstream import CONNECT, FIRST_BYTE, UpstreamState
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from ngxstream.stream.endings import Ending
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer


class TcpProxy(handler.Proxy):
    """The content of a proxied TCP session."""

    __slots__ = ("up", "down", "half_closed")

    kind = connect.STREAM

    def __init__(self, s: Session) -> None:
        handler.Proxy.__init__(self, s)
        self.up: pump.Half | None = None  # client -> upstream
        self.down: pump.Half | None = None  # upstream -> client
        self.half_closed = False

    # -- connecting ----------------------------------------------------------------------------

    def start(self) -> None:
        """Choose a server and connect to it. # hot: the usual way, in one function

        What is not usual goes the way of handler.py.
        """
        s, c, loop, conf = self.s, self.c, self.loop, self.conf
        if not conf.is_usual or s.log.level >= log.DEBUG or not c.reserved:
            handler.Proxy.start(self)
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
        name = self.peer_name = peer.name
        if peer.family == UNIX:
            self.connect()
            return
        drawn = loop.get(connect.ephemeral_ports)
        try:
            pc, ready = connect.connect_plainly(peer.family, peer.sockaddr, name, drawn)
        except (errors.PeerError, errors.InternalError) as error:
            if self.may_try_next(error):
                self.connect()
            return
        state.peer_name = name
        c.reserved = 0
        loop.next_number()  # upstream connections count in $connection too
        self.pc = pc
        fd = self.pc_fd = pc.fileno()
        self.deadline = now_ms + conf.connect_timeout
        loop.timers.add(self)
        loop.poller.begin(fd, self.on_connect)
        if ready:
            self.established()

    def open(self, peer: Peer, local: Any, transparent: bool) -> tuple[Any, bool]:
        """Open a socket towards a peer."""
        if local is None and peer.family != UNIX and self.conf.options.plain:
            drawn = self.loop.get(connect.ephemeral_ports)
            return connect.connect_plainly(peer.family, peer.sockaddr, peer.name, drawn)
        return handler.Proxy.open(self, peer, local, transparent)

    def begin(self, ready: bool) -> None:
        """Wait until the connection is established."""
        loop = self.loop
        self.deadline = loop.now_ms + self.conf.connect_timeout
        loop.timers.add(self)
        loop.poller.begin(self.pc_fd, self.on_connect)
        if ready:
            self.established()

    def on_connect(self, mask: int) -> None:
        """Handle the end of a connect(). Source: ngx_stream_proxy_connect_handler"""
        if mask & READABLE or not mask & OUT:  # select tells an error as both, and as no error
            code = self.pc.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.s.log_error(log.ERR, "connect() failed", code)
                self.next_upstream(endings.of_connect(code))
                return
            if not mask & OUT:
                return
        self.established()
        if mask & READABLE:  # the same edge: a server that sends first, or has closed already
            go_on = self.loop.handlers.get(self.pc_fd)
            if go_on is not None:
                go_on(mask)

    def established(self) -> None:
        """Go on with an established connection. Source: ngx_stream_proxy_init_upstream"""
        s, c = self.s, self.c
        assert self.peer is not None
        if s.server.core.tcp_nodelay:
            if not c.listening.options.nodelay:
                connect.set_nodelay(c.sock, c.listening.options.family)
            connect.set_nodelay(self.pc, self.peer.family)
        if s.server.proxy_ssl.ssl:
            tls.begin(self)
        else:
            self.ready()

    def shake(self) -> tls.Handshake:
        """Return the handshake with a TLS server. Raises: SslError"""
        return tls.Handshake(self)

    def ready(self) -> None:
        """Go on with a connection that can carry the client's bytes."""
        state: Any = self.state
        self.connected = True
        self.selection.notify(self.peer, CONNECT)  # type: ignore[arg-type]
        state.connect_ms = self.loop.now_ms - state.start_ms
        if self.s.log.level >= log.INFO:
            self.log_connected()
        self.relay()

    def relay(self) -> None:
        """Set the two halves going."""
        s, loop, c, conf = self.s, self.loop, self.c, self.conf
        pc, pc_fd = self.pc, self.pc_fd
        is_tls = type(pc) is event_tls.Transport
        half = tls_pump.half if is_tls or type(c.sock) is event_tls.Transport else pump.Half
        if s.server.filters is None:
            sock: Any = c.sock
            up = half(self, loop, sock, c.fd, pc, pc_fd)
            down = half(self, loop, pc, pc_fd, sock, c.fd)
            if half is pump.Half:
                up.quick = (sock.recv, up.send, self, loop)
                down.quick = (pc.recv, down.send, self, loop)
        else:
            made = filtered.halves(self, half)
            if made is None:
                return
            up, down = made
        self.up, self.down = up, down
        up.twin = down
        down.twin = up
        from_client = up.on_event
        if conf.is_rated:  # a bad rate is logged as while connecting
            up.limiter, down.limiter = self.limiters()
            if up.limiter is not None:
                from_client = up.on_event_rated
        s.action = "proxying connection"
        before, self.deadline = self.deadline, loop.now_ms + self.timeout
        if not 0 < before <= self.deadline:
            loop.timers.add(self)
        first = s.preread
        if first:
            up.received += len(first)
            s.preread = b""
        if is_tls:  # the PROXY header went before the handshake
            state: Any = self.state
            up.sent, state.bytes_sent = state.bytes_sent, 0
        elif conf.proxy_protocol:
            first = self.proxy_header() + first
        if first:
            up.push(first)
            if s.status:
                return
        handlers = loop.handlers
        if is_tls:
            handlers[pc_fd] = self.on_first_tls_event
            if pc.has_pending():
                loop.post(down.resume)
        else:
            handlers[pc_fd] = self.on_first_event
        if c.fd in handlers:  # registered by preread or TLS: no new edge would come
            handlers[c.fd] = from_client
            loop.post(up.resume)
        else:
            loop.poller.begin(c.fd, from_client)

    def proxy_header(self) -> bytes:
        """Return the PROXY protocol header for the upstream."""
        src, dst = self.c.sockaddr, self.c.local_sockaddr()
        if self.conf.proxy_protocol == 1:
            return proxy_protocol.build_v1(src, dst)
        return proxy_protocol.build_v2(src, dst, tlvs=tls.client_tlvs(self.c.sock))

    # -- relaying ------------------------------------------------------------------------------

    def on_first_event(self, mask: int) -> None:
        """Note the time of the upstream's first byte; the half handles all later events."""
        if mask & READABLE:
            loop = self.loop
            down: Any = self.down
            state: Any = self.state
            state.first_byte_ms = loop.now_ms - state.start_ms
            self.selection.notify(self.peer, FIRST_BYTE)  # type: ignore[arg-type]
            go_on = down.on_event if down.limiter is None else down.on_event_rated
            loop.handlers[self.pc_fd] = go_on
            go_on(mask)
        elif self.up is not None and self.up.pending is not None:
            self.up.flush()

    def on_first_tls_event(self, mask: int) -> None:
        """Do the same where an event may be of TLS alone: a session ticket, say."""
        down, state = self.down, self.state
        assert down is not None and state is not None
        go_on = down.on_event if down.limiter is None else down.on_event_rated
        before = state.first_byte_ms
        state.first_byte_ms = self.loop.now_ms - state.start_ms
        go_on(mask)
        if self.s.status:
            return
        if not down.received and not down.eof:
            state.first_byte_ms = before
            return
        if self.peer is not None:
            self.selection.notify(self.peer, FIRST_BYTE)
        self.loop.register(self.pc_fd, go_on)

    def on_bulky(self, half: pump.Half) -> bool:
        """Move a flow that proved bulky to splice, if both ends are plain sockets."""
        if isinstance(half, splice.SpliceHalf) or not self._can_splice():
            return False
        loop = self.loop
        fast = splice.SpliceHalf.promote(half)
        fast.twin.twin = fast
        if half is self.up:
            self.up = fast
        else:
            self.down = fast
        loop.register(fast.source_fd, fast.on_event)
        loop.post(fast.resume)
        return True

    def _can_splice(self) -> bool:
        plain = socket.SocketType
        return isinstance(self.c.sock, plain) and isinstance(self.pc, plain)

    def on_last(self, half: pump.Half) -> None:
        """Send the last bytes and the end together, before close() can throw them away.

        close() answers bytes that nobody read by an RST, and with it goes all that is unsent.
        A client that sees the end may come again at once, to another worker: its session counts no
        more by then.
        """
        if self.conf.half_close:
            return
        if half is self.up:
            _send_last(self.pc)
        else:
            self.s.end_with(self._send_last_to_client)

    def _send_last_to_client(self) -> None:
        _send_last(self.c.sock)

    def on_held_back(self, half: pump.Half) -> None:
        """Send what MSG_MORE holds back."""
        try:
            sink = self.pc if half is self.up else self.c.sock
            sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        except OSError:
            pass  # reset meanwhile; and a unix socket holds nothing back

    def on_end(self, half: pump.Half) -> None:
        """A direction is through. Source: ngx_stream_proxy_test_finalize"""
        if not self.conf.half_close:
            self.finish(half)
            return
        other = half.twin
        if other.eof and other.pending is None:
            self._note(self._closed_by(half))
            self.finish(half)
            return
        if not self.half_closed:
            self.half_closed = True
            try:
                (self.pc if half is self.up else self.c.sock).shutdown(socket.SHUT_WR)
            except OSError as error:
                self.s.log_error(handler.upstream_level(error), "shutdown() failed", error.errno)
                self.s.end(codes.INTERNAL_SERVER_ERROR, self._ending_of(half is self.down, error))

    def finish(self, half: pump.Half) -> None:
        """End a session whose bytes are all through."""
        s = self.s
        if s.log.level >= log.INFO:
            up, down = self.up, self.down
            assert up is not None
            assert down is not None
            a, c = up.moved, down.moved
            s.log.write(
                log.INFO,
                f"*{self.c.number} {'client' if half is up else 'upstream'} disconnected, "
                f"bytes from/to client:{a}/{c - down.unsent}, "
                f"bytes from/to upstream:{c}/{a - up.unsent}",
            )
        s.finalize(codes.STREAM_OK)

    def on_read_error(self, half: pump.Half, error: OSError) -> None:
        """Log a failed read; the direction ends as if with EOF."""
        is_client = half is self.up
        self._note(self._ending_of(is_client, error))
        self.s.action = f"proxying and reading from {'client' if is_client else 'upstream'}"
        self._log_failure(error, is_client, "recv() failed")

    def on_write_error(self, half: pump.Half, error: OSError) -> None:
        """Log a failed write; it ends the session."""
        is_client = half is self.down
        self.s.action = f"proxying and sending to {'client' if is_client else 'upstream'}"
        self._log_failure(error, is_client, "writev() failed")
        self._note(self._ending_of(is_client, error))
        self.s.finalize(codes.STREAM_OK)

    def _log_failure(self, error: OSError, is_client: bool, message: str) -> None:
        level = handler.client_level(error) if is_client else handler.upstream_level(error)
        if isinstance(error, event_tls.Failure):
            if error.code is None:  # TLS's own fault, not the kernel's
                level = log.INFO if is_client else log.ERR
            self.s.log_error(level, error.message, error.code)
        else:
            self.s.log_error(level, message, error.errno)

    def on_timeout(self) -> None:
        """The connect took too long, or nothing moved for proxy_timeout."""
        if not self.connected:
            self.s.log_error(log.ERR, "upstream timed out", errno.ETIMEDOUT)
            self.next_upstream(endings.CONNECT_TIMEOUT)
            return
        self.s.log_error(log.INFO, "connection timed out", errno.ETIMEDOUT)
        self.s.end(codes.STREAM_OK, endings.IDLE)

    def send_to_client(self, data: bytes, most: int) -> bool:
        """Send bytes behind those of the relay. See Content"""
        if self.down is None:
            return False
        filtered.push(self.down, data, most)
        return True

    def send_to_upstream(self, data: bytes, most: int) -> bool:
        """Send bytes behind those of the relay. See Content"""
        if self.up is None:
            return False
        filtered.push(self.up, data, most)
        return True

    # -- ending --------------------------------------------------------------------------------

    def ending(self) -> Ending:
        """Return whose end of file ended the session."""
        up, down = self.up, self.down
        return self._closed_by(up if up is not None and up.eof else down)

    def _closed_by(self, half: pump.Half | None) -> Ending:
        return endings.CLOSED_BY_CLIENT if half is self.up else endings.CLOSED_BY_UPSTREAM

    def _ending_of(self, is_client: bool, error: OSError) -> Ending:
        return endings.of_client(error) if is_client else endings.of_upstream(error)

    def _note(self, ending: Ending) -> None:
        """Keep why the session is about to end: the first failure tells."""
        s = self.s
        if getattr(s, "ending", None) is None:
            s.ending = ending

    def counts(self) -> tuple[int, int, int, int]:
        """Return bytes from and to the client, from and to the upstream."""
        up, down = self.up, self.down
        if up is None or down is None:
            return self.c.received, self.c.sent, 0, self.state.bytes_sent if self.state else 0
        return up.received, down.sent, down.received, up.sent

    def close(self) -> None:
        """Free the peer and close its connection; the counts stay."""
        loop = self.loop
        loop.timers.remove(self)
        up, down, state = self.up, self.down, self.state
        if up is not None and down is not None:
            c = self.c
            received = c.received = up.moved
            c.sent = down.moved - down.unsent
            if up.pending is not None:
                self._note(self._closed_by(down))  # the other one was the last
                tls.leave_quietly(self.pc)
            if down.pending is not None:
                self._note(self._closed_by(up))
                tls.leave_quietly(c.sock)
            if state is not None:  # as finish_state() does
                state.session_ms = loop.now_ms - state.start_ms
                state.bytes_sent += received - up.unsent
                state.bytes_received += down.moved
            up.close()
            down.close()
        else:
            self.finish_state(0, 0)
        self._free(False)
        self._close_peer()

    def _close_peer(self) -> None:
        """Close the connection to the peer."""
        pc = self.pc
        if pc is not None:
            self.pc = None
            loop = self.loop
            loop.free_connections += 1
            loop.poller.pop(self.pc_fd, None)
            loop.closing.append(pc)


def _send_last(sock: Any) -> None:
    """Send what is held back, with the FIN."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # reset meanwhile: there is nobody to send to
