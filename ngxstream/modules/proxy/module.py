"""The proxy's Module record and its content handler."""

from __future__ import annotations

from ngxstream.modules.proxy import conf
from ngxstream.modules.proxy.handler import Proxy
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
    proxy: Proxy
    if not s.c.is_udp:
        proxy = TcpProxy(s)
    elif s.server.proxy.requests:
        proxy = CountedUdpProxy(s)
    else:
        proxy = UdpProxy(s)
    s.content = proxy
    return proxy


MODULE = StreamModule(
    name="proxy",
    directives=conf.directives(handle, handle_target),
    conf=conf.ProxyConf,
    merge=conf.merge,
)
