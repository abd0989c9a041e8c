"""Turns that are read off are those that would have been worked out."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.stream.round_robin import Tier
from tests.support.balancing import (
    PLAIN,
    STEP,
    Clock,
    group,
    numbered,
    play,
    port,
    session,
)


def run(balancer: Any, clock: Clock, count: int) -> list[int]:
    """Let sessions end well one after the other; return the ports they were sent to."""
    found = []
    for _ in range(count):
        selection = balancer.select(session(clock))
        peer = selection.get()
        selection.free(peer, False)
        found.append(port(peer))
    return found


@given(specs=st.lists(PLAIN, min_size=2, max_size=6), steps=st.lists(STEP, max_size=40))
@settings(max_examples=300)
def test_turns_read_off_are_those_worked_out(
    specs: list[dict[str, Any]], steps: list[tuple[str, int]]
) -> None:
    """Rows of turns begin and end with failures in between, and no choice differs for it."""
    pause = [("run", 60), ("wait", 30_000), ("run", 60)]
    play(specs, [("run", 25), *steps, *pause, *steps, *pause])


def test_an_old_failure_is_forgotten_while_turns_would_be_read_off() -> None:
    """A failure short of max_fails is cleared by a success after fail_timeout, in any group."""
    balancer = group(numbered([{"max_fails": 2}, {"max_fails": 2}]))
    clock = Clock()
    warnings = []
    for _ in range(2):
        s = session(clock)
        selection = balancer.select(s)
        selection.free(selection.get(), True)  # on server 1, the one whose turn it is
        warnings += s.lines
        for pause_ms in (0, 20_000):
            clock.now_ms += pause_ms
            run(balancer, clock, 9 + (pause_ms == 0) * 10)
    assert [] == warnings


def test_a_row_of_turns_is_read_off() -> None:
    """While all servers are well the turns are read off: what makes ten servers cheap."""
    balancer = group(numbered([{"weight": 2} for _ in range(10)]))
    run(balancer, Clock(), 10)
    assert 0 == balancer.tier.aid.turn


def test_no_row_is_written_where_max_conns_may_change_a_turn() -> None:
    """A group with max_conns works every turn out."""
    balancer = group(numbered([{"max_conns": 100}, {}]))
    run(balancer, Clock(), 20)
    assert -1 == balancer.tier.aid.turn


def test_servers_that_stay_go_on_with_their_weights() -> None:
    """New members in the middle of a row do not disturb the turns of those that stay."""
    balancer = group(numbered([{"weight": 3}, {"weight": 2}]))
    clock = Clock()
    run(balancer, clock, 13)
    balancer.use(Tier("u", balancer.tier.peers))
    assert [2, 1, 1] == run(balancer, clock, 3)  # the row is 1 2 1 2 1


def test_a_session_from_another_process_ends_the_row_by_its_failure() -> None:
    """The server that it fails on is passed over at once, though turns were being read off."""
    balancer = group(numbered([{}, {}]))
    clock = Clock()
    run(balancer, clock, 10)
    assert balancer.tier.aid.turn >= 0
    selection, peer = balancer.resume(session(clock, is_udp=True), "127.0.0.1:1")
    selection.free(peer, True)
    assert [2] * 6 == run(balancer, clock, 6)
