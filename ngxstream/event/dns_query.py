"""Questions on their way to DNS servers: UDP with resends, TCP for answers that do not fit.

Answers for the sending half of ngx_resolver.c (ngx_resolver_send_query, ngx_resolver_resend,
ngx_resolver_udp_read, ngx_resolver_tcp_read).

What becomes of a question:

1. It is asked once, however many wait for its reply.
2. Each time it is sent it goes from a socket of its own, to one server: identifier and source port
   are new, and the kernel lets nobody but that server's address answer. A response that has not
   our identifier and question is passed over; after STRAYS of them somebody is guessing, and the
   question is asked over TCP, where guessing is harder.
3. A silent server is followed by the next one, and asked last for a while. One that says "server
   failure" or the like is followed at once, and not asked this question again. The reply is a
   failure when all servers have failed; while some are silent, those who wait time out.
4. No more than IN_FLIGHT questions are on their way; the others queue.
5. Responses share each turn of the loop with everybody else: no more than TURN_BYTES of them are
   read in one, and those who wait for a reply are called TOLD a turn.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import errors, inet, log
from ngxstream.event import poller
from ngxstream.event.connection import raw_socket
from ngxstream.event.portions import Portions
from ngxstream.wire import dns, dns_names, reader

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

ROUND_MS: Final = 5000  # a server is asked the same question at most this often
LEAST_MS: Final = 1000  # before the next server is asked in a silent one's place
STREAM_MS: Final = 5000  # for an answer over TCP
SHUN_MS: Final = 30_000  # a silent server is asked last for so long
STRAYS: Final = 16
BURST: Final = 8  # datagrams read in one turn
SENT: Final = 4  # sockets of one question that are still listened to
IN_FLIGHT: Final = 128
TURN_BYTES: Final = 65536  # of responses read in one turn: some 3 ms of a worker at worst
OVERHEAD: Final = 512  # what a response counts for besides its length
TOLD: Final = 64
_HEADER: Final = struct.Struct("!6H")
_KINDS: Final = {dns.A: "A", dns.AAAA: "AAAA", dns.SRV: "SRV"}


class Reply(NamedTuple):
    """What came of a question: code 0 with what was found, or a response code without."""

    code: int
    found: dns.Found | None


Done = Callable[[Reply], None]


class Asker:
    """Asks the servers of one `resolver` directive, in turn."""

    __slots__ = (
        "loop",
        "servers",  # tuple[inet.Addr, ...]
        "interval_ms",  # int: between two sendings of a question
        "shunned_ms",  # list[int]: until when each server is asked last
        "queries",  # dict[Question, Query]: under way or queued
        "turn",  # int: whose turn it is
        "replies",  # Portions: of the calls to those who wait
        "_active",  # int: queries under way
        "_queue",  # dict[Question, Query]: not begun, the first to come first
        "_read",  # int: bytes of responses read in this turn
        "_told_ms",  # int: when it was last logged that a response was truncated
    )

    def __init__(self, loop: Loop, servers: Sequence[inet.Addr]) -> None:
        self.loop = loop
        self.servers = tuple(servers)
        self.interval_ms = max(LEAST_MS, ROUND_MS // len(self.servers))
        self.shunned_ms = [0] * len(self.servers)
        self.queries: dict[dns.Question, Query] = {}
        self.turn = 0
        self.replies = Portions(loop, TOLD)
        self._active = 0
        self._queue: dict[dns.Question, Query] = {}
        self._read = 0
        self._told_ms = -SHUN_MS

    def ask(self, question: dns.Question, done: Done) -> None:
        """Ask, or wait for the reply to the same question; `done` is never called from here.

        Raises: DnsError for a name that has no wire form
        """
        query = self.queries.get(question)
        if query is not None:
            query.waiting[done] = None
            return
        dns_names.to_wire(question.name)
        query = self.queries[question] = Query(self, question, done)
        if self._active < IN_FLIGHT:
            self._active += 1
            query.begin()
        else:
            self._queue[question] = query

    def drop(self, question: dns.Question, done: Done) -> None:
        """Wait no longer; a question nobody waits for is not asked any more."""
        query = self.queries.get(question)
        if query is not None and done in query.waiting:
            del query.waiting[done]
            if not query.waiting:
                query.close()

    def choose(self, excluded: Collection[int]) -> int:
        """Return the number of the server to ask next, -1 if all are excluded."""
        count = len(self.servers)
        now = self.loop.now_ms
        turn = self.turn
        self.turn = (turn + 1) % count
        last_resort = -1
        for n in range(turn, turn + count):
            number = n % count
            if number in excluded:
                continue
            if self.shunned_ms[number] <= now:
                return number
            if last_resort < 0:
                last_resort = number
        return last_resort

    def closed(self, query: Query) -> None:
        """Take a query out; the next in the queue begins."""
        del self.queries[query.question]
        if not query.begun:
            del self._queue[query.question]
            return
        self._active -= 1
        if self._queue:
            following = self._queue.pop(next(iter(self._queue)))
            self._active += 1
            following.begin()

    def responded(self, code: int) -> None:
        """A server has responded to a question, by this code."""

    def may_read(self) -> bool:
        """Tell whether a response may be read in this turn."""
        return self._read < TURN_BYTES

    def count(self, size: int) -> None:
        """Count a message of so many bytes that was read in this turn."""
        if not self._read:
            self.loop.post(self._on_turn_end)
        self._read += OVERHEAD + size

    def _on_turn_end(self) -> None:
        self._read = 0

    def note_cut(self, number: int) -> None:
        """Log that a response had more than is read; not for each of them."""
        now = self.loop.now_ms
        if now - self._told_ms >= SHUN_MS:
            self._told_ms = now
            self.log_error(
                f"too large DNS response, only the first {dns.RECORDS} records or less are used",
                number,
                log.WARN,
            )

    def log_error(self, text: str, number: int, level: int = log.ERR) -> None:
        """Write an error_log line about a server. Source: ngx_resolver_log_error"""
        target = self.loop.log
        if level <= target.level:
            target.write(level, f"{text} while resolving, resolver: {self.servers[number].name}")


class Query:
    """One question under way. The loop's timers call it when its servers were silent."""

    __slots__ = (
        "asker",
        "question",
        "waiting",  # dict[Done, None]: in the order they came; none once it is closed
        "begun",
        "deadline",  # ms; of the wheel
        "tick",
        "exchanges",  # list[_Exchange]: open ones, oldest first
        "asked",  # set[int]: servers asked in this round
        "refused",  # set[int]: servers that answered with an error
        "noted",  # bool: a stray response was logged
    )

    def __init__(self, asker: Asker, question: dns.Question, done: Done) -> None:
        self.asker = asker
        self.question = question
        self.waiting: dict[Done, None] = {done: None}
        self.begun = False
        self.deadline = 0
        self.tick = 0
        self.exchanges: list[_Exchange] = []
        self.asked: set[int] = set()
        self.refused: set[int] = set()
        self.noted = False

    def begin(self) -> None:
        """Send it for the first time."""
        self.begun = True
        self.send()

    def send(self) -> None:
        """Send it to the next server; wait a while whether or not one could be reached."""
        asker = self.asker
        while (number := asker.choose(self.asked | self.refused)) >= 0:
            self.asked.add(number)
            if self._open(_Datagram(self, number)):
                break
        self._wait(asker.interval_ms)

    def _wait(self, delay_ms: int) -> None:
        loop = self.asker.loop
        self.deadline = loop.now_ms + delay_ms
        loop.timers.add(self)

    def _open(self, exchange: _Exchange) -> bool:
        to, question = self.asker.loop.log, self.question
        if to.level >= log.DEBUG:
            kind = _KINDS.get(question.kind, question.kind)
            to.write(log.DEBUG, f'resolve: "{question.name}" {kind} {exchange.ident}')
        try:
            exchange.begin()
        except OSError as error:
            exchange.close()
            self._unreachable(exchange, "connect() failed", error)
            return False
        self.exchanges.append(exchange)
        if len(self.exchanges) > SENT:
            self.exchanges.pop(0).close()
        return True

    def _unreachable(self, exchange: _Exchange, what: str, error: OSError) -> None:
        number = exchange.number
        self.asker.shunned_ms[number] = self.asker.loop.now_ms + SHUN_MS
        text = f"{what} {errors.strerror(error.errno or errno.EIO)}"
        self.asker.log_error(text, number)

    def on_timeout(self) -> None:
        """The servers asked so far were silent: ask the next, or all of them again."""
        asker = self.asker
        for exchange in self.exchanges:
            asker.shunned_ms[exchange.number] = asker.loop.now_ms + SHUN_MS
        if len(self.asked | self.refused) == len(asker.servers):
            self.asked.clear()
        self.send()

    def on_message(self, exchange: _Exchange, message: bytes) -> None:
        """Take a message from a server. Source: ngx_resolver_process_response"""
        self.asker.count(len(message))
        to = self.asker.loop.log
        if to.level >= log.DEBUG and len(message) >= _HEADER.size:
            ident, flags, *counts = _HEADER.unpack_from(message)
            text = f"resolver DNS response {ident} fl:{flags:04X} {'/'.join(map(str, counts))}"
            to.write(log.DEBUG, text)
        try:
            response = dns.parse(message, exchange.ident, self.question)
            found = dns.follow(response) if response.rcode == dns.NOERROR else None
        except dns_names.DnsError as error:
            if not self.noted:  # whoever forges responses shall not fill the log
                self.noted = True
                self.asker.log_error(str(error), exchange.number)
            exchange.on_stray()
            return
        self.asker.shunned_ms[exchange.number] = 0
        if response.truncated:
            exchange.on_truncated()
            return
        self.asker.responded(response.rcode)
        if response.rcode in (dns.NOERROR, dns.NXDOMAIN):
            if response.is_cut:
                self.asker.note_cut(exchange.number)
            self._finish(Reply(response.rcode, found))
        else:
            self._refuse(exchange, response.rcode)

    def _refuse(self, exchange: _Exchange, code: int) -> None:
        """Ask another server after an error response, or give up when there is none left."""
        asker = self.asker
        if code == dns.FORMERR or code > dns.REFUSED:
            asker.log_error(
                f"DNS error ({code}: {dns.strerror(code)}), query id:{exchange.ident}, "
                f'name:"{self.question.name}"',
                exchange.number,
            )
        self._shut(exchange)
        self.refused.add(exchange.number)
        if len(self.refused) == len(asker.servers):
            self._finish(Reply(code, None))
        elif len(self.asked | self.refused) < len(asker.servers):
            self.send()

    def fail(self, exchange: _Exchange, what: str, error: OSError) -> None:
        """A server cannot be reached, or broke off: ask one that was not asked in this round."""
        self._shut(exchange)
        self._unreachable(exchange, what, error)
        if len(self.asked | self.refused) < len(self.asker.servers):
            self.send()

    def ask_over_tcp(self, exchange: _Exchange) -> None:
        """Ask the same server over TCP."""
        self._shut(exchange)
        if self._open(_Stream(self, exchange.number)):
            self._wait(STREAM_MS)

    def _shut(self, exchange: _Exchange) -> None:
        self.exchanges.remove(exchange)
        exchange.close()

    def _finish(self, reply: Reply) -> None:
        waiting, self.waiting = self.waiting, {}
        self.close()
        for done in waiting:
            self.asker.replies.add(functools.partial(done, reply))

    def close(self) -> None:
        """Listen no more."""
        self.asker.loop.timers.remove(self)
        for exchange in self.exchanges:
            exchange.close()
        self.exchanges.clear()
        self.asker.closed(self)


