"""What balancing methods by key or chance share: a peer that is not usable means another draw."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from ngxstream.stream import round_robin

if TYPE_CHECKING:
    from ngxstream.stream.round_robin import Choice, Tier
    from ngxstream.stream.upstream import Peer

MISSES: Final = 20  # unusable peers that may be pointed at before round robin takes over


class Shares:
    """Where one peer's share of the weights ends and the next one's begins."""

    __slots__ = ("sums", "groups")

    def __init__(self, tier: Tier) -> None:
        self.sums = tuple(itertools.accumulate(peer.weight for peer in tier.peers[:-1]))
        self.groups = [(choice,) for choice in tier.choices]


class DrawSelection(round_robin.RoundRobinSelection):
    """Methods that point at a peer, and at another one when it is not usable.

    After too many misses round robin takes over.
    """

    __slots__ = ("misses",)

    misses: int
    least: ClassVar[int] = 2  # peers that there must be for that

    def get(self) -> Peer:
        """Choose a peer and count the session on it. Raises: NoLivePeers"""
        if self.tier.number >= self.least:
            now = self.s.loop.now_ms
            now -= now % 1000
            while self.misses <= MISSES:
                drawn = round_robin.usable(self.draw(), self.tried, now)
                peer = self.settle(drawn, now) if drawn else None
                if peer is not None:
                    peer.state.conns += 1
                    return peer
                self.misses += 1
        return super().get()

    def foresee(self) -> list[Peer]:
        """Return what get() would choose."""
        if self.tier.number >= self.least:
            now = self.s.loop.now_ms
            now -= now % 1000
            while self.misses <= MISSES:
                drawn = round_robin.usable(self.draw(), self.tried, now)
                if drawn:
                    return self.foresee_settle(drawn)
                self.misses += 1
        return super().foresee()

    def draw(self) -> Sequence[Choice]:
        """Return the next peers that the method points at: one, as a rule."""
        raise NotImplementedError

    def foresee_settle(self, drawn: Sequence[Choice]) -> list[Peer]:
        """Return what settle() would choose among those drawn that are usable."""
        return [drawn[0][1]]

    # chooses among those drawn that are usable; None: draw again, which counts as a miss
    settle: Callable[..., Peer | None] = round_robin.RoundRobinSelection.take
