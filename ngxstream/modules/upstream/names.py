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

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from ngxstream.core import errors, inet, log
from ngxstream.modules.upstream.records import (
    BASE,
    CLAIMED,
    DUE,
    OWNER,
    TRIED,
    VERSION,
    Entry,
    Record,
    digest,
)
from ngxstream.stream import upstream
from ngxstream.stream.upstream import Peer
from ngxstream.wire import dns

if TYPE_CHECKING:
    from ngxstream.core.log import Log
    from ngxstream.event.loop import Loop
    from ngxstream.event.resolver import Address, Answer, Service, Waiter
    from ngxstream.event.timers import Timer
    from ngxstream.modules.upstream.peer_table import PeerTable
    from ngxstream.stream.resolver_conf import ResolverConf
    from ngxstream.stream.upstream import ServerSpec, UpstreamConf

STAGGER_MS: Final = 100  # between the workers' looks at the time
SPARE_MS: Final = 1000  # added to the time an answer holds. Source: nginx


class Group(Protocol):
    """What a name belongs to."""

    conf: UpstreamConf
    table: PeerTable
    log: Log | None  # of the worker

    @property
    def resolver(self) -> ResolverConf:
        """Who is asked."""

    def spec_of(self, spec: ServerSpec, row: int, address: str) -> ServerSpec:
        """Return what holds for an address of a line, which may differ from the line."""

    def look(self) -> None:
        """A lookup has come to an end."""


class Name:
    """One server line with `resolve`, in one process."""

    __slots__ = (
        "group",  # Group
        "spec",  # ServerSpec
        "key",  # str: what its record and its rows are known by
        "owner",  # int: what its record says of whose it is
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
        self.owner = digest(self.key)
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
            record.cells[OWNER] = self.owner
            records[self.key] = record
        elif record.cells[OWNER] != self.owner:  # its line was removed at run time
            record.give(self.owner)
        self.record = record
        entries = record.read()
        if entries:
            attached = self.attach(entries)
            if attached != entries:
                with table.zone.lock:
                    record.write(attached)
        else:
            record.cells[DUE] = 0

    def read(self) -> list[Entry]:
        """Return its addresses, none when the record has become another's. Under the lock."""
        return self.record.read() if self.record.cells[OWNER] == self.owner else []

    def is_answered(self) -> bool:
        """Tell whether there ever was an answer."""
        return self.record.cells[VERSION] != self.record.cells[BASE]

    def attach(self, entries: list[Entry]) -> list[Entry]:
        """Give each address a row of the zone, and drop those there is no room for."""
        attached = []
        for (_, nth), entry in _numbered(entries).items():
            plain = self.plain_peer(entry)
            key = f"{self.key}\0{plain.server}\0{plain.name}" + (f"\0{nth}" if nth else "")
            try:
                state = self.group.table.attach(
                    plain, key.encode("utf-8", "surrogateescape"), pin=True,
                    newcomer=self.group.conf.newcomer,
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
        spec = self.group.spec_of(spec, entry.row, name)
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
            before = self.read()
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
            if self.record.cells[OWNER] == self.owner:
                self.record.write(after)
            else:  # the line is gone
                before, after = after, []
            for row in {entry.row for entry in before} - {entry.row for entry in after}:
                self.group.table.release(row, self.group.conf.name)
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
