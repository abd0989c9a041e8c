"""The proxy's Module record and its content handler."""

from __future__ import annotations

from ngxstream.modules.proxy import conf
from ngxstream.modules.proxy.conf import ProxyConf
from ngxstream.modules.proxy.handler import Proxy
from ngxstream.modules.proxy.headed import HeadedCountedUdpProxy, HeadedUdpProxy
from ngxstream.modules.proxy.tcp import TcpProxy
from ngxstream.modules.proxy.udp import CountedUdpProxy, UdpProxy
from ngxstream.stream.module import StreamModule
from ngxstream.stream.session import Session


def handle(s: Session) -> None:
    """Proxy a session to an upstream of the configuration. source: ngx_stream_proxy_handler"""
    _begin(s).start()


def handle_target(s: Session) -> None:
    """Proxy a session to where the variables of its proxy_pass point."""
    s.server.proxy.target.begin(_begin(s))


def _begin(s: Session) -> Proxy:
    proxy: Proxy = make_udp(s) if s.c.is_udp else TcpProxy(s)
    s.content = proxy
    return proxy


def make_udp(s: Session) -> UdpProxy:
    """Make the kind of proxy that a UDP session's server asks for."""
    conf_: ProxyConf = s.server.proxy
    if conf_.every_datagram and conf_.proxy_protocol:
        return HeadedCountedUdpProxy(s) if conf_.requests else HeadedUdpProxy(s)
    return CountedUdpProxy(s) if conf_.requests else UdpProxy(s)


MODULE = StreamModule(
    name="proxy",
    directives=conf.directives(handle, handle_target),
    conf=conf.ProxyConf,
    merge=conf.merge,
    check=conf.check,
)
