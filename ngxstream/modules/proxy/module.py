"""The proxy's Module record and its content handler."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import errors
from ngxstream.core.log import DEBUG
from ngxstream.modules.proxy import (
    conf,
    counted,
    dsr,
    first_data,
    quic_conf,
    quic_state,
    target,
    traced,
    udp_leaving,
    udp_one_way,
    udp_state,
    udp_steps,
)
from ngxstream.modules.proxy.conf import ProxyConf
from ngxstream.modules.proxy.tcp import TcpProxy
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.modules.proxy.variables import VARIABLES
from ngxstream.stream import phases, withdrawals
from ngxstream.stream.content import ContentKind
from ngxstream.stream.module import PhaseHandler, StreamModule
from ngxstream.stream.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ngxstream.conf.module import Given
    from ngxstream.event.loop import Loop
    from ngxstream.modules.proxy.handler import Proxy
    from ngxstream.stream.core import StreamConf, StreamDraft
    from ngxstream.stream.explaining import Answer, Explanation


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


COUNTED: Final[dict[Any, Any]] = {handle: counted.handle, handle_target: counted.handle_target}


def _finish(draft: StreamDraft) -> None:
    """Prepare for filters, and have the peers of sessions counted where that is shown.

    Raises: UnplacedError for filters of a server that proxies nothing
    """
    for server in draft.servers:
        filters, made = server.filters, server.proxy
        is_gated, is_filtered = server.gate is not None, filters is not None
        proxies = made.upstream is not None or made.target is not None
        if proxies and server.bandwidth is not None:
            made = _crossing(replace(made, is_rated=True))
            server.proxy = made
        if proxies and (is_gated or is_filtered):
            steps = udp_steps.chosen(made, is_filtered=is_filtered, is_gated=is_gated)
            # each session that is filtered has a socket of its own: it is no lender's
            server.proxy = replace(
                made, steps=steps, lender=None if is_filtered else made.lender,
                is_usual=made.is_usual and not is_filtered,
            )
        elif filters is not None and filters.is_own and not proxies:
            raise errors.UnplacedError(
                f'"{filters.directive}" needs "proxy_pass" in {server.file}:{server.line}'
            )
    if draft.is_shown:
        for server in draft.servers:
            if server.handler is handle:
                server.begin_udp = counted.begin_udp
            server.handler = COUNTED.get(server.handler, server.handler)


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Foresee the server of the upstream."""
    conf: ProxyConf = s.server.proxy
    assert conf.upstream is not None
    return explanation.through(conf.upstream)


def _explain_target(s: Session, explanation: Explanation) -> Answer:
    """Foresee where the variables of a proxy_pass point."""
    found: target.Target = s.server.proxy.target
    return found.explain(s, explanation)


def _remake(s: Session) -> UdpProxy:
    if s.server.handler in COUNTED.values():
        return counted.make_udp(s)
    return traced.TracedUdp(s) if s.log.level >= DEBUG else UdpProxy(s)


def _watched(stream: StreamConf) -> Iterator[memoryview[int]]:
    """Yield the cells that tell of servers withdrawn, where anything would come of that."""
    for server in stream.servers:
        made: ProxyConf = server.proxy
        if made.upstream is None and made.target is None:
            continue
        leaves = udp_leaving.may_leave(made)
        for group in stream.upstreams if made.upstream is None else (made.upstream,):
            if group.withdrawals is None:
                continue
            is_checked = group.health is not None
            may_change = is_checked or hasattr(group.balancer, "catch_up")
            if (leaves and is_checked) or (made.session_drop and may_change):
                yield group.withdrawals


def _start_worker(stream: StreamConf, loop: Loop) -> None:
    """Begin to watch for servers that are withdrawn, and to find the ids of all workers."""
    quic_conf.start_worker(stream, loop)
    loop.get(withdrawals.Withdrawals).start(stream, _watched(stream))


def _stop_worker(stream: StreamConf, loop: Loop) -> None:
    """Add what is counted, and watch no more."""
    counted.flush(stream, loop)
    loop.get(withdrawals.Withdrawals).stop(stream)


def _merge(outer: Given, inner: Given) -> ProxyConf:
    """Merge what two blocks gave, and choose how UDP sessions cross."""
    return _crossing(conf.merge(outer, inner))


def _crossing(made: ProxyConf) -> ProxyConf:
    """Choose how UDP sessions cross."""
    lender = None
    if not made.is_rated and dsr.is_direct(made):
        lender = dsr.LENDER
    elif udp_one_way.is_one_way(made):
        lender = udp_one_way.LENDER
    made = replace(made, steps=udp_steps.chosen(made), lender=lender)
    return replace(made, is_usual=made.may_be_usual)


MODULE = StreamModule(
    name="proxy",
    directives=conf.directives(handle, handle_target),
    conf=conf.ProxyConf,
    merge=_merge,
    check=conf.check,
    handlers=(PhaseHandler(phases.CONNECT, first_data.handle, first_data.is_wanted),),
    explains=(
        (first_data.handle, first_data.explain),
        (handle, _explain), (counted.handle, _explain),
        (handle_target, _explain_target), (counted.handle_target, _explain_target),
    ),
    finish=_finish,
    start_worker=_start_worker,
    stop_worker=_stop_worker,
    variables=(*VARIABLES, *quic_state.VARIABLES),
    facts=quic_conf.FACTS,
    metrics=quic_conf.metrics,
    keeps=(quic_state.KEPT,),
    contents=(
        ContentKind("tcp proxy", TcpProxy, stays="TCP sessions end where they began"),
        ContentKind(
            udp_state.NAME, UdpProxy, partial(udp_state.read, _remake), remade=udp_state.REMADE
        ),
    ),
)
