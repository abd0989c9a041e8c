"""How the servers of a group fare at this moment, gathered for whoever shows it.

1. State: down, else draining, unhealthy, checking, unavail, else up. A server is `unavail` from
   when max_fails is reached until a session is served well again, for only then its failures are
   forgotten: after fail_timeout it is tried, which is no success yet.
2. Two servers of one address are shown as one, with the id of the first, and up while one is: names
   are what readers know servers by, and nginx-prometheus-exporter fails where one comes twice.
3. Numbers are those of all workers. How a server of a group without a zone fares, what was chosen
   when and averages are what this worker knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.facts import rows_at
from ngxstream.modules.upstream import view
from ngxstream.modules.upstream.peer_table import PLACES, STATUS, ZonePeerState
from ngxstream.stream import peer_facts, peer_state
from ngxstream.stream.health import NOTHING, Report
from ngxstream.stream.peer_state import FAILED

if TYPE_CHECKING:
    from ngxstream.modules.upstream.view import Shown
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.round_robin import Tier
    from ngxstream.stream.upstream import UpstreamConf

PORTION: Final = 128  # servers that are looked at at once: some 0.6 ms

# as nginx-prometheus-exporter counts them, from 1 on
STATES: Final = ("up", "draining", "down", "unavail", "checking", "unhealthy")
_BARS: Final = (
    (peer_state.DOWN | peer_state.AGENT_MAINT, "down"),
    (peer_state.DRAINING | peer_state.AGENT_DRAIN, "draining"),
    (peer_state.UNHEALTHY, "unhealthy"),
    (peer_state.CHECKING, "checking"),
)
_SEEN: Final = [PLACES[name] for name in (
    "connect_ms", "first_byte_ms", "response_ms", "selected_ms", "lost_ms", "lost_for_ms"
)]


@dataclass(slots=True)
class Now:
    """One server at this moment. Times are loop ms, 0 for never; averages ms, 0 for none yet."""

    shown: Shown
    state: str
    active: int
    counts: list[int]  # as peer_facts.COUNTS
    connect_ms: int
    first_byte_ms: int
    response_ms: int
    selected_ms: int
    lost_ms: int  # since when it is unavail, checking or unhealthy
    lost_for_ms: int  # how long it was that, this time included
    health: Report  # what checks have found
    tls: list[int]  # as peer_facts.TLS_NAMES; empty where nobody goes there by TLS


def groups(stream: StreamConf) -> dict[str, UpstreamConf]:
    """Return all groups that are shown, by name: blocks, and the addresses of proxy_pass."""
    return {name_of(conf): conf for conf in stream.upstreams if conf.facts is not None}


def name_of(conf: UpstreamConf) -> str:
    """Return the name of a group; of an address of proxy_pass it is that as it is written."""
    if conf.explicit:
        return conf.name
    return f"{conf.name}:{conf.port}" if conf.port else f"unix:{conf.name}"


def servers(conf: UpstreamConf, count: int = PORTION) -> Iterator[list[Shown]]:
    """Yield the servers of a group, so many at a time."""
    shown = view.peers(conf)
    while some := list(islice(shown, count)):
        yield some


def has_twins(conf: UpstreamConf) -> bool:
    """Tell whether two servers of a group have one address."""
    tier: Tier | None = conf.balancer.tier if conf.balancer is not None else None
    names: list[str] = []
    while tier is not None:
        names += [peer.name for peer in tier.peers]
        tier = tier.backup
    return len(set(names)) < len(names)


def gather(conf: UpstreamConf, now_ms: int) -> Iterator[list[Now]]:
    """Yield the servers of a group, some at a time. Args: now_ms: loop ms"""
    if has_twins(conf):
        yield merged(look(conf, list(view.peers(conf)), now_ms))
        return
    for some in servers(conf):
        yield look(conf, some, now_ms)


def look(conf: UpstreamConf, shown: Sequence[Shown], now_ms: int) -> list[Now]:
    """Return how some servers of a group fare. # hot: 4 µs each"""
    counted = counted_of(conf, peer_facts.COUNTS_BLOCK, shown)
    active = _active_of(conf, shown)
    facts = conf.facts
    tls: list[list[int]] = []
    if facts is not None and facts.has_tls:
        tls = counted_of(conf, peer_facts.TLS_BLOCK, shown)
    health = conf.health
    found = []
    for n, one in enumerate(shown):
        peer = one.peer
        state = peer.state
        if isinstance(state, ZonePeerState):  # a cell costs five times as much as a slot
            cells = state.cells.tolist()
            status = state.configured | cells[STATUS]
            connect_ms, first_byte_ms, response_ms, selected_ms, lost_ms, lost_for_ms = (
                [cells[place] for place in _SEEN]
            )
            conns = state.conns
        else:
            status = state.status
            connect_ms, first_byte_ms = state.connect_ms, state.first_byte_ms
            response_ms, selected_ms = state.response_ms, state.selected_ms
            lost_ms, lost_for_ms = state.lost_ms, state.lost_for_ms
            conns = active[n]
        word = "up"
        if status:
            for bit, name in _BARS:
                if status & bit:
                    word = name
                    break
            else:
                if status & FAILED and state.fails >= peer.max_fails > 0:
                    word = "unavail"
        if lost_ms:
            lost_for_ms += max(now_ms - lost_ms, 0)
        found.append(Now(
            one, word, conns, counted[n], connect_ms, first_byte_ms, response_ms, selected_ms,
            lost_ms, lost_for_ms, NOTHING if health is None else health.report(peer),
            tls[n] if tls else [],
        ))
    return found


