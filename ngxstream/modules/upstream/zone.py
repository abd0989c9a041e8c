"""zone: the state of an upstream's peers, shared by all workers and kept over a reload.

Answers for ngx_stream_upstream_zone_module.c and ngx_stream_upstream_zone_copy_peers. Rows and
cells are peer_table.py's.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors, shm, shm_zones
from ngxstream.modules.upstream import keys, resolve
from ngxstream.modules.upstream.peer_table import ROW_BYTES, TAG, PeerTable, ZonePeerState
from ngxstream.stream.module import StreamModule
from ngxstream.stream.round_robin import Tier

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.modules.upstream.records import Record
    from ngxstream.stream.core import StreamConf, StreamDraft
    from ngxstream.stream.upstream import UpstreamConf


def share(conf: UpstreamConf, table: PeerTable) -> None:
    """Put the peers of an upstream into a zone. Source: ngx_stream_upstream_zone_copy_peers"""
    balancer = conf.balancer
    assert balancer is not None
    conf.withdrawals = table.withdrawals
    seen: Counter[str] = Counter()
    tier = balancer.tier
    _attach(conf, table, tier, seen)  # the primaries first: rows are the ids that are shown
    backup = tier.backup
    if backup is not None:
        _attach(conf, table, backup, seen)
        backup = Tier(backup.name, backup.peers, None, table.zone.lock)
    balancer.use(Tier(tier.name, tier.peers, backup, table.zone.lock))


def _attach(conf: UpstreamConf, table: PeerTable, tier: Tier, seen: Counter[str]) -> None:
    for peer in tier.peers:
        name = f"{peer.server}\0{peer.name}"
        key = keys.key_of(conf, peer, seen[name])
        peer.state = table.attach(peer, key, pin=True, newcomer=conf.newcomer)
        seen[name] += 1


def _init_zone(draft: StreamDraft, request: shm_zones.ZoneRequest, zone: shm.Zone,
               fresh: bool) -> None:
    """Take a zone the cycle has made or adopted. Source: ngx_stream_upstream_init_zone"""
    former: dict[str, Record] = {}
    if fresh:
        zone.data = PeerTable(zone)
        if request.former is not None and request.former.tag == TAG:
            former = request.former.data.names  # the zone has another size now
    table: PeerTable = zone.data
    table.next_configuration()
    counted = [conf.facts for conf in draft.upstreams if conf.zone is request and conf.facts]
    table.cleared = counted[0].reset if counted else None
    for conf in draft.upstreams:
        if conf.zone is request:
            share(conf, table)
            if draft.is_shown or conf.is_dynamic:
                keys.number_names(conf, table)
            if isinstance(conf.balancer, resolve.Group):
                conf.balancer.share(table, former)


def resume(stream: StreamConf) -> None:
    """Pin the rows of this configuration again: another one was refused, which had pinned its."""
    tables: set[int] = set()
    for conf in stream.upstreams:
        zone = None if conf.zone is None else conf.zone.zone
        if zone is None:
            continue
        table: PeerTable = zone.data
        with zone.lock:
            if id(table) not in tables:
                table.next_configuration()
                tables.add(id(table))
        balancer = conf.balancer
        if isinstance(balancer, resolve.Group):
            balancer.catch_up()
        with zone.lock:
            for row in _rows_of(conf):
                table.pin(row)


def _rows_of(conf: UpstreamConf) -> Iterator[int]:
    tier = None if conf.balancer is None else conf.balancer.tier
    while tier is not None:
        yield from (peer.state.row for peer in tier.peers if isinstance(peer.state, ZonePeerState))
        tier = tier.backup
    if isinstance(conf.balancer, resolve.Group):
        yield from (name.spec.id for name in conf.balancer.names if name.spec.id >= 0)


def _zone(scope: Scope, module: Module, st: Statement) -> None:
    """Read the directive. Source: ngx_stream_upstream_zone"""
    conf: UpstreamConf = scope.owner
    builder = scope.builder
    name = st.args[0]
    if not name:
        raise errors.ConfError(f'invalid zone name "{name}"')
    size = 0
    if len(st.args) == 2:
        try:
            size = units.parse_size(st.args[1])
        except ValueError:
            raise errors.ConfError(f'invalid zone size "{st.args[1]}"') from None
        if size < shm.LEAST:
            raise errors.ConfError(f'zone "{name}" is too small')
    _request(conf, builder.data["stream"], name, size)


def _request(conf: UpstreamConf, draft: StreamDraft, name: str, size: int) -> None:
    request = conf.zone = draft.builder.data["zones"].request(name, size, TAG)
    request.init = functools.partial(_init_zone, draft, request)
    request.usage = functools.partial(_usage, request)


def finish(draft: StreamDraft) -> None:
    """Give groups a zone that need one and were given none: with room for twice their peers."""
    for conf in draft.upstreams:
        if conf.wants_zone and conf.zone is None:
            number = sum(len(spec.addrs) for spec in conf.servers)
            size = max(shm.LEAST, ROW_BYTES << (2 * number - 1).bit_length())
            conf.own_zone = True
            _request(conf, draft, f"upstream {conf.name}", size)


def _usage(request: shm_zones.ZoneRequest) -> shm_zones.Usage:
    table: PeerTable = request.zone.data  # type: ignore[union-attr]
    return table.usage()


MODULE = StreamModule(
    name="zone",
    finish=finish,
    resume=resume,
    directives=(
        Directive("zone", UPSTREAM, d.TAKE12, _zone,
                  "Shared memory where all workers keep how the servers fare; it is kept over a "
                  "reload."),
    ),
)
