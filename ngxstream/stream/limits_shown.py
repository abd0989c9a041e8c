"""What zones of limits by rate have counted, as the API and metrics show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ngxstream.core.facts import totals_of
from ngxstream.stream import limits, schema, zone_endpoints
from ngxstream.stream.api import COUNTER, OWN, Endpoint, Family, Metrics, labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ngxstream.event.loop import Loop
    from ngxstream.stream.api import Request
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.limits import RateKind, RateZone


class Shown(NamedTuple):
    """How the zones of one kind are shown."""

    endpoints: tuple[Endpoint, ...]
    metrics: Metrics


def shown(kind: RateKind, code: str, doc: str) -> Shown:
    """Show the zones of a kind. Args: code: of the error for an unknown zone; doc: a line"""
    names = [fact.name.removeprefix(f"{kind.name}_") for fact in kind.facts]

    def zones(stream: StreamConf) -> Mapping[str, RateZone]:
        return limits.zones_of(kind, stream.data)

    def counted(zone: RateZone) -> dict[str, int]:
        return dict(zip(names, totals_of(zone.cells), strict=True))

    def reset(zone: RateZone, _: Request) -> None:
        for cell in zone.cells:
            cell.reset()

    def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family]:
        """Yield a family for each thing that is counted."""
        found = {labels(zone=name): counted(zone) for name, zone in zones(stream).items()}
        for name, fact in zip(names, kind.facts, strict=True):
            yield Family(f"ngxstream_stream_{fact.name}", COUNTER, fact.doc.rstrip("."), [
                (label, value[name]) for label, value in found.items()
            ])

    made = zone_endpoints.Kind(
        f"/{kind.name}", f"{kind.name} zone", code, zones, counted, reset,
        schema.obj(doc, **dict.fromkeys(names, schema.COUNT)),
    )
    return Shown(zone_endpoints.endpoints(made, OWN), metrics)
