"""The addresses of an upstream's names, in memory that all workers share, and their resolution.

Answers for ngx_stream_upstream_zone_resolve_timer and ngx_stream_upstream_zone_resolve_handler
(ngx_stream_upstream_zone_module.c).

1. The addresses of a name are in memory that all workers and the next configuration share, with a
   number that counts the changes.
2. A name is asked for once, however many workers there are. Each of them looks from time to time
   whether it is due; the first that finds it so claims it for as long as a lookup may take. A
   worker that dies leaves nothing but a claim that runs out.
3. A lookup that fails changes nothing: the last addresses stay in use, and so do those of a
   service's target that could not be looked up while the service still names it.
4. A name that does not exist, or has no addresses, takes its addresses away, as in nginx: an
   address whose name is gone may be another tenant's by now. `resolver … hold_nx=TIME` keeps them
   for that long after the first such answer.
"""

from __future__ import annotations

import mmap
import socket
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ngxstream.core import errors, inet, log, shm
from ngxstream.ipc import codec
from ngxstream.ipc.codec import Field
from ngxstream.stream import upstream
from ngxstream.stream.upstream import Peer
from ngxstream.wire import dns

if TYPE_CHECKING:
    from ngxstream.core.log import Log
    from ngxstream.event.loop import Loop
    from ngxstream.event.resolver import Address, Answer, Service, Waiter
    from ngxstream.event.timers import Timer
    from ngxstream.modules.upstream.zone import PeerTable
    from ngxstream.stream.resolver_conf import ResolverConf
    from ngxstream.stream.upstream import ServerSpec, UpstreamConf

HALF: Final = 1 << 16  # bytes that the addresses of a name may take: some 1700 addresses
STAGGER_MS: Final = 100  # between the workers' looks at the time
SPARE_MS: Final = 1000  # added to the time an answer holds. Source: nginx

# Cells of a record.
VERSION: Final = 0  # counts the changes; its lowest bit tells which half is read
DUE: Final = 1  # when it is to be asked for next: CLOCK_MONOTONIC ms
CLAIMED: Final = 2  # until when somebody is asking
SIZES: Final = 3  # of the two halves
TRIED: Final = 5  # 1 when a lookup has come to an end, well or not
CELLS: Final = 6

_FAMILIES: Final = {4: inet.AF_INET, 16: inet.AF_INET6}  # by the bytes of an address
_ENTRY: Final = codec.Record(
    "entry",
    Field(1, "address", codec.Bytes(16)),
    Field(2, "port", codec.Int(0, 65_535), 0),
    Field(3, "weight", codec.Int(1, 65_535), 1),
    Field(4, "backup", codec.BOOL, False),
    Field(5, "server", codec.Text(1024), ""),
    Field(6, "row", codec.UINT),
    Field(7, "denied_ms", codec.UINT, 0),
)
_ENTRIES: Final = codec.List(codec.Bytes(HALF), HALF)


class Group(Protocol):
    """What a name belongs to."""

    conf: UpstreamConf
    resolver: ResolverConf
    table: PeerTable
    log: Log | None  # of the worker

    def look(self) -> None:
        """A lookup has come to an end."""


class Entry(NamedTuple):
    """One address of a name.

    port, weight and server are a service's, else 0, 1 and ""; row is the zone's; denied_ms is when
    a DNS server first answered that its name does not exist (CLOCK_MONOTONIC), 0 for never.
    """

    family: int
    host: str
    port: int
    weight: int
    backup: bool
    server: str
    row: int
    denied_ms: int = 0


