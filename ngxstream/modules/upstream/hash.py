"""hash: the same key to the same server, by Cache::Memcached's rule or by a ketama ring.

Answers for ngx_stream_upstream_hash_module.c.
"""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, ClassVar, Final
from zlib import crc32

from ngxstream.conf import directive as d
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors, hashing
from ngxstream.stream import round_robin, upstream, upstream_block, values
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.round_robin import Tier
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer, UpstreamConf
    from ngxstream.stream.values import ComplexValue

MISSES: Final = 20  # picks that may be refused before round robin takes over
MAY: Final = upstream.MAY_ALL & ~upstream.MAY_BACKUP


class Weights:
    """What the plain hash knows of a tier."""

    __slots__ = ("key", "sums")

    def __init__(self, key: ComplexValue, tier: Tier) -> None:
        self.key = key
        self.sums = tuple(itertools.accumulate(peer.weight for peer in tier.peers))


class Ring:
    """What the consistent hash knows of a tier.

    shape: points are 32-bit and sorted; groups[i] are the (bit, peer) that own points[i]: those
    whose server lines have the same text. Of equal points the first in the configuration stays.
    source: ngx_stream_upstream_update_chash
    """

    __slots__ = ("key", "points", "groups")

    def __init__(self, key: ComplexValue, tier: Tier) -> None:
        self.key = key
        members: dict[str, list[tuple[int, Peer]]] = {}
        owners: dict[int, list[tuple[int, Peer]]] = {}
        for i, peer in enumerate(tier.peers):
            group = members.setdefault(peer.server, [])
            group.append((1 << i, peer))
            for point in hashing.ketama_points(peer.server, peer.weight):
                owners.setdefault(point, group)
        self.points = sorted(owners)
        self.groups = [owners[point] for point in self.points]


class HashSelection(round_robin.RoundRobinSelection):
    """Hash the key; when the peer it points at is not usable, hash it again with a count.

    source: ngx_stream_upstream_get_hash_peer
    """

    __slots__ = ("key", "hash", "rehash", "misses")

    def __init__(self, s: Session, tier: Tier) -> None:
        super().__init__(s, tier)
        self.key: bytes = tier.aid.key.get(s)
        self.hash = 0
        self.rehash = 0
        self.misses = 0

    def get(self) -> Peer:
        """Choose by the key and count the session on the peer. raises: NoLivePeers"""
        tier = self.tier
        if not self.key or tier.number < 2 or self.misses > MISSES:
            return super().get()
        now = self.s.loop.now_ms
        now -= now % 1000
        while True:
            self.hash += hashing.plain_hash(self.key, self.rehash)
            self.rehash += 1
            i = bisect_right(tier.aid.sums, self.hash % tier.total_weight)
            peer = tier.peers[i]
            if not self.tried >> i & 1 and round_robin.is_eligible(peer, now):
                break
            self.misses += 1
            if self.misses > MISSES:
                return super().get()
        self.take(peer, 1 << i, now)
        peer.conns += 1
        return peer


class ConsistentSelection(round_robin.RoundRobinSelection):
    """Find the key's place on the ring, and go on from point to point until a peer is usable.

    source: ngx_stream_upstream_get_chash_peer
    """

    __slots__ = ("key", "place", "misses")

    def __init__(self, s: Session, tier: Tier) -> None:
        super().__init__(s, tier)
        ring: Ring = tier.aid
        self.key = ring.key.get(s)
        self.place = bisect_left(ring.points, crc32(self.key))
        self.misses = 0

    def get(self) -> Peer:
        """Choose by the key and count the session on the peer. raises: NoLivePeers"""
        groups = self.tier.aid.groups
        if not self.key or not groups or self.misses > MISSES:
            return super().get()
        now = self.s.loop.now_ms
        now -= now % 1000
        tried = self.tried
        while True:
            group = groups[self.place % len(groups)]
            usable = [
                (bit, peer)
                for bit, peer in group
                if not tried & bit and round_robin.is_eligible(peer, now)
            ]
            peer = self.take_turn(usable, now)
            if peer is not None:
                peer.conns += 1
                return peer
            self.place += 1
            self.misses += 1
            if self.misses > MISSES:
                return super().get()


class LockedHashSelection(round_robin.Locked, HashSelection):
    """hash over peers in shared memory."""

    __slots__ = ()


class LockedConsistentSelection(round_robin.Locked, ConsistentSelection):
    """hash consistent over peers in shared memory."""

    __slots__ = ()


class Hash(round_robin.RoundRobin):
    """The balancer of `hash KEY`. source: ngx_stream_upstream_init_hash"""

    __slots__ = ("key",)

    plain: ClassVar[type[Any]] = HashSelection
    locked: ClassVar[type[Any]] = LockedHashSelection

    def __init__(self, key: ComplexValue, tier: Tier) -> None:
        self.key = key
        super().__init__(tier)

    def prepare(self, tier: Tier) -> None:
        """Sum the weights up."""
        tier.aid = Weights(self.key, tier)


class ConsistentHash(Hash):
    """The balancer of `hash KEY consistent`. source: ngx_stream_upstream_init_chash"""

    __slots__ = ()

    plain = ConsistentSelection
    locked = LockedConsistentSelection

    def prepare(self, tier: Tier) -> None:
        """Lay the points out on the ring."""
        tier.aid = Ring(self.key, tier)


def make(key: ComplexValue, conf: UpstreamConf) -> Hash:
    """Make the balancer of a complete upstream. raises: ConfError"""
    return Hash(key, round_robin.make_tier(conf))


def make_consistent(key: ComplexValue, conf: UpstreamConf) -> ConsistentHash:
    """Make the consistent balancer of a complete upstream. raises: ConfError"""
    return ConsistentHash(key, round_robin.make_tier(conf))


def _hash(scope: Scope, module: Module, st: Statement) -> None:
    key = values.compile_value(st.args[0], scope.builder.data["stream"].variables)
    method = make if len(st.args) == 1 else make_consistent
    upstream_block.set_method(scope, MAY, functools.partial(method, key))
    if len(st.args) == 2 and st.args[1] != "consistent":
        raise errors.ConfError(f'invalid parameter "{st.args[1]}"')


MODULE = StreamModule(
    name="hash",
    directives=(
        Directive("hash", UPSTREAM, d.TAKE12, _hash,
                  "Balance by a key: the same key goes to the same server; `consistent` moves few "
                  "keys when servers come and go.", syntax="key [consistent]"),
    ),
)
