"""Which configurations were loaded, or refused, since the master began: the last of them, in memory
that it shares with its workers.

nginx has no counterpart. The master alone writes: each load is a record of a ring, and carries the
numbers of loads up to then, for counters that must not go back when old records are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ngxstream.core import clock as clocks
from ngxstream.core import log
from ngxstream.core.shm_ring import Ring
from ngxstream.ipc import codec
from ngxstream.ipc.codec import CodecError, Field

LOADS: Final = 100
MAX_MESSAGE: Final = 2 * log.MAX_LINE
_SPARE: Final = 128  # bytes: of all other fields

_RECORD: Final = codec.Record(
    "load", Field(1, "time", codec.Int(0, clocks.LAST_MS)), Field(2, "duration", codec.UINT, 0),
    Field(3, "generation", codec.UINT), Field(4, "adopted", codec.UINT, 0),
    Field(5, "accepted", codec.BOOL, True), Field(6, "message", codec.Text(MAX_MESSAGE), ""),
    Field(7, "accepted so far", codec.UINT), Field(8, "refused so far", codec.UINT, 0),
)


class Loaded(NamedTuple):
    """One load.

    Args: time_ms: when it began, since 1970; duration_ms: until the configuration served, or was
    refused; generation: which served then; adopted: how many sessions workers had taken over until
    it began; accepted_sofar: loads that went well, with this one; refused_sofar: others
    """

    time_ms: int
    duration_ms: int
    generation: int
    adopted: int
    accepted: bool
    message: str
    accepted_sofar: int
    refused_sofar: int


class History:
    """All loads that are remembered."""

    __slots__ = ("_accepted", "_refused", "_ring")

    def __init__(self) -> None:
        """Make it; for the master, before it forks. Raises: OSError"""
        self._ring = Ring("loads", LOADS, MAX_MESSAGE + _SPARE)
        self._accepted = 0
        self._refused = 0

    def add(
        self, time_ms: int, duration_ms: int, generation: int, adopted: int, *, accepted: bool,
        message: str,
    ) -> None:
        """Remember a load. Args: as of Loaded; for the master alone"""
        if accepted:
            self._accepted += 1
        else:
            self._refused += 1
        message = log.encode(message)[:MAX_MESSAGE].decode("utf-8", "surrogateescape")
        self._ring.add(_RECORD.encode((
            time_ms, duration_ms, generation, adopted, accepted, message, self._accepted,
            self._refused,
        )))

    def loads(self) -> list[Loaded]:
        """Return what is remembered and makes sense, the latest first."""
        return list(self._loads())

    def _loads(self) -> Iterator[Loaded]:
        for _, data in reversed(self._ring.read()):
            try:
                yield Loaded(*_RECORD.decode(data))
            except CodecError:  # somebody has written over it
                continue

    def latest(self) -> Loaded | None:
        """Return the load that the serving configuration came by, None if that is not known."""
        return next((load for load in self._loads() if load.accepted), None)
