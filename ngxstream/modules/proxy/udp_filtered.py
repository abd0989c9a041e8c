"""UDP sessions whose server has filters: what datagrams pass on both ways, and how they count.

A Filtered stands between the session and its client's table, and reads the server's answers in the
session's place where these are filtered. A direction that is not goes its usual way.

1. The client's datagrams count when they come (`requests`); the server owes answers to those that
   are sent to it: `spared` are the client's that were not, less those that were sent besides.
   Answers count when they come from the server, whatever the client gets.
2. The first datagram that is sent is the one that fails over to other servers, and that has the
   PROXY header of a session: it has passed the filter once.
3. A session does not end for having all its answers while a filter has something to do.
4. What a filter sends goes past the steps of a session (rates, headers) like the client's own.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import log
from ngxstream.modules.proxy import udp_steps
from ngxstream.modules.proxy.conf import UNLIMITED
from ngxstream.stream.filtering import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from ngxstream.event.udp_clients import Sink
    from ngxstream.modules.proxy.udp import UdpProxy
    from ngxstream.stream.filtering import Datagrams

# payload of the largest datagram, by the family of the socket
LARGEST: Final = {socket.AF_INET: 65_507, socket.AF_INET6: 65_527}


class Filtered:
    """The filter of one session, in its place in front of the client's and the server's socket."""

    __slots__ = (
        "c",
        "filter",  # Datagrams | None: None where the session has none
        "first",  # bytes | None: the client's datagram that it was given first
        "passed",  # bytes | None: the datagram that was sent first
        "largest",  # int: bytes of a datagram to the client
        "proxy",
        "sink",  # what takes datagrams to the server
    )

    def __init__(self, proxy: UdpProxy) -> None:
        """Make the filter of a session, which may have ended then."""
        self.c = proxy.c
        self.proxy = proxy
        self.filter: Datagrams | None = None
        self.first: bytes | None = None
        self.passed: bytes | None = None
        self.largest = LARGEST.get(proxy.c.table.family, 1 << 30)  # type: ignore[union-attr,arg-type]
        self.sink: Sink = udp_steps.within(proxy)
        proxy.filtered = self
        filters = proxy.s.server.filters
        assert filters is not None
        self.filter = filters.begin_udp(
            proxy.s,
            Outlet(self.to_server, self._lose, self._rest),
            Outlet(self.to_client, self._lose, self._rest),
        )
        if proxy.s.status:
            self.close()

    @property
    def is_busy(self) -> bool:
        """Whether datagrams wait in it."""
        found = self.filter
        return found is not None and any(
            way is not None and way.is_busy for way in (found.up, found.down)
        )

    # -- from the client -----------------------------------------------------------------------

    def front(self) -> Sink:
        """Return what takes the client's datagrams."""
        return self.sink if self.filter is None or self.filter.up is None else self

    def begin(self) -> None:
        """Send the first datagram, or what the filter makes of it; again to another server."""
        proxy = self.proxy
        if self.front() is not self or (self.passed is not None and self.passed is proxy.first):
            proxy.send_first()
        elif self.first is not proxy.first:
            self.first = proxy.first
            self.passed = None
            proxy.spared += 1
            self.filter.up.give([self.first])  # type: ignore[union-attr]

    def begin_anew(self, passed: bytes | None) -> None:
        """Begin with another server. Args: passed: what goes first, and has passed the filter"""
        self.first = self.passed = passed

    def take(self, views: list[memoryview]) -> None:
        """Give the filter what the client sent. # hot: once a client and turn"""
        proxy = self.proxy
        datagrams = list(map(bytes, views))
        count = len(datagrams)
        proxy.requests += count
        proxy.spared += count
        self.c.received += sum(map(len, datagrams))
        proxy.deadline = proxy.loop.now_ms + proxy.timeout
        self.filter.up.give(datagrams)  # type: ignore[union-attr]
        if proxy.expected != UNLIMITED:
            proxy.settle()

    def take_burst(self, view: memoryview, size: int) -> None:
        """Give the filter the datagrams of a coalesced message."""
        self.take([view[at : at + size] for at in range(0, len(view), size)])

    def to_server(self, datagrams: list[bytes]) -> None:
        """Send datagrams to the server; their answers are owed."""
        proxy = self.proxy
        if self.passed is None and self.front() is self and proxy.pc is not None:
            self.passed = proxy.first = datagrams[0]
            proxy.spared -= 1
            proxy.send_first()
            datagrams = datagrams[1:]
        if not datagrams or proxy.pc is None:
            return
        # the sink counts them as the client's
        proxy.requests -= len(datagrams)
        proxy.spared -= len(datagrams)
        self.c.received -= sum(map(len, datagrams))
        self.sink.take(datagrams)  # type: ignore[arg-type]

    # -- from the server -----------------------------------------------------------------------

    def reader(self, usual: Callable[[int], None]) -> Callable[[int], None]:
        """Return what reads the server's answers. Args: usual: what does where none are filtered"""
        return usual if self.filter is None or self.filter.down is None else self.on_event

    def on_event(self, mask: int) -> None:
        """Give the filter the server's answers. # hot: once a session and turn"""
        proxy = self.proxy
        rates, limit = proxy.rates, proxy.limit
        if rates is not None:
            if not rates.may_read():
                return
            limit = 1
            attempt, before = rates.received()
        owed = proxy.requests - proxy.spared - proxy.responses
        if limit > owed > 0:
            limit = owed
        slots, receive = proxy.loop.slots, proxy.pc.recv_into
        datagrams: list[bytes] = []
        failure = None
        try:
            for slot in slots[:limit]:
                n = receive(slot)
                datagrams.append(bytes(slot[:n]))
        except BlockingIOError:
            proxy.limit = max(1, len(datagrams))
        except OSError as error:
            failure = error
        else:
            if limit == proxy.limit:
                proxy.limit = min(len(slots), limit * 2)
        if datagrams:
            state: Any = proxy.state
            if state.first_byte_ms < 0:
                proxy.first_byte()
            proxy.responses += len(datagrams)
            state.bytes_received += sum(map(len, datagrams))
            proxy.deadline = proxy.loop.now_ms + proxy.timeout
            if rates is not None:
                rates.note_read(attempt, before)
            self.filter.down.give(datagrams)  # type: ignore[union-attr]
        if proxy.s.status:
            return
        if failure is not None:
            proxy.on_refused(failure)
        elif proxy.expected != UNLIMITED:
            proxy.settle()

    def to_client(self, datagrams: list[bytes]) -> None:
        """Send datagrams to the client."""
        proxy = self.proxy
        if len(datagrams) == 1 and len(datagrams[0]) <= self.largest:
            proxy.answer(datagrams[0])  # type: ignore[arg-type]
            return
        if max(map(len, datagrams)) > self.largest:
            fitting = [data for data in datagrams if len(data) <= self.largest]
            self._lose(len(datagrams) - len(fitting))
            proxy.s.log_error(log.ERR, "datagram of a filter is too large to be sent")
            datagrams = fitting
        proxy.answer_many(datagrams)  # type: ignore[arg-type]

    # -- both ----------------------------------------------------------------------------------

    def _lose(self, count: int) -> None:
        self.proxy.dropped += count

    def _rest(self) -> None:
        """See whether the session is over, now that nothing waits any more."""
        proxy = self.proxy
        if proxy.expected != UNLIMITED:
            proxy.settle()

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.proxy.on_fault()

    def close(self) -> None:
        """Let go of everything."""
        found, self.filter = self.filter, None
        if found is not None:
            found.close()


def resume(proxy: UdpProxy, *, has_sent: bool) -> None:
    """Make the filter of a session anew that came from another process, and go on with it."""
    filtered = Filtered(proxy)
    if proxy.s.status:
        return
    filtered.first = proxy.first
    filtered.passed = proxy.first if has_sent else None
    proxy.watch()
    found = filtered.filter
    if found is not None:
        proxy.loop.post(found.go_on)


def send(proxy: UdpProxy, data: bytes) -> None:
    """Send the server a datagram that a script has made; its answer is owed."""
    filtered = proxy.filtered
    if filtered is not None:
        filtered.to_server([data])
        return
    proxy.requests -= 1
    proxy.spared -= 1
    proxy.c.received -= len(data)
    udp_steps.within(proxy).take([memoryview(data)])


def answer(proxy: UdpProxy, data: bytes) -> None:
    """Send the client a datagram that a script has made. Raises: BufferError for one without room

    It counts as no answer of the server.
    """
    dropped = proxy.dropped
    proxy.answer(data)  # type: ignore[arg-type]
    if proxy.dropped > dropped:
        raise BufferError("too many datagrams wait to be sent to the client")
