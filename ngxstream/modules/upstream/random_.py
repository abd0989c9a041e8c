"""random: a server drawn by weight, or the less busy of two drawn.

Answers for ngx_stream_upstream_random_module.c.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from random import random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors
from ngxstream.stream import round_robin, upstream, upstream_block
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.round_robin import Tier
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer, UpstreamConf

MISSES: Final = 20  # draws that may hit an unusable peer before round robin takes over
MAY: Final = upstream.MAY_ALL & ~upstream.MAY_BACKUP


class RandomSelection(round_robin.RoundRobinSelection):
    """Draw by weight, all peers being in the lot; an unusable one means another draw."""

    __slots__ = ("misses",)

    def __init__(self, s: Session, tier: Tier) -> None:
        super().__init__(s, tier)
        self.misses = 0

    def get(self) -> Peer:
        """Draw a peer and count the session on it. raises: NoLivePeers

        source: ngx_stream_upstream_get_random_peer
        """
        tier = self.tier
        if self.misses > MISSES or tier.number < 2:
            return super().get()
        now = self.s.loop.now_ms
        now -= now % 1000
        bit = self.draw(now)
        if not bit:
            return super().get()
        peer = tier.peers[bit.bit_length() - 1]
        self.take(peer, bit, now)
        peer.conns += 1
        return peer

    def draw(self, now: int) -> int:
        """Return the bit of a usable peer, 0 once there were too many misses."""
        tier = self.tier
        while True:
            i = bisect_right(tier.aid, random() * tier.total_weight)
            bit = 1 << i
            if not self.tried & bit and round_robin.is_eligible(tier.peers[i], now):
                return bit
            self.misses += 1
            if self.misses > MISSES:
                return 0


class TwoSelection(RandomSelection):
    """Draw until there are two different usable peers, and take the less busy one.

    source: ngx_stream_upstream_get_random2_peer
    """

    __slots__ = ()

    def draw(self, now: int) -> int:
        """Return the bit of the better of two usable peers, 0 once there were too many misses."""
        tier = self.tier
        first = first_bit = None
        while True:
            i = bisect_right(tier.aid, random() * tier.total_weight)
            bit = 1 << i
            peer = tier.peers[i]
            if (
                bit != first_bit
                and not self.tried & bit
                and round_robin.is_eligible(peer, now)
            ):
                if first is None or first_bit is None:
                    first, first_bit = peer, bit
                elif peer.conns * first.weight > first.conns * peer.weight:
                    return first_bit
                else:
                    return bit
                # nginx counts the first of the two as a draw that led to nothing as well
            self.misses += 1
            if self.misses > MISSES:
                return 0


class LockedRandomSelection(round_robin.Locked, RandomSelection):
    """random over peers in shared memory."""

    __slots__ = ()


class LockedTwoSelection(round_robin.Locked, TwoSelection):
    """random two over peers in shared memory."""

    __slots__ = ()


class Random(round_robin.RoundRobin):
    """The balancer. source: ngx_stream_upstream_init_random"""

    __slots__ = ()

    plain: ClassVar[type[Any]] = RandomSelection
    locked: ClassVar[type[Any]] = LockedRandomSelection

    def prepare(self, tier: Tier) -> None:
        """Find where one peer's share of the lot ends and the next one's begins.

        source: ngx_stream_upstream_update_random
        """
        tier.aid = tuple(itertools.accumulate(peer.weight for peer in tier.peers[:-1]))


class RandomTwo(Random):
    """The balancer that draws two."""

    __slots__ = ()

    plain = TwoSelection
    locked = LockedTwoSelection


def make(conf: UpstreamConf) -> Random:
    """Make the balancer of a complete upstream. raises: ConfError"""
    return Random(round_robin.make_tier(conf))


def make_two(conf: UpstreamConf) -> RandomTwo:
    """Make the balancer that draws two. raises: ConfError"""
    return RandomTwo(round_robin.make_tier(conf))


def _random(scope: Scope, module: Module, st: Statement) -> None:
    upstream_block.set_method(scope, MAY, make_two if "two" in st.args[:1] else make)
    for arg, known in zip(st.args, ("two", "least_conn"), strict=False):
        if arg != known:
            raise errors.ConfError(f'invalid parameter "{arg}"')


MODULE = StreamModule(
    name="random",
    directives=(
        Directive("random", UPSTREAM, d.TAKE012, _random,
                  "Balance by lot, weights taken into account; `two` draws two servers and takes "
                  "the one with fewer sessions.", syntax="[two [least_conn]]"),
    ),
)
