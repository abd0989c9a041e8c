"""Choosing a server and connecting to it: what TCP and UDP sessions share.

Answers for ngx_stream_proxy_handler, ngx_stream_proxy_connect, ngx_stream_proxy_next_upstream and
ngx_stream_proxy_finalize (ngx_stream_proxy_module.c).

1. A session holds at most one peer, and gives it back in `_free`, once.
2. What may be retried is decided by the error (PeerError), never here.
3. An attempt that found no socket, no slot or no local address says nothing of the peer: the
   session is a 500, and the attempt's $upstream_addr is empty.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import units
from ngxstream.core import codes, errors, inet, log
from ngxstream.event import connect, eviction, pump
from ngxstream.modules.proxy import lifetime
from ngxstream.stream import endings, peer_state, withdrawals
from ngxstream.stream.content import CONNECTING, RELAYING, RESOLVING, Content, Shown
from ngxstream.stream.upstream import UpstreamState

if TYPE_CHECKING:
    from ngxstream.modules.proxy.conf import ProxyConf
    from ngxstream.stream.endings import Ending
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer, Selection, UpstreamConf


NO_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE))


def client_level(error: OSError) -> int:
    """Return the level of an error of the client's side."""
    return log.INFO if error.errno in errors.REMOTE_FAULTS else log.ALERT


def upstream_level(error: OSError) -> int:
    """Return the level of an error of the upstream's side."""
    return log.ERR if error.errno in errors.REMOTE_FAULTS else log.ALERT


def shown_name(upstream: UpstreamConf) -> str:
    """Return the name of an upstream, with the port that a proxy_pass has given it."""
    name = upstream.name
    return f"{name}:{upstream.port}" if upstream.port else name


