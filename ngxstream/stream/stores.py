"""Stores: where zones keep what several hosts share (`store=URL` of a zone).

The form of a URL is stream/store_url.py's. A worker has one connection for each URL
(event/store.py), which is made when the first of its zones asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ngxstream.core import errors
from ngxstream.core.facts import Fact
from ngxstream.event.store import Store
from ngxstream.stream import store_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ngxstream.conf.builder import Scope
    from ngxstream.core.facts import Cell
    from ngxstream.event.loop import Loop
    from ngxstream.event.store import StoreOptions

NAME: Final = "stores"  # of StreamDraft.data: those of a configuration by URL
ZONES: Final = "zones of stores"  # of StreamDraft.data: list[Shared]

STORE: Final = "store"  # what the cells of these facts name
FACTS: Final = (
    Fact("store_commands", STORE, "Commands that were sent to a store."),
    Fact("store_refused", STORE, "Commands that a store answered by an error."),
    Fact("store_unanswered", STORE, "Commands that no reply came to."),
    Fact("store_lost", STORE, "Connections to a store that ended."),
)
UP: Final = Fact("store_up", STORE, "Connections to a store by which commands are taken: one "
                 "for each worker.", is_gauge=True)


class StoreConf:
    """One store as one configuration knows it."""

    __slots__ = ("cells", "options", "prefix", "up", "url")

    def __init__(self, url: str, options: StoreOptions, prefix: bytes, cells: tuple[Cell, ...],
                 up: Cell) -> None:
        self.url = url
        self.options = options
        self.prefix = prefix
        self.cells = cells  # of FACTS
        self.up = up


def store_of(scope: Scope, word: str, url: str) -> StoreConf:
    """Return the store of a `store=URL`. Args: word: the whole argument, for messages

    Raises: ConfError. Blocks while the system resolves a name
    """
    known: dict[str, StoreConf] = scope.builder.data["stream"].data.setdefault(NAME, {})
    found = known.get(url)
    if found is None:
        try:
            options, prefix = store_url.parse(scope, url)
        except ValueError as error:
            shown = word.replace(url, store_url.without_password(url))
            raise errors.ConfError(f'invalid store "{shown}": {error}') from None
        facts = scope.builder.facts
        found = known[url] = StoreConf(
            url, options, prefix, tuple(facts.cell(fact, options.text) for fact in FACTS),
            facts.cell(UP, options.text),
        )
    return found


def keys_of(conf: StoreConf, kind: str, zone: str) -> bytes:
    """Return what the keys of a zone begin with in a store; those of no other zone begin so."""
    name = zone.replace("%", "%25").replace(":", "%3A")
    return b"%s:%s:%s:" % (conf.prefix, kind.encode(), name.encode())


class Shared(Protocol):
    """A zone that a store is used for."""

    def start_worker(self, loop: Loop) -> None:
        """Begin to use it, in a worker."""

    def stop_worker(self) -> None:
        """Say to the store that this worker has nothing of it any more. Idempotent."""


def sharing(scope: Scope, zone: Shared) -> None:
    """Have a zone begin to use its store in each worker."""
    scope.builder.data["stream"].data.setdefault(ZONES, []).append(zone)


# -- in a worker -----------------------------------------------------------------------------------


class _Used(NamedTuple):
    """A connection. Args: users: ids of the StoreConf of each configuration that has it"""

    store: Store
    gauge: _Gauge
    users: set[int]


def _connections(_: Loop) -> dict[str, _Used]:
    return {}


def connect(loop: Loop, conf: StoreConf) -> Store:
    """Return this worker's connection to a store, which is made at the first call."""
    known = loop.get(_connections)
    used = known.get(conf.url)
    if used is None:
        commands, refused, unanswered, lost = (cell.at for cell in conf.cells)
        store = Store(loop, conf.options._replace(cells=(commands, refused, unanswered, lost)))
        used = known[conf.url] = _Used(store, _Gauge(loop, conf.up), set())
        store.listeners.append(used.gauge)
    used.users.add(id(conf))
    return used.store


def close(loop: Loop, confs: Iterable[StoreConf]) -> None:
    """End connections that no other configuration of this process has. Args: confs: of one"""
    known = loop.get(_connections)
    for conf in confs:
        used = known.get(conf.url)
        if used is not None:
            used.users.discard(id(conf))
            if not used.users:
                del known[conf.url]
                if used.store.is_up:
                    used.gauge.on_down()
                used.store.close()


class _Gauge:
    """Counts the connections by which commands are taken."""

    __slots__ = ("_loop", "_up")

    def __init__(self, loop: Loop, up: Cell) -> None:
        self._loop = loop
        self._up = up

    def on_up(self) -> None:
        self._loop.cells[self._up.at] += 1

    def on_down(self) -> None:
        self._loop.cells[self._up.at] -= 1

    def on_push(self, _: object) -> None:
        return
