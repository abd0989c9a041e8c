"""Peers that are read in one go are chosen as by the loop over them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import shm
from ngxstream.modules.upstream import peer_table, zone
from ngxstream.modules.upstream.columns import Columns
from ngxstream.stream import peer_state, round_robin, steady
from ngxstream.stream.round_robin import Tier
from tests.support.balancing import Clock, numbered, port, session, upstream

NOW = 1_000_000
CONDITION = st.fixed_dictionaries({
    "status": st.sampled_from([0, 0, 0, 0, peer_state.UNHEALTHY, peer_state.CHECKING]),
    "current_weight": st.integers(-9, 9),
    "fails": st.sampled_from([0, 0, 0, 1, 2]),
    "checked_ms": st.sampled_from([NOW, NOW - 10_000, NOW - 11_000]),
    "conns": st.integers(0, 3),
    "missing": st.sampled_from([0, 0, 0, 1]),
})
SERVER = st.fixed_dictionaries({
    "weight": st.integers(1, 3),
    "max_conns": st.sampled_from([0, 0, 2]),
    "max_fails": st.sampled_from([1, 2, 0]),
    "down": st.sampled_from([False, False, False, True]),
})
EQUAL = SERVER.map(lambda server: server | {"weight": 2})


def shared(lines: str, rows: int = 128) -> Any:
    """Return the balancer of a group in a zone."""
    conf = upstream(lines)
    made = shm.Zone("z", peer_table.ROW_BYTES * rows, "upstream")
    table = made.data = peer_table.PeerTable(made)
    table.next_configuration()
    zone.share(conf, table)
    return conf.balancer


def put(balancer: Any, conditions: list[dict[str, int]]) -> None:
    """Have peers fare so."""
    for peer, wanted in zip(balancer.tier.peers, conditions, strict=False):
        state = peer.state
        failed = peer_state.FAILED if wanted["fails"] else 0
        state.status = state.status | wanted["status"] | failed
        state.effective_weight = max(peer.weight - wanted["missing"], 0)
        for name in ("current_weight", "fails", "checked_ms"):
            setattr(state, name, wanted[name])
        if wanted["conns"]:
            state.hold(wanted["conns"])


@pytest.mark.parametrize("method", ["", "least_conn;"])
@given(servers=st.one_of(st.lists(SERVER, min_size=3, max_size=7),
                         st.lists(EQUAL, min_size=3, max_size=16)),
       conditions=st.lists(CONDITION, min_size=16, max_size=16), tried=st.integers(0, 127),
       is_well=st.booleans())
@settings(max_examples=200)
def test_the_choice_is_that_of_the_loop(
    method: str, servers: list[dict[str, Any]], conditions: list[dict[str, int]], tried: int,
    is_well: bool,
) -> None:
    """Whatever the peers' states are, and the weights differ afterwards as the loop has them."""
    if is_well:
        well = {"status": 0, "fails": 0, "missing": 0}
        conditions = [one | well for one in conditions]
        tried = 0
    lines = numbered(servers) + method
    both = [shared(lines), shared(lines)]
    found, after = [], []
    for balancer in both:
        put(balancer, conditions)
        tier = balancer.tier
        among = tried & (1 << tier.number) - 1
        plain = balancer.plain(tier, session(Clock(NOW)))
        if balancer is both[0]:
            assert isinstance(tier.aid, Columns)
            choice = tier.aid.choose(among, NOW, by_load=bool(method))
            found.append(None if choice is None else choice[1])
        elif method:
            usable = round_robin.usable(tier.choices, among, NOW)
            found.append(plain.pick(usable, NOW))
        else:
            usable = round_robin.usable(tier.choices, among, NOW)
            found.append(round_robin.RoundRobinSelection.take_turn(plain, usable, NOW))
        weights = [peer.state.current_weight for peer in tier.peers]
        effective = [peer.state.effective_weight for peer in tier.peers]
        after.append(([weight - weights[0] for weight in weights], effective))
    chosen, expected = (peer and port(peer) for peer in found)
    assert expected == chosen
    assert after[1] == after[0]


@pytest.mark.parametrize("weights", [{2}, {1, 2}])
@pytest.mark.parametrize("current", [-(1 << 63), (1 << 63) - 1])
@pytest.mark.parametrize("effective", [-(1 << 63), 0, (1 << 63) - 1])
def test_nonsense_in_the_memory_has_no_peer_chosen_that_is_out(
    weights: set[int], current: int, effective: int
) -> None:
    """Whatever a process of another user has written there, and no exception comes of it."""
    balancer = shared(numbered([{"weight": n} for n in (*weights, *weights, *weights)]))
    tier = balancer.tier
    for _ in range(20):
        for n in range(tier.number):
            tier.aid.current[n], tier.aid.effective[n] = current, effective
        for tried in (0, 1, 0b101):
            place = tier.aid.choose(tried, NOW, by_load=False)[0]
            assert not place & tried


def test_a_weight_of_before_is_forgotten() -> None:
    """A worker that did not know yet of a lower one has said it; all are read in one go again."""
    balancer = shared(numbered([{}] * 3))
    columns = balancer.tier.aid
    columns.effective[1] = 7
    balancer.select(session(Clock())).get()
    assert columns.full == columns.effective.tobytes()


def test_current_weights_stay_small() -> None:
    """A server that joins later, with 0, is not far above the others."""
    balancer = shared(numbered([{"weight": 3} for _ in range(20)]))
    for _ in range(1000):
        balancer.select(session(Clock())).get()
    weights = [peer.state.current_weight for peer in balancer.tier.peers]
    assert -3 * 60 <= min(weights)
    assert max(weights) <= 3 * 60
    assert {50} == {peer.state.conns for peer in balancer.tier.peers}


def test_rows_that_do_not_follow_each_other_are_read_one_by_one() -> None:
    """As those of a group that shares its zone and got another server later."""
    balancer = shared(numbered([{} for _ in range(5)]))
    assert steady.LockedWide is balancer.select.func
    peers = balancer.tier.peers
    balancer.use(Tier("u", [*peers[:2], *peers[3:]], None, balancer.tier.lock))
    assert balancer.tier.aid is None
    assert round_robin.Locked is balancer.select.func
    taken = [port(balancer.select(session(Clock())).get()) for _ in range(4)]
    assert [1, 2, 4, 5] == taken


def test_two_servers_are_not_worth_it() -> None:
    """They are read one by one."""
    assert shared(numbered([{}, {}])).tier.aid is None
