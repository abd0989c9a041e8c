"""The proxy's Module record and its content handler."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ngxstream.core.log import DEBUG
from ngxstream.modules.proxy import conf, dsr, traced, udp_one_way, udp_state, udp_steps
from ngxstream.modules.proxy.conf import ProxyConf
from ngxstream.modules.proxy.tcp import TcpProxy
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.modules.proxy.variables import VARIABLES
from ngxstream.stream.content import ContentKind
from ngxstream.stream.module import StreamModule
from ngxstream.stream.session import Session

if TYPE_CHECKING:
    from ngxstream.conf.module import Given
    from ngxstream.modules.proxy.handler import Proxy


def handle(s: Session) -> None:
    """Proxy a session to an upstream of the configuration. Source: ngx_stream_proxy_handler"""
    make: type[Proxy] = UdpProxy if s.c.is_udp else TcpProxy
    proxy: Proxy = make(s) if s.log.level < DEBUG else traced.make(s)
    s.content = proxy
    proxy.start()


def handle_target(s: Session) -> None:
    """Proxy a session to where the variables of its proxy_pass point."""
    make: type[Proxy] = UdpProxy if s.c.is_udp else TcpProxy
    proxy: Proxy = make(s) if s.log.level < DEBUG else traced.make(s)
    s.content = proxy
    s.server.proxy.target.begin(proxy)


def _remake(s: Session) -> UdpProxy:
    return traced.TracedUdp(s) if s.log.level >= DEBUG else UdpProxy(s)


def _merge(outer: Given, inner: Given) -> ProxyConf:
    """Merge what two blocks gave, and choose how UDP sessions cross."""
    made = conf.merge(outer, inner)
    lender = None
    if not made.is_rated and dsr.is_direct(made):
        lender = dsr.LENDER
    elif udp_one_way.is_one_way(made):
        lender = udp_one_way.LENDER
    return replace(made, steps=udp_steps.chosen(made), lender=lender)


MODULE = StreamModule(
    name="proxy",
    directives=conf.directives(handle, handle_target),
    conf=conf.ProxyConf,
    merge=_merge,
    check=conf.check,
    variables=VARIABLES,
    contents=(
        ContentKind("tcp proxy", TcpProxy, stays="TCP sessions end where they began"),
        ContentKind(
            udp_state.NAME, UdpProxy, partial(udp_state.read, _remake), remade=udp_state.REMADE
        ),
    ),
)
