"""Choices among many peers: most are steady and stand in turns, the others are looked at.

A peer is steady while nothing speaks against it, it has all of its weight, and neither can change
without our being told: by a choice, or by its state (`PeerState.watch`). Which peer of the steady
ones is next takes no more time for many than for a few (stream/turns.py).

1. The choices are nginx's to the letter, whatever happens: the peers that are not steady are
   looked at, at each choice, by the rules of round_robin.py. What is steady again goes back.
2. The current weight of a steady peer is known to its turns; `write_back` puts it into its state.
3. A peer that is out because of its failures sleeps: it is not looked at until its time is over.
4. Peers in shared memory are never steady: other workers choose, too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, ClassVar

from ngxstream.core import errors
from ngxstream.stream import round_robin, slow_start
from ngxstream.stream.peer_state import BARRED, FAILED
from ngxstream.stream.turns import Turns

if TYPE_CHECKING:
    from ngxstream.stream.round_robin import Choice, Tier
    from ngxstream.stream.upstream import Peer, UpstreamState


class Steady:
    """The peers of one tier. A place is a peer's number in it."""

    __slots__ = (
        "choices",
        "turns",  # Turns: of the steady ones, where the load does not count
        "is_calm",  # bool: nothing is to be looked at before the next choice
        "odd",  # set[int]: places of those to look at, at each choice
        "doubted",  # set[int]: of those to look at, at the next one
        "sleeping",  # set[int]
        "wakes",  # heap of (ms after which it is to be looked at, place)
        "by_load",  # bool: those with the fewest sessions for their weight come first
        "loads",  # dict[int, float]: of a steady place, 0 where the load does not count
        "levels",  # dict[float, Turns]: the steady ones by load
        "order",  # heap of loads: of the levels, and of former ones
        "ordered",  # set[float]: what stands in it
        "is_stopped",  # bool: the balancer has another tier now
    )

    def __init__(self, tier: Tier, *, by_load: bool) -> None:
        self.choices = tier.choices
        self.turns = Turns(tier.number.bit_length())
        self.is_calm = False
        self.odd: set[int] = set()
        self.doubted = set(range(tier.number))
        self.sleeping: set[int] = set()
        self.wakes: list[tuple[int, int]] = []
        self.by_load = by_load
        self.loads: dict[int, float] = {}
        self.levels: dict[float, Turns] = {}
        self.order: list[float] = []
        self.ordered: set[float] = set()
        self.is_stopped = False
        if not by_load:
            self.levels[0] = self.turns
        for place, peer in enumerate(tier.peers):
            peer.state.watch = functools.partial(self.doubt, place)

    def doubt(self, place: int) -> None:
        """Look at a peer before the next choice."""
        self.doubted.add(place)
        self.is_calm = False

    def choose(self, tried: int, now: int) -> Choice | None:
        """Choose a peer; None: there is no usable one.

        Args: tried: bits of those that the session was sent to already; now: in milliseconds,
        whole seconds
        """
        wakes = self.wakes
        while wakes and wakes[0][0] < now:
            place = heappop(wakes)[1]
            self.sleeping.discard(place)
            self.doubted.add(place)
        if self.doubted or self.odd:
            self._look(now)
        for place in places_of(tried):
            if place in self.loads:  # it does not take part in this choice
                self._leave(place)
                self.odd.add(place)
        odd: Sequence[Choice] = ()
        if self.odd:
            odd = round_robin.usable([self.choices[n] for n in sorted(self.odd)], tried, now)
        self.is_calm = not (self.odd or self.sleeping or self.by_load or not self.turns.count)
        turns: Turns | None = self.turns
        if self.by_load:
            turns, odd = self._least(odd)
        if turns is None or not turns.count:
            return self._turn(None, odd) if odd else None
        if odd:
            return self._turn(turns, odd)
        return self.choices[turns.choose()]

    def write_back(self) -> None:
        """Put the current weights of the steady peers into their states; nothing changes."""
        for place, load in self.loads.items():
            _, peer, state = self.choices[place]
            state.current_weight = self.levels[load].current(place, peer.weight)

    def stop(self) -> None:
        """Leave the peers to another tier."""
        self.write_back()
        self.is_stopped = True
        self.is_calm = False

    def _look(self, now: int) -> None:
        """Find out which of those to look at are steady."""
        places = self.doubted | self.odd
        self.doubted.clear()
        self.odd.clear()
        for place in sorted(places):
            choice = self.choices[place]
            _, peer, state = choice
            is_usable = not state.status or bool(round_robin.usable((choice,), 0, now))
            if is_usable and state.effective_weight == peer.weight:
                load = state.conns / peer.weight if self.by_load else 0
                if self.loads.get(place) != load:
                    self._leave(place)
                    self._enter(place, load)
                continue
            self._leave(place)
            if is_usable:
                self.odd.add(place)
            elif state.status & BARRED:
                pass  # who changes that has the balancer use the tier again
            elif state.status & FAILED and not 0 < peer.max_conns <= state.conns:
                if place not in self.sleeping:
                    self.sleeping.add(place)
                    heappush(self.wakes, (state.checked_ms + peer.fail_timeout * 1000, place))
            else:
                self.odd.add(place)

    def _enter(self, place: int, load: float) -> None:
        _, peer, state = self.choices[place]
        level = self.levels.get(load)
        if level is None:
            level = self.levels[load] = Turns(self.turns.bits)
            if load not in self.ordered:
                self.ordered.add(load)
                heappush(self.order, load)
        level.add(place, peer.weight, state.current_weight)
        self.loads[place] = load

    def _leave(self, place: int) -> None:
        load = self.loads.pop(place, None)
        if load is not None:
            _, peer, state = self.choices[place]
            level = self.levels[load]
            state.current_weight = level.remove(place, peer.weight)
            if self.by_load and not level.count:
                del self.levels[load]

    def _least(self, odd: Sequence[Choice]) -> tuple[Turns | None, Sequence[Choice]]:
        """Return what has the least load: of the steady ones, and of the others."""
        order = self.order
        while order and order[0] not in self.levels:
            self.ordered.remove(heappop(order))
        turns = self.levels[order[0]] if order else None
        if not odd:
            return turns, odd
        loads = [state.conns / peer.weight for _, peer, state in odd]
        least = min(loads)
        if order and order[0] <= least:
            least = order[0]
        else:
            turns = None
        return turns, [choice for choice, load in zip(odd, loads, strict=True) if load == least]

    def _turn(self, turns: Turns | None, odd: Sequence[Choice]) -> Choice:
        """Choose by turns among steady peers and others. Source: ngx_stream_upstream_get_peer"""
        if self.by_load and turns is None and len(odd) == 1:
            return odd[0]
        best: Choice | None = None
        best_place = best_weight = total = 0
        if turns is not None:
            best_place, best_weight = turns.first()
            best = self.choices[best_place]
            total = turns.total
            turns.tick()
        for choice in odd:
            bit, peer, state = choice
            effective = state.effective_weight
            weight = state.current_weight = state.current_weight + effective
            total += effective
            if effective < peer.weight:
                state.effective_weight = effective + 1
            if best is None or weight > best_weight or (
                weight == best_weight and bit < best[0]
            ):
                best, best_weight = choice, weight
        assert best is not None
        if turns is not None and best is self.choices[best_place]:
            turns.charge(best_place, total)
        else:
            best[2].current_weight = best_weight - total
        return best


