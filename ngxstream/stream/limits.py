"""Zones of limits by rate: a key, how many units of it a second may pass, and what was counted.

What `limit_sess_zone` and its like have in common. Answers for ngx_http_limit_req_zone, which nginx
has for requests of HTTP alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.conf import units, zone_size
from ngxstream.core import errors, log
from ngxstream.core.facts import ZONE, Fact, totals_of
from ngxstream.core.shm_buckets import BucketTable
from ngxstream.core.shm_zones import Usage
from ngxstream.stream import stores, values
from ngxstream.stream.limit_sharing import SharedBuckets

if TYPE_CHECKING:
    from collections.abc import Callable

    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core import shm
    from ngxstream.core.facts import Cell, Facts
    from ngxstream.event.loop import Loop
    from ngxstream.stream.session import Session
    from ngxstream.stream.stores import StoreConf
    from ngxstream.stream.values import ComplexValue

MAX_KEY: Final = 65_535  # bytes, as limit_req has it
LEVELS: Final = {"info": log.INFO, "notice": log.NOTICE, "warn": log.WARN, "error": log.ERR}
MOST_RATE: Final = 1 << 40  # units a second


class RateKind(NamedTuple):
    """One kind of limit. Args: name: of the module; facts: what its zones count, in order"""

    name: str
    facts: tuple[Fact, ...]


def facts_of(name: str, words: dict[str, str]) -> tuple[Fact, ...]:
    """Make the facts of a kind. Args: words: what is counted, and a line about it"""
    return tuple(Fact(f"{name}_{word}", ZONE, doc) for word, doc in words.items())


class RateZone:
    """A zone of one kind as one configuration sees it."""

    __slots__ = ("cells", "key", "kind", "name", "rate", "shared_by", "table")

    table: BucketTable | SharedBuckets  # once the cycle has made the zone

    def __init__(self, kind: RateKind, name: str, facts: Facts) -> None:
        self.kind = kind
        self.name = name
        self.cells: tuple[Cell, ...] = tuple(facts.cell(fact, name) for fact in kind.facts)
        self.key: ComplexValue | None = None  # until its directive is read
        self.rate = 0  # units a minute
        self.shared_by: StoreConf | None = None  # what other hosts are told by

    def attach(self, zone: shm.Zone, fresh: bool) -> None:
        """Take a zone the cycle has made or adopted. Source: ngx_http_limit_req_init_zone

        Raises: UnplacedError where it had another key
        """
        assert self.key is not None
        key = self.key.text
        if fresh:
            zone.data = (key, BucketTable(zone))
        former, self.table = zone.data
        if former != key:
            raise errors.UnplacedError(
                f'{self.kind.name} "{self.name}" uses the "{key}" key '
                f'while previously it used the "{former}" key'
            )

    def usage(self) -> Usage:
        """Tell how full it is."""
        used = self.table.used
        return Usage(32, used, self.table.capacity - used, sum(totals_of(self.cells)))

    def key_of(self, s: Session) -> bytes | None:
        """Return what a session is counted by, None where it is not."""
        assert self.key is not None
        key = self.key.get(s)
        if not key:
            return None
        if len(key) > MAX_KEY:
            shown = key[:64].decode("utf-8", "surrogateescape")
            s.log_error(log.ERR, f'the value of the "{self.key.text}" key is more than '
                                 f'{MAX_KEY} bytes: "{shown}"')
            return None
        return key

    def start_worker(self, loop: Loop) -> None:
        """Share with other hosts, where there is a store."""
        table = self.table
        if self.shared_by is not None and isinstance(table, BucketTable):
            what = f"{self.kind.name}_zone {self.name}"
            self.table = SharedBuckets(loop, self.shared_by, what, table, self.rate)

    def stop_worker(self) -> None:
        """Share no more."""
        if isinstance(self.table, SharedBuckets):
            self.table.stop()


def usual(name: str, field_doc: str) -> tuple[d.Directive, d.Directive]:
    """Return the directives that every limit has besides. Args: field_doc: of the level"""
    both = d.STREAM | d.SERVER
    return (
        d.Directive(f"{name}_log_level", both, d.TAKE1, d.enum("log_level", LEVELS), field_doc,
                    default="error",
                    extension=True),
        d.Directive(f"{name}_dry_run", both, d.FLAG, d.flag("dry_run"),
                    "Count and log, but limit nobody.", default="off", extension=True),
    )


def zones_of(kind: RateKind, data: dict[str, Any]) -> dict[str, RateZone]:
    """Return the zones of a kind, by name. Args: data: of StreamDraft or StreamConf"""
    zones: dict[str, RateZone] = data.setdefault(kind.name, {})
    return zones


def declare(kind: RateKind, scope: Scope, st: Statement, parse: Callable[[str], int]) -> None:
    """Read `…_zone key zone=name:size rate=… [store=URL]`.

    Args: parse: a rate in units a minute; ValueError. Raises: ConfError
    Source: ngx_http_limit_req_zone
    """
    builder = scope.builder
    key = values.compile_value(st.args[0], builder.data["stream"].variables)
    name = ""
    size = rate = 0
    store: StoreConf | None = None
    for word in st.args[1:]:
        what, _, text = word.partition("=")
        if what == "zone":
            name, size = zone_size.named_size(word, text)
        elif what == "rate":
            try:
                rate = parse(text)
            except ValueError:
                rate = 0
            if not 0 < rate <= MOST_RATE:
                raise errors.ConfError(f'invalid rate "{word}"')
        elif what == "store" and text:
            store = stores.store_of(scope, word, text)
        else:
            raise errors.ConfError(f'invalid parameter "{word}"')
    for given, parameter in ((name, "zone"), (rate, "rate")):
        if not given:
            raise errors.ConfError(f'"{st.directive}" must have "{parameter}" parameter')
    request = builder.data["zones"].request(name, size, kind.name)
    zone = _zone(kind, scope, name)
    if zone.key is not None:
        raise errors.ConfError(f'{st.directive} "{name}" is already bound to key "{zone.key.text}"')
    zone.key = key
    zone.rate = rate
    if store is not None:
        zone.shared_by = store
        stores.sharing(scope, zone)
    request.init = zone.attach
    request.usage = zone.usage


def refer(kind: RateKind, scope: Scope, name: str) -> RateZone:
    """Return the zone that a limit names, which may be declared later. Raises: ConfError"""
    scope.builder.data["zones"].request(name, 0, kind.name)
    return _zone(kind, scope, name)


def named(kind: RateKind, scope: Scope, st: Statement, name: str) -> RateZone:
    """Return the zone of a limit's `zone=`. Raises: ConfError where there is none"""
    if not name:
        raise errors.ConfError(f'"{st.directive}" must have "zone" parameter')
    return refer(kind, scope, name)


