"""limit_datagram: how many datagrams of a key may come from clients in a time; more are dropped.

nginx has no counterpart: its limits see the beginning of a UDP session alone. Buckets are those of
limit_sess; a datagram waits for nothing, as its client would send it again anyway.

1. Buckets are those of all workers together, and exact. What a client sent in one turn is poured in
   at once: one lock for all of it.
2. The key is evaluated when the session begins, and stays, also where that goes on elsewhere.
3. Several limits are tried in order: each sees what those before it let pass, and these get back
   what it did not.
4. The datagram that would begin a session is counted in the session's phases, and refused with
   status 503. Those that follow pass a Gate, which stands before whatever takes them, and sessions
   without limits have none. Of what the session gives back to the listener each datagram is counted
   when it begins another session, and there alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import codes, errors, log, shm
from ngxstream.core.shm_buckets import UNIT
from ngxstream.event import datagram
from ngxstream.stream import endings, limits, limits_shown, phases
from ngxstream.stream.content import Kept
from ngxstream.stream.explaining import Answer
from ngxstream.stream.limits import RateKind, RateZone
from ngxstream.stream.module import PhaseHandler, StreamModule
from ngxstream.stream.variables import NOCACHEABLE, Variable

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp_clients import Sink
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session

NAME: Final = "limit_datagram"
BOTH: Final = STREAM | SERVER
MOST_BURST: Final = 1 << 31
USUAL_BURST: Final = 600  # the datagrams of a tenth of a second, of a rate a minute
SAY_MS: Final = 1000  # a zone's line in the log, at most once in each worker

PASSED: Final = b"PASSED"
REJECTED: Final = b"REJECTED"
REJECTED_DRY_RUN: Final = b"REJECTED_DRY_RUN"
STATUSES: Final = (PASSED, REJECTED, REJECTED_DRY_RUN)

KIND: Final = RateKind(NAME, limits.facts_of(NAME, {
    "passed": "Datagrams of clients that the limits of the zone let pass.",
    "rejected": "Datagrams of clients that were dropped.",
    "rejected_dry_run": "Datagrams of clients that would have been dropped.",
}))


class Limit(NamedTuple):
    """One limit_datagram. Args: burst: datagrams, None for the usual one"""

    zone: RateZone
    burst: int | None

    @property
    def most(self) -> int:
        """The level up to which datagrams pass: the burst, and the one that is in turn."""
        burst = self.zone.rate // USUAL_BURST if self.burst is None else self.burst
        return (burst + 1) * UNIT


@dataclass(frozen=True, slots=True)
class LimitDatagramConf:
    """The limits of a server."""

    limits: tuple[Limit, ...] = ()
    log_level: int = log.ERR
    dry_run: bool = False


@dataclass(slots=True)
class Held:
    """What a session is counted by, and what became of its datagrams.

    Args: keys: of the limits of its address, None where it is not counted
    """

    keys: tuple[bytes | None, ...]
    status: bytes = PASSED


class Said:
    """When a worker has logged something of a zone last, and what it has dropped since."""

    __slots__ = ("_zones",)

    def __init__(self, _: Loop) -> None:
        self._zones: dict[str, list[int]] = {}

    def is_due(self, zone: str, dropped: int, now_ms: int) -> int:
        """Count, and return how many to tell of; 0: not yet."""
        known = self._zones.setdefault(zone, [now_ms - SAY_MS, 0])
        known[1] += dropped
        if now_ms - known[0] < SAY_MS:
            return 0
        count = known[1]
        known[:] = now_ms, 0
        return count


def handle(s: Session) -> int:
    """Count the datagram that a session begins with, or refuse it."""
    if not s.c.is_udp:
        return codes.DECLINED
    conf: LimitDatagramConf = s.server.limit_datagram
    held = Held(tuple(limit.zone.key_of(s) for limit in conf.limits))
    s.set_module_ctx(NAME, held)
    if all(key is None for key in held.keys):
        return codes.DECLINED
    try:
        passed = admit(s, conf, held, 1)
    except shm.DAMAGE as error:
        s.log_error(log.ALERT, f"memory of limit_datagram is damaged: {error}")
        return codes.INTERNAL_SERVER_ERROR
    if passed:
        return codes.DECLINED
    s.ending = endings.LIMIT
    return codes.SERVICE_UNAVAILABLE


def admit(s: Session, conf: LimitDatagramConf, held: Held, count: int) -> int:
    """Pour in datagrams that came together. Returns: how many of them pass, the first ones"""
    now_ms, cells = s.loop.now_ms, s.loop.cells
    passed = count
    for n, (limit, key) in enumerate(zip(conf.limits, held.keys, strict=True)):
        if key is None:
            continue
        zone = limit.zone
        before = passed
        passed = zone.table.pour_some(key, before, zone.rate, limit.most, now_ms)
        cells[zone.cells[0].at] += passed
        if passed == before:
            continue
        dropped = before - passed
        cells[zone.cells[2 if conf.dry_run else 1].at] += dropped
        held.status = REJECTED_DRY_RUN if conf.dry_run else REJECTED
        told = s.loop.get(Said).is_due(zone.name, dropped, now_ms)
        if told:
            dry = ", dry run" if conf.dry_run else ""
            s.log_error(
                conf.log_level, f'limiting datagrams{dry}, dropped: {told} by zone "{zone.name}"'
            )
        if conf.dry_run:
            passed = before
        else:
            give_back(s, conf.limits[:n], held, dropped)
    return passed


def give_back(s: Session, given: tuple[Limit, ...], held: Held, count: int) -> None:
    """Take datagrams out of buckets again: another limit, or nobody, has taken them."""
    now_ms, cells = s.loop.now_ms, s.loop.cells
    for limit, key in zip(given, held.keys, strict=False):
        if key is not None:
            limit.zone.table.spend(key, -count * UNIT, limit.zone.rate, now_ms)
            cells[limit.zone.cells[0].at] -= count


class Gate:
    """Takes a client's datagrams in the place of another sink, and gives it those that pass."""

    __slots__ = ("_conf", "_held", "_s", "_sink", "c")

    def __init__(self, s: Session, sink: Sink, conf: LimitDatagramConf, held: Held) -> None:
        self.c = s.c
        self._s = s
        self._sink = sink
        self._conf = conf
        self._held = held

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Let as many pass as the limits allow. # hot"""
        count = len(views)
        passed = admit(self._s, self._conf, self._held, count)
        if not passed:
            return None
        return self._left(self._sink.take(views if passed == count else views[:passed]))

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Let as many pass of a coalesced message; what passes stays coalesced."""
        passed = admit(self._s, self._conf, self._held, -(-len(view) // size))
        if not passed:
            return None
        if passed == 1:
            return self._left(self._sink.take(datagram.split(view, size)[:1]))
        return self._left(self._sink.take_burst(view[: passed * size], size))

    def _left(self, rest: list[memoryview] | None) -> list[memoryview] | None:
        if rest:  # they begin a session, which counts them
            give_back(self._s, self._conf.limits, self._held, len(rest))
        return rest

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        content = self._s.content
        if content is None:
            self._s.finalize(codes.INTERNAL_SERVER_ERROR)
        else:
            content.on_fault()


def gate(s: Session, sink: Sink) -> Sink:
    """Return what a client's datagrams pass before they come to a sink. ServerConf.gate"""
    held: Held | None = s.module_ctx(NAME)
    if held is None or all(key is None for key in held.keys):
        return sink
    return Gate(s, sink, s.address.default_server.limit_datagram, held)


