"""Zones: memory that all workers share, made by the master before it forks (ngx_shmem.c,
ngx_cycle.c, ngx_slab.c).

A worker can die by SIGKILL between any two instructions, and what it held must come back. Two
things see to that, and neither asks the dead for help:

1. The lock is a record lock of fcntl(2) on a file without a name. The kernel owns it: it goes
   when its holder goes. Locks of this kind belong to a process, so a fork starts without any.
   (1.5 µs for a pair of lock and unlock; flock(2) is 0.9 but belongs to the open file, which a
   fork shares: workers would not exclude each other.)
2. Counters that say what is in use now (connections of a peer, sessions of a key) are kept per
   owner: each process has a column of its own and is the only one to write there, so adding needs
   no lock, and the total is the sum. When the master has reaped a process, `reclaim(pid)` empties
   its column. Process ids name owners: a pid is not given anew before its process is reaped.

Plain cells (`Zone.ints`, `Zone.floats`) are for what may be slightly wrong after a crash: weights,
failure counts, averages. A cell is 8 bytes and aligned, so it is never seen half written.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from ngxstream.core import errors

PAGE: Final = mmap.PAGESIZE
LEAST: Final = 8 * PAGE  # no zone may be smaller. source: ngx_stream_limit_conn_zone
OWNERS: Final = 256  # processes that may hold something in one zone at a time

UNIT: Final = 64  # bytes; what nginx's slab spends on a state with a short key
WORDS: Final = UNIT // 8
INLINE: Final = UNIT - 24  # bytes of the key in the first unit
FURTHER: Final = UNIT - 8  # bytes of the key in each further one
MAX_KEY: Final = 255
# Every process that counts a key has a record; records beyond a key's first are not charged to the
# zone's size, so the memory behind it is larger. It costs nothing until it is touched.
SPARE: Final = 4


class Lock:
    """A lock between processes that its holder's death releases. Not reentrant, not for threads."""

    __slots__ = ("fd",)

    def __init__(self, name: str) -> None:
        """shape: name is what lsof shows."""
        self.fd = -1  # there may be no descriptor left
        self.fd = os.memfd_create(name[:200].partition("\0")[0], os.MFD_CLOEXEC)

    def __enter__(self) -> None:
        """Wait for the lock."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *exc: object) -> None:
        """Let go."""
        fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the descriptor back; the other processes' stay."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        """Give it back when nobody can ask for the lock any more."""
        self.close()


class Zone:
    """One named piece of shared memory with its lock.

    The master makes the zone and its parts; a worker only uses what it inherited. `data` is for
    the module that owns the zone and stays with it when a new configuration adopts it.
    """

    __slots__ = (
        "name",     # str
        "size",     # int: bytes, as configured
        "tag",      # str: name of the module it belongs to
        "lock",     # Lock
        "data",     # Any: what the owner module built upon it
        "_owners",  # memoryview "q"[OWNERS + 1]: pids; the last cell is how far it was ever used
        "_pid",     # int: the process that has claimed the next slot's place; forks differ
        "_column",  # int: its place among the owners
        "_parts",   # list of everything that can be reclaimed
    )

    def __init__(self, name: str, size: int, tag: str) -> None:
        """shape: size in bytes; it bounds tables of keys, cells come on top."""
        self.name = name
        self.size = size
        self.tag = tag
        self.lock = Lock(f"zone {name}")
        self.data: Any = None
        self._owners = self.ints(OWNERS + 1)
        self._pid = 0
        self._column = -1
        self._parts: list[Tally | KeyTable] = []

    def ints(self, count: int) -> memoryview[int]:
        """Return so many shared 64-bit cells (format "q"), all 0."""
        return memoryview(mmap.mmap(-1, max(count, 1) * 8)).cast("q")[:count]

    def floats(self, count: int) -> memoryview[float]:
        """Return so many shared doubles (format "d"), all 0.0."""
        return memoryview(mmap.mmap(-1, max(count, 1) * 8)).cast("d")[:count]

    def tally(self, rows: int) -> Tally:
        """Make counters, one for each row, that survive the death of who counted."""
        part = Tally(self, rows)
        self._parts.append(part)
        return part

    def key_table(self) -> KeyTable:
        """Make counters by key, as many as the zone's size allows."""
        part = KeyTable(self)
        self._parts.append(part)
        return part

    @property
    def column(self) -> int:
        """The place of this process among the owners; it is claimed when first asked for.

        raises: InternalError when OWNERS processes hold places
        """
        pid = os.getpid()
        if pid != self._pid:  # at first, and in a child whose parent has counted
            with self.lock:
                owners = self._owners
                free = -1
                for n in range(owners[OWNERS]):
                    if owners[n] == pid:
                        free = n
                        break
                    if owners[n] == 0 and free < 0:
                        free = n
                if free < 0:
                    free = owners[OWNERS]
                    if free >= OWNERS:
                        raise errors.InternalError(
                            f'too many processes use shared memory zone "{self.name}"'
                        )
                    owners[OWNERS] = free + 1
                owners[free] = pid
            self._column = free
            self._pid = pid
        return self._column

    @property
    def columns(self) -> int:
        """How many columns were ever in use: sums need not look beyond."""
        return self._owners[OWNERS]

    def reclaim(self, pid: int) -> None:
        """Give back whatever a dead process held. For the master, once it has reaped it."""
        with self.lock:
            owners = self._owners
            for n in range(owners[OWNERS]):
                if owners[n] == pid:
                    for part in self._parts:
                        part.reclaim(n)
                    owners[n] = 0

    def close(self) -> None:
        """Let go of the zone in this process; the memory goes with its last user."""
        self.lock.close()
        self._parts.clear()
        self.data = None


