"""Fire and forget (`proxy_requests 1; proxy_responses 0`): syslog, NetFlow, statsd.

nginx makes a socket for every datagram and closes it behind it. Such a session asks for no answer,
so it needs no source port of its own: all sessions of a worker that go to one server leave
through one connected socket, which is never read. Everything else is as in any session: its
phases, the balancer's choice for each datagram, variables, logs.

Where nothing looks at a session (no rules, no logs, plain round robin), there is none either: the
listener's drains go straight to a Forwarder, which asks the balancer about each datagram and sends
what goes to one server in as few messages as sizes allow.

The refusal (ICMP) of an earlier datagram, whose session is over, is an error of the next send: that
send is repeated.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, errors, inet, log
from ngxstream.event import connect, datagram
from ngxstream.modules.proxy.conf import Lender
from ngxstream.stream import core_facts, endings, rotation, round_robin

if TYPE_CHECKING:
    from ngxstream.event.connection import Stream
    from ngxstream.event.loop import Loop
    from ngxstream.modules.proxy.conf import ProxyConf
    from ngxstream.modules.proxy.udp import UdpProxy
    from ngxstream.stream.addresses import ListeningConf
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.upstream import Peer

SHARED: Final = 1024  # sockets kept in a worker
# methods whose choice needs no session
_BY_TURNS: Final = (round_robin.RoundRobin, rotation.RotatingRoundRobin)
_STALE: Final = frozenset((errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH))


def is_one_way(conf: ProxyConf) -> bool:
    """Tell whether the sessions of a server are of this kind."""
    return bool(
        conf.requests == 1 and conf.responses == 0 and conf.bind.value is None and not conf.is_rated
    )


def shared_sockets(_: Loop) -> dict[tuple[inet.SockAddr, connect.PeerOptions], Stream]:
    """Make the table of a worker's connected sockets, by address; they are never read."""
    return {}


def shared_socket(loop: Loop, peer: Peer, options: connect.PeerOptions) -> Any:
    """Return the socket that everything goes to a server by. Raises: PeerError, InternalError"""
    shared = loop.get(shared_sockets)
    key = (peer.sockaddr, options)
    sock = shared.get(key)
    if sock is None:
        sock, _ = connect.connect_peer(
            peer.family, socket.SOCK_DGRAM, peer.sockaddr, peer.name, options
        )
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # answers are not read
        if len(shared) >= SHARED:
            loop.closing.extend(shared.values())
            shared.clear()
        shared[key] = sock
    return sock


def _open(proxy: UdpProxy, peer: Peer, local: Any) -> Any:
    """Return the socket that all sessions to this server share."""
    return shared_socket(proxy.loop, peer, proxy.conf.options)


def _begin(proxy: UdpProxy) -> None:
    """Send the datagram, which ends the session."""
    s, pc = proxy.s, proxy.pc
    state: Any = proxy.state
    first = proxy.first
    if proxy.conf.proxy_protocol:
        first = proxy.proxy_header() + first
    try:
        try:
            state.bytes_sent += pc.send(first)
        except OSError as error:
            if error.errno not in _STALE:
                raise
            state.bytes_sent += pc.send(first)
    except BlockingIOError:
        proxy.dropped += 1  # the interface's queue is full; and this session ends now
    except OSError as error:
        proxy.send_failed(error)
        if s.status or proxy.pc is not pc:
            return
    proxy.settle()


LENDER: Final = Lender(_open, _begin)


class _Nobody:
    """Takes the place of the session in a selection without one."""

    __slots__ = ("c", "is_udp", "log", "loop")

    def __init__(self, loop: Loop, to: log.Log) -> None:
        self.loop = loop
        self.log = to
        self.c = self
        self.is_udp = True

    def log_error(self, level: int, message: str, err: int | None = None) -> None:
        """Log a message of the selection."""
        if level <= self.log.level:
            self.log.write(level, message)


