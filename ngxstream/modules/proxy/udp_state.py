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

import functools
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet
from ngxstream.event.connection import raw_socket
from ngxstream.ipc import addresses, codec
from ngxstream.ipc.codec import CodecError, Field, Record
from ngxstream.modules.proxy import bind, udp_any_port, udp_filtered
from ngxstream.stream import content, round_robin
from ngxstream.stream.content import Packed
from ngxstream.stream.upstream import Peer, ServerSpec, UpstreamConf, UpstreamState

if TYPE_CHECKING:
    from ngxstream.modules.proxy.conf import ProxyConf
    from ngxstream.modules.proxy.udp import UdpProxy
    from ngxstream.stream.core import ServerConf, StreamConf
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Selection

    Make = Callable[[Session], UdpProxy]

NAME: Final = "udp proxy"
# slots of a UdpProxy, of whatever kind, that are not packed, and why
REMADE: Final = {
    **dict.fromkeys(("s", "c", "loop", "client", "control"), "of the session"),
    **dict.fromkeys(("conf", "timeout", "expected"), "of the server's configuration"),
    **dict.fromkeys(("upstream", "selection", "peer"), "found by name"),
    **dict.fromkeys(("pc", "pc_fd", "connected"), "the socket itself moves"),
    "queue": "waiting() gives it away",
    "rates": "by pack_rates() and waiting()",
    "tick": "timers begin anew",
    "is_lent": "with such a socket a session ends at once",
    "state": "the last one of the session",
    "limit": "learnt again",
    "filtered": "made anew; modules/py packs what it has to know",
    "live": "counted where it goes on",
}

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
# the upstream's port and index (-1 for none), tries, deadline, start (ms), requests, responses,
# dropped, failed, gso, client_gso, gro, gro_hints (-1: never again), family of a socket to be used
# again, family of the socket
PROXIED: Final = Record(
    "proxied session",
    Field(1, "numbers", codec.Numbers(15, -1)),
    Field(2, "upstream", _WORD, ""),
    Field(3, "peer", codec.Repeated(_PEER)),
    Field(4, "peer_name", _WORD, ""),
    Field(5, "first", codec.Bytes(1 << 16), b""),
    Field(6, "rates", codec.Optional(_RATES), None),
    Field(7, "before", codec.Numbers(3, 0), (0, 0, 0)),
    # datagrams of the client that are owed no answer; whether anything was sent to the server
    Field(8, "filtered", codec.Numbers(2, -(1 << 40)), (0, 1)),
    # where the socket is not connected (udp_any_port.py): the port that answered last
    Field(9, "port", codec.Int(0, 65_535), 0),
)
NEVER_GRO: Final = -(1 << 30)  # gro_hints where a server was found not to coalesce
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def way(proxy: UdpProxy) -> int:
    """Tell how it is moved: one that has no server yet begins anew."""
    return content.MOVES if proxy.connected and proxy.pc is not None else content.ANEW


def pack(proxy: UdpProxy) -> Packed:
    """Return what makes it what it is, but for the session's own."""
    peer, upstream = proxy.peer, proxy.upstream
    assert peer is not None
    index = upstream.index if upstream.balancer is not None else -1
    numbers = (
        upstream.port, index, proxy.selection.tries, proxy.deadline,
        proxy.started_ms, proxy.requests, proxy.responses, proxy.dropped,
        proxy.failed, proxy.gso, proxy.client_gso, proxy.gro, max(proxy.gro_hints, -1),
        proxy.family, proxy.pc.family,
    )
    server = peer.name, peer.server, peer.sockaddr
    rest = (
        upstream.name, server, proxy.peer_name, proxy.first, proxy.pack_rates(), proxy.before,
        (proxy.spared, proxy.filtered is None or proxy.filtered.passed is not None),
        udp_any_port.port_of(proxy.pc),
    )
    return Packed(NAME, PROXIED.encode((numbers, *rest)), (udp_any_port.bare(proxy.pc),))


def release(proxy: UdpProxy) -> None:
    """Drop what is held here; whoever packed the session owns the socket."""
    loop = proxy.loop
    proxy.leave()
    if proxy.pc is not None:
        loop.timers.remove(proxy)
        loop.unregister(proxy.pc_fd)
        loop.free_connections += 1
        proxy.pc = None
    peer, proxy.peer = proxy.peer, None
    if peer is not None:
        proxy.selection.leave(peer)


def send_waiting(proxy: UdpProxy, data: bytes) -> None:
    """Send what UdpProxy.waiting() returned at the former place."""
    if proxy.pc is not None:
        proxy.send(data)


def read(make: Make, data: bytes, fds: Sequence[int], server: ServerConf,
         is_shared: bool) -> content.Restore:
    """Look at what another process says of a proxied session. See content.Read

    Args: is_shared: no other client's datagrams may ever cross the socket. Raises: CodecError for
    what is no session of the server, or whose socket is not the one that is described
    """
    if server.proxy.upstream is None and server.proxy.target is None:
        raise CodecError("their server proxies nothing")
    if len(fds) != 1:
        raise CodecError(f"a session with {len(fds)} sockets")
    numbers, *rest = PROXIED.decode(data)
    *_, reused, family = numbers
    if reused not in (0, family):
        raise CodecError("a socket to be used again that is of another family")
    _check_socket(fds[0], family, rest[1][2], server.proxy if rest[-1] else None)
    return functools.partial(_restore, make, numbers, rest, fds[0], is_shared)


