"""The API's endpoints about worker processes: /workers/ and /processes as NGINX Plus has them, and
our own /workers, which says more.

What it says is of the rows of facts that workers write themselves (worker_facts.py), so nobody is
asked and nobody is waited for: numbers but for counters are a second old at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.core import clock as clocks
from ngxstream.event import drops
from ngxstream.process import status
from ngxstream.process import worker_facts as w
from ngxstream.process.status import board_of, cycle_of
from ngxstream.stream import api, core_facts, zone_endpoints
from ngxstream.stream import schema as s
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.core.facts import Cell, Fact
    from ngxstream.event.loop import Loop
    from ngxstream.process.cycle import Cycle
    from ngxstream.process.service import Service
    from ngxstream.stream.core import StreamConf, StreamDraft

NAME: Final = "workers"  # where the draft keeps the cells
WORKER_NOT_FOUND: Final = "WorkerNotFound"
ACCEPTED: Final = "connections_accepted"  # facts that others count
DROPPED: Final = "connections_dropped"
OVERFLOW: Final = "kernel"  # the reason of w.OVERFLOW
STATES: Final = {w.SERVING: "serving", w.LEAVING: "leaving"}


class Row(NamedTuple):
    """What one worker says. Args: pid: of it; words: by the number of a cell"""

    pid: int
    words: memoryview[int]

    def of(self, cell: Cell) -> int:
        """Return what it says in a cell, which is 0 or more."""
        return max(0, self.words[cell.at]) if cell.at < len(self.words) else 0


class Workers:
    """The workers of all generations, as one of them sees them."""

    __slots__ = ("_bases", "cells", "drops", "rows", "stream")

    def __init__(self, loop: Loop, stream: StreamConf) -> None:
        """See them now."""
        loop.get(w.Publisher).publish()
        self.stream = stream
        self._bases = board_of(loop).bases
        cells: w.WorkerCells = stream.data[NAME]
        self.cells = cells.gauges
        self.drops = cells.drops
        found = cycle_of(loop).rows.of_processes().items()
        rows = [Row(pid, words) for pid, words in found]
        self.rows = sorted(
            [row for row in rows if self.of(row, w.STATE) in STATES],
            key=lambda row: (self.of(row, w.STATE), -self.of(row, w.GENERATION),
                             self.of(row, w.NUMBER), row.pid),
        )

    def of(self, row: Row, fact: Fact) -> int:
        """Return a gauge of one."""
        return row.of(self.cells[fact])

    def counted(self, row: Row, fact: Fact) -> int:
        """Return what one has counted of a fact of all workers."""
        return row.of(self.stream.facts.cell(fact))

    def serving(self) -> list[Row]:
        """Return those that serve, one for each number."""
        found = {self.of(row, w.NUMBER): row for row in reversed(self.rows)
                 if self.of(row, w.STATE) == w.SERVING}
        return [found[number] for number in sorted(found)]

    def silent(self) -> list[int]:
        """Return the pids of those that have not told anything for SILENT_MS."""
        late_ms = clocks.monotonic_ms() - w.SILENT_MS
        return sorted(row.pid for row in self.rows if self.of(row, w.SEEN) < late_ms)

    def connections(self, row: Row) -> dict[str, int]:
        """Return what one says of its clients."""
        since = self._bases.of(self.of(row, w.NUMBER), row.pid)
        accepted, dropped = (
            max(0, counted - base) for counted, base in zip(self._counted(row), since, strict=True)
        )
        active = self.of(row, w.TCP) + self.of(row, w.UDP)
        return {"accepted": accepted, "dropped": dropped, "active": active, "idle": 0}

    def _counted(self, row: Row) -> list[int]:
        """Return how many clients one has accepted, and turned away."""
        facts = self.stream.facts
        known = [facts.declared.get(name) for name in (ACCEPTED, DROPPED)]
        return [row.of(facts.cell(fact)) if fact is not None else 0 for fact in known]

    def reset(self, row: Row) -> None:
        """Have what one has counted of its clients begin at 0."""
        self._bases.put(self.of(row, w.NUMBER), row.pid, self._counted(row))

    def serving_as(self, number: str) -> Row:
        """Return the one that serves with a number. Raises: ApiError"""
        for row in self.serving():
            if number == str(self.of(row, w.NUMBER)):
                return row
        raise api.ApiError(404, WORKER_NOT_FOUND, "worker not found")


# -- NGINX Plus ------------------------------------------------------------------------------------


def _plus(workers: Workers, row: Row) -> dict[str, Any]:
    return {
        "id": workers.of(row, w.NUMBER),
        "pid": row.pid,
        "connections": workers.connections(row),
        "http": {"requests": {"total": 0, "current": 0}},
    }


def _get_all(request: api.Request) -> api.Reply:
    workers = Workers(request.loop, request.stream)
    found = [zone_endpoints.limited(_plus(workers, row), request) for row in workers.serving()]
    return api.Reply(value=found)


def _reset_all(request: api.Request) -> api.Reply:
    workers = Workers(request.loop, request.stream)
    for row in workers.serving():
        workers.reset(row)
    return api.Reply(204)


def _get_one(request: api.Request) -> api.Reply:
    workers = Workers(request.loop, request.stream)
    row = workers.serving_as(request.path["id"])
    return api.Reply(value=zone_endpoints.limited(_plus(workers, row), request))


def _reset_one(request: api.Request) -> api.Reply:
    workers = Workers(request.loop, request.stream)
    workers.reset(workers.serving_as(request.path["id"]))
    return api.Reply(204)


def _get_processes(request: api.Request) -> api.Reply:
    total = request.stream.facts.cell(w.RESPAWNS).total
    return api.Reply(value={"respawned": max(0, total - board_of(request.loop).bases.respawned)})


def _reset_processes(request: api.Request) -> api.Reply:
    total = request.stream.facts.cell(w.RESPAWNS).total
    board_of(request.loop).bases.respawned = total
    return api.Reply(204)


# -- ours ------------------------------------------------------------------------------------------


def _get_ours(request: api.Request) -> api.Reply:
    workers = Workers(request.loop, request.stream)
    found = (_ours(workers, row) for row in workers.rows)
    known = request.loop.get(status.Status)
    master = {"pid": None if known.master == status.NONE else known.ppid, "state": known.master}
    return api.Reply(value={"master": master, "workers": api.Items(found),
                            "silent": workers.silent()})


def _ours(workers: Workers, row: Row) -> dict[str, Any]:
    def of(fact: Fact) -> int:
        return workers.of(row, fact)

    started_ms = of(w.STARTED)
    return {
        "id": of(w.NUMBER),
        "pid": row.pid,
        "generation": of(w.GENERATION),
        "state": STATES[of(w.STATE)],
        "started": clocks.rfc3339(started_ms if clocks.is_time(started_ms) else 0),
        "connections": workers.connections(row),
        "sessions": {"tcp": of(w.TCP), "udp": of(w.UDP)},
        "turns": of(w.TURNS),
        "loop_delay_ms": {
            "max": of(w.DELAY_WORST), "p50": of(w.DELAY_HALF), "p99": of(w.DELAY_MOST),
        },
        "udp": {
            "drains": workers.counted(row, w.DRAINS),
            "datagrams": workers.counted(row, w.DATAGRAMS),
            "gro": of(w.GRO) > 0,
            "gso": of(w.GSO) > 0,
            "held": of(w.HELD),
            "queued": of(w.QUEUED),
            "evicted": workers.counted(row, core_facts.EVICTED),
            "drops": {
                **{reason: row.of(cell) for reason, cell in workers.drops.items()},
                OVERFLOW: of(w.OVERFLOW),
            },
        },
        "memory_bytes": of(w.MEMORY),
    }


_CONNECTIONS: Final = s.obj(accepted=s.COUNT, dropped=s.COUNT, active=s.COUNT, idle=s.COUNT)
_PLUS: Final = s.obj(
    "A worker.", id=s.COUNT, pid=s.COUNT, connections=_CONNECTIONS,
    http=s.obj("There is none.", requests=s.obj(total=s.COUNT, current=s.COUNT)),
)
_OURS: Final = s.obj(
    id=s.described(s.COUNT, "its place among the workers of its configuration"), pid=s.COUNT,
    generation=s.described(s.COUNT, "of its configuration"), state=s.enum(*STATES.values()),
    started=s.TIME, connections=_CONNECTIONS, sessions=s.obj(tcp=s.COUNT, udp=s.COUNT),
    turns=s.described(s.COUNT, "of its loop"),
    loop_delay_ms=s.obj("How long what was ready had to wait, in the last minute.",
                        max=s.COUNT, p50=s.COUNT, p99=s.COUNT),
    udp=s.obj(
        drains=s.described(s.COUNT, "how often listening sockets were drained"),
        datagrams=s.described(s.COUNT, "messages that were read from them"),
        gro=s.described(s.BOOL, "whether a listening socket coalesces what it receives"),
        gso=s.described(s.BOOL, "whether the kernel divides what they send"),
        held=s.described(s.COUNT, "datagrams held while sessions change hands"),
        queued=s.described(s.COUNT, "datagrams that wait for room, or for their session"),
        evicted=s.described(s.COUNT, "sessions that ended for new clients"),
        drops=s.described(s.obj(**dict.fromkeys((*drops.REASONS, OVERFLOW), s.COUNT)),
                          "datagrams that were dropped, by reason"),
    ),
    memory_bytes=s.described(s.COUNT, "resident, what is shared included"),
)
_MASTER: Final = s.obj(
    "As the worker that answers knows it.",
    pid=s.described(s.nullable(s.COUNT), "null where there is none"),
    state=s.described(
        s.enum(status.RUNNING, status.GONE, status.NONE),
        'gone: the workers serve on, but nobody reloads, or replaces a worker that dies; none: '
        '"master_process off"',
    ),
)
_SILENT: Final = s.described(
    s.array(s.COUNT), f"pids of those whose loop has stood still for {w.SILENT_MS // 1000} seconds"
)

ENDPOINTS: Final = (
    api.Endpoint(api.PLUS, "/processes", {
        "GET": api.Operation(_get_processes, "Workers that were started in a dead one's place.",
                             s.obj(respawned=s.COUNT)),
        "DELETE": api.Operation(_reset_processes, "Begins to count them anew.", success=204),
    }),
    api.Endpoint(api.PLUS, "/workers", {
        "GET": api.Operation(_get_all, "The workers that serve.", s.array(_PLUS),
                             args=(zone_endpoints.FIELDS,)),
        "DELETE": api.Operation(_reset_all, "Begins to count their clients anew.", success=204),
    }),
    api.Endpoint(api.PLUS, "/workers/{id}", {
        "GET": api.Operation(_get_one, "One worker.", _PLUS, args=(zone_endpoints.FIELDS,),
                             errors=(WORKER_NOT_FOUND,)),
        "DELETE": api.Operation(_reset_one, "Begins to count its clients anew.", success=204,
                                errors=(WORKER_NOT_FOUND,)),
    }),
    api.Endpoint(api.OWN, "/workers", {
        "GET": api.Operation(_get_ours, "All workers, those that leave too.",
                             s.obj(master=_MASTER, workers=s.array(_OURS), silent=_SILENT)),
    }),
)


# -- the module ------------------------------------------------------------------------------------


def metrics(loop: Loop, stream: StreamConf) -> Iterable[api.Family]:
    """Return what Prometheus is told of workers."""
    workers = Workers(loop, stream)
    serving = [
        (api.labels(id=str(workers.of(row, w.NUMBER)), pid=str(row.pid)), workers.connections(row))
        for row in workers.serving()
    ]
    for name, kind, doc in _CONNECTION_METRICS:
        yield api.Family(f"nginxplus_worker_connection_{name}", kind, doc,
                         [(labels, counted[name]) for labels, counted in serving])
    yield api.Family("ngxstream_workers_silent", api.GAUGE,
                     f"Workers whose loop has stood still for {w.SILENT_MS // 1000} seconds.",
                     [("", len(workers.silent()))])
    yield api.Family("ngxstream_worker_memory_bytes", api.GAUGE, w.MEMORY.doc, [
        (api.labels(id=str(workers.of(row, w.NUMBER)), pid=str(row.pid)), workers.of(row, w.MEMORY))
        for row in workers.serving()
    ])
    dropped = [(api.labels(reason=reason), cell.total) for reason, cell in workers.drops.items()]
    dropped.append((api.labels(reason=OVERFLOW), workers.cells[w.OVERFLOW].total))
    yield api.Family("ngxstream_datagrams_dropped_total", api.COUNTER, w.DROPS.doc, dropped)
    for name, kind, fact in (
        ("udp_drains_total", api.COUNTER, w.DRAINS),
        ("udp_datagrams_total", api.COUNTER, w.DATAGRAMS),
        ("udp_sessions_evicted_total", api.COUNTER, core_facts.EVICTED),
        ("udp_sessions", api.GAUGE, w.UDP),
    ):
        yield api.Family(f"ngxstream_{name}", kind, fact.doc,
                         [("", stream.facts.cell(fact).total)])
    yield api.Family("ngxstream_worker_respawns_total", api.COUNTER, w.RESPAWNS.doc,
                     [("", stream.facts.cell(w.RESPAWNS).total)])
    yield api.Family("ngxstream_loop_delay_seconds", api.HISTOGRAM,
                     "How long what was ready had to wait for the loop.", _delays(stream))


_CONNECTION_METRICS: Final = (
    ("accepted", api.COUNTER, "Clients that a worker accepted."),
    ("dropped", api.COUNTER, "Clients that a worker turned away."),
    ("active", api.GAUGE, "Clients that a worker serves."),
    ("idle", api.GAUGE, "Clients that wait for their next request."),
)


def _delays(stream: StreamConf) -> Iterator[api.Sample]:
    cells: w.WorkerCells = stream.data[NAME]
    count = 0
    for label, cell in zip(w.LABELS, cells.delays, strict=True):
        count += cell.total
        most = "+Inf" if label == w.LABELS[-1] else f"{int(label) / 1000:g}"
        yield "_bucket" + api.labels(le=most), count
    yield "_sum", cells.delay_sum.total / 1000
    yield "_count", count


def _finish(draft: StreamDraft) -> None:
    if draft.is_shown:
        draft.data[NAME] = w.WorkerCells(draft.builder.facts)


def cells_of(cycle: Cycle) -> w.WorkerCells | None:
    """Return the cells of a cycle, None for one where nothing shows them."""
    stream = cycle.stream
    return None if stream is None else stream.data.get(NAME)


def start(service: Service) -> None:
    """Have a worker tell of itself from now on, where something shows it."""
    cycle = service.cycle
    cells = cells_of(cycle)
    if cells is not None:
        service.loop.get(w.Publisher).start(
            cells, cycle.generation, int(cycle.log.clock.now() * 1000),
            lambda: service.udp_listeners,
        )


def _stop(stream: StreamConf, loop: Loop) -> None:
    if stream.is_shown:
        loop.get(w.Publisher).stop(stream.data[NAME])


MODULE: Final = StreamModule(
    NAME, endpoints=ENDPOINTS, metrics=metrics, facts=w.FACTS, finish=_finish, stop_worker=_stop,
)
