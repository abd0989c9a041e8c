"""A proxied UDP session on its way to another process: what it is made of, and made anew of it.

nginx has no counterpart. What travels is the connected upstream socket itself (the server sees the
same port) and, as plain values, everything in `pack`: the configuration by its place
(stream/travel.py), the counts, the records of all attempts, the deadline, what still waits to be
sent. The session is counted on the peer of the same name in the configuration that is current at
its new place, so that max_conns holds for old and new sessions together; where there is none, on
the peer of its own configuration.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from ngxstream.event import poller
from ngxstream.event.connection import raw_socket
from ngxstream.modules.proxy import bind
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.stream import round_robin
from ngxstream.stream.upstream import Peer, ServerSpec, UpstreamConf

if TYPE_CHECKING:
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Selection

Packed = tuple[Any, ...]


def is_ready(s: Session) -> bool:
    """Tell whether a session has a server to talk to; one that has not may begin anew."""
    content = s.content
    return isinstance(content, UdpProxy) and content.connected and content.pc is not None


def pack(proxy: UdpProxy) -> Packed:
    """Return what makes this proxy what it is, but for the session and the socket."""
    peer, c = proxy.peer, proxy.c
    upstream = proxy.upstream
    return (
        upstream.name,
        upstream.port,
        upstream.index if upstream.balancer is not None else -1,
        None if peer is None else (peer.name, peer.server, peer.family, peer.sockaddr),
        proxy.peer_name,
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
        proxy.first,
        proxy.family,
        int(proxy.pc.family),
        proxy.gate.table.get(c.key) is proxy,
        proxy.pack_rates(),
    )


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


def restore(s: Session, packed: Packed, fd: int, gate: Any, current: StreamConf | None) -> UdpProxy:
    """Take a session up where it was left.

    shape: fd is the upstream socket, owned from now on; gate the one its client is answered
    through; current the stream block this process serves by, if it has one
    """
    (name, port, index, peer, peer_name, tries, started_ms, deadline, requests, responses, failed,
     gso, client_gso, gro, gro_hints, dropped, first, family, sock_family, listed, rates) = packed
    loop = s.loop
    s.c.table = gate
    s.preread = first
    proxy: UdpProxy = s.server.udp_proxy(s)
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
    proxy.failed = failed
    proxy.gso, proxy.client_gso, proxy.gro, proxy.gro_hints = gso, client_gso, gro, gro_hints
    proxy.dropped = dropped
    proxy.first = first
    proxy.family = family
    proxy.deadline = deadline
    loop.timers.add(proxy)
    loop.register(fd, proxy.on_event_gro if gro else proxy.on_event, poller.LEVEL)
    proxy.unpack_rates(rates)
    if listed:
        proxy.enlist()
    return proxy


def send_waiting(proxy: Any, data: bytes) -> None:
    """Send what UdpProxy.waiting() returned at the former place."""
    if isinstance(proxy, UdpProxy) and proxy.pc is not None:
        UdpProxy.send(proxy, data)


def _hold(
    s: Session, current: StreamConf | None, name: str, port: int, index: int, peer: Any
) -> tuple[Selection, Peer]:
    """Count the session on the peer it talks to."""
    peer_name, server, family, sockaddr = peer
    for conf in _candidates(s, current, name, port, index):
        if conf.balancer is not None:
            found = conf.balancer.resume(s, peer_name)
            if found is not None:
                return found
    spec = ServerSpec(server, [(family, sockaddr, peer_name)])
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
