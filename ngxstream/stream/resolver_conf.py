"""The `resolver` directive: which DNS servers to ask, and how (ngx_resolver_create's parsing).

`status_zone=` is NGINX Plus's: what a resolver is asked, and what its servers respond, is counted
under a name; several resolvers may have one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import units
from ngxstream.core import errors, inet
from ngxstream.core.facts import ZONE, Fact
from ngxstream.event import resolver, resolver_counts

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.reader import Statement
    from ngxstream.core.facts import Cell, Facts
    from ngxstream.event.loop import Loop


REQUESTS: Final = ("name", "srv", "addr")
TIMEDOUT: Final = "timedout"
RESPONSES: Final = (
    "noerror", "formerr", "servfail", "nxdomain", "notimp", "refused", TIMEDOUT, "unknown",
)
FACTS: Final = {
    **{
        name: Fact(f"resolver_requests_{name}", ZONE, f"Requests to resolve {doc}.")
        for name, doc in zip(REQUESTS, (
            "names to addresses", "services to names and addresses",
            "addresses to names (there are none)",
        ), strict=True)
    },
    **{
        name: Fact(f"resolver_responses_{name}", ZONE, f"Responses of DNS servers: {name}.")
        for name in RESPONSES if name != TIMEDOUT
    },
    TIMEDOUT: Fact("resolver_responses_timedout", ZONE,
                                   "Requests that no server responded to in time."),
}


class ResolverZone:
    """What resolvers of one status_zone count."""

    __slots__ = ("requests", "responses")

    def __init__(self, name: str, facts: Facts) -> None:
        self.requests = {one: facts.cell(FACTS[one], name) for one in REQUESTS}
        self.responses = {one: facts.cell(FACTS[one], name) for one in RESPONSES}

    def cells(self) -> list[Cell]:
        """Return all of them."""
        return [*self.requests.values(), *self.responses.values()]


@dataclass(frozen=True, slots=True)
class ResolverConf:
    """DNS servers and how to ask them.

    Attributes: valid_s: replaces the TTLs of answers
    where it is not None; `ipv4` and `ipv6` say which addresses are looked for; `hold_nx_ms` is for
    how long an upstream keeps the addresses of a name that does not exist any more; counts: of its
    status_zone, if it has one.
    """

    servers: tuple[inet.Addr, ...]
    valid_s: int | None = None
    ipv4: bool = True
    ipv6: bool = True
    hold_nx_ms: int = 0
    counts: ResolverZone | None = None

    def on(self, loop: Loop) -> resolver.Resolver:
        """Return the resolver that a worker has for this; equal directives share one."""
        resolvers = loop.get(_resolvers)
        if self not in resolvers:
            given = loop, self.servers, self.valid_s, self.ipv4, self.ipv6
            if self.counts is None:
                resolvers[self] = resolver.Resolver(*given)
            else:
                resolvers[self] = resolver_counts.CountedResolver(*given, self.counts)
        return resolvers[self]


def _resolvers(_: Loop) -> dict[ResolverConf, resolver.Resolver]:
    return {}


def parse(scope: Scope, st: Statement) -> ResolverConf:
    """Read the arguments of a resolver directive. Raises: ConfError

    Source: ngx_resolver_create
    """
    servers: list[inet.Addr] = []
    valid_s = None
    hold_nx_ms = 0
    families = {"ipv4": True, "ipv6": True}
    zone = ""
    for word in st.args:
        name, equals, value = word.partition("=")
        if equals and name == "valid":
            try:
                valid_s = units.parse_time_sec(value)
            except ValueError:
                raise errors.ConfError(f"invalid parameter: {word}") from None
        elif equals and name == "hold_nx":
            try:
                hold_nx_ms = units.parse_time_msec(value)
            except ValueError:
                raise errors.ConfError(f"invalid parameter: {word}") from None
        elif equals and name in families:
            if value not in ("on", "off"):
                raise errors.ConfError(f"invalid parameter: {word}")
            families[name] = value == "on"
        elif equals and name == "status_zone":
            if not value:
                raise errors.ConfError(f"invalid parameter: {word}")
            zone = value
        else:
            try:
                url = inet.parse_url(word, default_port=53)
            except inet.UrlError as error:
                raise errors.ConfError(f'{error.reason} in resolver "{word}"') from None
            servers.extend(url.addrs)
    if not families["ipv4"] and not families["ipv6"]:
        raise errors.ConfError('"ipv4" and "ipv6" cannot both be "off"')
    if not servers:
        raise errors.ConfError("no name servers defined")
    counts = _zone(scope, zone) if zone else None
    return ResolverConf(
        tuple(servers), valid_s, families["ipv4"], families["ipv6"], hold_nx_ms, counts
    )


def _zone(scope: Scope, name: str) -> ResolverZone:
    zones = zones_of(scope.builder.data["stream"].data)
    zone = zones.get(name)
    if zone is None:
        zone = zones[name] = ResolverZone(name, scope.builder.facts)
    return zone


def zones_of(data: dict[str, Any]) -> dict[str, ResolverZone]:
    """Return the zones of a stream block, by name. Args: data: of StreamDraft or StreamConf"""
    zones: dict[str, ResolverZone] = data.setdefault("resolver", {})
    return zones
