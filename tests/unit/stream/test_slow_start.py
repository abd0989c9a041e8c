"""slow_start: the share of a server that has come back grows evenly, and then is its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngxstream.stream import peer_state, rotation, round_robin, slow_start
from tests.support.balancing import Clock, group, session
from tests.support.in_process import build

METHODS = ["", "least_conn;", "least_time connect;"]
DRAWS = 600


def fail_and_come_back(balancer: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the first server be unavailable, and then succeed; return it."""
    monkeypatch.setattr(peer_state, "monotonic_ms", lambda: clock.now_ms)
    peer = balancer.tier.peers[0]
    selection = balancer.select(session(clock))
    while selection.get() is not peer:
        selection = balancer.select(session(clock))
    selection.free(peer, True)
    clock.now_ms += 20_000
    selection = balancer.select(session(clock))
    while selection.get() is not peer:
        selection = balancer.select(session(clock))
    clock.now_ms += 1000
    selection.free(peer, False)
    assert 0 == peer.state.fails
    return peer


def part_for(balancer: Any, clock: Clock, peer: Any, *, keep: bool) -> float:
    """Return which part of DRAWS sessions a peer gets at this moment. Args: keep: they last"""
    taken = []
    for _ in range(DRAWS):
        selection = balancer.select(session(clock))
        chosen = selection.get()
        taken.append(chosen)
        if not keep:
            selection.free(chosen, False)
    for chosen in taken if keep else ():
        chosen.state.conns -= 1
    return sum(chosen is peer for chosen in taken) / DRAWS


@pytest.mark.parametrize("method", METHODS)
@given(weights=st.lists(st.integers(1, 8), min_size=2, max_size=4), slow_s=st.integers(2, 60),
       passed=st.floats(0, 1.2))
@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_share_grows_with_time(
    monkeypatch: pytest.MonkeyPatch, method: str, weights: list[int], slow_s: int, passed: float
) -> None:
    """After a part of the time a server has that part of its weight, among the whole of others'."""
    lines = "".join(
        f"server 127.0.0.1:{n + 1} weight={weight}{f' slow_start={slow_s}s' if not n else ''};"
        for n, weight in enumerate(weights)
    )
    clock = Clock()
    balancer = group(method + lines)
    peer = fail_and_come_back(balancer, clock, monkeypatch)
    for one in balancer.tier.peers:  # what is not about the slow start
        one.state.effective_weight = one.weight
        one.state.conns = one.state.connect_ms = 0
    clock.now_ms += int(slow_s * 1000 * passed)
    part = min(passed, 1.0)
    own = weights[0] * part
    expected = own / (own + sum(weights[1:]))
    found = part_for(balancer, clock, peer, keep=bool(method))
    assert abs(found - expected) < 0.01