def places_of(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


class SteadySelection(round_robin.RoundRobinSelection):
    """The way of a session through a group most of whose peers are steady."""

    __slots__ = ()

    def get(self) -> Peer:
        """Choose a peer and count the session on it. Raises: NoLivePeers"""
        tier = self.tier
        steady: Steady = tier.aid
        if not steady.is_calm or self.tried:
            return self._get()
        place = steady.turns.choose()
        self.tried, peer, state = tier.choices[place]
        if state.status:
            self.take(((self.tried, peer, state),), self.s.loop.now_ms // 1000 * 1000)
            steady.doubt(place)
        state.conns += 1
        return peer

    def _get(self) -> Peer:
        """Do the same where there is something to look at before."""
        now = self.s.loop.now_ms
        now -= now % 1000
        while True:
            tier = self.tier
            steady: Steady = tier.aid
            if steady.is_stopped:
                return super().get()
            found = steady.choose(self.tried, now)
            if found is not None:
                peer = self.take((found,), now)
                state = found[2]
                state.conns += 1
                if state.status or steady.by_load:
                    steady.doubt(found[0].bit_length() - 1)
                return peer
            if tier.backup is None:
                raise errors.NoLivePeers
            self.tier = tier.backup
            self.tried = 0

    def foresee(self) -> list[Peer]:
        """Return what get() would choose."""
        tier: Tier | None = self.tier
        while tier is not None:
            tier.aid.write_back()
            tier = tier.backup
        return super().foresee()


class SteadyByLoad(SteadySelection):
    """The same where the load counts: each end of a session changes that."""

    __slots__ = ()

    def free(self, peer: Peer, failed: bool, attempt: UpstreamState | None = None) -> None:
        """Give a peer back."""
        super().free(peer, failed, attempt)
        watch = peer.state.watch
        if watch is not None:
            watch()


class Wide(round_robin.RoundRobinSelection):
    """The way of a session through a group in shared memory whose peers are read in one go."""

    __slots__ = ()

    by_load: ClassVar[bool] = False

    def get(self) -> Peer:
        """Choose a peer and count the session on it. Raises: NoLivePeers"""
        now = self.s.loop.now_ms
        now -= now % 1000
        while True:
            tier = self.tier
            if tier.aid is None:
                peer = self.pick(round_robin.usable(tier.choices, self.tried, now), now)
            else:
                found = tier.aid.choose(self.tried, now, by_load=self.by_load)
                peer = None if found is None else self.take((found,), now)
            if peer is not None:
                peer.state.conns += 1
                return peer
            if tier.backup is None:
                raise errors.NoLivePeers
            self.tier = tier.backup
            self.tried = 0


class LockedWide(round_robin.Locked, Wide):
    """The same under the lock."""

    __slots__ = ()


class SteadyBalancer(round_robin.RoundRobin):
    """The base of methods that choose by turns: of many peers those are steady that can be.

    Peers in shared memory are read in one go.
    """

    __slots__ = (
        "has_many",  # bool: there are so many that they are found steady
        "is_plain",  # bool: no weight of a peer has to do with parts (stream/slow_start.py)
    )

    steady: ClassVar[type[SteadySelection]] = SteadySelection
    by_load: ClassVar[bool] = False
    wide: ClassVar[type[round_robin.RoundRobinSelection]] = LockedWide
    fewest: ClassVar[int] = 16  # peers for which it is worth it
    fewest_shared: ClassVar[int] = 3

    def use(self, tier: Tier) -> None:
        """Balance over these peers from now on; those that stay go on with their weights."""
        former: Tier | None = getattr(self, "tier", None)
        while former is not None:
            if former.aid is not None:
                former.aid.stop()
            former = former.backup
        most = tier.number if tier.backup is None else max(tier.number, tier.backup.number)
        self.is_plain = not self.by_agent and not slow_start.is_slow(tier)
        is_shared = tier.lock is not round_robin.NO_LOCK
        self.has_many = self.is_plain and not is_shared and most >= self.fewest
        super().use(tier)

    def prepare(self, tier: Tier) -> None:
        """Begin to find out which peers are steady, where there are many."""
        for peer in tier.peers:
            peer.state.watch = None
        tier.aid = None
        if self.has_many:
            tier.aid = Steady(tier, by_load=self.by_load)
        elif self.is_plain and tier.number >= self.fewest_shared:
            tier.aid = tier.peers[0].state.columns(tier.choices)

    def selections(self, tier: Tier) -> type[round_robin.RoundRobinSelection]:
        """Return the class of selections for a tier that is prepared."""
        if self.has_many:
            return self.steady
        if tier.aid is not None and tier.lock is not round_robin.NO_LOCK:
            return self.wide
        return super().selections(tier)

    def resumes(self, tier: Tier) -> type[round_robin.RoundRobinSelection]:
        """Return the class of selections that were another process's: they need nothing else."""
        return self.selections(tier)
