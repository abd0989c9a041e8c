"""zone: how the peers of an upstream fare, known to all workers and kept over a reload.

Answers for ngx_stream_upstream_zone_module.c and ngx_stream_upstream_zone_copy_peers.

1. What the configuration says of a peer is each process's own; what happens to it is shared.
2. A row of the zone belongs to an upstream, a server line and an address: whoever attaches the same
   finds the same row, be it another worker, a later configuration or a name resolved again.
3. Sessions are counted in the name of the worker that has them, so that those of a worker that
   was killed are given back. The rest may be slightly off after such a death, and heals.
"""

from __future__ import annotations

import functools
from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors, shm, shm_zones
from ngxstream.core.shm_counts import Tally
from ngxstream.stream import upstream
from ngxstream.stream.module import StreamModule
from ngxstream.stream.round_robin import Tier
from ngxstream.stream.upstream import Peer

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.core import StreamDraft
    from ngxstream.stream.upstream import UpstreamConf

TAG: Final = "upstream"
ROW_BYTES: Final = 256  # of a zone's size that a peer is charged with

# Cells of a row.
EFFECTIVE: Final = 0
CURRENT: Final = 1
FAILS: Final = 2
ACCESSED: Final = 3
CHECKED: Final = 4
WEIGHT: Final = 5  # the weight that the effective one belongs to
STATS: Final = 6  # six cells from here on
CELLS: Final = 12

# Cells of a row's entry in the directory.
KEY_HIGH: Final = 0
KEY_LOW: Final = 1
USED: Final = 2  # when it was attached last, counted in attachments
PINNED: Final = 3  # the configuration that has it on a server line
ENTRY: Final = 4


class PeerTable:
    """The rows of one zone; `zone.data`, and so the same for every configuration that has it."""

    __slots__ = ("zone", "capacity", "conns", "waiting", "names", "_cells", "_entries", "_state")

    # cells of _state
    _FRESH: Final = 0  # the first row never used
    _CONFIGURATION: Final = 1
    _ATTACHMENTS: Final = 2

    def __init__(self, zone: shm.Zone) -> None:
        """shape: capacity in peers follows from the zone's size."""
        self.zone = zone
        self.capacity = zone.size // ROW_BYTES
        self.conns = Tally(zone, self.capacity)
        self.waiting = Tally(zone, self.capacity)
        self.names: dict[str, Any] = {}  # what names stand for: see resolve.py
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

    def attach(self, plain: Peer, key: bytes, pin: bool) -> ZonePeer:
        """Return a peer whose fate is in the row of this key.

        shape: plain has what the configuration says; pin keeps the row for as long as this
        configuration is the newest, else it may go when nobody uses it and the zone is full
        raises: UnplacedError when the zone is full
        """
        digest = blake2b(key, digest_size=16).digest()
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
            if cells[WEIGHT] != plain.weight:
                cells[WEIGHT] = cells[EFFECTIVE] = plain.weight
                cells[CURRENT] = 0
            state[self._ATTACHMENTS] += 1
            self._entries[row * ENTRY + USED] = state[self._ATTACHMENTS]
            if pin:
                self._entries[row * ENTRY + PINNED] = state[self._CONFIGURATION]
        return ZonePeer(plain, self, row, cells)

    def peer(self, plain: Peer, row: int) -> ZonePeer:
        """Return a peer whose fate is in a row that attach() once told."""
        return ZonePeer(plain, self, row, self._cells[row * CELLS : (row + 1) * CELLS])

    def release(self, row: int) -> None:
        """Take the pin out of a row: it may go when nobody uses it and the zone is full."""
        self._entries[row * ENTRY + PINNED] = 0

    def _find(self, high: int, low: int) -> int:
        entries = self._entries
        for row in range(self._state[self._FRESH]):
            if entries[row * ENTRY + KEY_LOW] == low and entries[row * ENTRY + KEY_HIGH] == high:
                return row
        return -1

    def _take(self) -> int:
        """Return a row nobody has, or the one that was of no use for the longest time; -1: none."""
        state, entries = self._state, self._entries
        fresh: int = state[self._FRESH]
        if fresh < self.capacity:
            state[self._FRESH] = fresh + 1
            return fresh
        unused = [
            (entries[row * ENTRY + USED], row)
            for row in range(self.capacity)
            if entries[row * ENTRY + PINNED] != state[self._CONFIGURATION]
            and not self.conns.total(row)
            and not self.waiting.total(row)
        ]
        return min(unused)[1] if unused else -1

    def _clear(self, row: int) -> None:
        for n in range(row * CELLS, (row + 1) * CELLS):
            self._cells[n] = 0
        for time in ACCESSED, CHECKED:
            self._cells[row * CELLS + time] = upstream.NEVER_MS
        self._entries[row * ENTRY + PINNED] = 0


