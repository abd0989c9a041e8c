"""A session at debug level: how it comes, passes the phases and ends, in nginx's words.

Answers for the ngx_log_debug lines of ngx_event_accept.c, ngx_event_udp.c, ngx_connection.c and
src/stream/. Which addresses may have such sessions is known when their logs are: elsewhere the
phases are run as ever.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ngxstream.core import inet
from ngxstream.core.log import DEBUG
from ngxstream.event import tls, tracing
from ngxstream.stream import phases, session

if TYPE_CHECKING:
    from ngxstream.stream.phases import Engine, Handler
    from ngxstream.stream.session import Session
    from ngxstream.wire.proxy_protocol import ProxyHeader


def begin(s: Session) -> None:
    """Say who came, and tell of all that follows."""
    c = s.c
    if not c.passes:
        came, text = "recvmsg" if c.is_udp else "accept", s.address.text
        client = inet.sock_ntop(c.sockaddr) or "unix:"
        s.log.write(DEBUG, f"{came} on {text}, ready: 0")
        size = f" n:{c.received}" if c.is_udp else ""
        s.log_plain(DEBUG, f"{came}: {client} fd:{c.fd}{size}")
    if s.proxy_protocol is not None:
        tell_header(s, s.proxy_protocol)
    watch(s)


def watch(s: Session) -> None:
    """Tell of what a session does from now on."""
    c, trace = s.c, s.trace()
    if not c.is_udp and not isinstance(c.sock, tls.Transport):  # of UDP it is the listener's
        c.sock = tracing.TracingSocket.take(c.sock, trace)
    s.add_cleanup(partial(_ended, s))


def _ended(s: Session) -> None:
    if s.module_ctx(session.TRACE) is not None:  # the connection ends with it
        s.log_plain(DEBUG, f"finalize stream session: {s.status}")
        s.log_plain(DEBUG, f"close stream connection: {s.c.fd}")


def tell_header(s: Session, header: ProxyHeader) -> None:
    """Say what a PROXY header stated. Source: ngx_proxy_protocol_read"""
    if header.has_client:
        source, target = (f"{header.src_addr} {header.src_port}",
                          f"{header.dst_addr} {header.dst_port}")
        s.log_plain(DEBUG, f"PROXY protocol src: {source}, dst: {target}")


def told(engine: Engine) -> Engine:
    """Return an engine that tells of its phases."""
    return tuple(
        (_check_generic if checker is phases.check_generic else checker, handler, after)
        for checker, handler, after in engine
    )


def _check_generic(s: Session, handler: Handler) -> int:
    s.log_plain(DEBUG, f"generic phase: {s.phase}")
    return phases.check_generic(s, handler)
