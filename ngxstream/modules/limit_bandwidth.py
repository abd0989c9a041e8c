"""limit_bandwidth: how many bytes a second all sessions of a key may have moved in a direction.

nginx has rates of one session alone (proxy_upload_rate, proxy_download_rate): who opens ten has ten
times as much. Here the rate is that of a zone, and what moves is counted there by all workers.

1. TCP: what is beyond the rate is not read (stream/shared_rate.py), so that its sender waits.
2. UDP: a client's datagrams wait as they do for a rate of the session, up to its bound, and what
   comes then is dropped; the server's wait in the kernel. A session that would begin while its key
   has nothing left is refused with status 503.
3. Keys are evaluated when the server is chosen, and stay, also where the session goes on elsewhere.
4. One zone may stand for both directions: then they share its rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import SERVER, STREAM, Directive
from ngxstream.core import codes, errors, log, shm
from ngxstream.core.shm_buckets import UNIT
from ngxstream.stream import endings, limits, limits_shown, phases, shared_rate
from ngxstream.stream.content import Kept
from ngxstream.stream.explaining import Answer
from ngxstream.stream.limits import RateKind, RateZone
from ngxstream.stream.module import PhaseHandler, StreamModule
from ngxstream.stream.shared_rate import DELAYED, DELAYED_DRY_RUN, REJECTED
from ngxstream.stream.variables import NOCACHEABLE, Variable

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.pump import Limiter
    from ngxstream.stream.core import ServerConf, StreamDraft
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session

NAME: Final = "limit_bandwidth"
BOTH: Final = STREAM | SERVER
USUAL_BURST: Final = 600  # the bytes of a tenth of a second, of a rate a minute

UPLOAD: Final = "upload"
DOWNLOAD: Final = "download"
# by what shared_rate.py tells
STATUSES: Final = {
    0: b"PASSED", DELAYED: b"DELAYED", REJECTED: b"REJECTED", DELAYED_DRY_RUN: b"DELAYED_DRY_RUN"
}

KIND: Final = RateKind(NAME, limits.facts_of(NAME, {
    "bytes": "Bytes that moved in sessions that the zone counts.",
    "delayed": "How often a direction of a session had to rest.",
    "rejected": "Datagrams of clients that were dropped: too many waited.",
    "delayed_dry_run": "How often one would have had to rest.",
}))


class Limit(NamedTuple):
    """One limit_bandwidth. Args: burst: bytes, 0 for the usual one"""

    direction: str
    zone: RateZone
    burst: int

    @property
    def most(self) -> int:
        """How many bytes may move at once."""
        return self.burst or max(1, self.zone.rate // USUAL_BURST)


@dataclass(frozen=True, slots=True)
class LimitBandwidthConf:
    """The limits of a server."""

    limits: tuple[Limit, ...] = ()
    log_level: int = log.ERR
    dry_run: bool = False


@dataclass(slots=True)
class Held:
    """What a session is counted by, and what became of it.

    Args: keys: of the limits of its server, None where it is not counted; status: of STATUSES
    """

    keys: tuple[bytes | None, ...]
    status: int = 0


def held_of(s: Session) -> Held:
    """Return what a session is counted by; evaluated when it is asked for first."""
    held: Held | None = s.module_ctx(NAME)
    if held is None:
        conf: LimitBandwidthConf = s.server.limit_bandwidth
        held = Held(tuple(limit.zone.key_of(s) for limit in conf.limits))
        s.set_module_ctx(NAME, held)
    return held


def handle(s: Session) -> int:
    """Refuse a UDP session whose key has nothing left."""
    conf: LimitBandwidthConf = s.server.limit_bandwidth
    if not s.c.is_udp or conf.dry_run:
        return codes.DECLINED
    for limit, key in zip(conf.limits, held_of(s).keys, strict=True):
        if key is None or limit.direction != UPLOAD:
            continue
        zone = limit.zone
        try:
            level = zone.table.level(key, zone.rate, s.loop.now_ms)
        except shm.DAMAGE as error:
            s.log_error(log.ALERT, f'limit_bandwidth_zone "{zone.name}" is damaged: {error}')
            return codes.INTERNAL_SERVER_ERROR
        if level >= limit.most * UNIT:
            s.loop.cells[zone.cells[REJECTED].at] += 1
            _tell(s, zone, REJECTED, UPLOAD)
            s.ending = endings.LIMIT
            return codes.SERVICE_UNAVAILABLE
    return codes.DECLINED


def begin(s: Session, up: Limiter | None, down: Limiter | None) -> shared_rate.Both:
    """Add what a session shares to its own limits. ServerConf.bandwidth"""
    conf: LimitBandwidthConf = s.server.limit_bandwidth
    found: dict[str, list[Limiter]] = {
        UPLOAD: [] if up is None else [up], DOWNLOAD: [] if down is None else [down]
    }
    for limit, key in zip(conf.limits, held_of(s).keys, strict=True):
        if key is not None:
            found[limit.direction].append(shared_rate.SharedRate(
                s.loop, limit.zone, key, limit.most, partial(_tell, s, direction=limit.direction),
                dry_run=conf.dry_run,
            ))
    return shared_rate.joined(found[UPLOAD]), shared_rate.joined(found[DOWNLOAD])


def _tell(s: Session, zone: RateZone, what: int, direction: str) -> None:
    """Note what became of a session; the first of each kind is a line in the log."""
    conf: LimitBandwidthConf = s.server.limit_bandwidth
    held = held_of(s)
    if what != REJECTED:  # datagrams are counted one by one
        s.loop.cells[zone.cells[what].at] += 1
    if held.status in (what, REJECTED):
        return
    held.status = what
    verb = "rejecting datagrams" if what == REJECTED else f"delaying {direction}"
    dry = ", dry run," if what == DELAYED_DRY_RUN else ""
    level = conf.log_level if what == REJECTED else limits.levels_of(conf.log_level)
    s.log_error(level, f'limiting bandwidth, {verb}{dry} by zone "{zone.name}"')


def _check(conf: LimitBandwidthConf, server: ServerConf, draft: StreamDraft) -> None:
    """Have the sessions of a server held back."""
    if conf.limits:
        server.bandwidth = begin


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Compare the buckets with the limits, and pour nothing."""
    conf: LimitBandwidthConf = s.server.limit_bandwidth
    now_ms = s.loop.now_ms
    answer = Answer(codes.DECLINED, "no limit is reached")
    for limit in conf.limits:
        zone = limit.zone
        key = zone.key_of(s)
        if key is None:
            continue
        level = zone.table.level(key, zone.rate, now_ms)
        is_over = level >= limit.most * UNIT
        rejects = is_over and s.c.is_udp and limit.direction == UPLOAD
        explanation.limits.append({
            "zone": zone.name, "key": key.decode("utf-8", "replace"), "count": level // UNIT,
            "limit": limit.most, "rejects": rejects, "dry_run": conf.dry_run,
        })
        if is_over:
            text = f'zone "{zone.name}" has {level // UNIT} bytes of {limit.direction} too early'
            if rejects and not conf.dry_run:
                return Answer(codes.SERVICE_UNAVAILABLE, text)
            answer = Answer(codes.DECLINED, f"{text}: the session would wait")
    return answer


