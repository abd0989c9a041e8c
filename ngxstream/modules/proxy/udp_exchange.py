"""What a proxied UDP session holds, how it connects again, and what ends it.

Answers for the SOCK_DGRAM branches of ngx_stream_proxy_module.c, but for the bytes themselves:
those are of udp_to_client.py and udp_to_server.py, which extend this class, and udp.py makes the
whole of it.

What ends a session (R is proxy_requests, N is proxy_responses):
    datagrams < R            it goes on
    datagrams = R            it is taken out of the table: the client's next datagram begins anew
    responses >= N x datagrams, nothing queued         "udp done", 200
    idle for proxy_timeout, responses as expected      "udp timed out", 200
    idle for proxy_timeout, responses missing          "upstream timed out", 502, peer failed
    refused before any response                        the next server, or 502
    its server is found unhealthy                      another server, with the next datagram
                                                       (udp_leaving.py)
    room is needed for a new client                    the session idle longest gives way, 200
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ngxstream.core import codes, log
from ngxstream.event import udp_clients
from ngxstream.event.connect import UNIX
from ngxstream.modules.proxy import handler, udp_amplification
from ngxstream.modules.proxy.conf import UNLIMITED
from ngxstream.modules.proxy.udp_rated import Rates
from ngxstream.stream import endings
from ngxstream.wire import proxy_protocol

if TYPE_CHECKING:
    from ngxstream.event.connection import Table
    from ngxstream.modules.proxy.udp_filtered import Filtered
    from ngxstream.stream.endings import Ending
    from ngxstream.stream.session import Session

NEVER_MS: Final = 1 << 62
NOTHING: Final = (0, 0, 0)


class Exchange(handler.Proxy):
    """The counts of a session, and how it ends."""

    __slots__ = (
        "client",  # sockaddr answers go to
        "control",  # control data answers carry (source address), or None
        "before",  # (requests, responses, dropped) of servers that it has left as unhealthy
        "requests",  # int: datagrams from the client to the server that it has
        "responses",  # int: from that one
        "expected",  # int: proxy_responses
        "failed",  # bool: the peer counts as failed at the end
        "gso",  # bool: the path to the server takes GSO
        "client_gso",
        "queue",  # list[bytes] | None: waiting for room towards the server
        "dropped",
        "limit",  # how many answers a drain reads without asking for EAGAIN
        "first",  # bytes: the first datagram, kept until it is answered
        "gro_hints",
        "gro",
        "family",  # of a socket that may be recycled at the end, or 0
        "rates",  # Rates | None: where the configuration has any
        "filtered",  # Filtered | None: where the server has filters (udp_filtered.py)
        "spared",  # int: requests that are owed no answer: a filter has not sent them on
        "is_lent",  # bool: the socket is not the session's own, see conf.Lender
    )

    def __init__(self, s: Session) -> None:
        handler.Proxy.__init__(self, s)
        c, conf = s.c, self.conf
        table: Table = c.table  # type: ignore[assignment]
        self.control = table.control_for(c)
        self.client = udp_clients.peer_of(c.key)
        self.before = NOTHING
        self.requests = 1
        self.responses = 0
        self.expected = conf.responses
        self.failed = False
        self.gso = True
        self.client_gso = table.family != UNIX  # where no GSO message is cut
        self.queue: list[bytes] | None = None
        self.dropped = 0
        self.limit = 1
        self.first = s.preread
        self.gro_hints = 0
        self.gro = False
        self.family = 0
        self.filtered: Filtered | None = None
        self.spared = 0
        self.rates = Rates(self) if conf.is_rated else None
        if conf.amplification:
            udp_amplification.begin(self)
        self.is_lent = False

    def proxy_header(self) -> bytes:
        """Return the PROXY protocol header that goes in front of a datagram."""
        src, dst = self.c.sockaddr, self.c.local_sockaddr()
        if self.conf.proxy_protocol == 1:
            return proxy_protocol.build_v1(src, dst)
        return proxy_protocol.build_v2(src, dst, proxy_protocol.DGRAM)

    def on_refused(self, error: OSError) -> None:
        """The server's host refused a datagram (ICMP): a failure of the peer.

        Before any response the next server gets the first datagram; after one, the refusal is a
        response like another, as in nginx.

        Source: ngx_stream_proxy_process (recv error on a datagram socket)
        """
        s = self.s
        s.action = "proxying and reading from upstream"
        s.log_error(handler.upstream_level(error), "recv() failed", error.errno)
        s.action = "proxying connection"
        if not self.responses:
            self.fail_over(endings.CONNECT_FAILED)
            return
        self.failed = True
        self.responses += 1
        self.deadline = self.loop.now_ms + self.timeout
        self.settle()

    def fail_over(self, failure: Ending) -> None:
        """Go on to the next server with the first datagram, or end as 502 when there is none.

        Args: failure: how the session ends then
        """
        rates = self.rates
        # what followed it went to servers that refuse
        self.dropped = max(0, self.requests - self.spared - 1)
        if rates is not None:
            rates.stop()  # the pauses of the former one are over
            self.dropped -= len(rates.delayed)  # they were not sent yet
        self.loop.timers.remove(self)
        self.queue = None
        self.family = 0
        self.next_upstream(failure)
        if rates is not None and self.pc is not None:
            rates.wait()

    def change_server(self, views: list[memoryview]) -> list[memoryview]:
        """Leave the server, and begin with another one of the group by a datagram of the client.

        What was asked of the former one is not waited for any more: its answers, if there are any,
        come too late. The tries and the time of proxy_next_upstream begin anew, and the server that
        is left counts as the first try.

        Args: views: what has come, at least one. Returns: what is left of it
        """
        s, loop, rates, state = self.s, self.loop, self.rates, self.state
        s.log_error(log.INFO, "upstream server is unhealthy, trying another one")
        assert state is not None
        state.session_ms = loop.now_ms - state.start_ms
        loop.timers.remove(self)
        waiting = 0 if rates is None else len(rates.delayed)
        requests, responses, dropped = self.before
        self.before = (
            requests + self.requests - waiting, responses + self.responses,
            dropped + self.dropped + len(self.queue or ()),
        )
        self._free(self.failed)
        self.family = 0
        self._close_peer()
        self.requests, self.responses, self.dropped, self.spared = waiting, 0, 0, 0
        first = None if rates is None else rates.begin_anew()
        if self.filtered is not None:
            self.filtered.begin_anew(first)
        if first is None:
            first, views = bytes(views[0]), views[1:]
            self.requests = 1
            self.c.received += len(first)
        self.first = first
        self.failed = self.gro = False
        self.gso = True
        self.queue = None
        self.gro_hints = 0
        self.limit = 1
        self.started_ms = loop.now_ms
        self.selection = self.upstream.balancer.select(s)  # type: ignore[union-attr]
        self.limit_tries()
        if self.selection.tries:  # 0 on the way to an only server
            self.selection.tries -= 1
        self.connect()
        if rates is not None and self.pc is not None:
            rates.wait()
        return views

    def settle(self) -> bool:
        """End the session if all has come; tell whether. Source: ngx_stream_proxy_test_finalize"""
        conf = self.conf
        if self.s.status:
            return True
        if conf.requests:
            if self.requests < conf.requests:
                return False
            self.c.table.forget(self.c)  # type: ignore[union-attr]
        expected = self.expected
        if expected == UNLIMITED or self.responses < expected * (self.requests - self.spared):
            return False
        if self.queue is not None or (self.rates is not None and self.rates.delayed):
            return False
        if self.filtered is not None and self.filtered.is_busy:
            return False
        s = self.s
        if s.log.level >= log.INFO:
            self._log_end("udp done")
        s.finalize(codes.STREAM_OK)
        return True

    @property
    def due(self) -> int:
        """How many answers the client's datagrams are owed."""
        return self.expected * (self.requests - self.spared)

    def _log_end(self, what: str) -> None:
        """Say at level info why the session ends, and what it has moved."""
        c, state = self.c, self.state
        received, sent = (0, 0) if state is None else (state.bytes_received, state.bytes_sent)
        requests, responses, lost = self.before  # hot: most have left no server
        lost += self.dropped
        dropped = f", dropped:{lost}" if lost else ""
        self.s.log.write(
            log.INFO,
            f"*{c.number} {what}, "
            f"packets from/to client:{requests + self.requests}/{responses + self.responses}, "
            f"bytes from/to client:{c.received}/{c.sent}, "
            f"bytes from/to upstream:{received}/{sent}{dropped}",
        )

    @property
    def active_ms(self) -> int:
        """When something moved last, loop ms; NEVER while nothing can tell."""
        deadline = self.deadline
        return deadline - self.timeout if deadline and self.pc is not None else NEVER_MS

    @property
    def conversing(self) -> bool:
        """Whether both sides have spoken more than once: no forged source does."""
        requests, responses = self.datagrams()
        return requests > 1 and responses > 0

    def give_way(self) -> None:
        """End to free a slot for a new client."""
        s = self.s
        if s.log.level >= log.INFO:
            self._log_end("udp session gives way to a new client")
        s.end(codes.STREAM_OK, endings.EVICTED)

    def on_timeout(self) -> None:
        """Nothing moved for proxy_timeout; a direction that has to rest does not count.

        Source: ngx_stream_proxy_process, which removes the timer while one is delayed
        """
        s = self.s
        if self.rates is not None and self.rates.is_resting:
            self.deadline = self.loop.now_ms + self.timeout
            self.loop.timers.add(self)
            return
        if self.expected == UNLIMITED or self.responses >= self.due:
            if s.log.level >= log.INFO:
                self._log_end("udp timed out")
            s.finalize(codes.STREAM_OK)
            return
        s.log_error(log.ERR, "upstream timed out", errno.ETIMEDOUT)
        self.failed = True
        s.end(codes.BAD_GATEWAY, endings.UPSTREAM_TIMEOUT)

    def ending(self) -> Ending:
        """Return which of settle() and on_timeout() has ended the session."""
        is_enough = self.expected != UNLIMITED and self.responses >= self.due
        is_complete = is_enough and self.queue is None
        if is_complete and self.requests >= self.conf.requests:
            return endings.RESPONSES_COMPLETE
        return endings.IDLE

    def counts(self) -> tuple[int, int, int, int]:
        """Return bytes from and to the client, from and to the upstream."""
        state = self.state
        if state is None:
            return self.c.received, self.c.sent, 0, 0
        return self.c.received, self.c.sent, state.bytes_received, state.bytes_sent

    def datagrams(self) -> tuple[int, int]:
        """Return how many came from the client, and from the servers for it."""
        requests, responses, _ = self.before
        return requests + self.requests, responses + self.responses

    @property
    def dropped_in_all(self) -> int:
        """How many datagrams found no room or no server."""
        return self.before[2] + self.dropped

    def leave(self) -> None:
        """Stop what goes on here in the background."""
        # they refer to this session: no cycle may stay
        rates, self.rates = self.rates, None
        filtered, self.filtered = self.filtered, None
        if rates is not None:
            rates.stop()
        if filtered is not None:
            filtered.close()

    def close(self) -> None:
        """Free the peer and its socket."""
        loop, state, pc = self.loop, self.state, self.pc
        loop.timers.remove(self)
        if state is not None:
            state.session_ms = loop.now_ms - state.start_ms
        self._free(self.failed)
        if self.rates is not None:
            self.dropped += len(self.rates.delayed)
            if self.rates.download_timer is not None:
                self.family = 0  # its socket is not watched: it cannot rest among the others
            self.leave()
        elif self.filtered is not None:
            self.leave()
        if (
            pc is not None
            and self.family
            and not self.gro
            and self.queue is None
            and self.c.table.sockets.give(  # type: ignore[union-attr]
                pc, self.pc_fd, self.family)
        ):
            self.pc = None
            loop.free_connections += 1
        else:
            self._close_peer()

    def _close_peer(self) -> None:
        """Close the socket, or leave it to whom it belongs."""
        if not self.is_lent:
            if not self.family and self.pc is not None:  # another process may have a copy
                self.loop.unregister(self.pc_fd)
            super()._close_peer()
        elif self.pc is not None:
            self.pc = None
            self.loop.free_connections += 1