class Forwarder:
    """Sends drains of datagrams on, without sessions. Calling it returns how many were dropped."""

    __slots__ = ("_balancer", "_gso", "_loop", "_nobody", "_options", "_said_ms", "_selection")

    def __init__(self, loop: Loop, server: ServerConf) -> None:
        self._loop = loop
        self._balancer: round_robin.RoundRobin = server.proxy.upstream.balancer
        self._options: connect.PeerOptions = server.proxy.options
        self._nobody: Any = _Nobody(loop, server.log)
        self._selection: Any = None
        self._gso = True
        self._said_ms = -1000

    def __call__(self, views: list[memoryview]) -> int:
        """Choose a server for each datagram and send it there."""
        tier = self._balancer.tier
        self._selection = self._balancer.select(self._nobody)
        selection = self._selection
        if tier.single:
            only = self._choose()
            return len(views) if only is None else self._send(only, views, 1)
        groups: dict[Peer, list[memoryview]] = {}
        dropped = 0
        for view in views:
            selection.tier = tier
            selection.tried = 0
            peer = self._choose()
            if peer is None:
                dropped += 1
            elif peer in groups:
                groups[peer].append(view)
            else:
                groups[peer] = [view]
        for peer, group in groups.items():
            try:
                dropped += self._send(peer, group, tier.number)
            except Exception:  # what goes to the others goes
                self._loop.fault(None)
                dropped += len(group)
        return dropped

    def _choose(self) -> Peer | None:
        """Choose for one datagram: its session begins and ends at once."""
        try:
            peer: Peer = self._selection.get_once()
        except errors.NoLivePeers:
            self._say("no live upstreams")
            return None
        return peer

    def _send(self, peer: Peer, views: list[memoryview], tries: int) -> int:
        """Send all to one server; what it cannot take goes to others. Returns: how many dropped"""
        try:
            sock = shared_socket(self._loop, peer, self._options)
        except errors.NgxError as error:
            return self._fail(peer, str(error), views, tries)
        may_gso = peer.family != socket.AF_UNIX  # where no GSO message is cut
        done = 0
        stale = True  # an error may be that of an earlier datagram
        for first, end, size in datagram.runs(views):
            at = first
            while at < end:
                try:
                    if end - at > 1 and self._gso and may_gso:
                        sock.sendmsg(views[at:end], datagram.segment_control(size))
                        at = end
                    else:
                        sock.send(views[at])
                        at += 1
                    stale = True
                except BlockingIOError:
                    return len(views) - at - done  # the interface's queue is full
                except OSError as error:
                    if end - at > 1 and self._gso and may_gso and datagram.is_no_gso(error):
                        self._gso = False
                    elif error.errno == errno.EMSGSIZE:
                        self._say(f"send() to {peer.name} failed: a datagram is too large")
                        at += 1
                        done -= 1
                    elif stale and error.errno in _STALE:
                        stale = False
                    else:
                        text = f"send() to {peer.name} failed ({error.errno}: {error.strerror})"
                        return self._fail(peer, text, views[at:], tries) - done
        return -done

    def _fail(self, peer: Peer, text: str, views: list[memoryview], tries: int) -> int:
        """Count a failure of a server and try another one for what it did not take."""
        self._say(text)
        selection = self._selection
        selection.fail(peer)
        if tries <= 1:
            return len(views)
        dropped = 0
        for view in views:
            selection.tier = self._balancer.tier
            selection.tried = 0
            other = self._choose()
            if other is None or other is peer:
                dropped += 1
            else:
                dropped += self._send(other, [view], tries - 1)
        return dropped

    def _say(self, text: str) -> None:
        """Log an error, once a second."""
        now_ms = self._loop.now_ms
        if now_ms - self._said_ms >= 1000:
            self._said_ms = now_ms
            self._nobody.log_error(log.ERR, text)


class CountedForwarder(Forwarder):
    """Counts the datagrams as the sessions that they would be, at a server that is watched."""

    __slots__ = ("_facts", "_watched")

    def __init__(self, loop: Loop, server: ServerConf) -> None:
        super().__init__(loop, server)
        self._facts = server.facts  # where an `api` shows them
        self._watched: core_facts.Watched = server.watched  # type: ignore[assignment]

    def __call__(self, views: list[memoryview]) -> int:
        """Send on, and count: what is dropped is a session that failed."""
        dropped = super().__call__(views)
        at = self._watched
        at.begun += len(views)
        at.ended += len(views) - dropped
        at.bytes_received += sum(map(len, views))
        if dropped:
            at.fail(codes.BAD_GATEWAY, dropped)
        at.wait(self._loop, is_odd=bool(dropped))
        if self._facts is not None:
            first, cells = self._facts.ends.at, self._loop.cells
            cells[first + endings.RESPONSES_COMPLETE.reason.number] += len(views) - dropped
            if dropped:
                cells[first + endings.CONNECT_FAILED.reason.number] += dropped
        return dropped


def forwarder(conf: ListeningConf, loop: Loop) -> Forwarder | None:
    """Return what takes the datagrams of an address where no session has to be seen."""
    address = conf.default
    server = address.default_server
    given = getattr(server, "proxy", None)
    if (
        given is None
        or given.upstream is None
        or given.lender is not LENDER
        or given.proxy_protocol
        or conf.addresses is not None
        or conf.is_debugged is not None
        or conf.options.proxy_protocol
        or len(address.servers) > 1
        or len(address.engine) > 1
        or len(address.log_handlers) > address.is_watched
        or server.log.level >= log.INFO
        or type(given.upstream.balancer) not in _BY_TURNS
    ):
        return None
    return (CountedForwarder if address.is_watched else Forwarder)(loop, server)
