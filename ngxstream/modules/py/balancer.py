"""py_balancer: a function that chooses the server of each session.

The function is given the session and the peers that may be used now: neither down, nor unhealthy,
nor full, nor tried by this session already; the backups once no other is left. What it returns is
taken; None has round robin choose, and so has a peer that somebody else made unusable meanwhile.

1. It is called for each attempt, without any lock: the zone of an upstream is locked for the choice
   that follows.
2. It is not called where there is one server and no backup.
3. A function that raises, or returns what it was not given, ends the session with status 500. What
   it says by deny() or close() is done when it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.core import codes, errors
from ngxstream.modules.py import conf, faults
from ngxstream.scripting import peers, running
from ngxstream.stream import endings, round_robin, upstream, upstream_block

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.modules.py.loading import Hook
    from ngxstream.stream.round_robin import Choice, Tier
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Balancer, Peer, UpstreamConf

MAY: Final = upstream.MAY_ALL & ~upstream.MAY_SLOW_START


class Aid(NamedTuple):
    """What a tier's selections know. Args: is_backup: whether its peers are backups"""

    hook: Hook
    is_backup: bool


class _Chosen(round_robin.RoundRobinSelection):
    """Takes the peer that was chosen, if it may still be used; otherwise the next one in turn."""

    __slots__ = ("wanted",)

    method = "py"

    def __init__(self, tier: Tier, s: Session) -> None:
        super().__init__(tier, s)
        self.wanted: Peer | None = None

    def pick(self, choices: Sequence[Choice], now: int) -> Peer | None:
        """Choose among usable peers."""
        wanted = self.wanted
        if wanted is not None:
            for choice in choices:
                if choice[1] is wanted:
                    return self.take((choice,), now)
        return self.take_turn(choices, now)

    def foresee_pick(self, choices: Sequence[Choice], now: int) -> list[Peer]:
        """Return all: which one the function would choose is not known."""
        return [peer for _, peer, _ in choices]


class _Asking(_Chosen):
    """Asks the function first, without a lock."""

    __slots__ = ()

    def get(self) -> Peer:
        """Have a peer chosen. Raises: NoLivePeers, also where the session has ended by a fault"""
        self.wanted = self._ask()
        return super().get()

    def _ask(self) -> Peer | None:
        """Return what the function chooses, None where it leaves that to round robin."""
        s = self.s
        now = s.loop.now_ms
        now -= now % 1000
        tier, tried = self.tier, self.tried
        usable = round_robin.usable(tier.choices, tried, now)
        while not usable:
            if tier.backup is None:
                return None
            tier = tier.backup
            usable = round_robin.usable(tier.choices, 0, now)
        aid: Aid = tier.aid
        offered = [peers.Peer(peer, aid.is_backup) for _, peer, _ in usable]
        its = running.of(s, s.server.py)
        try:
            answer = its.ask(aid.hook.call, its.session, offered)
            found = _peer_of(answer, offered, usable)
        except BaseException as error:  # noqa: BLE001 - told, and the session ends
            faults.tell(s, aid.hook, error)
            s.end(codes.INTERNAL_SERVER_ERROR, endings.INTERNAL)
            raise errors.NoLivePeers from None
        verdict = its.take_verdict()
        if verdict is not None and verdict not in (codes.OK, codes.DECLINED):
            s.finalize(verdict)
        if s.status:
            raise errors.NoLivePeers
        return found


def _peer_of(answer: object, offered: list[peers.Peer], usable: Sequence[Choice]) -> Peer | None:
    """Return the peer that an answer stands for. Raises: TypeError"""
    if answer is None:
        return None
    for view, (_, peer, _) in zip(offered, usable, strict=True):
        if view is answer:
            return peer
    raise TypeError(f"it returned {type(answer).__name__}, none of the peers it was given")


class Selection(_Asking):
    """The way of a session through a group."""

    __slots__ = ()


class LockedSelection(_Asking, round_robin.Locked, _Chosen):
    """The same over peers in shared memory: the lock is taken for the choice, not for the call."""

    __slots__ = ()


class ByFunction(round_robin.RoundRobin):
    """The balancer."""

    __slots__ = ("hook",)

    plain = Selection
    locked = LockedSelection

    def __init__(self, tier: Tier, hook: Hook) -> None:
        self.hook = hook
        super().__init__(tier)

    def use(self, tier: Tier) -> None:
        """Balance over these peers from now on."""
        level: Tier | None = tier
        while level is not None:
            level.aid = Aid(self.hook, level is not tier)
            level = level.backup
        super().use(tier)


def _py_balancer(scope: Scope, module: Module, st: Statement) -> None:
    hook = conf.hook(scope, st, st.args[0], 2, is_plain=True)

    def make(group: UpstreamConf) -> Balancer:
        return ByFunction(round_robin.make_tier(group), hook)

    upstream_block.set_method(scope, MAY, make)


DIRECTIVES: Final = (
    d.Directive("py_balancer", d.UPSTREAM, d.TAKE1, _py_balancer,
                "A function that chooses the server of each session.", extension=True),
)
