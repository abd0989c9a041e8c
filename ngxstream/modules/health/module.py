"""The module of health checks: its directives, its memory, and its start in each worker."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import shm
from ngxstream.modules.health import agent, by_hand, conf, handed, match, secure
from ngxstream.modules.health.group import Group, clear
from ngxstream.modules.health.schedule import Checkers
from ngxstream.stream import health, peer_state
from ngxstream.stream.api import GAUGE, Family, labels
from ngxstream.stream.module import StreamModule
from ngxstream.stream.upstream import MAY_SLOW_START

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import StreamConf, StreamDraft

NAME: Final = "health"
ROW_BYTES: Final = 256  # of an upstream's zone for each peer (modules/upstream/peer_table.py)
KEPT: Final = 3  # configurations after which a check that none of them has is forgotten
ZONE: Final = "health checks"  # as lsof shows it; a name with a space is nobody's


def finish(draft: StreamDraft) -> None:
    """Ask for the memory that the checks of a block need."""
    checks: list[conf.Check] = [
        one if one.spec.udp or one.spec.agent else one._replace(
            secure=secure.made(one.spec.kind, one.server, draft)
        ) for one in draft.data.get(NAME, [])
    ]
    groups: list[Group] = []
    for upstream in {one.upstream.index: one.upstream for one in checks}.values():
        group = Group(upstream, [one for one in checks if one.upstream is upstream])
        upstream.health = group
        if draft.is_shown:
            facts = draft.builder.facts
            group.counted = {
                text: facts.block((health.CHECK_MS,), f"{upstream.name}\0{text}", 1)
                for text in dict.fromkeys(one.spec.text for one in group.checks)
            }
        if group.by_agents and upstream.may & MAY_SLOW_START:
            assert upstream.balancer is not None
            upstream.balancer.weigh_by_agents()
        if any(one.spec.rule.mandatory for one in group.checks):
            upstream.newcomer = peer_state.CHECKING
        groups.append(group)
    draft.data[NAME] = groups
    if groups:
        request = draft.builder.data["zones"].request(ZONE, shm.LEAST, NAME)
        request.init = functools.partial(_init_zone, groups)


def _init_zone(groups: list[Group], zone: shm.Zone, fresh: bool) -> None:
    """Find or make the record of each check. The zones of the upstreams are there already."""
    if fresh:
        zone.data = Records()
    known: Records = zone.data
    known.configuration += 1
    former = known.by_check
    known.by_check = {  # those of one that was refused, and of the one before
        key: (record, last) for key, (record, last) in former.items()
        if last >= known.configuration - KEPT
    }
    for group in groups:
        group.number = known.configuration
        request = group.upstream.zone
        assert request is not None  # it was asked for by `wants_zone`
        capacity = max(request.size // ROW_BYTES, 1)
        for check in group.checks:
            record, _ = former.get(check.key, (None, 0))
            before = None
            if record is None or record.capacity != capacity or request.is_fresh:
                width = agent.CELLS if check.spec.agent else health.CELLS
                before, record = record, health.Record(zone, capacity, width)
            known.by_check[check.key] = record, known.configuration
            group.take(record, before)


class Records:
    """What the memory of the checks is: `zone.data`, the same for every configuration."""

    __slots__ = ("by_check", "configuration")

    def __init__(self) -> None:
        # and the last configuration that had it
        self.by_check: dict[str, tuple[health.Record, int]] = {}
        self.configuration = 0


def start_worker(stream: StreamConf, loop: Loop) -> None:
    """Begin to check, as one of the workers."""
    for one in stream.upstreams:
        if one.zone is not None and one.health is None:
            clear(one)  # a former configuration may have had it checked
    groups: list[Group] = stream.data[NAME]
    if groups:
        loop.get(Checkers).start(groups)


def stop_worker(stream: StreamConf, loop: Loop) -> None:
    """Leave the checks to others."""
    groups: list[Group] = stream.data[NAME]
    if groups:
        loop.get(Checkers).stop(groups)


def hand_on(stream: StreamConf) -> bytes:
    """Return what was found so far, for another binary."""
    return handed.pack(stream.data[NAME])


def take_up(stream: StreamConf, data: bytes) -> None:
    """Begin with what another binary's checks have found. Raises: CodecError"""
    found = handed.unpack(data)
    groups: list[Group] = stream.data[NAME]
    for group in groups:
        for n, check in enumerate(group.checks):
            group.know(n, found.get(handed.digest(check.key), {}))


def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family | None]:
    """Yield what Prometheus is told."""
    groups: list[Group] = stream.data[NAME]
    found = [(labels(upstream=one.upstream.name), int(one.is_open)) for one in groups
             if one.fail_open]
    if found:
        yield Family("ngxstream_stream_upstream_fail_open", GAUGE, "Whether all servers of the "
                     "group are used (1), because checks speak against most of them", found)
    now_s = loop.log.clock.now()
    left = [
        (labels(upstream=one.upstream.name, server=name), int(ends_s - now_s))
        for one in groups if any(check.secure for check in one.checks)
        for name, ends_s in one.certificates()
    ]
    if left:
        yield Family("ngxstream_stream_upstream_server_certificate_left_seconds", GAUGE, "For how "
                     "long the certificate is valid still that a health check was shown last; "
                     "less than 0 where it is not.", left)


MODULE = StreamModule(
    name=NAME,
    directives=(
        Directive("health_check", SERVER, d.Takes(0, None), conf.add,
                  "Checks the servers of the group that this server proxies to.", extension=True),
        Directive("health_check_timeout", STREAM | SERVER, d.TAKE1, d.msec("timeout"),
                  "How long a check may take.", default="5s", extension=True),
        Directive("match", STREAM, d.BLOCK1, match.block,
                  "What a check sends, and what answer it takes.", extension=True),
    ),
    merge=conf.merge,
    check=conf.check,
    finish=finish,
    start_worker=start_worker,
    stop_worker=stop_worker,
    hand_on=hand_on,
    take_up=take_up,
    metrics=metrics,
    endpoints=by_hand.ENDPOINTS,
    facts=(health.CHECK_MS,),
)