def add(scope: Scope, module: Module, st: Statement, limit: Any,
        is_same: Callable[[Any], bool]) -> None:
    """Add a limit to those of a block. Args: is_same: tells of a former one whether it is this

    Raises: ConfError for one that is there
    """
    given = scope.given_of(module)
    known: tuple[Any, ...] = given.get("limits", ())
    if any(map(is_same, known)):
        raise errors.ConfError(f'"{st.directive}" directive is duplicate')
    given["limits"] = (*known, limit)
    d.note(scope, module, st)


def is_key(key: object) -> bool:
    """Tell whether what another process says may be the key of a session."""
    return isinstance(key, bytes) and 0 < len(key) <= MAX_KEY


def _zone(kind: RateKind, scope: Scope, name: str) -> RateZone:
    zones = zones_of(kind, scope.builder.data["stream"].data)
    zone = zones.get(name)
    if zone is None:
        zone = zones[name] = RateZone(kind, name, scope.builder.facts)
    return zone


def rate_of(text: str) -> int:
    """Return the units a minute of `Nr/s` or `Nr/m`. Raises: ValueError"""
    scale = 60 if text.endswith("r/s") else 1
    if scale == 1 and not text.endswith("r/m"):
        raise ValueError(text)
    return units.parse_number(text[:-3]) * scale


def excess_text(level: int) -> str:
    """Return a level as nginx's log has an excess: `1.250`."""
    return f"{level // 1000}.{level % 1000:03}"


def levels_of(log_level: int) -> int:
    """Return at which level a delay is logged, where a refusal is at this one.

    Source: ngx_http_limit_req_merge_conf
    """
    return log_level if log_level == log.INFO else log_level + 1