class _Exchange:
    """A question sent to one server from a socket of its own."""

    __slots__ = ("query", "number", "ident", "sock", "strays")

    def __init__(self, query: Query, number: int) -> None:
        self.query = query
        self.number = number  # of the server
        self.ident = int.from_bytes(os.urandom(2), "big")
        self.sock: socket.SocketType | None = None
        self.strays = 0

    def begin(self) -> None:
        """Open the socket and send. Raises: OSError"""
        raise NotImplementedError

    def on_stray(self) -> None:
        """A message came that is no response to the question."""
        raise NotImplementedError

    def on_truncated(self) -> None:
        """The response did not fit."""
        raise NotImplementedError

    def message(self) -> bytes:
        """Return the query's bytes."""
        return dns.build_query(self.ident, self.query.question)

    def open(self, kind: int) -> tuple[socket.SocketType, inet.SockAddr]:
        """Make the socket. Returns: (socket, the server's sockaddr)"""
        server = self.query.asker.servers[self.number]
        self.sock = raw_socket(server.family, kind | socket.SOCK_NONBLOCK)
        return self.sock, server.sockaddr

    def close(self) -> None:
        """Close the socket. Idempotent."""
        sock, self.sock = self.sock, None
        if sock is not None:
            self.query.asker.loop.close_later(sock)