@pytest.mark.parametrize("backup", ["", "server 127.0.0.1:3 backup;"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_one_who_has_just_come_back_gets_nothing_yet(
    monkeypatch: pytest.MonkeyPatch, method: str, shared: bool, backup: str
) -> None:
    """But is used when there is no other, whatever backups there are."""
    clock = Clock()
    zone = "zone z 64k;" if shared else ""
    built = build(
        f"stream {{ upstream u {{ {zone} {method} server 127.0.0.1:1 slow_start=10s; "
        f"server 127.0.0.1:2 max_conns=5; {backup} }} }}"
    )
    assert built.conf is not None, built.error
    built.zones.build()
    balancer: Any = built.conf.upstreams[0].balancer
    peer = fail_and_come_back(balancer, clock, monkeypatch)
    for one in balancer.tier.peers:
        one.state.effective_weight = 1
        one.state.current_weight = 0
        one.state.conns = 0
    got = [balancer.select(session(clock)).get() for _ in range(8)]
    assert [peer] * 3 == got[5:]
    assert peer not in got[:5]
    built.zones.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_backup_comes_back_slowly_too(method: str) -> None:
    """Whatever the primary servers are: none of them can be used now."""
    balancer = group(
        f"{method} server 127.0.0.1:1; server 127.0.0.1:2; "
        "server 127.0.0.1:3 backup slow_start=10s; server 127.0.0.1:4 backup;"
    )
    clock = Clock()
    selection = balancer.select(session(clock))
    for _ in balancer.tier.peers:
        selection.free(selection.get(), True)
    slow, other = balancer.tier.backup.peers
    slow.state.back_ms = clock.now_ms
    assert [other] * 4 == [balancer.select(session(clock)).get() for _ in range(4)]
    clock.now_ms += 5000
    slow.state.conns = other.state.conns = 0
    part = part_for(balancer, clock, slow, keep=bool(method))
    assert abs(part - 1 / 3) < 0.01


@pytest.mark.parametrize("method", METHODS)
def test_nobody_begins_slowly_at_a_start(method: str) -> None:
    """All take their whole share, whatever the time is."""
    balancer = group(
        f"{method} server 127.0.0.1:1 slow_start=1h; server 127.0.0.1:2 slow_start=1h;"
    )
    clock = Clock(1)
    assert 0.5 == part_for(balancer, clock, balancer.tier.peers[0], keep=True)


@pytest.mark.parametrize("method", METHODS)
@given(passed=st.integers(0, 12_000), weights=st.lists(st.integers(1, 4), min_size=2, max_size=4))
@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_choice_can_be_foreseen(
    monkeypatch: pytest.MonkeyPatch, method: str, passed: int, weights: list[int]
) -> None:
    """While it grows too: nothing is left to chance."""
    lines = "".join(
        f"server 127.0.0.1:{n + 1} weight={weight}{' slow_start=10s' if not n else ''};"
        for n, weight in enumerate(weights)
    )
    clock = Clock()
    balancer = group(method + lines)
    fail_and_come_back(balancer, clock, monkeypatch)
    clock.now_ms += passed
    for _ in range(10):
        foreseen = balancer.select(session(clock)).foresee()
        assert [balancer.select(session(clock)).get()] == foreseen


@pytest.mark.parametrize("method", METHODS)
@given(weights=st.lists(st.integers(1, 8), min_size=2, max_size=4), share=st.integers(-20, 300))
@settings(max_examples=25, deadline=None)
def test_an_agent_gives_a_part_of_a_weight(
    method: str, weights: list[int], share: int
) -> None:
    """In per cent, more than all of it too, or another weight; the others have all of theirs."""
    lines = "".join(
        f"server 127.0.0.1:{n + 1} weight={weight};" for n, weight in enumerate(weights)
    )
    built = build(f"stream {{ upstream u {{ zone u 32k; {method} {lines} }} }}")
    assert built.conf is not None, built.error
    built.zones.build()
    balancer: Any = built.conf.upstreams[0].balancer
    balancer.weigh_by_agents()
    peer = balancer.tier.peers[0]
    peer.state.share = share
    own = weights[0] * share / 100 if share >= 0 else -share
    found = part_for(balancer, Clock(), peer, keep=bool(method))
    built.zones.close()
    assert abs(found - own / (own + sum(weights[1:]))) < 0.01


@given(junk=st.integers(-(1 << 63), (1 << 63) - 1), weight=st.integers(1, 65_535))
def test_no_agent_gives_more_than_its_most(junk: int, weight: int) -> None:
    """Whatever stands in shared memory."""
    peer: Any = group(f"server 127.0.0.1:1 weight={weight};").tier.peers[0]
    peer.state.share = junk
    part = slow_start.part_by_agent(peer, peer.state, 1)
    assert 0 <= part * weight <= max(slow_start.MOST_WEIGHT, weight) + 0.001


def test_a_group_without_it_has_nothing_of_it() -> None:
    """Its selections are those of before; one with it does not read its choices off."""
    plain = group("server 127.0.0.1:1; server 127.0.0.1:2;").select.func
    assert rotation.RotatingSelection is plain
    slow = group("server 127.0.0.1:1 slow_start=1s; server 127.0.0.1:2;")
    kind = round_robin.RoundRobinSelection
    assert slow.select.func is slow_start.fitted(kind, slow.tier, by_agent=False)
    assert issubclass(slow.select.func, slow_start.SlowStart)


def test_the_only_server_is_used_as_ever() -> None:
    """There is nobody else to get the rest of its share."""
    balancer = group("server 127.0.0.1:1 slow_start=1h;")
    assert isinstance(balancer.select(session(Clock())), round_robin.SingleSelection)


@pytest.mark.parametrize("method", ["hash k", "hash k consistent", "random", "random two"])
def test_a_method_that_draws_does_not_take_it(method: str) -> None:
    """In nginx's words for such parameters."""
    lines = f"{method}; server 127.0.0.1:1 slow_start=30s;"
    found = build(f"stream {{ upstream u {{ {lines} }} }}").error
    assert found.startswith('balancing method does not support parameter "slow_start=30s" in ')


def test_what_is_no_time_is_refused() -> None:
    """As with other times."""
    found = build("stream { upstream u { server 127.0.0.1:1 slow_start=x; } }").error
    assert found.startswith('invalid parameter "slow_start=x" in ')