class Record:
    """The addresses of one name, in memory that forks share; use it under the zone's lock.

    Written in two halves by turns: a worker that dies while it writes leaves the other half.
    Workers of another user can write it too: what they spoil reads as no addresses.
    """

    __slots__ = ("cells", "configuration", "_memory", "_rows")

    def __init__(self, zone: shm.Zone, rows: int) -> None:
        """Make a record without addresses. Args: rows: how many the zone has"""
        self.cells = zone.ints(CELLS)
        self.configuration = 0  # the last one that had it; the master's
        self._memory = mmap.mmap(-1, 2 * HALF)
        self._rows = rows

    def read(self) -> list[Entry]:
        """Return the addresses, in the order in which they came."""
        half = self.cells[VERSION] & 1
        size = self.cells[SIZES + half]
        if not 0 < size <= HALF:
            return []
        try:
            found = _ENTRIES.decode(self._memory[half * HALF : half * HALF + size])
            return [self._entry(data) for data in found]
        except codec.CodecError:
            return []

    def _entry(self, data: bytes) -> Entry:
        address, port, weight, backup, server, row, denied_ms = _ENTRY.decode(data)
        family = _FAMILIES.get(len(address))
        if family is None or row >= self._rows:
            raise codec.CodecError("no address, or no row of the zone")
        host = socket.inet_ntop(family, address)
        return Entry(family, host, port, weight, backup, server, row, denied_ms)

    def write(self, entries: list[Entry]) -> None:
        """Replace the addresses; what does not fit is left out."""
        packed = [
            _ENTRY.encode((socket.inet_pton(one.family, one.host), *one[2:])) for one in entries
        ]
        while len(data := _ENTRIES.encode(packed)) > HALF:
            packed = packed[: len(packed) * 9 // 10]
        version = (self.cells[VERSION] + 1) & 0xFFFF_FFFF
        half = version & 1
        self._memory[half * HALF : half * HALF + len(data)] = data
        self.cells[SIZES + half] = len(data)
        self.cells[VERSION] = version


def by_origin(*tables: dict[str, Record]) -> dict[str, Record]:
    """Return the first record of every origin. Args: tables: by Name.key, the nearest first"""
    found: dict[str, Record] = {}
    for table in tables:
        for key, record in table.items():
            found.setdefault(key.rsplit("\0", 3)[0], record)
    return found


class Name:
    """One server line with `resolve`, in one process."""

    __slots__ = (
        "group",  # Group
        "spec",  # ServerSpec
        "key",  # str: what its record and its rows are known by
        "record",
        "loop",
        "timer",
        "lookup",  # resolver.Waiter | resolver.Service | None: under way
        "claimed",  # bool: by this process
    )

    record: Record
    loop: Loop

    def __init__(self, group: Group, spec: ServerSpec, ordinal: int) -> None:
        self.group = group
        self.spec = spec
        self.key = f"{self.origin}\0{spec.port}\0{spec.backup:d}\0{ordinal}"
        self.timer: Timer | None = None
        self.lookup: Waiter | Service | None = None
        self.claimed = False

    @property
    def origin(self) -> str:
        """Whose answers may serve this name too. Source: ngx_stream_upstream_zone_preresolve"""
        spec = self.spec
        return f"{self.group.conf.name.lower()}\0{spec.resolve.lower()}\0{spec.service}"

    # -- what it stands for --------------------------------------------------------------------

    def share(self, models: dict[str, Record]) -> None:
        """Find or make the record, before the fork, and add it to the models by origin."""
        table = self.group.table
        records = table.names
        record = records.get(self.key)
        if record is None:
            record = Record(table.zone, table.capacity)
            model = models.setdefault(self.origin, record)
            if model is not record:
                record.cells[DUE] = model.cells[DUE]
                record.write([one._replace(row=0) for one in model.read()])
            records[self.key] = record
        self.record = record
        entries = record.read()
        if entries:
            attached = self.attach(entries)
            if attached != entries:
                with table.zone.lock:
                    record.write(attached)
        else:
            record.cells[DUE] = 0

    def attach(self, entries: list[Entry]) -> list[Entry]:
        """Give each address a row of the zone, and drop those there is no room for."""
        attached = []
        for (_, nth), entry in _numbered(entries).items():
            plain = self.plain_peer(entry)
            key = f"{self.key}\0{plain.server}\0{plain.name}" + (f"\0{nth}" if nth else "")
            try:
                state = self.group.table.attach(
                    plain, key.encode("utf-8", "surrogateescape"), pin=True
                )
            except errors.UnplacedError:
                self.log_error(
                    f'cannot add new server to upstream "{self.group.conf.name}", memory exhausted'
                )
                break
            attached.append(entry._replace(row=state.row))
        return attached

    def plain_peer(self, entry: Entry) -> Peer:
        """Return what line and address together say of a peer."""
        spec = self.spec
        port = entry.port if spec.service else spec.port
        sockaddr: inet.SockAddr = (
            (entry.host, port) if entry.family == inet.AF_INET else (entry.host, port, 0, 0)
        )
        name = inet.sock_ntop(sockaddr)
        if not spec.service:
            return Peer(spec, entry.family, sockaddr, name)
        weight = entry.weight if spec.weight == 1 else spec.weight
        return Peer(spec, entry.family, sockaddr, name, entry.server, weight)

    # -- asking --------------------------------------------------------------------------------

    def start(self, loop: Loop) -> None:
        """Begin to look at the time. Source: ngx_stream_upstream_zone_init_worker"""
        self.loop = loop
        self.arm(self.record.cells[DUE])

    def arm(self, when_ms: int) -> None:
        """Look at the time then; the workers one after the other."""
        loop = self.loop
        delay = max(1, when_ms - loop.now_ms) + loop.worker * STAGGER_MS
        self.timer = loop.call_later(delay, self.on_timer, cancelable=True)

    def on_timer(self) -> None:
        """Ask, if it is time and nobody else does."""
        self.timer = None
        loop, cells = self.loop, self.record.cells
        if loop.exiting:
            return
        now = loop.now_ms
        timeout = self.group.conf.resolver_timeout
        with self.group.table.zone.lock:
            when = max(cells[DUE], cells[CLAIMED])
            if when <= now:
                cells[CLAIMED] = now + timeout + SPARE_MS
                self.claimed = True
        if not self.claimed:
            self.arm(when)
            return
        resolver = self.group.resolver.on(loop)
        spec = self.spec
        lookup: Waiter | Service
        if spec.service:
            lookup = resolver.lookup_service(spec.service, spec.resolve, timeout, self.on_answer)
        else:
            lookup = resolver.lookup(spec.resolve, timeout, self.on_answer)
        if self.claimed:  # else the answer was there at once
            self.lookup = lookup

    def on_answer(self, answer: Answer) -> None:
        """Publish what was found. Source: ngx_stream_upstream_zone_resolve_handler"""
        self.lookup = None
        spec, now = self.spec, self.loop.now_ms
        retry_ms = max(self.group.conf.resolver_timeout, 1000)
        next_ms = max(answer.valid_ms - now, 0) + SPARE_MS
        for target, code in answer.failed:
            self.log_error(
                f"{target} could not be resolved ({code}: {dns.strerror(code)}) "
                f"while resolving service {spec.service} of {spec.resolve}"
            )
        if answer.code:
            what = f"service {spec.service} of {spec.resolve}" if spec.service else spec.resolve
            self.log_error(
                f"{what} could not be resolved ({answer.code}: {dns.strerror(answer.code)})"
            )
        if answer.code in (0, dns.NXDOMAIN):
            held_ms = self.publish(answer)
            if held_ms:
                next_ms = min(next_ms, max(held_ms, SPARE_MS))
            if any(code != dns.NXDOMAIN for _, code in answer.failed):
                next_ms = min(next_ms, retry_ms)
        else:
            next_ms = retry_ms
        self.record.cells[TRIED] = 1
        self.free_claim(now + next_ms)
        self.arm(now + next_ms)

    def on_fault(self) -> None:
        """Ask again after a while: something went wrong that nobody expected."""
        self.lookup = None
        retry_ms = self.loop.now_ms + max(self.group.conf.resolver_timeout, 1000)
        if self.timer is None:
            self.arm(retry_ms)
        if self.claimed:
            self.free_claim(retry_ms)

    def publish(self, answer: Answer) -> int:
        """Record the addresses of now: what stays keeps its place and its row.

        Returns: for how many ms more an address is held whose name does not exist
        """
        with self.group.table.zone.lock:
            before = self.record.read()
        found = _numbered(self.entries(answer.addresses))
        unknown = {target for target, code in answer.failed if code != dns.NXDOMAIN}
        denied = {target for target, code in answer.failed if code == dns.NXDOMAIN}
        now, hold_ms = self.loop.now_ms, self.group.resolver.hold_nx_ms
        left_ms = 0
        after = []
        for key, entry in _numbered(before).items():
            known = found.pop(key, None)
            if known is not None:
                after.append(known._replace(row=entry.row))
            elif entry.server and entry.server in unknown:
                after.append(entry)
            elif entry.server in denied or (answer.code and not answer.failed):
                since_ms = entry.denied_ms or now
                if now - since_ms < hold_ms:
                    after.append(entry._replace(denied_ms=since_ms))
                    left_ms = max(left_ms, since_ms + hold_ms - now)
        after.extend(found.values())
        if after == before:
            return left_ms
        after = self.attach(after)
        with self.group.table.zone.lock:
            self.record.write(after)
        for row in {entry.row for entry in before} - {entry.row for entry in after}:
            self.group.table.release(row)
        return left_ms

    def entries(self, addresses: tuple[Address, ...]) -> list[Entry]:
        """Make entries; records of a service's lowest priority are primaries, others backups."""
        if not self.spec.service:
            return [Entry(found.family, found.host, 0, 1, False, "", -1) for found in addresses]
        lowest = min((found.priority for found in addresses), default=0)
        may_backup = not self.spec.backup and self.group.conf.may & upstream.MAY_BACKUP
        return [
            Entry(found.family, found.host, found.port, found.weight, found.priority != lowest,
                  found.name, -1)
            for found in addresses
            if found.priority == lowest or may_backup
        ]

    def free_claim(self, due_ms: int) -> None:
        """Let the other workers look again from then on."""
        self.claimed = False
        with self.group.table.zone.lock:
            self.record.cells[DUE] = due_ms
            self.record.cells[CLAIMED] = 0
        self.group.look()

    def stop(self) -> None:
        """Ask no more; what is claimed is another worker's to ask."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.lookup is not None:
            self.lookup.cancel()
            self.lookup = None
        if self.claimed:
            self.free_claim(self.loop.now_ms)

    def log_error(self, text: str) -> None:
        """Write an error_log line."""
        target = self.group.log
        if target is not None and target.level >= log.ERR:
            target.write(log.ERR, text)


def _numbered(entries: list[Entry]) -> dict[tuple[object, int], Entry]:
    """Tell entries that look alike by their order: two records of one address are two servers."""
    count: Counter[object] = Counter()
    numbered: dict[tuple[object, int], Entry] = {}
    for entry in entries:
        identity = (entry.family, entry.host, entry.port, entry.backup, entry.server)
        numbered[identity, count[identity]] = entry
        count[identity] += 1
    return numbered
