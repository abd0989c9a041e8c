"""status_zone: the servers whose sessions are counted, by name, and what they have counted.

Answers for `status_zone` and /stream/server_zones of NGINX Plus; what is counted, and when, is
stream/core_facts.py's. Where an `api` stands in the block, a server without a name is counted under
that of its first address, and its server_name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, Directive
from ngxstream.core import errors
from ngxstream.core.facts import totals_of
from ngxstream.stream import core_facts, schema, tls_facts, zone_endpoints
from ngxstream.stream.api import COUNTER, GAUGE, Family, Sample, labels
from ngxstream.stream.live_counts import LiveCounts
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.facts import Cell
    from ngxstream.event.loop import Loop
    from ngxstream.stream.api import Request
    from ngxstream.stream.core import StreamConf, StreamDraft
    from ngxstream.stream.core_facts import Watched

NAME: Final = "status_zone"
CLASSES: Final = (2, 4, 5)


@dataclass(frozen=True, slots=True)
class StatusZoneConf:
    """What a server says."""

    name: str = ""


class ServerZone:
    """The servers of one name."""

    __slots__ = ("handshakes", "watched")

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.handshakes: tls_facts.Handshakes | None = None  # where one of them has TLS

    def cells(self) -> list[Cell]:
        """Return all cells, in an order that shown() knows."""
        watched = self.watched
        found = [
            watched.processing, watched.connections, watched.discarded, watched.received,
            watched.sent, *(watched.sessions[number] for number in CLASSES),
        ]
        return found if self.handshakes is None else [*found, *self.handshakes.own.values()]

    def shown(self, totals: list[int]) -> dict[str, Any]:
        """Return the counters as the API has them. Args: totals: of cells()"""
        processing, connections, discarded, received, sent, *others = totals
        ended = others[: len(CLASSES)]
        value: dict[str, Any] = {
            "processing": max(processing, 0),
            "connections": connections,
            "sessions": {
                **{f"{number}xx": n for number, n in zip(CLASSES, ended, strict=True)},
                "total": sum(ended),
            },
            "discarded": discarded,
            "received": received,
            "sent": sent,
        }
        if self.handshakes is not None:
            value["ssl"] = tls_facts.shown(self.handshakes.own, others[len(CLASSES) :])
        return value


Zones = dict[str, ServerZone]


def _status_zone(scope: Scope, module: Module, st: Statement) -> None:
    """Read the directive."""
    name = st.args[0]
    d.put(scope, module, st, "name", name)
    if not name:
        raise errors.ConfError(f'invalid zone name "{name}"')
    if "$" in name:
        raise errors.ConfError(f'variables are not supported in "{st.directive}" directive')


def init(draft: StreamDraft) -> None:
    """Give servers what counts their sessions, before it is decided how sessions begin."""
    zones: Zones = {}
    draft.data[NAME] = zones
    facts = draft.builder.facts
    for server in draft.servers:
        name = server.status_zone.name
        if not name and draft.is_shown:
            name = core_facts.default_name(server)
        if not name:
            continue
        zone = zones.get(name)
        if zone is None:
            zone = zones[name] = ServerZone(core_facts.watched(facts, name))
        server.watched = zone.watched
        if server.is_ssl and draft.is_shown:
            if zone.handshakes is None:
                zone.handshakes = tls_facts.Handshakes(facts, name)
            server.handshakes = zone.handshakes
    if zones:
        nobody = core_facts.watched(facts, "")
        for server in draft.servers:  # they may stand at an address with one that has a zone
            server.watched = server.watched or nobody


def start_worker(stream: StreamConf, loop: Loop) -> None:
    """Have the bytes of sessions that go on counted."""
    if stream.data[NAME]:
        loop.get(LiveCounts).start()


def stop_worker(stream: StreamConf, loop: Loop) -> None:
    """Count what the last turn of the loop left."""
    zones: Zones = stream.data[NAME]
    for zone in zones.values():
        zone.watched.flush(loop)


# -- what is shown -----------------------------------------------------------------------------


def _zones(stream: StreamConf) -> Zones:
    zones: Zones = stream.data[NAME]
    return zones


def _show(zone: ServerZone) -> dict[str, Any]:
    return zone.shown(totals_of(zone.cells()))


def _reset(zone: ServerZone, _: Request) -> None:
    for cell in zone.cells():
        cell.reset()


SCHEMA: Final = schema.obj(
    "The sessions of servers with one status_zone.",
    processing=schema.described(schema.COUNT, "Sessions that go on."),
    connections=schema.described(schema.COUNT, "Sessions that came."),
    sessions=schema.obj(
        "Sessions that have ended, by their status.",
        **{f"{number}xx": schema.COUNT for number in CLASSES}, total=schema.COUNT,
    ),
    discarded=schema.described(schema.COUNT, "Sessions that went on at another server."),
    received=schema.described(schema.COUNT, "Bytes from clients."),
    sent=schema.described(schema.COUNT, "Bytes to clients."),
    ssl=schema.optional(schema.described(
        tls_facts.schema_of([one for one in tls_facts.NAMES
                             if one not in tls_facts.NOT_OF_SERVERS]),
        "TLS handshakes with clients, where one of the servers has TLS.",
    )),
)

ENDPOINTS: Final = zone_endpoints.endpoints(zone_endpoints.Kind(
    "/stream/server_zones", "server zone", "ServerZoneNotFound", _zones, _show, _reset, SCHEMA,
))

_METRICS: Final = (
    ("processing", GAUGE, "Client sessions that go on"),
    ("connections", COUNTER, "Client sessions that came"),
    ("sessions", COUNTER, "Client sessions that have ended, by status"),
    ("discarded", COUNTER, "Client sessions that went on at another server"),
    ("received", COUNTER, "Bytes received from clients"),
    ("sent", COUNTER, "Bytes sent to clients"),
)
_TLS_METRICS: Final = (
    (tls_facts.HANDSHAKES, "TLS handshakes with clients that succeeded"),
    (tls_facts.FAILED, "TLS handshakes with clients that failed"),
    (tls_facts.REUSES, "TLS handshakes with clients that resumed a session"),
)
PREFIX: Final = "nginxplus_stream_server_zone_"


class _Shown:
    """All zones as they were when each was looked at first: there may be thousands."""

    __slots__ = ("_values", "_zones")

    def __init__(self, zones: Zones) -> None:
        self._zones = zones
        self._values: dict[str, dict[str, Any]] = {}

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the label and the counters of each."""
        for name, zone in self._zones.items():
            value = self._values.get(name)
            if value is None:
                value = self._values[name] = _show(zone)
            yield labels(server_zone=name), value

    def samples(self, name: str) -> Iterator[Sample]:
        """Yield the samples of a counter."""
        for label, value in self:
            if name == "sessions":
                for number in CLASSES:
                    yield f'{label[:-1]},code="{number}xx"}}', value[name][f"{number}xx"]
            else:
                yield label, value[name]

    def tls_samples(self, name: str) -> Iterator[Sample]:
        """Yield those of a counter of handshakes."""
        for label, value in self:
            if "ssl" in value:
                yield label, value["ssl"][name]


def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family]:
    """Yield the families of nginx-prometheus-exporter about server zones."""
    shown = _Shown(_zones(stream))
    for name, kind, doc in _METRICS:
        yield Family(PREFIX + name, kind, doc, shown.samples(name))
    for name, doc in _TLS_METRICS:
        yield Family(f"{PREFIX}ssl_{name}", COUNTER, doc, shown.tls_samples(name))


MODULE = StreamModule(
    name=NAME,
    directives=(
        Directive(NAME, SERVER, d.TAKE1, _status_zone,
                  "Counts the server's sessions under a name; several servers may have one.",
                  extension=True),
    ),
    conf=StatusZoneConf,
    init=init,
    start_worker=start_worker,
    stop_worker=stop_worker,
    facts=tls_facts.OF_SERVERS,
    endpoints=ENDPOINTS,
    metrics=metrics,
)