def _active_of(conf: UpstreamConf, shown: Sequence[Shown]) -> list[int]:
    """Return the live sessions of servers that are in no zone."""
    facts = conf.facts
    rows = None if facts is None else facts.rows
    if facts is None or rows is None:
        return [one.peer.state.conns for one in shown]
    if not facts.active:
        return []
    places = facts.starts_of_active([one.peer for one in shown])
    return [row[0] for row in rows_at(rows, places, 1)]


def merged(found: Sequence[Now]) -> list[Now]:
    """Put the numbers of one address together."""
    by_name: dict[str, Now] = {}
    for one in found:
        first = by_name.setdefault(one.shown.peer.name, one)
        if first is one:
            continue
        first.active += one.active
        first.health = first.health.plus(one.health)
        first.counts = [a + b for a, b in zip(first.counts, one.counts, strict=True)]
        if STATES.index(one.state) < STATES.index(first.state):
            first.state = one.state
        first.connect_ms = first.connect_ms or one.connect_ms
        first.first_byte_ms = first.first_byte_ms or one.first_byte_ms
        first.response_ms = first.response_ms or one.response_ms
        first.selected_ms = max(first.selected_ms, one.selected_ms)
        first.lost_ms = max(first.lost_ms, one.lost_ms)
        first.tls = [a + b for a, b in zip(first.tls, one.tls, strict=True)]
        first.lost_for_ms = max(first.lost_for_ms, one.lost_for_ms)
    return list(by_name.values())


def counted_of(conf: UpstreamConf, which: int, shown: Sequence[Shown]) -> list[list[int]]:
    """Return what is counted of some servers. Args: which: of the blocks of peer_facts"""
    facts = conf.facts
    rows = None if facts is None else facts.rows
    if facts is None or rows is None:
        return [[0] * peer_facts.WIDTHS[which] for _ in shown]
    places = facts.starts(which, [one.peer for one in shown])
    return rows_at(rows, places, peer_facts.WIDTHS[which])


def method_of(conf: UpstreamConf) -> str:
    """Return the directive that a group is balanced by."""
    balancer: Any = conf.balancer
    plain = getattr(getattr(balancer, "inner", balancer), "plain", None)
    words = {"rr": "round_robin", "consistent hash": "hash", "random2": "random"}
    method = getattr(plain, "method", "rr")
    return words.get(method, method.replace(" ", "_"))
