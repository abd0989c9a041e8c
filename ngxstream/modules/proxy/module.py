"""The proxy's Module record and its content handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.modules.proxy import conf, dsr, udp_one_way, udp_state
from ngxstream.modules.proxy.conf import ProxyConf
from ngxstream.modules.proxy.handler import Proxy
from ngxstream.modules.proxy.headed import HeadedCountedUdpProxy, HeadedUdpProxy
from ngxstream.modules.proxy.tcp import TcpProxy
from ngxstream.modules.proxy.udp import CountedUdpProxy, UdpProxy
from ngxstream.modules.proxy.udp_rated import (
    RatedCountedUdpProxy,
    RatedHeadedCountedUdpProxy,
    RatedHeadedUdpProxy,
    RatedUdpProxy,
)
from ngxstream.modules.proxy.variables import VARIABLES
from ngxstream.stream.content import ContentKind
from ngxstream.stream.module import StreamModule
from ngxstream.stream.session import Session

if TYPE_CHECKING:
    from ngxstream.stream.core import ServerConf, StreamDraft


def handle(s: Session) -> None:
    """Proxy a session to an upstream of the configuration. source: ngx_stream_proxy_handler"""
    proxy: Proxy = s.server.udp_proxy(s) if s.c.is_udp else TcpProxy(s)
    s.content = proxy
    proxy.start()


def handle_target(s: Session) -> None:
    """Proxy a session to where the variables of its proxy_pass point."""
    proxy: Proxy = s.server.udp_proxy(s) if s.c.is_udp else TcpProxy(s)
    s.content = proxy
    s.server.proxy.target.begin(proxy)


def _udp_kind(given: ProxyConf) -> type[UdpProxy]:
    """Decide the kind, once for each server."""
    counted = bool(given.requests)
    headed = bool(given.every_datagram and given.proxy_protocol)
    if given.is_rated:
        if headed:
            return RatedHeadedCountedUdpProxy if counted else RatedHeadedUdpProxy
        return RatedCountedUdpProxy if counted else RatedUdpProxy
    if dsr.is_direct(given):
        return dsr.DsrUdpProxy
    if udp_one_way.is_one_way(given):
        return udp_one_way.OneWayUdpProxy
    if headed:
        return HeadedCountedUdpProxy if counted else HeadedUdpProxy
    return CountedUdpProxy if counted else UdpProxy


def _check(given: ProxyConf, server: ServerConf, draft: StreamDraft) -> None:
    """Check a server's settings, and decide what depends on nothing else."""
    conf.check(given, server, draft)
    server.udp_proxy = _udp_kind(given)


MODULE = StreamModule(
    name="proxy",
    directives=conf.directives(handle, handle_target),
    conf=conf.ProxyConf,
    merge=conf.merge,
    check=_check,
    variables=VARIABLES,
    contents=(
        ContentKind("tcp proxy", TcpProxy, stays="TCP sessions end where they began"),
        ContentKind(udp_state.NAME, UdpProxy, udp_state.read, remade=udp_state.REMADE),
    ),
)
