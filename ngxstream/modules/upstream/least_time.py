"""least_time: the server that is expected to be done first, by its average times and its sessions.

Answers for ngx_stream_upstream_least_time_module.c.

1. Averages are exponential, in whole milliseconds, and learn from successful attempts only.
2. With `inflight` the sessions that still wait for the event that is measured count as well: a
   peer that lets them wait longer than its average is measured by the wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import UPSTREAM, Directive
from ngxstream.core import errors
from ngxstream.stream import round_robin, upstream, upstream_block
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.round_robin import Choice, Tier
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer, UpstreamState

MODES: Final = {
    "connect": ("connect_ms", upstream.CONNECT),
    "first_byte": ("first_byte_ms", upstream.FIRST_BYTE),
    "last_byte": ("response_ms", 0),
}

WORST_MS: Final = 5000  # all peers slower than this are equally bad
BUCKET_MS: Final = 20  # averages this close take turns


def average(old: int, value: int) -> int:
    """Move an average towards a value. Source: ngx_stream_upstream_response_time_avg"""
    return int(0.5 + value * 0.05 + old * 0.95) if old else value


class LeastTimeSelection(round_robin.RoundRobinSelection):
    """Choose by the expected time, round robin among equals."""

    __slots__ = ("waiting",)

    method = "least time"
    learns = True

    def __init__(self, tier: Tier, s: Session) -> None:
        super().__init__(tier, s)
        self.waiting: Peer | None = None  # whose inflight count this session is in

    def get(self) -> Peer:
        """Choose a peer and count the session on it. Raises: NoLivePeers"""
        peer = super().get()
        if self.tier.aid.inflight:
            state = peer.state
            now = self.s.loop.now_ms
            waiting = state.waiting
            if waiting:
                state.waited_ms += (now - state.changed_ms) * waiting
            state.changed_ms = now
            state.waiting = waiting + 1
            self.waiting = peer
        return peer

    def pick(self, choices: Sequence[Choice], now: int) -> Peer | None:
        """Choose among usable peers. Source: ngx_stream_upstream_get_least_time_peer"""
        return self.take_least(choices, self._loads(choices, now, learn=True), now)

    def foresee_pick(self, choices: Sequence[Choice], now: int) -> list[Peer]:
        """Return what pick() would choose."""
        return self.foresee_least(choices, self._loads(choices, now, learn=False))

    def _loads(self, choices: Sequence[Choice], now: int, *, learn: bool) -> list[float]:
        """Return the load of each. Args: learn: keep what those who wait have told by now"""
        now_ms = self.s.loop.now_ms
        mode: Mode = self.tier.aid
        loads = []
        for _, peer, state in choices:
            waiting = state.waiting
            inflight_ms = 0
            if waiting:
                wait = state.waited_ms // waiting + now_ms - state.changed_ms
                inflight_ms = average(state.inflight_ms, wait)
                if learn:
                    state.inflight_ms = inflight_ms
            loads.append(mode.expected(peer, now, inflight_ms) / peer.weight)
        return loads

    def notify(self, peer: Peer, event: int) -> None:
        """With `inflight`, learn at once. Source: ngx_stream_upstream_least_time_notify"""
        mode: Mode = self.tier.aid
        if mode.inflight and event == mode.event:
            attempts = self.s.states
            attempt = attempts[-1] if attempts else None
            if attempt is not None:
                elapsed = getattr(attempt, mode.field)
                if elapsed < 0:
                    elapsed = self.s.loop.now_ms - attempt.start_ms
                state = peer.state
                setattr(state, mode.field, average(getattr(state, mode.field), elapsed))
                if self.waiting is peer:
                    self.stop_waiting(elapsed)
        super().notify(peer, event)

    def stop_waiting(self, elapsed: int) -> None:
        """Leave the inflight ones. Source: ngx_stream_upstream_least_time_inflight_done"""
        peer = self.waiting
        assert peer is not None
        self.waiting = None
        state = peer.state
        waiting = state.waiting
        if waiting <= 1:
            state.waited_ms = 0
        else:
            now = self.s.loop.now_ms
            # never below zero: a session that ends as a failure may have waited less than it says
            waited = state.waited_ms + (now - state.changed_ms) * waiting - elapsed
            state.waited_ms = max(waited, 0)
            state.changed_ms = now
        state.waiting = max(waiting - 1, 0)

    def free(self, peer: Peer, failed: bool, attempt: UpstreamState | None = None) -> None:
        """Free a peer, learn from a success. Source: ngx_stream_upstream_free_least_time_peer"""
        if attempt is not None:
            session_ms = attempt.session_ms
            if session_ms < 0:
                session_ms = self.s.loop.now_ms - attempt.start_ms
        else:
            session_ms = 0
        if self.waiting is peer:
            self.stop_waiting(session_ms)
        if not failed and attempt is not None:
            mode: Mode = self.tier.aid
            state = peer.state
            state.response_ms = average(state.response_ms, session_ms)
            learnt = mode.event if mode.inflight else 0
            if attempt.connect_ms >= 0 and learnt != upstream.CONNECT:
                state.connect_ms = average(state.connect_ms, attempt.connect_ms)
            if attempt.first_byte_ms >= 0 and learnt != upstream.FIRST_BYTE:
                state.first_byte_ms = average(state.first_byte_ms, attempt.first_byte_ms)
        super().free(peer, failed, attempt)

    def leave(self, peer: Peer) -> None:
        """Give a peer back for a session that goes on elsewhere; it waits for nothing here."""
        if self.waiting is peer:
            with self.tier.lock:
                self.stop_waiting(0)
        super().leave(peer)


class Mode:
    """What is measured: field is one of PeerState; event is notified of, or 0."""

    __slots__ = ("field", "event", "inflight")

    def __init__(self, name: str, inflight: bool) -> None:
        self.field, self.event = MODES[name]
        self.inflight = inflight

    def expected(self, peer: Peer, now: int, inflight_ms: int) -> int:
        """Estimate the ms of one more session. Args: inflight_ms: how long others wait, if any do

        Source: ngx_stream_upstream_least_time_eta
        """
        state = peer.state
        ms: int = getattr(state, self.field)
        fail_timeout = peer.fail_timeout
        idle = (now - state.checked_ms) // 1000
        if idle > fail_timeout:
            ms >>= idle // (fail_timeout + 1)  # a slow peer gets another chance after a while
        ms = max(ms, inflight_ms)
        ms = WORST_MS if ms > WORST_MS else ms + BUCKET_MS - ms % BUCKET_MS
        return ms * (1 + state.conns)


class LeastTime(round_robin.RoundRobin):
    """The balancer. Source: ngx_stream_upstream_init_least_time"""

    __slots__ = ("mode",)

    plain = LeastTimeSelection

    def __init__(self, mode: Mode, tier: Tier) -> None:
        self.mode = mode
        super().__init__(tier)

    def prepare(self, tier: Tier) -> None:
        """Keep what is measured."""
        tier.aid = self.mode


_set_mode = d.enum("mode", {name: name for name in MODES})


def _least_time(scope: Scope, module: Module, st: Statement) -> None:
    conf = upstream_block.set_method(scope, upstream.MAY_ALL)
    given = scope.given_of(module)
    if len(st.args) == 2:
        if st.args[1] != "inflight":
            raise errors.ConfError(f'invalid parameter "{st.args[1]}"')
        given["inflight"] = True
    _set_mode(scope, module, st)
    mode = Mode(given["mode"], given.get("inflight", False))
    conf.method = lambda conf: LeastTime(mode, round_robin.make_tier(conf))


MODULE = StreamModule(
    name="least_time",
    directives=(
        Directive("least_time", UPSTREAM, d.TAKE12, _least_time,
                  "Balance by the least average time until the connection stands, the first or the "
                  "last byte arrives, and by sessions and weight."),
    ),
)
