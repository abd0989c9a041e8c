"""How the servers of a group are shown: their ids, their lines, who was removed."""

from __future__ import annotations

from typing import Any

from ngxstream.modules.upstream import view
from ngxstream.stream.upstream import UpstreamConf
from tests.support.balancing import Clock, session
from tests.support.in_process import build


def group(lines: str) -> UpstreamConf:
    """Build an upstream and its zone."""
    built = build(f"stream {{ upstream u {{ {lines} }} }}")
    assert built.conf is not None, built.error
    built.zones.build()
    return built.conf.upstreams[0]


TWO = "server 127.0.0.1:1 backup; server 127.0.0.1:2 weight=3; server 127.0.0.1:1;"


def test_peers_without_a_zone_are_counted_primaries_first() -> None:
    """Each has its place as its id, and its server line."""
    shown = list(view.peers(group(TWO)))
    assert [(0, "127.0.0.1:2", False), (1, "127.0.0.1:1", False), (2, "127.0.0.1:1", True)] == [
        (one.id, one.peer.name, one.backup) for one in shown
    ]
    assert [3, 1, 1] == [one.spec.weight for one in shown]
    assert [(-1, "")] * 3 == [(one.parent, one.host) for one in shown]


def test_peers_of_a_zone_have_their_rows_as_ids() -> None:
    """No two of them have the same one, backups included."""
    shown = list(view.peers(group(f"zone z 64k; {TWO}")))
    assert {0, 1, 2} == {one.id for one in shown}


def test_who_was_removed_is_a_zombie_until_its_sessions_end() -> None:
    """One without sessions is none, nor one of another group."""
    conf = group(f"zone z 64k; {TWO}")
    assert conf.zone is not None
    assert conf.zone.zone is not None
    table = conf.zone.zone.data
    assert conf.balancer is not None
    selection: Any = conf.balancer.select(session(Clock()))
    peer: Any = selection.get()
    rows = [one.id for one in view.peers(conf)]
    assert 0 == view.zombies(conf)
    for row in rows:
        table.release(row, "U")
    assert 1 == view.zombies(conf)
    assert 0 == table.zombies("another")
    selection.free(peer, False)
    peer.state.settle()
    assert 0 == view.zombies(conf)


def test_who_has_no_zone_has_no_zombies() -> None:
    """Its servers change with the configuration alone."""
    assert 0 == view.zombies(group(TWO))
