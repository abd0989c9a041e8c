"""What Prometheus is told of groups, their servers, and how long sessions took.

Of each server there are the families of nginx-prometheus-exporter, and why its sessions ended; of a
group as a whole, and of a server zone, histograms: of each of many servers they would be a hundred
samples.

Source: collector/nginx_plus.go of nginx-prometheus-exporter; averages are in milliseconds there
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final

from ngxstream.modules.upstream import peer_view, view
from ngxstream.stream import health, peer_facts, tls_facts
from ngxstream.stream.api import COUNTER, GAUGE, HISTOGRAM, Columns, Family, escaped, labels

if TYPE_CHECKING:
    from ngxstream.core.facts import Fact
    from ngxstream.event.loop import Loop
    from ngxstream.modules.upstream.peer_view import Now
    from ngxstream.modules.upstream.view import Shown
    from ngxstream.stream.api import Sample
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.upstream import UpstreamConf

PREFIX: Final = "nginxplus_stream_upstream_server_"
STATES: Final = {state: n for n, state in enumerate(peer_view.STATES, 1)}
_REASONS: Final = tuple(f',reason="{word}"}}' for word in peer_facts.WORDS)
_NAMES: Final = {"connect_ms": "connect", "first_byte_ms": "first_byte", "session_ms": "session"}


class _Gathered:
    """What there is of all groups. # hot: fifteen samples of each of 10 000 servers"""

    __slots__ = ("agents", "checks", "ends", "names", "servers", "times", "weights", "zombies")

    def __init__(self) -> None:
        self.servers: list[Now] = []
        self.names: list[str] = []  # the labels of each
        self.ends: list[Sample] = []
        self.times: dict[str, list[int]] = {}  # by the group's label
        self.zombies: list[Sample] = []
        self.checks: dict[str, list[int]] = {}  # by the labels of group and health_check
        self.agents: list[tuple[str, dict[str, Any]]] = []  # by labels
        self.weights: dict[str, float] = {}  # by their agents

    def take(self, name: str, conf: UpstreamConf, now_ms: int) -> Iterator[None]:
        """Take what there is of a group, some servers at a time."""
        begin = f'{{upstream="{escaped(name)}",server="'
        twins = peer_view.has_twins(conf)
        for shown in [list(view.peers(conf))] if twins else peer_view.servers(conf):
            found = peer_view.look(conf, shown, now_ms)
            self._take_agents(name, conf, shown, now_ms)
            names = [f'{begin}{escaped(one.peer.name)}"' for one in shown]
            self._take_ends(conf, shown, names)
            if twins:
                found = peer_view.merged(found)
                names = list(dict.fromkeys(names))
            self.servers += found
            self.names += [f"{one}}}" for one in names]
            yield
        if conf.facts is not None:
            self.times[f'upstream="{escaped(name)}"'] = conf.facts.times.totals()
        self.zombies.append((labels(upstream=name), view.zombies(conf)))
        if conf.health is not None:
            for text, cells in conf.health.times():
                self.checks[labels(upstream=name, check=text)[1:-1]] = cells

    def _take_agents(
        self, name: str, conf: UpstreamConf, shown: Sequence[Shown], now_ms: int
    ) -> None:
        checked = conf.health
        if checked is None or not checked.by_agents:
            return
        for one in shown:
            peer, share = one.peer, one.peer.state.share
            of = labels(upstream=name, server=peer.name)
            self.weights[of] = -share if share < 0 else peer.weight * share / 100
            for said in checked.agents(peer, now_ms):
                of = labels(upstream=name, server=peer.name, check=said["check"])
                self.agents.append((of, said))

    def _take_ends(self, conf: UpstreamConf, shown: Sequence[Shown], names: list[str]) -> None:
        ends: dict[str, int] = {}  # two servers of one address are shown as one
        nothing = [0] * len(_REASONS)
        rows = peer_view.counted_of(conf, peer_facts.ENDS_BLOCK, shown)
        for name, counts in zip(names, rows, strict=True):
            if counts != nothing:
                for reason, count in zip(_REASONS, counts, strict=True):
                    if count:
                        ends[name + reason] = ends.get(name + reason, 0) + count
        self.ends += ends.items()


def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family | None]:
    """Yield the families."""
    gathered = _Gathered()
    for name, conf in peer_view.groups(stream).items():
        for _ in gathered.take(name, conf, loop.now_ms):
            yield None
    yield from _of_servers(gathered)
    yield Family("nginxplus_stream_upstream_zombies", GAUGE,
                 "Removed servers that still have sessions", gathered.zombies)
    yield Family("ngxstream_stream_upstream_server_ends_total", COUNTER,
                 "Sessions with a server by why they ended; only reasons that there were.",
                 gathered.ends)
    yield from _histograms("stream_upstream", peer_facts.GROUP_TIMES, gathered.times)
    yield from _of_checks(gathered)
    zones = {server.facts.label: server.facts for server in stream.servers if server.facts}
    yield from _histograms("stream_server_zone", peer_facts.SERVER_TIMES, {
        f'server_zone="{escaped(label)}"': facts.times.totals() for label, facts in zones.items()
    })


