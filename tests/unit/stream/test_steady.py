"""Choices among many peers are those of the loop over all of them, whatever happens."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ngxstream.core import errors
from ngxstream.modules.upstream.least_conn import LeastConn
from ngxstream.stream import round_robin
from ngxstream.stream.peer_state import FIELDS
from ngxstream.stream.rotation import RotatingRoundRobin
from ngxstream.stream.round_robin import Tier
from ngxstream.stream.upstream import CONNECT, UpstreamConf
from tests.support.balancing import (
    SPEC,
    STEP,
    Clock,
    group,
    has_primary,
    numbered,
    peers_of,
    play,
    port,
    session,
    upstream,
)


class FewTurns(RotatingRoundRobin):
    """Round robin that takes few peers for many."""

    __slots__ = ()
    fewest = 1


class FewLoads(LeastConn):
    """The same of least_conn."""

    __slots__ = ()
    fewest = 1


class PlainLoads(LeastConn):
    """least_conn that goes over all peers, however many there are."""

    __slots__ = ()
    fewest = 1 << 30


RARELY = st.integers(0, 5).map(lambda n: not n)
SERVER = st.fixed_dictionaries({
    "weight": st.integers(1, 4),
    "max_fails": st.integers(0, 3),
    "fail_timeout": st.sampled_from([1, 3, 10]),
    "max_conns": st.sampled_from([0, 0, 2, 3]),
    "down": RARELY,
    "backup": RARELY,
})
METHODS = {
    "round_robin": (FewTurns, round_robin.RoundRobin), "least_conn": (FewLoads, PlainLoads),
}


def as_many(conf: UpstreamConf) -> None:
    """Have a group find its peers steady, though they are few."""
    assert conf.balancer is not None
    kind = FewLoads if isinstance(conf.balancer, LeastConn) else FewTurns
    conf.balancer = kind(conf.balancer.tier)


@pytest.mark.parametrize("method", list(METHODS))
@given(specs=st.lists(SPEC, min_size=1, max_size=6).filter(has_primary),
       steps=st.lists(STEP, max_size=60))
@settings(max_examples=100)
def test_choices_are_those_of_the_rules(
    method: str, specs: list[dict[str, Any]], steps: list[tuple[str, int]]
) -> None:
    """Any servers, and sessions that end well or badly, or try again."""
    play(specs, steps, method, shared=as_many)


class Twins(RuleBasedStateMachine):
    """Everything is done to a group of steady peers, and to one that goes over all of them."""

    @initialize(method=st.sampled_from(list(METHODS)),
                specs=st.lists(SERVER, min_size=2, max_size=6).filter(has_primary))
    def begin(self, method: str, specs: list[dict[str, Any]]) -> None:
        """Make both."""
        tiers = [upstream(numbered(specs)).balancer.tier for _ in range(2)]  # type: ignore[union-attr]
        self.both: list[Any] = [
            kind(tier) for kind, tier in zip(METHODS[method], tiers, strict=True)
        ]
        self.clock = Clock()
        self.live: list[tuple[Any, ...]] = []

    def split(self, one: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the selections and the peers of a session on both."""
        return one[:2], one[2:]

    def get(self, selections: list[Any]) -> None:
        """Have both choose."""
        found = []
        foreseen = [port(peer) for peer in selections[1].foresee()]
        for selection in selections:
            try:
                found.append(selection.get())
            except errors.NoLivePeers:
                found.append(None)
        ports = [peer and port(peer) for peer in found]
        assert ports[0] == ports[1]
        assert foreseen == [ports[1]] * bool(ports[1])
        if found[0] is not None:
            self.live.append((*selections, *found))

    @rule(count=st.integers(1, 9))
    def sessions(self, count: int) -> None:
        """Sessions begin."""
        for _ in range(count):
            self.get([one.select(session(self.clock)) for one in self.both])

    @rule(count=st.integers(1, 60))
    def run(self, count: int) -> None:
        """Sessions end well, one after the other."""
        for _ in range(count):
            before = len(self.live)
            self.sessions(1)
            if len(self.live) > before:
                self.end(before, failed=False)

    @rule(fails=st.lists(st.booleans(), max_size=20))
    def failures(self, fails: list[bool]) -> None:
        """Sessions end, one after the other, some of them badly."""
        for failed in fails:
            before = len(self.live)
            self.sessions(1)
            if len(self.live) > before:
                for selection, peer in zip(*self.split(self.live.pop()), strict=True):
                    selection.free(peer, failed)

    @rule()
    def once(self) -> None:
        """One begins and ends at once."""
        found = []
        for one in self.both:
            try:
                found.append(port(one.select(session(self.clock)).get_once()))
            except errors.NoLivePeers:
                found.append(0)
        assert found[0] == found[1]

    @rule(n=st.integers(0, 50), failed=st.booleans())
    def end(self, n: int, failed: bool) -> None:
        """One ends, or has failed and tries again."""
        if not self.live:
            return
        (first, second), peers = self.split(self.live.pop(n % len(self.live)))
        for selection, peer in zip((first, second), peers, strict=True):
            selection.free(peer, failed)
        if failed and second.tries:
            if hasattr(first.tier.aid, "write_back"):
                self.foresee_again(first, second)
            again: list[Any] = []
            for selection in (first, second):
                try:
                    again.append(selection.get())
                except errors.NoLivePeers:
                    again.append(None)
            ports = [peer and port(peer) for peer in again]
            assert ports[0] == ports[1]
            if again[0] is not None:
                self.live.append((first, second, *again))

    def foresee_again(self, first: Any, second: Any) -> None:
        """Both foresee the same; it is done on selections of their own."""
        found = []
        for selection in (first, second):
            twin = type(selection)(selection.tier, selection.s)
            twin.tried = selection.tried
            found.append([port(peer) for peer in twin.foresee()])
        assert found[0] == found[1]

    @rule(n=st.integers(0, 50))
    def connect(self, n: int) -> None:
        """A connection stands, which clears failures."""
        if self.live:
            first, second, one, other = self.live[n % len(self.live)]
            first.notify(one, CONNECT)
            second.notify(other, CONNECT)

    @rule(n=st.integers(0, 50))
    def leave(self, n: int) -> None:
        """A session goes to another process."""
        if self.live:
            first, second, one, other = self.live.pop(n % len(self.live))
            first.leave(one)
            second.leave(other)

    @rule(n=st.integers(0, 50))
    def resume(self, n: int) -> None:
        """A session comes from another process."""
        name = peers_of(self.both[0])[n % len(peers_of(self.both[0]))].name
        found = [one.resume(session(self.clock), name) for one in self.both]
        self.live.append((found[0][0], found[1][0], found[0][1], found[1][1]))

    @rule(ms=st.integers(1, 15_000))
    def wait(self, ms: int) -> None:
        """Time passes."""
        self.clock.now_ms += ms

    @rule(n=st.integers(0, 50))
    def renew(self, n: int) -> None:
        """The members change, those that stay go on; no session is under way."""
        while self.live:
            self.end(0, failed=False)
        for one in self.both:
            peers = list(one.tier.peers)
            if len(peers) > 1:
                peers.pop(n % len(peers))
            one.use(Tier("u", peers, one.tier.backup))

    @invariant()
    def both_fare_alike(self) -> None:
        """The states are the same, the current weights once they are put back."""
        for one in self.both:
            tier = one.tier
            while tier is not None:
                if hasattr(tier.aid, "write_back"):
                    tier.aid.write_back()
                tier = tier.backup
        states = [[values(peer.state) for peer in peers_of(one)] for one in self.both]
        assert states[1] == states[0]


