"""The state of a peer: the one declaration of which its plain and its shared form are made.

1. A field is declared once, below. The plain form has it as a slot; the shared form
   (modules/upstream/peer_table.py) has a cell, a count or a slot of the same name, by its kind.
2. Whether a peer may be used is asked of round_robin.usable() alone. `status` is 0 as long as
   nothing prevents its use: then nothing else has to be checked.
3. `fails` changes by fail(), succeed() and forgive() only, which keep `status` in step.
4. A peer is withdrawn when checks find it unhealthy, or when it `is_dropped`: removed from its
   group, or marked down. Whoever does either says so (`note_withdrawal`): its sessions may be
   looked at then (stream/withdrawals.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.clock import monotonic_ms

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

NEVER_MS: Final = -(1 << 53)  # before any time: CLOCK_MONOTONIC may begin near 0

# Bits of `status`.
DOWN: Final = 1  # its server line says so
DRAINING: Final = 2  # sessions it has go on, others do not begin
UNHEALTHY: Final = 4  # a check failed
CHECKING: Final = 8  # a check is awaited before it is used
FAILED: Final = 16  # `fails` is not 0: max_fails says whether that matters
LIMITED: Final = 32  # it has max_conns
AGENT_DRAIN: Final = 64  # its agent says that it is to get no new sessions, or that its weight is 0
AGENT_MAINT: Final = 128  # its agent says that it is out of service
AGENT_LIMITED: Final = 256  # its agent says how many sessions it may have: `most_conns`
# any of these: no new session
BARRED: Final = DOWN | DRAINING | UNHEALTHY | CHECKING | AGENT_DRAIN | AGENT_MAINT
CONFIGURED: Final = DOWN | DRAINING | LIMITED  # what its server line says

# Kinds of fields, where the form is shared. All others are cells, written under the zone's lock.
COUNT: Final = "count"  # of sessions, in the name of the worker that has them
OWN: Final = "own"  # not shared


def _field(default: int, kind: str) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind})


@dataclasses.dataclass(slots=True, eq=False)
class PeerState:
    """The state of a peer. Times are loop milliseconds (CLOCK_MONOTONIC).

    accessed_ms and checked_ms are cut to whole seconds, as nginx counts in seconds.

    Source: ngx_stream_upstream_rr_peer_t
    """

    status: int = 0
    effective_weight: int = 0  # the weight less what failures took from it
    current_weight: int = 0
    current_parts: int = 0  # what it is beyond that, for slow_start: in parts of slow_start.ONE
    conns: int = _field(0, COUNT)
    fails: int = 0
    accessed_ms: int = NEVER_MS  # time of the last failure
    checked_ms: int = NEVER_MS  # time of the last failure or probe
    heard_ms: int = _field(NEVER_MS, OWN)  # of the last first answer to a UDP session
    # called when fails changed, or conns by hold(): told who keeps the peer among the steady ones
    watch: Callable[[], None] | None = dataclasses.field(default=None, metadata={"kind": OWN})
    # exponential averages, for the methods that go by time
    connect_ms: int = 0
    first_byte_ms: int = 0
    response_ms: int = 0
    inflight_ms: int = 0  # how long the waiting ones have waited, averaged at each choice
    waiting: int = _field(0, COUNT)  # sessions whose measured event did not come yet
    waited_ms: int = 0  # what they had waited, all together, at changed_ms
    changed_ms: int = 0  # when their number changed last
    # for those who look at it
    selected_ms: int = 0  # time when it was chosen last, 0 for never
    lost_ms: int = 0  # time since when max_fails is reached or checks bar it, 0 while it is not so
    lost_for_ms: int = 0  # how long it was so before that, all together
    back_ms: int = 0  # time since when it may be used again, for slow_start; 0: from the start
    share: int = 100  # what its agent says of its weight: per cent of it, or less than 0 a weight
    most_conns: int = 0  # how many sessions it may have by its agent, if AGENT_LIMITED

    def hold(self, sessions: int) -> None:
        """Count sessions, or give some back. Not under the zone's lock: a shared form takes it."""
        self.conns += sessions
        if self.watch is not None:
            self.watch()

    def end_later(self, loop: Loop) -> None:
        """Give a session back, where nobody chooses by `conns`: other processes may see it late."""
        raise NotImplementedError  # of shared forms alone

    @property
    def is_dropped(self) -> bool:
        """Whether it was removed from its group, or marked down, while the program runs."""
        return False  # only peers in shared memory can be

    @property
    def is_withdrawn(self) -> bool:
        """Whether no session is to go on with it, where the configuration says so."""
        return bool(self.status & UNHEALTHY) or self.is_dropped

    def columns(self, choices: Sequence[Any]) -> Any:
        """Return what chooses among peers by their fields as a whole; None: nothing does."""
        return None  # of shared forms alone: modules/upstream/columns.py

    def note_withdrawal(self) -> None:
        """Have all workers look at their sessions: those of this peer may be affected."""

    def fail(self, now: int) -> int:
        """Count a failure; return how many there are."""
        self.fails = fails = self.fails + 1
        self.accessed_ms = self.checked_ms = now
        self.status |= FAILED
        if self.watch is not None:
            self.watch()
        return fails

    def succeed(self) -> None:
        """Forget the failures if the peer was checked since the last one."""
        if self.accessed_ms < self.checked_ms:
            self.forgive()

    def lose(self, now: int) -> None:
        """Note that there are too many failures, or that checks bar it. Args: now: loop ms"""
        if not self.lost_ms:
            self.lost_ms = now

    def forgive(self) -> None:
        """Forget the failures."""
        self.fails = 0
        self.status &= ~FAILED
        if self.watch is not None:
            self.watch()
        if self.lost_ms and not self.status & (UNHEALTHY | CHECKING):
            self.regain(monotonic_ms())

    def regain(self, now_ms: int) -> None:
        """Note that nothing speaks against it any more. Args: now_ms: loop ms"""
        self.back_ms = now_ms
        if self.lost_ms:
            self.lost_for_ms += max(now_ms - self.lost_ms, 0)
            self.lost_ms = 0


FIELDS: Final = dataclasses.fields(PeerState)
