"""metrics: what all modules tell Prometheus, as text, and the four lines of nginx's stub_status.

Answers for nginx-prometheus-exporter with NGINX Plus (names, labels, units) and for
ngx_http_stub_status_module.

1. Text format 0.0.4. A family stands once, whoever contributes to it; where none has a sample, only
   its head is there.
2. A counter whose name has no `_total`, as those of NGINX Plus have none, is declared untyped:
   dashboards and rate() take it as ever, and promtool has nothing to say.
3. The text is made while it is sent. The families are looked for first, so what they show is of
   about one moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from ngxstream.stream import core_facts
from ngxstream.stream.api import COUNTER, GAUGE, ROOT, Columns, Endpoint, Family, Operation, Reply
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.api import Request, Sample
    from ngxstream.stream.core import StreamConf

KIND: Final = "text/plain; version=0.0.4; charset=utf-8"
TEXT: Final = "text/plain; charset=utf-8"
PORTION: Final = 200  # samples that are made at once
UNTYPED: Final = "untyped"

UP: Final = Family("nginxplus_up", GAUGE, "Whether the last scrape was successful", [("", 1)])


def exposition(loop: Loop, stream: StreamConf) -> Iterator[str]:
    """Yield the text of all families in pieces, some of which are empty."""
    found: dict[str, tuple[Family, list[Iterable[Sample]]]] = {UP.name: (UP, [UP.samples])}
    for module in stream.modules:
        if module.metrics is None:
            continue
        for family in module.metrics(loop, stream):
            if family is not None:
                found.setdefault(family.name, (family, []))[1].append(family.samples)
            yield ""
    for family, samples in found.values():
        yield head(family)
        name = family.name
        for some in samples:
            if isinstance(some, Columns):
                yield from _columns(name, some)
                continue
            values = iter(some)
            while lines := [f"{name}{labels} {value}\n"
                            for labels, value in islice(values, PORTION)]:
                yield "".join(lines)


def _columns(name: str, samples: Columns) -> Iterator[str]:
    """Yield the lines of samples in columns. # hot: a third of the time of one by one"""
    labels, values = samples.labels, iter(samples.values)
    between = f" %d\n{name}"
    for start in range(0, len(labels), PORTION):
        some = labels[start : start + PORTION]
        text = between.join(some)
        if text.count("%") != len(some) - 1:
            text = between.join([one.replace("%", "%%") for one in some])
        yield f"{name}{text} %d\n" % tuple(islice(values, len(some)))


def head(family: Family) -> str:
    """Return what stands before the samples of a family."""
    name, kind = family.name, family.kind
    if kind == COUNTER and not name.endswith("_total"):
        kind = UNTYPED
    doc = family.doc.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {doc}\n# TYPE {name} {kind}\n"


def _metrics(request: Request) -> Reply:
    return Reply(value=exposition(request.loop, request.stream), kind=KIND)


def _stub_status(request: Request) -> Reply:
    """Return what ngx_http_stub_status_handler does."""
    active, accepted = core_facts.clients(request.stream)
    return Reply(value=(
        f"Active connections: {active} \n"
        "server accepts handled requests\n"
        f" {accepted} {accepted} {accepted} \n"
        f"Reading: 0 Writing: {active} Waiting: 0 \n"
    ), kind=TEXT)


MODULE: Final = StreamModule("metrics", endpoints=(
    Endpoint(ROOT, "/metrics", {
        "GET": Operation(_metrics, "Returns what Prometheus reads.", kind=KIND),
    }),
    Endpoint(ROOT, "/stub_status", {
        "GET": Operation(_stub_status, "Returns clients as nginx's stub_status does: a session "
                         "is a connection and a request.", kind=TEXT),
    }),
))