def values(state: Any) -> list[Any]:
    """Return the fields of a state that balancing is about; checked_ms only where it counts."""
    skipped = {"watch", "lost_ms", "lost_for_ms", "back_ms"}
    if not state.fails:
        skipped |= {"checked_ms"}
    return [getattr(state, field.name) for field in FIELDS if field.name not in skipped]


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def run(balancer: Any, clock: Clock, count: int) -> Counter[int]:
    """Let sessions end well one after the other; count them by port."""
    found: Counter[int] = Counter()
    for _ in range(count):
        selection = balancer.select(session(clock))
        peer = selection.get()
        selection.free(peer, False)
        found[port(peer)] += 1
    return found


@pytest.mark.parametrize("method", ["", "least_conn;"])
def test_many_peers_are_found_steady_and_few_are_not(method: str) -> None:
    """From sixteen on it is worth it."""
    for number, is_steady in ((15, False), (16, True)):
        balancer = group(numbered([{} for _ in range(number)]) + method)
        assert is_steady == (balancer.select.func is balancer.steady)


@pytest.mark.parametrize("method", ["", "least_conn;"])
@pytest.mark.parametrize("extra", [{"max_conns": 7}, {"weight": 2}, {"max_fails": 0}])
def test_a_choice_looks_at_no_peer_that_is_steady(method: str, extra: dict[str, Any]) -> None:
    """Of 1000 peers one has failed: it sleeps, and nobody else is looked at but who was chosen."""
    balancer = group(numbered([{}, *({} if n % 2 else extra for n in range(999))]) + method)
    clock = Clock()
    selection = balancer.select(session(clock))
    selection.free(selection.get(), True)
    run(balancer, clock, 3)
    steady = balancer.tier.aid
    looked: list[int] = []
    look, steady_type = type(steady)._look, type(steady)

    class Told(steady_type):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def _look(self, now: int) -> None:
            looked.append(len(self.doubted | self.odd))
            look(self, now)

    steady.__class__ = Told
    assert {0} & run(balancer, clock, 998).keys() == set()
    assert max(looked, default=0) <= 2


def test_a_full_peer_is_used_again_at_once_though_it_has_failed() -> None:
    """One failure of three allowed puts nobody to sleep."""
    balancer = FewTurns(group(numbered([{"max_conns": 1, "max_fails": 3}, {"down": True}])).tier)
    clock = Clock()
    selection = balancer.select(session(clock))
    selection.free(selection.get(), True)
    selection = balancer.select(session(clock))
    peer = selection.get()
    with pytest.raises(errors.NoLivePeers):
        balancer.select(session(clock)).get()
    selection.free(peer, False)
    assert 1 == port(balancer.select(session(clock)).get())


def test_a_load_that_comes_and_goes_leaves_one_entry() -> None:
    """The order of loads does not grow with the sessions."""
    balancer = FewLoads(group(numbered([{} for _ in range(20)])).tier)
    clock = Clock()
    random.seed(1)
    live: list[Any] = []
    for _ in range(2000):
        selection = balancer.select(session(clock))
        live.append((selection, selection.get()))
        while len(live) > random.randrange(1, 100):
            one, peer = live.pop(random.randrange(len(live)))
            one.free(peer, False)
    assert len(balancer.tier.aid.order) <= 30
    assert sum(turns.count for turns in balancer.tier.aid.levels.values()) <= 20


def test_a_session_of_a_former_tier_goes_on() -> None:
    """It tries again among the peers of its own tier, by the loop over all."""
    balancer = FewTurns(group(numbered([{}, {}, {}])).tier)
    clock = Clock()
    selection = balancer.select(session(clock))
    peer = selection.get()
    balancer.use(Tier("u", balancer.tier.peers[1:]))
    selection.free(peer, True)
    assert 2 == port(selection.get())
    assert {2: 3, 3: 3} == run(balancer, clock, 6)
