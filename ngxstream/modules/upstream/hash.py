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
    from ngxstream.stream.upstream import Peer
    from ngxstream.stream.values import ComplexValue

MAY: Final = upstream.MAY_ALL & ~upstream.MAY_BACKUP & ~upstream.MAY_SLOW_START


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

    __slots__ = (
        "key",
        "lines",  # list of (server, weight): what the points depend on
        "known",  # dict[(server, weight), list[int]]: their points, in the order of making
        "owners",  # list[str]: of points[i], the text of the server lines
        "points",
        "groups",
    )

    known: dict[tuple[str, int], list[int]]
    owners: list[str]
    points: list[int]

    def __init__(self, key: ComplexValue, tier: Tier, former: Ring | None = None) -> None:
        """Args: former: the ring before, of which what still holds is taken"""
        self.key = key
        members: dict[str, list[Choice]] = {}
        for choice in tier.choices:
            members.setdefault(choice[1].server, []).append(choice)
        self.lines = [(peer.server, peer.weight) for peer in tier.peers]
        if former is not None and former.lines == self.lines:
            self.known, self.points, self.owners = former.known, former.points, former.owners
        else:
            self._lay_out({} if former is None else former.known)
        self.groups = [members[server] for server in self.owners]

    def _lay_out(self, known: dict[tuple[str, int], list[int]]) -> None:
        self.known = {}
        owners: dict[int, str] = {}
        for line in self.lines:
            points = self.known.get(line) or known.get(line) or hashing.ketama_points(*line)
            self.known[line] = points
            for point in points:
                owners.setdefault(point, line[0])
        self.points = sorted(owners)
        self.owners = [owners[point] for point in self.points]


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

    def foresee_settle(self, drawn: Sequence[Choice]) -> list[Peer]:
        """Return whose turn it is."""
        return self.foresee_turn(drawn)


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
    most_weight = 100  # 16 000 points, some 15 ms

    def prepare(self, tier: Tier) -> None:
        """Lay the points out on the ring."""
        former: Tier | None = getattr(self, "tier", None)
        tier.aid = Ring(self.key, tier, None if former is None else former.aid)


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
                  "keys when servers come and go."),
    ),
)
