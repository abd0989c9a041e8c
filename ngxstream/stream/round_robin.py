"""Smooth weighted round robin, the accounting of failures, and what every balancer builds on.

Answers for ngx_stream_upstream_round_robin.c.

1. A tier (the primaries, or the backups) never changes its members: a change of membership is a
   new tier, and a session that began on the old one ends on it.
2. Times are whole seconds, as in nginx, kept as milliseconds with the rest cut off.
3. A peer is tried once per session and tier; the tried ones are bits of an int.
4. A tier of one address without a backup is `single`: it is never disabled.
5. Whether a peer may be used now is what usable() says, to every method. Who changes the `status`
   of a peer that is not in shared memory has the balancer `use` its tier again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ngxstream.core import errors, log
from ngxstream.stream import slow_start, upstream
from ngxstream.stream.peer_state import AGENT_LIMITED, BARRED, DOWN, DRAINING, FAILED, PeerState
from ngxstream.stream.upstream import Peer, ServerSpec, UpstreamConf

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Balancer, Selection, UpstreamState

Choice = tuple[int, Peer, PeerState]  # the bit of a peer in its tier, the peer, its state

FORGIVEN_MS: Final = 1 << 62  # when all failures are long past
NO_LOCK: Final = nullcontext()


def usable(choices: Sequence[Choice], tried: int, now: int) -> Sequence[Choice]:
    """Return those of some peers that may be used now: the rule of all balancers.

    Args: choices: in the order of the configuration; tried: bits of those that the session was sent
    to already; now: in milliseconds, whole seconds
    Source: the conditions of ngx_stream_upstream_get_peer
    """
    out = tried
    for bit, peer, state in choices:
        status = state.status
        if status and (
            status & BARRED
            or (
                status & FAILED
                and state.fails >= peer.max_fails > 0
                and now - state.checked_ms <= peer.fail_timeout * 1000
            )
            or 0 < peer.max_conns <= state.conns
            or (status & AGENT_LIMITED and state.most_conns <= state.conns)
        ):
            out |= bit
    if not out:  # hot: as a rule nothing speaks against any of them
        return choices
    return [choice for choice in choices if not choice[0] & out]


class Tier:
    """The peers that are chosen among at one time. Source: ngx_stream_upstream_rr_peers_t"""

    __slots__ = (
        "name",  # str: of the upstream
        "peers",  # tuple[Peer, ...] in the order of the configuration
        "choices",  # tuple[Choice, ...]: the same
        "number",
        "total_weight",
        "single",  # bool: one peer, and no backup
        "tries",  # int: peers of this tier and its backups that their lines do not bar
        "backup",  # Tier | None
        "lock",  # context manager that guards the peers of a zone, or NO_LOCK
        "aid",  # what the balancing method keeps for this tier
    )

    def __init__(
        self, name: str, peers: Iterable[Peer], backup: Tier | None = None,
        lock: AbstractContextManager[None] = NO_LOCK,
    ) -> None:
        self.name = name
        self.peers = tuple(peers)
        self.choices = tuple([(1 << n, peer, peer.state) for n, peer in enumerate(self.peers)])
        self.number = len(self.peers)
        self.total_weight = sum([peer.weight for peer in self.peers])
        self.backup = backup
        self.lock = lock
        self.aid: Any = None
        self.single = self.number == 1 and backup is None
        live = sum([not peer.state.status & (DOWN | DRAINING) for peer in self.peers])
        self.tries: int = live if backup is None else live + backup.tries


def make_tier(conf: UpstreamConf) -> Tier:
    """Make the peers of a complete upstream.

    Raises: UnplacedError `no servers in upstream "…" in FILE:LINE` when all of them are backups,
    and that cannot change
    Source: ngx_stream_upstream_init_round_robin
    """
    primaries = make_peers(spec for spec in conf.servers if not spec.backup)
    has_name = any(spec.resolve and not spec.backup for spec in conf.servers)
    if not primaries and not has_name and not conf.is_dynamic:
        raise errors.UnplacedError(
            f'no servers in upstream "{conf.name}" in {conf.file}:{conf.line}'
        )
    backups = make_peers(spec for spec in conf.servers if spec.backup)
    return Tier(conf.name, primaries, Tier(conf.name, backups) if backups else None)


def make_peers(specs: Iterable[ServerSpec]) -> list[Peer]:
    """Make one peer for each address of each server."""
    return [
        Peer(spec, family, sockaddr, name)
        for spec in specs
        for family, sockaddr, name in spec.addrs
    ]


class SingleSelection:
    """The way to the only peer there is: no failures are counted, and one try is all there is.

    Nothing in it is a session's own, so all sessions of a tier have the same one.
    """

    __slots__ = ("tier", "peer", "tries")

    method: ClassVar[str] = "rr"

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.peer = tier.peers[0]
        self.tries = 0  # after the first, which nobody has to ask for

    def get(self) -> Peer:
        """Take the peer. Raises: NoLivePeers when it is down or full"""
        peer = self.peer
        state = peer.state
        if state.status and not usable(self.tier.choices, 0, FORGIVEN_MS):
            raise errors.NoLivePeers
        state.conns += 1
        return peer

    def get_once(self) -> Peer:
        """Take the peer for what begins and ends at once. Raises: as get"""
        peer = self.get()
        peer.state.conns -= 1
        return peer

    def foresee(self) -> list[Peer]:
        """Return what get() would take now; nothing changes."""
        usable_now = not self.peer.state.status or usable(self.tier.choices, 0, FORGIVEN_MS)
        return [self.peer] if usable_now else []

    def free(self, peer: Peer, failed: bool, attempt: UpstreamState | None = None) -> None:
        """Give the peer back; there is no other to try."""
        state = peer.state
        state.conns -= 1
        if state.fails:  # there were more servers once
            state.forgive()

    def leave(self, peer: Peer) -> None:
        """Give the peer back for a session that goes on elsewhere."""
        peer.state.hold(-1)

    def notify(self, peer: Peer, event: int) -> None:
        """Nothing is counted here."""

    def fail(self, peer: Peer) -> None:
        """Nor here."""


class RoundRobinSelection:
    """The way of a session through a group; other methods choose by another `pick`.

    Source: ngx_stream_upstream_rr_peer_data_t and the functions that take it
    """

    __slots__ = ("s", "tier", "tried", "tries")

    method: ClassVar[str] = "rr"
    learns: ClassVar[bool] = False  # whether successes change more than counts
    weighs: ClassVar[bool] = False  # whether the method chooses by sessions

    def __init__(self, tier: Tier, s: Session) -> None:
        self.s = s
        self.tier = tier
        self.tried = 0  # bit i: peer i of the tier was chosen
        self.tries = tier.tries

    def get(self) -> Peer:
        """Choose a peer and count the session on it. Raises: NoLivePeers

        Source: ngx_stream_upstream_get_round_robin_peer
        """
        now = self.s.loop.now_ms
        now -= now % 1000
        while True:
            peer = self.pick(usable(self.tier.choices, self.tried, now), now)
            if peer is not None:
                peer.state.conns += 1
                return peer
            backup = self.tier.backup
            if backup is None:
                raise errors.NoLivePeers
            self.tier = backup
            self.tried = 0

    def get_once(self) -> Peer:
        """Choose a peer for what begins and ends well at once. Raises: NoLivePeers"""
        peer = self.get()
        state = peer.state
        state.conns -= 1
        if state.fails:
            state.succeed()
        return peer

    def foresee(self) -> list[Peer]:
        """Return what get() would choose now, more than one where chance decides among them.

        Nothing changes but this selection, which is of no use afterwards.
        """
        now = self.s.loop.now_ms
        now -= now % 1000
        while True:
            peers = self.foresee_pick(usable(self.tier.choices, self.tried, now), now)
            backup = self.tier.backup
            if peers or backup is None:
                return peers
            self.tier = backup
            self.tried = 0

    def foresee_pick(self, choices: Sequence[Choice], now: int) -> list[Peer]:
        """Return what pick() would choose among usable peers."""
        return self.foresee_turn(choices)

    def foresee_turn(self, choices: Iterable[Choice]) -> list[Peer]:
        """Return what take_turn() would choose."""
        best: Peer | None = None
        best_weight = 0
        for _, peer, state in choices:
            weight = state.current_weight + state.effective_weight
            if best is None or weight > best_weight:
                best = peer
                best_weight = weight
        return [] if best is None else [best]

    def foresee_least(self, choices: Sequence[Choice], loads: list[float]) -> list[Peer]:
        """Return what take_least() would choose."""
        least = min(loads, default=0)
        return self.foresee_turn([
            choice for choice, load in zip(choices, loads, strict=True) if load == least
        ])

    def take_turn(self, choices: Sequence[Choice], now: int) -> Peer | None:
        """Choose by turns among usable peers, and mark the choice as tried; None: there are none.

        Args: choices: what usable() returned; now: in milliseconds, whole seconds
        Source: ngx_stream_upstream_get_peer
        """
        best = None
        best_weight = total = 0
        for choice in choices:
            _, peer, state = choice
            effective = state.effective_weight
            weight = state.current_weight = state.current_weight + effective
            total += effective
            if effective < peer.weight:
                state.effective_weight = effective + 1
            if best is None or weight > best_weight:
                best = choice
                best_weight = weight
        if best is None:
            return None
        best[2].current_weight = best_weight - total
        return self.take((best,), now)

    pick = take_turn  # hot: one call less than one that calls it

    def take_least(self, choices: Sequence[Choice], loads: list[float], now: int) -> Peer | None:
        """Choose the peer with the least load, equals by turns; None when there are none.

        Args: loads: of the choices, each divided by the peer's weight
        Source: ngx_stream_upstream_get_least_conn_peer
        """
        if not loads:
            return None
        # nginx multiplies crosswise: the same, as long as the products are below 2 ** 53
        least = min(loads)
        equals = loads.count(least)
        if equals == 1:
            return self.take((choices[loads.index(least)],), now)
        if equals < len(loads):
            choices = [choice for choice, load in zip(choices, loads, strict=True) if load == least]
        return self.take_turn(choices, now)

    def take(self, choices: Sequence[Choice], now: int) -> Peer:
        """Choose the first of some usable peers, and mark it as tried.

        If it was left alone for long enough, it is checked by this try.
        """
        bit, peer, state = choices[0]
        self.tried |= bit
        if now - state.checked_ms > peer.fail_timeout * 1000:
            state.checked_ms = now
        return peer

    def free(self, peer: Peer, failed: bool, attempt: UpstreamState | None = None) -> None:
        """Give a peer back. Source: ngx_stream_upstream_free_round_robin_peer"""
        state = peer.state
        if failed:
            self.fail(peer)
        elif state.fails:
            state.succeed()
        state.conns -= 1
        if self.tries:
            self.tries -= 1

    def leave(self, peer: Peer) -> None:
        """Give a peer back for a session that goes on elsewhere: nothing is learnt from it."""
        peer.state.hold(-1)

    def fail(self, peer: Peer) -> None:
        """Count a failure against a peer, which may disable it for a while."""
        now = self.s.loop.now_ms
        state = peer.state
        fails = state.fail(now - now % 1000)
        max_fails = peer.max_fails
        if max_fails:
            left = state.effective_weight - peer.weight // max_fails
            state.effective_weight = max(left, 0)
            if fails >= max_fails:
                state.lose(now)
                self.s.log_error(log.WARN, "upstream server temporarily disabled")

    def notify(self, peer: Peer, event: int) -> None:
        """Forget the failures of a peer whose probe connected.

        Source: ngx_stream_upstream_notify_round_robin_peer
        """
        if event == upstream.CONNECT and peer.state.fails and not self.s.c.is_udp:
            peer.state.succeed()


class Locked(RoundRobinSelection):
    """What a selection over peers in shared memory adds: its steps hold the zone's lock.

    Goes in front of the selection class of a method. `hold` takes the lock itself: not reentrant.
    """

    __slots__ = ()

    def get(self) -> Peer:
        """Choose under the lock."""
        with self.tier.lock:
            return super().get()

    def foresee(self) -> list[Peer]:
        """Foresee under the lock."""
        with self.tier.lock:
            return super().foresee()

    def get_once(self) -> Peer:
        """Choose for what begins and ends at once: in one go, for `hold` would be another lock."""
        with self.tier.lock:
            peer = super().get()
            state = peer.state
            state.conns -= 1
            if state.fails:
                state.succeed()
            return peer

    def free(self, peer: Peer, failed: bool, attempt: UpstreamState | None = None) -> None:
        """Give back, under the lock if more than a count changes."""
        state = peer.state
        status = state.status
        if failed or self.learns or status & FAILED:
            with self.tier.lock:
                super().free(peer, failed, attempt)
            return
        if status or self.weighs:
            state.hold(-1)
        else:
            state.end_later(self.s.loop)
        if self.tries:
            self.tries -= 1

    def notify(self, peer: Peer, event: int) -> None:
        """Take notice, under the lock if anything may change."""
        if self.learns or peer.state.fails:
            with self.tier.lock:
                super().notify(peer, event)


class LockedSingleSelection(SingleSelection):
    """The only peer, in shared memory."""

    __slots__ = ()

    def get(self) -> Peer:
        """Take the peer, under the lock if it may be unusable. Raises: NoLivePeers"""
        state = self.peer.state
        if state.status:
            with self.tier.lock:
                return super().get()
        state.hold(1)
        return self.peer

    def get_once(self) -> Peer:
        """Take the only peer; where nothing speaks against it, nobody counts. Raises: as get"""
        state = self.peer.state
        if state.status:
            with self.tier.lock:
                super().get()
                state.conns -= 1
        return self.peer

    def free(self, peer: Peer, failed: bool, attempt: UpstreamState | None = None) -> None:
        """Give the peer back."""
        if peer.state.fails:
            with self.tier.lock:
                super().free(peer, failed, attempt)
        else:
            peer.state.hold(-1)


class RoundRobin:
    """Plain round robin, and the base of every balancing method.

    A method gives its class of selections and may prepare what it needs for a tier.
    """

    __slots__ = (
        "tier",
        "by_agent",  # bool: whether agents say what part of its weight a server has
        "select",  # called with a session: begins a selection
    )

    plain: ClassVar[type[RoundRobinSelection]] = RoundRobinSelection
    locked: ClassVar[type[RoundRobinSelection]] = Locked  # the same over peers in shared memory
    most_weight: ClassVar[int] = 65_535  # that a server may be given at run time; as in SRV records

    def __init_subclass__(cls) -> None:
        """Make the class of selections under the lock, where there is none."""
        if "locked" not in vars(cls):
            name = f"Locked{cls.plain.__name__}"
            cls.locked = type(name, (Locked, cls.plain), {"__slots__": ()})

    def __init__(self, tier: Tier) -> None:
        self.by_agent = False
        self.use(tier)

    @classmethod
    def make(cls, conf: UpstreamConf) -> Balancer:
        """Make the balancer of a complete upstream. Raises: ConfError"""
        return cls(make_tier(conf))

    def use(self, tier: Tier) -> None:
        """Balance over these peers from now on; sessions under way go on with theirs.

        Source: ngx_stream_upstream_init_round_robin_peer, for what `select` is
        """
        level: Tier | None = tier
        while level is not None:
            self.prepare(level)
            level = level.backup
        self.tier = tier
        self.select: Callable[[Session], Selection]
        if tier.single:
            single = _single(tier)
            self.select = lambda s: single
        else:
            self.select = functools.partial(self.selections(tier), tier)

    def selections(self, tier: Tier) -> type[RoundRobinSelection]:
        """Return the class of selections for a tier that is prepared."""
        chosen = self.plain if tier.lock is NO_LOCK else self.locked
        return slow_start.fitted(chosen, tier, by_agent=self.by_agent)

    def weigh_by_agents(self) -> None:
        """Have agents say what part of its weight a server has, where the method can do that."""
        self.by_agent = True
        self.use(self.tier)

    def prepare(self, tier: Tier) -> None:
        """Put what the method knows of a tier into `tier.aid`; called for the backups too."""

    def resumes(self, tier: Tier) -> type[RoundRobinSelection]:
        """Return the class of selections that were another process's."""
        return RoundRobinSelection if tier.lock is NO_LOCK else Locked

    def resume(self, s: Session, name: str) -> tuple[Selection, Peer] | None:
        """Take up a session that another process had on the peer of an address.

        Returns: its selection and the peer, the session counted on it; None for no such peer.
        """
        tier: Tier | None = self.tier
        while tier is not None:
            for bit, peer, state in tier.choices:
                if peer.name == name:
                    state.hold(1)
                    if tier.single:
                        return _single(tier), peer
                    selection = self.resumes(tier)(tier, s)
                    selection.tried = bit
                    return selection, peer
            tier = tier.backup
        return None


def _single(tier: Tier) -> SingleSelection:
    return SingleSelection(tier) if tier.lock is NO_LOCK else LockedSingleSelection(tier)
