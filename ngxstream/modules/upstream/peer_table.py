"""The peers of an upstream's zone: a row of shared memory for each, and what a process has of it.

Answers for the shared ngx_stream_upstream_rr_peer_t of ngx_stream_upstream_round_robin.h.

1. What the configuration says of a peer is each process's own; what happens to it is shared.
2. A row of the zone belongs to an upstream, a server line and an address: whoever attaches the same
   finds the same row, be it another worker, a later configuration or a name resolved again.
3. Sessions are counted in the name of the worker that has them, so that those of a worker that
   was killed are given back. The rest may be slightly off after such a death, and corrects itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, shm, shm_zones
from ngxstream.core.shm_counts import Tally
from ngxstream.modules.upstream import keys, records
from ngxstream.modules.upstream.columns import Columns
from ngxstream.stream import peer_state
from ngxstream.stream.peer_state import FIELDS, PeerState

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.modules.upstream.records import Record
    from ngxstream.stream.round_robin import Choice
    from ngxstream.stream.upstream import Peer

TAG: Final = "upstream"
ROW_BYTES: Final = 256  # of a zone's size that a peer is charged with

# A row has a cell for every shared field of PeerState that is no count, and one more. They lie
# field by field: so the same field of peers of a group is read in one go (columns.py).
COUNTS: Final = [field.name for field in FIELDS if field.metadata.get("kind") == peer_state.COUNT]
BLANK: Final[dict[str, int]] = {  # what a row begins with
    field.name: getattr(PeerState(), field.name) for field in FIELDS if not field.metadata
}
PLACES: Final = {name: place for place, name in enumerate(BLANK)}
STATUS: Final = PLACES["status"]
EFFECTIVE: Final = PLACES["effective_weight"]
CURRENT: Final = PLACES["current_weight"]
BACK: Final = PLACES["back_ms"]
WEIGHT: Final = len(PLACES)  # the weight that the effective one belongs to
CELLS: Final = WEIGHT + 1

# Cells of a row's entry in the directory.
KEY_HIGH: Final = 0
KEY_LOW: Final = 1
USED: Final = 2  # when it was attached last, counted in attachments
PINNED: Final = 3  # the configuration that has it on a server line
ENTRY: Final = 4
_COUNTED: Final = (1 << 62) - 1


class PeerTable:
    """The rows of one zone; `zone.data`, and so the same for every configuration that has it."""

    __slots__ = (
        "zone", "capacity", "cleared", "tallies", "names", "stock", "withdrawals", "_cells",
        "_drops", "_entries", "_gone", "_indexed", "_rows", "_state",
    )

    # cells of _state
    _FRESH: Final = 0  # the first row never used
    _CONFIGURATION: Final = 1
    _ATTACHMENTS: Final = 2
    _REMOVALS: Final = 3
    _NAMED: Final = 4  # one more with each change of a row's key

    def __init__(self, zone: shm.Zone) -> None:
        """Make as many rows as the zone's size allows."""
        self.zone = zone
        self.capacity = zone.size // ROW_BYTES
        self.tallies = {name: Tally(zone, self.capacity) for name in COUNTS}
        self.names: dict[str, Record] = {}  # what names stand for
        # cleared(row): told of a row that becomes another peer's
        self.cleared: Callable[[int], None] | None = None
        self.stock: list[Record] = []  # for names that come at run time
        self._cells = zone.ints(self.capacity * CELLS)
        self._entries = zone.ints(self.capacity * ENTRY)
        self._gone = zone.ints(self.capacity)  # digest of the upstream it was removed from, or 0
        self._drops = zone.ints(self.capacity)  # how often who had the row was removed, or set down
        self.withdrawals = zone.ints(1)  # how often peers were withdrawn
        self._state = zone.ints(5)
        self._rows: dict[tuple[int, int], int] = {}  # by key, as they were at
        self._indexed = -1  # this number of changes of keys

    def next_configuration(self) -> None:
        """Begin to attach the peers of another configuration."""
        self._state[self._CONFIGURATION] = self._state[self._CONFIGURATION] + 1 & _COUNTED

    @property
    def configuration(self) -> int:
        """How many configurations there were."""
        return self._state[self._CONFIGURATION]

    def attach(self, peer: Peer, key: bytes, pin: bool, newcomer: int = 0) -> ZonePeerState:
        """Return a peer's state by the row of this key. Raises: UnplacedError when the zone is full

        Args: pin: keep the row while this configuration is the newest, used or not; newcomer: the
        status that a row begins with
        """
        high, low = keys.halves(key)
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
                self._cells[STATUS * self.capacity + row] = newcomer
                self._name(row, high, low)
            cells = self._cells[row :: self.capacity]
            if cells[WEIGHT] != peer.weight:
                cells[WEIGHT] = cells[EFFECTIVE] = peer.weight
                cells[CURRENT] = 0
            state[self._ATTACHMENTS] = state[self._ATTACHMENTS] + 1 & _COUNTED
            self._entries[row * ENTRY + USED] = state[self._ATTACHMENTS]
            self._gone[row] = 0
            if pin:
                self._entries[row * ENTRY + PINNED] = state[self._CONFIGURATION]
        return ZonePeerState(peer, self, row, cells)

    def state(self, peer: Peer, row: int) -> ZonePeerState:
        """Return the state of a peer by a row that attach() returned."""
        return ZonePeerState(peer, self, row, self._cells[row :: self.capacity])

    def columns(self, choices: Sequence[Choice]) -> Columns | None:
        """Return what reads peers in one go; None where their rows do not follow each other."""
        states = [state for _, _, state in choices]
        rows = [state.row for state in states]  # type: ignore[attr-defined]
        first, end = rows[0], rows[0] + len(rows)
        if rows != list(range(first, end)):
            return None
        status, effective, current = (
            self._cells[place * self.capacity :][first:end]
            for place in (STATUS, EFFECTIVE, CURRENT)
        )
        configured = [state.configured for state in states]  # type: ignore[attr-defined]
        conns = self.tallies["conns"].totals(first, end)
        return Columns(choices, status, effective, current, conns, configured)

    def drops(self, row: int) -> int:
        """Return a number that is another one once who has the row now is dropped."""
        return self._drops[row]

    def drop(self, row: int) -> None:
        """Note that who has a row is removed, has another address, or is marked down. Locked."""
        self._drops[row] = self._drops[row] + 1 & _COUNTED
        self.count_withdrawal()

    def count_withdrawal(self) -> None:
        """Have all workers look at the sessions of the zone's peers (stream/withdrawals.py)."""
        self.withdrawals[0] = self.withdrawals[0] + 1 & _COUNTED

    def find(self, key: bytes) -> int:
        """Return the row of a key, -1 for none. Under the lock."""
        return self._find(*keys.halves(key))

    def pin(self, row: int) -> None:
        """Keep a row while this configuration is the newest: it belongs to a server."""
        self._entries[row * ENTRY + PINNED] = self._state[self._CONFIGURATION]
        self._gone[row] = 0

    def weigh(self, row: int, weight: int) -> None:
        """Give the server of a row another weight. Under the lock."""
        cells = self._cells[row :: self.capacity]
        if cells[WEIGHT] != weight:
            cells[WEIGHT] = cells[EFFECTIVE] = weight
            cells[CURRENT] = 0

    def begin_slowly(self, row: int, now_ms: int) -> None:
        """Have the server of a row come back from now on (slow_start)."""
        self._cells[BACK * self.capacity + row] = now_ms

    def move(self, row: int, key: bytes, weight: int, newcomer: int = 0) -> None:
        """Have a row be that of another address: it begins anew but for its sessions. Locked."""
        high, low = keys.halves(key)
        other = self._find(high, low)
        if other >= 0:  # removed before: it is found by no key any more
            self._name(other, 0, 0)
        self._clear(row)
        self._cells[STATUS * self.capacity + row] = newcomer
        self._name(row, high, low)
        self.drop(row)
        self.pin(row)
        self.weigh(row, weight)

    def record(self, key: str) -> Record | None:
        """Return the record of a name, new or one of the stock; None when that is used up."""
        owner = records.digest(key)
        with self.zone.lock:
            found = self.names.get(key)
            if found is None:
                owners = [one.cells[records.OWNER] for one in self.stock]
                for wanted in (owner, 0):
                    if wanted in owners:
                        found = self.stock[owners.index(wanted)]
                        break
            if found is not None and found.cells[records.OWNER] != owner:
                found.give(owner)
        return found

    def release(self, row: int, upstream: str) -> None:
        """Take the pin out of a row: it may be replaced when it is unused and the zone is full.

        Under the lock. Args: upstream: what the peer is removed from, while sessions on it go on
        """
        self._entries[row * ENTRY + PINNED] = 0
        self._gone[row] = records.digest(upstream.lower())
        self._state[self._REMOVALS] = 1
        self.drop(row)

    def zombies(self, upstream: str) -> int:
        """Return how many peers were removed from an upstream and still have sessions."""
        state = self._state
        if not state[self._REMOVALS]:
            return 0
        digest = records.digest(upstream.lower())
        gone = self._gone[: self._used].tolist()
        total = self.tallies["conns"].total
        return sum(mark == digest and total(row) > 0 for row, mark in enumerate(gone))

    def usage(self) -> shm_zones.Usage:
        """Tell how full it is; a row is free again when another server needs it."""
        used = self._used
        attachments = max(self._state[self._ATTACHMENTS], 0)
        return shm_zones.Usage(ROW_BYTES, used, self.capacity - used, attachments)

    @property
    def _used(self) -> int:
        """How many rows were ever used, whatever another process has written there."""
        return min(max(self._state[self._FRESH], 0), self.capacity)

    def _find(self, high: int, low: int) -> int:
        """Return the row of a key, by an index of this process's own. Under the lock."""
        if self._indexed != self._state[self._NAMED]:
            self._index()
        row = self._rows.get((high, low), -1)
        if row >= 0 and self._key_of(row) != (high, low):  # changed by who has not said so
            self._index()
            row = self._rows.get((high, low), -1)
        return row

    def _index(self) -> None:
        cells = self._entries[: self._used * ENTRY].tolist()
        found = list(zip(cells[KEY_HIGH::ENTRY], cells[KEY_LOW::ENTRY], strict=True))
        # of two of one key the first one counts
        self._rows = {found[row]: row for row in range(len(found) - 1, -1, -1)}
        self._indexed = self._state[self._NAMED]

    def _key_of(self, row: int) -> tuple[int, int]:
        at = row * ENTRY
        return self._entries[at + KEY_HIGH], self._entries[at + KEY_LOW]

    def _name(self, row: int, high: int, low: int) -> None:
        """Have a row be that of a key. Under the lock."""
        state = self._state
        is_known = self._indexed == state[self._NAMED]
        # first: where this process dies now the others read all keys again
        state[self._NAMED] = state[self._NAMED] + 1 & _COUNTED
        former = self._key_of(row)
        self._entries[row * ENTRY + KEY_HIGH] = high
        self._entries[row * ENTRY + KEY_LOW] = low
        if is_known:
            if self._rows.get(former) == row:
                del self._rows[former]
            self._rows[high, low] = row
            self._indexed = state[self._NAMED]

    def _take(self) -> int:
        """Return a free row, or the one unused for the longest time; -1: none."""
        state, entries = self._state, self._entries
        fresh = self._used
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
        cells = self._cells[row :: self.capacity]
        for place, value in enumerate([*BLANK.values(), 0]):
            cells[place] = value
        if self.cleared is not None:
            with contextlib.suppress(*shm.DAMAGE):  # the counters go on then
                self.cleared(row)
        self._entries[row * ENTRY + PINNED] = 0