class _Datagram(_Exchange):
    """A question over UDP."""

    __slots__ = ()

    def begin(self) -> None:
        """Send the query from a new port, which the kernel draws."""
        sock, sockaddr = self.open(socket.SOCK_DGRAM)
        sock.connect(sockaddr)
        sock.send(self.message())
        self.query.asker.loop.register(sock.fileno(), self.on_readable, poller.LEVEL)

    def on_readable(self, mask: int) -> None:
        """Read what came; the rest of a flood waits for the next turn."""
        for _ in range(BURST):
            if self.sock is None or not self.query.asker.may_read():
                return
            try:
                data = self.sock.recv(dns.MAX_DATAGRAM + 1)
            except BlockingIOError:
                return
            except OSError as error:  # ICMP: nobody listens there
                self.query.fail(self, "recv() failed", error)
                return
            if len(data) > dns.MAX_DATAGRAM:
                self.query.asker.count(0)
                self.on_stray()
            else:
                self.query.on_message(self, data)

    def on_stray(self) -> None:
        """Count it; after too many the question is asked over TCP."""
        self.strays += 1
        if self.strays == STRAYS:
            self.query.ask_over_tcp(self)

    def on_truncated(self) -> None:
        """Ask over TCP."""
        self.query.ask_over_tcp(self)


