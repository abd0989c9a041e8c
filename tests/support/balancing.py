"""Groups of peers without sockets: a session for balancers, and nginx's rules written out plainly.

``Model`` is what the balancers are compared with: it follows the published behaviour step by step,
in seconds and dicts and lists, and knows no shortcut.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from zlib import crc32

from hypothesis import strategies as st

from ngxstream.core import errors
from ngxstream.stream import peer_state, round_robin
from ngxstream.stream.upstream import CONNECT, Peer, Selection, UpstreamConf
from tests.support.in_process import build


class FakeSession:
    """What a balancer sees of a session."""

    def __init__(self, clock: Any, is_udp: bool = False) -> None:
        self.loop = clock
        self.c = SimpleNamespace(is_udp=is_udp)
        self.states: list[Any] | None = None
        self.values = None
        self.captures = None
        self.key = b""
        self.lines: list[tuple[int, str]] = []

    def log_error(self, level: int, message: str, err: int | None = None) -> None:
        """Keep a line."""
        self.lines.append((level, message))


class Clock:
    """A loop that is nothing but a time; what is posted is called at once, or by turn()."""

    def __init__(self, now_ms: int = 1_000_000, *, turns: bool = False) -> None:
        self.now_ms = now_ms
        self.posted: list[Callable[[], None]] | None = [] if turns else None

    def post(self, callback: Callable[[], None]) -> None:
        """Call back at the end of the turn."""
        if self.posted is None:
            callback()
        else:
            self.posted.append(callback)

    def turn(self) -> None:
        """End a turn."""
        posted, self.posted = self.posted or [], []
        for callback in posted:
            callback()


def upstream(lines: str) -> UpstreamConf:
    """Build the upstream of a block of this inside."""
    built = build(f"stream {{ upstream u {{ {lines} }} }}")
    assert built.conf is not None, built.error
    return built.conf.upstreams[0]


def group(lines: str) -> Any:
    """Build the balancer of a block of this inside."""
    return upstream(lines).balancer


def session(clock: Clock, is_udp: bool = False) -> Any:
    """Make a session for a balancer."""
    return FakeSession(clock, is_udp)


def numbered(specs: list[dict[str, Any]]) -> str:
    """Write server lines: server i is 127.0.0.1:(i + 1)."""
    lines = []
    for i, spec in enumerate(specs):
        words = [f"server 127.0.0.1:{i + 1}"]
        words += [name if value is True else f"{name}={value}"
                  for name, value in spec.items() if value is not False]
        lines.append(" ".join(words) + ";")
    return " ".join(lines)


def port(peer: Peer) -> int:
    """Return the port that names a peer."""
    number: int = peer.sockaddr[1]
    return number


def is_down(peer: Peer) -> bool:
    """Tell whether the configuration takes a peer out."""
    return bool(peer.state.status & peer_state.DOWN)


def take(selection: Selection) -> int:
    """Return the port of the next choice, 0 when there are no live upstreams."""
    try:
        return port(selection.get())
    except errors.NoLivePeers:
        return 0


# -- nginx's rules -----------------------------------------------------------------------------


@dataclass
class ModelPeer:
    """One server of the model, counting in seconds."""

    name: int
    weight: int = 1
    max_conns: int = 0
    max_fails: int = 1
    fail_timeout: int = 10
    backup: bool = False
    down: bool = False
    effective: int = 0
    current: int = 0
    conns: int = 0
    fails: int = 0
    accessed: int = -(10**9)
    checked: int = -(10**9)


@dataclass
class ModelSession:
    """A session's way through the model."""

    tier: int = 0
    tried: set[int] = field(default_factory=set)
    misses: int = 0
    rehash: int = 0
    hash: int = 0
    tries: int = 0


