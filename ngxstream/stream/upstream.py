"""The law of upstreams: peers, balancers, selections, and the record of an attempt.

Answers for ngx_stream_upstream.c/h and the peer.{get,free,notify} contract of
ngx_event_connect.h. Round robin (stream/round_robin.py) is the default method; the others
compose it. The proxy meets balancers only through what stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from ngxstream.stream.session import Session

# What a selection is notified of.
CONNECT: Final = 1
FIRST_BYTE: Final = 2

# What parameters a balancing method allows on `server` lines (NGX_STREAM_UPSTREAM_*).
MAY_WEIGHT: Final = 0x02
MAY_MAX_CONNS: Final = 0x04
MAY_MAX_FAILS: Final = 0x08
MAY_FAIL_TIMEOUT: Final = 0x10
MAY_DOWN: Final = 0x20
MAY_BACKUP: Final = 0x40
MAY_RESOLVE: Final = 0x80
MAY_ALL: Final = 0xFE

NEVER_MS: Final = -(1 << 53)  # before any time: CLOCK_MONOTONIC may begin near 0


class ServerSpec:
    """One `server` line of an upstream block (or the address of a proxy_pass).

    shape: addrs is [(family, sockaddr, name)]; fail_timeout in seconds; `name` as written.
    """

    __slots__ = (
        "name",
        "addrs",
        "weight",
        "max_conns",
        "max_fails",
        "fail_timeout",
        "backup",
        "down",
        "resolve",  # host to resolve at run time, or ""
        "service",  # SRV service name, or ""
        "port",
        "host",
    )

    def __init__(self, name: str, addrs: Sequence[tuple[int, Any, str]]) -> None:
        self.name = name
        self.addrs = addrs
        self.weight = 1
        self.max_conns = 0
        self.max_fails = 1
        self.fail_timeout = 10
        self.backup = False
        self.down = False
        self.resolve = ""
        self.service = ""
        self.port = 0
        self.host = ""


class Peer:
    """One address a session can be sent to, and how it has fared.

    The counters are plain slots here; a peer of a `zone` is a view over shared memory with the
    same names. Times are loop milliseconds (CLOCK_MONOTONIC) cut to whole seconds, as nginx counts
    in seconds; fail_timeout is in seconds.
    """

    __slots__ = (
        "family",  # int: AF_INET, AF_INET6, AF_UNIX
        "sockaddr",  # what socket.connect takes
        "name",  # str: address as logged, "127.0.0.1:53"
        "server",  # str: as written in the configuration
        "weight",
        "effective_weight",
        "current_weight",
        "conns",
        "max_conns",
        "fails",
        "max_fails",
        "fail_timeout",
        "accessed_ms",  # time of the last failure
        "checked_ms",  # time of the last failure or probe
        "heard_ms",  # of the last first answer to a UDP session of this worker
        "down",
        "stats",  # PeerStats, for the methods that go by time, or None
    )

    def __init__(self, spec: ServerSpec, family: int, sockaddr: Any, name: str) -> None:
        self.family = family
        self.sockaddr = sockaddr
        self.name = name
        self.server = spec.name
        self.weight = spec.weight
        self.effective_weight = spec.weight
        self.current_weight = 0
        self.conns = 0
        self.max_conns = spec.max_conns
        self.fails = 0
        self.max_fails = spec.max_fails
        self.fail_timeout = spec.fail_timeout
        self.accessed_ms = NEVER_MS
        self.checked_ms = NEVER_MS
        self.heard_ms = NEVER_MS
        self.down = spec.down
        self.stats: Any = None

    def hold(self, sessions: int) -> None:
        """Count sessions on this peer, or give some back: what `conns += 1` does, unread."""
        self.conns += sessions

    def __repr__(self) -> str:
        return f"<Peer {self.name} w={self.weight} conns={self.conns} fails={self.fails}>"


class PeerStats:
    """How long a peer takes: exponential averages in ms, and the sessions that still wait for it.

    source: the NGX_STREAM_UPSTREAM_LEAST_TIME members of ngx_stream_upstream_rr_peer_t
    """

    __slots__ = (
        "connect_ms",
        "first_byte_ms",
        "response_ms",
        "inflight_ms",  # how long the waiting ones have waited, averaged at each choice
        "waiting",  # sessions whose measured event did not come yet
        "waited_ms",  # what they had waited, all together, at changed_ms
        "changed_ms",  # when their number changed last
    )

    def __init__(self) -> None:
        self.connect_ms = 0
        self.first_byte_ms = 0
        self.response_ms = 0
        self.inflight_ms = 0
        self.waiting = 0
        self.waited_ms = 0
        self.changed_ms = 0


class Selection(Protocol):
    """One session's way through a group of peers (nginx's peer.{get,free,notify,tries})."""

    tries: int  # attempts left, the current one included; 0 on the way to an only server

    def get(self) -> Peer:
        """Choose the next peer and count the session on it. raises: errors.NoLivePeers"""

    def free(self, peer: Peer, failed: bool, state: UpstreamState | None = None) -> None:
        """Give a peer back: `failed` counts against it; `state` is the record of the attempt."""

    def leave(self, peer: Peer) -> None:
        """Give a peer back for a session that goes on in another process."""

    def notify(self, peer: Peer, event: int) -> None:
        """Tell of CONNECT (a TCP connection stands) or FIRST_BYTE."""


class Balancer(Protocol):
    """One per upstream and cycle."""

    def select(self, s: Session) -> Selection:
        """Begin a selection for one session."""

    def resume(self, s: Session, name: str) -> tuple[Selection, Peer] | None:
        """Take up a session that another process had on a peer; None for no such peer."""


class UpstreamState:
    """The record of one attempt, for the $upstream_* variables.

    shape: times are ms since the attempt began, -1 where the event did not come.
    source: ngx_stream_upstream_state_t
    """

    __slots__ = (
        "peer_name",  # str: "" for an attempt that found no socket
        "start_ms",
        "connect_ms",
        "first_byte_ms",
        "session_ms",
        "bytes_sent",
        "bytes_received",
    )

    def __init__(self, start_ms: int) -> None:
        self.peer_name = ""
        self.start_ms = start_ms
        self.connect_ms = -1
        self.first_byte_ms = -1
        self.session_ms = -1
        self.bytes_sent = 0
        self.bytes_received = 0


class UpstreamConf:
    """One upstream: a block, or the address of a proxy_pass.

    shape: `method(conf)` makes the balancer once the block is complete; `balancer` stands from then
    on; `data` is scratch of the upstream directives by module name.
    """

    __slots__ = (
        "name",  # str: block name, or host of proxy_pass
        "port",  # int: of a proxy_pass address, else 0
        "no_port",  # bool: named without a port
        "explicit",  # bool: made by an upstream block
        "file",
        "line",
        "servers",  # list[ServerSpec]
        "may",  # int: MAY_* of the method chosen so far
        "method",  # Callable[[UpstreamConf], Balancer] | None: None is round robin
        "balancer",  # Balancer | None
        "zone",  # shared zone of the peers, or None
        "data",  # dict[str, Any]
        "index",  # int: place among the upstreams of the stream block
        "resolver",  # ResolverConf | None: for names resolved at run time
        "resolver_timeout",  # int: ms
        "pending",  # Callable | None: pending(loop, resume) has a session that found no server
        # resumed when there may be some, and returns what to cancel it with; None: do not wait
    )

    def __init__(self, name: str, file: str, line: int, explicit: bool) -> None:
        self.name = name
        self.port = 0
        self.no_port = explicit
        self.explicit = explicit
        self.file = file
        self.line = line
        self.servers: list[ServerSpec] = []
        self.may = MAY_ALL
        self.method: Callable[[UpstreamConf], Balancer] | None = None
        self.balancer: Balancer | None = None
        self.zone: Any = None
        self.data: dict[str, Any] = {}
        self.index = 0
        self.resolver: Any = None
        self.resolver_timeout = 30_000
        self.pending: Callable[[Any, Callable[[], None]], Callable[[], None] | None] | None = None


class UpstreamTable(list[UpstreamConf]):
    """The upstreams of a stream block in the order of their first mention, found by name.

    Names are compared without regard to case, as host names are.
    """

    __slots__ = ("_first", "_by_port")

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[str, UpstreamConf] = {}
        self._by_port: dict[tuple[str, int], UpstreamConf] = {}

    def enter(self, conf: UpstreamConf) -> None:
        """Append an upstream whose name and port are set; they do not change any more."""
        conf.index = len(self)
        self.append(conf)
        name = conf.name.lower()
        self._first.setdefault(name, conf)
        self._by_port.setdefault((name, conf.port), conf)

    def first(self, name: str) -> UpstreamConf | None:
        """Return the first upstream of a name, whatever its port. A block is always the first."""
        return self._first.get(name.lower())

    def at(self, name: str, port: int) -> UpstreamConf | None:
        """Return the upstream of a name and a port, 0 for none."""
        return self._by_port.get((name.lower(), port))
