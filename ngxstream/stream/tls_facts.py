"""Facts of TLS handshakes, by how they ended: of servers, and of all together.

As NGINX Plus counts them: a handshake is counted once, where it succeeds or where it fails; that a
certificate is refused afterwards is counted besides. They are counted where an `api` shows them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.facts import SERVER, WORKERS, Fact
from ngxstream.event import tls_failures
from ngxstream.stream import schema

if TYPE_CHECKING:
    from ngxstream.core.facts import Cell, Facts
    from ngxstream.stream.schema import Schema

HANDSHAKES: Final = "handshakes"
FAILED: Final = "handshakes_failed"
REUSES: Final = "session_reuses"
TIMEOUT: Final = "handshake_timeout"
_DOCS: Final = {
    HANDSHAKES: "TLS handshakes that succeeded",
    FAILED: "TLS handshakes that failed",
    REUSES: "TLS handshakes that resumed a session",
    tls_failures.NO_COMMON_PROTOCOL: "TLS handshakes that failed without a common version",
    tls_failures.NO_COMMON_CIPHER: "TLS handshakes that failed without a common cipher",
    TIMEOUT: "TLS handshakes that took too long",
    tls_failures.PEER_REJECTED_CERT: "TLS handshakes that failed because the peer refused our "
                                     "certificate",
    tls_failures.NO_CERT: "Peers that showed no certificate though one is required",
    tls_failures.EXPIRED_CERT: "Peers whose certificate has expired or is not valid yet",
    tls_failures.REVOKED_CERT: "Peers whose certificate was revoked",
    tls_failures.HOSTNAME_MISMATCH: "Peers whose certificate is for another name",
    tls_failures.OTHER: "Peers whose certificate was refused for another reason",
}
NAMES: Final = tuple(_DOCS)  # of all counters, in the order in which they are sent
VERIFY: Final = NAMES[7:]  # those that stand under "verify_failures"
NOT_OF_SERVERS: Final = (tls_failures.HOSTNAME_MISMATCH,)


def facts_of(
    prefix: str, scope: str, whose: str, without: Collection[str] = ()
) -> tuple[Fact, ...]:
    """Return the facts of one kind of things. Args: whose: ends the line that documents each"""
    return tuple(
        Fact(f"{prefix}_{name}", scope, f"{doc}{whose}.")
        for name, doc in _DOCS.items()
        if name not in without
    )


OF_ALL: Final = facts_of("ssl", WORKERS, ", towards clients and servers")
OF_SERVERS: Final = facts_of("server_ssl", SERVER, ", with clients", NOT_OF_SERVERS)


class Handshakes:
    """The cells of one thing, and of all together."""

    __slots__ = ("_of_all", "own")

    def __init__(self, facts: Facts, label: str) -> None:
        """Make those of a server. For the master, before it forks."""
        names = [name for name in NAMES if name not in NOT_OF_SERVERS]
        self.own = {
            name: facts.cell(fact, label) for name, fact in zip(names, OF_SERVERS, strict=True)
        }
        self._of_all = of_all(facts)

    def count(self, row: memoryview[int], *names: str) -> None:
        """Count what happened. Args: row: Loop.cells; names: "" among them counts nothing"""
        for name in names:
            if name:
                row[self.own[name].at] += 1
                row[self._of_all[name].at] += 1


def of_all(facts: Facts) -> dict[str, Cell]:
    """Return the cells of all handshakes together, by name."""
    return {name: facts.cell(fact) for name, fact in zip(NAMES, OF_ALL, strict=True)}


def shown(names: Collection[str], totals: Sequence[int]) -> dict[str, Any]:
    """Return counters as the API has them."""
    found: dict[str, Any] = {}
    refused: dict[str, int] = {}
    for name, total in zip(names, totals, strict=True):
        (refused if name in VERIFY else found)[name] = total
    return {**found, "verify_failures": refused}


def schema_of(names: Collection[str]) -> Schema:
    """Return the schema of what shown() returns."""
    counts = {name: schema.COUNT for name in names if name not in VERIFY}
    refused = {name: schema.COUNT for name in names if name in VERIFY}
    return schema.obj("TLS handshakes.", **counts, verify_failures=schema.obj(**refused))
