"""least_time: the server that is expected to be done first, by its average times and its sessions.

Answers for ngx_stream_upstream_least_time_module.c.

1. Averages are exponential, in whole milliseconds, and learn from successful attempts only.
2. With `inflight` the sessions that still wait for the event that is measured count as well: a
   peer that lets them wait longer than its average is judged by the wait.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors
from ngxstream.stream import round_robin, upstream, upstream_block
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.round_robin import Tier
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer, UpstreamConf, UpstreamState

MODES: Final = {"connect": "connect_ms", "first_byte": "first_byte_ms", "last_byte": "response_ms"}

WORST_MS: Final = 5000  # all peers slower than this are equally bad
BUCKET_MS: Final = 20  # averages this close take turns


def average(old: int, value: int) -> int:
    """Move an average towards a value. source: ngx_stream_upstream_response_time_avg"""
    return int(0.5 + value * 0.05 + old * 0.95) if old else value


class LeastTimeSelection(round_robin.RoundRobinSelection):
    """Choose by the expected time, round robin among equals."""

    __slots__ = ("waiting",)

    def __init__(self, s: Session, tier: Tier) -> None:
        super().__init__(s, tier)
        self.waiting: Peer | None = None  # whose inflight count this session is in

    def get(self) -> Peer:
        """Choose a peer and count the session on it. raises: NoLivePeers"""
        peer = super().get()
        if self.tier.aid.inflight:
            stats = peer.stats
            now = self.s.loop.now_ms
            waiting = stats.waiting
            if waiting:
                stats.waited_ms += (now - stats.changed_ms) * waiting
            stats.changed_ms = now
            stats.waiting = waiting + 1
            self.waiting = peer
        return peer

    def pick(self, now: int) -> Peer | None:
        """Choose among the peers of this tier. source: ngx_stream_upstream_get_least_time_peer"""
        tried = self.tried
        now_ms = self.s.loop.now_ms
        mode: Mode = self.tier.aid
        best: Peer | None = None
        least = weight = 0
        equals: list[tuple[int, Peer]] = []
        bit = 1
        for peer in self.tier.peers:
            if not tried & bit and round_robin.is_eligible(peer, now):
                stats = peer.stats
                waiting = stats.waiting
                if waiting:
                    wait = stats.waited_ms // waiting + now_ms - stats.changed_ms
                    stats.inflight_ms = average(stats.inflight_ms, wait)
                expected = mode.expected(peer, now)
                mine, theirs = expected * weight, least * peer.weight
                if best is None or mine < theirs:
                    best, least, weight = peer, expected, peer.weight
                    equals = [(bit, peer)]
                elif mine == theirs:
                    equals.append((bit, peer))
            bit <<= 1
        if len(equals) > 1:
            return self.take_turn(equals, now)
        if best is not None:
            self.take(best, equals[0][0], now)
        return best

    def notify(self, peer: Peer, event: int) -> None:
        """Learn what is measured as soon as it is known, when inflight sessions count.

        source: ngx_stream_upstream_least_time_notify
        """
        mode: Mode = self.tier.aid
        if mode.inflight and event == mode.event:
            states = self.s.states
            state = states[-1] if states else None
            if state is not None:
                elapsed = getattr(state, mode.field)
                if elapsed < 0:
                    elapsed = self.s.loop.now_ms - state.start_ms
                stats = peer.stats
                setattr(stats, mode.field, average(getattr(stats, mode.field), elapsed))
                if self.waiting is peer:
                    self.stop_waiting(elapsed)
        super().notify(peer, event)

    def stop_waiting(self, elapsed: int) -> None:
        """Take this session out of the inflight ones.

        source: ngx_stream_upstream_least_time_inflight_done
        """
        peer = self.waiting
        assert peer is not None
        self.waiting = None
        stats = peer.stats
        waiting = stats.waiting
        if waiting <= 1:
            stats.waited_ms = 0
        else:
            now = self.s.loop.now_ms
            # never below zero: a session that ends as a failure may have waited less than it says
            waited = stats.waited_ms + (now - stats.changed_ms) * waiting - elapsed
            stats.waited_ms = max(waited, 0)
            stats.changed_ms = now
        stats.waiting = max(waiting - 1, 0)

    def free(self, peer: Peer, failed: bool, state: UpstreamState | None = None) -> None:
        """Give a peer back, and learn from an attempt that went well.

        source: ngx_stream_upstream_free_least_time_peer
        """
        if state is not None:
            session_ms = state.session_ms
            if session_ms < 0:
                session_ms = self.s.loop.now_ms - state.start_ms
        else:
            session_ms = 0
        if self.waiting is peer:
            self.stop_waiting(session_ms)
        if not failed and state is not None:
            mode: Mode = self.tier.aid
            stats = peer.stats
            stats.response_ms = average(stats.response_ms, session_ms)
            learnt = mode.event if mode.inflight else 0
            if state.connect_ms >= 0 and learnt != upstream.CONNECT:
                stats.connect_ms = average(stats.connect_ms, state.connect_ms)
            if state.first_byte_ms >= 0 and learnt != upstream.FIRST_BYTE:
                stats.first_byte_ms = average(stats.first_byte_ms, state.first_byte_ms)
        super().free(peer, failed, state)


    def leave(self, peer: Peer) -> None:
        """Give a peer back for a session that goes on elsewhere; it waits for nothing here."""
        if self.waiting is peer:
            self.stop_waiting(0)
        super().leave(peer)


class LockedLeastTimeSelection(round_robin.Locked, LeastTimeSelection):
    """least_time over peers in shared memory."""

    __slots__ = ()

    def leave(self, peer: Peer) -> None:
        """Give a peer back; what changes more than a count is done under the lock."""
        if self.waiting is peer:
            with self.tier.lock:  # type: ignore[union-attr]
                self.stop_waiting(0)
        super().leave(peer)

    learns: ClassVar[bool] = True


EVENTS: Final = {"connect": upstream.CONNECT, "first_byte": upstream.FIRST_BYTE, "last_byte": 0}


class Mode:
    """What is measured. shape: field is a slot of upstream.PeerStats; event is notified of, or 0"""

    __slots__ = ("field", "event", "inflight")

    def __init__(self, name: str, inflight: bool) -> None:
        self.field = MODES[name]
        self.event = EVENTS[name]
        self.inflight = inflight

    def expected(self, peer: Peer, now: int) -> int:
        """Return the milliseconds a peer needs for its sessions and one more.

        shape: now is in milliseconds, whole seconds
        source: ngx_stream_upstream_least_time_eta
        """
        stats = peer.stats
        ms: int = getattr(stats, self.field)
        fail_timeout = peer.fail_timeout
        idle = (now - peer.checked_ms) // 1000
        if idle > fail_timeout:
            ms >>= idle // (fail_timeout + 1)  # a slow peer gets another chance after a while
        if stats.waiting:
            ms = max(ms, stats.inflight_ms)
        ms = WORST_MS if ms > WORST_MS else ms + BUCKET_MS - ms % BUCKET_MS
        return ms * (1 + peer.conns)


class LeastTime(round_robin.RoundRobin):
    """The balancer. source: ngx_stream_upstream_init_least_time"""

    __slots__ = ("mode",)

    plain = LeastTimeSelection
    locked = LockedLeastTimeSelection

    def __init__(self, mode: Mode, tier: Tier) -> None:
        self.mode = mode
        super().__init__(tier)

    def prepare(self, tier: Tier) -> None:
        """Give every peer its averages."""
        tier.aid = self.mode
        for peer in tier.peers:
            if peer.stats is None:
                peer.stats = upstream.PeerStats()


def make(mode: Mode, conf: UpstreamConf) -> LeastTime:
    """Make the balancer of a complete upstream. raises: ConfError"""
    return LeastTime(mode, round_robin.make_tier(conf))


_set_mode = d.enum("mode", {name: name for name in MODES})


def _least_time(scope: Scope, module: Module, st: Statement) -> None:
    conf = upstream_block.set_method(scope, upstream.MAY_ALL)
    given = scope.given_of(module)
    if len(st.args) == 2:
        if st.args[1] != "inflight":
            raise errors.ConfError(f'invalid parameter "{st.args[1]}"')
        given["inflight"] = True
    _set_mode(scope, module, st)
    conf.method = functools.partial(make, Mode(given["mode"], given.get("inflight", False)))


MODULE = StreamModule(
    name="least_time",
    directives=(
        Directive("least_time", UPSTREAM, d.TAKE12, _least_time,
                  "Balance by the least average time until the connection stands, the first or the "
                  "last byte arrives, and by sessions and weight.",
                  syntax="connect | first_byte | last_byte [inflight]"),
    ),
)
