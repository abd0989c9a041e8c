"""A proxied UDP session on its way to another process: what it is made of, and made anew of it.

nginx has no counterpart. What travels is the connected upstream socket itself (the server sees the
same port) and, as values of a schema, everything in `pack`: the configuration by its place
(stream/travel.py), the counts, the records of all attempts, the deadline, what still waits to be
sent. What arrives is looked at before anything is made of it: the socket has to be a datagram
socket that is connected to the server it is said to be connected to.

The session is counted on the peer of the same name in the configuration that is current at its new
place, so that max_conns holds for old and new sessions together; where there is none, on the peer
of its own configuration.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet
from ngxstream.event.connection import raw_socket
from ngxstream.ipc import addresses, codec
from ngxstream.ipc.codec import CodecError, Field, Record
from ngxstream.modules.proxy import bind
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.stream import round_robin
from ngxstream.stream.upstream import Peer, ServerSpec, UpstreamConf

if TYPE_CHECKING:
    from ngxstream.stream.core import ServerConf, StreamConf
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Selection

_WORD: Final = codec.Repeated(codec.Text(1024, is_word=True))
_PEER: Final = Record(
    "server",
    Field(1, "name", _WORD),
    Field(2, "server", _WORD),
    Field(3, "sockaddr", addresses.ADDRESS),
)
_RATES: Final = Record(
    "rates",
    Field(1, "upload_s", codec.Optional(codec.FLOAT), None),
    Field(2, "download_s", codec.Optional(codec.FLOAT), None),
    Field(3, "uploaded", codec.UINT, 0),
)
# the upstream's port and index (-1 for none), tries, start and deadline (ms), requests, responses,
# failed, gso, client_gso, gro, gro_hints, dropped, family of a socket to be used again, family of
# the socket, whether the client's table has it
PROXIED: Final = Record(
    "proxied session",
    Field(1, "numbers", codec.Numbers(16, -1)),
    Field(2, "upstream", _WORD, ""),
    Field(3, "peer", codec.Optional(codec.Repeated(_PEER)), None),
    Field(4, "peer_name", _WORD, ""),
    Field(5, "first", codec.Bytes(1 << 16), b""),
    Field(6, "rates", codec.Optional(_RATES), None),
)
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def is_ready(s: Session) -> bool:
    """Tell whether a session has a server to talk to; one that has not may begin anew."""
    content = s.content
    return isinstance(content, UdpProxy) and content.connected and content.pc is not None


def pack(proxy: UdpProxy) -> bytes:
    """Return what makes this proxy what it is, but for the session and the socket."""
    peer, c = proxy.peer, proxy.c
    upstream = proxy.upstream
    return PROXIED.encode(
        (
            (
                upstream.port,
                upstream.index if upstream.balancer is not None else -1,
                proxy.selection.tries,
                proxy.started_ms,
                proxy.deadline,
                proxy.requests,
                proxy.responses,
                proxy.failed,
                proxy.gso,
                proxy.client_gso,
                proxy.gro,
                proxy.gro_hints,
                proxy.dropped,
                proxy.family,
                proxy.pc.family,
                bool(c.table and c.table.is_listed(c)),
            ),
            upstream.name,
            None if peer is None else (peer.name, peer.server, peer.sockaddr),
            proxy.peer_name,
            proxy.first,
            proxy.pack_rates(),
        )
    )


class Parcel:
    """A proxied session that came, before it is made anew here."""

    __slots__ = ("_fd", "_numbers", "_rest", "listed")

    def __init__(self, data: bytes, fd: int, *, is_shared: bool = False) -> None:
        """Look at what another process says of it. The descriptor stays the caller's.

        Args: is_shared: who gave the socket may keep a copy, and is no friend: no other client's
        datagrams may ever cross it. Raises: CodecError for what is no session, or whose socket is
        not the one that is described
        """
        numbers, *self._rest = PROXIED.decode(data)
        *_, reused, family, listed = numbers
        if is_shared:
            numbers = (*numbers[:-3], 0, family, listed)
        self._numbers: tuple[int, ...] = numbers
        self._fd = fd
        self.listed = bool(listed)
        if reused not in (0, family):
            raise CodecError("a socket to be used again that is of another family")
        peer = self._rest[1]
        _check_socket(fd, family, None if peer is None else peer[2])

    def restore(
        self, s: Session, listener: Any, current: StreamConf | None
    ) -> UdpProxy:
        """Take the session up where it was left; its socket is owned from now on.

        Args: listener: the one its client is answered through; current: the stream block this
        process serves by, if it has one
        """
        return _restore(s, self._numbers, self._rest, self._fd, listener, current)


def can_restore(server: ServerConf) -> bool:
    """Tell whether the sessions of a server are proxied."""
    return server.proxy.upstream is not None or server.proxy.target is not None


def _check_socket(fd: int, family: int, sockaddr: Any) -> None:
    """See that a descriptor is a datagram socket connected to a server. Raises: CodecError"""
    try:
        sock = socket.SocketType(fileno=fd)  # bare: no enums are made
    except OSError as error:
        raise CodecError("a session without a socket", errno=error) from None
    try:
        if sock.family != family or family not in _FAMILIES or sock.type != socket.SOCK_DGRAM:
            raise CodecError("a session with another socket than it states")
        if sock.proto not in (0, socket.IPPROTO_UDP):
            raise CodecError("a session with a socket of another protocol")
        try:
            connected = sock.getpeername()
        except OSError as error:
            if family == socket.AF_UNIX:
                return  # the server has closed its socket
            raise CodecError("a session with a socket without a server", errno=error) from None
        if sockaddr is not None and _plain(connected) != _plain(sockaddr):
            raise CodecError("a session with a socket of another server")
    finally:
        sock.detach()


def _plain(sockaddr: Any) -> Any:
    """Return what two spellings of one address have in common. Raises: CodecError"""
    if isinstance(sockaddr, tuple):
        return inet.packed(sockaddr), sockaddr[1]
    return sockaddr.encode("utf-8", "surrogateescape") if isinstance(sockaddr, str) else sockaddr


def release(proxy: UdpProxy) -> Any:
    """Let go of everything here, ending nothing: the session goes on elsewhere.

    returns: the upstream socket, watched no more; the caller sends and closes it
    """
    s, loop = proxy.s, proxy.loop
    loop.timers.remove(proxy)
    loop.unregister(proxy.pc_fd)
    loop.free_connections += 1
    pc, proxy.pc = proxy.pc, None
    if proxy.peer is not None:
        proxy.selection.leave(proxy.peer)
        proxy.peer = None
    proxy.leave()
    loop.call_all(reversed(s.abandon()))
    loop.close_connection(s.c)
    return pc


def _restore(
    s: Session,
    numbers: tuple[int, ...],
    rest: Sequence[Any],
    fd: int,
    listener: Any,
    current: StreamConf | None,
) -> UdpProxy:
    (port, index, tries, started_ms, deadline, requests, responses, failed, gso, client_gso, gro,
     gro_hints, dropped, family, sock_family, listed) = numbers
    name, peer, peer_name, first, rates = rest
    loop = s.loop
    s.c.table = listener
    s.preread = first
    proxy: UdpProxy = UdpProxy(s)
    s.content = proxy
    s.preread = b""
    proxy.pc = raw_socket(sock_family, socket.SOCK_DGRAM, 0, fd)
    proxy.pc.setblocking(False)
    proxy.pc_fd = fd
    bind.take_over(s, proxy.pc)
    loop.free_connections -= 1
    proxy.connected = True
    proxy.peer_name = peer_name
    proxy.state = s.states[-1] if s.states else None
    own = s.server.proxy.upstream
    proxy.upstream = own if own is not None else UpstreamConf(name, "", 0, explicit=False)
    if peer is not None:
        proxy.selection, proxy.peer = _hold(s, current, name, port, index, peer)
        proxy.selection.tries = min(tries, proxy.selection.tries) if tries else 0
    proxy.started_ms = started_ms
    proxy.requests, proxy.responses = requests, responses
    proxy.failed = bool(failed)
    proxy.gso, proxy.client_gso, proxy.gro = bool(gso), bool(client_gso), bool(gro)
    proxy.gro_hints = gro_hints
    proxy.dropped = dropped
    proxy.first = first
    proxy.family = family
    latest = loop.now_ms + proxy.timeout
    proxy.deadline = min(deadline or latest, latest)
    loop.timers.add(proxy)
    proxy.watch()
    if rates is not None:
        proxy.unpack_rates(rates)
    if listed:
        proxy.enlist()
    return proxy


def send_waiting(proxy: Any, data: bytes) -> None:
    """Send what UdpProxy.waiting() returned at the former place."""
    proxy = getattr(proxy, "proxy", proxy)  # what stands before it lets it pass
    if isinstance(proxy, UdpProxy) and proxy.pc is not None:
        proxy.send(data)


def _hold(
    s: Session, current: StreamConf | None, name: str, port: int, index: int, peer: Any
) -> tuple[Selection, Peer]:
    """Count the session on the peer it talks to."""
    peer_name, server, sockaddr = peer
    for conf in _candidates(s, current, name, port, index):
        if conf.balancer is not None:
            found = conf.balancer.resume(s, peer_name)
            if found is not None:
                return found
    spec = ServerSpec(server, [(inet.family_of(sockaddr), sockaddr, peer_name)])
    lone = round_robin.RoundRobin(round_robin.Tier(name, round_robin.make_peers((spec,))))
    found = lone.resume(s, peer_name)
    assert found is not None
    return found


def _candidates(
    s: Session, current: StreamConf | None, name: str, port: int, index: int
) -> list[UpstreamConf]:
    found: list[UpstreamConf] = []
    if index < 0:
        return found  # a name resolved for this session alone
    if current is not None:
        conf = current.upstreams.at(name, port)
        if conf is not None:
            found.append(conf)
    own = s.server.proxy.upstream
    if own is not None:
        found.append(own)
    return found