class Model:
    """A group balanced by the published rules.

    method is one of round_robin, least_conn, hash, consistent
    """

    def __init__(self, specs: list[dict[str, Any]], method: str = "round_robin") -> None:
        peers = [ModelPeer(i + 1, **spec) for i, spec in enumerate(specs)]
        for peer in peers:
            peer.effective = peer.weight
        self.peers = {peer.name: peer for peer in peers}
        self.tiers = [[p for p in peers if not p.backup], [p for p in peers if p.backup]]
        self.single = len(self.tiers[0]) == 1 and not self.tiers[1]
        self.method = method
        self.now = 0
        self.disabled = 0  # warnings so far
        if method == "consistent":
            self.ring = sorted(
                {point: peer.name for peer in reversed(peers) if not peer.backup
                 for point in ketama(f"127.0.0.1:{peer.name}", peer.weight)}.items()
            )

    def begin(self, key: bytes = b"") -> ModelSession:
        """Begin a session."""
        live = 0 if self.single else sum(not peer.down for peer in self.peers.values())
        session = ModelSession(tries=live)
        if self.method == "consistent":
            below = [point for point, _ in self.ring if point < crc32(key)]
            session.hash = len(below)
        return session

    def usable(self, session: ModelSession, peer: ModelPeer) -> bool:
        """Apply the rules of eligibility."""
        if peer.name in session.tried or peer.down:
            return False
        if self.single:
            return not peer.max_conns or peer.conns < peer.max_conns
        disabled = peer.max_fails and peer.fails >= peer.max_fails
        if disabled and self.now - peer.checked <= peer.fail_timeout:
            return False
        return not peer.max_conns or peer.conns < peer.max_conns

    def get(self, session: ModelSession, key: bytes = b"") -> int:
        """Return the number of the chosen server, 0 for no live upstreams."""
        if self.single:
            peer = self.tiers[0][0]
            if not self.usable(ModelSession(), peer):
                return 0
            peer.conns += 1
            return peer.name
        found = None
        if self.method in ("hash", "consistent") and key:
            pick: Callable[..., ModelPeer | None] = getattr(self, self.method)
            found = pick(session, key)
        if found is None:
            step = self.least_conn if self.method == "least_conn" else self.round_robin
            found = step(session)
            if found is None and session.tier == 0 and self.tiers[1]:
                session.tier = 1
                session.tried = set()
                found = step(session)
        if found is None:
            return 0
        session.tried.add(found.name)
        if self.now - found.checked > found.fail_timeout:
            found.checked = self.now
        found.conns += 1
        return found.name

    def round_robin(
        self, session: ModelSession, among: list[ModelPeer] | None = None
    ) -> ModelPeer | None:
        """Take one step of smooth weighted round robin."""
        peers = self.tiers[session.tier] if among is None else among
        usable = [peer for peer in peers if self.usable(session, peer)]
        total = sum(peer.effective for peer in usable)
        for peer in usable:
            peer.current += peer.effective
            peer.effective = min(peer.effective + 1, peer.weight)
        if not usable:
            return None
        best = max(usable, key=lambda peer: peer.current)  # the first of equals
        best.current -= total
        return best

    def least_conn(self, session: ModelSession) -> ModelPeer | None:
        """Take the least busy one, round robin among equals."""
        usable = [peer for peer in self.tiers[session.tier] if self.usable(session, peer)]
        if not usable:
            return None
        least = min(usable, key=lambda peer: peer.conns / peer.weight)
        equals = [p for p in usable if p.conns * least.weight == least.conns * p.weight]
        return self.round_robin(session, equals) if len(equals) > 1 else least

    def hash(self, session: ModelSession, key: bytes) -> ModelPeer | None:
        """Hash and rehash; None when round robin has to help."""
        peers = self.tiers[session.tier]
        if len(peers) < 2:
            return None
        line = [peer for peer in peers for _ in range(peer.weight)]
        while session.misses <= 20:
            prefix = str(session.rehash).encode() if session.rehash else b""
            session.hash += crc32(prefix + key) >> 16 & 0x7FFF
            session.rehash += 1
            peer = line[session.hash % len(line)]
            if self.usable(session, peer):
                return peer
            session.misses += 1
        return None

    def consistent(self, session: ModelSession, key: bytes) -> ModelPeer | None:
        """Go round the ring; None when round robin has to help."""
        while session.misses <= 20:
            peer = self.peers[self.ring[session.hash % len(self.ring)][1]]
            if self.usable(session, peer):
                return self.round_robin(session, [peer])
            session.hash += 1
            session.misses += 1
        return None

    def free(self, session: ModelSession, name: int, failed: bool) -> None:
        """Give a server back."""
        peer = self.peers[name]
        peer.conns -= 1
        if self.single:
            return
        if failed:
            peer.fails += 1
            peer.accessed = peer.checked = self.now
            if peer.max_fails:
                peer.effective = max(peer.effective - peer.weight // peer.max_fails, 0)
                if peer.fails >= peer.max_fails:
                    self.disabled += 1
        elif peer.accessed < peer.checked:
            peer.fails = 0
        session.tries = max(session.tries - 1, 0)

    def connected(self, name: int) -> None:
        """Take notice that a TCP connection stands."""
        peer = self.peers[name]
        if not self.single and peer.accessed < peer.checked:
            peer.fails = 0


def ketama(server: str, weight: int) -> list[int]:
    """Make the points of a server with host and port."""
    host, port_text = server.rsplit(":", 1)
    base = host.encode() + b"\0" + port_text.encode()
    points: list[int] = []
    previous = 0
    for _ in range(160 * weight):
        previous = crc32(base + previous.to_bytes(4, "little"))
        points.append(previous)
    return points


# -- the same on both --------------------------------------------------------------------------

SPEC = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.integers(1, 6),
        "max_fails": st.integers(0, 3),
        "fail_timeout": st.integers(0, 12),
        "max_conns": st.integers(0, 3),
        "down": st.booleans(),
        "backup": st.booleans(),
    },
)
PLAIN = st.fixed_dictionaries(
    {}, optional={"weight": st.integers(1, 5), "max_fails": st.integers(0, 3)}
)
# what is done: begin a session; try again in session i; end session i well, badly, connect it;
# let time pass; or a run of sessions that end well at once
STEP = st.one_of(
    st.tuples(st.just("begin"), st.just(0)),
    st.tuples(st.sampled_from(["retry", "end", "connect"]), st.integers(0, 10)),
    st.tuples(st.just("wait"), st.integers(1, 15_000)),
    st.tuples(st.just("run"), st.integers(1, 40)),
)


