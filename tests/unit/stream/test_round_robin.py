"""Round robin chooses as nginx does, whatever fails, and accounts for failures as nginx does."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import log
from ngxstream.stream import upstream
from ngxstream.stream.round_robin import Tier
from ngxstream.stream.upstream import Peer, ServerSpec
from tests.support.balancing import (
    SPEC,
    STEP,
    Clock,
    group,
    has_primary,
    numbered,
    play,
    port,
    session,
    take,
)


def picks(lines: str, count: int) -> list[int]:
    """Return the ports chosen by so many sessions that end well at once."""
    balancer = group(lines)
    clock = Clock()
    found = []
    for _ in range(count):
        selection = balancer.select(session(clock))
        peer = selection.get()
        selection.free(peer, False)
        found.append(port(peer))
    return found


def test_weights_5_1_1_are_interleaved_as_in_nginx() -> None:
    """Weights 5, 1, 1 give a a b a c a a, over and over."""
    lines = "server 127.0.0.1:1 weight=5; server 127.0.0.1:2; server 127.0.0.1:3;"
    assert [1, 1, 2, 1, 3, 1, 1] * 4 == picks(lines, 28)


@given(weights=st.lists(st.integers(1, 30), min_size=2, max_size=8), rounds=st.integers(1, 4))
@settings(max_examples=60)
def test_every_server_gets_its_weight_in_each_round(weights: list[int], rounds: int) -> None:
    """In as many sessions as the weights add up to, each server has exactly its weight."""
    lines = numbered([{"weight": weight} for weight in weights])
    total = sum(weights)
    found = picks(lines, total * rounds)
    for i in range(rounds):
        chosen = Counter(found[i * total : (i + 1) * total])
        assert chosen == {n + 1: weight for n, weight in enumerate(weights)}


# -- against the model -------------------------------------------------------------------------

@given(specs=st.lists(SPEC, min_size=1, max_size=6).filter(has_primary),
       steps=st.lists(STEP, max_size=60))
@settings(max_examples=300)
def test_choices_and_failures_are_those_of_the_rules(
    specs: list[dict[str, Any]], steps: list[tuple[str, int]]
) -> None:
    """With any servers and whatever happens to sessions, each choice is the one of the rules."""
    play(specs, steps)


# -- the rules one by one ----------------------------------------------------------------------


def fail_once(balancer: Any, clock: Clock) -> Any:
    """Let one session fail on the server it gets."""
    s = session(clock)
    selection = balancer.select(s)
    selection.free(selection.get(), True)
    return s


def test_a_disabled_server_is_announced_and_left_alone() -> None:
    """The failure that reaches max_fails warns, and the server gets no session for a while."""
    balancer = group("server 127.0.0.1:1 max_fails=2; server 127.0.0.1:2 down;")
    clock = Clock()
    first = fail_once(balancer, clock)
    second = fail_once(balancer, clock)
    assert [] == first.lines
    assert [(log.WARN, "upstream server temporarily disabled")] == second.lines
    assert 0 == take(balancer.select(session(clock)))


@pytest.mark.parametrize(("waited_ms", "expected"), [(10_000, 0), (10_999, 0), (11_000, 1)])
def test_fail_timeout_counts_whole_seconds(waited_ms: int, expected: int) -> None:
    """With fail_timeout=10s a server is out for more than ten whole seconds."""
    balancer = group("server 127.0.0.1:1 fail_timeout=10s; server 127.0.0.1:2 down;")
    clock = Clock(1_000_000)
    fail_once(balancer, clock)
    clock.now_ms += waited_ms
    assert expected == take(balancer.select(session(clock)))


def test_one_probe_passes_per_fail_timeout() -> None:
    """After the quarantine one session goes through; the next has to wait as long again."""
    balancer = group("server 127.0.0.1:1; server 127.0.0.1:2 down;")
    clock = Clock()
    fail_once(balancer, clock)
    clock.now_ms += 11_000
    got = [take(balancer.select(session(clock))) for _ in range(2)]
    assert [1, 0] == got


@pytest.mark.parametrize(("is_udp", "expected"), [(False, 1), (True, 0)])
def test_a_probe_that_connects_brings_a_tcp_server_back(is_udp: bool, expected: int) -> None:
    """A TCP connection that stands clears the failures at once; for UDP it says nothing."""
    balancer = group("server 127.0.0.1:1; server 127.0.0.1:2 down;")
    clock = Clock()
    fail_once(balancer, clock)
    clock.now_ms += 11_000
    selection = balancer.select(session(clock, is_udp))
    selection.notify(selection.get(), upstream.CONNECT)
    assert expected == take(balancer.select(session(clock)))


@pytest.mark.parametrize("by_connect", [False, True])
def test_a_success_between_failures_forgives_nothing(by_connect: bool) -> None:
    """A server that fails and serves in turn is disabled by max_fails failures all the same."""
    balancer = group("server 127.0.0.1:1 max_fails=3; server 127.0.0.1:2 down;")
    clock = Clock()
    for _ in range(3):
        fail_once(balancer, clock)
        clock.now_ms += 500
        selection = balancer.select(session(clock))
        peer = selection.get() if take(balancer.select(session(clock))) else None
        if peer is not None:
            if by_connect:
                selection.notify(peer, upstream.CONNECT)
            selection.free(peer, False)
    assert 0 == take(balancer.select(session(clock)))


@pytest.mark.parametrize("is_udp", [False, True])
def test_a_success_after_the_quarantine_forgives_all(is_udp: bool) -> None:
    """What was checked since its last failure begins with no failures again, by UDP too."""
    balancer = group("server 127.0.0.1:1 max_fails=2; server 127.0.0.1:2 down;")
    clock = Clock()
    for _ in range(2):
        fail_once(balancer, clock)
    clock.now_ms += 11_000
    selection = balancer.select(session(clock, is_udp))
    selection.free(selection.get(), False)
    fail_once(balancer, clock)
    assert 1 == take(balancer.select(session(clock)))  # one failure of two


@pytest.mark.parametrize("event", [upstream.CONNECT, upstream.FIRST_BYTE])
def test_only_a_connection_brings_a_server_back_before_its_session_ends(event: int) -> None:
    """The first byte of a probe says no more than its connection did."""
    balancer = group("server 127.0.0.1:1; server 127.0.0.1:2 down;")
    clock = Clock()
    fail_once(balancer, clock)
    clock.now_ms += 11_000
    selection = balancer.select(session(clock))
    selection.notify(selection.get(), event)
    assert (event == upstream.CONNECT) == take(balancer.select(session(clock)))


def test_the_only_server_is_never_disabled() -> None:
    """A group of one address counts no failures and has no other to try."""
    balancer = group("server 127.0.0.1:1;")
    clock = Clock()
    assert [[], [], []] == [fail_once(balancer, clock).lines for _ in range(3)]
    selection = balancer.select(session(clock))
    peer = selection.get()
    selection.free(peer, True)
    assert (0, 1) == (selection.tries, port(peer))
    assert selection is balancer.select(session(clock))


def test_a_server_with_a_backup_is_not_the_only_one() -> None:
    """One primary and one backup: the primary is disabled and the backup takes over."""
    balancer = group("server 127.0.0.1:1; server 127.0.0.1:2 backup;")
    clock = Clock()
    selection = balancer.select(session(clock))
    peer = selection.get()
    selection.free(peer, True)
    assert (1, 1, 2) == (port(peer), selection.tries, take(selection))
    assert 2 == take(balancer.select(session(clock)))


def test_no_server_takes_more_than_max_conns() -> None:
    """Sessions beyond max_conns go elsewhere, and nowhere once all are full."""
    lines = "server 127.0.0.1:1 max_conns=2; server 127.0.0.1:2 max_conns=1;"
    balancer = group(lines)
    clock = Clock()
    held = [balancer.select(session(clock)) for _ in range(4)]
    assert [1, 2, 1, 0] == [take(selection) for selection in held]


def test_more_than_64_servers_are_tried_once_each() -> None:
    """A session that fails everywhere goes over all servers of a large group, each once."""
    balancer = group(numbered([{} for _ in range(100)]))
    selection = balancer.select(session(Clock()))
    tried = []
    while selection.tries:
        peer = selection.get()
        tried.append(port(peer))
        selection.free(peer, True)
    assert sorted(tried) == list(range(1, 101))


# -- servers that come and go ------------------------------------------------------------------

METHODS = [
    "", "least_conn;", "least_time connect inflight;", "random;", "random two;", "hash k;",
    "hash k consistent;",
]

every_method = pytest.mark.parametrize("method", METHODS)


def peer(number: int) -> Peer:
    """Make a peer like those of numbered()."""
    name = f"127.0.0.1:{number}"
    return Peer(ServerSpec(name, []), 2, ("127.0.0.1", number), name)


@every_method
def test_a_group_without_servers_has_no_live_ones(method: str) -> None:
    """As long as no name was resolved, sessions find nobody, and servers that come are used."""
    balancer = group(method + numbered([{}, {}]))
    clock = Clock()
    balancer.use(Tier("u", []))
    assert 0 == take(balancer.select(session(clock)))
    balancer.use(Tier("u", [peer(7)]))
    assert 7 == take(balancer.select(session(clock)))
    balancer.use(Tier("u", [peer(7), peer(8), peer(9)]))
    assert {7, 8, 9} >= {take(balancer.select(session(clock))) for _ in range(9)} > set()


@every_method
def test_backups_serve_a_group_whose_names_have_no_address(method: str) -> None:
    """Without any primary the backups are used."""
    balancer = group(method + numbered([{}, {}]))
    balancer.use(Tier("u", [], Tier("u", [peer(5)])))
    assert 5 == take(balancer.select(session(Clock())))


@every_method
def test_a_session_goes_on_with_the_servers_it_began_with(method: str) -> None:
    """A session that has to try another server finds those of its beginning, each once."""
    balancer = group(method + numbered([{}] * 4))
    selection = balancer.select(session(Clock()))
    tried = []
    while selection.tries:
        chosen = selection.get()
        tried.append(port(chosen))
        balancer.use(Tier("u", [peer(20 + len(tried)), peer(30)]))
        selection.free(chosen, True)
    assert [1, 2, 3, 4] == sorted(tried)


@every_method
def test_a_server_that_stays_keeps_its_sessions(method: str) -> None:
    """Sessions of a peer that both the old and the new group have are counted on."""
    balancer = group(method + numbered([{}, {}]))
    selection = balancer.select(session(Clock()))
    chosen = selection.get()
    balancer.use(Tier("u", [chosen, peer(9)]))
    assert 1 == chosen.state.conns
    selection.free(chosen, False)
    assert 0 == chosen.state.conns


def test_a_choice_among_some_is_by_turns_and_lets_weights_recover() -> None:
    """What methods use for servers that are as good: weights count, also those lost by failures."""
    balancer = group("server 127.0.0.1:1 weight=3; server 127.0.0.1:2 weight=1;")
    clock = Clock()
    peers = balancer.tier.peers
    peers[0].state.effective_weight = 1
    found = []
    for _ in range(12):
        selection = balancer.select(session(clock))
        peer = selection.take_turn(balancer.tier.choices, clock.now_ms)
        assert 1 << peers.index(peer) == selection.tried
        found.append(port(peer))
    # effective weights 1 and 1, then 2 and 1, from then on 3 and 1
    assert [1, 2, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1] == found
    assert selection.take_turn([], clock.now_ms) is None


def test_a_failure_is_dated_by_the_whole_second_it_came_in() -> None:
    """Both times of a server that failed are not later than the failure."""
    clock = Clock(1_000_700)
    selection = group("server 127.0.0.1:1; server 127.0.0.1:2;").select(session(clock))
    peer = selection.get()
    selection.free(peer, True)
    assert (1_000_000, 1_000_000) == (peer.state.accessed_ms, peer.state.checked_ms)
