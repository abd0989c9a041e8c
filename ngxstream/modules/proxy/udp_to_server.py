"""The client's datagrams on their way to the server: one by one, as a burst, or waiting for room.

Answers for the sending half of ngx_stream_proxy_process, from the client, SOCK_DGRAM
(ngx_stream_proxy_module.c).

What the listener drained for a client in one turn leaves in one GSO message where sizes allow
(event/datagram.py); a path that cannot do GSO is found out once and noted at info. Without room in
the socket up to QUEUED datagrams wait, in order.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, Final

from ngxstream.core import codes, log
from ngxstream.event import datagram, poller
from ngxstream.modules.proxy import handler
from ngxstream.modules.proxy.udp_to_client import ToClient
from ngxstream.stream import endings

QUEUED: Final = 64  # datagrams waiting for room towards the server


class ToServer(ToClient):
    """The upward half of a session."""

    __slots__ = ()

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Send on what the client sent. # hot: once a client and turn"""
        if len(views) == 1:
            view = views[0]
            self.requests += 1
            self.c.received += len(view)
            if self.queue is None:  # as send() does
                try:
                    self.state.bytes_sent += self.pc.send(view)  # type: ignore[union-attr]
                except BlockingIOError:
                    self._enqueue(view)
                except OSError as error:
                    self.send_failed(error)
            else:
                self._enqueue(view)
        else:
            self.requests += len(views)
            self.c.received += sum(map(len, views))
            self.send_many(views)
        self.deadline = self.loop.now_ms + self.timeout
        if not self.expected:
            self.settle()
        return None

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Send on a coalesced message as it came."""
        count = -(-len(view) // size)
        self.requests += count
        self.c.received += len(view)
        if self.gso and self.queue is None:
            try:
                self.state.bytes_sent += self.pc.sendmsg(  # type: ignore[union-attr]
                    (view,), datagram.segment_control(size)
                )
            except OSError as error:
                if not self._burst_failed(error):
                    return None
                self._send_each(datagram.split(view, size))
        else:
            self._send_each(datagram.split(view, size))
        self.deadline = self.loop.now_ms + self.timeout
        if not self.expected:
            self.settle()
        return None

    def send(self, data: bytes | memoryview) -> None:
        """Send one datagram to the server, or queue it when there is no room."""
        if self.queue is not None:
            self._enqueue(data)
            return
        try:
            self.state.bytes_sent += self.pc.send(data)  # type: ignore[union-attr]
        except BlockingIOError:
            self._enqueue(data)
        except OSError as error:
            self.send_failed(error)

    def send_many(self, views: list[memoryview]) -> None:
        """Send several datagrams, in as few messages as their sizes allow."""
        if not self.gso or self.queue is not None:
            self._send_each(views)
            return
        pc: Any = self.pc
        for first, end, size in datagram.runs(views):
            if end - first == 1:
                self.send(views[first])
                if self.pc is not pc or self.queue:
                    self._send_rest(pc, views[end:])
                    return
                continue
            try:
                self.state.bytes_sent += pc.sendmsg(  # type: ignore[union-attr]
                    views[first:end], datagram.segment_control(size)
                )
            except OSError as error:
                if self._burst_failed(error):
                    self._send_each(views[first:])
                else:
                    self._send_rest(pc, views[end:])
                return

    def _send_each(self, views: Sequence[bytes | memoryview]) -> None:
        pc = self.pc
        for n, view in enumerate(views, 1):
            self.send(view)
            if self.pc is not pc:
                self._send_rest(pc, views[n:])
                return

    def _send_rest(self, pc: Any, views: Sequence[bytes | memoryview]) -> None:
        """Go on when a send to `pc` had no room, or was refused and there is a next server."""
        if self.pc is None or not views:
            return
        if self.pc is not pc:
            self.dropped -= len(views)  # fail_over() took them for lost
        self._send_each(views)

    def _burst_failed(self, error: OSError) -> bool:
        """Tell whether the datagrams of a failed burst should be sent one by one."""
        if isinstance(error, BlockingIOError):
            return True
        if datagram.is_no_gso(error):
            self.gso = False
            self.s.log_error(log.INFO, "sending datagrams one by one", error.errno)
            return True
        self.send_failed(error)
        return False

    def send_failed(self, error: OSError) -> None:
        """A failed send counts against the peer, and ends the session if it was answered before.

        A datagram that is too large, by itself or with a header, is no failure of the peer: it is
        dropped.
        """
        s = self.s
        if error.errno == errno.EMSGSIZE:
            self.dropped += 1
            s.log_error(log.ERR, "datagram is too large to be sent", error.errno)
            return
        s.action = "proxying and sending to upstream"
        s.log_error(handler.upstream_level(error), "sendmsg() failed", error.errno)
        if not self.responses:
            self.fail_over(endings.CONNECT_FAILED)
            return
        self.failed = True
        s.end(codes.STREAM_OK, endings.of_upstream(error))

    def _enqueue(self, data: bytes | memoryview) -> None:
        queue = self.queue
        if queue is None:
            queue = self.queue = []
            self.watch()
        if len(queue) >= QUEUED:
            self.dropped += 1
        else:
            queue.append(bytes(data))

    def watch(self) -> None:
        """Hear of the server's answers, unless they rest, and of room for what waits."""
        loop, rates = self.loop, self.rates
        on_event: Callable[[int], None] = self.on_event_gro if self.gro else self.on_event
        if rates is not None:
            on_event = rates.on_event
        if self.filtered is not None:
            on_event = self.filtered.reader(on_event)
        mask = poller.LEVEL if rates is None or rates.download_timer is None else 0
        if self.queue is not None:
            on_event = _Room(self, on_event).on_event
            mask |= poller.OUT
        loop.unregister(self.pc_fd)
        if mask:
            loop.register(self.pc_fd, on_event, mask)

    def flush(self) -> bool:
        """Send what waited for room. Returns: whether all of it is gone"""
        queue, pc = self.queue or [], self.pc
        while queue:
            try:
                self.state.bytes_sent += pc.send(queue[0])  # type: ignore[union-attr]
            except BlockingIOError:
                return False
            except OSError as error:
                self.send_failed(error)
                if self.pc is not pc:  # the session is over, or the next server has the first one
                    self._send_rest(pc, queue[1:])
                    return False
            queue.pop(0)
        self.queue = None
        return True


class _Room:
    """Waits, in a session's place, for room towards its server."""

    __slots__ = ("proxy", "go_on")

    def __init__(self, proxy: ToServer, go_on: Callable[[int], None]) -> None:
        self.proxy = proxy
        self.go_on = go_on

    def on_event(self, mask: int) -> None:
        """Send what waits, then let the session's own handler have the socket back."""
        proxy = self.proxy
        if mask & poller.OUT and proxy.flush():
            proxy.watch()
            if proxy.settle():
                return
        if mask & poller.READABLE and not proxy.s.status:
            self.go_on(mask)

    def on_fault(self) -> None:
        """End the session in whose place this one waits."""
        self.proxy.on_fault()
