"""Round robin chooses as nginx does, whatever fails, and accounts for failures as nginx does."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import log
from ngxstream.stream import upstream as law
from tests.support.balancing import (
    PLAIN,
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


@given(specs=st.lists(PLAIN, min_size=2, max_size=6), steps=st.lists(STEP, max_size=40))
@settings(max_examples=300)
def test_turns_read_off_are_those_worked_out(
    specs: list[dict[str, Any]], steps: list[tuple[str, int]]
) -> None:
    """Rows of turns begin and end with failures in between, and no choice differs for it."""
    pause = [("run", 60), ("wait", 30_000), ("run", 60)]
    play(specs, [("run", 25), *steps, *pause, *steps, *pause])


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
    selection.notify(selection.get(), law.CONNECT)
    assert expected == take(balancer.select(session(clock)))


def test_the_only_server_is_never_disabled() -> None:
    """A group of one address counts no failures and gives one try."""
    balancer = group("server 127.0.0.1:1;")
    clock = Clock()
    assert [[], [], []] == [fail_once(balancer, clock).lines for _ in range(3)]
    selection = balancer.select(session(clock))
    assert 1 == selection.tries
    peer = selection.get()
    selection.free(peer, True)
    assert (0, 1) == (selection.tries, port(peer))


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


def test_an_old_failure_is_forgotten_while_turns_would_be_read_off() -> None:
    """A failure short of max_fails is cleared by a success after fail_timeout, in any group."""
    balancer = group(numbered([{"max_fails": 2}, {"max_fails": 2}]))
    clock = Clock()
    warnings = []
    for _ in range(2):
        warnings += fail_once(balancer, clock).lines  # on server 1, the one whose turn it is
        for pause_ms in (0, 20_000):
            clock.now_ms += pause_ms
            for _ in range(9 + (pause_ms == 0) * 10):
                selection = balancer.select(session(clock))
                selection.free(selection.get(), False)
    assert [] == warnings


def test_a_row_of_turns_is_read_off() -> None:
    """While all servers are well the turns are read off: what makes ten servers cheap."""
    balancer = group(numbered([{"weight": 2} for _ in range(10)]))
    clock = Clock()
    for _ in range(10):
        selection = balancer.select(session(clock))
        selection.free(selection.get(), False)
    assert 0 == balancer.tier.aid.turn
