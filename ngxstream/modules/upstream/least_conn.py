"""least_conn: the server with the fewest sessions for its weight.

Answers for ngx_stream_upstream_least_conn_module.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.conf import directive as d
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.stream import round_robin, upstream, upstream_block
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.upstream import Peer, UpstreamConf


class LeastConnSelection(round_robin.RoundRobinSelection):
    """Choose by sessions per weight; round robin among equals."""

    __slots__ = ()

    def pick(self, now: int) -> Peer | None:
        """Choose among the peers of this tier. source: ngx_stream_upstream_get_least_conn_peer"""
        tried = self.tried
        best: Peer | None = None
        least = weight = 0
        equals: list[tuple[int, Peer]] = []
        bit = 1
        for peer in self.tier.peers:
            if not tried & bit and round_robin.is_eligible(peer, now):
                conns = peer.conns
                mine, theirs = conns * weight, least * peer.weight
                if best is None or mine < theirs:
                    best, least, weight = peer, conns, peer.weight
                    equals = [(bit, peer)]
                elif mine == theirs:
                    equals.append((bit, peer))
            bit <<= 1
        if len(equals) > 1:
            return self.take_turn(equals, now)
        if best is not None:
            self.take(best, equals[0][0], now)
        return best


class LockedLeastConnSelection(round_robin.Locked, LeastConnSelection):
    """least_conn over peers in shared memory."""

    __slots__ = ()


class LeastConn(round_robin.RoundRobin):
    """The balancer. source: ngx_stream_upstream_init_least_conn"""

    __slots__ = ()

    plain = LeastConnSelection
    locked = LockedLeastConnSelection


def make(conf: UpstreamConf) -> LeastConn:
    """Make the balancer of a complete upstream. raises: ConfError"""
    return LeastConn(round_robin.make_tier(conf))


def _least_conn(scope: Scope, module: Module, st: Statement) -> None:
    upstream_block.set_method(scope, upstream.MAY_ALL, make)


MODULE = StreamModule(
    name="least_conn",
    directives=(
        Directive("least_conn", UPSTREAM, d.NOARGS, _least_conn,
                  "Balance by the fewest sessions, weights taken into account.", syntax=""),
    ),
)