class Tally:
    """Counters of what is in use, one row each; every process has a column of its own.

    Adding takes no lock. A check that must not be overtaken (is the total below the limit, then
    add) is made under `zone.lock`.
    """

    __slots__ = ("zone", "rows", "_cells")

    def __init__(self, zone: Zone, rows: int) -> None:
        """shape: rows is fixed; all totals are 0."""
        self.zone = zone
        self.rows = rows
        self._cells = zone.ints(rows * OWNERS)

    def add(self, row: int, amount: int = 1) -> None:
        """Count in this process's name; a negative amount gives back."""
        self._cells[row * OWNERS + self.zone.column] += amount

    def total(self, row: int) -> int:
        """Return the sum over all processes."""
        start = row * OWNERS
        return sum(self._cells[start:start + self.zone.columns])

    def own(self, row: int) -> int:
        """Return what this process has counted."""
        return self._cells[row * OWNERS + self.zone.column]

    def clear(self, row: int) -> None:
        """Forget a row in every process's name: it will count something else."""
        start = row * OWNERS
        for n in range(start, start + OWNERS):
            self._cells[n] = 0

    def reclaim(self, column: int) -> None:
        """Empty the column of a dead process."""
        for n in range(column, self.rows * OWNERS, OWNERS):
            self._cells[n] = 0


