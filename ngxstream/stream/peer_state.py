"""The state of a peer: the one declaration of which its plain and its shared form are made.

1. A field is declared once, below. The plain form has it as a slot; the shared form
   (modules/upstream/zone.py) has a cell, a count or a slot of the same name, by its kind.
2. Whether a peer may be used is asked of round_robin.usable() alone. `status` is 0 as long as
   nothing prevents its use: then nothing else has to be checked.
3. `fails` changes by fail(), succeed() and forgive() only, which keep `status` in step.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

NEVER_MS: Final = -(1 << 53)  # before any time: CLOCK_MONOTONIC may begin near 0

# Bits of `status`.
DOWN: Final = 1  # the configuration says so
DRAINING: Final = 2  # sessions it has go on, others do not begin
UNHEALTHY: Final = 4  # a check failed
CHECKING: Final = 8  # a check is awaited before it is used
FAILED: Final = 16  # `fails` is not 0: max_fails says whether that matters
LIMITED: Final = 32  # it has max_conns
BARRED: Final = DOWN | DRAINING | UNHEALTHY | CHECKING  # any of these: no new session
CONFIGURED: Final = DOWN | LIMITED  # what only a new configuration changes

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
    conns: int = _field(0, COUNT)
    fails: int = 0
    accessed_ms: int = NEVER_MS  # time of the last failure
    checked_ms: int = NEVER_MS  # time of the last failure or probe
    heard_ms: int = _field(NEVER_MS, OWN)  # of the last first answer to a UDP session
    # exponential averages, for the methods that go by time
    connect_ms: int = 0
    first_byte_ms: int = 0
    response_ms: int = 0
    inflight_ms: int = 0  # how long the waiting ones have waited, averaged at each choice
    waiting: int = _field(0, COUNT)  # sessions whose measured event did not come yet
    waited_ms: int = 0  # what they had waited, all together, at changed_ms
    changed_ms: int = 0  # when their number changed last

    def hold(self, sessions: int) -> None:
        """Count sessions, or give some back. Not under the zone's lock: a shared form takes it."""
        self.conns += sessions

    def end_later(self, loop: Loop) -> None:
        """Give a session back, where nobody chooses by `conns`: other processes may see it late."""
        raise NotImplementedError  # of shared forms alone

    def fail(self, now: int) -> int:
        """Count a failure; return how many there are."""
        self.fails = fails = self.fails + 1
        self.accessed_ms = self.checked_ms = now
        self.status |= FAILED
        return fails

    def succeed(self) -> None:
        """Forget the failures if the peer was checked since the last one."""
        if self.accessed_ms < self.checked_ms:
            self.forgive()

    def forgive(self) -> None:
        """Forget the failures."""
        self.fails = 0
        self.status &= ~FAILED


FIELDS: Final = dataclasses.fields(PeerState)
