"""random draws by weight, passes unusable servers over, and `two` takes the less busy of two."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balancing import Clock, group, numbered, session, take
from tests.support.in_process import build


def drawn(lines: str, count: int) -> Counter[int]:
    """Return how often each port was chosen by sessions that end at once."""
    balancer = group(lines)
    clock = Clock()
    found: Counter[int] = Counter()
    for _ in range(count):
        selection = balancer.select(session(clock))
        peer = selection.get()
        selection.free(peer, False)
        found[peer.sockaddr[1]] += 1
    return found


@pytest.mark.parametrize("method", ["random", "random two", "random two least_conn"])
def test_no_server_is_left_out(method: str) -> None:
    """Every server is drawn sooner or later."""
    assert {1, 2, 3, 4} == set(drawn(f"{method};" + numbered([{}] * 4), 800))


def test_shares_follow_the_weights() -> None:
    """A server of weight 9 beside one of weight 1 gets nine tenths (six sigmas allowed)."""
    found = drawn("random;" + numbered([{"weight": 1}, {"weight": 9}]), 10_000)
    assert 820 < found[1] < 1180


@given(usable=st.integers(1, 2**6 - 1), method=st.sampled_from(["random", "random two"]))
@settings(max_examples=100)
def test_servers_that_are_down_are_never_drawn(usable: int, method: str) -> None:
    """Whatever servers are down, sessions go to the others: round robin helps if luck does not."""
    up = {n + 1 for n in range(6) if usable >> n & 1}
    lines = numbered([{"down": n + 1 not in up} for n in range(6)])
    assert set(drawn(f"{method}; {lines}", 30)) <= up


@given(failures=st.integers(2, 8), method=st.sampled_from(["random", "random two"]))
@settings(max_examples=60)
def test_a_session_never_tries_a_server_twice(failures: int, method: str) -> None:
    """Each try of a session goes to another server, and each server is tried before it gives up."""
    selection = group(f"{method};" + numbered([{}] * failures)).select(session(Clock()))
    tried = []
    while selection.tries:
        peer = selection.get()
        tried.append(peer.sockaddr[1])
        selection.free(peer, True)
    assert sorted(tried) == list(range(1, failures + 1))


def test_two_takes_the_less_busy_of_two() -> None:
    """Of two servers, both drawn, the one with fewer sessions for its weight is taken."""
    balancer = group("random two; server 127.0.0.1:1; server 127.0.0.1:2 weight=3;")
    clock = Clock()
    for _ in range(40):
        take(balancer.select(session(clock)))
    assert [10, 30] == [peer.state.conns for peer in balancer.tier.peers]


def test_full_servers_are_passed_over() -> None:
    """max_conns holds for drawn servers too."""
    balancer = group("random;" + numbered([{"max_conns": 2}, {"max_conns": 3}]))
    clock = Clock()
    got = [take(balancer.select(session(clock))) for _ in range(6)]
    assert {1: 2, 2: 3, 0: 1} == Counter(got)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("random three; server 127.0.0.1:1;",
         'invalid parameter "three" in /p/conf/nginx.conf:1'),
        ("random two least_time=connect; server 127.0.0.1:1;",
         'invalid parameter "least_time=connect" in /p/conf/nginx.conf:1'),
        ("random two least_conn more; server 127.0.0.1:1;",
         'invalid number of arguments in "random" directive in /p/conf/nginx.conf:1'),
        ("random; server 127.0.0.1:1 backup;",
         'balancing method does not support parameter "backup" in /p/conf/nginx.conf:1'),
    ],
)
def test_random_is_judged_as_in_nginx(lines: str, error: str) -> None:
    """What nginx refuses is refused in its words."""
    assert error == build(f"stream {{ upstream u {{ {lines} }} }}").error