def _restore(make: Make, numbers: tuple[int, ...], rest: Sequence[Any], fd: int,
             is_shared: bool, s: Session, current: StreamConf | None) -> UdpProxy:
    """Take the session up where it was left."""
    (port, index, tries, deadline, *plain, failed, gso, client_gso, gro, gro_hints, reused,
     family) = numbers
    name, peer, peer_name, first, rates, before, (spared, has_sent), any_port = rest
    loop = s.loop
    s.preread = first
    proxy: UdpProxy = make(s)
    s.content = proxy
    s.preread = b""
    proxy.pc = raw_socket(family, socket.SOCK_DGRAM, 0, fd)
    proxy.pc.setblocking(False)
    proxy.pc_fd = fd
    bind.take_over(s, proxy.pc)
    proxy.pc = udp_any_port.resume(proxy.pc, peer[2], any_port)
    loop.free_connections -= 1
    proxy.connected = True
    proxy.peer_name = peer_name
    s.states = s.states or [UpstreamState(loop.now_ms)]
    proxy.state = s.states[-1]
    own = s.server.proxy.upstream
    proxy.upstream = own if own is not None else UpstreamConf(name, "", 0, explicit=False)
    group, proxy.selection, proxy.peer = _hold(s, current, name, port, index, peer)
    proxy.upstream = group or proxy.upstream
    proxy.selection.tries = min(tries, proxy.selection.tries) if tries else 0
    proxy.started_ms, proxy.requests, proxy.responses, proxy.dropped = plain
    proxy.before = before
    proxy.failed = bool(failed)
    proxy.gso, proxy.client_gso, proxy.gro = bool(gso), bool(client_gso), bool(gro)
    proxy.gro_hints = gro_hints if gro_hints >= 0 else NEVER_GRO
    proxy.family = 0 if is_shared else reused
    latest = loop.now_ms + proxy.timeout
    proxy.deadline = min(deadline or latest, latest)
    loop.timers.add(proxy)
    proxy.watch()
    if rates is not None:
        proxy.unpack_rates(rates)
    proxy.resumed()
    proxy.spared = spared
    if s.server.filters is not None:
        udp_filtered.resume(proxy, has_sent=bool(has_sent))
    if not s.status and proxy.peer.state.is_withdrawn:
        loop.post(proxy.look_at_server)  # once its client's datagrams come here
    return proxy


def _check_socket(fd: int, family: int, sockaddr: Any, any_port: ProxyConf | None) -> None:
    """See that a descriptor is a datagram socket connected to a server. Raises: CodecError

    Args: any_port: of its server, where it is to be one that is not connected
    """
    if sockaddr is None:
        raise CodecError("a session without a server")
    try:
        sock = socket.SocketType(fileno=fd)  # bare: no enums are made
    except OSError as error:
        raise CodecError("a session without a socket", errno=error) from None
    try:
        if sock.family != family or family not in _FAMILIES or sock.type != socket.SOCK_DGRAM:
            raise CodecError("a session with another socket than it states")
        if sock.proto not in (0, socket.IPPROTO_UDP):
            raise CodecError("a session with a socket of another protocol")
        if any_port is not None:
            udp_any_port.check(sock, any_port, family, sockaddr)
            return
        try:
            connected = sock.getpeername()
        except OSError as error:
            if family == socket.AF_UNIX:
                return  # the server has closed its socket
            raise CodecError("a session with a socket without a server", errno=error) from None
        if _plain(connected) != _plain(sockaddr):
            raise CodecError("a session with a socket of another server")
    finally:
        sock.detach()


def _plain(sockaddr: Any) -> Any:
    """Return what two spellings of one address have in common. Raises: CodecError"""
    if isinstance(sockaddr, tuple):
        return inet.packed(sockaddr), sockaddr[1]
    return sockaddr.encode("utf-8", "surrogateescape") if isinstance(sockaddr, str) else sockaddr


def _hold(s: Session, current: StreamConf | None, name: str, port: int, index: int,
          peer: Any) -> tuple[UpstreamConf | None, Selection, Peer]:
    """Count the session on the peer it talks to. Returns: the group that has it, too"""
    peer_name, server, sockaddr = peer
    for conf in _candidates(s, current, name, port, index):
        if conf.balancer is not None:
            found = conf.balancer.resume(s, peer_name)
            if found is not None:
                return conf, *found
    spec = ServerSpec(server, [(inet.family_of(sockaddr), sockaddr, peer_name)])
    lone = round_robin.RoundRobin(round_robin.Tier(name, round_robin.make_peers((spec,))))
    found = lone.resume(s, peer_name)
    assert found is not None
    return None, *found


def _candidates(s: Session, current: StreamConf | None, name: str, port: int,
                index: int) -> list[UpstreamConf]:
    if index < 0:
        return []  # a name resolved for this session alone
    found = [None if current is None else current.upstreams.at(name, port), s.server.proxy.upstream]
    return [conf for conf in found if conf is not None]
