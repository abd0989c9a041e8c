"""limit_sess: how many new sessions of a key may begin in a time.

What nginx has for requests of HTTP (ngx_http_limit_req_module.c), for TCP connections and UDP
sessions: a bucket for each key, which leaks at the rate of its zone. What is beyond `burst` is
refused with status 503; what is within waits until its turn comes, or with `nodelay` does not.

1. Buckets are those of all workers together, and exact: one lock, one bucket.
2. Several limits are tried in order. The one that refuses gives back what was poured into the
   others; the longest delay counts.
3. A session that waits holds its client and nothing else. A UDP client's further datagrams wait
   with it, up to a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import codes, errors, log, shm
from ngxstream.core.shm_buckets import REFUSED, UNIT
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
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session

NAME: Final = "limit_sess"
WAITING: Final = "limit_sess_waiting"  # in ctx: the session's turn has not come
BOTH: Final = STREAM | SERVER
MOST_BURST: Final = 1 << 31

PASSED: Final = b"PASSED"
DELAYED: Final = b"DELAYED"
REJECTED: Final = b"REJECTED"
DELAYED_DRY_RUN: Final = b"DELAYED_DRY_RUN"
REJECTED_DRY_RUN: Final = b"REJECTED_DRY_RUN"
STATUSES: Final = (PASSED, DELAYED, REJECTED, DELAYED_DRY_RUN, REJECTED_DRY_RUN)

KIND: Final = RateKind(NAME, limits.facts_of(NAME, {
    "passed": "New sessions that the limits of the zone let pass at once.",
    "delayed": "New sessions that had to wait.",
    "rejected": "New sessions that were refused.",
    "delayed_dry_run": "New sessions that would have had to wait.",
    "rejected_dry_run": "New sessions that would have been refused.",
}))


class Limit(NamedTuple):
    """One limit_sess. Args: burst, delay: thousandths of a session"""

    zone: RateZone
    burst: int
    delay: int


@dataclass(frozen=True, slots=True)
class LimitSessConf:
    """The limits of a server."""

    limits: tuple[Limit, ...] = ()
    log_level: int = log.ERR
    dry_run: bool = False


def handle(s: Session) -> int:
    """Let a new session pass, or have it wait, or refuse it. Source: ngx_http_limit_req_handler"""
    if s.module_ctx(WAITING):
        return codes.AGAIN
    if s.module_ctx(NAME) is not None:
        return codes.DECLINED  # it has waited
    conf: LimitSessConf = s.server.limit_sess
    now_ms = s.loop.now_ms
    poured: list[tuple[RateZone, bytes]] = []
    worst: tuple[int, int, RateZone] | None = None  # delay (ms), level, zone
    first: RateZone | None = None
    for zone, burst, delay in conf.limits:
        key = zone.key_of(s)
        if key is None:
            continue
        first = first or zone
        try:
            level = zone.table.pour(key, UNIT, zone.rate, burst + UNIT, now_ms)
        except shm.DAMAGE as error:
            s.log_error(log.ALERT, f'limit_sess_zone "{zone.name}" is damaged: {error}')
            return codes.INTERNAL_SERVER_ERROR
        if level == REFUSED:
            for former, of in poured:
                former.table.spend(of, -UNIT, former.rate, now_ms)
            return _refuse(s, conf, zone, zone.table.level(key, zone.rate, now_ms))
        poured.append((zone, key))
        beyond = level - UNIT - delay
        if beyond > 0:
            wait_ms = beyond * 60 // zone.rate
            if worst is None or wait_ms > worst[0]:
                worst = wait_ms, level - UNIT, zone
    if worst is not None and worst[0] > 0:
        return _delay(s, conf, *worst)
    if first is not None:
        _note(s, first, 0)
    return codes.DECLINED


def _note(s: Session, zone: RateZone, at: int) -> None:
    """Count what became of a session. Args: at: index of the status and of the zone's cell"""
    s.loop.cells[zone.cells[at].at] += 1
    s.set_module_ctx(NAME, STATUSES[at])


def _refuse(s: Session, conf: LimitSessConf, zone: RateZone, level: int) -> int:
    excess = limits.excess_text(level)
    dry = ", dry run" if conf.dry_run else ""
    s.log_error(
        conf.log_level, f'limiting sessions{dry}, excess: {excess} by zone "{zone.name}"'
    )
    _note(s, zone, 4 if conf.dry_run else 2)
    if conf.dry_run:
        return codes.DECLINED
    s.ending = endings.LIMIT
    return codes.SERVICE_UNAVAILABLE


def _delay(s: Session, conf: LimitSessConf, wait_ms: int, level: int, zone: RateZone) -> int:
    excess = limits.excess_text(level)
    dry = ", dry run" if conf.dry_run else ""
    s.log_error(
        limits.levels_of(conf.log_level),
        f'delaying session{dry}, excess: {excess}, by zone "{zone.name}"',
    )
    _note(s, zone, 3 if conf.dry_run else 1)
    if conf.dry_run:
        return codes.DECLINED
    s.set_module_ctx(WAITING, True)
    s.add_cleanup(s.loop.call_later(wait_ms, _Turn(s).on_timeout).cancel)
    return codes.AGAIN


