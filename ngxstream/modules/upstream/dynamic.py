"""Groups whose servers may change while the program runs: those of a `zone` that an `api` with
write=on can change, or that keep their servers in a `state` file.

1. Each worker makes its tiers of the lines in shared memory (roster.py) and of the addresses of
   names; when the version of either has changed, it does so at its next selection, or within
   LOOK_MS where there is none.
2. Lines that have not changed keep their peers, with what this worker alone knows of them.
3. What is in force is changed by changes.py alone. While the state file is read by another
   configuration, and when that serves, this one's lines are changed no more.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import shm
from ngxstream.ipc import codec
from ngxstream.modules.upstream import keys, names, resolve, roster
from ngxstream.modules.upstream.records import VERSION, Record
from ngxstream.modules.upstream.roster import Line, Roster
from ngxstream.stream import round_robin
from ngxstream.stream.module import StreamModule
from ngxstream.stream.round_robin import RoundRobin
from ngxstream.stream.upstream import Peer, ServerSpec

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.modules.upstream.peer_table import PeerTable
    from ngxstream.stream.core import StreamConf, StreamDraft
    from ngxstream.stream.round_robin import Tier
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Selection, UpstreamConf

LOOK_MS: Final = 1000  # how often a worker without traffic looks whether something has changed
WRITTEN_S: Final = 0.1  # how long a reload waits for a change that is being written
ROWS_PER_NAME: Final = 32  # rows of a zone for each name that may come at run time


class Made(NamedTuple):
    """What a line was made into."""

    data: bytes
    line: Line
    spec: ServerSpec
    peer: Peer | None  # of an address


class Group(resolve.Group):
    """The balancer of a group that may change: its method's, over the servers of this moment."""

    __slots__ = (
        "roster",
        "made",  # dict[int, Made]: by id, in the order of the lines
        "own",  # dict[int, Line]: of addresses of names that have lines of their own, by row
        "index",  # int: the group's place among the upstreams
        "most_weight",  # int: of a server; more is nothing that somebody may have asked for
        "_by_line",  # dict[int, names.Name]: by id
        "_taken",  # version of the roster that all this was made of
    )

    roster: Roster

    def __init__(self, conf: UpstreamConf) -> None:
        """Stand before the balancer that conf has."""
        super().__init__(conf)
        self.made: dict[int, Made] = {}
        self.own: dict[int, Line] = {}
        self.index = conf.index
        given = [spec.weight for spec in conf.servers]
        self.most_weight = max([getattr(self.inner, "most_weight", RoundRobin.most_weight), *given])
        self._by_line: dict[int, names.Name] = {}
        self._taken = -1

    @property
    def lines(self) -> list[Line]:
        """All lines, those of single addresses of names last."""
        return [one.line for one in self.made.values()] + list(self.own.values())

    @property
    def lock(self) -> int:
        """The number of the lock that is held while this group is changed."""
        return shm.CHANGING + self.index

    @property
    def specs(self) -> list[ServerSpec]:
        """The server lines in their order."""
        return [one.spec for one in self.made.values()]

    # -- in the master -------------------------------------------------------------------------

    def share(self, table: PeerTable, former: dict[str, Record]) -> None:
        """Put the lines of the configuration into shared memory."""
        for _ in range(len(table.stock), max(4, table.capacity // ROWS_PER_NAME)):
            table.stock.append(Record(table.zone, table.capacity))
        self.roster = Roster(table.zone, table.capacity)
        peers: dict[ServerSpec, list[Peer]] = {}
        tier: Tier | None = self.static
        while tier is not None:
            for peer in tier.peers:
                peers.setdefault(peer.spec, []).append(peer)
            tier = tier.backup
        count: Counter[tuple[str, str, int, bool]] = Counter()
        lines = []
        for spec in self.conf.servers:
            if spec.resolve:
                same = (spec.resolve.lower(), spec.service, spec.port, spec.backup)
                lines.append(roster.of_spec(spec, spec.id, nth=count[same]))
                count[same] += 1
            else:
                lines += [
                    roster.of_spec(spec, row_of(peer), peer.name)
                    for peer in peers.get(spec, ())
                ]
        for name in self.names:
            self._by_line[name.spec.id] = name
        self.roster.put([line.encode() for line in lines])
        super().share(table, former)

    # -- in a worker ---------------------------------------------------------------------------

    def start(self, loop: Loop) -> None:
        """Begin to ask for names."""
        self.loop = loop
        super().start(loop)
        self.catch_up()

    def stop(self) -> None:
        """Leave the asking to others."""
        super().stop()
        self.loop = None

    def resume(self, s: Session, name: str) -> tuple[Selection, Peer] | None:
        """Take up a session that another process had on a peer; one that was removed counts on."""
        found = super().resume(s, name)
        if found is not None:
            return found
        try:
            peer = roster.peer_of(Line(-1, name, name).spec())
        except ValueError:
            return None
        table = self.table
        with table.zone.lock:
            row = table.find(keys.key_of(self.conf, peer, 0))
        if row < 0:
            return None
        peer.state = table.state(peer, row)
        alone = round_robin.Tier(self.conf.name, (peer,), None, table.zone.lock)
        return round_robin.RoundRobin(alone).resume(s, name)

    def refresh(self) -> None:
        """Make the tiers anew, and what they are made of where the lines have changed."""
        lock = self.table.zone.lock
        with lock:
            version = self.roster.cells[VERSION]
            items = self.roster.read() if version != self._taken else None
        if items is not None:
            self._take(items)
            self._taken = version
            self._cells = [self.roster.cells, *(name.record.cells for name in self.names)]
        with lock:
            self._seen = version + sum(name.record.cells[VERSION] for name in self.names)
            entries = [(name, entry) for name in self.names for entry in name.read()]
        primaries: list[Peer] = []
        backups: list[Peer] = []
        for _, line, _, peer in self.made.values():
            if peer is not None:
                (backups if line.backup else primaries).append(peer)
        self.balance(primaries, backups, entries)

    def _take(self, items: list[bytes]) -> None:
        """Make of the lines what has changed."""
        made: dict[int, Made] = {}
        own: dict[int, Line] = {}
        same = {one.data: one for one in self.made.values()}
        for data in items:
            known = same.get(data)
            if known is not None and not (known.peer and known.peer.state.is_dropped):
                # as a rule: a change is about one line
                made[known.line.id] = known
                continue
            try:
                line = roster.decode(data)
            except codec.CodecError:
                continue
            if line.id >= self.roster.capacity or line.weight > self.most_weight:
                continue
            if line.parent >= 0:
                own[line.id] = line
                continue
            known = self._make(data, line)
            if known is not None:
                made[line.id] = known
        self.made = made
        self.own = own
        by_line: dict[int, names.Name] = {}
        for _, line, spec, peer in made.values():
            name = None if peer is not None else self._name_of(line, spec)
            if name is not None:
                by_line[line.id] = name
        for number, name in self._by_line.items():
            if by_line.get(number) is not name:
                name.stop()
        self._by_line = by_line
        self.names = list(by_line.values())

    def _make(self, data: bytes, line: Line) -> Made | None:
        """Make a peer of an address; None for what is no server."""
        try:
            spec = line.spec()
        except ValueError:
            return None
        if line.is_name:
            return Made(data, line, spec, None)
        peer = roster.peer_of(spec)
        peer.state = self.table.state(peer, line.id)
        return Made(data, line, spec, peer)

    def _name_of(self, line: Line, spec: ServerSpec) -> names.Name | None:
        """Return the name of a line, the one there was or a new one; None: there is no room."""
        known = self._by_line.get(line.id)
        fresh = names.Name(self, spec, line.nth)
        if known is not None and known.key == fresh.key:
            known.spec = spec
            return known
        record = None if self.conf.resolver is None else self.table.record(fresh.key)
        if record is None:
            return None
        fresh.record = record
        if self.loop is not None:
            self.until_ms = self.loop.now_ms + min(resolve.PATIENCE_MS, self.conf.resolver_timeout)
            fresh.start(self.loop)
        return fresh

    def spec_of(self, spec: ServerSpec, row: int, address: str) -> ServerSpec:
        """Return what holds for an address of a name: what its own line says, if it has one."""
        line = self.own.get(row)
        if line is None or line.address != address or line.parent != spec.id:
            return spec
        found = copy.copy(spec)
        line.apply(found)
        if spec.service:
            found.weight = spec.weight  # an address of a service has what its record says
        return found

    def data_of(self, line: Line) -> bytes:
        """Return the bytes of a line, which are at hand if it is in force."""
        known = self.made.get(line.id)
        return known.data if known is not None and known.line is line else line.encode()

    def name_of(self, number: int) -> names.Name | None:
        """Return the name of a line; None for none."""
        return self._by_line.get(number)


def row_of(peer: Peer) -> int:
    """Return the row of a peer that is in shared memory."""
    row: int = peer.state.row  # type: ignore[attr-defined]
    return row


class Watch:
    """Sees that a worker without traffic takes notice of changes too."""

    __slots__ = ("_groups", "_loop")

    def __init__(self, loop: Loop, groups: list[Group]) -> None:
        self._loop = loop
        self._groups = groups
        self._arm()

    def _arm(self) -> None:
        self._loop.call_later(LOOK_MS, self._look, cancelable=True)

    def _look(self) -> None:
        for group in self._groups:
            group.catch_up()
        self._arm()


def finish(draft: StreamDraft) -> None:
    """Put the balancers of groups that may change behind ones that look."""
    for conf in draft.upstreams:
        if conf.is_dynamic:
            group = conf.balancer = Group(conf)
            conf.pending = group.wait


def groups_of(stream: StreamConf) -> list[Group]:
    """Return the groups that may change."""
    return [conf.balancer for conf in stream.upstreams if isinstance(conf.balancer, Group)]


def start_worker(stream: StreamConf, loop: Loop) -> None:
    """Look from time to time."""
    groups = groups_of(stream)
    if groups:
        Watch(loop, groups)


def suspend(stream: StreamConf) -> None:
    """Have nobody change the lines that a state file keeps: it is going to be read."""
    for group in groups_of(stream):
        if group.conf.state:
            group.roster.is_closed = True
            with (
                contextlib.suppress(shm.BusyError, OSError),  # who has it looks before it ends
                group.table.zone.lock.soon(group.lock, WRITTEN_S),
            ):
                pass


def resume(stream: StreamConf) -> None:
    """Let the lines be changed."""
    for group in groups_of(stream):
        group.roster.is_closed = False


MODULE = StreamModule(
    name="dynamic", finish=finish, start_worker=start_worker, suspend=suspend, resume=resume
)
