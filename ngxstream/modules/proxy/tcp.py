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
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, log
from ngxstream.event import connect, pump, splice, tls_pump
from ngxstream.event import tls as event_tls
from ngxstream.event.poller import OUT, READABLE
from ngxstream.modules.proxy import handler, tls
from ngxstream.stream.upstream import CONNECT, FIRST_BYTE
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from ngxstream.stream.session import Session


# plain ints: an enum costs more to pass than an int
TCP: Final = int(socket.IPPROTO_TCP)
NODELAY: Final = int(socket.TCP_NODELAY)
UNIX: Final = int(socket.AF_UNIX)


def _set_nodelay(sock: Any, family: int) -> None:
    if family != UNIX:
        try:
            sock.setsockopt(TCP, NODELAY, 1)
        except OSError:
            pass  # the other end is gone already: reading will say so


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

    def begin(self, ready: bool) -> None:
        """Wait until the connection is established."""
        loop = self.loop
        self.deadline = loop.now_ms + self.conf.connect_timeout
        loop.timers.add(self)
        loop.register(self.pc_fd, self.on_connect)
        if ready:
            self.established()

    def on_connect(self, mask: int) -> None:
        """Handle the end of a connect(). Source: ngx_stream_proxy_connect_handler"""
        if mask & READABLE or not mask & OUT:  # select tells an error as both, and as no error
            code = self.pc.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.s.log_error(log.ERR, "connect() failed", code)
                self.next_upstream()
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
                _set_nodelay(c.sock, c.listening.options.family)
            _set_nodelay(self.pc, self.peer.family)
        if s.server.proxy_ssl.ssl:
            tls.begin(self)
        else:
            self.ready()

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
        up = self.up = half(self, loop, c.sock, c.fd, pc, pc_fd)
        down = self.down = half(self, loop, pc, pc_fd, c.sock, c.fd)
        up.twin = down
        down.twin = up
        from_client = up.on_event
        if conf.is_rated:  # a bad rate is logged as while connecting
            up.limiter = self.limiter(conf.upload_rate)
            down.limiter = self.limiter(conf.download_rate)
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
        loop.register(pc_fd, self.on_first_tls_event if is_tls else self.on_first_event)
        if is_tls and pc.has_pending():
            loop.post(down.resume)
        if c.fd in loop.handlers:  # registered by preread or TLS: no new edge would come
            loop.register(c.fd, from_client)
            loop.post(up.resume)
        else:
            loop.register(c.fd, from_client)

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
        """
        if not self.conf.half_close:
            try:
                (self.pc if half is self.up else self.c.sock).shutdown(socket.SHUT_WR)
            except OSError:
                pass  # reset meanwhile: there is nobody to send to

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
            self.finish(half)
            return
        if not self.half_closed:
            self.half_closed = True
            try:
                (self.pc if half is self.up else self.c.sock).shutdown(socket.SHUT_WR)
            except OSError as error:
                self.s.log_error(handler.upstream_level(error), "shutdown() failed", error.errno)
                self.s.finalize(codes.INTERNAL_SERVER_ERROR)

    def finish(self, half: pump.Half) -> None:
        """End a session whose bytes are all through."""
        s = self.s
        if s.log.level >= log.INFO:
            side = "client" if half is self.up else "upstream"
            a, b, c, d = self.counts()
            s.log_plain(
                log.INFO,
                f"{side} disconnected, bytes from/to client:{a}/{b}, "
                f"bytes from/to upstream:{c}/{d}",
            )
        s.finalize(codes.STREAM_OK)

    def on_read_error(self, half: pump.Half, error: OSError) -> None:
        """Log a failed read; the direction ends as if with EOF."""
        is_client = half is self.up
        self.s.action = f"proxying and reading from {'client' if is_client else 'upstream'}"
        self._log_failure(error, is_client, "recv() failed")

    def on_write_error(self, half: pump.Half, error: OSError) -> None:
        """Log a failed write; it ends the session."""
        is_client = half is self.down
        self.s.action = f"proxying and sending to {'client' if is_client else 'upstream'}"
        self._log_failure(error, is_client, "writev() failed")
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
            self.next_upstream()
            return
        self.s.log_error(log.INFO, "connection timed out", errno.ETIMEDOUT)
        self.s.finalize(codes.STREAM_OK)

    # -- ending --------------------------------------------------------------------------------

    def counts(self) -> tuple[int, int, int, int]:
        """Return bytes from and to the client, from and to the upstream."""
        up, down = self.up, self.down
        if up is None or down is None:
            return self.c.received, self.c.sent, 0, self.state.bytes_sent if self.state else 0
        return up.received, down.sent, down.received, up.sent

    def close(self) -> None:
        """Free the peer and close its connection; the counts stay."""
        self.loop.timers.remove(self)
        up, down = self.up, self.down
        if up is not None and down is not None:
            self.c.received = up.received
            self.c.sent = down.sent
            self.finish_state(up.sent, down.received)
            if up.pending is not None:
                tls.leave_quietly(self.pc)
            if down.pending is not None:
                tls.leave_quietly(self.c.sock)
            up.close()
            down.close()
        else:
            self.finish_state(0, 0)
        self._free(False)
        self._close_peer()