def _check(conf: LimitDatagramConf, server: ServerConf, draft: StreamDraft) -> None:
    """Give the servers of an address their gate: limits are those of its default server."""
    if not conf.limits:
        return  # a look at all addresses for each of all servers would take long
    for address in draft.addresses:
        if address.default_server is server:
            for one in address.servers:
                one.gate = gate


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Compare the buckets with the limits, and pour nothing."""
    if not s.c.is_udp:
        return Answer(codes.DECLINED, "it is for datagrams alone")
    conf: LimitDatagramConf = s.server.limit_datagram
    now_ms = s.loop.now_ms
    for limit in conf.limits:
        zone = limit.zone
        key = zone.key_of(s)
        if key is None:
            continue
        level = zone.table.level(key, zone.rate, now_ms)
        rejects = level + UNIT > limit.most
        explanation.limits.append({
            "zone": zone.name, "key": key.decode("utf-8", "replace"), "count": -(-level // UNIT),
            "limit": limit.most // UNIT, "rejects": rejects, "dry_run": conf.dry_run,
        })
        if rejects:
            code = codes.DECLINED if conf.dry_run else codes.SERVICE_UNAVAILABLE
            text = f'zone "{zone.name}" has an excess of {limits.excess_text(level)}'
            return Answer(code, text)
    return Answer(codes.DECLINED, "no limit is reached")


def _status(s: Session) -> bytes | None:
    held: Held | None = s.module_ctx(NAME)
    return None if held is None or all(key is None for key in held.keys) else held.status


def _pack(s: Session) -> tuple[bytes, list[bytes | None]] | None:
    held: Held | None = s.module_ctx(NAME)
    return None if held is None else (held.status, list(held.keys))


def _anew(s: Session) -> None:
    """Take the datagram that a session began with out of the buckets: it begins one elsewhere."""
    held: Held | None = s.module_ctx(NAME)
    if held is not None and held.status == PASSED:
        give_back(s, s.address.default_server.limit_datagram.limits, held, 1)


def _unpack(s: Session, packed: Any) -> None:
    status, keys = packed
    conf: LimitDatagramConf = s.address.default_server.limit_datagram
    if status not in STATUSES or len(keys) != len(conf.limits):
        raise ValueError("no limits of this address")
    if not all(key is None or limits.is_key(key) for key in keys):
        raise ValueError("no key")
    s.set_module_ctx(NAME, Held(tuple(keys), status))


def _is_wanted(server: ServerConf) -> bool:
    return bool(server.limit_datagram.limits)


def _limit_datagram_zone(scope: Scope, module: Module, st: Statement) -> None:
    limits.declare(KIND, scope, st, limits.rate_of)


def _limit_datagram(scope: Scope, module: Module, st: Statement) -> None:
    """Read `limit_datagram zone=name [burst=N]`."""
    name = ""
    burst = None
    for word in st.args:
        what, _, text = word.partition("=")
        if what == "zone":
            name = text
        elif what == "burst":
            try:
                burst = units.parse_number(text)
            except ValueError:
                burst = -1
            if not 0 <= burst <= MOST_BURST:
                raise errors.ConfError(f'invalid burst value "{word}"')
        else:
            raise errors.ConfError(f'invalid parameter "{word}"')
    zone = limits.named(KIND, scope, st, name)
    limits.add(scope, module, st, Limit(zone, burst), lambda limit: limit.zone is zone)


SHOWN: Final = limits_shown.shown(
    KIND, "LimitDatagramNotFound", "Datagrams of clients by what limits of a zone said."
)

MODULE = StreamModule(
    name=NAME,
    directives=(
        Directive("limit_datagram_zone", STREAM, d.TAKE34, _limit_datagram_zone,
                  "A shared memory zone of the rates of clients' datagrams by a key.",
                  extension=True),
        Directive("limit_datagram", BOTH, d.TAKE12, _limit_datagram,
                  "How many datagrams of one key may come in a time; more are dropped.",
                  extension=True),
        *limits.usual(NAME, "The level in error_log of what was dropped, a line a second."),
    ),
    conf=LimitDatagramConf,
    check=_check,
    variables=(
        Variable("limit_datagram_status", _status, NOCACHEABLE,
                 "`PASSED`, `REJECTED` once a datagram was dropped, or `REJECTED_DRY_RUN`."),
    ),
    facts=KIND.facts,
    handlers=(PhaseHandler(phases.PREACCESS, handle, _is_wanted),),
    explains=((handle, _explain),),
    keeps=(Kept(NAME, _pack, _unpack, anew=_anew),),
    endpoints=SHOWN.endpoints,
    metrics=SHOWN.metrics,
)
