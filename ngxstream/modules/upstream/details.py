"""Why sessions ended and how long they took, of each server of a group and of each server zone.

NGINX Plus has none of it: it is in ngxstream's own tree of the API.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.modules.upstream import peer_view
from ngxstream.stream import api, health, peer_facts
from ngxstream.stream import schema as s
from ngxstream.stream.module import StreamModule
from ngxstream.stream.peer_state import DRAINING

if TYPE_CHECKING:
    from ngxstream.core.facts import Fact
    from ngxstream.stream.api import Request
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.peer_facts import ServerFacts
    from ngxstream.stream.upstream import UpstreamConf

PORTION: Final = 32  # servers that are looked at at once


def ends(counts: Sequence[int]) -> dict[str, int]:
    """Return those reasons for which a session has ended, and how many did."""
    return {word: n for word, n in zip(peer_facts.WORDS, counts, strict=True) if n}


def histogram(fact: Fact, cells: Sequence[int]) -> dict[str, Any]:
    """Return a histogram. Args: cells: of the fact alone"""
    counts = list(cells[:-1])
    return {"bounds": list(fact.bounds), "counts": counts, "sum": cells[-1], "count": sum(counts)}


def histograms(facts: Sequence[Fact], cells: Sequence[int]) -> dict[str, Any]:
    """Return those that stand one after another, by the names that the API has for them."""
    shown = {}
    at = 0
    for fact in facts:
        name = fact.name.removeprefix("peer_").removeprefix("server_")
        shown[name] = histogram(fact, cells[at : at + fact.width])
        at += fact.width
    return shown


# -- server zones ----------------------------------------------------------------------------------


def _zones(stream: StreamConf) -> dict[str, ServerFacts]:
    return {server.facts.label: server.facts for server in stream.servers if server.facts}


def _get_zones(request: Request) -> api.Reply:
    return api.Reply(value=api.Members(
        (name, {
            "ends": ends(facts.ends.totals()),
            **histograms(peer_facts.SERVER_TIMES, facts.times.totals()),
        })
        for name, facts in _zones(request.stream).items()
    ))


# -- groups ----------------------------------------------------------------------------------------


def _group(conf: UpstreamConf, now_ms: int) -> dict[str, Any]:
    checks = [] if conf.health is None else [
        {"check": text, "duration_ms": histogram(health.CHECK_MS, cells)}
        for text, cells in conf.health.times()
    ]
    return {
        "zone": conf.zone_name,
        "method": peer_view.method_of(conf),
        "checks": checks,
        "peers": api.Items(_peers(conf, now_ms)),
    }


def _peers(conf: UpstreamConf, now_ms: int) -> Iterator[dict[str, Any]]:
    checked = conf.health
    for some in peer_view.servers(conf, PORTION):
        ends_of = peer_view.counted_of(conf, peer_facts.ENDS_BLOCK, some)
        times_of = peer_view.counted_of(conf, peer_facts.TIMES_BLOCK, some)
        for one, ended, times in zip(some, ends_of, times_of, strict=True):
            yield {
                "id": one.id, "server": one.peer.name,
                "drain": bool(one.peer.state.status & DRAINING),
                "agents": [] if checked is None else checked.agents(one.peer, now_ms),
                "ends": ends(ended), **histograms(peer_facts.TIMES, times),
            }


def _get_groups(request: Request) -> api.Reply:
    found = peer_view.groups(request.stream)
    now_ms = request.loop.now_ms
    return api.Reply(value=api.Members(
        (name, _group(conf, now_ms)) for name, conf in found.items()
    ))


HISTOGRAM: Final = s.obj(
    "How often a number was up to each bound, and not up to the one before; the last of counts is "
    "above all bounds.",
    bounds=s.array(s.COUNT), counts=s.array(s.COUNT), sum=s.COUNT, count=s.COUNT,
)
ENDS: Final = s.described(s.mapping(s.COUNT), "Sessions by why they ended, see docs/endings.md.")
_TIMES: Final = {
    "connect_ms": s.described(HISTOGRAM, "Until a TCP connection stood, with TLS on it."),
    "first_byte_ms": s.described(HISTOGRAM, "Until the first byte came."),
    "session_ms": s.described(HISTOGRAM, "How long sessions with a server lasted."),
}
AGENT: Final = s.obj(
    "What an agent has said of the server (`health_check agent=`).",
    check=s.described(s.TEXT, "The parameters of the health_check."),
    last=s.described(s.nullable(s.enum("answered", "not understood", "not reached")),
                     "What came of the last check; what was said before holds."),
    answered_ms_ago=s.nullable(s.COUNT),
    status=s.nullable(s.enum("up", "down", "fail", "stopped")),
    admin=s.enum("ready", "drain", "maint"),
    weight=s.described(s.TEXT, "In per cent of the configured one, or a weight."),
    max_conns=s.described(s.COUNT, "0 for no limit."),
    text=s.described(s.TEXT, "For people; bytes that are no ASCII as `\\xHH`."),
    checks=s.COUNT,
    missed=s.described(s.COUNT, "How many of them did not reach it, or brought no line."),
)
ENDPOINTS: Final = (
    api.Endpoint(api.OWN, "/server_zones", {
        "GET": api.Operation(_get_zones, "Why sessions ended and how long they took.", s.mapping(
            s.obj(ends=ENDS, **_TIMES, datagrams=s.described(
                HISTOGRAM, "Datagrams of a UDP session, of both sides."))
        )),
    }),
    api.Endpoint(api.OWN, "/upstreams", {
        "GET": api.Operation(_get_groups, "The same of each server of each group.", s.mapping(
            s.obj(
                zone=s.nullable(s.TEXT),
                method=s.TEXT,
                checks=s.array(s.obj(
                    "One health_check.",
                    check=s.described(s.TEXT, "Its parameters."),
                    duration_ms=s.described(HISTOGRAM, "How long it took, well or not."),
                )),
                peers=s.array(s.obj(
                    id=s.COUNT, server=s.TEXT, drain=s.BOOL, agents=s.array(AGENT), ends=ENDS,
                    **_TIMES
                )),
            )
        )),
    }),
)


MODULE: Final = StreamModule("details", endpoints=ENDPOINTS)
