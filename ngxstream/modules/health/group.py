"""A group of servers that is checked: what all its checks together say of its peers.

1. A peer's row of the zone is also its row in the record of each check. A record's row says by a
   number which peer it is about; another peer that is given the row begins anew.
2. Whether a peer is barred stands in its shared status, under the lock of its zone; all workers
   see it at their next choice.
3. A configuration begins with what the one before has found: the first of its workers settles what
   becomes of that, so one that is refused has changed nothing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import log
from ngxstream.core.clock import monotonic_ms
from ngxstream.modules.health import agent
from ngxstream.modules.health.agent import Effect
from ngxstream.stream import health, peer_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ngxstream.core.facts import Block
    from ngxstream.core.log import Log
    from ngxstream.modules.health.conf import Check
    from ngxstream.stream.round_robin import Tier
    from ngxstream.stream.upstream import Peer, UpstreamConf

_FORGOTTEN: Final[Mapping[int, tuple[int, ...]]] = {}


def peers_of(upstream: UpstreamConf) -> Iterator[Peer]:
    """Yield the peers of a group, backups too."""
    assert upstream.balancer is not None
    tier: Tier | None = upstream.balancer.tier
    while tier is not None:
        yield from tier.peers
        tier = tier.backup


def row_of(peer: Peer) -> int:
    """Return the row of a peer in its zone."""
    row: int = peer.state.row  # type: ignore[attr-defined]
    return row


def number_of(peer: Peer) -> int:
    """Return a number that tells a peer from another one that has its row later."""
    name = f"{peer.server}\0{peer.name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little", signed=True) | 1


def clear(upstream: UpstreamConf) -> None:
    """Have no check and no agent bar the peers of a group: there are none any more."""
    assert upstream.balancer is not None
    changed = [peer for peer in peers_of(upstream) if _effect_on(peer) != agent.NONE]
    if changed:
        now_ms = monotonic_ms()
        with upstream.balancer.tier.lock:
            for peer in changed:
                _put(peer, agent.NONE, now_ms)


def _effect_on(peer: Peer) -> Effect:
    """Return what checks and agents have made of a peer."""
    state = peer.state
    return Effect(state.status & health.BITS, state.share, state.most_conns)


def _put(peer: Peer, wanted: Effect, now_ms: int) -> None:
    """Have the state of a peer be what checks and agents say. Under the lock of its zone."""
    state = peer.state
    bits, state.share, state.most_conns = wanted
    status = state.status
    before = status & health.BITS
    if before != bits:
        state.status = status ^ before | bits
    if bits & ~before & peer_state.UNHEALTHY:
        state.note_withdrawal()
    if bits & health.BAD:
        state.lose(now_ms)
    elif before & health.BAD:
        back_ms = state.back_ms
        if not state.fails >= peer.max_fails > 0:  # else it is that which it is lost by
            state.regain(now_ms)
        # who comes from its first check begins with its weight, as after a start
        state.back_ms = now_ms if before & peer_state.UNHEALTHY else back_ms
    if before & health.AWAY and not bits & health.AWAY:
        state.back_ms = now_ms


class Group:
    """The checks of one group. See the head of this file."""

    __slots__ = (
        "by_agents", "checks", "counted", "fail_open", "former", "number", "records", "upstream"
    )

    def __init__(self, upstream: UpstreamConf, checks: Sequence[Check]) -> None:
        self.upstream = upstream
        self.checks = tuple(checks)
        self.records: list[health.Record] = []  # of the checks, in their order
        self.former: list[Mapping[int, tuple[int, ...]]] = []  # what is known, of another size
        self.number = 0  # of the configuration
        self.by_agents = any(one.spec.agent for one in checks)
        self.counted: dict[str, Block] = {}  # how long checks took, by their parameters
        given = [one.spec.fail_open for one in checks if one.spec.fail_open]
        self.fail_open = min(given, default=0)

    def take(self, record: health.Record, former: health.Record | None) -> None:
        """Take the record of the next check. Args: former: one of another size, to begin with"""
        self.records.append(record)
        self.former.append(_FORGOTTEN if former is None else former.by_peer())

    # -- what a configuration begins with ------------------------------------------------------

    def know(self, n: int, found: Mapping[int, tuple[int, ...]]) -> None:
        """Begin with what another process has found by a check, where nothing is known here.

        Before any worker settles.
        """
        self.former[n] = found

    def settle(self, now_ms: int) -> None:
        """Decide what the states of the configuration before become, once for all workers."""
        first = self.records[0]
        with first.zone.lock:
            if first.own[health.SETTLED] == self.number:
                return
            for peer in peers_of(self.upstream):
                row, number = row_of(peer), number_of(peer)
                for check, record, known in zip(
                    self.checks, self.records, self.former, strict=True
                ):
                    cells = record.target(row)
                    before = known.get(number)
                    if before is not None and cells[health.PEER] != number:
                        for n, value in enumerate(before):
                            cells[n] = value
                    rule = check.spec.rule
                    if cells[health.PEER] != number or not rule.mandatory:  # as no agent is
                        continue
                    was_up = cells[health.STATE] == health.UP
                    if not rule.persistent or cells[health.STATE] == health.NEW:
                        health.count_from(cells, rule, was_up=was_up)
            for record in self.records:
                record.own[health.SETTLED] = self.number
        for peer in peers_of(self.upstream):
            self.adopt(peer, now_ms)
        self.apply(now_ms)

    @property
    def is_superseded(self) -> bool:
        """Whether another configuration has taken over."""
        return self.records[0].own[health.SETTLED] != self.number

    # -- peers that come and go ----------------------------------------------------------------

    def adopt(self, peer: Peer, now_ms: int) -> bool:
        """Have the rows of a peer be about it. Returns: whether it is to be checked

        # hot: of each peer whenever one has changed
        """
        row, number = row_of(peer), number_of(peer)
        is_off = bool(peer.state.status & peer_state.DOWN)
        changed = False
        for check, record in zip(self.checks, self.records, strict=True):
            cells = record.target(row)
            is_other = cells[health.PEER] != number
            if not is_other and (
                check.spec.agent or (cells[health.STATE] == health.OFF) == is_off
            ):
                continue
            changed = True
            with record.zone.lock:
                if is_other:
                    for n in range(health.CELLS):
                        cells[n] = 0
                    cells[health.PEER] = number
                if check.spec.agent:
                    agent.begin(cells)
                elif is_off:
                    cells[health.STATE] = health.OFF
                else:
                    health.count_from(cells, check.spec.rule, was_up=False)
        if changed:
            self.tell(peer, now_ms)
        return not is_off

    def forget(self, row: int) -> None:
        """Have a row be about nobody: its peer was removed."""
        for record in self.records:
            record.target(row)[health.PEER] = 0

    # -- what checks say of a peer -------------------------------------------------------------

    def effect(self, peer: Peer) -> Effect:
        """Return what all checks and agents say of a peer.

        One that is `down` awaits its first check already, where that is mandatory: it may be back
        before somebody looks.
        """
        row = row_of(peer)
        states = [record.target(row)[health.STATE] for record in self.records]
        for n, check in enumerate(self.checks):
            if states[n] == health.OFF and check.spec.rule.mandatory:
                states[n] = health.CHECKING
        bits = health.barring(states)
        if not self.by_agents:
            return Effect(bits)
        by_agents = agent.effect((cells for _, cells in self._agents_of(row)), peer.weight)
        return by_agents._replace(bits=by_agents.bits | bits)

    def _agents_of(self, row: int) -> Iterator[tuple[str, memoryview[int]]]:
        for check, record in zip(self.checks, self.records, strict=True):
            if check.spec.agent:
                yield check.spec.text, record.target(row)

    def tell(self, peer: Peer, now_ms: int) -> None:
        """Bar a peer, or not, by what is known now."""
        if self.fail_open and self.records[0].own[health.OPEN]:
            return  # apply() looks at all of them
        assert self.upstream.balancer is not None
        wanted = self.effect(peer)
        if wanted == agent.NONE == _effect_on(peer):
            return
        with self.upstream.balancer.tier.lock:
            _put(peer, wanted, now_ms)

    def apply(self, now_ms: int) -> str:
        """Bar the peers that checks speak against, but none while too many are unhealthy.

        Returns: what the log is to say, "" for nothing
        """
        assert self.upstream.balancer is not None
        found = [(peer, self.effect(peer)) for peer in peers_of(self.upstream)
                 if not peer.state.status & peer_state.DOWN]
        bad = sum(bool(wanted.bits & peer_state.UNHEALTHY) for _, wanted in found)
        is_open = bool(self.fail_open) and bad * 100 > len(found) * self.fail_open
        own = self.records[0].own
        with self.records[0].zone.lock:
            was_open, own[health.OPEN] = own[health.OPEN], is_open
        with self.upstream.balancer.tier.lock:
            left_out = ~peer_state.UNHEALTHY if is_open else ~0
            for peer, said in found:
                wanted = said._replace(bits=said.bits & left_out)
                if not wanted == agent.NONE == _effect_on(peer):
                    _put(peer, wanted, now_ms)
        if bool(was_open) == is_open:
            return ""
        how = "all are used" if is_open else "they are left out again"
        return (
            f'{bad} of {len(found)} servers of upstream "{self.upstream.name}" are unhealthy: {how}'
        )

    @property
    def is_open(self) -> bool:
        """Whether all peers are used, though checks speak against most of them."""
        return bool(self.records and self.records[0].own[health.OPEN])

    def look(self, now_ms: int, to: Log) -> None:
        """Apply, and say in the log when that opens the group or closes it."""
        said = self.apply(now_ms)
        if said:
            to.error(log.ALERT if self.is_open else log.NOTICE, said)

    # -- what is shown -------------------------------------------------------------------------

    def report(self, peer: Peer) -> health.Report:
        """Return what the checks have found of a peer. See health.Health"""
        row: Any = getattr(peer.state, "row", None)
        if row is None:
            return health.NOTHING
        number = number_of(peer)
        checks = fails = unhealthy = 0
        passed: bool | None = None
        for check, record in zip(self.checks, self.records, strict=True):
            cells = record.target(row)
            if cells[health.PEER] != number or check.spec.agent:
                continue
            checks += cells[health.CHECKS]
            fails += cells[health.FAILED]
            unhealthy += cells[health.TURNED]
            if cells[health.LAST]:
                passed = passed is not False and cells[health.LAST] == health.PASSED
        return health.Report(checks, fails, unhealthy, passed)

    def times(self) -> Iterator[tuple[str, list[int]]]:
        """Yield how long the checks have taken. See health.Health"""
        for text, block in self.counted.items():
            yield text, block.totals()

    def reset_times(self) -> None:
        """Have the histograms begin at 0. See health.Health"""
        for block in self.counted.values():
            block.reset(0)

    def agents(self, peer: Peer, now_ms: int) -> list[dict[str, Any]]:
        """Return what agents have said of a peer. See health.Health"""
        row, number = getattr(peer.state, "row", None), number_of(peer)
        if row is None or not self.by_agents:
            return []
        return [agent.spelled(cells, text, now_ms) for text, cells in self._agents_of(row)
                if cells[health.PEER] == number]

    def blame(self, peer: Peer) -> str:
        """Return why a peer is unhealthy, if an agent says so. See health.Health"""
        found = (agent.blame(cells) for _, cells in self._agents_of(row_of(peer)))
        return next(filter(None, found), "")

    def certificates(self) -> Iterator[tuple[str, int]]:
        """Yield the peers that have shown a certificate, and when it ends to be valid: POSIX s."""
        for peer in peers_of(self.upstream):
            row, number = row_of(peer), number_of(peer)
            cells = [record.target(row) for record in self.records]
            ends = [one[health.ENDS] for one in cells
                    if one[health.PEER] == number and one[health.ENDS]]
            if ends:
                yield peer.name, min(ends)

    def reset(self, row: int) -> None:
        """Have the counters of a row begin at 0. See health.Health"""
        for record in self.records:
            with record.zone.lock:
                cells = record.target(row)
                cells[health.CHECKS] = cells[health.FAILED] = cells[health.TURNED] = 0
