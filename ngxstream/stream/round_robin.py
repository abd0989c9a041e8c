"""Smooth weighted round robin, the accounting of failures, and what every balancer builds on.

Answers for ngx_stream_upstream_round_robin.c.

1. A tier (the primaries, or the backups) never changes its members: a change of membership is a
   new tier, and a session that began on the old one ends on it.
2. Times are whole seconds, as in nginx, kept as milliseconds with the rest cut off.
3. A peer is tried once per session and tier; the tried ones are bits of an int.
4. A tier of one address without a backup is `single`: it is never disabled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from ngxstream.core import errors, log
from ngxstream.stream import upstream
from ngxstream.stream.upstream import Peer, ServerSpec, UpstreamConf

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Selection, UpstreamState


class Tier:
    """The peers that are chosen among at one time. source: ngx_stream_upstream_rr_peers_t"""

    __slots__ = (
        "name",  # str: of the upstream
        "peers",  # tuple[Peer, ...] in the order of the configuration
        "number",
        "total_weight",
        "single",  # bool: one peer, and no backup
        "tries",  # int: peers of this tier and its backups that are not down
        "backup",  # Tier | None
        "lock",  # context manager that guards the peers of a zone, or None
        "aid",  # what the balancing method keeps for this tier
    )

    def __init__(
        self,
        name: str,
        peers: Iterable[Peer],
        backup: Tier | None = None,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.name = name
        self.peers = tuple(peers)
        self.number = len(self.peers)
        self.total_weight = sum(peer.weight for peer in self.peers)
        self.backup = backup
        self.lock = lock
        self.aid: Any = None
        self.single = self.number == 1 and backup is None
        live = sum(not peer.down for peer in self.peers)
        self.tries: int = live if backup is None else live + backup.tries


def make_tier(conf: UpstreamConf) -> Tier:
    """Make the peers of a complete upstream.

    raises: UnplacedError `no servers in upstream "…" in FILE:LINE` when all of them are backups
    source: ngx_stream_upstream_init_round_robin
    """
    primaries = make_peers(spec for spec in conf.servers if not spec.backup)
    if not primaries and not any(spec.resolve and not spec.backup for spec in conf.servers):
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

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.peer = tier.peers[0]
        self.tries = 0  # after the first, which nobody has to ask for

    def begin(self, s: Session, tier: Tier) -> SingleSelection:
        """Begin a selection: see RoundRobin.begin"""
        return self

    def get(self) -> Peer:
        """Take the peer. raises: NoLivePeers when it is down or full"""
        peer = self.peer
        if peer.down or 0 < peer.max_conns <= peer.conns:
            raise errors.NoLivePeers
        peer.conns += 1
        return peer

    def get_once(self) -> Peer:
        """Take the peer for what begins and ends at once. raises: as get"""
        peer = self.get()
        peer.conns -= 1
        return peer

    def free(self, peer: Peer, failed: bool, state: UpstreamState | None = None) -> None:
        """Give the peer back; there is no other to try."""
        peer.conns -= 1
        if peer.fails:  # there were more servers once
            peer.fails = 0

    def leave(self, peer: Peer) -> None:
        """Give the peer back for a session that goes on elsewhere."""
        peer.hold(-1)

    def notify(self, peer: Peer, event: int) -> None:
        """Nothing is counted here."""


class RoundRobinSelection:
    """The way of a session through a group; other methods replace `pick`.

    source: ngx_stream_upstream_rr_peer_data_t and the functions that take it
    """

    __slots__ = ("s", "tier", "tried", "tries")

    def __init__(self, s: Session, tier: Tier) -> None:
        self.s = s
        self.tier = tier
        self.tried = 0  # bit i: peer i of the tier was chosen
        self.tries = tier.tries

    def get(self) -> Peer:
        """Choose a peer and count the session on it. raises: NoLivePeers

        source: ngx_stream_upstream_get_round_robin_peer
        """
        now = self.s.loop.now_ms
        now -= now % 1000
        while True:
            peer = self.pick(now)
            if peer is not None:
                peer.conns += 1
                return peer
            backup = self.tier.backup
            if backup is None:
                raise errors.NoLivePeers
            self.tier = backup
            self.tried = 0

    def get_once(self) -> Peer:
        """Choose a peer for what begins and ends at once. raises: NoLivePeers"""
        peer = self.get()
        peer.conns -= 1
        return peer

    def pick(self, now: int) -> Peer | None:
        """Choose among the peers of this tier, and mark the choice as tried.

        shape: now is in milliseconds, whole seconds
        source: ngx_stream_upstream_get_peer
        """
        tried = self.tried
        best = None
        best_bit = best_weight = total = 0
        bit = 1
        for peer in self.tier.peers:
            if not (
                tried & bit
                or peer.down
                or (
                    peer.fails >= peer.max_fails > 0
                    and now - peer.checked_ms <= peer.fail_timeout * 1000
                )
                or 0 < peer.max_conns <= peer.conns
            ):
                effective = peer.effective_weight
                weight = peer.current_weight = peer.current_weight + effective
                total += effective
                if effective < peer.weight:
                    peer.effective_weight = effective + 1
                if best is None or weight > best_weight:
                    best = peer
                    best_bit = bit
                    best_weight = weight
            bit <<= 1
        if best is None:
            return None
        self.tried = tried | best_bit
        best.current_weight = best_weight - total
        if now - best.checked_ms > best.fail_timeout * 1000:
            best.checked_ms = now
        return best

    def take_turn(self, usable: Iterable[tuple[int, Peer]], now: int) -> Peer | None:
        """Choose among some peers that may be chosen, by turns, and mark the choice as tried.

        shape: usable is (bit, peer) in the order of the configuration; None when there are none
        """
        best = None
        best_bit = best_weight = total = 0
        for bit, peer in usable:
            effective = peer.effective_weight
            weight = peer.current_weight = peer.current_weight + effective
            total += effective
            if effective < peer.weight:
                peer.effective_weight = effective + 1
            if best is None or weight > best_weight:
                best = peer
                best_bit = bit
                best_weight = weight
        if best is not None:
            best.current_weight = best_weight - total
            self.take(best, best_bit, now)
        return best

    def take(self, peer: Peer, bit: int, now: int) -> None:
        """Mark a peer as tried; one that was left alone for long enough is checked by this try."""
        self.tried |= bit
        if now - peer.checked_ms > peer.fail_timeout * 1000:
            peer.checked_ms = now

    def free(self, peer: Peer, failed: bool, state: UpstreamState | None = None) -> None:
        """Give a peer back. source: ngx_stream_upstream_free_round_robin_peer"""
        if failed:
            self.fail(peer)
        elif peer.fails and peer.accessed_ms < peer.checked_ms:
            peer.fails = 0
        peer.conns -= 1
        if self.tries:
            self.tries -= 1

    def leave(self, peer: Peer) -> None:
        """Give a peer back for a session that goes on elsewhere: nothing is learnt from it."""
        peer.hold(-1)

    def fail(self, peer: Peer) -> None:
        """Count a failure against a peer, which may disable it for a while."""
        now = self.s.loop.now_ms
        now -= now % 1000
        fails = peer.fails = peer.fails + 1
        peer.accessed_ms = peer.checked_ms = now
        max_fails = peer.max_fails
        if max_fails:
            left = peer.effective_weight - peer.weight // max_fails
            peer.effective_weight = max(left, 0)
            if fails >= max_fails:
                self.s.log_error(log.WARN, "upstream server temporarily disabled")

    def notify(self, peer: Peer, event: int) -> None:
        """Forget the failures of a peer whose probe connected.

        source: ngx_stream_upstream_notify_round_robin_peer
        """
        if (
            event == upstream.CONNECT
            and peer.fails
            and peer.accessed_ms < peer.checked_ms
            and not self.s.c.is_udp
        ):
            peer.fails = 0


def is_eligible(peer: Peer, now: int) -> bool:
    """Tell whether a peer may be chosen at all (tried ones are the caller's business)."""
    return not (
        peer.down
        or (
            peer.fails >= peer.max_fails > 0
            and now - peer.checked_ms <= peer.fail_timeout * 1000
        )
        or 0 < peer.max_conns <= peer.conns
    )


class Locked:
    """What a selection over peers in shared memory adds: its steps hold the zone's lock.

    Goes in front of the selection class of a method. `hold` takes the lock itself: not reentrant.
    """

    __slots__ = ()

    learns: ClassVar[bool] = False  # whether successes change more than counts

    def get(self) -> Peer:
        """Choose under the lock."""
        with self.tier.lock:  # type: ignore[attr-defined]
            peer: Peer = super().get()  # type: ignore[misc]
            return peer

    def get_once(self) -> Peer:
        """Choose for what begins and ends at once: in one go, for `hold` would be another lock."""
        with self.tier.lock:  # type: ignore[attr-defined]
            peer: Peer = super().get()  # type: ignore[misc]
            peer.conns -= 1
            return peer

    def free(self, peer: Peer, failed: bool, state: UpstreamState | None = None) -> None:
        """Give back, under the lock if more than a count changes."""
        if failed or self.learns or peer.fails:
            with self.tier.lock:  # type: ignore[attr-defined]
                super().free(peer, failed, state)  # type: ignore[misc]
        else:
            peer.hold(-1)
            if self.tries:  # type: ignore[attr-defined]
                self.tries -= 1  # type: ignore[attr-defined]

    def notify(self, peer: Peer, event: int) -> None:
        """Take notice, under the lock if anything may change."""
        if self.learns or peer.fails:
            with self.tier.lock:  # type: ignore[attr-defined]
                super().notify(peer, event)  # type: ignore[misc]


class LockedSingleSelection(Locked, SingleSelection):
    """The only peer, in shared memory."""

    __slots__ = ()

    def get(self) -> Peer:
        """Take the peer, under the lock if it can be full. raises: NoLivePeers"""
        peer = self.peer
        if peer.max_conns or peer.down:
            return super().get()
        peer.hold(1)
        return peer

    def get_once(self) -> Peer:
        """Take the only peer; where it cannot be full, nobody counts. raises: NoLivePeers"""
        peer = self.peer
        if peer.max_conns or peer.down:
            return super().get_once()
        return peer


def _single(tier: Tier) -> SingleSelection:
    return SingleSelection(tier) if tier.lock is None else LockedSingleSelection(tier)


class LockedRoundRobinSelection(Locked, RoundRobinSelection):
    """Round robin over peers in shared memory."""

    __slots__ = ()


class RoundRobin:
    """Plain round robin, and the base of every balancing method.

    A method gives its two classes of selections and may prepare what it needs for a tier.
    """

    __slots__ = ("tier", "begin")

    plain: ClassVar[type[Any]] = RoundRobinSelection
    locked: ClassVar[type[Any]] = LockedRoundRobinSelection

    def __init__(self, tier: Tier) -> None:
        self.use(tier)

    def use(self, tier: Tier) -> None:
        """Balance over these peers from now on; sessions under way go on with theirs."""
        level: Tier | None = tier
        while level is not None:
            self.prepare(level)
            level = level.backup
        self.tier = tier
        self.begin: Callable[[Session, Tier], Any]
        if tier.single:
            self.begin = _single(tier).begin
        else:
            self.begin = self.plain if tier.lock is None else self.locked

    def prepare(self, tier: Tier) -> None:
        """Put what the method knows of a tier into `tier.aid`; called for the backups too."""

    def resume(self, s: Session, name: str) -> tuple[Selection, Peer] | None:
        """Take up a session that another process had on the peer of an address.

        returns: its selection and the peer, the session counted on it; None for no such peer
        """
        tier: Tier | None = self.tier
        while tier is not None:
            for n, peer in enumerate(tier.peers):
                if peer.name == name:
                    selection: Any
                    if tier.single:
                        selection = _single(tier)
                    else:
                        plain = (
                            RoundRobinSelection if tier.lock is None else LockedRoundRobinSelection
                        )
                        selection = plain(s, tier)
                        selection.tried = 1 << n
                    peer.hold(1)
                    return selection, peer
            tier = tier.backup
        return None

    def select(self, s: Session) -> Selection:
        """Begin a selection. source: ngx_stream_upstream_init_round_robin_peer"""
        selection: Selection = self.begin(s, self.tier)
        return selection