class _Turn:
    """The turn of a session that waits."""

    __slots__ = ("s",)

    def __init__(self, s: Session) -> None:
        self.s = s

    def on_timeout(self) -> None:
        """Go on: the turn has come."""
        s = self.s
        s.set_module_ctx(WAITING, None)
        phases.resume(s)

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.s.finalize(codes.INTERNAL_SERVER_ERROR)


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Compare the buckets with the limits, and pour nothing."""
    conf: LimitSessConf = s.server.limit_sess
    now_ms = s.loop.now_ms
    for zone, burst, delay in conf.limits:
        key = zone.key_of(s)
        if key is None:
            continue
        level = zone.table.level(key, zone.rate, now_ms)
        rejects = level > burst
        explanation.limits.append({
            "zone": zone.name, "key": key.decode("utf-8", "replace"),
            "count": -(-level // UNIT), "limit": burst // UNIT + 1, "rejects": rejects,
            "dry_run": conf.dry_run,
        })
        text = f'zone "{zone.name}" has an excess of {limits.excess_text(level)}'
        if rejects:
            code = codes.DECLINED if conf.dry_run else codes.SERVICE_UNAVAILABLE
            return Answer(code, text)
        if level > delay:
            return Answer(codes.DECLINED, f"{text}: the session would wait")
    return Answer(codes.DECLINED, "no limit is reached")


def _status(s: Session) -> bytes | None:
    found: bytes | None = s.module_ctx(NAME)
    return found


def _anew(s: Session) -> None:
    """Take out of the buckets what was poured in for a session that begins again elsewhere."""
    status = _status(s)
    if status is None or status in (REJECTED, REJECTED_DRY_RUN):
        return
    now_ms = s.loop.now_ms
    for limit in s.address.default_server.limit_sess.limits:
        key = limit.zone.key_of(s)
        if key is not None:
            limit.zone.table.spend(key, -UNIT, limit.zone.rate, now_ms)


def _unpack(s: Session, packed: object) -> None:
    if packed not in STATUSES:
        raise ValueError("no status")
    s.set_module_ctx(NAME, packed)


def _is_wanted(server: ServerConf) -> bool:
    return bool(server.limit_sess.limits)


def _limit_sess_zone(scope: Scope, module: Module, st: Statement) -> None:
    limits.declare(KIND, scope, st, limits.rate_of)


def _limit_sess(scope: Scope, module: Module, st: Statement) -> None:
    """Read `limit_sess zone=name [burst=N] [nodelay | delay=N]`. Source: ngx_http_limit_req"""
    name = ""
    burst = delay = 0
    for word in st.args:
        what, _, text = word.partition("=")
        if what == "zone":
            name = text
        elif what in ("burst", "delay"):
            number = _number(text)
            if number is None:
                raise errors.ConfError(f'invalid {what} value "{word}"')
            if what == "burst":
                burst = number
            else:
                delay = number
        elif word == "nodelay":
            delay = MOST_BURST
        else:
            raise errors.ConfError(f'invalid parameter "{word}"')
    zone = limits.named(KIND, scope, st, name)
    limits.add(
        scope, module, st, Limit(zone, burst * UNIT, delay * UNIT), lambda limit: limit.zone is zone
    )


def _number(text: str) -> int | None:
    try:
        number = units.parse_number(text)
    except ValueError:
        return None
    return number if 0 < number <= MOST_BURST else None


SHOWN: Final = limits_shown.shown(
    KIND, "LimitSessNotFound", "New sessions by what limits of a zone said."
)

MODULE = StreamModule(
    name=NAME,
    directives=(
        Directive("limit_sess_zone", STREAM, d.TAKE34, _limit_sess_zone,
                  "A shared memory zone of the rates of new sessions by a key.", extension=True),
        Directive("limit_sess", BOTH, d.TAKE13, _limit_sess,
                  "How many new sessions of one key may begin in a time.", extension=True),
        *limits.usual(NAME, "The level of a refusal in error_log; a delay is a level below."),
    ),
    conf=LimitSessConf,
    variables=(
        Variable("limit_sess_status", _status, NOCACHEABLE,
                 "`PASSED`, `DELAYED` or `REJECTED`; the last two also with `_DRY_RUN`."),
    ),
    facts=KIND.facts,
    handlers=(PhaseHandler(phases.PREACCESS, handle, _is_wanted),),
    explains=((handle, _explain),),
    keeps=(
        Kept(NAME, _status, _unpack, anew=_anew),
        Kept(WAITING, stays="a session moves behind all phases"),
    ),
    endpoints=SHOWN.endpoints,
    metrics=SHOWN.metrics,
)
