"""Proxied sessions whose peers are counted: each tells a Book what it did (stream/peer_facts.py).

These classes stand in the place of the plain ones where an `api` shows what is counted. What they
have in common is written out for both: a call more costs as much as all that is counted.

A session that goes on is looked at once a second by count_live(); `live` remembers what it told.
That its peer was chosen is counted then, or when the session ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ngxstream.core import log
from ngxstream.core.codes import STREAM_OK
from ngxstream.event import tls as event_tls
from ngxstream.modules.proxy import handler, tls_counted, traced, udp_state
from ngxstream.modules.proxy.tcp import TcpProxy
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.stream import core_facts, endings, tls_facts
from ngxstream.stream.peer_facts import Book, Books

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.endings import Ending
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import Peer


class Live:
    """What a session that goes on has told of its attempt so far."""

    __slots__ = ("connect", "first_byte", "received", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.connect = False
        self.first_byte = False


class Counted(handler.Proxy):
    """What TCP and UDP have in common, where it is not the usual way."""

    __slots__ = ()

    live: Live | None  # None until somebody has looked at the attempt

    def book_of(self, peer: Peer) -> Book:
        """Return the book of a peer and the session's server."""
        is_udp = self.c.is_udp
        book: Book | None = peer.books[is_udp].get(self.s.server)
        if book is None:
            learns = getattr(self.selection, "learns", False)
            find = self.loop.get(Books).find
            book = find(self.s.server, self.upstream, peer, learns, is_udp)
        return book

    def _may_go_on(self, failure: Ending) -> bool:
        """Count why the session ends, if it does."""
        peer = self.peer
        goes_on = super()._may_go_on(failure)
        if not goes_on and peer is not None:
            self.book_of(peer).tell_peer(failure.reason)
        return goes_on

    def free_unusual(self, peer: Peer, book: Book, failed: bool) -> None:
        """Give a peer back, and count an attempt that failed, or that somebody has looked at."""
        s, state = self.s, self.state
        lost_ms = peer.state.lost_ms
        self.selection.free(peer, failed, state)
        if failed:
            book.failed += 1
            if not lost_ms and peer.state.lost_ms:
                book.unavail += 1
        is_timed = False
        if state is not None:
            self.look(book, state.bytes_sent, state.bytes_received)
            is_timed = s.status > 0 and state.connect_ms >= 0 and state.session_ms >= 0
        if is_timed:
            book.session_ms.append(state.session_ms)  # type: ignore[union-attr]
        else:
            book.cut += 1
        if s.status == STREAM_OK:
            book.tell(endings.of(s).reason)
            book.odd -= not is_timed
        elif s.status:
            book.tell_peer(endings.of(s).reason)
            book.odd += is_timed
        if not book.is_waiting:
            self.loop.get(Books).wait(book)
        self.live = None  # type: ignore[misc] # the slot is of each kind's own

    def look(self, book: Book, sent: int, received: int) -> None:
        """Count what has come and gone since somebody looked last."""
        live, state = self.live, self.state
        is_udp = self.c.is_udp
        if live is None:
            live = self.live = Live()  # type: ignore[misc] # the slot is of each kind's own
            book.begun += 1
            book.selected_ms = self.loop.now_ms if state is None else state.start_ms
        if sent > live.sent:
            book.sent += sent - live.sent
            live.sent = sent
        if received > live.received:
            book.received += received - live.received
            live.received = received
        if state is None:
            return
        if not live.connect and state.connect_ms >= 0:
            live.connect = True
            if not is_udp:
                book.connect_ms.append(state.connect_ms)
        if not live.first_byte and state.first_byte_ms >= 0:
            live.first_byte = True
            book.first_byte_ms.append(state.first_byte_ms)

    def count_live(self) -> None:
        """Count what has come and gone so far."""
        peer = self.peer
        if peer is not None:
            book = self.book_of(peer)
            _, _, received, sent = self.counts()
            self.look(book, sent, received)
            if not book.is_waiting:
                self.loop.get(Books).wait(book)


class CountedTcp(Counted, TcpProxy):
    """A TCP session."""

    __slots__ = ("live",)

    def shake(self) -> tls_counted.Handshake:
        """Return a handshake that is counted. Raises: SslError"""
        return tls_counted.Handshake(self)

    def on_timeout(self) -> None:
        """Count a handshake that took too long."""
        if not self.connected and type(self.pc) is event_tls.Transport:
            tls_counted.count(self, tls_facts.FAILED, tls_facts.TIMEOUT)
        super().on_timeout()

    def _free(self, failed: bool) -> None:
        """Give the peer back, and count what its session did. # hot: once a session"""
        peer = self.peer
        if peer is None:
            return
        self.peer = None
        s = self.s
        book = peer.books[0].get(s.server)
        if book is None:
            book = self.book_of(peer)
        state: Any = self.state
        if failed or self.live is not None or s.status != STREAM_OK or state.connect_ms < 0:
            self.free_unusual(peer, book, failed)
            return
        book.done.extend((  # hot: nothing is kept that would be freed
            state.first_byte_ms, state.session_ms, state.bytes_sent, state.bytes_received,
            state.connect_ms, state.start_ms,
        ))
        told = s.ending
        if told is not None and told.reason is not endings.CLOSED.reason:
            book.tell(told.reason)
        if not book.is_waiting:
            self.loop.get(Books).wait(book)
        self.selection.free(peer, False, state)


