"""Making checks: which worker makes which one when, and what becomes of the results.

1. A worker checks the targets of the shards that it has the lease of, each when it is due. It
   keeps them in a heap, which it makes anew when its leases or the group's peers have changed.
2. A check that begins is due again after its timeout and its interval, whatever becomes of it; who
   takes over from a worker that was killed sees by that what was under way, and begins it soon.
3. No more than MOST checks are under way in a worker at once, nor more than a part of its
   connections, and no more than BURST of a check begin in one turn.
4. First checks are made at once; the second ones are spread over the interval.
5. Checks end when another configuration has taken over, and when the worker leaves.
"""

from __future__ import annotations

import functools
import heapq
import random
import socket
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet, log
from ngxstream.event import connect, probing
from ngxstream.modules.health import agent
from ngxstream.modules.health.group import peers_of, row_of
from ngxstream.stream import health
from ngxstream.wire import agent as wire_agent
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ngxstream.core.inet import SockAddr
    from ngxstream.event.loop import Loop
    from ngxstream.event.probing import Outcome
    from ngxstream.event.timers import Timer
    from ngxstream.modules.health.conf import Check
    from ngxstream.modules.health.group import Group
    from ngxstream.stream.upstream import Peer

DGRAM: Final = int(socket.SOCK_DGRAM)
MOST: Final = 1024  # checks under way in a worker
PART: Final = 4  # they take no more than this part of worker_connections
BURST: Final = 16  # that begin in one turn: some 2 ms
LOOK_MS: Final = 500  # at least so often it is seen whose lease is over, and which peers there are
TURN_MS: Final = 2  # before more begin, when some are late
WAIT_MS: Final = 10  # else: some begin together
SOON_MS: Final = 1000  # in which checks are begun that others have left
LEASE_MS: Final = 3000
NAMES: Final = {health.UP: "healthy", health.UNHEALTHY: "unhealthy"}


