"""Where a proxy_pass with variables leads: to an upstream, an address, or a name resolved now.

Answers for ngx_stream_proxy_eval and the second half of ngx_stream_proxy_handler and
ngx_stream_proxy_resolve_handler (ngx_stream_proxy_module.c).
"""

from __future__ import annotations

from random import randrange
from typing import TYPE_CHECKING, Final

from ngxstream.core import codes, inet, log
from ngxstream.event import resolver
from ngxstream.stream import endings, round_robin, upstream_block
from ngxstream.stream.explaining import Answer
from ngxstream.stream.upstream import ServerSpec, UpstreamConf, UpstreamTable
from ngxstream.wire import dns

if TYPE_CHECKING:
    from ngxstream.modules.proxy.handler import Proxy
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.resolver_conf import ResolverConf
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue

PEERS: Final = 128  # addresses one session may try; each session makes peers of its own


class Target:
    """A proxy_pass with variables. Args: upstreams: grows until the stream block is complete"""

    __slots__ = ("value", "upstreams")

    def __init__(self, value: ComplexValue, upstreams: UpstreamTable) -> None:
        self.value = value
        self.upstreams = upstreams

    def begin(self, proxy: Proxy) -> None:
        """Connect a session, once its name is resolved. Source: ngx_stream_proxy_eval"""
        s = proxy.s
        s.action = None
        text = self.value.get(s).decode("utf-8", "surrogateescape")
        try:
            url = inet.parse_url(text, no_resolve=True)
        except inet.UrlError as error:
            s.log_error(log.ERR, f'{error} in upstream "{text}"')
            s.end(codes.INTERNAL_SERVER_ERROR, endings.BAD_TARGET)
            return
        known = upstream_block.find_upstream(self.upstreams, url)
        if known is not None:
            proxy.upstream = known
            proxy.start()
            return
        host = url.host
        if not url.port and url.family != inet.AF_UNIX:
            s.log_error(log.ERR, f'no port in upstream "{host}"')
            s.end(codes.INTERNAL_SERVER_ERROR, endings.BAD_TARGET)
            return
        if url.addrs:
            _select(proxy, host, url.addrs[:1])
            proxy.connect()
            return
        conf: ResolverConf | None = s.server.core.resolver
        if conf is None:
            s.log_error(log.ERR, f"no resolver defined to resolve {host}")
            s.end(codes.INTERNAL_SERVER_ERROR, endings.RESOLVE_FAILED)
            return
        waiter = conf.on(s.loop).lookup(
            host, s.server.core.resolver_timeout, _Resolving(proxy, url).on_answer
        )
        if not s.status:
            s.add_cleanup(waiter.cancel)


    def explain(self, s: Session, explanation: Explanation) -> Answer:
        """Say what begin() would do; a name is not asked for."""
        text = self.value.get(s).decode("utf-8", "surrogateescape")
        try:
            url = inet.parse_url(text, no_resolve=True)
        except inet.UrlError as error:
            return Answer(codes.INTERNAL_SERVER_ERROR, f'{error} in upstream "{text}"')
        known = upstream_block.find_upstream(self.upstreams, url)
        if known is not None:
            return explanation.through(known)
        host = url.host
        if not url.port and url.family != inet.AF_UNIX:
            return Answer(codes.INTERNAL_SERVER_ERROR, f'no port in upstream "{host}"')
        if url.addrs:
            return explanation.through(_own(host, url.addrs[:1]))
        if s.server.core.resolver is None:
            return Answer(codes.INTERNAL_SERVER_ERROR, f"no resolver defined to resolve {host}")
        explanation.upstream = UpstreamConf(host, "", 0, explicit=False)
        return Answer(codes.OK, f"one of the addresses of {host}, which is asked for then")


class _Resolving:
    """A session that waits for the addresses of a name."""

    __slots__ = ("proxy", "url")

    def __init__(self, proxy: Proxy, url: inet.Url) -> None:
        self.proxy = proxy
        self.url = url

    def on_answer(self, answer: resolver.Answer) -> None:
        """Go on. See _resolved"""
        _resolved(self.proxy, self.url, answer)

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.proxy.s.finalize(codes.INTERNAL_SERVER_ERROR)


def _resolved(proxy: Proxy, url: inet.Url, answer: resolver.Answer) -> None:
    """Go on with the addresses of a name. Source: ngx_stream_proxy_resolve_handler"""
    s = proxy.s
    host = url.host
    if answer.code:
        s.log_error(
            log.ERR, f"{host} could not be resolved ({answer.code}: {dns.strerror(answer.code)})"
        )
        s.end(codes.INTERNAL_SERVER_ERROR, endings.RESOLVE_FAILED)
        return
    addrs = []
    for found in some_of(answer.addresses):
        sockaddr: inet.SockAddr = (
            (found.host, url.port) if found.family == inet.AF_INET else (found.host, url.port, 0, 0)
        )
        addrs.append(inet.Addr(found.family, sockaddr, inet.sock_ntop(sockaddr)))
    _select(proxy, host, addrs)
    proxy.limit_tries()
    proxy.started_ms = proxy.loop.now_ms
    proxy.connect_late()


def some_of(addresses: tuple[resolver.Address, ...]) -> tuple[resolver.Address, ...]:
    """Return the addresses one session may try: of more than PEERS some, from anywhere on."""
    count = len(addresses)
    if count <= PEERS:
        return addresses
    first = randrange(count)
    return (addresses[first:] + addresses[:first])[:PEERS]


def _select(proxy: Proxy, host: str, addrs: list[inet.Addr]) -> None:
    """Give a session peers of its own."""
    own = proxy.upstream = _own(host, addrs)
    assert own.balancer is not None
    proxy.selection = own.balancer.select(proxy.s)


def _own(host: str, addrs: list[inet.Addr]) -> UpstreamConf:
    """Make an upstream of a session's own. Source: ngx_stream_upstream_create_round_robin_peer"""
    own = UpstreamConf(host, "", 0, explicit=False)
    tier = round_robin.Tier(host, round_robin.make_peers((ServerSpec(host, addrs),)))
    own.balancer = round_robin.RoundRobin(tier)
    return own
