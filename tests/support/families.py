"""Families of metrics as modules give them, without anybody who scrapes."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ngxstream.process import service
from ngxstream.process.cycle import Cycle
from ngxstream.stream import api

NAME = re.compile(r"(ngxstream|nginxplus)_[a-z][a-z0-9_]*")
SUFFIX = re.compile(r'(_bucket|_sum|_count)?(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})?')

UNITS = frozenset(("days", "hours", "minutes", "ms", "milliseconds", "us", "kilobytes", "bits"))


class Served:
    """A cycle served by a loop of this process."""

    def __init__(self, cycle: Cycle) -> None:
        self.cycle = cycle
        self.loop = service.make_loop(cycle, 0)
        self.service = service.Service(cycle, self.loop, 0)

    def samples(self, module: Any) -> dict[str, float]:
        """Return what a module tells, by name and labels."""
        return samples(module.metrics(self.loop, self.cycle.stream))

    def close(self) -> None:
        """Let go of everything, while pytest keeps this."""
        self.service.stop()
        self.loop.poller.close()
        vars(self).clear()


def samples(families: Iterable[api.Family]) -> dict[str, float]:
    """Return samples by name and labels; they are as Prometheus wants them."""
    found: dict[str, float] = {}
    for family in families:
        assert NAME.fullmatch(family.name)
        assert family.doc.endswith(".")
        assert UNITS.isdisjoint(family.name.split("_"))  # promtool wants seconds and bytes
        ours = family.name.startswith("ngxstream_")  # the others have the exporter's names
        assert (family.kind == api.COUNTER) == family.name.endswith("_total") or not ours
        mine = list(_checked(family))
        assert len(mine) == len({name for name, _ in mine})
        found.update((family.name + name, value) for name, value in mine)
    return found


def _checked(family: api.Family) -> Iterator[api.Sample]:
    buckets = []
    for suffix, value in family.samples:
        match = SUFFIX.fullmatch(suffix)
        assert match is not None, suffix
        assert (match[1] is not None) == (family.kind == api.HISTOGRAM)
        if match[1] == "_bucket":
            buckets.append(value)
        elif match[1] == "_count":
            assert buckets[-1] == value
        assert sorted(buckets) == buckets
        yield suffix, value