def play(
    specs: list[dict[str, Any]],
    steps: list[tuple[str, int]],
    method: str = "round_robin",
    key: Callable[[int], bytes] = lambda number: b"",
    shared: Callable[[UpstreamConf], None] | None = None,
) -> None:
    """Do the same on a balancer and on the model, and compare all that can be seen."""
    words = {"round_robin": "", "least_conn": "least_conn;"}.get(method, "")
    if method in ("hash", "consistent"):
        words = "hash $remote_addr" + (" consistent;" if method == "consistent" else ";")
    # backup servers before the hash line, where nginx takes them
    conf = upstream(numbered(specs) + words)
    if shared is not None:
        shared(conf)
    balancer: Any = conf.balancer
    if method in ("hash", "consistent"):
        balancer.key.get = lambda s: s.key
    model = Model(specs, method)
    clock = Clock()
    model.now = clock.now_ms // 1000
    live: list[tuple[Any, Any, Any, Peer, bytes]] = []
    number = 0
    warned = 0

    def begin() -> bool:
        nonlocal number
        number += 1
        s = session(clock)
        s.key = key(number)
        selection, twin = balancer.select(s), model.begin(s.key)
        assert twin.tries == selection.tries
        expected = model.get(twin, s.key)
        try:
            peer = selection.get()
        except errors.NoLivePeers:
            assert expected == 0
            return False
        assert expected == port(peer)
        live.append((s, selection, twin, peer, s.key))
        return True

    for action, amount in steps:
        if action == "begin":
            begin()
        elif action == "run":
            for _ in range(amount):
                if begin():
                    s, selection, twin, peer, _ = live.pop()
                    selection.free(peer, False)
                    model.free(twin, port(peer), False)
        elif action == "wait":
            clock.now_ms += amount
            model.now = clock.now_ms // 1000
        elif live:
            s, selection, twin, peer, name = live.pop(amount % len(live))
            if action == "connect":
                selection.notify(peer, CONNECT)
                model.connected(port(peer))
                live.append((s, selection, twin, peer, name))
                continue
            failed = action == "retry"
            selection.free(peer, failed)
            model.free(twin, port(peer), failed)
            warned += len(s.lines)
            s.lines.clear()
            assert model.disabled == warned
            assert twin.tries == selection.tries
            if failed and selection.tries:
                expected = model.get(twin, name)
                assert expected == take(selection)
                if expected:
                    by_port = {port(p): p for p in peers_of(balancer)}
                    live.append((s, selection, twin, by_port[expected], name))
    for peer in peers_of(balancer):
        assert model.peers[port(peer)].conns == peer.state.conns
        if peer.max_fails:  # what cannot matter need not be kept up
            assert model.peers[port(peer)].fails == peer.state.fails


def peers_of(balancer: round_robin.RoundRobin) -> list[Peer]:
    """Return primaries and backups."""
    tier = balancer.tier
    return [*tier.peers, *(tier.backup.peers if tier.backup else ())]


def has_primary(specs: list[dict[str, Any]]) -> bool:
    """Tell whether nginx would take this group."""
    return not all(spec.get("backup") for spec in specs)
