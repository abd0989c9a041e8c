"""stores: what is counted of the stores that zones are shared by, in the API and for Prometheus.

They have no directive of their own: `store=` of a zone names one (stream/stores.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.facts import totals_of
from ngxstream.stream import schema, stores, zone_endpoints
from ngxstream.stream.api import COUNTER, GAUGE, OWN, Family, labels
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.api import Request
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.stores import StoreConf

NAMES: Final = ("commands", "refused", "unanswered", "lost")


def _stores(stream: StreamConf) -> dict[str, StoreConf]:
    known: dict[str, StoreConf] = stream.data.get(stores.NAME, {})
    return {one.options.text: one for one in known.values()}


def _shown(store: StoreConf) -> dict[str, Any]:
    counts = dict(zip(NAMES, totals_of(store.cells), strict=True))
    return {"connections": max(0, store.up.total), **counts}


def _reset(store: StoreConf, _: Request) -> None:
    for cell in store.cells:
        cell.reset()


def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family]:
    """Yield a family for each thing that is counted."""
    shown = {labels(store=name): _shown(one) for name, one in _stores(stream).items()}
    for name, fact in (("connections", stores.UP), *zip(NAMES, stores.FACTS, strict=True)):
        yield Family(
            f"ngxstream_stream_store_{name}", GAUGE if fact.is_gauge else COUNTER,
            fact.doc.rstrip("."), [(label, value[name]) for label, value in shown.items()],
        )


SCHEMA: Final = schema.obj(
    "Connections that take commands, one for each worker that uses the store, and what was sent.",
    connections=schema.COUNT, **dict.fromkeys(NAMES, schema.COUNT),
)

def _start_worker(stream: StreamConf, loop: Loop) -> None:
    zones: list[stores.Shared] = stream.data.get(stores.ZONES, [])
    for zone in zones:
        zone.start_worker(loop)


def _stop_worker(stream: StreamConf, loop: Loop) -> None:
    zones: list[stores.Shared] = stream.data.get(stores.ZONES, [])
    for zone in zones:
        zone.stop_worker()
    known: dict[str, StoreConf] = stream.data.get(stores.NAME, {})
    stores.close(loop, known.values())


MODULE = StreamModule(
    name=stores.NAME,
    directives=(),
    facts=(*stores.FACTS, stores.UP),
    endpoints=zone_endpoints.endpoints(zone_endpoints.Kind(
        "/stores", "store", "StoreNotFound", _stores, _shown, _reset, SCHEMA,
    ), OWN),
    metrics=metrics,
    start_worker=_start_worker,
    stop_worker=_stop_worker,
)