def _status(s: Session) -> bytes | None:
    held: Held | None = s.module_ctx(NAME)
    if held is None or all(key is None for key in held.keys):
        return None
    return STATUSES[held.status]


def _pack(s: Session) -> tuple[int, list[bytes | None]] | None:
    held: Held | None = s.module_ctx(NAME)
    return None if held is None else (held.status, list(held.keys))


def _unpack(s: Session, packed: Any) -> None:
    status, keys = packed
    conf: LimitBandwidthConf = s.server.limit_bandwidth
    if status not in STATUSES or len(keys) != len(conf.limits):
        raise ValueError("no limits of this server")
    if not all(key is None or limits.is_key(key) for key in keys):
        raise ValueError("no key")
    s.set_module_ctx(NAME, Held(tuple(keys), status))


def _is_wanted(server: ServerConf) -> bool:
    return bool(server.limit_bandwidth.limits)


def _rate_of(text: str) -> int:
    """Return the bytes a minute of a size a second. Raises: ValueError"""
    return units.parse_size(text) * 60


def _limit_bandwidth_zone(scope: Scope, module: Module, st: Statement) -> None:
    limits.declare(KIND, scope, st, _rate_of)


def _limit_bandwidth(scope: Scope, module: Module, st: Statement) -> None:
    """Read `limit_bandwidth upload|download zone=name [burst=size]`."""
    direction, *words = st.args
    if direction not in (UPLOAD, DOWNLOAD):
        raise errors.ConfError(f'invalid direction "{direction}"')
    name = ""
    burst = 0
    for word in words:
        what, _, text = word.partition("=")
        if what == "zone":
            name = text
        elif what == "burst":
            try:
                burst = units.parse_size(text)
            except ValueError:
                burst = 0
            if burst <= 0:
                raise errors.ConfError(f'invalid burst value "{word}"')
        else:
            raise errors.ConfError(f'invalid parameter "{word}"')
    zone = limits.named(KIND, scope, st, name)
    made = Limit(direction, zone, burst)
    limits.add(scope, module, st, made, lambda limit: limit[:2] == made[:2])


SHOWN: Final = limits_shown.shown(
    KIND, "LimitBandwidthNotFound", "Bytes of sessions, and what limits of a zone did to them."
)

MODULE = StreamModule(
    name=NAME,
    directives=(
        Directive("limit_bandwidth_zone", STREAM, d.TAKE34, _limit_bandwidth_zone,
                  "A shared memory zone of the bytes a second of sessions by a key.",
                  extension=True),
        Directive("limit_bandwidth", BOTH, d.TAKE23, _limit_bandwidth,
                  "How many bytes a second sessions of one key may move together.",
                  extension=True),
        *limits.usual(NAME, "The level of a session's first dropped datagram in error_log; its "
                            "first rest is a level below."),
    ),
    conf=LimitBandwidthConf,
    check=_check,
    variables=(
        Variable("limit_bandwidth_status", _status, NOCACHEABLE,
                 "`PASSED`, `DELAYED` once the session had to rest, `REJECTED` once a datagram "
                 "was dropped, or `DELAYED_DRY_RUN`."),
    ),
    facts=KIND.facts,
    handlers=(PhaseHandler(phases.CONNECT, handle, _is_wanted),),
    explains=((handle, _explain),),
    keeps=(Kept(NAME, _pack, _unpack),),
    endpoints=SHOWN.endpoints,
    metrics=SHOWN.metrics,
)
