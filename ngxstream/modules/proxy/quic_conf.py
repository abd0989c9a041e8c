"""The directive proxy_quic, and where the ids of all workers are; udp_quic.py obeys it.

nginx has no counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import SERVER, STREAM
from ngxstream.core import errors
from ngxstream.core.facts import WORKERS, Fact
from ngxstream.core.shm_ids import IdTable
from ngxstream.event.udp_ids import MIN_ID, ClientIds
from ngxstream.stream.api import COUNTER, Family
from ngxstream.wire.quic import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.core.facts import Cell
    from ngxstream.core.shm import Zone
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import Stray
    from ngxstream.stream.addresses import ListeningConf
    from ngxstream.stream.core import ServerConf, StreamConf

KEY: Final = "proxy_quic"
ZONE_BYTES: Final = 4 << 20  # 131 072 ids; only what is used of it has to be there

MIGRATIONS: Final = Fact("quic_migrations", WORKERS,
                         "QUIC clients whose address has changed, each time.")
PATHS: Final = Fact("quic_paths", WORKERS,
                    "Addresses that datagrams of other addresses' QUIC connections came from.")
UNKNOWN: Final = Fact("quic_ids_refused", WORKERS,
                      "Connection ids that are another session's, or too short.")
FACTS: Final = (MIGRATIONS, PATHS, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Quic:
    """What proxy_quic says.

    Args: prefix: bytes that all ids of a connection share, 0 for all; any_host: a client may move
    to an address of another host, which nobody can prove to be its own
    """

    prefix: int
    any_host: bool
    cells: tuple[Cell, Cell, Cell]  # of FACTS


class Shared:
    """The ids of all workers, and what is counted of them."""

    __slots__ = ("cells", "table")

    table: IdTable

    def __init__(self, cells: tuple[Cell, Cell, Cell]) -> None:
        """Args: cells: of FACTS"""
        self.cells = cells

    def attach(self, zone: Zone, fresh: bool) -> None:
        """Take a zone the cycle has made or adopted."""
        if fresh:
            zone.data = IdTable(zone)
        self.table = zone.data


def _proxy_quic(scope: Scope, module: Module, st: Statement) -> None:
    """Read `proxy_quic on [prefix=N] [any_host] | off`."""
    what, *more = st.args
    prefix = 0
    any_host = False
    if what not in ("on", "off"):
        raise errors.ConfError(
            f'invalid value "{what}" in "{st.directive}" directive, it must be "on" or "off"'
        )
    for word in more:
        if word == "any_host" and what == "on" and not any_host:
            any_host = True
            continue
        name, _, number = word.partition("=")
        try:
            prefix = units.parse_number(number) if name == "prefix" and what == "on" else 0
        except ValueError:
            prefix = 0
        if not MIN_ID <= prefix <= MAX_ID:
            raise errors.ConfError(f'invalid parameter "{word}"')
    builder = scope.builder
    made = None
    if what == "on":
        first, second, third = (builder.facts.cell(fact) for fact in FACTS)
        made = Quic(prefix, any_host, (first, second, third))
        data = builder.data["stream"].data
        if KEY not in data:
            data[KEY] = Shared(made.cells)
            request = builder.data["zones"].request(KEY, ZONE_BYTES, module.name)
            request.init = data[KEY].attach
    d.put(scope, module, st, "quic", made)


DIRECTIVES: Final = (
    d.Directive(KEY, STREAM | SERVER, d.TAKE13, _proxy_quic,
                "Whether a UDP session goes on by QUIC connection ids when its client's address "
                "changes.", default="off",
                extension=True),
)


def check(server: ServerConf, *, ends: bool) -> None:
    """Refuse what cannot be served. Args: ends: datagrams end a session. Raises: UnplacedError"""
    if server.proxy.quic is None or not any(one.options.is_udp for one in server.listens):
        return
    place = f"in {server.file}:{server.line}"
    if ends:
        raise errors.UnplacedError(
            f'"{KEY}" keeps sessions that "proxy_requests" and "proxy_responses" end {place}'
        )
    if any(one.options.is_udp and one.options.proxy_protocol for one in server.listens):
        raise errors.UnplacedError(
            f'"{KEY}" is not supported where clients are told apart by PROXY protocol {place}'
        )


def finder(conf: ListeningConf, loop: Loop) -> Stray | None:
    """Return what finds sessions by ids at a listening address, None where there are none."""
    addresses = [conf.default, *(conf.addresses or {}).values()]
    if conf.options.is_group and any(
        server.proxy.quic is not None for address in addresses for server in address.servers
    ):
        return loop.get(ClientIds).find
    return None


def start_worker(stream: StreamConf, loop: Loop) -> None:
    """Have the ids of all workers found, where there are several."""
    shared: Shared | None = stream.data.get(KEY)
    if shared is not None and loop.workers > 1:
        loop.get(ClientIds).shared = shared.table


def metrics(loop: Loop, stream: StreamConf) -> Iterator[Family]:
    """Yield a family for each fact, where sessions are known by ids."""
    shared: Shared | None = stream.data.get(KEY)
    if shared is None:
        return
    for cell in shared.cells:
        fact = cell.fact
        name = f"ngxstream_stream_{fact.name}_total"
        yield Family(name, COUNTER, fact.doc.rstrip("."), [("", cell.total)])
