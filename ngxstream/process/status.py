"""The API's endpoints about the program itself: what serves since when, the last reloads, the last
lines of its logs.

1. `build` says nothing like `-rNN`, so nobody takes the program for a release of NGINX Plus. The
   exporter then logs a warning about the license with each scrape, which harms nothing; to be
   silent it would have to be told another product's name.
2. /license is not served, nor named by the index: there is none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ngxstream import NGINX_VERSION, VERSION
from ngxstream.conf import units
from ngxstream.core import clock as clocks
from ngxstream.core import escape, inet, log, log_ring
from ngxstream.process import directives, history
from ngxstream.stream import api, zone_endpoints
from ngxstream.stream import schema as s
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.process.board import Board
    from ngxstream.process.cycle import Cycle
    from ngxstream.stream.core import StreamConf

OK: Final = "ok"
FAILED: Final = "failed"
BUILD: Final = f"ngxstream-{VERSION}"


# what a process knows of its master
RUNNING: Final = "running"
GONE: Final = "gone"  # the worker serves on, without anybody who reloads or replaces
NONE: Final = "none"  # of `master_process off`


class Status:
    """The process that serves, as handlers of the API find it: `loop.get(Status)`."""

    __slots__ = ("_is_single", "cycle", "is_orphan", "ppid")

    def __init__(self, loop: Loop) -> None:
        self.cycle: Cycle | None = None  # set by Service where something is shown
        self.ppid = os.getppid()  # of the master that started this worker
        self.is_orphan = False  # that master is gone
        self._is_single = loop.is_single

    @property
    def master(self) -> str:
        """RUNNING, GONE or NONE."""
        if self._is_single:
            return NONE
        return GONE if self.is_orphan else RUNNING


def cycle_of(loop: Loop) -> Cycle:
    """Return what the process serves. Raises: ApiError where it is no process of ours"""
    cycle = loop.get(Status).cycle
    if cycle is None:
        raise api.ApiError(404, "PathNotFound", "nothing is known of this process")
    return cycle


def board_of(loop: Loop) -> Board:
    """Return what processes show each other. Raises: ApiError"""
    board = cycle_of(loop).board
    assert board is not None  # the configuration has an api
    return board


def shown(text: bytes | str) -> str:
    """Return a text of a log or of the configuration as JSON takes it, without controls."""
    data = log.encode(text) if isinstance(text, str) else text
    return escape.printed(data).decode()


def loaded_ms(cycle: Cycle) -> int:
    """Return when the configuration was loaded that serves, in milliseconds since 1970."""
    assert cycle.board is not None
    load = cycle.board.history.latest()
    if load is None or load.generation < cycle.generation:  # it is being recorded
        return cycle.built_ms
    return load.time_ms + load.duration_ms


def _nginx(request: api.Request) -> api.Reply:
    cycle = cycle_of(request.loop)
    now_ms = int(cycle.log.clock.now() * 1000)
    return api.Reply(value=zone_endpoints.limited({
        "version": NGINX_VERSION,
        "build": BUILD,
        "address": shown(inet.address_text(request.s.c.local_sockaddr())),
        "generation": cycle.generation,
        "load_timestamp": clocks.rfc3339(loaded_ms(cycle)),
        "timestamp": clocks.rfc3339(now_ms),
        "pid": request.loop.pid,
        "ppid": request.loop.get(Status).ppid,
    }, request))


def _reloads(request: api.Request) -> api.Reply:
    cycle = cycle_of(request.loop)
    loads = board_of(request.loop).history.loads()
    served_ms = loaded_ms(cycle)
    until = request.stream.facts.cell(directives.ADOPTED).total
    shown_loads = []
    for load in loads:
        carried = 0
        if load.accepted:
            carried, until = max(0, until - load.adopted), load.adopted
        shown_loads.append({
            "time": clocks.rfc3339(load.time_ms),
            "verdict": OK if load.accepted else FAILED,
            "message": shown(load.message),
            "generation": load.generation,
            "duration_ms": load.duration_ms,
            "sessions_carried": carried,
        })
    age_ms = int(cycle.log.clock.now() * 1000) - served_ms
    return api.Reply(value={
        "configuration": {
            "file": shown(os.path.abspath(cycle.options.conf_file)),
            "generation": cycle.generation,
            "loaded": clocks.rfc3339(served_ms),
            "age_s": max(0, age_ms // 1000),
        },
        "reloads": shown_loads,
    })


def _log(request: api.Request) -> api.Reply:
    given = request.args
    level = log.LEVELS.get(given.get("level", "debug"))
    if level is None:
        raise api.bad_argument("level")
    try:
        since_ms = clocks.parse_rfc3339(given["since"]) if "since" in given else 0
    except ValueError:
        raise api.bad_argument("since") from None
    after = number_of(given, "after", 0, 1 << 62)
    limit = number_of(given, "limit", log_ring.LINES, log_ring.LINES, least=1)
    wanted = log.encode(given.get("contains", "")).lower()
    ring = board_of(request.loop).lines
    oldest = max(0, ring.ring.last - log_ring.LINES)
    lost = ring.ring.lost + (max(0, oldest - after) if "after" in given else 0)
    lines = ring.find(after, level, since_ms, wanted)[-limit:]
    return api.Reply(value={"lines": api.Items(map(_line, lines)), "lost": lost})


def _line(found: tuple[int, bytes]) -> dict[str, Any]:
    line = log_ring.line(found)
    return {
        "id": line.number,
        "time": clocks.rfc3339(line.time_ms),
        "level": log.NAMES[line.level],
        "pid": line.pid,
        "connection": line.connection,
        "text": shown(line.text),
    }


def number_of(
    given: Mapping[str, str], name: str, default: int, most: int, *, least: int = 0
) -> int:
    """Return a number among the arguments of the query. Raises: ApiError"""
    text = given.get(name)
    if text is None:
        return default
    try:
        value = units.parse_number(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise api.bad_argument(name)
    return value


_NGINX: Final = s.obj(
    "The program, and the worker that answers.",
    version=s.described(s.TEXT, "of the nginx that it answers as"), build=s.TEXT, address=s.TEXT,
    generation=s.COUNT, load_timestamp=s.TIME, timestamp=s.TIME, pid=s.COUNT, ppid=s.COUNT,
)

_RELOADS: Final = s.obj(
    configuration=s.obj(
        "What serves now.", file=s.TEXT, generation=s.COUNT, loaded=s.TIME, age_s=s.COUNT
    ),
    reloads=s.array(s.obj(
        time=s.described(s.TIME, "when it began"), verdict=s.enum(OK, FAILED),
        message=s.described(s.TEXT, "errors of one that failed, else warnings"),
        generation=s.described(s.COUNT, "which served then"), duration_ms=s.COUNT,
        sessions_carried=s.described(s.COUNT, "UDP sessions that went on in the new workers"),
    )),
)
_LEVEL: Final = s.enum(*log.LEVELS)
_LIMIT: Final = {"type": "integer", "minimum": 1, "maximum": log_ring.LINES}
_LINES: Final = s.obj(
    lines=s.array(s.obj(
        id=s.described(s.COUNT, "counts up"), time=s.TIME, level=s.enum(*log.NAMES), pid=s.COUNT,
        connection=s.described(s.nullable(s.COUNT), "$connection"), text=s.TEXT,
    )),
    lost=s.described(s.COUNT, "lines that could not be kept; with `after`, and those after that "
                     "one that are gone by now"),
)

ENDPOINTS: Final = (
    api.Endpoint(api.PLUS, "/nginx", {
        "GET": api.Operation(_nginx, "The program: version, configuration, processes.",
                             _NGINX, args=(zone_endpoints.FIELDS,)),
    }),
    api.Endpoint(api.OWN, "/reloads", {
        "GET": api.Operation(
            _reloads, f"The configuration that serves, and the last {history.LOADS} that were "
            "loaded or refused, the latest first.", _RELOADS,
        ),
    }),
    api.Endpoint(api.OWN, "/log", {
        "GET": api.Operation(
            _log, f"The last {log_ring.LINES} lines of all error logs, as their levels are "
            "configured, the latest last.", _LINES,
            args=(
                api.Argument("level", "Lines of this level and of worse ones.", _LEVEL),
                api.Argument("contains", "Lines with this text in them, whatever its case."),
                api.Argument("since", "Lines that were written then or later.", s.TIME),
                api.Argument("after", "Lines with a greater id: what is new since a former answer.",
                             s.COUNT),
                api.Argument("limit", "The latest ones, so many at most.", _LIMIT),
            ),
            errors=(api.BAD_ARGUMENT,),
        ),
    }),
)


def metrics(loop: Loop, stream: StreamConf) -> Iterable[api.Family]:
    """Return what Prometheus is told of the program."""
    cycle = cycle_of(loop)
    board = board_of(loop)
    python = ".".join(map(str, sys.version_info[:3]))
    build = api.labels(version=VERSION, python=python)
    yield api.Family("ngxstream_build_info", api.GAUGE, "The program.", [(build, 1)])
    loaded_s = loaded_ms(cycle) / 1000
    yield api.Family("ngxstream_configuration_loaded_timestamp_seconds", api.GAUGE,
                     "When the configuration was loaded.", [("", loaded_s)])
    yield api.Family("ngxstream_configuration_age_seconds", api.GAUGE,
                     "How long the configuration serves.",
                     [("", max(0, cycle.log.clock.now() - loaded_s))])
    loads = board.history.loads()
    accepted = loads[0].accepted_sofar - 1 if loads else 0  # the first one is no reload
    refused = loads[0].refused_sofar if loads else 0
    yield api.Family("ngxstream_reloads_total", api.COUNTER, "Reloads, by how they went.", [
        (api.labels(verdict=OK), max(0, accepted)), (api.labels(verdict=FAILED), refused),
    ])
    yield api.Family("ngxstream_log_lines_lost_total", api.COUNTER,
                     "Lines of error logs that the API could not keep.",
                     [("", board.lines.ring.lost)])
    yield api.Family("ngxstream_master_up", api.GAUGE,
                     "0 where the master process is gone and its workers serve on, else 1.",
                     [("", int(loop.get(Status).master != GONE))])
    for fact, name in ((directives.ADOPTED, "adopted"), (directives.LOST, "failed")):
        yield api.Family(f"ngxstream_handover_sessions_{name}_total", api.COUNTER, fact.doc,
                         [("", stream.facts.cell(fact).total)])


MODULE: Final = StreamModule("program", endpoints=ENDPOINTS, metrics=metrics)
