"""least_time expects each server to take what it took so far, times its sessions."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.modules.upstream import least_time
from ngxstream.stream import upstream
from ngxstream.stream.peer_state import PeerState
from ngxstream.stream.upstream import UpstreamState
from tests.support.balancing import Clock, group, numbered, port, session, take
from tests.support.in_process import build


def state(clock: Clock, connect: int = -1, first: int = -1, whole: int = -1) -> UpstreamState:
    """Make the record of an attempt that began now."""
    made = UpstreamState(clock.now_ms)
    made.connect_ms, made.first_byte_ms, made.session_ms = connect, first, whole
    return made


@given(old=st.integers(0, 100_000), value=st.integers(0, 100_000))
@settings(max_examples=100)
def test_an_average_moves_a_twentieth_of_the_way(old: int, value: int) -> None:
    """The first value is taken whole, later ones by 5 per cent, rounded to whole milliseconds."""
    expected = value if old == 0 else (value * 5 + old * 95 + 50) // 100
    assert abs(expected - least_time.average(old, value)) <= ((value * 5 + old * 95) % 100 == 50)


@pytest.mark.parametrize(
    ("ms", "idle_s", "conns", "waiting", "inflight_ms", "expected"),
    [
        (0, 0, 0, 0, 0, 20),
        (19, 0, 0, 0, 0, 20),
        (20, 0, 0, 0, 0, 40),
        (39, 0, 2, 0, 0, 120),
        (5000, 0, 0, 0, 0, 5020),
        (5001, 0, 0, 0, 0, 5000),
        (400, 10, 0, 0, 0, 420),  # fail_timeout is 10: still within
        (400, 11, 0, 0, 0, 220),  # halved once
        (400, 22, 0, 0, 0, 120),  # halved twice
        (400, 1000, 0, 0, 0, 20),
        (100, 0, 0, 1, 700, 720),
        (100, 0, 0, 0, 700, 120),  # nobody waits: what they waited does not count
        (100, 0, 0, 1, 70, 120),
    ],
)
def test_expected_time(
    ms: int, idle_s: int, conns: int, waiting: int, inflight_ms: int, expected: int
) -> None:
    """Averages fall into buckets of 20 ms, age by halves, and count once per session and one."""
    mode = least_time.Mode("connect", inflight=True)
    state = PeerState(connect_ms=ms, conns=conns, checked_ms=1_000_000 - idle_s * 1000)
    peer: Any = SimpleNamespace(state=state, fail_timeout=10)
    assert expected == mode.expected(peer, 1_000_000, inflight_ms if waiting else 0)


FIELDS = {"connect": "connect", "first_byte": "first", "last_byte": "whole"}


@pytest.mark.effect("least_time")
@pytest.mark.parametrize("mode", list(FIELDS))
def test_the_faster_server_is_chosen(mode: str) -> None:
    """After one session each, sessions go to the server whose measured time was shorter."""
    balancer = group(f"least_time {mode}; server 127.0.0.1:1; server 127.0.0.1:2;")
    clock = Clock()
    for ms in (500, 30):  # servers 1 and 2, in turn
        selection = balancer.select(session(clock))
        times = {"connect": 1, "first": 1, "whole": 1, FIELDS[mode]: ms}
        selection.free(selection.get(), False, state(clock, **times))
    assert [2, 2] == [take(balancer.select(session(clock))) for _ in range(2)]


def test_failed_attempts_teach_nothing() -> None:
    """The time of an attempt that failed is not averaged."""
    balancer = group("least_time connect; server 127.0.0.1:1; server 127.0.0.1:2;")
    clock = Clock()
    selection = balancer.select(session(clock))
    peer = selection.get()
    selection.free(peer, True, state(clock, connect=5, first=6, whole=7))
    assert (0, 0, 0) == (peer.state.connect_ms, peer.state.first_byte_ms, peer.state.response_ms)


def test_what_did_not_happen_is_not_averaged() -> None:
    """A session that ends well without a byte from the server leaves its first_byte average."""
    balancer = group("least_time first_byte; server 127.0.0.1:1; server 127.0.0.1:2;")
    clock = Clock()
    selection = balancer.select(session(clock))
    peer = selection.get()
    selection.free(peer, False, state(clock, connect=5, whole=70))
    assert (5, 0, 70) == (peer.state.connect_ms, peer.state.first_byte_ms, peer.state.response_ms)


@pytest.mark.effect("least_time")
@pytest.mark.parametrize(("mode", "event"), [("connect", upstream.CONNECT),
                                             ("first_byte", upstream.FIRST_BYTE)])
def test_inflight_learns_when_the_event_comes(mode: str, event: int) -> None:
    """With inflight the measured time is averaged once, at its event, and nobody waits then."""
    balancer = group(f"least_time {mode} inflight; server 127.0.0.1:1; server 127.0.0.1:2;")
    clock = Clock()
    s = session(clock)
    selection = balancer.select(s)
    peer = selection.get()
    record = state(clock, connect=40, first=40)
    s.states = [record]
    clock.now_ms += 40
    assert 1 == peer.state.waiting
    selection.notify(peer, event)
    assert 0 == peer.state.waiting
    record.session_ms = 40
    selection.free(peer, False, record)
    assert 40 == getattr(peer.state, f"{mode}_ms")


@settings(max_examples=50)
@given(st.sampled_from(list(FIELDS)), st.lists(st.tuples(st.integers(0, 900), st.booleans()),
                                               max_size=20))
def test_a_choice_can_be_foreseen(mode: str, steps: list[tuple[int, bool]]) -> None:
    """It is the one that is made then, and making it known changes nothing."""
    balancer = group(f"least_time {mode} inflight; server 127.0.0.1:1 weight=2;"
                     " server 127.0.0.1:2; server 127.0.0.1:3 backup;")
    clock = Clock()
    open_ones = []
    for ms, ends in steps:
        clock.now_ms += ms
        foreseen = [balancer.select(session(clock)).foresee() for _ in range(2)]
        selection = balancer.select(session(clock))
        peer = selection.get()
        assert [[peer], [peer]] == foreseen
        open_ones.append((selection, peer))
        if ends:
            selection, peer = open_ones.pop(0)
            selection.free(peer, False, state(clock, connect=ms, first=ms, whole=ms))


def test_sessions_that_wait_too_long_spoil_a_server() -> None:
    """A server that lets sessions wait is judged by the wait before any of them is done."""
    balancer = group("least_time last_byte inflight; server 127.0.0.1:1 weight=10;"
                     " server 127.0.0.1:2;")
    clock = Clock()
    first = balancer.select(session(clock))
    assert 1 == take(first)
    clock.now_ms += 3000
    # 2 sessions of 3020 ms for weight 10 against one of 20 ms for weight 1
    assert 2 == take(balancer.select(session(clock)))


@given(ends=st.permutations(range(5)), gaps=st.lists(st.integers(0, 50), min_size=5, max_size=5))
@settings(max_examples=60)
def test_waiting_sessions_are_summed_exactly(ends: list[int], gaps: list[int]) -> None:
    """However waiting sessions come and go, what they waited is the sum of their times so far."""
    balancer = group("least_time last_byte inflight; server 127.0.0.1:1;"
                     " server 127.0.0.1:2 down;")
    clock = Clock()
    began: dict[int, tuple[Any, Any, int]] = {}
    for n, gap in enumerate(gaps):
        selection = balancer.select(session(clock))
        began[n] = selection, selection.get(), clock.now_ms
        clock.now_ms += gap
    for n in ends:
        selection, peer, start = began.pop(n)
        clock.now_ms += 7
        record = UpstreamState(start)
        record.session_ms = clock.now_ms - start
        selection.free(peer, False, record)
        expected = sum(clock.now_ms - other for _, _, other in began.values())
        assert (len(began), expected) == (peer.state.waiting, peer.state.waited_ms)


def test_equal_servers_take_turns_by_weight() -> None:
    """Servers of unknown speed and equal load are taken in turn."""
    balancer = group("least_time connect;" + numbered([{}] * 3))
    clock = Clock()
    found = []
    for _ in range(6):
        selection = balancer.select(session(clock))
        peer = selection.get()
        found.append(port(peer))
        selection.free(peer, False)
    assert [1, 2, 3, 1, 2, 3] == found


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("least_time header; server 127.0.0.1:1;", 'invalid value "header"'),
        ("least_time connect outflight; server 127.0.0.1:1;", 'invalid parameter "outflight"'),
        ("least_time connect; least_time connect; server 127.0.0.1:1;",
         '"least_time" directive is duplicate'),
        ("least_time; server 127.0.0.1:1;",
         'invalid number of arguments in "least_time" directive'),
        ("least_time CONNECT inflight; server 127.0.0.1:1; server 127.0.0.1:2 backup;", ""),
    ],
)
def test_least_time_is_judged_as_in_nginx(lines: str, error: str) -> None:
    """What nginx refuses is refused in its words."""
    place = " in /p/conf/nginx.conf:1" if error else ""
    assert error + place == build(f"stream {{ upstream u {{ {lines} }} }}").error