class KeyTable:
    """Counters by key, of bounded number: what limit_conn needs.

    A record counts one key in one process's name; the total of a key is the sum of its records,
    which are neighbours in one chain. Everything below happens under the zone's lock, and a record
    is complete before one store links it, so a crash can at worst lose records to no chain at all:
    `reclaim` builds chains and free list anew from the records that count something.

    A record is one unit of 64 bytes, or more for keys over 40 bytes:
      word 0   next in the chain (or in the free list), 0 for none
      word 1   count << 8 | length of the key
      word 2   column << 32 | number of the first further unit, 0 for none
      then     the key; a further unit begins with the number of the next one
    """

    __slots__ = ("zone", "capacity", "_words", "_bytes", "_heads", "_mask", "_state", "_units")

    # cells of _state
    _FREE: Final = 0     # first unit of the free list
    _FRESH: Final = 1    # first unit never used
    _CHARGED: Final = 2  # units that count against the zone's size

    def __init__(self, zone: Zone) -> None:
        """shape: capacity in units follows from the zone's size."""
        self.zone = zone
        # nginx's slab keeps 24 bytes about each page, and a page for itself and the tree
        self.capacity = max(1, (zone.size // (PAGE + 24) - 1) * (PAGE // UNIT))
        self._units = self.capacity * SPARE + 1  # unit 0 is nobody's: 0 means none
        memory = mmap.mmap(-1, self._units * UNIT)
        self._bytes = memory
        self._words = memoryview(memory).cast("q")
        self._mask = (1 << self.capacity.bit_length()) - 1
        self._heads = zone.ints(self._mask + 1)
        self._state = zone.ints(3)
        self._state[self._FRESH] = 1

    def acquire(self, key: bytes, limit: int) -> bool | None:
        """Count one more of a key unless it stands at the limit already.

        shape: key is 1 to 255 bytes; returns True when counted, False at the limit, None when the
        zone is full
        source: ngx_stream_limit_conn_module.c ngx_stream_limit_conn_handler
        """
        zone = self.zone
        column = zone.column
        head = hash(key) & self._mask  # every process is a fork of one: all hash alike
        with zone.lock:
            total = 0
            own = 0
            known = False
            words = self._words
            for unit in self._chain(head):
                base = unit * WORDS
                if self._key(unit) == key:
                    known = True
                    total += words[base + 1] >> 8
                    if words[base + 2] >> 32 == column:
                        own = unit
            if total >= limit:
                return False
            if own:
                words[own * WORDS + 1] += 256
                return True
            return True if self._insert(head, key, column, charge=not known) else None

    def release(self, key: bytes) -> None:
        """Give back one of a key that this process has acquired."""
        zone = self.zone
        column = zone.column
        head = hash(key) & self._mask
        with zone.lock:
            words = self._words
            before = 0
            same = 0
            found = 0
            link = 0
            for unit in self._chain(head):
                if self._key(unit) == key:
                    same += 1
                    if words[unit * WORDS + 2] >> 32 == column:
                        found, link = unit, before
                before = unit
            if not found:
                return
            words[found * WORDS + 1] -= 256
            if words[found * WORDS + 1] < 256:
                self._remove(head, link, found, uncharge=same == 1)

    def total(self, key: bytes) -> int:
        """Return the sum of a key's counts over all processes."""
        with self.zone.lock:
            return sum(
                self._words[unit * WORDS + 1] >> 8
                for unit in self._chain(hash(key) & self._mask)
                if self._key(unit) == key
            )

    def __len__(self) -> int:
        """Return how many keys count something."""
        with self.zone.lock:
            heads = range(self._mask + 1)
            return sum(len({self._key(unit) for unit in self._chain(head)}) for head in heads)

    def reclaim(self, column: int) -> None:
        """Drop the records of a dead process; the caller holds the lock.

        shape: one pass over all units ever used; chains, free list and charge are made anew
        """
        words = self._words
        heads = self._heads
        kept: list[tuple[int, bytes]] = []
        for head in range(self._mask + 1):
            for unit in self._chain(head):
                base = unit * WORDS
                if words[base + 1] >= 256 and words[base + 2] >> 32 != column:
                    kept.append((unit, self._key(unit)))
            heads[head] = 0
        used: set[int] = set()
        charged = 0
        charged_keys: set[bytes] = set()
        for unit, key in kept:
            mine = self._units_of(unit)
            used.update(mine)
            if key not in charged_keys:
                charged_keys.add(key)
                charged += len(mine)
            head = hash(key) & self._mask
            words[unit * WORDS] = heads[head]
            heads[head] = unit
        free = 0
        for unit in range(self._state[self._FRESH] - 1, 0, -1):
            if unit not in used:
                words[unit * WORDS] = free
                free = unit
        self._state[self._FREE] = free
        self._state[self._CHARGED] = charged

    # -- under the lock ------------------------------------------------------------------------

    def _chain(self, head: int) -> Iterator[int]:
        unit = self._heads[head]
        while unit:
            following = self._words[unit * WORDS]
            yield unit
            unit = following

    def _key(self, unit: int) -> bytes:
        length = self._words[unit * WORDS + 1] & 0xFF
        at = unit * UNIT + 24
        if length <= INLINE:
            return self._bytes[at:at + length]
        parts = [self._bytes[at:at + INLINE]]
        left = length - INLINE
        further = self._words[unit * WORDS + 2] & 0xFFFFFFFF
        while left > 0:
            at = further * UNIT + 8
            parts.append(self._bytes[at:at + min(left, FURTHER)])
            left -= FURTHER
            further = self._words[further * WORDS]
        return b"".join(parts)

    def _units_of(self, unit: int) -> list[int]:
        found = [unit]
        left = (self._words[unit * WORDS + 1] & 0xFF) - INLINE
        further = self._words[unit * WORDS + 2] & 0xFFFFFFFF
        while left > 0:
            found.append(further)
            left -= FURTHER
            further = self._words[further * WORDS]
        return found

    def _take(self) -> int:
        state = self._state
        unit: int = state[self._FREE]
        if unit:
            state[self._FREE] = self._words[unit * WORDS]
            return unit
        unit = state[self._FRESH]
        if unit >= self._units:
            return 0
        state[self._FRESH] = unit + 1
        return unit

    def _give(self, unit: int) -> None:
        self._words[unit * WORDS] = self._state[self._FREE]
        self._state[self._FREE] = unit

    def _insert(self, head: int, key: bytes, column: int, *, charge: bool) -> bool:
        need = 1 + max(0, -(-(len(key) - INLINE) // FURTHER))
        state = self._state
        if charge and state[self._CHARGED] + need > self.capacity:
            return False
        units: list[int] = []
        while len(units) < need:
            unit = self._take()
            if not unit:
                for taken in units:
                    self._give(taken)
                return False
            units.append(unit)
        words = self._words
        first = units[0]
        at = first * UNIT + 24
        self._bytes[at:at + min(len(key), INLINE)] = key[:INLINE]
        pos = INLINE
        for n, unit in enumerate(units[1:], 1):
            words[unit * WORDS] = units[n + 1] if n + 1 < need else 0
            piece = key[pos:pos + FURTHER]
            self._bytes[unit * UNIT + 8:unit * UNIT + 8 + len(piece)] = piece
            pos += FURTHER
        words[first * WORDS + 1] = 256 | len(key)
        words[first * WORDS + 2] = column << 32 | (units[1] if need > 1 else 0)
        words[first * WORDS] = self._heads[head]
        if charge:
            state[self._CHARGED] += need
        self._heads[head] = first  # only now can anybody see it
        return True

    def _remove(self, head: int, before: int, unit: int, *, uncharge: bool) -> None:
        words = self._words
        units = self._units_of(unit)
        if before:
            words[before * WORDS] = words[unit * WORDS]
        else:
            self._heads[head] = words[unit * WORDS]
        if uncharge:
            self._state[self._CHARGED] -= len(units)
        for one in units:
            self._give(one)


class Serial:
    """Numbers that no two workers give out: `$connection`.

    A process takes BLOCK numbers at a time, so a single worker counts 1, 2, 3 and several workers
    each count on in their own block. source: ngx_event_accept.c ngx_connection_counter
    """

    __slots__ = ("_cell", "_lock", "next")

    BLOCK: Final = 128

    def __init__(self) -> None:
        """shape: made by the master, which gives out no number itself before it forks."""
        self._cell = memoryview(mmap.mmap(-1, 8)).cast("q")
        self._lock = Lock("connection serial")
        # called: returns a number that was never returned before, in any process; all in C but
        # for the first of a block
        self.next: Callable[[], int] = itertools.chain.from_iterable(self._blocks()).__next__

    def _blocks(self) -> Iterator[range]:
        while True:
            with self._lock:
                first = self._cell[0] + 1
                self._cell[0] += self.BLOCK
            yield range(first, first + self.BLOCK)


Init = Callable[[Zone, bool], None]


class ZoneRequest:
    """What a configuration asks of one zone name.

    shape: size 0 until somebody has said it; `init(zone, fresh)` is called when the zone is there:
    fresh tells a new zone (build upon it, keep it in zone.data) from an adopted one
    """

    __slots__ = ("name", "size", "tag", "init", "no_reuse", "zone", "former")

    def __init__(self, name: str, size: int, tag: str) -> None:
        """shape: see ZoneTable.request."""
        self.name = name
        self.size = size
        self.tag = tag
        self.init: Init | None = None
        self.no_reuse = False
        self.zone: Zone | None = None
        self.former: Zone | None = None  # during init: the one of the old configuration


class ZoneTable:
    """The zones of one configuration. source: ngx_cycle.c ngx_shared_memory_add, ngx_init_cycle"""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        """Hold none yet."""
        self.requests: dict[str, ZoneRequest] = {}

    def request(self, name: str, size: int, tag: str) -> ZoneRequest:
        """Ask for a zone, or refer to one (size 0).

        shape: tag is the name of the module whose zone it is
        raises: ConfError where two requests do not fit together
        """
        known = self.requests.get(name)
        if known is None:
            known = self.requests[name] = ZoneRequest(name, size, tag)
            return known
        if known.tag != tag:
            raise errors.ConfError(
                f'the shared memory zone "{name}" is already declared for a different use'
            )
        if known.size == 0:
            known.size = size
        if size and size != known.size:
            raise errors.ConfError(
                f'the size {size} of shared memory zone "{name}" '
                f"conflicts with already declared size {known.size}"
            )
        return known

    def build(self, old: ZoneTable | None = None) -> None:
        """Make every zone, or adopt the old configuration's of the same name, size and owner.

        raises: UnplacedError; what an `init` raises passes through. Call close(keep=old) then.
        """
        for request in self.requests.values():
            if request.size == 0:
                raise errors.UnplacedError(f'zero size shared memory zone "{request.name}"')
            former = None if old is None or request.no_reuse else old.requests.get(request.name)
            zone = None if former is None else former.zone
            adopted = zone is not None and (zone.size, zone.tag) == (request.size, request.tag)
            if not adopted:
                try:
                    zone = Zone(request.name, request.size, request.tag)
                except OSError as error:
                    raise errors.UnplacedError(
                        f'shared memory zone "{request.name}" could not be made', errno=error
                    ) from None
            request.zone = zone
            if request.init is not None and zone is not None:
                request.former = None if former is None else former.zone
                try:
                    request.init(zone, not adopted)
                finally:
                    request.former = None

    def zones(self) -> Iterator[Zone]:
        """Iterate over the zones that are there."""
        for request in self.requests.values():
            if request.zone is not None:
                yield request.zone

    def reclaim(self, pid: int) -> None:
        """Give back what a dead process held, in every zone."""
        for zone in self.zones():
            zone.reclaim(pid)

    def close(self, keep: ZoneTable | None = None) -> None:
        """Let go of the zones that `keep` does not use too: an old or an abandoned table's."""
        kept = set() if keep is None else {id(zone) for zone in keep.zones()}
        for zone in self.zones():
            if id(zone) not in kept:
                zone.close()
