"""zone: the state of an upstream's peers, shared by all workers and kept over a reload.

Answers for ngx_stream_upstream_zone_module.c and ngx_stream_upstream_zone_copy_peers.

1. What the configuration says of a peer is each process's own; what happens to it is shared.
2. A row of the zone belongs to an upstream, a server line and an address: whoever attaches the same
   finds the same row, be it another worker, a later configuration or a name resolved again.
3. Sessions are counted in the name of the worker that has them, so that those of a worker that
   was killed are given back. The rest may be slightly off after such a death, and corrects itself.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors, shm, shm_zones
from ngxstream.core.shm_counts import Tally
from ngxstream.modules.upstream import resolve
from ngxstream.stream import peer_state
from ngxstream.stream.module import StreamModule
from ngxstream.stream.peer_state import FIELDS, PeerState
from ngxstream.stream.round_robin import Tier

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.loop import Loop
    from ngxstream.modules.upstream.names import Record
    from ngxstream.stream.core import StreamDraft
    from ngxstream.stream.upstream import Peer, UpstreamConf

TAG: Final = "upstream"
ROW_BYTES: Final = 256  # of a zone's size that a peer is charged with

# A row has a cell for every shared field of PeerState that is no count, and one more.
COUNTS: Final = [field.name for field in FIELDS if field.metadata.get("kind") == peer_state.COUNT]
BLANK: Final[dict[str, int]] = {  # what a row begins with
    field.name: getattr(PeerState(), field.name) for field in FIELDS if not field.metadata
}
PLACES: Final = {name: place for place, name in enumerate(BLANK)}
STATUS: Final = PLACES["status"]
EFFECTIVE: Final = PLACES["effective_weight"]
CURRENT: Final = PLACES["current_weight"]
WEIGHT: Final = len(PLACES)  # the weight that the effective one belongs to
CELLS: Final = WEIGHT + 1

# Cells of a row's entry in the directory.
KEY_HIGH: Final = 0
KEY_LOW: Final = 1
USED: Final = 2  # when it was attached last, counted in attachments
PINNED: Final = 3  # the configuration that has it on a server line
ENTRY: Final = 4


class PeerTable:
    """The rows of one zone; `zone.data`, and so the same for every configuration that has it."""

    __slots__ = ("zone", "capacity", "tallies", "names", "_cells", "_entries", "_state")

    # cells of _state
    _FRESH: Final = 0  # the first row never used
    _CONFIGURATION: Final = 1
    _ATTACHMENTS: Final = 2

    def __init__(self, zone: shm.Zone) -> None:
        """Make as many rows as the zone's size allows."""
        self.zone = zone
        self.capacity = zone.size // ROW_BYTES
        self.tallies = {name: Tally(zone, self.capacity) for name in COUNTS}
        self.names: dict[str, Record] = {}  # what names stand for
        self._cells = zone.ints(self.capacity * CELLS)
        self._entries = zone.ints(self.capacity * ENTRY)
        self._state = zone.ints(3)

    def next_configuration(self) -> None:
        """Begin to attach the peers of another configuration."""
        self._state[self._CONFIGURATION] += 1

    @property
    def configuration(self) -> int:
        """How many configurations there were."""
        return self._state[self._CONFIGURATION]

    def attach(self, peer: Peer, key: bytes, pin: bool) -> ZonePeerState:
        """Return a peer's state by the row of this key. Raises: UnplacedError when the zone is full

        Args: pin: keep the row while this configuration is the newest, used or not
        """
        digest = hashlib.blake2b(key, digest_size=16).digest()
        high = int.from_bytes(digest[:8], "little", signed=True)
        low = int.from_bytes(digest[8:], "little", signed=True)
        state = self._state
        with self.zone.lock:
            row = self._find(high, low)
            if row < 0:
                row = self._take()
                if row < 0:
                    raise errors.UnplacedError(
                        f'ngx_slab_alloc() failed: no memory in upstream zone "{self.zone.name}"'
                    )
                self._clear(row)
                self._entries[row * ENTRY + KEY_HIGH] = high
                self._entries[row * ENTRY + KEY_LOW] = low
            cells = self._cells[row * CELLS : (row + 1) * CELLS]
            if cells[WEIGHT] != peer.weight:
                cells[WEIGHT] = cells[EFFECTIVE] = peer.weight
                cells[CURRENT] = 0
            state[self._ATTACHMENTS] += 1
            self._entries[row * ENTRY + USED] = state[self._ATTACHMENTS]
            if pin:
                self._entries[row * ENTRY + PINNED] = state[self._CONFIGURATION]
        return ZonePeerState(peer, self.tallies, row, cells)

    def state(self, peer: Peer, row: int) -> ZonePeerState:
        """Return the state of a peer by a row that attach() returned."""
        cells = self._cells[row * CELLS : (row + 1) * CELLS]
        return ZonePeerState(peer, self.tallies, row, cells)

    def release(self, row: int) -> None:
        """Take the pin out of a row: it may be replaced when it is unused and the zone is full."""
        self._entries[row * ENTRY + PINNED] = 0

    def _find(self, high: int, low: int) -> int:
        entries = self._entries
        for row in range(self._state[self._FRESH]):
            if entries[row * ENTRY + KEY_LOW] == low and entries[row * ENTRY + KEY_HIGH] == high:
                return row
        return -1

    def _take(self) -> int:
        """Return a free row, or the one unused for the longest time; -1: none."""
        state, entries = self._state, self._entries
        fresh: int = state[self._FRESH]
        if fresh < self.capacity:
            state[self._FRESH] = fresh + 1
            return fresh
        unused = [
            (entries[row * ENTRY + USED], row)
            for row in range(self.capacity)
            if entries[row * ENTRY + PINNED] != state[self._CONFIGURATION]
            and not any(tally.total(row) for tally in self.tallies.values())
        ]
        return min(unused)[1] if unused else -1

    def _clear(self, row: int) -> None:
        for n, value in enumerate([*BLANK.values(), 0], row * CELLS):
            self._cells[n] = value
        self._entries[row * ENTRY + PINNED] = 0


