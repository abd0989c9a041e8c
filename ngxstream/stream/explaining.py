"""Explain: which server, limits and peer a client would get, without a client.

A session is made that nothing comes of: it has no socket, is in no table and logs nothing. The
phases of its address are gone through in their order, and each handler's module says what the
handler would do (StreamModule.explains). Nothing is counted, taken or asked for:

1. An explanation may read what others share, and change nothing but the session that is imagined.
2. What only a client's bytes tell is not known; the name he asks for can be given.
3. A balancer foresees what it would choose (Selection.foresee), and takes no turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.core import codes, inet, log
from ngxstream.event.connection import Connection
from ngxstream.stream import core_facts, peer_state, phases, variables
from ngxstream.stream.peer_state import (
    AGENT_DRAIN,
    AGENT_LIMITED,
    AGENT_MAINT,
    CHECKING,
    DOWN,
    DRAINING,
    UNHEALTHY,
)
from ngxstream.stream.session import Session
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from ngxstream.core.inet import SockAddr
    from ngxstream.event.loop import Loop
    from ngxstream.stream.addresses import AddressConf, ListeningConf
    from ngxstream.stream.core import ServerConf, StreamConf
    from ngxstream.stream.module import StreamModule
    from ngxstream.stream.peer_state import PeerState
    from ngxstream.stream.round_robin import Tier
    from ngxstream.stream.upstream import Peer, UpstreamConf

PHASES: Final = (
    "post-accept", "preaccess", "access", "ssl", "preread", "connect", "content", "log",
)

# How it ends.
PROXIED: Final = "proxied"
RETURNED: Final = "returned"  # text, by `return`
SERVED: Final = "served"  # by another content handler
REFUSED: Final = "refused"  # by a rule or a limit
FAILED: Final = "failed"  # 500 and 502
VERDICTS: Final = (PROXIED, RETURNED, SERVED, REFUSED, FAILED)

# What only makes sense while a session goes on, or of the worker that is asked.
_LEFT_OUT: Final = frozenset(
    ("bytes_received", "bytes_sent", "connection", "hostname", "nginx_version", "pid")
)
_BARS: Final = {
    DOWN: "is down",
    DRAINING: "is draining: it gets no new sessions",
    UNHEALTHY: "is unhealthy: its checks fail",
    CHECKING: "is being checked",
    AGENT_MAINT: "is down: its agent says maint",
    AGENT_DRAIN: "is draining: its agent says drain, or a weight of 0",
}


class Answer(NamedTuple):
    """What a handler would do.

    Args: code: what it would return, or the status the session would end with; content that goes
    on has codes.OK; why: a sentence without a full stop
    """

    code: int
    why: str


class Explanation:
    """What there is to say of one client."""

    __slots__ = (
        "stream",
        "s",  # Imagined; another one behind a `pass`
        "name",  # bytes | None: the server name that the client asks for
        "phases",  # list of dicts: what each handler would do
        "limits",  # list of dicts
        "upstream",  # UpstreamConf | None
        "chosen",  # list[Peer]: one, or those that chance decides among
        "tier",  # Tier | None: that they are of, or the primaries
        "verdict",
        "status",  # int: how the session would end; 0: not foreseen
        "why",
        "next",  # ListeningConf | None: where `pass` leads
    )

    def __init__(self, stream: StreamConf, s: Imagined, name: bytes | None) -> None:
        self.stream = stream
        self.s = s
        self.name = name
        self.phases: list[dict[str, Any]] = []
        self.limits: list[dict[str, Any]] = []
        self.upstream: UpstreamConf | None = None
        self.chosen: list[Peer] = []
        self.tier: Tier | None = None
        self.verdict = ""
        self.status = 0
        self.why = ""
        self.next: ListeningConf | None = None

    # -- for explanations of modules ---------------------------------------------------------------

    def tell(self, phase: int, by: str, outcome: str, why: str, status: int = 0) -> None:
        """Add what a handler would do."""
        self.phases.append({
            "phase": PHASES[phase], "by": by, "outcome": outcome, "status": status or None,
            "why": why,
        })

    def recheck(self) -> Answer:
        """Ask what servers.recheck() asks: the checks of a server that was selected by name."""
        s = self.s
        if s.server is not s.address.default_server:
            for check in s.server.rechecks:
                module, explain = self.stream.explains[check]
                answer = explain(s, self)
                if answer.code not in (codes.OK, codes.DECLINED):
                    return answer
                self.tell(phases.ACCESS, module.name, "asked again for the name", answer.why)
        return Answer(codes.OK, f'server "{core_facts.name_of(s.server)}"')

    def through(self, upstream: UpstreamConf) -> Answer:
        """Foresee the peer of an upstream."""
        self.upstream = upstream
        balancer = upstream.balancer
        assert balancer is not None
        selection = balancer.select(self.s)
        self.tier = balancer.tier
        self.chosen = selection.foresee()
        method = selection.method
        if not self.chosen:
            return Answer(codes.BAD_GATEWAY, "no live upstreams")
        if len(self.chosen) > 1:
            return Answer(codes.OK, f"{method}: one of {len(self.chosen)} servers, by chance")
        return Answer(codes.OK, f"{method}: {self.chosen[0].name}")

    # -- what it comes to --------------------------------------------------------------------------

    def end(self, verdict: str, why: str, status: int = 0) -> None:
        """Say how it ends."""
        self.verdict = verdict
        self.status = status
        self.why = why

    def peers(self) -> Iterator[dict[str, Any]]:
        """Yield all servers of the group with why they would be taken, or not."""
        level, is_backup = self.tier, False
        health = None if self.upstream is None else self.upstream.health
        chosen = {id(peer) for peer in self.chosen}
        now_ms = self.s.loop.now_ms
        primary = any(
            id(peer) in chosen for peer in (() if level is None else level.peers)
        )
        while level is not None:
            for peer in level.peers:
                bar = why_not(peer, peer.state, now_ms, level.single)
                if bar == _BARS[UNHEALTHY] and health is not None:
                    bar = health.blame(peer) or bar
                if id(peer) in chosen:
                    why = "may be chosen" if len(chosen) > 1 else "chosen"
                else:
                    why = bar or ("backup, a primary server is usable" if is_backup and primary
                                  else "another server is chosen")
                yield {"server": peer.name, "usable": not bar, "why": why}
            level, is_backup = level.backup, True

    def variables(self) -> dict[str, str | None]:
        """Return the variables that the configuration uses, as far as they are known."""
        found: dict[str, str | None] = {}
        for name, ref in sorted(self.stream.variables.refs.items()):
            volatile = ref.flags & variables.NOCACHEABLE and not ref.flags & variables.CHANGEABLE
            if name not in _LEFT_OUT and not volatile:
                value = ref.get(self.s)
                found[name] = None if value is None else value.decode("utf-8", "replace")
        return found


# says what a handler would do with an imagined session
Explain = Callable[[Session, Explanation], Answer]


class _Listening(NamedTuple):
    """As much of a listening socket as sessions look at."""

    options: Any


class Imagined(Session):
    """A session that nothing comes of."""

    __slots__ = ()

    def __init__(self, c: Connection, loop: Loop, address: AddressConf) -> None:
        """Args: c: see client_of"""
        super().__init__(c, loop, address)
        loop.sessions.discard(self)
        self.log = log.Log([], clock=loop.log.clock)

    def select_server(self, server: ServerConf) -> None:
        """Go on under another virtual server."""
        self.server = server

    def log_error(self, level: int, message: str, err: int | None = None) -> None:
        """Say nothing."""

    def add_cleanup(self, cleanup: Callable[[], None]) -> None:
        """Have nothing done: this session has no end."""

    def finalize(self, status: int) -> None:
        """End nothing."""
        self.status = status


def client_of(listening: ListeningConf, client: SockAddr, local: SockAddr) -> Connection:
    """Return what stands for the connection of a client."""
    seen: Any = _Listening(listening.options)
    nothing: Any = None
    c = Connection(nothing, -1, inet.family_of(client), client, 0, seen)
    c.is_udp = listening.options.is_udp
    c.local = local
    return c


def find(stream: StreamConf, is_udp: bool, local: SockAddr) -> ListeningConf | None:
    """Return the listening socket that a client would come to, as the kernel finds it.

    The one of the very address; of its port at any; IPv6's, if it takes IPv4 too.
    """
    family = inet.family_of(local)
    fitting = [one for one in stream.listenings if one.options.is_udp == is_udp]
    for one in fitting:
        options = one.options
        if options.family == family and _same(options.sockaddr, local):
            return one
    if family == inet.AF_UNIX:
        return None
    port = inet.port_of(local)
    wild = [
        one for one in fitting
        if one.options.wildcard and inet.port_of(one.options.sockaddr) == port
    ]
    for one in wild:
        if one.options.family == family:
            return one
    for one in wild:
        if family == inet.AF_INET and one.options.ipv6only is False:
            return one
    return None


def _same(a: SockAddr, b: SockAddr) -> bool:
    if inet.family_of(a) == inet.AF_UNIX:
        return inet.address_text(a) == inet.address_text(b)
    return inet.packed(a) == inet.packed(b) and inet.port_of(a) == inet.port_of(b)


def explain(stream: StreamConf, loop: Loop, listening: ListeningConf, client: SockAddr,
            local: SockAddr, name: bytes | None) -> Explanation:
    """Explain what a client would get.

    Args: client, local: the two ends of his connection; name: what he asks for in TLS
    """
    c = client_of(listening, client, local)
    found = Explanation(stream, _begin(c, loop, listening), name)
    _walk(found)
    while found.next is not None:
        listening, found.next = found.next, None
        c.listening = _Listening(listening.options)  # type: ignore[assignment]
        found.s = _begin(c, loop, listening)
        _walk(found)
    return found


def _begin(c: Connection, loop: Loop, listening: ListeningConf) -> Imagined:
    """Begin where ListeningConf.begin does."""
    address = listening.default
    if listening.addresses is not None:
        address = listening.addresses.get(inet.host_of(c.local_sockaddr()), address)
    s = Imagined(c, loop, address)
    if address.proxy_protocol:
        s.proxy_protocol = _header(c)
    return s


def _header(c: Connection) -> proxy_protocol.ProxyHeader | None:
    """Return a PROXY header that names the client himself, as a trusted proxy would send it."""
    if inet.family_of(c.sockaddr) == inet.AF_UNIX:
        return None
    local = c.local_sockaddr()
    return proxy_protocol.ProxyHeader(
        2, proxy_protocol.PROXY, proxy_protocol.INET, proxy_protocol.STREAM, 0, has_client=True,
        src_addr=inet.address_text(c.sockaddr), src_port=inet.port_of(c.sockaddr),
        dst_addr=inet.address_text(local), dst_port=inet.port_of(local),
    )


def _walk(found: Explanation) -> None:
    """Go through the phases of an address, and the content."""
    s = found.s
    if s.address.proxy_protocol:
        found.tell(phases.POST_ACCEPT, "proxy_protocol", "goes on",
                   "the PROXY header is taken to name this client")
    for phase in range(phases.CONTENT):
        for module, run in _handlers(found.stream.modules, s.address.servers, phase):
            explained = found.stream.explains.get(run)
            if explained is None:
                found.tell(phase, module.name, "goes on", "is not explained")
                continue
            code, why = explained[1](s, found)
            if code == codes.OK:
                found.tell(phase, module.name, "ends the phase", why)
                break
            if code == codes.DECLINED:
                found.tell(phase, module.name, "goes on", why)
                continue
            status = codes.INTERNAL_SERVER_ERROR if code == codes.ERROR else code
            found.tell(phase, module.name, "ends the session", why, status)
            found.end(REFUSED, f"{module.name}: {why}", status)
            return
    _explain_content(found)


def _handlers(modules: Iterable[StreamModule], at: tuple[ServerConf, ...], phase: int
              ) -> list[tuple[StreamModule, phases.Handler]]:
    """Return the handlers of a phase in the order of phases.compile_engine."""
    return [
        (module, entry.run) for module in modules for entry in module.handlers
        if entry.phase == phase and any(entry.wanted(server) for server in at)
    ][::-1]


def _explain_content(found: Explanation) -> None:
    handler = found.s.server.handler
    if handler is None:
        found.end(FAILED, "no handler for server", codes.INTERNAL_SERVER_ERROR)
        return
    explained = found.stream.explains.get(handler)
    if explained is None:
        found.tell(phases.CONTENT, "content", "goes on", "is not explained")
        found.end(SERVED, "by what is not explained")
        return
    module, how = explained
    code, why = how(found.s, found)
    if code >= codes.BAD_REQUEST:
        found.tell(phases.CONTENT, module.name, "ends the session", why, code)
        found.end(FAILED, f"{module.name}: {why}", code)
        return
    found.tell(phases.CONTENT, module.name, "goes on", why)
    if not found.verdict and found.next is None:
        found.end(PROXIED if found.upstream is not None else SERVED, why)


def why_not(peer: Peer, state: PeerState, now_ms: int, single: bool = False) -> str:
    """Return what speaks against a peer, "" for nothing: the rule of round_robin.usable().

    Args: single: of a tier of one, which is never disabled by failures
    """
    status = state.status
    for bit, why in _BARS.items():
        if status & bit:
            return why
    if status & peer_state.FAILED and state.fails >= peer.max_fails > 0 and not single:
        left_ms = state.checked_ms + peer.fail_timeout * 1000 - (now_ms - now_ms % 1000)
        if left_ms >= 0:
            return f"failed {state.fails} times, is not used for {left_ms // 1000 + 1} s more"
    conns = state.conns
    if status and 0 < peer.max_conns <= conns:
        return f"has {conns} of {peer.max_conns} sessions (max_conns)"
    if status & AGENT_LIMITED and state.most_conns <= conns:
        return f"has {conns} of {state.most_conns} sessions (maxconn of its agent)"
    return ""