def _of_servers(gathered: _Gathered) -> Iterator[Family]:
    found, named = gathered.servers, gathered.names
    for name, doc, values in (
        ("state", "Up (1), draining (2), down (3), unavail (4), checking (5) or unhealthy (6)",
         map(STATES.__getitem__, map(attrgetter("state"), found))),
        ("active", "Sessions that go on", map(attrgetter("active"), found)),
        ("limit", "The limit of sessions, 0 for none",
         map(attrgetter("shown.peer.max_conns"), found)),
        ("connect_time", "Average milliseconds until a connection stands",
         map(attrgetter("connect_ms"), found)),
        ("first_byte_time", "Average milliseconds until the first byte",
         map(attrgetter("first_byte_ms"), found)),
        ("response_time", "Average milliseconds until the last byte",
         map(attrgetter("response_ms"), found)),
    ):
        yield Family(PREFIX + name, GAUGE, doc, Columns(named, values))
    counts = [one.counts for one in found]
    for n, (name, doc) in enumerate((
        ("connections", "Sessions that it was chosen for"),
        ("sent", "Bytes sent to it"),
        ("received", "Bytes received from it"),
        ("fails", "Attempts that failed"),
        ("unavail", "How often max_fails was reached"),
    )):
        yield Family(PREFIX + name, COUNTER, doc, Columns(named, map(itemgetter(n), counts)))
    for name, doc, counted in (
        ("checks", "Health checks that were made", [one.health.checks for one in found]),
        ("fails", "Health checks that failed", [one.health.fails for one in found]),
        ("unhealthy", "How often it became unhealthy", [one.health.unhealthy for one in found]),
    ):
        yield Family(f"{PREFIX}health_checks_{name}", COUNTER, doc, Columns(named, counted))
    by_tls = [(label, one) for label, one in zip(named, found, strict=True) if one.tls]
    for name, doc in (
        (tls_facts.HANDSHAKES, "TLS handshakes with it that succeeded"),
        (tls_facts.FAILED, "TLS handshakes with it that failed"),
        (tls_facts.REUSES, "TLS handshakes with it that resumed a session"),
    ):
        n = peer_facts.TLS_NAMES.index(name)
        yield Family(f"{PREFIX}ssl_{name}", COUNTER, doc, [
            (label, one.tls[n]) for label, one in by_tls
        ])


def _of_checks(gathered: _Gathered) -> Iterator[Family]:
    if gathered.checks:
        yield Family("ngxstream_stream_upstream_health_check_seconds", HISTOGRAM,
                     "Seconds that a health check took, be it well or not.", [
                         sample for label, cells in gathered.checks.items()
                         for sample in _samples(label, health.CHECK_MS.bounds, cells, 1000)
                     ])
    agents = dict(gathered.agents)  # two servers of one address are shown as one
    if not agents:
        return
    prefix = "ngxstream_stream_upstream_server_agent_"
    for name, kind, doc, values in (
        ("answered", GAUGE, "Whether the agent answered the last check (1).",
         [int(one["last"] not in (None, "not reached")) for one in agents.values()]),
        ("checks_total", COUNTER, "How often the agent was asked.",
         [one["checks"] for one in agents.values()]),
        ("missed_total", COUNTER, "How often it did not answer.",
         [one["missed"] for one in agents.values()]),
    ):
        yield Family(prefix + name, kind, doc, Columns(list(agents), values))
    yield Family(prefix + "weight", GAUGE, "The weight of the server by what its agents say.",
                 list(gathered.weights.items()))


def _histograms(of: str, facts: Sequence[Fact], found: dict[str, list[int]]) -> Iterator[Family]:
    """Yield one of each fact. Args: found: the cells of all of them, by label without braces"""
    at = 0
    for fact in facts:
        end = at + fact.width
        name = fact.name.removeprefix("group_").removeprefix("server_")
        unit = 1000 if name in _NAMES else 1
        name = f"{_NAMES[name]}_seconds" if name in _NAMES else name
        doc = fact.doc.replace("Milliseconds", "Seconds")
        yield Family(f"ngxstream_{of}_{name}", HISTOGRAM, doc, [
            sample for label, cells in found.items()
            for sample in _samples(label, fact.bounds, cells[at:end], unit)
        ])
        at = end


def _samples(label: str, bounds: Sequence[int], cells: Sequence[int], unit: int) -> list[Sample]:
    """Return those of one histogram. Args: unit: its numbers are divided by it"""
    found: list[Sample] = []
    count = 0
    for bound, n in zip(bounds, cells, strict=False):
        count += n
        found.append((f'_bucket{{{label},le="{bound / unit:g}"}}', count))
    count += cells[len(bounds)]
    found.append((f'_bucket{{{label},le="+Inf"}}', count))
    found.append((f"_sum{{{label}}}", cells[-1] / unit))
    found.append((f"_count{{{label}}}", count))
    return found
