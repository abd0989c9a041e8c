"""Direct server return: a datagram is sent on from the client's own address and forgotten.

Answers for `proxy_responses 0` with `proxy_bind $remote_addr:$remote_port transparent`
(ngx_stream_proxy_module.c), where nginx makes a session, a socket and a connection for each
datagram.

The session of a datagram ends within the turn it came in; access rules, balancing and logs are
what they always are. The socket is kept for the client's next datagrams
(event/client_sockets.py). Nothing comes back to it, so no failure of a server is heard of but a
missing route.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ngxstream.core import log
from ngxstream.event import connect
from ngxstream.event.client_sockets import ClientSockets
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.stream.upstream import CONNECT

if TYPE_CHECKING:
    from ngxstream.modules.proxy.conf import ProxyConf
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer


def is_direct(conf: ProxyConf) -> bool:
    """Tell whether the sessions of a server are of this kind."""
    return not conf.responses and conf.requests <= 1 and conf.bind.transparent


class DsrUdpProxy(UdpProxy):
    """The content of a session that ends with its first datagram."""

    __slots__ = ("kept", "sent")

    def __init__(self, s: Session) -> None:
        super().__init__(s)
        self.kept = False  # the socket is the client's, not this session's
        self.sent = 0

    def open(self, peer: Peer, local: Any, transparent: bool) -> tuple[Any, bool]:
        """Send the datagram by the client's kept socket: there is nothing to connect.

        Raises: ConnectError when there is no way to the peer, BindError
        """
        self.kept = False
        if local is None or not local[1]:  # a port for each session: nothing worth to be kept
            return super().open(peer, local, transparent)
        sock = self.loop.get(ClientSockets).get(peer.family, local, self.conf.options)
        data = self.first
        if self.conf.proxy_protocol:
            data = self.proxy_header() + data
        try:
            self.sent = sock.sendto(data, peer.sockaddr)
        except BlockingIOError:
            return super().open(peer, local, transparent)  # one that can wait for room
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise connect.transparent_error(
                    f"sendto() {peer.name}", local, error.errno or 0
                ) from None
            self.sent = 0
            self.dropped += 1
            self.s.log_error(log.ERR, "datagram is too large to be sent", error.errno)
        self.kept = True
        return sock, True

    def begin(self, ready: bool) -> None:
        """End: the datagram is on its way."""
        if not self.kept:
            super().begin(ready)
            return
        s, state = self.s, self.state
        assert self.peer is not None
        assert state is not None
        self.connected = True
        self.selection.notify(self.peer, CONNECT)
        state.connect_ms = self.loop.now_ms - state.start_ms
        state.bytes_sent += self.sent
        if s.log.level >= log.INFO:
            self.log_connected()
        s.action = "proxying connection"
        self.settle()

    def close(self) -> None:
        """Let go of the peer; the client keeps its socket."""
        if self.kept and self.pc is not None:
            self.pc = None
            self.loop.free_connections += 1
        super().close()