class _Stream(_Exchange):
    """A question over TCP."""

    __slots__ = ("unsent", "received")

    def begin(self) -> None:
        """Begin to connect."""
        self.unsent = dns.frame(self.message())
        self.received = bytearray()
        sock, sockaddr = self.open(socket.SOCK_STREAM)
        code = sock.connect_ex(sockaddr)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        loop = self.query.asker.loop
        loop.register(sock.fileno(), self.on_writable, poller.IN | poller.OUT)

    def on_writable(self, mask: int) -> None:
        """Send the query, or learn why it cannot be sent."""
        sock = self.sock
        if sock is None:
            return
        try:
            self.unsent = self.unsent[sock.send(self.unsent) :]
        except BlockingIOError:
            return
        except OSError as error:
            self.query.fail(self, "send() failed", error)
            return
        if not self.unsent:
            loop = self.query.asker.loop
            loop.unregister(sock.fileno())
            loop.register(sock.fileno(), self.on_readable, poller.LEVEL)

    def on_readable(self, mask: int) -> None:
        """Collect the response, up to the 64 KB that its length can say."""
        if self.sock is None or not self.query.asker.may_read():
            return  # level-triggered: it is reported again
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.query.fail(self, "recv() failed", error)
            return
        if not data:
            self._broken()
            return
        self.received += data
        message = dns.unframe(self.received)
        if message is not reader.NEED_MORE:
            self.query.on_message(self, message)

    def on_stray(self) -> None:
        """End a connection whose other end does not speak DNS."""
        self._broken()

    def on_truncated(self) -> None:
        """Fail: TCP has no longer messages."""
        self._broken()

    def _broken(self) -> None:
        error = OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        self.query.fail(self, "recv() over TCP failed", error)
