"""The health of peers: what checks have found, in memory that all workers share, and who checks.

1. A check is one `health_check`, a target one peer under it. What is known of a target is a row of
   cells: its state by this check, counters, and when it is due. They are changed under the zone's
   lock, and a row outlives reloads as its peer's does.
2. A peer is barred by UNHEALTHY while any check says so, else by CHECKING while any check awaits
   its first result (peer_state.py). More than one check: all have to be content.
3. The targets of a check are dealt into SHARDS, and a shard is checked by the worker that has its
   lease. A lease runs out by itself: that of a killed worker is taken by another one. Those of a
   former configuration are taken at once.

State of a target, by one check:
  NEW        not looked at yet: used, unless `mandatory`
  CHECKING   `mandatory` and not looked at yet        passed → UP, failed → UNHEALTHY
  UP                                                  failed `fails` times in a row → UNHEALTHY
  UNHEALTHY                                           passed `passes` times in a row → UP
  OFF        its server is `down`: left alone; afterwards it begins anew

Source: ngx_stream_upstream_hc_module of NGINX Plus as documented
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ngxstream.core.facts import Fact
from ngxstream.stream import peer_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ngxstream.core import shm
    from ngxstream.event.loop import Loop
    from ngxstream.event.probing import Outcome, Target
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.upstream import Peer

# States of a target.
NEW: Final = 0
CHECKING: Final = 1
UP: Final = 2
UNHEALTHY: Final = 3
OFF: Final = 4

# Cells of a target.
STATE: Final = 0
DUE: Final = 1  # when it is to be checked next: loop ms (CLOCK_MONOTONIC), 0 for at once
FAILS: Final = 2  # in a row
PASSES: Final = 3  # in a row
CHECKS: Final = 4  # in all
FAILED: Final = 5  # in all
TURNED: Final = 6  # how often it became unhealthy
LAST: Final = 7  # of the last check: 0 for none, MISSED or PASSED
PEER: Final = 8  # which peer the row was about: a number that a row given to another changes
ENDS: Final = 9  # when the certificate of the server ends to be valid: POSIX s, 0 for none seen
CELLS: Final = 10

# Values of LAST.
MISSED: Final = 1
PASSED: Final = 2

SHARDS: Final = 16
LONGEST_MS: Final = 60_000  # a lease is never longer: more is what a stranger wrote
_LEASE: Final = 3  # cells of a shard: until when (loop ms), of which process, which configuration
_WORKERS: Final = 256  # cells that say until when a worker is there; more workers share them

BAD: Final = peer_state.UNHEALTHY | peer_state.CHECKING  # what checks say of a peer
AWAY: Final = peer_state.AGENT_DRAIN | peer_state.AGENT_MAINT  # what an agent says besides
BITS: Final = BAD | AWAY | peer_state.AGENT_LIMITED  # those of a status that both decide

CHECK_MS: Final = Fact(
    "check_ms", "health_check of a group", "Milliseconds that a check took, be it well or not.",
    bounds=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000),
)


class Rule(NamedTuple):
    """When the state of a target changes."""

    fails: int = 1
    passes: int = 1
    mandatory: bool = False
    persistent: bool = False


class Result(NamedTuple):
    """What a check did to a target: `before` and `after` are states."""

    before: int
    after: int

    @property
    def turned(self) -> bool:
        """Whether it can be used now and could not before, or the other way about."""
        return (self.before == UNHEALTHY) != (self.after == UNHEALTHY) or (
            self.before == CHECKING and self.after == UP
        )


def initial(rule: Rule, was_up: bool) -> int:
    """Return the state of a target before its first check.

    Args: was_up: it was healthy under the configuration before this one
    """
    if not rule.mandatory or (rule.persistent and was_up):
        return UP if was_up else NEW
    return CHECKING


def note(cells: memoryview[int], rule: Rule, passed: bool) -> Result:
    """Take down the result of a check. Under the zone's lock."""
    before = cells[STATE]
    cells[CHECKS] += 1
    after = before
    if passed:
        cells[LAST] = PASSED
        cells[FAILS] = 0
        cells[PASSES] += 1
        if before != UNHEALTHY or cells[PASSES] >= rule.passes:
            after = UP
    else:
        cells[LAST] = MISSED
        cells[PASSES] = 0
        cells[FAILED] += 1
        cells[FAILS] += 1
        if before == CHECKING or cells[FAILS] >= rule.fails:
            after = UNHEALTHY
    if after == UNHEALTHY != before:
        cells[TURNED] += 1
    cells[STATE] = after
    return Result(before, after)


def count_from(cells: memoryview[int], rule: Rule, *, was_up: bool) -> None:
    """Have a target begin anew, and be due at once; its counters go on. Under the lock."""
    cells[STATE] = initial(rule, was_up)
    cells[DUE] = cells[FAILS] = cells[PASSES] = cells[LAST] = 0


def barring(states: Iterable[int]) -> int:
    """Return the bits of a peer's status that its states under all checks amount to."""
    found = set(states)
    if UNHEALTHY in found:
        return peer_state.UNHEALTHY
    return peer_state.CHECKING if CHECKING in found else 0