class ZonePeerState(PeerState):
    """A peer's state in shared memory: use it under the zone's lock, but for `hold`.

    What is declared in PeerState and not written out here gets a property below.
    """

    __slots__ = (
        "cells",
        "configured",
        "owed",  # sessions that ended here and are given back by the end of this turn
        "row",
        "tallies",
        "tally",  # of them, that of conns
        "total",  # its method: hot
        "weight",
    )

    def __init__(self, peer: Peer, tallies: dict[str, Tally], row: int,
                 cells: memoryview[int]) -> None:
        self.cells = cells
        self.configured = peer.state.status & peer_state.CONFIGURED
        self.owed = 0
        self.row = row
        self.tallies = tallies
        self.tally = tallies["conns"]
        self.total = self.tally.total
        self.weight = peer.weight
        self.heard_ms = peer_state.NEVER_MS

    def hold(self, sessions: int) -> None:
        """Count sessions of this worker on the peer. Not under the zone's lock: it takes it."""
        self.tally.add(self.row, sessions)

    def end_later(self, loop: Loop) -> None:
        """Give a session back when another one begins, or at the end of this turn: 1 lock less."""
        self.owed += 1
        if self.owed == 1:
            loop.post(self.settle)

    def settle(self) -> None:
        """Give back the sessions that ended here."""
        owed, self.owed = self.owed, 0
        if owed:
            self.hold(-owed)

    @property
    def conns(self) -> int:
        """The sessions of all workers, but for those that are owed here."""
        return self.total(self.row) - self.owed

    @conns.setter
    def conns(self, value: int) -> None:
        change = value - self.total(self.row)
        self.owed = 0
        if change:
            self.tally.add_locked(self.row, change)

    @property
    def status(self) -> int:
        """What bars the peer: by this configuration, or for all processes."""
        return self.configured | self.cells[STATUS]

    @status.setter
    def status(self, value: int) -> None:
        self.cells[STATUS] = value & ~peer_state.CONFIGURED

    @property
    def effective_weight(self) -> int:
        """The weight less what failures took from it."""
        # workers of an earlier configuration may still count up to a greater weight
        return min(self.cells[EFFECTIVE], self.weight)

    @effective_weight.setter
    def effective_weight(self, value: int) -> None:
        self.cells[EFFECTIVE] = value


