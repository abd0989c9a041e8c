"""What all checks of a group say of its peers, and what is shown of that."""

from __future__ import annotations

from typing import Any

import pytest

from ngxstream.core import shm
from ngxstream.modules.health import group as groups
from ngxstream.modules.health.group import Group
from ngxstream.stream import health, peer_state
from ngxstream.stream.upstream import Peer
from tests.support.in_process import Built, build

NOW = 1_000_000


def made(words: str = "", servers: int = 2) -> tuple[Built, Any, list[Peer]]:
    """Return a built block with a group that is settled, the group, and its peers."""
    lines = " ".join(f"server 127.0.0.1:{n + 1};" for n in range(servers))
    built = build(
        f"stream {{ upstream u {{ {lines} }} server {{ listen 127.0.0.1:9; proxy_pass u; "
        f"health_check {words}; }} }}"
    )
    assert built.conf is not None, built.error
    built.zones.build()
    found: Any = built.conf.upstreams[0].health
    assert isinstance(found, Group)
    found.settle(NOW)
    return built, found, list(groups.peers_of(found.upstream))


def note(group: Group, peer: Peer, passed: bool, now_ms: int = NOW) -> None:
    """Take down a result."""
    cells = group.records[0].target(groups.row_of(peer))
    health.note(cells, group.checks[0].spec.rule, passed)
    group.tell(peer, now_ms)


def test_the_time_without_a_server_is_counted() -> None:
    """From the first failed check to the first one that passes."""
    _, group, (peer, _) = made()
    note(group, peer, passed=False, now_ms=NOW)
    note(group, peer, passed=False, now_ms=NOW + 500)
    assert NOW == peer.state.lost_ms
    note(group, peer, passed=True, now_ms=NOW + 700)
    state = peer.state
    assert (0, 700, NOW + 700) == (state.lost_ms, state.lost_for_ms, state.back_ms)


def test_failures_of_sessions_are_others() -> None:
    """A server that has too many of them is not back because its checks pass."""
    _, group, (peer, _) = made()
    state = peer.state
    state.fail(NOW)
    state.lose(NOW)
    note(group, peer, passed=False)
    state.forgive()
    assert (0, NOW) == (state.fails, state.lost_ms), "its checks fail still"
    state.fail(NOW)
    note(group, peer, passed=True, now_ms=NOW + 100)
    assert (NOW, 0) == (state.lost_ms, state.lost_for_ms)
    state.forgive()
    assert 0 == state.lost_ms


def test_a_row_of_another_peer_begins_anew() -> None:
    """Whatever it said of the one before."""
    _, group, (peer, other) = made("mandatory")
    note(group, peer, passed=False)
    row = groups.row_of(peer)
    other.state = peer.state
    assert group.adopt(other, NOW)
    cells = group.records[0].target(row)
    assert [health.CHECKING, 0] == [cells[health.STATE], cells[health.CHECKS]]
    assert other.state.status & peer_state.CHECKING
    assert health.NOTHING == group.report(peer)


def test_a_peer_that_is_not_in_shared_memory_has_no_report() -> None:
    """Its group has no checks."""
    _, group, (peer, _) = made()
    assert health.Report() == group.report(peer)
    peer.state = peer_state.PeerState()
    assert health.NOTHING == group.report(peer)


def test_counters_can_begin_at_zero() -> None:
    """The state stays, and what the last check said."""
    _, group, (peer, _) = made()
    note(group, peer, passed=False)
    assert (1, 1, 1, False) == group.report(peer)
    group.reset(groups.row_of(peer))
    assert (0, 0, 0, False) == group.report(peer)
    assert peer.state.status & peer_state.UNHEALTHY


def test_what_others_wrote_is_no_state() -> None:
    """A group reads memory that other users may have spoiled."""
    _, group, (peer, _) = made()
    cells = group.records[0].target(groups.row_of(peer))
    for junk in (-1, 77, 1 << 62):
        cells[health.STATE] = junk
        assert 0 == group.effect(peer).bits
        note(group, peer, passed=True)
        assert health.UP == cells[health.STATE]


@pytest.mark.parametrize("number", [1, 2])
def test_a_configuration_is_settled_once(number: int) -> None:
    """By whichever of its workers is the first; later ones find what checks have found since."""
    _, group, (peer, _) = made("mandatory")
    note(group, peer, passed=True)
    for _ in range(number):
        group.settle(NOW)
    assert 0 == peer.state.status & health.BITS
    assert not group.is_superseded
    group.records[0].own[health.SETTLED] = 7
    assert group.is_superseded


def test_a_group_that_has_no_checks_any_more_is_cleared() -> None:
    """All its peers can be used."""
    _, group, (peer, other) = made("mandatory")
    note(group, peer, passed=False)
    groups.clear(group.upstream)
    assert 0 == (peer.state.status | other.state.status) & health.BITS


def test_shared_memory_is_asked_for_by_rows() -> None:
    """Records have as many as the zone of the group, however many peers it begins with."""
    built, group, _ = made(servers=200)
    zone = group.upstream.zone
    assert zone is not None
    assert 512 == group.records[0].capacity == zone.size // 256
    assert shm.LEAST == built.zones.requests["health checks"].size
