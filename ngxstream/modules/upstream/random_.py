"""random: a server drawn by weight, or the less busy of two drawn.

Answers for ngx_stream_upstream_random_module.c.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors
from ngxstream.stream import drawing, round_robin, upstream, upstream_block
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.round_robin import Choice, Tier
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer

MAY: Final = upstream.MAY_ALL & ~upstream.MAY_BACKUP & ~upstream.MAY_SLOW_START


class RandomSelection(drawing.DrawSelection):
    """Draw by weight among all peers. Source: ngx_stream_upstream_get_random_peer"""

    __slots__ = ()

    method = "random"

    def __init__(self, tier: Tier, s: Session) -> None:
        super().__init__(tier, s)
        self.misses = 0

    def foresee(self) -> list[Peer]:
        """Return all that may be drawn."""
        now = self.s.loop.now_ms
        now -= now % 1000
        return [peer for _, peer, _ in round_robin.usable(self.tier.choices, self.tried, now)]

    def draw(self) -> Sequence[Choice]:
        """Draw a peer."""
        tier = self.tier
        shares: drawing.Shares = tier.aid
        return shares.groups[bisect_right(shares.sums, random.random() * tier.total_weight)]


class TwoSelection(RandomSelection):
    """Take the less busy of two usable peers. Source: ngx_stream_upstream_get_random2_peer"""

    __slots__ = ("first",)

    method = "random2"
    weighs = True

    def __init__(self, tier: Tier, s: Session) -> None:
        super().__init__(tier, s)
        self.first: Choice | None = None

    def settle(self, drawn: Sequence[Choice], now: int) -> Peer | None:
        """Keep the first one drawn, take the better one with the second."""
        (choice,) = drawn
        first = self.first
        if first is None or first is choice:
            self.first = choice
            return None  # nginx counts it as a draw that led to nothing
        self.first = None
        _, peer, state = choice
        if state.conns * first[1].weight > first[2].conns * peer.weight:
            drawn = (first,)
        return self.take(drawn, now)


class Random(round_robin.RoundRobin):
    """The balancer. Source: ngx_stream_upstream_init_random"""

    __slots__ = ()

    plain = RandomSelection

    def prepare(self, tier: Tier) -> None:
        """Find the peers' shares. Source: ngx_stream_upstream_update_random"""
        tier.aid = drawing.Shares(tier)


class RandomTwo(Random):
    """The balancer that draws two."""

    __slots__ = ()

    plain = TwoSelection


def _random(scope: Scope, module: Module, st: Statement) -> None:
    upstream_block.set_method(scope, MAY, (RandomTwo if "two" in st.args[:1] else Random).make)
    for arg, known in zip(st.args, ("two", "least_conn"), strict=False):
        if arg != known:
            raise errors.ConfError(f'invalid parameter "{arg}"')


MODULE = StreamModule(
    name="random",
    directives=(
        Directive("random", UPSTREAM, d.TAKE012, _random,
                  "Balance at random, weights taken into account; `two` draws two servers and "
                  "takes the one with fewer sessions."),
    ),
)
