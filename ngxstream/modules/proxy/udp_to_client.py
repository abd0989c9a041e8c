"""The server's answers on their way to the client: drained, counted, sent on as they came.

Answers for ngx_stream_proxy_process, from upstream, SOCK_DGRAM (ngx_stream_proxy_module.c).

What the server answered in one turn leaves in one GSO message towards the client
(event/datagram.py). How many answers a drain reads without asking for EAGAIN is learnt (`limit`):
where one answer comes for each question, nothing more is there when as many were read as were asked
for. Learnt is also whether the server sends with GSO itself (`gro`).
"""

from __future__ import annotations

from typing import Any

from ngxstream.core import codes, log
from ngxstream.event import datagram
from ngxstream.modules.proxy import handler
from ngxstream.modules.proxy.conf import UNLIMITED
from ngxstream.modules.proxy.udp_exchange import Exchange
from ngxstream.stream import endings
from ngxstream.stream.upstream import FIRST_BYTE


class ToClient(Exchange):
    """The downward half of a session."""

    __slots__ = ()

    def on_event(self, mask: int) -> None:
        """Drain the server's answers to the client.

        # hot: as a rule it is one answer, with one receive and one send
        """
        responses = self.responses + 1
        is_owed_more = self.requests != responses
        if is_owed_more and self.limit != 1:
            self.drain(mask)
            return
        slot = self.loop.slot
        try:
            n = self.pc.recv_into(slot)
        except BlockingIOError:
            return
        except OSError as error:
            self.on_refused(error)
            return
        self.responses = responses
        state: Any = self.state
        if state.first_byte_ms < 0:
            self.first_byte()
        state.bytes_received += n
        # more are owed, or worth a look now and then: drain two next time
        if (is_owed_more or not responses & 63) and self.limit == 1:
            self.limit = 2
        c = self.c
        if self.control is None:  # as answer() does
            try:
                c.sent += c.sock.sendto(slot[:n], self.client)  # type: ignore[union-attr]
            except BlockingIOError:
                self._answer_later((slot[:n],))
            except OSError as error:
                self._answer_failed(error)
        else:
            self.answer(slot[:n])
        if self.expected == UNLIMITED or not self.settle():
            self.deadline = self.loop.now_ms + self.timeout

    def drain(self, mask: int) -> None:
        """Drain as many answers as there may be."""
        slots = self.loop.slots
        limit = self.limit
        owed = self.requests - self.responses
        if limit > owed > 0:
            limit = owed
        if self.expected != UNLIMITED:  # what is not asked for is nobody's answer
            limit = min(limit, max(1, self.due - self.responses))
        receive = self.pc.recv_into
        views = []
        failure = None
        try:
            for slot in slots[:limit]:
                n = receive(slot)
                views.append(slot[:n])
        except BlockingIOError:
            self.limit = max(1, len(views))
        except OSError as error:
            failure = error
        else:
            if limit == self.limit:
                self.limit = min(len(slots), limit * 2)
        if views:
            if self.state.first_byte_ms < 0:  # type: ignore[union-attr]
                self.first_byte()
            self.responses += len(views)
            self.state.bytes_received += sum(map(len, views))  # type: ignore[union-attr]
            if len(views) == 1:
                self.answer(views[0])
            else:
                self.answer_many(views)
                if len(views) >= 8 and not self.s.status:
                    self._hint(views)
        if failure is not None and not self.s.status:
            self.on_refused(failure)
            return
        if self.expected == UNLIMITED or not self.settle():
            self.deadline = self.loop.now_ms + self.timeout

    def first_byte(self) -> None:
        """Note the time of the first answer, or of the first refusal."""
        state = self.state
        assert state is not None
        state.first_byte_ms = self.loop.now_ms - state.start_ms
        self.first = b""
        peer = self.peer
        if peer is not None:
            peer.state.heard_ms = self.loop.now_ms
            self.selection.notify(peer, FIRST_BYTE)

    def on_event_gro(self, mask: int) -> None:
        """Drain the answers of a server that sends with GSO."""
        slots = self.loop.slots
        count = 0
        dry = False
        for slot in slots[:16]:
            try:
                n, ancillary, _, _ = self.pc.recvmsg_into((slot,), 64)
            except BlockingIOError:
                dry = True
                break
            except OSError as error:
                self.on_refused(error)
                return
            view = slot[:n]
            _, size = datagram.facts(ancillary)
            self.state.bytes_received += n  # type: ignore[union-attr]
            if 0 < size < n:
                count = -(-n // size)
                self.responses += count
                self.gro_hints = 0
                self.answer_burst(view, size)
            else:
                self.responses += 1
                self.gro_hints += 1
                self.answer(view)
            if self.s.status:
                return
        # what is queued would be read as one datagram
        if dry and self.gro_hints > 512 and self.queue is None:
            self.gro_hints = -(1 << 30)  # this server does not coalesce: not tried again
            self.gro = False
            datagram.set_gro(self.pc, False)
            self.loop.register(self.pc_fd, self.on_event)
        self.deadline = self.loop.now_ms + self.timeout
        if self.expected != UNLIMITED:
            self.settle()

    def _hint(self, views: list[memoryview]) -> None:
        """Notice long runs of one size: the server may be sending with GSO."""
        size = len(views[0])
        if self.queue is None and all(len(view) == size for view in views[1:-1]):
            self.gro_hints += 1
            if self.gro_hints == 4 and not self.gro and datagram.set_gro(self.pc, True):
                self.gro = True
                self.gro_hints = 0
                self.loop.register(self.pc_fd, self.on_event_gro)

    def answer(self, view: memoryview) -> None:
        """Send one datagram to the client. # hot"""
        sock: Any = self.c.sock
        try:
            if self.control is None:
                sent = sock.sendto(view, self.client)
            else:
                sent = sock.sendmsg((view,), self.control, 0, self.client)
        except BlockingIOError:
            self._answer_later((view,))
            return
        except OSError as error:
            self._answer_failed(error)
            return
        self.c.sent += sent

    def answer_many(self, views: list[memoryview]) -> None:
        """Send several datagrams to the client, in as few messages as their sizes allow."""
        if not self.client_gso:
            self._answer_each(views)
            return
        control = self.control or []
        sock: Any = self.c.sock
        send = sock.sendmsg
        for first, end, size in datagram.runs(views):
            if end - first == 1:
                self.answer(views[first])
                if self.s.status:
                    return
                continue
            try:
                self.c.sent += send(
                    views[first:end], control + datagram.segment_control(size), 0, self.client
                )
            except BlockingIOError:
                self._answer_later(views[first:end])
            except OSError as error:
                if not datagram.is_no_gso(error):
                    self._answer_failed(error)
                    return
                self.client_gso = False
                self.s.log_error(log.INFO, "answering datagrams one by one", error.errno)
                self._answer_each(views[first:])
                return

    def answer_burst(self, view: memoryview, size: int) -> None:
        """Send a coalesced message on as it came."""
        if not self.client_gso:
            self.answer_many(datagram.split(view, size))
            return
        sock: Any = self.c.sock
        try:
            self.c.sent += sock.sendmsg(
                (view,), (self.control or []) + datagram.segment_control(size), 0, self.client
            )
        except BlockingIOError:
            self._answer_later(datagram.split(view, size))
        except OSError as error:
            if not datagram.is_no_gso(error):
                self._answer_failed(error)
                return
            self.client_gso = False
            self.s.log_error(log.INFO, "answering datagrams one by one", error.errno)
            self._answer_each(datagram.split(view, size))

    def _answer_each(self, views: list[memoryview]) -> None:
        for view in views:
            self.answer(view)
            if self.s.status:
                return

    def _answer_later(self, views: Any) -> None:
        for view in views:
            try:
                self.c.sent += self.c.table.send_to(self.c, bytes(view))  # type: ignore[union-attr]
            except BlockingIOError:
                self.dropped += 1
            except OSError as error:
                self._answer_failed(error)
                return

    def _answer_failed(self, error: OSError) -> None:
        s = self.s
        s.action = "proxying and sending to client"
        s.log_error(handler.client_level(error), "sendmsg() failed", error.errno)
        s.end(codes.STREAM_OK, endings.of_client(error))
