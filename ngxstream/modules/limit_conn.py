"""limit_conn: how many sessions of a key may go on at a time (ngx_stream_limit_conn_module.c).

1. Sessions are counted in a zone that all workers share; how many keys it holds does not depend on
   how many workers there are. A count belongs to the worker that took it: it comes back when the
   session ends, or when the worker is seen to be dead.
2. Limits are tried in order. The one that refuses gives back what the session took before it.
3. A zone is kept over a reload while its size stays; its key must stay too.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf import units, zone_size
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import codes, errors, log, shm, shm_counts
from ngxstream.core.facts import ZONE, Fact, totals_of
from ngxstream.core.shm_zones import Usage
from ngxstream.stream import phases, schema, stores, values, zone_endpoints
from ngxstream.stream.api import COUNTER, Family, labels
from ngxstream.stream.content import Kept
from ngxstream.stream.explaining import Answer
from ngxstream.stream.limit_sharing import SharedCounts
from ngxstream.stream.module import PhaseHandler, StreamModule
from ngxstream.stream.variables import NOCACHEABLE, Variable

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.facts import Cell, Facts
    from ngxstream.core.shm_ledger import Entry
    from ngxstream.event.loop import Loop
    from ngxstream.stream.api import Request
    from ngxstream.stream.core import ServerConf, StreamConf, StreamDraft
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session
    from ngxstream.stream.stores import StoreConf
    from ngxstream.stream.values import ComplexValue

NAME: Final = "limit_conn"
BOTH: Final = STREAM | SERVER

PASSED: Final = b"PASSED"
REJECTED: Final = b"REJECTED"
REJECTED_DRY_RUN: Final = b"REJECTED_DRY_RUN"

LEVELS: Final = {"info": log.INFO, "notice": log.NOTICE, "warn": log.WARN, "error": log.ERR}


FACTS: Final = (
    Fact("limit_conn_passed", ZONE, "Sessions that a limit of the zone let pass."),
    Fact("limit_conn_rejected", ZONE, "Sessions that one refused."),
    Fact("limit_conn_rejected_dry_run", ZONE, "Sessions that one would have refused."),
)
FULL: Final = Fact("limit_conn_full", ZONE, "Sessions that there was no memory for; they are "
                   "refused, or would have been, too.")


class LimitZone:
    """A zone of counts as one configuration sees it."""

    __slots__ = ("full", "host", "key", "name", "passed", "rejected", "rejected_dry_run",
                 "shared_by", "sharing", "table")

    def __init__(self, name: str, facts: Facts) -> None:
        self.name = name
        self.passed, self.rejected, self.rejected_dry_run = (
            facts.cell(fact, name) for fact in FACTS
        )
        self.full = facts.cell(FULL, name)
        self.key: ComplexValue | None = None  # until its limit_conn_zone is read
        self.table: shm_counts.KeyTable | None = None  # until the cycle has made the zone
        self.shared_by: StoreConf | None = None  # what hosts know each other's counts by
        self.host = b""  # what those of this one are known by
        self.sharing: SharedCounts | None = None  # in a worker

    def attach(self, zone: shm.Zone, fresh: bool) -> None:
        """Take a zone the cycle has made or adopted. Source: ngx_stream_limit_conn_init_zone"""
        assert self.key is not None
        key = self.key.text
        if fresh:
            zone.data = (key, shm_counts.KeyTable(zone), secrets.token_hex(8).encode())
        former, self.table, self.host = zone.data
        if former != key:
            raise errors.UnplacedError(
                f'limit_conn_zone "{self.name}" uses the "{key}" key '
                f'while previously it used the "{former}" key'
            )

    def start_worker(self, loop: Loop) -> None:
        """Share with other hosts, where there is a store."""
        if self.shared_by is not None:
            what = f"limit_conn_zone {self.name}"
            self.sharing = SharedCounts(loop, self.shared_by, what, self.host)

    def stop_worker(self) -> None:
        """Share no more."""
        if self.sharing is not None:
            self.sharing.stop()

    def usage(self) -> Usage:
        """Tell how full it is: each session that passes asks for room for its key."""
        assert self.table is not None
        used, failures = self.table.used, self.full.total
        free = max(self.table.capacity - used, 0)
        return Usage(shm_counts.UNIT, used, free, self.passed.total + failures, failures)

    def shown(self) -> dict[str, int]:
        """Return its counters as the API has them."""
        return dict(zip(NAMES, totals_of(self.cells()), strict=True))

    def cells(self) -> tuple[Cell, ...]:
        """Return the cells that the API shows."""
        return self.passed, self.rejected, self.rejected_dry_run


class Limit(NamedTuple):
    """One limit_conn."""

    zone: LimitZone
    most: int


@dataclass(frozen=True, slots=True)
class LimitConnConf:
    """The limits of a server."""

    limits: tuple[Limit, ...] = ()
    log_level: int = log.ERR
    dry_run: bool = False


class _Taken:
    """What a session has taken; calling it gives everything back."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: list[tuple[LimitZone, bytes, Entry]] = []

    def __call__(self) -> None:
        counts = self.counts
        while counts:
            zone, key, entry = counts.pop()
            assert zone.table is not None
            zone.table.release(entry)
            if zone.sharing is not None:
                zone.sharing.ended(key)


