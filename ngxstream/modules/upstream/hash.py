"""hash: the same key to the same server, by Cache::Memcached's rule or by a ketama ring.

Answers for ngx_stream_upstream_hash_module.c.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final
from zlib import crc32

from ngxstream.conf import directive as d
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors, hashing
from ngxstream.stream import drawing, round_robin, upstream, upstream_block, values
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.round_robin import Choice, Tier
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue

MAY: Final = upstream.MAY_ALL & ~upstream.MAY_BACKUP


class Weights(drawing.Shares):
    """The weights of a tier, for the plain hash."""

    __slots__ = ("key",)

    def __init__(self, key: ComplexValue, tier: Tier) -> None:
        self.key = key
        super().__init__(tier)


class Ring:
    """The ring of a tier, for the consistent hash.

    points are 32-bit and sorted; groups[i] are the peers that own points[i]: those whose server
    lines have the same text. Of equal points the first in the configuration stays.
    Source: ngx_stream_upstream_update_chash
    """

    __slots__ = ("key", "points", "groups")

    def __init__(self, key: ComplexValue, tier: Tier) -> None:
        self.key = key
        members: dict[str, list[Choice]] = {}
        owners: dict[int, list[Choice]] = {}
        for choice in tier.choices:
            peer = choice[1]
            group = members.setdefault(peer.server, [])
            group.append(choice)
            for point in hashing.ketama_points(peer.server, peer.weight):
                owners.setdefault(point, group)
        self.points = sorted(owners)
        self.groups = [owners[point] for point in self.points]


class HashSelection(drawing.DrawSelection):
    """Hash again while the peer is not usable. Source: ngx_stream_upstream_get_hash_peer"""

    __slots__ = ("key", "hash", "rehash")

    method = "hash"

    def __init__(self, tier: Tier, s: Session) -> None:
        super().__init__(tier, s)
        self.key: bytes = tier.aid.key.get(s)
        self.misses = 0 if self.key else drawing.MISSES + 1
        self.hash = 0
        self.rehash = 0

    def draw(self) -> Sequence[Choice]:
        """Find the peer by the key."""
        tier = self.tier
        weights: Weights = tier.aid
        self.hash += hashing.plain_hash(self.key, self.rehash)
        self.rehash += 1
        return weights.groups[bisect_right(weights.sums, self.hash % tier.total_weight)]


class ConsistentSelection(drawing.DrawSelection):
    """Walk the ring to a usable peer. Source: ngx_stream_upstream_get_chash_peer"""

    __slots__ = ("place",)

    method = "consistent hash"
    least = 1
    settle = round_robin.RoundRobinSelection.take_turn

    def __init__(self, tier: Tier, s: Session) -> None:
        super().__init__(tier, s)
        ring: Ring = tier.aid
        key = ring.key.get(s)
        self.place = bisect_left(ring.points, crc32(key))
        self.misses = 0 if key else drawing.MISSES + 1

    def draw(self) -> Sequence[Choice]:
        """Return the peers of the key's point, or of as many points further on as were misses."""
        groups: list[list[Choice]] = self.tier.aid.groups
        return groups[(self.place + self.misses) % len(groups)]


class Hash(round_robin.RoundRobin):
    """The balancer of `hash KEY`. Source: ngx_stream_upstream_init_hash"""

    __slots__ = ("key",)

    plain: ClassVar[type[round_robin.RoundRobinSelection]] = HashSelection

    def __init__(self, key: ComplexValue, tier: Tier) -> None:
        self.key = key
        super().__init__(tier)

    def prepare(self, tier: Tier) -> None:
        """Sum the weights up."""
        tier.aid = Weights(self.key, tier)


class ConsistentHash(Hash):
    """The balancer of `hash KEY consistent`. Source: ngx_stream_upstream_init_chash"""

    __slots__ = ()

    plain = ConsistentSelection

    def prepare(self, tier: Tier) -> None:
        """Lay the points out on the ring."""
        tier.aid = Ring(self.key, tier)


def _hash(scope: Scope, module: Module, st: Statement) -> None:
    key = values.compile_value(st.args[0], scope.builder.data["stream"].variables)
    method = Hash if len(st.args) == 1 else ConsistentHash
    upstream_block.set_method(scope, MAY, lambda conf: method(key, round_robin.make_tier(conf)))
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
