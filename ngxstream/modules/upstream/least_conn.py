"""least_conn: the server with the fewest sessions for its weight.

Answers for ngx_stream_upstream_least_conn_module.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ngxstream.conf import directive as d
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.stream import round_robin, steady, upstream, upstream_block
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.round_robin import Choice
    from ngxstream.stream.upstream import Peer


class LeastConnSelection(round_robin.RoundRobinSelection):
    """Choose by sessions per weight; round robin among equals."""

    __slots__ = ()

    method = "least conn"
    weighs = True

    def pick(self, choices: Sequence[Choice], now: int) -> Peer | None:
        """Choose among usable peers. Source: ngx_stream_upstream_get_least_conn_peer"""
        loads = [state.conns / peer.weight for _, peer, state in choices]
        return self.take_least(choices, loads, now)

    def foresee_pick(self, choices: Sequence[Choice], now: int) -> list[Peer]:
        """Return what pick() would choose."""
        loads = [state.conns / peer.weight for _, peer, state in choices]
        return self.foresee_least(choices, loads)


class SteadyLeastConn(steady.SteadyByLoad, LeastConnSelection):
    """The same among many peers, without going over all of them."""

    __slots__ = ()


class WideLeastConn(round_robin.Locked, steady.Wide, LeastConnSelection):
    """The same of peers in shared memory."""

    __slots__ = ()

    by_load = True


class LeastConn(steady.SteadyBalancer):
    """The balancer. Source: ngx_stream_upstream_init_least_conn"""

    __slots__ = ()

    plain = LeastConnSelection
    steady = SteadyLeastConn
    wide = WideLeastConn
    by_load = True


def _least_conn(scope: Scope, module: Module, st: Statement) -> None:
    upstream_block.set_method(scope, upstream.MAY_ALL, LeastConn.make)


MODULE = StreamModule(
    name="least_conn",
    directives=(
        Directive("least_conn", UPSTREAM, d.NOARGS, _least_conn,
                  "Balance by the fewest sessions, weights taken into account."),
    ),
)