def handle(s: Session) -> int:
    """Count a session, or refuse it. Source: ngx_stream_limit_conn_handler"""
    conf: LimitConnConf = s.server.limit_conn
    taken = _Taken()
    for zone, most in conf.limits:
        assert zone.key is not None
        assert zone.table is not None
        key = zone.key.get(s)
        if not key:
            continue
        if len(key) > shm_counts.MAX_KEY:
            shown = key.decode("utf-8", "surrogateescape")
            s.log_error(log.ERR, f'the value of the "{zone.key.text}" key is more than '
                                 f'{shm_counts.MAX_KEY} bytes: "{shown}"')
            continue
        s.set_module_ctx(NAME, PASSED)
        sharing = zone.sharing
        counted = zone.table.acquire(
            key, most if sharing is None else most - sharing.elsewhere(key)
        )
        if counted:
            s.loop.cells[zone.passed.at] += 1
            taken.counts.append((zone, key, counted))
            if sharing is not None:
                sharing.began(key)
            continue
        if sharing is not None:
            sharing.look(key)
        taken()
        if counted is None:
            s.loop.cells[zone.full.at] += 1
            s.loop.log.error(log.CRIT, "ngx_slab_alloc() failed: no memory in limit_conn_zone "
                                       f'"{zone.name}"')
        else:
            dry = ", dry run," if conf.dry_run else ""
            s.log_error(conf.log_level, f'limiting connections{dry} by zone "{zone.name}"')
        if conf.dry_run:
            s.loop.cells[zone.rejected_dry_run.at] += 1
            s.set_module_ctx(NAME, REJECTED_DRY_RUN)
            return codes.DECLINED
        s.loop.cells[zone.rejected.at] += 1
        s.set_module_ctx(NAME, REJECTED)
        return codes.SERVICE_UNAVAILABLE
    if taken.counts:
        s.add_cleanup(taken)
    return codes.DECLINED


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Compare what is counted with the limits, and count nothing."""
    conf: LimitConnConf = s.server.limit_conn
    for zone, most in conf.limits:
        assert zone.key is not None
        assert zone.table is not None
        key = zone.key.get(s)
        if not 0 < len(key) <= shm_counts.MAX_KEY:
            continue
        s.set_module_ctx(NAME, PASSED)
        count = zone.table.total(key)
        if zone.sharing is not None:
            count += zone.sharing.elsewhere(key)
        rejects = count >= most or not (count or zone.table.has_room())
        explanation.limits.append({
            "zone": zone.name, "key": key.decode("utf-8", "replace"), "count": count,
            "limit": most, "rejects": rejects, "dry_run": conf.dry_run,
        })
        if rejects:
            s.set_module_ctx(NAME, REJECTED_DRY_RUN if conf.dry_run else REJECTED)
            code = codes.DECLINED if conf.dry_run else codes.SERVICE_UNAVAILABLE
            return Answer(code, f'zone "{zone.name}" has {count} of {most} sessions')
    return Answer(codes.DECLINED, "no limit is reached")


def _pack(s: Session) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """Say what a session has taken; its cleanup gives it back here."""
    taken = next((one for one in s.cleanups or () if isinstance(one, _Taken)), None)
    counts = [] if taken is None else [(zone.name, key) for zone, key, _ in taken.counts]
    return s.module_ctx(NAME), counts


def _unpack(s: Session, packed: tuple[bytes | None, list[tuple[str, bytes]]]) -> None:
    """Take in this process's name what the session had taken in another's, limit or not."""
    status, counts = packed
    if status is not None:
        if status not in (PASSED, REJECTED, REJECTED_DRY_RUN):
            raise ValueError("no status")
        s.set_module_ctx(NAME, status)
    zones = {limit.zone.name: limit.zone for limit in s.server.limit_conn.limits}
    taken = _Taken()
    longest = shm_counts.MAX_KEY
    if any(not isinstance(key, bytes) or not 0 < len(key) <= longest for _, key in counts):
        raise ValueError("no key")
    for name, key in counts:
        zone = zones.pop(name, None)  # a session counts once in a zone
        if zone is not None and zone.table is not None:
            counted = zone.table.acquire(key, sys.maxsize)
            if counted:
                taken.counts.append((zone, key, counted))
                if zone.sharing is not None:
                    zone.sharing.began(key)
    if taken.counts:
        s.add_cleanup(taken)


def _status(s: Session) -> bytes | None:
    found: bytes | None = s.module_ctx(NAME)
    return found


def _is_wanted(server: ServerConf) -> bool:
    return bool(server.limit_conn.limits)


def _zone(scope: Scope, name: str) -> LimitZone:
    """Return a zone by name, known from either directive."""
    draft: StreamDraft = scope.builder.data["stream"]
    zones: dict[str, LimitZone] = draft.data.setdefault(NAME, {})
    zone = zones.get(name)
    if zone is None:
        zone = zones[name] = LimitZone(name, scope.builder.facts)
    return zone


def _limit_conn_zone(scope: Scope, module: Module, st: Statement) -> None:
    """Source: ngx_stream_limit_conn_zone"""
    builder = scope.builder
    key = values.compile_value(st.args[0], builder.data["stream"].variables)
    word = st.args[1]
    store: StoreConf | None = None
    if len(st.args) > 2:  # nginx has no third argument
        what, _, text = st.args[2].partition("=")
        if what != "store" or not text:
            raise errors.ConfError(f'invalid number of arguments in "{st.directive}" directive')
        store = stores.store_of(scope, st.args[2], text)
    if not word.startswith("zone="):
        raise errors.ConfError(f'invalid parameter "{word}"')
    name, size = zone_size.named_size(word, word.removeprefix("zone="))
    if not name:
        raise errors.ConfError(f'"{st.directive}" must have "zone" parameter')
    request = builder.data["zones"].request(name, size, NAME)
    zone = _zone(scope, name)
    if zone.key is not None:
        raise errors.ConfError(f'{st.directive} "{name}" is already bound to key "{zone.key.text}"')
    zone.key = key
    if store is not None:
        zone.shared_by = store
        stores.sharing(scope, zone)
    request.init = zone.attach
    request.usage = zone.usage


def _limit_conn(scope: Scope, module: Module, st: Statement) -> None:
    """Source: ngx_stream_limit_conn"""
    name, text = st.args
    scope.builder.data["zones"].request(name, 0, NAME)
    given = scope.given_of(module)
    limits: tuple[Limit, ...] = given.get("limits", ())
    zone = _zone(scope, name)
    if any(limit.zone is zone for limit in limits):
        raise errors.ConfError(f'"{st.directive}" directive is duplicate')
    try:
        most = units.parse_number(text)
    except ValueError:
        most = 0
    if most == 0:
        raise errors.ConfError(f'invalid number of connections "{text}"')
    if most > 65535:
        raise errors.ConfError("connection limit must be less 65536")
    given["limits"] = (*limits, Limit(zone, most))
    d.note(scope, module, st)


DIRECTIVES: Final[tuple[Any, ...]] = (
    Directive("limit_conn_zone", STREAM, d.TAKE23, _limit_conn_zone,
              "A shared memory zone that counts sessions by a key."),
    Directive("limit_conn", BOTH, d.TAKE2, _limit_conn,
              "How many sessions of one key may go on at a time."),
    Directive("limit_conn_log_level", BOTH, d.TAKE1, d.enum("log_level", LEVELS),
              "The level of a refusal in error_log.", default="error"),
    Directive("limit_conn_dry_run", BOTH, d.FLAG, d.flag("dry_run"),
              "Count and log, but refuse nobody.", default="off"),
)

# -- what is shown -----------------------------------------------------------------------------

NAMES: Final = ("passed", "rejected", "rejected_dry_run")
SCHEMA: Final = schema.obj(
    "Sessions by what limits of a zone said.", **dict.fromkeys(NAMES, schema.COUNT)
)


def _zones(stream: StreamConf) -> dict[str, LimitZone]:
    zones: dict[str, LimitZone] = stream.data.get(NAME, {})
    return zones


def _reset(zone: LimitZone, _: Request) -> None:
    for cell in zone.cells():
        cell.reset()


def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family]:
    """Yield the families of nginx-prometheus-exporter about limits."""
    shown = {labels(zone=name): zone.shown() for name, zone in _zones(stream).items()}
    for name, doc in (
        ("passed", "Client sessions that limits let pass"),
        ("rejected", "Client sessions that limits refused"),
        ("rejected_dry_run", "Client sessions that limits would have refused"),
    ):
        yield Family(f"nginxplus_stream_limit_connection_{name}", COUNTER, doc, [
            (label, value[name]) for label, value in shown.items()
        ])


MODULE = StreamModule(
    name=NAME,
    directives=DIRECTIVES,
    conf=LimitConnConf,
    variables=(
        Variable("limit_conn_status", _status, NOCACHEABLE,
                 "`PASSED`, `REJECTED` or `REJECTED_DRY_RUN`."),
    ),
    facts=(*FACTS, FULL),
    handlers=(PhaseHandler(phases.PREACCESS, handle, _is_wanted),),
    explains=((handle, _explain),),
    keeps=(Kept(NAME, _pack, _unpack),),
    endpoints=zone_endpoints.endpoints(zone_endpoints.Kind(
        "/stream/limit_conns", "limit_conn zone", "LimitConnNotFound", _zones, LimitZone.shown,
        _reset, SCHEMA,
    )),
    metrics=metrics,
)
