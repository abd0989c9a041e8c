"""Choices among many peers in shared memory: a field of all of them is read in one go.

The cells of a zone's table lie field by field, so the same field of peers whose rows follow each
other is one piece of memory. What nginx's loop (ngx_stream_upstream_get_peer) does for one peer
after the other is done here for all, by functions in C; only peers against which something may
speak are looked at one by one.

1. The choices are nginx's to the letter. Where all peers have the same weight, it is not added to
   each of those that take part in a choice, but taken from the few that do not: the differences
   are the same, and by these peers are chosen. (A peer that joins begins with 0, and so up to one
   round of turns above where nginx would have it.)
2. Other workers may do the same or go over the peers one by one.
3. All of it is under the zone's lock.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import compress, repeat
from operator import add, ne, truediv
from typing import TYPE_CHECKING, Any, Final

from ngxstream.stream import round_robin, steady
from ngxstream.stream.peer_state import LIMITED

if TYPE_CHECKING:
    from ngxstream.stream.round_robin import Choice
    from ngxstream.stream.upstream import Peer

NOBODY: Final = -(1 << 62)  # less than any current weight
FEW: Final = 4  # of so many peers one


class Columns:
    """The peers of one tier, whose rows follow each other."""

    __slots__ = (
        "choices",
        "status",  # memoryview[int]: of all processes; likewise the next ones
        "effective",
        "current",
        "conns",
        "weights",  # list[int]
        "full",  # bytes: of effective where nothing is missing
        "clear",  # bytes: of the status where nothing speaks against anybody
        "total",  # of the weights
        "is_uniform",  # bool: all weights are the same
        "doubtful",  # list[int]: places of those that this configuration has something against
        "limits",  # list[int] | None: max_conns of each, a great number for none
    )

    def __init__(
        self, choices: Sequence[Choice], status: memoryview[int], effective: memoryview[int],
        current: memoryview[int], conns: memoryview[int], barred: Sequence[int],
    ) -> None:
        """Args: barred: what the configuration says of each peer's status"""
        self.choices = choices
        self.status = status
        self.effective = effective
        self.current = current
        self.conns = conns
        peers: list[Peer] = [peer for _, peer, _ in choices]
        self.weights = [peer.weight for peer in peers]
        self.full = array("q", self.weights).tobytes()
        self.clear = bytes(8 * len(peers))
        self.total = sum(self.weights)
        self.is_uniform = len(set(self.weights)) == 1
        self.doubtful = [place for place, bits in enumerate(barred) if bits & ~LIMITED]
        has_limits = any(peer.max_conns for peer in peers)
        self.limits = [peer.max_conns or 1 << 62 for peer in peers] if has_limits else None

    def stop(self) -> None:
        """Do nothing: what is chosen by stands in shared memory."""

    def choose(self, tried: int, now: int, *, by_load: bool) -> Choice | None:
        """Choose a peer; None: there is no usable one. Args: see Steady.choose"""
        out = self._unusable(tried, now)
        if len(out) == len(self.choices):
            return None
        if not by_load:
            return self.choices[self._turn(out)]
        loads: list[Any] = self.conns.tolist()
        if not self.is_uniform:
            loads = list(map(truediv, loads, self.weights))
        for place in out:
            loads[place] = math.inf
        least = min(loads)
        equals = loads.count(least)
        if equals == 1:
            return self.choices[loads.index(least)]
        if equals + len(out) < len(loads):
            busy = map(ne, loads, repeat(least)) if least else loads  # hot: those that are true
            out = set(compress(range(len(loads)), busy))
        return self.choices[self._turn(out)]

    def _unusable(self, tried: int, now: int) -> set[int]:
        """Return the places of peers that may not be used now."""
        places = set(self.doubtful)
        if self.status.tobytes() != self.clear:
            places.update([place for place, bits in enumerate(self.status.tolist()) if bits])
        if self.limits is not None:
            pairs = zip(self.conns.tolist(), self.limits, strict=True)
            places.update([place for place, (total, most) in enumerate(pairs) if total >= most])
        if tried:
            places.update(steady.places_of(tried))
        if places:
            doubted = [self.choices[place] for place in sorted(places)]
            for bit, _, _ in round_robin.usable(doubted, tried, now):
                places.remove(bit.bit_length() - 1)
        return places

    def _turn(self, out: set[int]) -> int:
        """Choose by turns among all but some; return the place."""
        current = self.current.tolist()
        is_full = self.effective.tobytes() == self.full
        if is_full and self.is_uniform and FEW * len(out) < len(current):
            return self._turn_alike(current, out)
        known = self.weights if is_full else self.effective.tolist()
        adds = self.weights if is_full else list(map(min, known, self.weights))
        if out:
            adds = adds.copy()
            for place in out:
                adds[place] = 0
        grown = list(map(add, current, adds))
        place = _greatest(grown, out)
        if place in out:
            return self._begin_anew(out)
        grown[place] -= sum(adds)
        self._put(grown)
        if not is_full:
            for n, (effective, weight) in enumerate(zip(known, self.weights, strict=True)):
                if effective < weight and n not in out:
                    self.effective[n] = effective + 1
                elif effective > weight:  # said by who did not know yet that it was lowered
                    self.effective[n] = weight
        return place

    def _turn_alike(self, current: list[int], out: set[int]) -> int:
        """Choose where all have the same weight and few do not take part; return the place."""
        weight = self.weights[0]
        place = _greatest(current, out)
        if place in out:
            return self._begin_anew(out)
        if current[place] < 0:  # not less and less for ever: a peer may join, with 0
            self._put([one + self.total for one in current])
        for other in out:
            self.current[other] = max(NOBODY, self.current[other] - weight)
        self.current[place] += weight * len(out) - self.total
        return place

    def _begin_anew(self, out: set[int]) -> int:
        """Forget what another process has written, which is nonsense; return the first place."""
        self._put([0] * len(self.choices))
        return next(place for place in range(len(self.choices)) if place not in out)

    def _put(self, current: list[int]) -> None:
        try:
            self.current[:] = memoryview(array("q", current))
        except OverflowError:  # reckoned from nonsense
            self.current[:] = memoryview(array("q", bytes(8 * len(current))))


def _greatest(values: list[int], out: set[int]) -> int:
    """Return the place of the greatest, the first of several, among all but some."""
    if out:
        values = values.copy()
        for place in out:
            values[place] = NOBODY
    return values.index(max(values))
