"""least_conn sends sessions to the server with the fewest for its weight."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balancing import (
    SPEC,
    STEP,
    Clock,
    group,
    has_primary,
    numbered,
    play,
    session,
    take,
)
from tests.support.in_process import build


@given(specs=st.lists(SPEC, min_size=1, max_size=6).filter(has_primary),
       steps=st.lists(STEP, max_size=60))
@settings(max_examples=300)
def test_choices_are_those_of_the_rules(
    specs: list[dict[str, Any]], steps: list[tuple[str, int]]
) -> None:
    """With any servers and whatever happens to sessions, each choice is the one of the rules."""
    play(specs, steps, "least_conn")


@given(weights=st.lists(st.integers(1, 9), min_size=2, max_size=6))
@settings(max_examples=50)
def test_sessions_that_stay_fill_servers_by_weight(weights: list[int]) -> None:
    """As many sessions as the weights add up to leave each server with exactly its weight."""
    balancer = group("least_conn;" + numbered([{"weight": weight} for weight in weights]))
    clock = Clock()
    for _ in range(sum(weights)):
        take(balancer.select(session(clock)))
    assert weights == [peer.state.conns for peer in balancer.tier.peers]


def test_the_busy_server_gets_nothing_until_it_is_less_busy() -> None:
    """A server with more sessions is passed over until the others have as many."""
    balancer = group("least_conn; server 127.0.0.1:1; server 127.0.0.1:2;")
    balancer.tier.peers[0].state.conns = 3
    clock = Clock()
    assert [2, 2, 2] == [take(balancer.select(session(clock))) for _ in range(3)]


def test_backups_are_balanced_by_the_same_method() -> None:
    """When no primary can be used, the least busy backup is."""
    balancer = group(
        "least_conn; server 127.0.0.1:1 down; server 127.0.0.1:2 backup; server 127.0.0.1:3 backup;"
    )
    balancer.tier.backup.peers[0].state.conns = 1
    assert 3 == take(balancer.select(session(Clock())))


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("least_conn 1; server 127.0.0.1:1;",
         'invalid number of arguments in "least_conn" directive in /p/conf/nginx.conf:1'),
        ("least_conn; server 127.0.0.1:1; server 127.0.0.1:2 backup;", ""),
    ],
)
def test_least_conn_is_judged_as_in_nginx(lines: str, error: str) -> None:
    """least_conn takes no parameter, and its servers any."""
    assert error == build(f"stream {{ upstream u {{ {lines} }} }}").error
