"""Datagrams that a listening address loses, and why.

Each address counts what it loses. Where somebody looks at the reasons another class counts by these
too, for all addresses of a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ngxstream.core.facts import Counter

if TYPE_CHECKING:
    from ngxstream.core.facts import Cell

NO_SLOT: Final = "no_connections"  # worker_connections are taken
BACKLOG: Final = "backlog"  # new clients came faster than sessions could begin
UNWANTED: Final = "unwanted"  # a session took no more, and did not end
HELD: Final = "held"  # too many came while sessions changed hands
STRAY: Final = "stray"  # another worker's, and too many were on their way to it
ANSWER: Final = "answer"  # an answer: the socket was full, or the way to the client is broken
HEADER: Final = "proxy_protocol"  # the PROXY protocol header was missing, wrong or not trusted
ONE_WAY: Final = "one_way"  # no server took one that makes no session
AMPLIFIED: Final = "amplification"  # an answer: more than proxy_udp_amplification allows
REASONS: Final = (
    NO_SLOT, BACKLOG, UNWANTED, HELD, STRAY, ANSWER, HEADER, ONE_WAY, AMPLIFIED,
)


class Drops(Counter):
    """What one address has lost."""

    __slots__ = ()

    def drop(self, reason: str, amount: int = 1) -> None:
        """Count datagrams that are lost. Args: reason: one of REASONS"""
        self._cells[self._at] += amount


class DropsByReason(Drops):
    """The same where the reasons are shown."""

    __slots__ = ("_by_reason",)

    def __init__(self, cell: Cell | None, by_reason: Mapping[str, Counter]) -> None:
        """Args: by_reason: of the worker, for each of REASONS. Raises: OSError"""
        super().__init__(cell)
        self._by_reason = by_reason

    def drop(self, reason: str, amount: int = 1) -> None:
        """Count datagrams that are lost."""
        self.add(amount)
        self._by_reason[reason].add(amount)