def _cell(place: int) -> property:
    def get(state: ZonePeerState) -> int:
        return state.cells[place]

    def put(state: ZonePeerState, value: int) -> None:
        state.cells[place] = value

    return property(get, put)


def _count(name: str) -> property:
    """Return the sum of all workers' counts; a change counts in this worker's name."""

    def get(state: ZonePeerState) -> int:
        return state.tallies[name].total(state.row)

    def put(state: ZonePeerState, value: int) -> None:
        tally = state.tallies[name]
        tally.add_locked(state.row, value - tally.total(state.row))

    return property(get, put)


for _name in {*PLACES, *COUNTS} - vars(ZonePeerState).keys():
    _form = _count(_name) if _name in COUNTS else _cell(PLACES[_name])
    setattr(ZonePeerState, _name, _form)


def share(conf: UpstreamConf, table: PeerTable) -> None:
    """Put the peers of an upstream into a zone. Source: ngx_stream_upstream_zone_copy_peers"""
    balancer = conf.balancer
    assert balancer is not None
    seen: Counter[str] = Counter()
    tier = balancer.tier
    backup = None if tier.backup is None else _shared(conf, table, tier.backup, seen, None)
    balancer.use(_shared(conf, table, tier, seen, backup))


def _shared(conf: UpstreamConf, table: PeerTable, tier: Tier, seen: Counter[str],
            backup: Tier | None) -> Tier:
    for peer in tier.peers:
        name = f"{conf.name.lower()}\0{peer.server}\0{peer.name}"
        key = f"{name}\0{seen[name]}"
        seen[name] += 1
        peer.state = table.attach(peer, key.encode("utf-8", "surrogateescape"), pin=True)
    return Tier(tier.name, tier.peers, backup, table.zone.lock)


def _init_zone(draft: StreamDraft, request: shm_zones.ZoneRequest, zone: shm.Zone,
               fresh: bool) -> None:
    """Take a zone the cycle has made or adopted. Source: ngx_stream_upstream_init_zone"""
    former: dict[str, Record] = {}
    if fresh:
        zone.data = PeerTable(zone)
        if request.former is not None and request.former.tag == TAG:
            former = request.former.data.names  # the zone has another size now
    table: PeerTable = zone.data
    table.next_configuration()
    for conf in draft.upstreams:
        if conf.zone is request:
            share(conf, table)
            if isinstance(conf.balancer, resolve.Group):
                conf.balancer.share(table, former)


def _zone(scope: Scope, module: Module, st: Statement) -> None:
    """Read the directive. Source: ngx_stream_upstream_zone"""
    conf: UpstreamConf = scope.owner
    builder = scope.builder
    name = st.args[0]
    if not name:
        raise errors.ConfError(f'invalid zone name "{name}"')
    size = 0
    if len(st.args) == 2:
        try:
            size = units.parse_size(st.args[1])
        except ValueError:
            raise errors.ConfError(f'invalid zone size "{st.args[1]}"') from None
        if size < shm.LEAST:
            raise errors.ConfError(f'zone "{name}" is too small')
    request = conf.zone = builder.data["zones"].request(name, size, TAG)
    request.init = functools.partial(_init_zone, builder.data["stream"], request)


MODULE = StreamModule(
    name="zone",
    directives=(
        Directive("zone", UPSTREAM, d.TAKE12, _zone,
                  "Shared memory where all workers keep how the servers fare; it is kept over a "
                  "reload.", syntax="name [size]"),
    ),
)
