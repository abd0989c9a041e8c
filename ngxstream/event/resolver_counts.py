"""A resolver that counts what it is asked and what servers respond, for `status_zone=`.

Stands in the place of event/resolver.py by configuration. A request is a lookup that no kept answer
meets, of a name (its A and AAAA questions together) or of a service; a response is a message that
answers a question, so a lookup may have several, and one that a silent server leaves without has
"timedout". Addresses are never looked up here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from ngxstream.event.dns_query import Asker
from ngxstream.event.resolver import Resolver
from ngxstream.wire import dns

if TYPE_CHECKING:
    from ngxstream.core import inet
    from ngxstream.core.facts import Cell
    from ngxstream.event.loop import Loop

_CODES: Final = {
    dns.NOERROR: "noerror", dns.FORMERR: "formerr", dns.SERVFAIL: "servfail",
    dns.NXDOMAIN: "nxdomain", dns.NOTIMP: "notimp", dns.REFUSED: "refused",
}  # fmt: skip


class Counts(Protocol):
    """What is counted in, by the names of the API."""

    @property
    def requests(self) -> Mapping[str, Cell]:
        """By kind: name, srv."""

    @property
    def responses(self) -> Mapping[str, Cell]:
        """By code: those above, timedout, unknown."""


class CountedAsker(Asker):
    """Counts the responses."""

    __slots__ = ("counts",)

    def __init__(self, loop: Loop, servers: Sequence[inet.Addr], counts: Counts) -> None:
        super().__init__(loop, servers)
        self.counts = counts

    def responded(self, code: int) -> None:
        """Count a response."""
        cell = self.counts.responses[_CODES.get(code, "unknown")]
        self.loop.cells[cell.at] += 1


class CountedResolver(Resolver):
    """Counts the requests, and those that nothing came of."""

    __slots__ = ("counts",)

    def __init__(self, loop: Loop, servers: Sequence[inet.Addr], valid_s: int | None, ipv4: bool,
                 ipv6: bool, counts: Counts) -> None:
        """Args: as Resolver; counts: what to count in"""
        self.counts = counts
        super().__init__(loop, servers, valid_s, ipv4, ipv6)

    def make_asker(self, loop: Loop, servers: Sequence[inet.Addr]) -> Asker:
        """Make what asks the servers."""
        return CountedAsker(loop, servers, self.counts)

    def asked(self, kind: int) -> None:
        """Count a request."""
        cell = self.counts.requests["srv" if kind == dns.SRV else "name"]
        self.loop.cells[cell.at] += 1

    def timed_out(self) -> None:
        """Count a request that nothing came of."""
        self.loop.cells[self.counts.responses["timedout"].at] += 1