class ZonePeerState(PeerState):
    """A peer's state in shared memory: use it under the zone's lock, but for `hold`.

    What is declared in PeerState and not written out here gets a property below.
    """

    __slots__ = (
        "cells",
        "configured",
        "drops",  # what table.drops() was when the peer came to be
        "owed",  # sessions that ended here and are given back by the end of this turn
        "row",
        "table",  # PeerTable
        "tallies",
        "tally",  # of them, that of conns
        "total",  # its method: hot
        "weight",
    )

    def __init__(self, peer: Peer, table: PeerTable, row: int, cells: memoryview[int]) -> None:
        self.cells = cells
        self.configured = peer.state.status & peer_state.CONFIGURED
        self.drops = table.drops(row)
        self.owed = 0
        self.row = row
        self.table = table
        self.tallies = table.tallies
        self.tally = self.tallies["conns"]
        self.total = self.tally.total
        self.weight = peer.weight
        self.heard_ms = peer_state.NEVER_MS
        self.watch = None

    @property
    def is_dropped(self) -> bool:
        """Whether it was removed from its group, or marked down, since the peer came to be."""
        return self.table.drops(self.row) != self.drops

    def columns(self, choices: Sequence[Choice]) -> Columns | None:
        """Return what reads the states of peers of this zone in one go."""
        return self.table.columns(choices)

    def note_withdrawal(self) -> None:
        """Have all workers look at their sessions."""
        self.table.count_withdrawal()

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
        try:
            self.cells[EFFECTIVE] = value
        except ValueError:
            self.cells[EFFECTIVE] = 0


def _cell(place: int) -> property:
    def get(state: ZonePeerState) -> int:
        return state.cells[place]

    def put(state: ZonePeerState, value: int) -> None:
        try:
            state.cells[place] = value
        except ValueError:  # reckoned from nonsense that another process has written
            state.cells[place] = 0

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