class Proxy(Content):
    """The content of a proxied session. See tcp.py and udp.py for what follows the connect."""

    __slots__ = (
        "s",
        "c",  # Connection: the client's
        "loop",
        "conf",
        "upstream",  # UpstreamConf
        "selection",
        "peer",  # Peer | None: held
        "peer_name",  # str: for the log; the upstream's name when no peer was to be had
        "state",  # UpstreamState of this attempt
        "pc",  # socket towards the peer, or None
        "pc_fd",
        "connected",
        "started_ms",  # of the first attempt
        "deadline",  # ms; the loop's wheel reads it
        "tick",
        "timeout",  # ms: proxy_timeout
    )

    kind: int

    def __init__(self, s: Session) -> None:
        conf: ProxyConf = s.server.proxy
        loop = s.loop
        self.s = s
        self.c = s.c
        self.loop = loop
        self.conf = conf
        self.upstream: UpstreamConf = conf.upstream  # type: ignore[assignment]
        self.selection: Selection = None  # type: ignore[assignment]
        self.peer: Peer | None = None
        self.peer_name = ""
        self.state: UpstreamState | None = None
        self.pc: Any = None
        self.pc_fd = -1
        self.connected = False
        self.started_ms = loop.now_ms
        self.deadline = 0
        self.tick = 0
        self.timeout = conf.timeout
        if conf.session_lifetime:
            lifetime.begin(s, conf.session_lifetime)

    def start(self) -> None:
        """Choose among the servers of the upstream and connect."""
        upstream = self.upstream
        self.peer_name = upstream.name
        self.selection = upstream.balancer.select(self.s)  # type: ignore[union-attr]
        if self.conf.next_upstream_tries:
            self.limit_tries()
        self.connect()

    def limit_tries(self) -> None:
        """Have the selection try no more servers than the configuration allows."""
        most = self.conf.next_upstream_tries
        if most and self.selection.tries > most:
            self.selection.tries = most

    def connect(self) -> None:
        """Try servers until one connects or none is left. Source: ngx_stream_proxy_connect"""
        s, c, loop, conf = self.s, self.c, self.loop, self.conf
        while True:
            peer, state = self.peer, self.state
            if peer is None or state is None:  # otherwise it waited for a descriptor
                s.action = "connecting to upstream"
                self.connected = False
                state = self.state = UpstreamState(loop.now_ms)
                if s.states is None:
                    s.states = [state]
                else:
                    s.states.append(state)
                try:
                    peer = self.peer = self.selection.get()
                except errors.NoLivePeers:
                    self.find_none(state)
                    return
                self.peer_name = peer.name
            if not c.reserved and loop.free_connections <= 0:
                if not c.is_udp or loop.get(eviction.Eviction).may_log():
                    s.log_error(log.ALERT, f"{loop.connections} worker_connections are not enough")
                s.end(codes.INTERNAL_SERVER_ERROR, endings.EXHAUSTED)
                return
            bind = conf.bind
            try:
                local = None if bind.value is None else bind.local(s, peer)
                pc, ready = self.open(peer, local, bind.transparent)
            except (errors.PeerError, errors.InternalError) as error:
                if self.may_try_next(error):
                    continue
                return
            break
        state.peer_name = peer.name
        if c.reserved:
            c.reserved = 0
        else:
            loop.free_connections -= 1
        loop.next_number()  # upstream connections count in $connection too
        self.pc = pc
        self.pc_fd = pc.fileno()
        self.begin(ready)

    def find_none(self, state: UpstreamState) -> None:
        """Wait for servers, or end: there is none to be had."""
        s = self.s
        if s.status:
            return  # a function that chooses servers has failed
        if self.upstream.pending is not None and self._await_servers():
            return
        state.peer_name = self.peer_name = self.upstream.name
        s.log_error(log.ERR, "no live upstreams")
        s.end(codes.BAD_GATEWAY, endings.NO_LIVE_UPSTREAMS)

    def may_try_next(self, error: errors.PeerError | errors.InternalError) -> bool:
        """Count a peer that could not be connected, and tell whether the next one may be tried."""
        s = self.s
        if isinstance(error, errors.PeerError):
            self.loop.next_number()
            assert self.state is not None
            self.state.peer_name = self.peer_name
            s.log_error(log.LEVELS[error.level], error.message, error.errno)
            return self._may_go_on(endings.of_connect(error.errno))
        if not (error.errno in NO_DESCRIPTORS and self._await_descriptor()):
            s.log_error(log.LEVELS[error.level], error.message, error.errno)
            s.end(codes.INTERNAL_SERVER_ERROR, endings.of_resources(error.errno))
        return False

    def open(self, peer: Peer, local: Any, transparent: bool) -> tuple[Any, bool]:
        """Open a socket towards a peer. See connect.connect_peer"""
        options, drawn = self.conf.options, self.loop.get(connect.ephemeral_ports)
        family, sockaddr, name = peer.family, peer.sockaddr, peer.name
        return connect.connect_peer(
            family, self.kind, sockaddr, name, options, local, transparent, drawn
        )

    def _await_descriptor(self) -> bool:
        """Suspend a TCP session until something that idles, if any, has given its descriptor up."""
        evict = self.loop.get(eviction.Eviction)
        if self.c.is_udp or not (evict.give_spare() or evict.make_descriptor()):
            return False
        self.loop.post(self._in_the_next_turn)
        return True

    def _in_the_next_turn(self) -> None:
        self.loop.post(self._connect_again)  # sockets are closed at the end of this one

    def _connect_again(self) -> None:
        if not self.s.status:
            self.connect()

    def _await_servers(self) -> bool:
        """Suspend a session whose upstream has no servers yet. Returns: whether it waits"""
        s, pending = self.s, self.upstream.pending
        cancel = None
        if pending is not None and s.states is not None and len(s.states) == 1:
            cancel = pending(self.loop, self.start_late)
        if cancel is None:
            return False
        s.states = self.state = None
        s.add_cleanup(cancel)
        return True

    def start_late(self) -> None:
        """Go on with a session that waited for servers, whether or not there are any."""
        balancer = self.upstream.balancer
        if self.s.status or balancer is None:
            return
        self.started_ms = self.loop.now_ms
        self.selection = balancer.select(self.s)
        self.limit_tries()
        self.connect_late()

    def connect_late(self) -> None:
        """Connect a session that was suspended."""
        self.connect()

    def begin(self, ready: bool) -> None:
        """Go on with a socket that is connected or about to be."""
        raise NotImplementedError

    def next_upstream(self, failure: Ending) -> None:
        """Count a failure against the peer and go on to the next one, if that may be.

        Args: failure: how the session ends if it may not
        """
        if self._may_go_on(failure):
            self._close_peer()
            self.connect()

    def _may_go_on(self, failure: Ending) -> bool:
        """Give up the peer, try another or end with 502. Source: ngx_stream_proxy_next_upstream"""
        s, loop, conf = self.s, self.loop, self.conf
        self._free(True)
        elapsed = loop.now_ms - self.started_ms
        if (
            self.selection.tries <= 0
            or not conf.next_upstream
            or (conf.next_upstream_timeout and elapsed >= conf.next_upstream_timeout)
        ):
            s.end(codes.BAD_GATEWAY, failure)
            return False
        state = self.state
        if state is not None and state.session_ms < 0:
            state.session_ms = loop.now_ms - state.start_ms
        return True

    def _free(self, failed: bool) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            self.selection.free(peer, failed, self.state)

    def _close_peer(self) -> None:
        """Close the connection to the peer, keeping its counts in the record of the attempt."""
        pc, self.pc = self.pc, None
        if pc is not None:
            self.loop.free_connections += 1
            self.loop.close_later(pc)

    def finish_state(self, sent: int, received: int) -> None:
        """Complete the record of the attempt."""
        state = self.state
        if state is not None:
            state.session_ms = self.loop.now_ms - state.start_ms
            state.bytes_sent += sent
            state.bytes_received += received

    # -- a server that is withdrawn ------------------------------------------------------------

    def look_at_server(self) -> None:
        """End the session, or have it go on elsewhere, if its server is withdrawn.

        See stream/withdrawals.py.
        """
        peer = self.peer
        if peer is not None and peer.state.is_withdrawn:
            if self.conf.session_drop:
                self.loop.get(withdrawals.Withdrawals).end(self.drop)
            elif peer.state.status & peer_state.UNHEALTHY:
                self.avoid_server()

    def avoid_server(self) -> None:
        """Have the session go on with another server than its unhealthy one, where that can be."""

    def drop(self) -> None:
        """End the session because its server is withdrawn, if it still is.

        One that is not connected yet goes on to the next server, if that may be.
        """
        s, peer = self.s, self.peer
        if s.status or peer is None or not peer.state.is_withdrawn:
            return
        ending, what = endings.UPSTREAM_UNHEALTHY, "is unhealthy"
        if peer.state.is_dropped:
            ending, what = endings.UPSTREAM_DROPPED, "was removed or marked down"
        s.log_error(log.INFO, f"upstream server {what}")
        if self.connected:
            self.count_live()
            s.end(codes.STREAM_OK, ending)
        elif self.pc is not None:
            self.next_upstream(ending)
        else:  # it waits for a descriptor
            s.end(codes.BAD_GATEWAY, ending)

    # -- what is told of it --------------------------------------------------------------------

    def shown(self) -> Shown:
        """Return what is to be told of it."""
        upstream, peer = self.upstream, self.peer
        active_ms = None
        if self.connected:
            state = RELAYING
            active_ms = self.deadline - self.timeout if self.deadline else None
        else:
            state = RESOLVING if peer is None else CONNECTING
        name = None if upstream is None else shown_name(upstream)
        peer_name = None if peer is None else peer.name
        return Shown(state, active_ms, name, peer_name, self.datagrams())

    def datagrams(self) -> tuple[int, int] | None:
        """Return how many came from and went to the client, where they are counted."""
        return None

    def log_connected(self) -> None:
        """Say at level info who is connected to whom. Source: ngx_stream_proxy_init_upstream"""
        try:
            at = self.pc.getsockname()
            # hot: an IPv4 address is spelled here
            is_v4 = self.peer.family == inet.AF_INET  # type: ignore[union-attr]
            local = f"{at[0]}:{at[1]}" if is_v4 else inet.sock_ntop(at)
        except OSError as error:
            local = os.strerror(error.errno or 0)
        c = self.c
        udp = "udp " if c.is_udp else ""
        self.s.log.write(
            log.INFO, f"*{c.number} {udp}proxy {local} connected to {self.peer_name}"
        )

    def limiters(self) -> tuple[pump.Limiter | None, pump.Limiter | None]:
        """Return what limits the bytes from the client, and those from the server."""
        conf, bandwidth = self.conf, self.s.server.bandwidth
        own = self.limiter(conf.upload_rate), self.limiter(conf.download_rate)
        return own if bandwidth is None else bandwidth(self.s, *own)

    def limiter(self, value: Any) -> pump.RateLimiter | None:
        """Return a rate limit, None for none. Source: ngx_stream_complex_value_size"""
        if value is None:
            return None
        text = value.get(self.s).decode("latin-1")
        if not text:
            return None
        try:
            rate = units.parse_size(text)
        except ValueError:
            self.s.log_error(log.ERR, f'invalid size "{text}"')
            return None
        return pump.RateLimiter(rate, self.loop.now_ms) if rate else None

    def log_suffix(self) -> str:
        """Return the upstream's part of an error_log line. Source: ngx_stream_proxy_log_error"""
        a, b, c, d = self.counts()
        if self.pc is None:  # nginx counts on the connection, which is closed
            d = 0
        # without a name while the upstream itself is being resolved
        upstream = f', upstream: "{self.peer_name}"' if self.peer_name else ""
        return f"{upstream}, bytes from/to client:{a}/{b}, bytes from/to upstream:{c}/{d}"
