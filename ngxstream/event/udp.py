"""A UDP listener: drains a listening socket and hands each client's datagrams to its session.

Answers for src/event/ngx_event_udp.c.

A drain, and why it is one
--------------------------
nginx takes one datagram per wake-up and runs it through to the backend. Here a wake-up drains up
to SLOTS datagrams into slots of one mapping, sorts them by client, and only then hands every
session what its client sent: a client's four datagrams become one GSO message, and a burst of fifty
clients costs one wait. Order within a client is kept; boundaries always are.

* The socket is level-triggered, so a drain may stop early: it reads as many datagrams as the
  last drains found and asks for EAGAIN only when that was not the end (`_limit`). A client
  playing ping-pong pays for an EAGAIN less and less often (`_patience`).
* What was drained belongs to the drain: it is handed to each session as an argument and stored
  nowhere. Who keeps a datagram copies it.
* What a session raises ends that session (Loop.fault); the others of the drain get theirs.
* Sessions that are there come first; how many begin in a turn then is udp_new.py's business.

Changing hands
--------------
The socket belongs to the master; who reads it changes at a reload. A listener that will take over
is made idle, then holds (udp_held.py), then starts. Which client is whose is steering.py's
business: while datagrams may still sit in the wrong socket, `stray` is asked about every client
that is not in the table, and passes on what belongs to another worker.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.event import (
    datagram,
    drops,
    overflow,
    poller,
    recycle,
    turn_budget,
    udp_answers,
    udp_clients,
    udp_gro,
    udp_held,
    udp_new,
)

if TYPE_CHECKING:
    from ngxstream.event.connection import Connection
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp_clients import Sink
    from ngxstream.event.udp_held import OneHeld
    from ngxstream.wire.proxy_protocol import ProxyHeader

    # listener, key, client's address, datagram; True where somebody has taken it
    Stray = Callable[["UdpListener", Any, Any, bytes | memoryview], bool]
    # begins the session of a client with its first datagram, and the header that stood before it
    Begin = Callable[[Connection, Loop, bytes, ProxyHeader | None], object]

ALERT: Final = 2
PATIENCE: Final = (3, 255)  # single datagrams after which a drain looks for a second one

# what a drain has read: a client's key -> its datagrams, in slots of the loop
Drained = dict[Any, list[memoryview]]


class Standing(NamedTuple):
    """How things are with a listener: whether it coalesces what it receives, whether the kernel can
    do so with what it sends; datagrams that are held, and queued; those the kernel has dropped.
    """

    gro: bool
    gso: bool
    held: int
    queued: int
    dropped: int


class UdpListener:
    """One listening UDP socket in one worker, and the table of its clients."""

    __slots__ = (
        "loop",
        "budget",
        "sockets",  # SocketPool: towards the servers of its clients
        "listening",
        "sock",
        "_receive",  # its recvfrom_into
        "fd",
        "family",
        "table",  # dict: key -> Sink; key is the client's sockaddr, with the packed local
        # address behind it on a wildcard socket
        "begin",  # called for a client that is not in the table
        "accepts",  # bool: sessions of new clients may begin
        "_limit",
        "_filled",
        "_patience",
        "pktinfo",  # bool: it matters which local address a client used
        "_gro",  # Coalescing
        "answers",  # Answers
        "send_to",  # theirs
        "control_for",
        "lost",  # Drops: datagrams lost here
        "open",
        "stray",  # None, or called with (listener, key, peer, data) for a client not in the table;
        # True says that the datagram is somebody's: it is what the two following ones say together
        "pass_on",  # None, or passes on to its owner what is another worker's
        "finder",  # None, or gives it to a session that knows it by more than its address
        "forward",  # None, or takes whole drains of datagrams, whoever sent them; returns how many
        # it had to drop
        "_look",  # Overflow.look, called where a drain leaves something in the socket
        "held",  # Held: while sessions change hands
        "keep",  # its
        "new",  # NewClients: whose sessions have yet to begin
        "again",  # theirs
        "_waiting",  # OrderedDict: those of `new`
    )

    def __init__(self, loop: Loop, listening: Listening, sock: Any, begin: Begin, *,
                 table: dict[Any, Sink] | None = None, idle: bool = False,
                 lost: drops.Drops | None = None) -> None:
        """Args: table, lost: shared by all listeners of an address; idle: does not begin to read"""
        self.loop = loop
        self.budget = loop.get(turn_budget.TurnBudget)
        self.sockets = loop.get(recycle.SocketPool)
        self.listening = listening
        self.sock = sock
        self._receive = sock.recvfrom_into
        self.fd = sock.fileno()
        self.family = int(sock.family)
        self.table: dict[Any, Sink] = {} if table is None else table
        self.begin = begin
        self.accepts = True
        self._limit = 1
        self._filled = 0
        self._patience = PATIENCE[0]
        self.pktinfo = listening.options.wildcard and self.family != socket.AF_UNIX
        self._gro = udp_gro.Coalescing(sock, self.watch)
        self.answers = udp_answers.Answers(self)
        self.send_to = self.answers.send_to
        self.control_for = self.answers.control_for
        self.lost = lost or drops.Drops()
        self.open = False
        self.stray: Stray | None = None
        self.pass_on: Stray | None = None
        self.finder: Stray | None = None
        self.forward: Callable[[list[memoryview]], int] | None = None
        self._look = overflow.Overflow(loop, sock, listening.options.text).look
        self.held = udp_held.Held(self)
        self.keep = self.held.keep
        self.new = udp_new.NewClients(self)
        self.again = self.new.again
        self._waiting = self.new.waiting
        if not idle:
            self.start()

    def start(self) -> None:
        """Read the socket from now on, and take what was held."""
        self._gro.ask()
        if self.open:
            self.loop.poller.remove(self.fd)
        self.open = True
        self.watch()
        buffer: int = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.new.limit = max(udp_new.LEAST_BYTES, buffer)
        self._hand_out(self._gather(self.held.take()), is_bounded=False)

    def watch(self) -> None:
        """Register the socket with the reader that it needs now."""
        self.loop.register(self.fd, self.choose(), poller.LEVEL)

    def hold(self) -> None:
        """Read the socket from now on, but keep what comes."""
        self.open = True
        self.loop.register(self.fd, self.held.on_readable, poller.LEVEL)

    def take_held(self) -> list[OneHeld]:
        """Return, and forget, what is held and what waits for its session to begin."""
        held = self.held.take()
        for key in list(self._waiting):
            peer, local = self.parts(key)
            held += [(key, peer, local, bytes(view)) for view in self.new.pop(key)]
        return held

    def deliver(self, key: Any, peer: Any, local: bytes | None, data: bytes) -> None:
        """Take one datagram that did not come straight from the socket."""
        self._hand_out(self._gather(((key, peer, local, data),)))

    def _gather(self, held: Iterable[OneHeld]) -> Drained:
        """Sort datagrams that did not come straight from the socket by client."""
        drained: Drained = {}
        for key, _, _, data in held:
            drained.setdefault(key, []).append(memoryview(data))
        return drained

    def choose(self) -> Callable[[int], None]:
        """Return what reads the socket."""
        if self.forward is not None and not self._gro.is_on:
            return self.on_forward
        if self.pktinfo or self._gro.is_on:
            return self.on_messages
        return self.on_readable

    # -- receiving -----------------------------------------------------------------------------

    def on_readable(self, mask: int) -> None:
        """Drain datagrams that need no control data.

        # hot: per datagram one receive, one look-up, one append
        """
        limit = self._limit
        if limit == 1:
            slot = self.loop.slot
            try:
                n, key = self._receive(slot)
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    self.on_error(error)
                return
            self._filled += 1
            if self._filled > self._patience:
                self._look()
                self._limit = 2
                self._filled = 0
            sink = self.table.get(key)
            if sink is None or self._waiting:
                if self._waiting or self.stray is not None:
                    self._hand_out({key: [slot[:n]]})
                    return
                try:  # as begin_fresh() does, for the one there is
                    self.new.admit(key, key, None, slot[:n])
                except Exception:
                    self.loop.fault(None)
                return
            try:  # as _hand_out() does, for the one there is
                rest = sink.take([slot[:n]])
            except Exception:
                self.loop.fault(sink)
            else:
                if rest:
                    self.new.meet([(key, rest)], udp_new.NEW)
            return
        receive = self._receive
        drained: Drained = {}
        fresh: list[tuple[Any, memoryview]] = []
        lookup = self.table.get
        is_apart = not self._waiting and self.stray is None
        count = 0
        try:
            for slot in self.loop.slots[:limit]:
                n, key = receive(slot)
                count += 1
                views = drained.get(key) if drained else None
                if views is not None:
                    views.append(slot[:n])
                elif is_apart and lookup(key) is None:
                    fresh.append((key, slot[:n]))
                else:
                    drained[key] = [slot[:n]]
        except BlockingIOError:
            self._limit = count or 1
            self._filled = 0
            shortest, longest = PATIENCE
            self._patience = shortest if count > 1 else min(longest, self._patience * 2)
        except OSError as error:
            self.on_error(error)
        else:
            self._look()
            self._filled += 1
            if self._filled > 3 or limit >= 4:
                self._limit = min(len(self.loop.slots), limit * 2)
                self._filled = 0
        if drained:
            self._hand_out(drained)
        if fresh:
            self.new.begin_fresh(fresh, udp_new.NEW if drained else len(fresh))

    def on_messages(self, mask: int) -> None:
        """Drain datagrams whose control data matters: local address, coalesced size."""
        receive = self.sock.recvmsg_into
        pktinfo, gro = self.pktinfo, self._gro
        drained: Drained = {}
        limit = self._limit
        count = 0
        try:
            for slot in self.loop.slots[:limit]:
                n, ancillary, _, peer = receive((slot,), datagram.ANCILLARY_SPACE)
                count += 1
                size = 0
                local = None
                for level, _kind, data in ancillary:  # as datagram.facts(), without the call
                    if level == datagram.SOL_UDP:
                        size = int.from_bytes(data[:4], "little")
                    elif level == socket.IPPROTO_IP:
                        local = data[8:12]
                    elif level == socket.IPPROTO_IPV6:
                        local = data[:16]
                key = (peer, local) if pktinfo else peer
                if 0 < size < n:
                    gro.idle = 0
                    self._burst(drained, key, slot[:n], size)
                    continue
                views = drained.get(key)
                if views is None:
                    drained[key] = [slot[:n]]
                else:
                    views.append(slot[:n])
        except BlockingIOError:
            self._limit = count or 1
            self._filled = 0
            # once it is off, a coalesced message that is queued is read as one datagram:
            # switch when there is nothing queued
            if gro.is_on and gro.idle > udp_gro.IDLE:
                gro.switch(False)
        except OSError as error:
            self.on_error(error)
        else:
            self._look()
            self._filled += 1
            if self._filled > 3 or limit >= 4 or gro.idle > udp_gro.IDLE:
                self._limit = min(len(self.loop.slots), limit * 2)
                self._filled = 0
        self._hand_out(drained)
        if gro.is_on:
            gro.idle += count

    def pass_on_by(self, pass_on: Stray | None) -> None:
        """Ask whether clients that are not in the table are another worker's, or not any more."""
        self.pass_on = pass_on
        self.stray = self.finder if pass_on is None else pass_on
        if pass_on is not None and self.finder is not None:
            self.stray = self._find_or_pass_on

    def find_by(self, finder: Stray) -> None:
        """Ask first whether a session knows them by more than their address."""
        self.finder = finder
        self.pass_on_by(self.pass_on)

    def _find_or_pass_on(self, _: UdpListener, key: Any, peer: Any,
                         data: bytes | memoryview) -> bool:
        finder, pass_on = self.finder, self.pass_on
        assert finder is not None
        assert pass_on is not None
        return finder(self, key, peer, data) or pass_on(self, key, peer, data)

    def forward_by(self, forward: Callable[[list[memoryview]], int]) -> None:
        """Begin no sessions: every datagram goes to `forward`."""
        self.forward = forward
        if self.open:
            self.watch()

    def on_forward(self, mask: int) -> None:
        """Drain datagrams that make no session."""
        receive = self.sock.recv_into
        views: list[memoryview] = []
        limit = self._limit
        try:
            for slot in self.loop.slots[:limit]:
                views.append(slot[: receive(slot)])  # noqa: PERF401 - what came before the end counts
        except BlockingIOError:
            self._limit = len(views) or 1
        except OSError as error:
            self.on_error(error)
        else:
            self._look()
            self._limit = min(len(self.loop.slots), limit * 2)
        if views:
            assert self.forward is not None
            dropped = self.forward(views)
            if dropped:
                self.lost.drop(drops.ONE_WAY, dropped)

    def _burst(self, drained: Drained, key: Any, view: memoryview, size: int) -> None:
        """Hand on a coalesced message, behind what was drained from its client already."""
        sink = self.table.get(key)
        if sink is None or key in self._waiting:
            drained.setdefault(key, []).extend(datagram.split(view, size))
            return
        before = drained.pop(key, None)
        try:
            rest = sink.take(before) if before else None
            if self.table.get(key) is sink:
                rest = sink.take_burst(view, size)
            else:  # what came before was the last of its session
                rest = [*(rest or ()), *datagram.split(view, size)]
        except Exception:
            self.loop.fault(sink)
            return
        if rest:
            drained[key] = rest

    def _hand_out(self, drained: Drained, *, is_bounded: bool = True) -> None:
        """Give each session what its client sent; then begin those of new clients.

        # hot: one look-up and one call for each client of a drain
        """
        lookup = self.table.get
        waiting = self._waiting
        new: list[tuple[Any, list[memoryview]]] = []
        for key, views in drained.items():
            sink = lookup(key)
            if sink is None:
                new.append((key, views))
                continue
            if len(views) >= udp_gro.RUN and not self._gro.is_on:
                self._gro.see(views)
            try:
                if waiting and key in waiting:  # its session came from another worker meanwhile
                    rest = sink.take([*self.new.pop(key), *views])
                else:
                    rest = sink.take(views)
            except Exception:  # nobody else loses anything by it
                self.loop.fault(sink)
            else:
                if rest:
                    new.append((key, rest))
        if new:
            is_busy = bool(waiting) or len(new) < len(drained)
            budget = udp_new.NEW if is_busy else len(self.loop.slots)
            self.new.meet(new, budget, is_bounded=is_bounded)

    def on_error(self, error: OSError) -> None:
        """Log an error, unless it is an ICMP error of an answer: these end no session."""
        if self.loop.log.level >= ALERT and error.errno not in (111, 113, 101, 112, 90):
            code = error.errno or 0
            self.loop.log.write(ALERT, f"recvmsg() failed ({code}: {os.strerror(code)})")

    # -- clients -------------------------------------------------------------------------------

    def parts(self, key: Any) -> tuple[Any, bytes | None]:
        """Return the client's address and the packed local one of a key."""
        if self.finder is not None:  # there may be tagged keys
            return udp_clients.peer_of(key), udp_clients.local_of(key) if self.pktinfo else None
        return key if self.pktinfo else (key, None)

    def begin_with(self, key: Any, view: memoryview) -> None:
        """Begin a client's session with one datagram."""
        self.new.admit(key, *self.parts(key), view)

    def enlist(self, c: Connection, sink: Sink) -> None:
        """Send a client's datagrams to a sink from now on."""
        c.placed = True
        if c.key:  # an unnamed unix client cannot be told from another
            self.table[c.key] = sink

    def kept_for(self, c: Connection) -> list[bytes]:
        """Return what came from a client while its session was not ready."""
        waiting = self.table.get(c.key)
        return waiting.kept if isinstance(waiting, udp_clients.Waiting) and waiting.c is c else []

    def give(self, c: Connection, views: list[memoryview]) -> list[memoryview]:
        """Give a session datagrams of its client. Returns: what it does not want"""
        sink = self.table.get(c.key)
        return views if sink is None or sink.c is not c else sink.take(views) or []

    def go_on(self, c: Connection, run: Callable[[], None]) -> None:
        """Run a session on that took its client's datagrams until now; it lists itself anew."""
        self.forget(c)
        c.placed = False
        run()
        if not (c.placed or c.closed):
            self.table[c.key] = udp_clients.Waiting(c)

    def forget(self, c: Connection) -> None:
        """Take a client out of the table, unless a newer session has its place."""
        sink = self.table.pop(c.key, None)
        if sink is not None and sink.c is not c:
            self.table[c.key] = sink

    def rename(self, c: Connection, key: Any, tag: bytes, sink: Sink) -> None:
        """Know a client by another key from now on: its address has changed.

        Args: tag: tells it from another session that has the key; sink: what is listed, where
        nothing was
        """
        former = self.table.get(c.key)
        if former is not None and former.c is c:
            sink = self.table.pop(c.key)
        plain = key
        while key in self.table:  # some sessions may have a tag in common: the one of no id
            key = udp_clients.tagged(plain, tag)
            tag += b"\1"
        c.key = key
        self.table[key] = sink

    def take_apart(self, key: Any, view: memoryview) -> None:
        """Give a datagram to the session of a key that it does not come by, or begin that."""
        sink = self.table.get(key)
        rest: list[memoryview] | None = [view]
        try:
            if sink is not None:
                rest = sink.take([view])
        except Exception:
            self.loop.fault(sink)
            return
        if rest:
            self.new.meet([(key, rest)], udp_new.NEW)

    def take_over(self, former: UdpListener) -> None:
        """Have the clients of a listener of the same socket, in the same process."""
        for sink in former.table.values():
            sink.c.table = self
        self.table.update(former.table)
        former.table = self.table
        for held in former.take_held():
            self.deliver(*held)

    def close(self) -> None:
        """Read no more. Sessions keep answering through the socket, which is the master's."""
        if self.open:
            self.open = False
            if not self.answers.queue:
                self.loop.unregister(self.fd)

    def standing(self) -> Standing:
        """Return how things are."""
        return Standing(
            self._gro.is_on,
            self.family != socket.AF_UNIX and datagram.has_gso(self.sock),
            len(self.held.datagrams),
            len(self.answers.queue) + sum(map(len, self._waiting.values())),
            overflow.drops(self.sock) if self.open else 0,
        )

    @property
    def is_needed(self) -> bool:
        """Whether the socket of a closed listener must stay: somebody is answered through it."""
        return bool(self.table or self.answers.queue or self._waiting)