class Report(NamedTuple):
    """What the checks of a peer have come to, all together. Args: passed: None before the first"""

    checks: int = 0
    fails: int = 0
    unhealthy: int = 0
    passed: bool | None = None

    def plus(self, other: Report) -> Report:
        """Return what both together have come to."""
        known = [one for one in (self.passed, other.passed) if one is not None]
        return Report(
            self.checks + other.checks, self.fails + other.fails,
            self.unhealthy + other.unhealthy, all(known) if known else None,
        )


NOTHING: Final = Report()


PROBERS: Final = "health_probers"  # in builder.data: called with (scope, statement, word)


class Probe(Protocol):
    """One probe under way, as event/probing.py has them."""

    def begin(self) -> None:
        """Begin."""

    def cancel(self) -> None:
        """Let go of it."""


class Prober(Protocol):
    """Makes the probes of one check, in place of a dialogue: a function that the check names."""

    def make(self, loop: Loop, server: ServerConf, target: Target, timeout_ms: int,
             done: Callable[[Outcome], None], /) -> Probe:
        """Make a probe; the caller begins it. Args: done: called once, in a later turn"""


class Health(Protocol):
    """What checks know of a group: `UpstreamConf.health`."""

    by_agents: bool  # whether agents are asked, too

    def report(self, peer: Peer) -> Report:
        """Return what they have found of a peer."""

    def reset(self, row: int) -> None:
        """Have the counters of a row begin at 0."""

    def reset_times(self) -> None:
        """Have the histograms begin at 0. Raises: one of shm.DAMAGE"""

    def times(self) -> Iterator[tuple[str, list[int]]]:
        """Yield the parameters of each check, and the cells of CHECK_MS of it."""

    def agents(self, peer: Peer, now_ms: int) -> list[dict[str, Any]]:
        """Return what agents have said of a peer, as the API shows it."""

    def blame(self, peer: Peer) -> str:
        """Return why a peer is unhealthy, if an agent says so; "" for none."""


class Record:
    """What one check knows, in memory that forks share: targets by row, and the leases."""

    __slots__ = ("capacity", "own", "width", "zone", "_leases", "_rows", "_there")

    def __init__(self, zone: shm.Zone, capacity: int, width: int = CELLS) -> None:
        """Args: capacity: rows; memory is used where they are; width: cells of a row, of which the
        first CELLS are those above. Raises: OSError
        """
        self.zone = zone
        self.capacity = capacity
        self.width = width
        self.own = zone.ints(2)  # SETTLED, OPEN
        self._rows = zone.ints(capacity * width)
        self._leases = zone.ints(SHARDS * _LEASE)
        self._there = zone.ints(_WORKERS)

    def target(self, row: int) -> memoryview[int]:
        """Return the cells of a target."""
        return self._rows[row * self.width : (row + 1) * self.width]

    def by_peer(self) -> dict[int, tuple[int, ...]]:
        """Return what is known of every target, by the number of its peer."""
        numbers = self._rows[PEER :: self.width].tolist()
        return {number: tuple(self.target(row)) for row, number in enumerate(numbers) if number}

    def renew(self, who: Holder, now_ms: int, until_ms: int) -> frozenset[int]:
        """Extend the leases that a worker has, and take free ones up to its share of all.

        Returns: the shards that it may check until then
        """
        leases, pid, configuration = self._leases, who.pid, who.configuration
        latest = now_ms + LONGEST_MS
        with self.zone.lock:
            self._there[who.worker % _WORKERS] = until_ms
            there = self._there[: min(who.workers, _WORKERS)].tolist()
            number = sum(now_ms < ends <= latest for ends in there)
            most = -(-SHARDS // max(number, 1))
            own = [
                n for n in range(SHARDS)
                if leases[n * _LEASE + 1] == pid and leases[n * _LEASE + 2] == configuration
            ]
            for n in own[most:]:  # there are more workers now
                leases[n * _LEASE] = 0
                leases[n * _LEASE + 1] = 0
            own = own[:most]
            for n in range(SHARDS):
                if len(own) >= most:
                    break
                ends = leases[n * _LEASE]
                is_free = not now_ms < ends <= latest or leases[n * _LEASE + 2] < configuration
                if is_free and n not in own:
                    own.append(n)
            for n in own:
                leases[n * _LEASE] = until_ms
                leases[n * _LEASE + 1] = pid
                leases[n * _LEASE + 2] = configuration
        return frozenset(own)

    def release(self, who: Holder) -> None:
        """Give up the leases of a worker, which leaves."""
        leases = self._leases
        with self.zone.lock:
            for n in range(SHARDS):
                if leases[n * _LEASE + 1] == who.pid:
                    leases[n * _LEASE] = 0
                    leases[n * _LEASE + 1] = 0
            if self.own[SETTLED] == who.configuration:  # else another worker has the number by now
                self._there[who.worker % _WORKERS] = 0


# Cells of a record.
SETTLED: Final = 0  # the configuration that its targets' states are of
OPEN: Final = 1  # whether all peers are used, though checks speak against them: `fail_open`


class Holder(NamedTuple):
    """Who may have a lease. Args: worker: of how many `workers`; configuration: its number"""

    pid: int
    worker: int
    workers: int
    configuration: int
