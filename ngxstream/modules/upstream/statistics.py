"""Statistics of upstreams as NGINX Plus shows them: /stream/upstreams, and what Prometheus is told.

Besides the groups in a zone those without are shown, and the addresses of proxy_pass as groups of
their own; those cannot be changed, nor their counters reset.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ngxstream.core import clock
from ngxstream.modules.upstream import peer_metrics, peer_view, view
from ngxstream.modules.upstream.peer_table import ROW_BYTES
from ngxstream.modules.upstream.peer_view import Now
from ngxstream.stream import api, core_facts, peer_facts, tls_facts, zone_endpoints
from ngxstream.stream import schema as s
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.api import Request
    from ngxstream.stream.core import StreamDraft
    from ngxstream.stream.health import Report
    from ngxstream.stream.upstream import UpstreamConf

NOT_FOUND: Final = "UpstreamNotFound"
STATIC: Final = "UpstreamStatic"
_LOST: Final = frozenset(("unavail", "checking", "unhealthy"))
MEMBERS: Final = ("peers", "zombies", "zone")


# -- what is counted -------------------------------------------------------------------------------


def finish(draft: StreamDraft) -> None:
    """Have peers counted, and how sessions of servers went, where it is shown."""
    if not draft.is_shown:
        return
    facts = draft.builder.facts
    for conf in draft.upstreams:
        balancer = conf.balancer
        assert balancer is not None
        request = conf.zone
        if request is not None:
            capacity = request.size // ROW_BYTES
            conf.facts = peer_facts.GroupFacts(
                facts, peer_view.name_of(conf), (), request.name, capacity
            )
            continue
        tier = balancer.tier
        peers = [*tier.peers, *(tier.backup.peers if tier.backup is not None else ())]
        conf.facts = peer_facts.GroupFacts(facts, peer_view.name_of(conf), peers)
    known: dict[str, peer_facts.ServerFacts] = {}
    for server in draft.servers:
        if server.proxy_ssl.ssl:
            conf = server.proxy.upstream
            for one in draft.upstreams if conf is None else [conf]:  # variables may name any
                assert one.facts is not None
                one.facts.has_tls = True
        label = core_facts.name_of(server)
        if label not in known:
            known[label] = peer_facts.ServerFacts(facts, label)
        server.facts = known[label]


# -- /stream/upstreams -----------------------------------------------------------------------------


def encode(one: Now, now_ms: int, wall_ms: int) -> str:
    """Return a server as JSON. Args: now_ms: loop ms; wall_ms: the same moment, since 1970

    # hot: 10 000 of them may be asked for; a dict and an encoder take three times as long
    """
    shown, counts = one.shown, one.counts
    peer = shown.peer
    connections, sent, received, fails, unavail = counts
    times = ""
    if one.connect_ms:
        times = f'"connect_time":{one.connect_ms},'
    if one.first_byte_ms:
        times += f'"first_byte_time":{one.first_byte_ms},'
    if one.response_ms:
        times += f'"response_time":{one.response_ms},'
    end = ""
    if one.state in _LOST and one.lost_ms:
        end = f',"downstart":"{clock.rfc3339(_time(wall_ms - (now_ms - one.lost_ms)))}"'
    if one.selected_ms:
        selected_s = _time(wall_ms - (now_ms - one.selected_ms)) // 1000
        end += f',"selected":"{second(selected_s)}"'
    tls = f'"ssl":{_tls(one.tls)},' if one.tls else ""
    most = f'"max_conns":{peer.max_conns},' if peer.max_conns else ""
    return (
        f'{_beginning(one)}"weight":{peer.weight},"state":"{one.state}","active":{one.active},'
        f'{tls}{most}"connections":{connections},{times}"sent":{sent},"received":{received},'
        f'"fails":{fails},"unavail":{unavail},'
        f'"health_checks":{_checks(one.health)},"downtime":{one.lost_for_ms}{end}}}'
    )


def _checks(found: Report) -> str:
    checks, fails, unhealthy, passed = found
    last = "" if passed is None else f',"last_passed":{"true" if passed else "false"}'
    return f'{{"checks":{checks},"fails":{fails},"unhealthy":{unhealthy}{last}}}'


def _time(ms: int) -> int:
    """Return a time that clients can read, whatever another process has written."""
    return min(max(ms, 0), clock.LAST_MS)


def _beginning(one: Now) -> str:
    """Return what does not change of a server."""
    shown = one.shown
    spec, peer = shown.spec, shown.peer
    service = f'"service":{json.dumps(spec.service)},' if spec.service else ""
    backup = "true" if shown.backup else "false"
    return (
        f'{{"id":{shown.id},"server":{json.dumps(peer.name)},{service}'
        f'"name":{json.dumps(spec.name)},"backup":{backup},'
    )


def _tls(totals: list[int]) -> str:
    return json.dumps(tls_facts.shown(peer_facts.TLS_NAMES, totals), separators=(",", ":"))


def second(second: int) -> str:
    """Return a time in whole seconds. Args: second: since 1970"""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def group(conf: UpstreamConf, loop: Loop, fields: frozenset[str] | None) -> Iterator[str]:
    """Yield a group as JSON text in pieces."""
    wanted = [name for name in MEMBERS if not fields or name in fields]
    before = "{"
    if "peers" in wanted:
        before = '{"peers":['
        wall_ms = int(loop.log.clock.now() * 1000)
        for portion in peer_view.gather(conf, loop.now_ms):
            encoded = ",".join([encode(one, loop.now_ms, wall_ms) for one in portion])
            yield f"{before}{encoded}"
            before = ","
        if before != ",":
            yield before
        yield "]"
        before = ","
    if "zombies" in wanted:
        yield f'{before}"zombies":{view.zombies(conf)}'
        before = ","
    if "zone" in wanted and conf.zone_name is not None:
        yield f'{before}"zone":{json.dumps(conf.zone_name)}'
        before = ","
    yield "}" if before == "," else "{}"


def _find(request: Request) -> UpstreamConf:
    found = peer_view.groups(request.stream).get(request.path["upstream"])
    if found is None:
        raise api.ApiError(404, NOT_FOUND, "upstream not found")
    return found


def _get_all(request: Request) -> api.Reply:
    found = peer_view.groups(request.stream)
    fields = request.fields()
    if fields is not None and not fields:
        return api.Reply(value=list(found))
    loop = request.loop
    return api.Reply(value=api.Members(
        (name, api.Encoded(group(conf, loop, fields))) for name, conf in found.items()
    ))


def _get(request: Request) -> api.Reply:
    return api.Reply(value=api.Encoded(group(_find(request), request.loop, request.fields())))


def _reset(request: Request) -> api.Reply:
    """Have the counters of all peers of a group begin at 0."""
    conf = _find(request)
    if conf.zone is None:
        raise api.ApiError(400, STATIC, "upstream is static")
    assert conf.facts is not None
    known, shown = conf.facts, view.peers(conf)

    def reset() -> None:
        known.times.reset(0)
        if conf.health is not None:
            conf.health.reset_times()
        for one in shown:
            known.reset(one.id)
            if conf.health is not None:
                conf.health.reset(one.id)
            state = one.peer.state
            state.selected_ms = state.lost_for_ms = 0
            if state.lost_ms:
                state.lost_ms = request.loop.now_ms

    zone_endpoints.resetting(reset)
    return api.Reply(204)


_STATE: Final = s.enum(*peer_view.STATES)
PEER: Final = s.obj(
    "A server of a group.",
    id=s.described(s.COUNT, "Its number; of a group without a zone, its place."),
    server=s.described(s.TEXT, "Its address."),
    service=s.optional(s.described(s.TEXT, "Of its server line.")),
    name=s.described(s.TEXT, "Its address as it is written."),
    backup=s.BOOL,
    weight=s.COUNT,
    state=_STATE,
    active=s.described(s.COUNT, "Sessions that go on."),
    ssl=s.optional(s.described(tls_facts.schema_of(peer_facts.TLS_NAMES),
                               "Handshakes with it, where a server has proxy_ssl.")),
    max_conns=s.optional(s.described(s.COUNT, "The limit of these, if there is one.")),
    connections=s.described(s.COUNT, "Sessions that it was chosen for."),
    connect_time=s.optional(s.described(s.COUNT, "Average ms until a TCP connection stands.")),
    first_byte_time=s.optional(s.described(s.COUNT, "Average ms until its first byte.")),
    response_time=s.optional(s.described(s.COUNT, "Average ms until the last one.")),
    sent=s.described(s.COUNT, "Bytes to it."),
    received=s.described(s.COUNT, "Bytes from it."),
    fails=s.described(s.COUNT, "Attempts that failed."),
    unavail=s.described(s.COUNT, "How often max_fails was reached."),
    health_checks=s.obj(
        "What came of its health checks.",
        checks=s.described(s.COUNT, "How many were made."),
        fails=s.described(s.COUNT, "How many of them failed."),
        unhealthy=s.described(s.COUNT, "How often it became unhealthy."),
        last_passed=s.optional(s.described(s.BOOL, "Whether the last one passed; of several "
                                           "checks: that of each.")),
    ),
    downtime=s.described(s.COUNT, "How many ms it was unavail, checking or unhealthy."),
    downstart=s.optional(s.described(s.TIME, "Since when it is that.")),
    selected=s.optional(s.described(s.TIME, "When it was chosen last.")),
)
GROUP: Final = s.obj(
    "A group of servers. Members may be missing where `fields` asks for others.",
    peers=s.optional(s.array(PEER)),
    zombies=s.optional(s.described(s.COUNT, "Removed servers that still have sessions.")),
    zone=s.optional(s.described(s.TEXT, "Its shared memory zone, if it has one.")),
)

ENDPOINTS: Final = (
    api.Endpoint(api.PLUS, "/stream/upstreams", {
        "GET": api.Operation(_get_all, "Return every group.", s.mapping(GROUP),
                             args=(zone_endpoints.ALL_FIELDS,)),
    }),
    api.Endpoint(api.PLUS, "/stream/upstreams/{upstream}", {
        "GET": api.Operation(_get, "Return one group.", GROUP, args=(zone_endpoints.FIELDS,),
                             errors=(NOT_FOUND,)),
        "DELETE": api.Operation(_reset, "Have the counters of its servers begin at 0.",
                                success=204, errors=(NOT_FOUND, STATIC, "ZoneBusy")),
    }, listed=False),
)


MODULE: Final = StreamModule("statistics", finish=finish, facts=peer_facts.FACTS,
                             endpoints=ENDPOINTS, metrics=peer_metrics.metrics)
