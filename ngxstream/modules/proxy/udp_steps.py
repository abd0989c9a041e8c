"""What a client's datagrams pass before a UDP session takes them, where the configuration asks.

Each step is a Sink before another one, made when the session is listed (ProxyConf.steps).

A PROXY header in front of every datagram (proxy_protocol_datagrams) has no counterpart in nginx:
there only the first datagram of a session has it. Most receivers, dnsdist among them, look at
each datagram by itself. The header of a session never changes, so it is made once. A datagram that
has no room for it is dropped and counted (ToServer.send_failed); the session goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ngxstream.event import datagram
from ngxstream.modules.proxy import udp_amplification, udp_quic

if TYPE_CHECKING:
    from ngxstream.event.udp_clients import Sink
    from ngxstream.modules.proxy.conf import ProxyConf, Step
    from ngxstream.modules.proxy.udp import UdpProxy


class Quota:
    """proxy_requests: what comes after so many datagrams begins a new session."""

    __slots__ = ("c", "proxy", "sink")

    def __init__(self, proxy: UdpProxy, sink: Sink) -> None:
        self.c = proxy.c
        self.proxy = proxy
        self.sink = sink

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Let as many datagrams through as the session may take, and return the rest."""
        proxy = self.proxy
        left = max(0, proxy.conf.requests - proxy.requests)
        if left:
            self.sink.take(views[:left])
        if not proxy.s.status:
            proxy.settle()
        return views[left:]

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Cut a burst at the quota."""
        return self.take(datagram.split(view, size))

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.proxy.on_fault()


class Headed:
    """proxy_protocol_datagrams every: a header in front of each datagram."""

    __slots__ = ("c", "header", "proxy")

    def __init__(self, proxy: UdpProxy) -> None:
        self.c = proxy.c
        self.proxy = proxy
        self.header = proxy.proxy_header()

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Send each datagram behind the header."""
        header = self.header
        self.c.received -= len(header) * len(views)  # take() will count it, and no client sent it
        return self.proxy.take([memoryview(b"".join((header, view))) for view in views])

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Cut a coalesced message up: each of its datagrams needs the header."""
        return self.take(datagram.split(view, size))

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.proxy.on_fault()


def _limit(proxy: UdpProxy, sink: Sink) -> Sink:
    """Apply the upload rate of a session that has one; it adds headers itself."""
    rates = proxy.rates
    if rates is not None and rates.upload is not None:
        return rates
    return _put_header(proxy, sink) if proxy.conf.is_headed else sink


def _put_header(proxy: UdpProxy, sink: Sink) -> Sink:
    """Have a header put in front of every datagram."""
    return Headed(proxy)


def _filter(proxy: UdpProxy, sink: Sink) -> Sink:
    """Have the filter of a session take the client's datagrams, where it looks at them."""
    filtered = proxy.filtered
    assert filtered is not None
    return filtered.front()


def _gate(proxy: UdpProxy, sink: Sink) -> Sink:
    """Have a client's datagrams pass the limits that they count by."""
    gate = proxy.s.server.gate
    assert gate is not None
    return gate(proxy.s, sink)


def within(proxy: UdpProxy) -> Sink:
    """Return what takes datagrams that are the session's already: they pass no quota, no filter."""
    conf = proxy.conf
    sink: Sink = proxy
    if conf.is_rated:
        return _limit(proxy, sink)
    return _put_header(proxy, sink) if conf.is_headed else sink


def chosen(
    conf: ProxyConf, *, is_filtered: bool = False, is_gated: bool = False
) -> tuple[Step, ...]:
    """Choose the steps of a server's sessions, in the order in which they are made.

    Args: is_filtered: they have filters, each of which has the first of these steps itself;
    is_gated: their datagrams are limited
    """
    steps: list[Step] = []
    if is_filtered:
        steps.append(_filter)
    elif conf.is_rated:
        steps.append(_limit)
    elif conf.is_headed:
        steps.append(_put_header)
    if conf.requests:
        steps.append(Quota)
    if is_gated:
        steps.append(_gate)
    if conf.amplification:
        steps.append(udp_amplification.step)
    if conf.quic is not None:
        steps.append(udp_quic.step)
    return tuple(steps)