def _cell(place: int) -> Any:
    def get(view: Any) -> int:
        value: int = view.cells[place]
        return value

    def put(view: Any, value: int) -> None:
        view.cells[place] = value

    return property(get, put)


def _total(view: Any) -> int:
    total: int = view.counts.total(view.row)
    view.seen = total
    return total


def _change(view: Any, value: int) -> None:
    view.counts.add_locked(view.row, value - view.seen)


# The sum of all workers' counts, changed by += and -= only, under the zone's lock: the change is
# counted in this worker's name.
_COUNTER: Final = property(_total, _change)


class ZoneStats(upstream.PeerStats):
    """The averages of a peer, in shared memory."""

    __slots__ = ("cells", "counts", "row", "seen")

    connect_ms = _cell(STATS)
    first_byte_ms = _cell(STATS + 1)
    response_ms = _cell(STATS + 2)
    inflight_ms = _cell(STATS + 3)
    waited_ms = _cell(STATS + 4)
    changed_ms = _cell(STATS + 5)
    waiting = _COUNTER

    def __init__(self, table: PeerTable, row: int, cells: memoryview[int]) -> None:
        self.counts = table.waiting
        self.row = row
        self.cells = cells
        self.seen = 0


class ZonePeer(Peer):
    """A peer whose counters are in shared memory; use them under the zone's lock."""

    __slots__ = ("cells", "counts", "row", "seen")

    current_weight = _cell(CURRENT)
    fails = _cell(FAILS)
    accessed_ms = _cell(ACCESSED)
    checked_ms = _cell(CHECKED)
    conns = _COUNTER

    def __init__(self, plain: Peer, table: PeerTable, row: int, cells: memoryview[int]) -> None:
        self.counts = table.conns
        self.row = row
        self.cells = cells
        self.seen = 0
        self.heard_ms = plain.heard_ms
        self.family = plain.family
        self.sockaddr = plain.sockaddr
        self.name = plain.name
        self.server = plain.server
        self.weight = plain.weight
        self.max_conns = plain.max_conns
        self.max_fails = plain.max_fails
        self.fail_timeout = plain.fail_timeout
        self.down = plain.down
        self.stats = ZoneStats(table, row, cells)

    def hold(self, sessions: int) -> None:
        """Count sessions of this worker on the peer. Not under the zone's lock: it takes it."""
        self.counts.add(self.row, sessions)

    @property
    def effective_weight(self) -> int:
        """The weight less what failures took from it."""
        # workers of an earlier configuration may still count up to a greater weight
        return min(self.cells[EFFECTIVE], self.weight)

    @effective_weight.setter
    def effective_weight(self, value: int) -> None:
        self.cells[EFFECTIVE] = value


def share(conf: UpstreamConf, table: PeerTable) -> None:
    """Put the peers of an upstream into a zone. source: ngx_stream_upstream_zone_copy_peers"""
    balancer: Any = conf.balancer
    seen: Counter[str] = Counter()
    tier: Tier = balancer.tier
    backup = None if tier.backup is None else _shared(conf, table, tier.backup, seen, None)
    balancer.use(_shared(conf, table, tier, seen, backup))


def _shared(
    conf: UpstreamConf, table: PeerTable, tier: Tier, seen: Counter[str], backup: Tier | None
) -> Tier:
    peers = []
    for peer in tier.peers:
        name = f"{conf.name.lower()}\0{peer.server}\0{peer.name}"
        key = f"{name}\0{seen[name]}"
        seen[name] += 1
        peers.append(table.attach(peer, key.encode("utf-8", "surrogateescape"), pin=True))
    return Tier(tier.name, peers, backup, table.zone.lock)


def _init_zone(
    draft: StreamDraft, request: shm_zones.ZoneRequest, zone: shm.Zone, fresh: bool
) -> None:
    """Take a zone the cycle has made or adopted. source: ngx_stream_upstream_init_zone"""
    former: dict[str, Any] = {}
    if fresh:
        zone.data = PeerTable(zone)
        if request.former is not None and request.former.tag == TAG:
            former = request.former.data.names  # the zone has another size now
    table: PeerTable = zone.data
    table.next_configuration()
    for conf in draft.upstreams:
        if conf.zone is request:
            share(conf, table)
            if "resolve" in conf.data:
                conf.data["resolve"].share(table, former)


def _zone(scope: Scope, module: Module, st: Statement) -> None:
    """Read the directive. source: ngx_stream_upstream_zone"""
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
    conf.zone = builder.data["zones"].request(name, size, TAG)
    conf.zone.init = functools.partial(_init_zone, builder.data["stream"], conf.zone)


MODULE = StreamModule(
    name="zone",
    directives=(
        Directive("zone", UPSTREAM, d.TAKE12, _zone,
                  "Shared memory where all workers keep how the servers fare; it is kept over a "
                  "reload.", syntax="name [size]"),
    ),
)
