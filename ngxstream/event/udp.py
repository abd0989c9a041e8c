"""The UDP gate: drains a listening socket and hands each client's datagrams to its session.

Answers for src/event/ngx_event_udp.c.

A drain, and why it is one
--------------------------
nginx takes one datagram per wake-up and runs it through to the backend. Here a wake-up drains up
to SLOTS datagrams into slots of one mapping, sorts them by client, and only then hands every
session what its client sent: a client's four datagrams become one GSO message, and a burst of fifty
clients costs one wait. Order within a client is kept; boundaries always are.

* The socket is level-triggered, so a drain may stop early: it reads as many datagrams as the
  last drains found and asks for EAGAIN only when that was not the end (`_limit`). A client
  playing ping-pong pays for a failing receive less and less often (`_patience`).
* GRO is a property of the socket. With peers that do not coalesce it costs 10-15 % more, with
  peers that do it is worth ten times everything else, so it is switched by what was seen: on
  after GRO_HINTS drains in which a client sent a long run of equal sizes, off after GRO_IDLE
  messages in a row that were not coalesced, and each time harder to switch on again.
* What was drained belongs to the drain: it is handed to each session as an argument and stored
  nowhere. Who keeps a datagram copies it.
* What a session raises ends that session (Loop.fault); the others of the drain get theirs.
* Sessions that are there come first; how many begin in a turn then is udp_new.py's business. Where
  MIXED drains had nobody but new clients, sessions begin while the drain is read: nobody is there
  who could come first, and a list less is made (1 % fewer instructions for 16 one-shot clients at
  once, counted by callgrind in 2026-11).

Changing hands
--------------
The socket belongs to the master; who reads it changes at a reload. A gate that will take over is
made idle, then holds (reads into a bounded queue, so that the kernel's small one does not run
over while the sessions are on their way), then opens. Which client is whose is steering.py's
business: while datagrams may still sit in the wrong socket, `stray` is asked about every client
that is not in the table, and passes on what belongs to another worker.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet
from ngxstream.core.facts import Counter
from ngxstream.event import (
    datagram,
    eviction,
    overflow,
    poller,
    recycle,
    turn_budget,
    udp_clients,
    udp_new,
)
from ngxstream.event.connection import Connection

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp_clients import Sink

ALERT: Final = 2
IP_PKTINFO: Final = 8  # socket has no name for it
PATIENCE: Final = (3, 255)  # single datagrams after which a drain looks for a second one
GRO_HINTS: Final = 8
GRO_RUN: Final = 8  # datagrams of one size from one client in one drain
GRO_IDLE: Final = 512
MIXED: Final = 64  # drains for which it is remembered that there are known clients
QUEUED: Final = 256  # datagrams waiting for room in the socket, for all clients of a gate
HELD: Final = 65_536  # datagrams a gate holds while sessions change hands; more stay in the kernel
HELD_BYTES: Final = 64 << 20

ANCILLARY_SPACE: Final = (
    socket.CMSG_SPACE(struct.calcsize("=I4s4s"))
    + socket.CMSG_SPACE(struct.calcsize("=16sI"))
    + socket.CMSG_SPACE(4)
)

# what a drain has read: a client's key -> its datagrams, in slots of the loop
Drained = dict[Any, list[memoryview]]


class UdpGate:
    """One listening UDP socket in one worker, and the table of its clients."""

    __slots__ = (
        "loop",
        "budget",
        "sockets",  # SocketPool: towards the servers of its clients
        "listening",
        "sock",
        "fd",
        "family",
        "table",  # dict: key -> Sink; key is the client's sockaddr, with the packed local
        # address behind it on a wildcard socket
        "begin",  # called with (Connection, Loop) for a client not in the table
        "accepts",  # bool: unknown clients are welcome
        "_limit",
        "_filled",
        "_patience",
        "_pktinfo",
        "_gro",
        "_gro_hints",
        "_gro_needed",
        "_gro_idle",
        "_queue",
        "lost",  # Counter: datagrams lost here, for want of room or of a session slot
        "open",
        "stray",  # None, or called with (gate, key, peer, data) for a client not in the table;
        # True says that the datagram was passed on to the client's owner
        "forward",  # None, or takes whole drains of datagrams, whoever sent them; returns how many
        # it had to drop
        "begun",  # Connection | None: last one whose session said what it wants to be sent
        "_look",  # Overflow.look, called where a drain leaves something in the socket
        "_held",  # deque of (key, peer, local, bytes) while holding
        "_held_bytes",
        "_mixed",  # int: drains to go before new clients' sessions begin while it is read
        "new",  # NewClients: whose sessions have yet to begin
        "_waiting",  # OrderedDict: those of `new`
    )

    def __init__(
        self,
        loop: Loop,
        listening: Listening,
        sock: Any,
        begin: Callable[[Connection, Loop], Any],
        *,
        table: dict[Any, Sink] | None = None,
        idle: bool = False,
        lost: Counter | None = None,
    ) -> None:
        """shape: gates of one address share a table and a count; an idle one reads nothing before
        open()
        """
        self.loop = loop
        self.budget = loop.get(turn_budget.TurnBudget)
        self.sockets = loop.get(recycle.SocketPool)
        self.listening = listening
        self.sock = sock
        self.fd = sock.fileno()
        self.family = int(sock.family)
        self.table: dict[Any, Sink] = {} if table is None else table
        self.begin = begin
        self.accepts = True
        self.begun: Connection | None = None
        self._limit = 1
        self._filled = 0
        self._patience = PATIENCE[0]
        self._pktinfo = listening.options.wildcard and self.family != socket.AF_UNIX
        self._gro = False
        self._gro_hints = 0
        self._gro_needed = GRO_HINTS
        self._gro_idle = 0
        self._queue: deque[tuple[Connection, bytes]] = deque()
        self.lost = lost or Counter()
        self.open = False
        self.stray: Callable[[UdpGate, Any, Any, bytes | memoryview], bool] | None = None
        self.forward: Callable[[list[memoryview]], int] | None = None
        self._held: deque[tuple[Any, Any, bytes | None, bytes]] = deque()
        self._held_bytes = 0
        self._mixed = MIXED
        self._look = overflow.Overflow(loop, sock, listening.options.text).look
        self.new = udp_new.NewClients(loop, self, listening.options.text)
        self._waiting = self.new.waiting
        if not idle:
            self.start()

    @property
    def dropped(self) -> int:
        """How many datagrams this worker lost here."""
        return self.lost.own

    @dropped.setter
    def dropped(self, count: int) -> None:
        self.lost.add(count - self.lost.own)

    def start(self) -> None:
        """Read the socket from now on, and take what was held."""
        # a former owner may have left coalescing on: what is queued was coalesced already
        self._gro = self.family != socket.AF_UNIX and datagram.has_gro(self.sock)
        if self.open:
            self.loop.poller.remove(self.fd)
        self.open = True
        self.loop.register(self.fd, self._choose(), poller.LEVEL)
        buffer: int = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.new.limit = max(udp_new.LEAST_BYTES, buffer)
        held = list(self._held)
        self._held.clear()
        self._held_bytes = 0
        self._hand_out(self._gather(held), is_bounded=False)

    def hold(self) -> None:
        """Read the socket from now on, but keep what comes."""
        self.open = True
        self.loop.register(self.fd, self.on_held, poller.LEVEL)

    def on_held(self, mask: int) -> None:
        """Keep what came, in order; what is another's is passed on at once."""
        view = self.loop.view
        pktinfo, stray = self._pktinfo, self.stray
        for _ in range(256):
            if len(self._held) >= HELD or self._held_bytes >= HELD_BYTES:
                self.loop.poller.remove(self.fd)  # the kernel's queue holds the rest
                self.open = False
                return
            try:
                n, ancillary, _, peer = self.sock.recvmsg_into((view,), ANCILLARY_SPACE)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            local, size = datagram.facts(ancillary)
            key = (peer, local) if pktinfo else peer
            for part in datagram.split(view[:n], size) if 0 < size < n else (view[:n],):
                if stray is None or not stray(self, key, peer, part):
                    self.keep(key, peer, local, bytes(part))

    def keep(self, key: Any, peer: Any, local: bytes | None, data: bytes) -> None:
        """Hold one datagram until start()."""
        if len(self._held) >= HELD or self._held_bytes >= HELD_BYTES:
            self.dropped += 1
            return
        self._held.append((key, peer, local, data))
        self._held_bytes += len(data)

    def take_held(self) -> list[tuple[Any, Any, bytes | None, bytes]]:
        """Return, and forget, what is held and what waits for its session to begin."""
        held = list(self._held)
        self._held.clear()
        self._held_bytes = 0
        for key in list(self._waiting):
            peer, local = self._parts(key)
            held += [(key, peer, local, bytes(view)) for view in self.new.pop(key)]
        return held

    def deliver(self, key: Any, peer: Any, local: bytes | None, data: bytes) -> None:
        """Take one datagram that did not come straight from the socket."""
        self._hand_out(self._gather(((key, peer, local, data),)))

    def _gather(self, held: Iterable[tuple[Any, Any, bytes | None, bytes]]) -> Drained:
        """Sort datagrams that did not come straight from the socket by client."""
        drained: Drained = {}
        for key, _, _, data in held:
            drained.setdefault(key, []).append(memoryview(data))
        return drained

    def _choose(self) -> Callable[[int], None]:
        if self.forward is not None and not self._gro:
            return self.on_forward
        if self._pktinfo or self._gro:
            return self.on_messages
        return self.on_readable

    # -- receiving -----------------------------------------------------------------------------

    def on_readable(self, mask: int) -> None:
        """Drain datagrams that need no control data.

        # hot: per datagram one receive, one look-up, one append
        """
        receive = self.sock.recvfrom_into
        limit = self._limit
        if limit == 1:
            slot = self.loop.slots[0]
            try:
                n, key = receive(slot)
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    self._failed(error)
                return
            self._filled += 1
            if self._filled > self._patience:
                self._look()
                self._limit = 2
                self._filled = 0
            sink = self.table.get(key)
            if self._waiting or (sink is None and self.stray is not None):
                self._hand_out({key: [slot[:n]]})
                return
            if sink is None:
                try:  # as _begin_fresh() does, for the one there is
                    self.admit(key, key, None, slot[:n])
                except Exception:
                    self.loop.fault(None)
                return
            try:  # as _hand_out() does, for the one there is
                rest = sink.take([slot[:n]])
            except Exception:
                self.loop.fault(sink)
            else:
                if rest:
                    self._meet([(key, rest)], udp_new.NEW)
            return
        drained: Drained = {}
        fresh: list[tuple[Any, memoryview]] = []
        lookup, admit, turn = self.table.get, self.admit, self.budget
        is_apart = not self._waiting and self.stray is None
        at_once = is_apart and not self._mixed
        count = 0
        try:
            for slot in self.loop.slots[:limit]:
                n, key = receive(slot)
                count += 1
                views = drained.get(key) if drained else None
                if views is not None:
                    views.append(slot[:n])
                elif not is_apart or lookup(key) is not None:
                    drained[key] = [slot[:n]]
                elif at_once and not turn.is_spent:
                    try:
                        admit(key, key, None, slot[:n])
                    except Exception:
                        self.loop.fault(None)
                else:
                    fresh.append((key, slot[:n]))
        except BlockingIOError:
            self._limit = count or 1
            self._filled = 0
            shortest, longest = PATIENCE
            self._patience = shortest if count > 1 else min(longest, self._patience * 2)
        except OSError as error:
            self._failed(error)
        else:
            self._look()
            self._filled += 1
            if self._filled > 3 or limit >= 4:
                self._limit = min(len(self.loop.slots), limit * 2)
                self._filled = 0
        if drained:
            self._mixed = MIXED
            self._hand_out(drained)
        elif self._mixed:
            self._mixed -= 1
        if fresh:
            self._begin_fresh(fresh, udp_new.NEW if drained else len(fresh))

    def on_messages(self, mask: int) -> None:
        """Drain datagrams whose control data matters: local address, coalesced size."""
        receive = self.sock.recvmsg_into
        pktinfo = self._pktinfo
        drained: Drained = {}
        limit = self._limit
        count = 0
        try:
            for slot in self.loop.slots[:limit]:
                n, ancillary, _, peer = receive((slot,), ANCILLARY_SPACE)
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
                    self._gro_idle = 0
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
            # once it is off, a message that was coalesced before is read without its cuts:
            # switch when there is nothing queued
            if self._gro and self._gro_idle > GRO_IDLE:
                self._switch_gro(False)
        except OSError as error:
            self._failed(error)
        else:
            self._look()
            self._filled += 1
            if self._filled > 3 or limit >= 4 or self._gro_idle > GRO_IDLE:
                self._limit = min(len(self.loop.slots), limit * 2)
                self._filled = 0
        self._hand_out(drained)
        if self._gro:
            self._gro_idle += count

    def forward_by(self, forward: Callable[[list[memoryview]], int]) -> None:
        """Begin no sessions: every datagram goes to `forward`."""
        self.forward = forward
        if self.open:
            self.loop.register(self.fd, self._choose(), poller.LEVEL)

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
            self._failed(error)
        else:
            self._look()
            self._limit = min(len(self.loop.slots), limit * 2)
        if views:
            assert self.forward is not None
            dropped = self.forward(views)
            if dropped:
                self.lost.add(dropped)

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
            if len(views) >= GRO_RUN and not self._gro:
                self._hint(views)
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
            self._meet(new, budget, is_bounded=is_bounded)

    def _hint(self, views: list[memoryview]) -> None:
        """Notice a run of equal sizes: a peer that sends like this may be using GSO."""
        size = len(views[0])
        if size and all(len(view) == size for view in views[1:-1]):
            self._gro_hints += 1
            if self._gro_hints >= self._gro_needed and not self._gro:
                self._switch_gro(True)
        else:
            self._gro_hints = 0

    def _switch_gro(self, on: bool) -> None:
        if self.family == socket.AF_UNIX or not datagram.set_gro(self.sock, on):
            self._gro_needed = 1 << 62
            return
        self._gro = on
        self._gro_hints = 0
        self._gro_idle = 0
        if not on:
            self._gro_needed = min(self._gro_needed * 8, 1 << 20)
        self.loop.register(self.fd, self._choose(), poller.LEVEL)

    def _failed(self, error: OSError) -> None:
        """A listening socket tells of ICMP errors of its answers too: they end nobody's session."""
        if self.loop.log.level >= ALERT and error.errno not in (111, 113, 101, 112, 90):
            code = error.errno or 0
            self.loop.log.write(ALERT, f"recvmsg() failed ({code}: {os.strerror(code)})")

    # -- clients -------------------------------------------------------------------------------

    def _parts(self, key: Any) -> tuple[Any, bytes | None]:
        """Return the client's address and the packed local one of a key."""
        return key if self._pktinfo else (key, None)

    def _begin_fresh(self, fresh: list[tuple[Any, memoryview]], budget: int) -> None:
        """Begin the sessions of clients that were not in the table when they were read.

        # hot: a session of one question and one answer is met here
        """
        admit, table, waiting, turn = self.admit, self.table, self._waiting, self.budget
        for key, view in fresh:
            if budget <= 0 or turn.is_spent or waiting or key in table:
                self._meet([(key, [view])], budget)
                continue
            budget -= 1
            try:
                admit(key, key, None, view)
            except Exception:
                self.loop.fault(None)

    def _meet(
        self, new: list[tuple[Any, list[memoryview]]], budget: int, *, is_bounded: bool = True
    ) -> None:
        """Begin the sessions of clients that are not in the table; what is too much waits."""
        stray, waiting, turn = self.stray, self._waiting, self.budget
        for key, views in new:
            if turn.is_spent:  # what clients send makes their sessions expensive
                budget = 0
            rest = views
            if stray is not None:
                peer, _ = self._parts(key)
                rest = [view for view in views if not stray(self, key, peer, view)]
            if not self.accepts:
                continue
            if not waiting:
                budget, rest = self.begin_for(key, rest, budget)
            if rest:
                self.new.put(key, rest, is_bounded=is_bounded)

    def begin_for(
        self, key: Any, views: list[memoryview], budget: int
    ) -> tuple[int, list[memoryview]]:
        """Give a client's datagrams to its session. See udp_new.Beginner"""
        lookup = self.table.get
        turn = self.budget
        former = None
        while views:
            sink = lookup(key)
            if sink is None:
                if budget <= 0:
                    break
                budget -= 1
                try:
                    self._admit_view(key, views[0])
                except Exception:
                    self.loop.fault(None)
                if turn.is_spent:
                    budget = 0
                views = views[1:]
                continue
            if sink is former:  # it wants no more, and does not leave
                self.dropped += len(views)
                return budget, []
            former = sink
            try:
                views = sink.take(views) or []
            except Exception:
                self.loop.fault(sink)
                return budget, []
        return budget, views

    def _admit_view(self, key: Any, view: memoryview) -> None:
        """Begin a session with one datagram."""
        if self._pktinfo:
            self.admit(key, key[0], key[1], view)
        else:
            self.admit(key, key, None, view)

    def admit(self, key: Any, peer: Any, local: bytes | None, view: memoryview) -> None:
        """Begin the session of a client that is ours."""
        if not self.accepts:
            return
        loop = self.loop
        # two slots: the client's, and one towards a server
        if (
            loop.free_connections < 2
            and not loop.get(eviction.Eviction).make()
            and loop.free_connections <= 0
        ):
            self._exhausted()
            return
        loop.free_connections -= 1
        loop.live += 1
        c = Connection(
            self.sock, self.fd, self.family, peer, loop.next_number(), self.listening, self, key
        )
        if local is not None:
            port = inet.port_of(self.listening.options.sockaddr)
            host = socket.inet_ntop(
                socket.AF_INET if len(local) == 4 else socket.AF_INET6, local
            )
            c.local = (host, port) if len(local) == 4 else (host, port, 0, 0)
        c.received = len(view)
        loop.datagram = view
        try:
            self.begin(c, loop)
        except Exception:
            loop.fault(None)
            loop.end_sessions_of(c)
        loop.datagram = None
        if self.begun is not c and not c.closed and key:
            self.table[key] = udp_clients.Waiting(c)

    def again(self, c: Connection, views: list[memoryview]) -> None:
        """Take datagrams of a client that its session kept before it was ready for any."""
        _, rest = self.begin_for(c.key, views, len(views))
        if rest:
            self.new.put(c.key, rest, is_bounded=False)

    def _exhausted(self) -> None:
        loop = self.loop
        self.dropped += 1
        if loop.get(eviction.Eviction).may_log() and loop.log.level >= ALERT:
            loop.log.write(
                ALERT,
                f"{loop.connections} worker_connections are not enough "
                f"while accepting new connection on {self.listening.options.text}",
            )

    def enlist(self, c: Connection, sink: Sink) -> None:
        """Send a client's datagrams to a sink from now on."""
        self.begun = c
        if c.key:  # an unnamed unix client cannot be told from another
            self.table[c.key] = sink

    def release(self, c: Connection) -> None:
        """Begin anew with a client's next datagram: its session wants no more than the first."""
        self.begun = c

    def kept_for(self, c: Connection) -> list[bytes]:
        """Return what came from a client while its session was not ready."""
        waiting = self.table.get(c.key)
        return waiting.kept if isinstance(waiting, udp_clients.Waiting) and waiting.c is c else []

    def forget(self, c: Connection) -> None:
        """Take a client out of the table, unless a newer session has its place."""
        sink = self.table.pop(c.key, None)
        if sink is not None and sink.c is not c:
            self.table[c.key] = sink

    def take_over(self, former: UdpGate) -> None:
        """Have the clients of a gate of the same socket, in the same process."""
        for sink in former.table.values():
            sink.c.table = self
            if hasattr(sink, "gate"):
                sink.gate = self
        self.table.update(former.table)
        former.table = self.table
        for held in former.take_held():
            self.deliver(*held)

    # -- answering -----------------------------------------------------------------------------

    def control_for(self, c: Connection) -> list[tuple[int, int, bytes]] | None:
        """Return the control data that answers from the address the client used."""
        if not self._pktinfo or c.local is None:
            return None
        host = udp_clients.local_of(c.key)
        if len(host) == 4:
            return [
                (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, host, bytes(4)))
            ]
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16sI", host, 0))]

    def send_to(self, c: Connection, data: bytes) -> int:
        """Send one datagram to a client; without room it waits its turn, up to a bound.

        returns: its length. raises: OSError other than "no room"
        """
        if not self._queue:
            try:
                return self._send(c, data)
            except BlockingIOError:
                self.loop.poller.remove(self.fd)
                self.loop.register(self.fd, self._on_room, poller.IN | poller.OUT)
        if len(self._queue) >= QUEUED:
            self.dropped += 1
            raise BlockingIOError
        self._queue.append((c, bytes(data)))
        return len(data)

    def _send(self, c: Connection, data: bytes) -> int:
        peer = udp_clients.peer_of(c.key)
        control = self.control_for(c)
        if control is None:
            return int(self.sock.sendto(data, peer))
        return int(self.sock.sendmsg((data,), control, 0, peer))

    def _on_room(self, mask: int) -> None:
        queue = self._queue
        while queue:
            c, data = queue.popleft()
            try:
                self._send(c, data)
            except BlockingIOError:
                queue.appendleft((c, data))
                break
            except OSError:
                self.dropped += 1  # this client's path failed; the others' datagrams go on
            except Exception:
                self.loop.fault(None)
        else:
            if self.open:
                self.loop.poller.remove(self.fd)
                self.loop.register(self.fd, self._choose(), poller.LEVEL)
            else:
                self.loop.unregister(self.fd)
        if mask & poller.IN and self.open:
            self._choose()(mask)

    def close(self) -> None:
        """Read no more. Sessions keep answering through the socket, which the gate does not own."""
        if self.open:
            self.open = False
            if not self._queue:
                self.loop.unregister(self.fd)

    @property
    def is_needed(self) -> bool:
        """Whether the socket of a closed gate must stay: somebody is answered through it."""
        return bool(self.table or self._queue or self._waiting)
