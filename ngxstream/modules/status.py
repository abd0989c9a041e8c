"""status: what the API shows of the whole program: connections, TLS, resolvers, shared memory.

Answers for /connections, /ssl, /resolvers and /slabs of NGINX Plus, and for the endpoints of http
that its clients insist on: there is no http here, and they are empty. Servers are the business of
modules/status_zone.py, processes and workers of process/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import shm
from ngxstream.core.facts import ZONE, Fact, totals_of
from ngxstream.stream import core_facts, resolver_conf, schema, tls_facts, zone_endpoints
from ngxstream.stream.api import (
    COUNTER,
    GAUGE,
    PLUS,
    Endpoint,
    Family,
    Operation,
    Reply,
    Request,
    Sample,
    labels,
)
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.core.facts import Cell
    from ngxstream.core.shm_zones import ZoneRequest, ZoneTable
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import StreamConf, StreamDraft
    from ngxstream.stream.resolver_conf import ResolverZone

NAME: Final = "status"

# -- connections -------------------------------------------------------------------------------


def _connections(stream: StreamConf) -> dict[str, int]:
    active, accepted = core_facts.clients(stream)
    dropped = stream.facts.cell(core_facts.REFUSED).total
    return {"accepted": accepted, "dropped": dropped, "active": active, "idle": 0}


def _get_connections(request: Request) -> Reply:
    return Reply(value=zone_endpoints.limited(_connections(request.stream), request))


def _reset_connections(request: Request) -> Reply:
    facts = request.stream.facts
    zone_endpoints.reset([facts.cell(core_facts.ACCEPTED), facts.cell(core_facts.REFUSED)])
    return Reply(204)


CONNECTIONS: Final = schema.obj(
    "Clients of all workers, TCP connections and UDP sessions alike.",
    accepted=schema.described(schema.COUNT, "Those that came."),
    dropped=schema.described(schema.COUNT, "Those that there was no room for (UDP)."),
    active=schema.described(schema.INT, "Those that are being served."),
    idle=schema.described(schema.INT, "Always 0: a session of a stream never idles in this sense."),
)

# -- TLS ---------------------------------------------------------------------------------------


def _handshakes(stream: StreamConf) -> list[int]:
    return totals_of(list(tls_facts.of_all(stream.facts).values()))


def _get_ssl(request: Request) -> Reply:
    value = tls_facts.shown(tls_facts.NAMES, _handshakes(request.stream))
    return Reply(value=zone_endpoints.limited(value, request))


def _reset_ssl(request: Request) -> Reply:
    zone_endpoints.reset(tls_facts.of_all(request.stream.facts).values())
    return Reply(204)


# -- resolvers ---------------------------------------------------------------------------------


def _resolvers(stream: StreamConf) -> dict[str, ResolverZone]:
    return resolver_conf.zones_of(stream.data)


def _show_resolver(zone: ResolverZone) -> dict[str, Any]:
    totals = totals_of(zone.cells())
    return {
        "requests": dict(zip(zone.requests, totals, strict=False)),
        "responses": dict(zip(zone.responses, totals[len(zone.requests) :], strict=True)),
    }


def _reset_resolver(zone: ResolverZone, _: Request) -> None:
    for cell in zone.cells():
        cell.reset()


RESOLVER: Final = schema.obj(
    "What resolvers of one status_zone were asked.",
    requests=schema.obj(
        "Lookups that no kept answer met.",
        **dict.fromkeys(resolver_conf.REQUESTS, schema.COUNT),
    ),
    responses=schema.obj(
        "Messages of DNS servers by their codes; lookups that nothing came of in time.",
        **dict.fromkeys(resolver_conf.RESPONSES, schema.COUNT),
    ),
)

# -- shared memory -----------------------------------------------------------------------------

FORGOTTEN: Final = (
    Fact("zone_requests_forgotten", ZONE, "Requests for room in the zone before the last reset."),
    Fact("zone_failures_forgotten", ZONE, "Those of them that failed."),
)


class Slab:
    """A zone of shared memory as the API shows it: as if it were a slab of one size of slots."""

    __slots__ = ("_forgotten", "_request")

    def __init__(self, request: ZoneRequest, forgotten: tuple[Cell, ...]) -> None:
        """Args: forgotten: cells of what the numbers of requests and failures begin at"""
        self._request = request
        self._forgotten = forgotten

    def shown(self) -> dict[str, Any]:
        """Return pages and slots."""
        request = self._request
        pages = request.size // shm.PAGE
        if request.usage is None or request.zone is None:  # nobody knows: all of it counts as used
            return _slab(pages, 0, shm.PAGE, pages, 0, 0, 0)
        usage = request.usage()
        before = totals_of(self._forgotten)
        # what is left over of the zone's size is about the slots, and counts as used
        free = min(usage.free * usage.size // shm.PAGE, pages - 1)
        return _slab(
            pages - free, free, usage.size, usage.used, usage.free,
            max(usage.requests - before[0], 0), max(usage.failures - before[1], 0),
        )

    def reset(self, row: memoryview[int]) -> None:
        """Have the numbers of requests and failures begin at 0. Args: row: Loop.cells"""
        usage = self._request.usage
        if usage is not None and self._request.zone is not None:
            now = usage()
            for cell, before, count in zip(
                self._forgotten, totals_of(self._forgotten), (now.requests, now.failures),
                strict=True,
            ):
                row[cell.at] += max(count - before, 0)


def _slab(
    pages: int, free_pages: int, size: int, used: int, free: int, requests: int, failures: int
) -> dict[str, Any]:
    return {
        "pages": {"used": pages, "free": free_pages},
        "slots": {
            str(size): {"used": used, "free": free, "reqs": requests, "fails": failures},
        },
    }


def _slabs(stream: StreamConf) -> dict[str, Slab]:
    slabs: dict[str, Slab] = stream.data[NAME]
    return slabs


SLAB: Final = schema.obj(
    "A zone of shared memory.",
    pages=schema.obj(used=schema.COUNT, free=schema.COUNT),
    slots=schema.described(schema.mapping(schema.obj(
        used=schema.COUNT, free=schema.COUNT,
        reqs=schema.described(schema.COUNT, "How often a slot was asked for."),
        fails=schema.described(schema.COUNT, "How often there was none."),
    )), "By size in bytes; a zone has one size."),
)


def init(draft: StreamDraft) -> None:
    """Find the zones that can be shown."""
    slabs: dict[str, Slab] = {}
    draft.data[NAME] = slabs
    if draft.is_shown:
        zones: ZoneTable = draft.builder.data["zones"]
        for name, request in zones.requests.items():
            cells = tuple(draft.builder.facts.cell(fact, name) for fact in FORGOTTEN)
            slabs[name] = Slab(request, cells)


# -- what there is not -------------------------------------------------------------------------


def _nothing(request: Request) -> Reply:
    return Reply(value=[] if request.args.get("fields") == "" else {})


def _no_requests(request: Request) -> Reply:
    return Reply(value=zone_endpoints.limited({"total": 0, "current": 0}, request))


def _http(name: str) -> Endpoint:
    return Endpoint(PLUS, f"/http/{name}", {
        "GET": Operation(_nothing, "There is no http here.", schema.either(
            schema.obj(), schema.array(schema.TEXT)
        ), args=(zone_endpoints.ALL_FIELDS,)),
    }, listed=False)


# -- all of it ---------------------------------------------------------------------------------

TLS: Final = tls_facts.schema_of(tls_facts.NAMES)
REQUESTS: Final = schema.obj(total=schema.COUNT, current=schema.COUNT)
ENDPOINTS: Final = (
    Endpoint(PLUS, "/connections", {
        "GET": Operation(_get_connections, "Return the clients of all workers.",
                         schema.partial(CONNECTIONS), args=(zone_endpoints.FIELDS,)),
        "DELETE": Operation(_reset_connections, "Have `accepted` and `dropped` begin at 0.",
                            success=204),
    }),
    Endpoint(PLUS, "/ssl", {
        "GET": Operation(_get_ssl, "Return the TLS handshakes of all workers.",
                         schema.partial(TLS), args=(zone_endpoints.FIELDS,)),
        "DELETE": Operation(_reset_ssl, "Have the numbers of handshakes begin at 0.", success=204),
    }),
    *zone_endpoints.endpoints(zone_endpoints.Kind(
        "/resolvers", "resolver zone", "ResolverZoneNotFound", _resolvers, _show_resolver,
        _reset_resolver, RESOLVER,
    )),
    *zone_endpoints.endpoints(zone_endpoints.Kind(
        "/slabs", "slab", "SlabNotFound", _slabs, Slab.shown,
        lambda slab, request: slab.reset(request.loop.cells), SLAB,
    )),
    *map(_http, ("caches", "limit_conns", "limit_reqs", "location_zones", "server_zones",
                 "upstreams")),
    Endpoint(PLUS, "/http/requests", {
        "GET": Operation(_no_requests, "There is no http here.", schema.partial(REQUESTS),
                         args=(zone_endpoints.FIELDS,)),
    }, listed=False),
)


def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family]:
    """Yield the families of nginx-prometheus-exporter about the above, and ours."""
    connections = _connections(stream)
    for name, kind, doc in (
        ("accepted", COUNTER, "Client sessions that came"),
        ("dropped", COUNTER, "Client sessions that there was no room for"),
        ("active", GAUGE, "Client sessions that are being served"),
        ("idle", GAUGE, "Idle client connections"),
    ):
        yield Family(f"nginxplus_connections_{name}", kind, doc, [("", connections[name])])
    handshakes = dict(zip(tls_facts.NAMES, _handshakes(stream), strict=True))
    for name, doc in (
        (tls_facts.HANDSHAKES, "TLS handshakes that succeeded"),
        (tls_facts.FAILED, "TLS handshakes that failed"),
        (tls_facts.REUSES, "TLS handshakes that resumed a session"),
    ):
        yield Family(f"nginxplus_ssl_{name}", COUNTER, doc, [("", handshakes[name])])
    yield from _resolver_metrics(stream)
    yield from _drop_metrics(stream)


def _resolver_metrics(stream: StreamConf) -> Iterator[Family]:
    shown = {
        labels(resolver=name): _show_resolver(zone) for name, zone in _resolvers(stream).items()
    }
    for part, names, doc in (
        ("requests", resolver_conf.REQUESTS, "Requests to resolve by kind: "),
        ("responses", resolver_conf.RESPONSES, "Responses of DNS servers by code: "),
    ):
        for name in names:
            yield Family(f"nginxplus_resolver_{name}", COUNTER, f"{doc}{name}", [
                (label, value[part][name]) for label, value in shown.items()
            ])


def _drop_metrics(stream: StreamConf) -> Iterator[Family]:
    def samples() -> Iterator[Sample]:  # there may be thousands of addresses
        for listening in stream.listenings:
            listen = core_facts.label_of(listening.options)
            cell = stream.facts.known(core_facts.DROPPED, listen)
            if cell is not None:
                yield labels(listen=listen), cell.total

    yield Family("ngxstream_listener_datagrams_dropped_total", COUNTER, core_facts.DROPPED.doc,
                 samples())


MODULE = StreamModule(
    name=NAME,
    init=init,
    facts=(*tls_facts.OF_ALL, *FORGOTTEN),
    endpoints=ENDPOINTS,
    metrics=metrics,
)