class Checkers:
    """The checks of one worker: `loop.get(Checkers)`."""

    __slots__ = ("_groups", "_loop", "_running", "most", "under_way")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._running: list[Checker] = []
        self._groups: Sequence[Group] = ()
        self.most = max(1, min(MOST, loop.connections // PART))
        self.under_way = 0

    def start(self, groups: Sequence[Group]) -> None:
        """Begin; those of a former configuration end."""
        self._end()
        self._groups = groups
        for group in groups:
            group.settle(self._loop.now_ms)
        self._running = [
            Checker(self, self._loop, group, n)
            for group in groups for n in range(len(group.checks))
        ]

    def stop(self, groups: Sequence[Group]) -> None:
        """End, unless others have begun."""
        if self._groups is groups:
            self._end()

    def _end(self) -> None:
        for one in self._running:
            one.stop()
        self._running = []


class Checker:
    """What one worker does of one check."""

    __slots__ = (
        "_all", "_check", "_group", "_heap", "_holder", "_loop", "_peers", "_record", "_renewed",
        "_running", "_shards", "_tier", "_timer",
    )

    def __init__(self, checkers: Checkers, loop: Loop, group: Group, n: int) -> None:
        """Args: n: which check of the group"""
        self._all = checkers
        self._loop = loop
        self._group = group
        self._check = group.checks[n]
        self._record = group.records[n]
        self._holder = health.Holder(loop.pid, loop.worker, loop.workers, group.number)
        self._shards: frozenset[int] = frozenset()
        self._heap: list[tuple[int, int]] = []  # (due, row) of the targets that are ours
        self._peers: dict[int, Peer] = {}  # by row: who they are
        self._running: dict[int, health.Probe] = {}  # by row
        self._tier: object = None  # the one that the peers are of
        self._renewed = -LOOK_MS
        self._timer: Timer | None = None
        self._arm(1)

    def _arm(self, delay_ms: int) -> None:
        self._timer = self._loop.call_later(max(delay_ms, 1), self.on_timer, cancelable=True)

    def on_fault(self) -> None:
        """Go on after an exception nobody expected."""
        if self._timer is None and not self._loop.exiting:
            self._arm(LOOK_MS)

    def stop(self) -> None:
        """Leave the checks to other workers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for row in list(self._running):
            self._cancel(row)
        self._record.release(self._holder)

    def on_timer(self) -> None:
        """Begin what is due, and say when to look again."""
        self._timer = None
        loop = self._loop
        if loop.exiting or self._group.is_superseded:
            self.stop()
            return
        now = loop.now_ms
        if now - self._renewed >= LOOK_MS:
            self._renew(now)
        begun = 0
        heap, everybody = self._heap, self._all
        while heap and heap[0][0] <= now and begun < BURST:
            if everybody.under_way >= everybody.most:
                break
            _, row = heapq.heappop(heap)
            if row in self._peers:
                self._begin(row, now)
                begun += 1
        wait = LOOK_MS - (now - self._renewed)
        if heap:
            late = heap[0][0] <= now and everybody.under_way < everybody.most
            wait = TURN_MS if late else min(wait, max(heap[0][0] - now, WAIT_MS))
        self._arm(wait)

    def _renew(self, now: int) -> None:
        """Extend the leases, and see which peers there are."""
        self._renewed = now
        balancer: Any = self._group.upstream.balancer
        catch_up = getattr(balancer, "catch_up", None)  # of one whose peers may change
        if catch_up is not None:
            catch_up()
        shards = self._record.renew(self._holder, now, now + LEASE_MS)
        tier = balancer.tier
        if shards == self._shards and tier is self._tier:
            return
        fresh = shards - self._shards
        before = self._peers
        self._shards, self._tier = shards, tier
        group = self._group
        ours = {
            row: peer for peer in peers_of(group.upstream)
            if (row := row_of(peer)) % health.SHARDS in shards
        }
        self._peers = {
            row: peer for row, peer in ours.items()
            if group.adopt(peer, now) and self._check.can_ask(peer)
        }
        for row, peer in before.items():
            if row % health.SHARDS in shards and row not in ours:
                group.forget(row)
            present = self._peers.get(row)
            if row in self._running and (present is None or present.name != peer.name):
                self._cancel(row)
        spec = self._check.spec
        latest = now + spec.interval + spec.jitter
        heap = []
        for row in self._peers.keys() - self._running.keys():
            cells = self._record.target(row)
            due = cells[health.DUE]
            if due > latest:  # who had it has died meanwhile, or had another interval
                due = now + random.randrange(min(spec.interval, SOON_MS))
            if row % health.SHARDS in fresh and cells[health.STATE] == health.CHECKING:
                due = 0  # nobody uses it before
            heap.append((due, row))
        heapq.heapify(heap)
        self._heap = heap
        if group.fail_open:
            group.look(now, self._loop.log)

    def _cancel(self, row: int) -> None:
        self._running.pop(row).cancel()
        self._all.under_way -= 1

    def _begin(self, row: int, now: int) -> None:
        """Begin the check of a target."""
        check, spec = self._check, self._check.spec
        cells = self._record.target(row)
        after = spec.interval + (random.randrange(spec.jitter + 1) if spec.jitter else 0)
        if not cells[health.LAST]:
            after = random.randrange(spec.interval) + 1
        timeout = check.server.health.timeout
        cells[health.DUE] = now + timeout + after
        done = functools.partial(self._done, row, after, now)
        target = target_of(check, self._peers[row])
        running = self._running[row] = check.probe(self._loop, target, timeout, done)
        self._all.under_way += 1
        running.begin()

    def _done(self, row: int, after: int, begun_ms: int, outcome: Outcome) -> None:
        del self._running[row]
        self._all.under_way -= 1
        group = self._group
        if group.is_superseded:
            return
        now = self._loop.now_ms
        due = now + after
        cells = self._record.target(row)
        cells[health.DUE] = due
        heapq.heappush(self._heap, (due, row))
        peer = self._peers[row]
        if outcome.passed is None:
            self._say(log.ERR, f"health check could not be made: {outcome.text}", peer)
            return
        self._count(now - begun_ms)
        if self._check.spec.agent:
            self._hear(peer, cells, outcome)
            return
        if outcome.ends_s is not None:
            cells[health.ENDS] = outcome.ends_s
        with self._record.zone.lock:
            result = health.note(cells, self._check.spec.rule, outcome.passed)
        if result.before == result.after:
            return
        if not group.fail_open:  # else nobody is barred before it is seen how many there are
            group.tell(peer, now)
        if result.turned or result.after == health.UNHEALTHY:
            level = log.NOTICE if result.after == health.UP else log.WARN
            why = "" if result.after == health.UP else f": {outcome.text}"
            self._say(level, f"peer is {NAMES[result.after]}{why}", peer)
        if group.fail_open:
            group.look(now, self._loop.log)

    def _count(self, took_ms: int) -> None:
        """Count how long a check took."""
        block = self._group.counted.get(self._check.spec.text)
        if block is not None and block.at:
            cells = self._loop.cells
            cells[block.at + bisect_left(health.CHECK_MS.bounds, took_ms)] += 1
            cells[block.at + block.width - 1] += took_ms

    def _hear(self, peer: Peer, cells: memoryview[int], outcome: Outcome) -> None:
        """Take what an agent says, or that it was not heard."""
        group, now = self._group, self._loop.now_ms
        if not outcome.passed:
            with self._record.zone.lock:
                is_new = agent.miss(cells)
            if is_new:
                self._say(log.WARN, f"agent is not heard, what it said last holds: {outcome.text}",
                          peer)
            return
        with self._record.zone.lock:
            news = agent.hear(cells, wire_agent.parse(wire_agent.line_of(outcome.received)), now)
        if not news.words:
            return
        group.tell(peer, now)
        level = log.NOTICE if news.is_state else log.INFO
        self._say(log.WARN if news.is_bad else level, news.words, peer)
        if group.fail_open:
            group.look(now, self._loop.log)

    def _say(self, level: int, text: str, peer: Peer) -> None:
        spec = self._check.spec
        words = f' "{spec.text}"' if spec.text else ""
        self._loop.log.error(
            level, f"{text}, health check{words} of peer {peer.name} "
            f'in upstream "{self._group.upstream.name}"',
        )


def target_of(check: Check, peer: Peer) -> probing.Target:
    """Return where a check of a peer goes, and what comes before it."""
    spec, proxy = check.spec, check.server.proxy
    sockaddr: Any = peer.sockaddr
    name = peer.name
    port = spec.agent or spec.port
    if port and isinstance(sockaddr, tuple):
        sockaddr = (sockaddr[0], port, *sockaddr[2:])
        name = f"{name.rpartition(':')[0]}:{port}"
    header = b""
    if spec.agent:
        return probing.Target(peer.family, sockaddr, name, connect.STREAM, b"", proxy.options,
                              _local(proxy.bind, peer.family))
    if spec.proxy_protocol or (proxy.proxy_protocol and not spec.udp):
        if proxy.proxy_protocol == 1 and not spec.udp:
            header = proxy_protocol.build_v1("", "")
        else:
            header = proxy_protocol.build_v2("", "")  # LOCAL
    return probing.Target(
        peer.family, sockaddr, name, DGRAM if spec.udp else connect.STREAM, header,
        proxy.options, _local(proxy.bind, peer.family),
        check.secure and check.secure.towards(peer.server),
    )


def _local(bind: Any, family: int) -> SockAddr | None:
    """Return what `proxy_bind` has a check bind to: an address of ours, any port; None for none."""
    found = None if bind.transparent else bind.sockaddr
    if not isinstance(found, tuple) or inet.family_of(found) != family:
        return None
    return (found[0], 0, *found[2:])
