"""Proxied sessions at debug level: what they choose, connect to, move and give back, told.

Answers for the ngx_log_debug lines of ngx_stream_proxy_module.c, ngx_event_connect.c, the balancers
and ngx_event_timer.h. Bytes are copied, and datagrams sent one by one: each is a line.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from ngxstream.core import inet
from ngxstream.core.log import DEBUG
from ngxstream.event import pump
from ngxstream.event.any_port import AnyPort
from ngxstream.event.tracing import TracingSocket
from ngxstream.modules.proxy import handler
from ngxstream.modules.proxy.tcp import TcpProxy
from ngxstream.modules.proxy.udp import UdpProxy

if TYPE_CHECKING:
    from ngxstream.stream.endings import Ending
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer


class Traced(handler.Proxy):
    """What TCP and UDP have in common."""

    __slots__ = ()

    def say(self, text: str) -> None:
        """Write a line of this session."""
        self.s.log_plain(DEBUG, text)

    def start(self) -> None:
        """Begin to choose a server."""
        self.say("proxy connection handler")
        super().start()

    def open(self, peer: Peer, local: Any, transparent: bool) -> tuple[Any, bool]:
        """Say which server is chosen, and connect to it."""
        selection = self.selection
        self.say(f"get {selection.method} peer, try: {selection.tries or 1}")
        sock, ready = super().open(peer, local, transparent)
        sock = self.own(sock)
        fd = sock.fileno()
        self.say(f"{'stream' if self.kind == socket.SOCK_STREAM else 'dgram'} socket {fd}")
        self.say(f"connect to {peer.name}, fd:{fd}")
        self.say("connected" if ready else "proxy connect: -2")
        return sock, ready

    def own(self, sock: socket.SocketType) -> socket.SocketType:
        """Have a socket of this session's own tell of what goes through it."""
        return TracingSocket.take(sock, self.s.trace())

    def waits(self, after_ms: int) -> None:
        """Say until when is waited, if it is."""
        if self.deadline:
            fd = self.c.fd if self.connected else self.pc_fd
            self.say(f"event timer add: {fd}: {after_ms}:{self.deadline}")

    def waits_no_more(self) -> None:
        """Say so."""
        if self.deadline:
            fd = self.c.fd if self.connected else self.pc_fd
            self.say(f"event timer del: {fd}: {self.deadline}")

    def next_upstream(self, failure: Ending) -> None:
        """Go on to the next server."""
        self.say("stream proxy next upstream")
        super().next_upstream(failure)

    def _free(self, failed: bool) -> None:
        if self.peer is not None:
            self.say(f"free rr peer {self.selection.tries or 1} {4 if failed else 0}")
        super()._free(failed)

    def _close_peer(self) -> None:
        if self.pc is not None:
            self.say(f"close {'stream ' * bool(self.s.status)}proxy upstream connection: "
                     f"{self.pc_fd}")
        super()._close_peer()

    def close(self) -> None:
        """Let go of everything."""
        self.waits_no_more()
        self.say(f"finalize stream proxy: {self.s.status}")
        super().close()


class TracedTcp(Traced, TcpProxy):
    """A TCP session."""

    __slots__ = ()

    def begin(self, ready: bool) -> None:
        """Wait for the connection."""
        super().begin(ready)
        if not self.connected:
            self.waits(self.conf.connect_timeout)

    def established(self) -> None:
        """Go on with a connection that stands."""
        self.waits_no_more()
        self.say("stream proxy connect upstream")
        super().established()

    def relay(self) -> None:
        """Set the two halves going."""
        super().relay()
        self.waits(self.timeout)

    def proxy_header(self) -> bytes:
        """Return the PROXY header for the server."""
        self.say("stream proxy add PROXY protocol header")
        return super().proxy_header()

    def on_bulky(self, half: pump.Half) -> bool:
        """Go on copying."""
        return False


class TracedUdp(Traced, UdpProxy):
    """A UDP session."""

    __slots__ = ()

    def __init__(self, s: Session) -> None:
        super().__init__(s)
        self.gso = self.client_gso = False

    def own(self, sock: Any) -> Any:
        """Do so unless other sessions have it too; and it is not used again."""
        self.family = 0
        self.gso = False
        return sock if self.is_lent or isinstance(sock, AnyPort) else super().own(sock)

    def begin(self, ready: bool) -> None:
        """Send the first datagram."""
        super().begin(ready)
        self.waits(self.timeout)

    def watch(self) -> None:
        """Hear of the server's answers; where the session came from another process, too."""
        self.pc = self.own(self.pc)
        self.gso = self.client_gso = False
        super().watch()

    def on_event(self, mask: int) -> None:
        """Drain the server's answers, each of which is a line."""
        self.drain(mask)

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Send on what the client sent."""
        for view in views:
            self._received(view)
        return super().take(views)

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Send on a coalesced message."""
        self._received(view)
        return super().take_burst(view, size)

    def _received(self, view: memoryview) -> None:
        self.say(f"recvmsg: {inet.sock_ntop(self.client)} fd:{self.c.fd} n:{len(view)}")

    def answer(self, view: memoryview) -> None:
        """Send one datagram to the client."""
        before = self.c.sent
        super().answer(view)
        self.say(f"sendmsg: {self.c.sent - before} of {len(view)}")


def make(s: Session) -> Traced:
    """Make the content of a session at debug level."""
    return TracedUdp(s) if s.c.is_udp else TracedTcp(s)
