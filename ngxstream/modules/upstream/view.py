"""The servers of a group as they are shown: each with its id and the line it comes of.

1. A peer in shared memory has its row as its id: no other peer of its zone has it, it stays over
   changes and reloads, and another peer gets it only when the zone has no row left that was never
   used. A peer that is not in shared memory has its place in the group.
2. A line with `resolve` has an id too; the addresses of its name have it as their parent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ngxstream.modules.upstream import resolve
from ngxstream.modules.upstream.peer_table import PeerTable, ZonePeerState

if TYPE_CHECKING:
    from ngxstream.stream.round_robin import Tier
    from ngxstream.stream.upstream import Peer, ServerSpec, UpstreamConf


class Shown(NamedTuple):
    """One peer of a group.

    Args: spec: the server line it comes of (its `name` is the address as written, `service`);
    parent: the id of that line where the peer is an address of its name, -1 where it is the line's
    own; peer.name is the address, peer.state how it fares
    """

    id: int
    peer: Peer
    spec: ServerSpec
    backup: bool
    parent: int

    @property
    def host(self) -> str:
        """The name that the address was found for, as it is written; "" for none."""
        return self.spec.name if self.spec.resolve else ""


def peers(conf: UpstreamConf) -> Iterator[Shown]:
    """Return the peers of a group as they are at this moment: the primaries, then the backups."""
    balancer = conf.balancer
    assert balancer is not None
    if isinstance(balancer, resolve.Group):
        balancer.catch_up()
    return _shown(balancer.tier)


def _shown(tier: Tier | None) -> Iterator[Shown]:
    number = 0
    is_backup = False
    while tier is not None:
        for peer in tier.peers:
            state, spec = peer.state, peer.spec
            at = state.row if isinstance(state, ZonePeerState) else number
            yield Shown(at, peer, spec, is_backup, spec.id if spec.resolve else -1)
            number += 1
        tier, is_backup = tier.backup, True


def zombies(conf: UpstreamConf) -> int:
    """Return how many servers were removed from a group and still have sessions."""
    zone = None if conf.zone is None else conf.zone.zone
    if zone is None:
        return 0
    table: PeerTable = zone.data
    return table.zombies(conf.name)
