"""Parts of weights: of a server that has come back (slow_start), or whose agent says so.

With slow_start a weight grows from nothing to what it is, as NGINX Plus documents it: after
failures that had made a server unavailable, and after a health check that had failed; ours: also
when it is added at run time, or brought back from `down` and `drain`. Never at a start. What an
agent says (`health_check agent=`) stands in the shared state of the peer. A group with neither has
none of this.

A weight is a whole number and a part of one need not be: here choices are weighed in parts of ONE.
What of a current weight is less than a whole stands in `current_parts`, so a group that begins or
ceases to have slow_start goes on from the same weights. The choices are round robin's otherwise;
where the load counts, it is divided by the part.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ngxstream.stream.peer_state import PeerState
    from ngxstream.stream.round_robin import Choice, RoundRobinSelection, Tier
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer

ONE: Final = 1 << 10  # parts of a weight of 1
MOST_WEIGHT: Final = 256  # that an agent can give, as in HAProxy


def part_of(peer: Peer, state: PeerState, now_ms: int) -> float:
    """Return how much of its weight a peer has by now: 0 to 1. Args: now_ms: loop ms"""
    back_ms = state.back_ms
    slow_ms = peer.slow_start * 1000
    if not back_ms or not 0 <= now_ms - back_ms < slow_ms:
        return 1.0
    return (now_ms - back_ms) / slow_ms


def part_by_agent(peer: Peer, state: PeerState, now_ms: int) -> float:
    """Return the same where an agent has a say, too: 0 to MOST_WEIGHT of it.

    What it says makes no weight greater than MOST_WEIGHT, whoever has written it.
    """
    share = state.share
    part = share / 100 if share >= 0 else -share / peer.weight
    return min(part, max(MOST_WEIGHT / peer.weight, 1.0)) * part_of(peer, state, now_ms)


class SlowStart:
    """What a selection among servers that come back slowly adds: in front of that of a method."""

    __slots__ = ()

    part = staticmethod(part_of)
    s: Session
    take: Callable[[Sequence[Choice], int], Peer]

    def _parts_of(self, peer: Peer, state: PeerState, now_ms: int) -> int:
        """Return the weight that a peer has by now, in parts of ONE."""
        return int(state.effective_weight * ONE * self.part(peer, state, now_ms))

    def take_turn(self, choices: Sequence[Choice], now: int) -> Peer | None:
        """Choose by turns, each server by the part of its weight. See RoundRobinSelection"""
        now_ms = self.s.loop.now_ms
        best = None
        best_parts = total = 0
        for choice in choices:
            _, peer, state = choice
            effective = state.effective_weight
            parts = self._parts_of(peer, state, now_ms)
            total += parts
            parts += state.current_weight * ONE + state.current_parts
            state.current_weight, state.current_parts = divmod(parts, ONE)
            if effective < peer.weight:
                state.effective_weight = effective + 1
            if best is None or parts > best_parts:
                best = choice
                best_parts = parts
        if best is None:
            return None
        chosen = best[2]
        chosen.current_weight, chosen.current_parts = divmod(best_parts - total, ONE)
        return self.take((best,), now)

    def take_least(self, choices: Sequence[Choice], loads: list[float], now: int) -> Peer | None:
        """Choose the least load by the parts of the weights. See RoundRobinSelection"""
        loads = self._divided(choices, loads)
        chosen: Peer | None = super().take_least(choices, loads, now)  # type: ignore[misc]
        return chosen

    def foresee_turn(self, choices: Iterable[Choice]) -> list[Peer]:
        """Return what take_turn() would choose."""
        now_ms = self.s.loop.now_ms
        best: Peer | None = None
        best_parts = 0
        for _, peer, state in choices:
            parts = state.current_weight * ONE + state.current_parts
            parts += self._parts_of(peer, state, now_ms)
            if best is None or parts > best_parts:
                best = peer
                best_parts = parts
        return [] if best is None else [best]

    def foresee_least(self, choices: Sequence[Choice], loads: list[float]) -> list[Peer]:
        """Return what take_least() would choose."""
        loads = self._divided(choices, loads)
        peers: list[Peer] = super().foresee_least(choices, loads)  # type: ignore[misc]
        return peers

    def _divided(self, choices: Sequence[Choice], loads: list[float]) -> list[float]:
        """Return the loads by the parts of the weights."""
        now_ms = self.s.loop.now_ms
        parts = [self.part(peer, state, now_ms) for _, peer, state in choices]
        return [load / part if part else math.inf for load, part in zip(loads, parts, strict=True)]


class ByAgent(SlowStart):
    """The same where agents have a say."""

    __slots__ = ()

    part = staticmethod(part_by_agent)


def is_slow(tier: Tier | None) -> bool:
    """Tell whether any server of a tier or its backups comes back slowly."""
    return tier is not None and (
        any(peer.slow_start for peer in tier.peers) or is_slow(tier.backup)
    )


def fitted(
    selection: type[RoundRobinSelection], tier: Tier, *, by_agent: bool
) -> type[RoundRobinSelection]:
    """Return a class of selections with what a tier needs of this, always the same one.

    Args: by_agent: whether agents have a say
    """
    if not by_agent and not is_slow(tier):
        return selection
    made: type[RoundRobinSelection] = _fitted(
        selection, ByAgent if by_agent else SlowStart  # type: ignore[arg-type]
    )
    return made


@functools.cache
def _fitted(
    selection: type[RoundRobinSelection], before: type[SlowStart]
) -> type[RoundRobinSelection]:
    members: dict[str, Any] = {"__slots__": ()}
    if selection.pick is selection.take_turn:
        members["pick"] = SlowStart.take_turn
    return type(f"Slow{selection.__name__}", (before, selection), members)
