"""`server … resolve` and `service=`: balancing over the addresses that a name has now.

Answers for the rest of what ngx_stream_upstream_zone_module.c does about names; names.py does the
asking.

1. A worker looks at a number when a session chooses its server, and makes new tiers when it has
   changed. Sessions under way go on with the tiers they began with.
2. Sessions that come before the first answer wait for it, if there is no other server: after a
   start or a binary upgrade. (nginx tells them that there are no live upstreams.)
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.modules.upstream import names, records
from ngxstream.modules.upstream.records import TRIED, VERSION, Entry
from ngxstream.stream.module import StreamModule
from ngxstream.stream.round_robin import Tier

if TYPE_CHECKING:
    from ngxstream.core.log import Log
    from ngxstream.event.loop import Loop
    from ngxstream.event.timers import Timer
    from ngxstream.modules.upstream.peer_table import PeerTable
    from ngxstream.stream.core import StreamConf, StreamDraft
    from ngxstream.stream.resolver_conf import ResolverConf
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer, Selection, ServerSpec, UpstreamConf

PATIENCE_MS: Final = 5000  # how long after its start a worker has sessions wait for first answers
LOOK_MS: Final = 20  # how often it is seen whether another worker has one
KEPT: Final = 8  # configurations after which an unused name is forgotten


class Group:
    """The balancer of an upstream with names: its method's, over their addresses."""

    __slots__ = (
        "conf",
        "inner",  # Balancer of the method
        "names",
        "table",
        "log",
        "static",
        "until_ms",  # loop ms until which sessions may wait for a first answer
        "_cells",
        "_seen",  # sum of the versions the tiers were made of
        "_waiting",  # list of callables: of sessions that wait
        "loop",  # Loop | None: of the worker
        "_timer",
    )

    table: PeerTable
    static: Tier  # the servers that are addresses

    def __init__(self, conf: UpstreamConf) -> None:
        """Stand before the balancer that conf has."""
        assert conf.balancer is not None
        self.conf = conf
        self.inner = conf.balancer
        self.log: Log | None = None
        count: Counter[tuple[Any, ...]] = Counter()
        self.names = []
        for spec in conf.servers:
            if spec.resolve:
                same = (spec.resolve.lower(), spec.service, spec.port, spec.backup)
                self.names.append(names.Name(self, spec, count[same]))
                count[same] += 1
        self.until_ms = 0
        self._cells: list[memoryview[int]] = []
        self._seen = -1
        self._waiting: list[Callable[[], None]] = []
        self.loop: Loop | None = None
        self._timer: Timer | None = None

    @property
    def resolver(self) -> ResolverConf:
        """Who is asked for the names."""
        assert self.conf.resolver is not None  # upstream_block has looked
        return self.conf.resolver

    def spec_of(self, spec: ServerSpec, row: int, address: str) -> ServerSpec:
        """Return what holds for an address of a name: what its line says."""
        return spec

    @property
    def tier(self) -> Tier:
        """The servers that are chosen among."""
        return self.inner.tier

    def use(self, tier: Tier) -> None:
        """Take the servers that are addresses; the names' join them."""
        self.static = tier
        self.inner.use(tier)

    def share(self, table: PeerTable, former: dict[str, records.Record]) -> None:
        """Take up what the names stood for. Called when the static servers are in the zone."""
        self.table = table
        models = records.by_origin(table.names, former)
        for name in self.names:
            name.share(models)
            name.record.configuration = table.configuration
        self._cells = [name.record.cells for name in self.names]
        for key, record in list(table.names.items()):
            if record.configuration < table.configuration - KEPT:
                del table.names[key]
        self.refresh()

    def select(self, s: Session) -> Selection:
        """Begin a selection among the servers of this moment. # hot: one look at a number"""
        seen = 0
        for cells in self._cells:
            seen += cells[VERSION]
        if seen != self._seen:
            self.refresh()
        return self.inner.select(s)

    def weigh_by_agents(self) -> None:
        """Have agents say what part of its weight a server has."""
        self.inner.weigh_by_agents()

    def resume(self, s: Session, name: str) -> tuple[Selection, Peer] | None:
        """Take up a session that another process had on a peer; None for no such peer."""
        self.catch_up()
        return self.inner.resume(s, name)

    def catch_up(self) -> None:
        """Take notice of what has changed, as a selection does."""
        if self._is_outdated():
            self.refresh()

    def _is_outdated(self) -> bool:
        return sum(cells[VERSION] for cells in self._cells) != self._seen

    def wait(self, loop: Loop, resume: Callable[[], None]) -> Callable[[], None] | None:
        """Resume a session at the first answer; returns what cancels that, None if it is no use."""
        if self._is_outdated():  # another worker had an answer since this session began to choose
            loop.post(resume)
            return functools.partial(self._forget, resume)
        if loop.now_ms >= self.until_ms or not self.is_blank():
            return None
        self._waiting.append(resume)
        self.loop = loop
        if self._timer is None:
            self._timer = loop.call_later(LOOK_MS, self._on_timer, cancelable=True)
        return functools.partial(self._forget, resume)

    def is_blank(self) -> bool:
        """Tell whether there is no server because no name was ever answered."""
        tier = self.tier
        return not tier.number and tier.backup is None and self.is_hopeful()

    def is_hopeful(self) -> bool:
        """Tell whether none of the names was answered, and not all of them failed."""
        return not any(name.is_answered() for name in self.names) and not all(
            name.record.cells[TRIED] for name in self.names
        )

    def _forget(self, resume: Callable[[], None]) -> None:
        if resume in self._waiting:
            self._waiting.remove(resume)

    def _on_timer(self) -> None:
        self._timer = None
        self.look()

    def look(self) -> None:
        """Resume who waits, if there is an answer, a failure, or no more time."""
        if not self._waiting:
            return
        loop = self.loop
        assert loop is not None  # it waits in one
        if loop.now_ms < self.until_ms and self.is_hopeful():
            if self._timer is None:
                self._timer = loop.call_later(LOOK_MS, self._on_timer, cancelable=True)
            return
        self.until_ms = 0
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            loop.post(resume)

    def refresh(self) -> None:
        """Make the tiers anew from the addresses of the names."""
        table = self.table
        with table.zone.lock:
            self._seen = sum(cells[VERSION] for cells in self._cells)
            entries = [(name, entry) for name in self.names for entry in name.read()]
        static, behind = self.static, self.static.backup
        backups = behind.peers if behind is not None else ()
        self.balance(list(static.peers), list(backups), entries)

    def balance(self, primaries: list[Peer], backups: list[Peer],
                entries: list[tuple[names.Name, Entry]]) -> None:
        """Balance over these servers and the addresses of names from now on."""
        table, name_of = self.table, self.conf.name
        for name, entry in entries:
            peer = name.plain_peer(entry)
            peer.state = table.state(peer, entry.row)
            (backups if entry.backup or name.spec.backup else primaries).append(peer)
        lock = table.zone.lock
        backup = Tier(name_of, backups, None, lock) if backups else None
        self.inner.use(Tier(name_of, primaries, backup, lock))

    def start(self, loop: Loop) -> None:
        """Begin to ask, in a worker."""
        self.log = loop.log
        self.until_ms = loop.now_ms + min(PATIENCE_MS, self.conf.resolver_timeout)
        for name in self.names:
            name.start(loop)

    def stop(self) -> None:
        """Leave the asking to others."""
        for name in self.names:
            name.stop()


def finish(draft: StreamDraft) -> None:
    """Put the names in front of the balancers of their upstreams."""
    for conf in draft.upstreams:
        if not conf.is_dynamic and any(spec.resolve for spec in conf.servers):
            group = conf.balancer = Group(conf)
            conf.pending = group.wait


def start_worker(stream: StreamConf, loop: Loop) -> None:
    """Begin to ask."""
    for conf in stream.upstreams:
        group = conf.balancer
        if isinstance(group, Group):
            group.start(loop)


def stop_worker(stream: StreamConf, loop: Loop) -> None:
    """Leave the asking to others."""
    for conf in stream.upstreams:
        group = conf.balancer
        if isinstance(group, Group):
            group.stop()


MODULE = StreamModule(
    name="resolve", finish=finish, start_worker=start_worker, stop_worker=stop_worker
)