class CountedUdp(Counted, UdpProxy):
    """A UDP session: one that nobody has looked at ends for the usual reason.

    Who ends it for another looks first.
    """

    __slots__ = ("live",)

    def _free(self, failed: bool) -> None:
        """Give the peer back, and count what its session did. # hot: 0.2 µs more than without"""
        peer = self.peer
        if peer is None:
            return
        self.peer = None
        s = self.s
        book = peer.book
        if book is None or book.server is not s.server:
            book = peer.book = self.book_of(peer)
        state: Any = self.state
        if failed or self.live is not None or s.status != STREAM_OK or s.counted is not None:
            if s.status:
                book.datagrams.append(sum(self.datagrams()))
            self.free_unusual(peer, book, failed)
            return
        c = self.c
        book.done.extend((
            state.first_byte_ms, state.session_ms, state.bytes_sent, state.bytes_received,
            self.requests, self.responses, c.received, c.sent,
        ))
        s.counted = core_facts.DONE
        if not book.is_waiting:
            self.loop.get(Books).wait(book)
        self.selection.free(peer, False, state)

    def on_timeout(self) -> None:
        """End a session that idled, unless it had to rest."""
        self.count_live()
        super().on_timeout()

    def give_way(self) -> None:
        """End to free a slot for a new client."""
        self.count_live()
        super().give_way()

    def _answer_failed(self, error: OSError) -> None:
        self.count_live()
        super()._answer_failed(error)

    def release(self) -> None:
        """Drop what is held here; what was moved so far is counted here."""
        peer = self.peer
        if peer is not None:
            self.count_live()
            self.book_of(peer).moved -= 1
        udp_state.release(self)

    def resumed(self) -> None:
        """Go on with what another process has counted so far."""
        peer, state = self.peer, self.state
        if peer is None or state is None:
            return
        book = self.book_of(peer)
        book.moved += 1
        live = self.live = Live()
        live.sent, live.received = state.bytes_sent, state.bytes_received
        live.connect, live.first_byte = state.connect_ms >= 0, state.first_byte_ms >= 0
        if not book.is_waiting:
            self.loop.get(Books).wait(book)


class CountedTracedTcp(traced.TracedTcp, CountedTcp):
    """A TCP session at debug level."""

    __slots__ = ()


class CountedTracedUdp(traced.TracedUdp, CountedUdp):
    """A UDP session at debug level."""

    __slots__ = ()


def make_udp(s: Session) -> CountedUdp:
    """Make the content of a UDP session whose peers are counted."""
    proxy = CountedUdp(s) if s.log.level < log.DEBUG else CountedTracedUdp(s)
    proxy.live = None
    return proxy


def make_tcp(s: Session) -> CountedTcp:
    """Make that of a TCP session."""
    proxy = CountedTcp(s) if s.log.level < log.DEBUG else CountedTracedTcp(s)
    proxy.live = s.ending = None
    return proxy


def make(s: Session) -> CountedTcp | CountedUdp:
    """Make that of either kind."""
    return make_udp(s) if s.c.is_udp else make_tcp(s)


def handle(s: Session) -> None:
    """Proxy a session to an upstream of the configuration, as module.handle() does. # hot"""
    proxy: handler.Proxy
    if s.log.level >= log.DEBUG:
        proxy = make(s)
    elif s.c.is_udp:
        proxy = udp = CountedUdp(s)
        udp.live = None
    else:
        proxy = tcp = CountedTcp(s)
        tcp.live = s.ending = None
    s.content = proxy
    proxy.start()


def begin_udp(s: Session) -> None:
    """Begin with a UDP session that goes through no other phase. # hot"""
    s.counted = None
    proxy: handler.Proxy
    proxy = udp = CountedUdp(s) if s.log.level < log.DEBUG else CountedTracedUdp(s)
    udp.live = None
    s.content = proxy
    proxy.start()


def handle_target(s: Session) -> None:
    """Proxy a session to where the variables of its proxy_pass point."""
    proxy: handler.Proxy = make(s)
    s.content = proxy
    s.server.proxy.target.begin(proxy)


def flush(_: StreamConf, loop: Loop) -> None:
    """Count what is only noted yet, before a worker leaves."""
    loop.get(Books).flush()
