"""The `resolver` directive: which DNS servers to ask, and how (ngx_resolver_create's parsing)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ngxstream.conf import units
from ngxstream.core import errors, inet
from ngxstream.event import resolver

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.reader import Statement
    from ngxstream.event.loop import Loop


@dataclass(frozen=True, slots=True)
class ResolverConf:
    """DNS servers and how to ask them.

    Attributes: valid_s: replaces the TTLs of answers
    where it is not None; `ipv4` and `ipv6` say which addresses are looked for; `hold_nx_ms` is for
    how long an upstream keeps the addresses of a name that does not exist any more.
    """

    servers: tuple[inet.Addr, ...]
    valid_s: int | None = None
    ipv4: bool = True
    ipv6: bool = True
    hold_nx_ms: int = 0

    def on(self, loop: Loop) -> resolver.Resolver:
        """Return the resolver that a worker has for this; equal directives share one."""
        resolvers = loop.get(_resolvers)
        if self not in resolvers:
            resolvers[self] = resolver.Resolver(
                loop, self.servers, self.valid_s, self.ipv4, self.ipv6
            )
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
            continue  # of the commercial nginx, for its API; there is nothing to count here
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
    return ResolverConf(tuple(servers), valid_s, families["ipv4"], families["ipv6"], hold_nx_ms)
