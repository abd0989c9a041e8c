"""Why sessions ended, for Prometheus: a sample for each server zone and reason.

All reasons are there from the beginning: a counter that appears with its first event hides it from
rate().
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ngxstream.stream import endings
from ngxstream.stream.api import COUNTER, Family, labels

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.api import Sample
    from ngxstream.stream.core import StreamConf

NAME: Final = "ngxstream_session_ends_total"
DOC: Final = "Client sessions by why they ended"


def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family]:
    """Yield the family, made while it is sent."""
    yield Family(NAME, COUNTER, DOC, _samples(stream))


def _samples(stream: StreamConf) -> Iterator[Sample]:
    zones = {server.facts.label: server.facts for server in stream.servers if server.facts}
    for label, facts in zones.items():
        for reason, count in zip(endings.ALL, facts.ends.totals(), strict=True):
            yield labels(server_zone=label, reason=reason.word), count
