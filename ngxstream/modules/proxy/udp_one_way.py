"""Fire and forget (`proxy_requests 1; proxy_responses 0`): syslog, NetFlow, statsd.

nginx makes a socket for every datagram and closes it behind it. Such a session asks for no answer,
so nothing is owed to a source port of its own: all sessions of a worker that go to one server
leave through one connected socket, which is never read. Everything else is as in any session: its
phases, the balancer's choice for each datagram, variables, logs.

A refusal (ICMP) that an earlier datagram met is told to the next send: it is nobody's who would
still be there, so it is noted and the send done again.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, log
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.stream.upstream import CONNECT

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer

SHARED: Final = 1024  # sockets kept in a worker
_STALE: Final = frozenset((errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH))


def is_one_way(conf: Any) -> bool:
    """Tell whether the sessions of a server are of this kind."""
    return bool(
        conf.requests == 1
        and conf.responses == 0
        and conf.bind.value is None
        and conf.upload_rate is None
        and conf.download_rate is None
    )


class OneWayUdpProxy(UdpProxy):
    """A session of one datagram and no answer."""

    __slots__ = ()

    def __init__(self, s: Session) -> None:
        super().__init__(s)
        self.expected = 0

    def open(self, peer: Peer, local: Any, transparent: bool) -> tuple[Any, bool]:
        """Return the socket that all sessions to this server share."""
        shared = self.loop.one_way
        key = (peer.sockaddr, self.conf.options)
        sock = shared.get(key)
        if sock is None:
            sock, _ = super().open(peer, local, transparent)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # answers are nobody's
            if len(shared) >= SHARED:
                for old in shared.values():
                    self.loop.doomed.append(old)
                shared.clear()
            shared[key] = sock
        return sock, True

    def begin(self, ready: bool) -> None:
        """Send the datagram; that was all."""
        s, state = self.s, self.state
        assert self.peer is not None and state is not None
        self.connected = True
        self.selection.notify(self.peer, CONNECT)
        state.connect_ms = self.loop.now_ms - state.start_ms
        if s.log.level >= log.INFO:
            self.log_connected()
        s.action = "proxying connection"
        first = self.first
        if self.conf.proxy_protocol:
            first = self.proxy_header() + first
        try:
            try:
                state.bytes_sent += self.pc.send(first)
            except OSError as error:
                if error.errno not in _STALE:
                    raise
                state.bytes_sent += self.pc.send(first)
        except BlockingIOError:
            self.dropped += 1  # the interface's queue is full; there is no later for this session
        except OSError as error:
            pc = self.pc
            self._send_failed(error)
            if s.status or self.pc is not pc:
                return
        if s.log.level >= log.INFO:
            s.log_plain(log.INFO, f"udp done, {self._packets()}")
        s.finalize(codes.STREAM_OK)

    def _close_peer(self) -> None:
        """Leave the socket to the sessions to come."""
        if self.pc is not None:
            self.pc = None
            self.loop.free_connections += 1

    def close(self) -> None:
        """Let go of the peer."""
        self.finish_state(0, 0)
        self._free(self.failed)
        self._close_peer()
