"""What upstreams are made of: peers, balancers, selections, and the record of an attempt.

Answers for ngx_stream_upstream.c/h and the peer.{get,free,notify} contract of
ngx_event_connect.h. Round robin (stream/round_robin.py) is the default method; the others
compose it. The proxy knows balancers only by what stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from ngxstream.stream import peer_state

if TYPE_CHECKING:
    from ngxstream.core.shm_zones import ZoneRequest
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.health import Health
    from ngxstream.stream.peer_facts import Book, GroupFacts
    from ngxstream.stream.resolver_conf import ResolverConf
    from ngxstream.stream.round_robin import Tier
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
MAY_SLOW_START: Final = 0x100
MAY_ALL: Final = 0x1FE


class ServerSpec:
    """One `server` line of an upstream block (or the address of a proxy_pass).

    addrs is [(family, sockaddr, name)]; fail_timeout is in seconds; `name` as written.
    """

    __slots__ = (
        "name",
        "addrs",
        "weight",
        "max_conns",
        "max_fails",
        "fail_timeout",
        "slow_start",  # s: in which the weight of a server that comes back grows; 0: at once
        "backup",
        "down",
        "drain",  # bool: sessions it has go on, others do not begin
        "id",  # int: of the line, in a group whose servers are shown; -1: none
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
        self.slow_start = 0
        self.backup = False
        self.down = False
        self.drain = False
        self.id = -1
        self.resolve = ""
        self.service = ""
        self.port = 0
        self.host = ""


NO_BOOKS: Final[tuple[Mapping[ServerConf, Book], Mapping[ServerConf, Book]]] = (
    MappingProxyType({}), MappingProxyType({})
)


class Peer:
    """One address a session can be sent to: what the configuration says, and how it fares.

    Nothing but what is in `state` changes once the peer is in a tier. fail_timeout is in seconds.
    """

    __slots__ = (
        "family",  # int: AF_INET, AF_INET6, AF_UNIX
        "sockaddr",  # what socket.connect takes
        "name",  # str: address as logged, "127.0.0.1:53"
        "server",  # str: as written in the configuration
        "weight",
        "max_conns",
        "max_fails",
        "fail_timeout",
        "slow_start",  # s
        "spec",  # ServerSpec: the line it comes of
        "state",  # PeerState; a peer of a `zone` has one in shared memory
        "books",  # (dict, dict): Books by server, of TCP and of UDP (stream/peer_facts.py)
        "book",  # Book | None: the latest one of UDP
    )

    def __init__(
        self, spec: ServerSpec, family: int, sockaddr: Any, name: str, server: str = "",
        weight: int = 0
    ) -> None:
        """Make it of a server line and an address; what a service says of it may differ."""
        self.family = family
        self.sockaddr = sockaddr
        self.name = name
        self.server = server or spec.name
        self.weight = weight or spec.weight
        self.max_conns = spec.max_conns
        self.max_fails = spec.max_fails
        self.fail_timeout = spec.fail_timeout
        self.slow_start = spec.slow_start
        self.spec = spec
        status = peer_state.DOWN if spec.down else 0
        if spec.drain:
            status |= peer_state.DRAINING
        if spec.max_conns:
            status |= peer_state.LIMITED
        self.state = peer_state.PeerState(status, self.weight)
        self.book: Book | None = None
        self.books = NO_BOOKS

    def __repr__(self) -> str:
        return f"<Peer {self.name} w={self.weight} {self.state}>"


class Selection(Protocol):
    """One session's way through a group of peers (nginx's peer.{get,free,notify,tries})."""

    method: ClassVar[str]  # as debug lines name it
    tries: int  # attempts left, the current one included; 0 on the way to an only server

    def get(self) -> Peer:
        """Choose the next peer and count the session on it. Raises: errors.NoLivePeers"""

    def foresee(self) -> list[Peer]:
        """Return what get() would choose, more than one where chance decides; nothing changes."""

    def free(self, peer: Peer, failed: bool, attempt: UpstreamState | None = None) -> None:
        """Give a peer back: `failed` counts against it, without a record if need be."""

    def leave(self, peer: Peer) -> None:
        """Give a peer back for a session that goes on in another process."""

    def notify(self, peer: Peer, event: int) -> None:
        """Tell of CONNECT (a TCP connection stands) or FIRST_BYTE."""


class Balancer(Protocol):
    """One per upstream and cycle."""

    @property
    def tier(self) -> Tier:
        """The peers that are chosen among."""

    def use(self, tier: Tier) -> None:
        """Balance over these peers from now on."""

    @property
    def select(self) -> Callable[[Session], Selection]:
        """Begin a selection for one session."""

    def weigh_by_agents(self) -> None:
        """Have agents say what part of its weight a server has, where the method can do that."""

    def resume(self, s: Session, name: str) -> tuple[Selection, Peer] | None:
        """Take up a session that another process had on a peer; None for no such peer."""


class UpstreamState:
    """The record of one attempt, for the $upstream_* variables.

    Times are ms since the attempt began, -1 where the event did not come.

    Source: ngx_stream_upstream_state_t
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

    `method(conf)` makes the balancer once the block is complete; `balancer` stands from then on.
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
        "zone",  # ZoneRequest | None: of the peers
        "index",  # int: place among the upstreams of the stream block
        "state",  # str: the file that keeps the servers when they change at run time, or ""
        "is_dynamic",  # bool: the servers may change at run time; known when balancers are made
        "end",  # (file, line): where the block ends
        "resolver",  # ResolverConf | None: for names resolved at run time
        "wants_zone",  # bool: something of the configuration needs its peers in shared memory
        "own_zone",  # bool: the zone was made for that, and nobody has named it
        "health",  # Health | None: what checks know of its peers
        "withdrawals",  # memoryview[int] | None: counts how often peers of its zone were so
        "newcomer",  # int: status of a peer that comes at run time, CHECKING where checks decide
        "facts",  # GroupFacts | None: what is counted of its peers, where an api shows it
        "resolver_timeout",  # int: ms, -1 until it is known
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
        self.zone: ZoneRequest | None = None
        self.index = 0
        self.state = ""
        self.is_dynamic = False
        self.end = (file, line)
        self.resolver: ResolverConf | None = None
        self.wants_zone = False
        self.own_zone = False
        self.health: Health | None = None
        self.withdrawals: memoryview[int] | None = None
        self.newcomer = 0
        self.facts: GroupFacts | None = None
        self.resolver_timeout = -1
        self.pending: Callable[[Loop, Callable[[], None]], Callable[[], None] | None] | None = None

    @property
    def zone_name(self) -> str | None:
        """The name of the zone that it was given; None for none."""
        return None if self.zone is None or self.own_zone else self.zone.name


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
