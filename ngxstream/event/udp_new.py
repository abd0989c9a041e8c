"""New clients of a UDP listener: their sessions begin, or their datagrams wait until they may.

nginx has no counterpart: there whoever is first in the socket is served first.

Beginning a session costs ten times what sending a datagram on does. A flood of forged sources would
leave the socket unread for so long that the kernel drops the datagrams of those who are being
served. So sessions that are there get theirs first, and a drain that has any begins at most NEW
sessions; what other new clients sent waits here, copied, for the turns that follow.

1. Whoever came first begins first; a client's datagrams stay in order.
2. As many bytes wait as the socket's own buffer holds, so a burst that found room there finds room
   here. What is over that is dropped and counted, and it is logged once a second.
3. Where only new clients send (one question and one answer each), nothing waits, unless what they
   send has used up the turn (turn_budget.py). One session begins in each turn even so.
"""

from __future__ import annotations

import socket
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet
from ngxstream.event import drops, eviction, udp_clients
from ngxstream.event.connection import Connection

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import UdpListener
    from ngxstream.wire.proxy_protocol import ProxyHeader

ALERT: Final = 2
NEW: Final = 16  # sessions a turn begins while others are being served
CHUNK: Final = 64  # datagrams of one client that are looked at in one go
LEAST_BYTES: Final = 1 << 20  # may wait; the socket's buffer if that is more
COST: Final = 512  # bytes that each datagram counts besides its own
WARN: Final = 5


class NewClients:
    """The new clients of one listening socket, and what they sent."""

    __slots__ = (
        "_is_posted",
        "_listener",
        "_loop",
        "_warned_ms",
        "limit",  # int: bytes that may wait
        "size",  # int: bytes that wait, each datagram's COST with them
        "waiting",  # OrderedDict: key -> deque of datagrams
    )

    def __init__(self, listener: UdpListener) -> None:
        self._listener = listener
        self._loop: Loop = listener.loop
        self._is_posted = False
        self._warned_ms = -1000
        self.limit = LEAST_BYTES
        self.size = 0
        self.waiting: OrderedDict[Any, deque[bytes]] = OrderedDict()

    def begin_fresh(self, fresh: list[tuple[Any, memoryview]], budget: int) -> None:
        """Begin the sessions of clients that were not in the table when they were read.

        # hot: a session of one question and one answer is met here
        """
        admit, waiting, turn = self.admit, self.waiting, self._listener.budget
        table = self._listener.table
        for key, view in fresh:
            if budget <= 0 or turn.is_spent or waiting or key in table:
                self.meet([(key, [view])], budget)
                continue
            budget -= 1
            try:
                admit(key, key, None, view)
            except Exception:
                self._loop.fault(None)

    def meet(self, new: list[tuple[Any, list[memoryview]]], budget: int, *,
             is_bounded: bool = True) -> None:
        """Begin the sessions of clients that are not in the table; what is too much waits."""
        listener, waiting, turn = self._listener, self.waiting, self._listener.budget
        stray = listener.stray
        for key, views in new:
            if turn.is_spent:  # what clients send makes their sessions expensive
                budget = 0
            rest = views
            if stray is not None:
                peer, _ = listener.parts(key)
                rest = [view for view in views if not stray(listener, key, peer, view)]
            if not listener.accepts:
                continue
            if not waiting:
                budget, rest = self.begin_for(key, rest, budget)
            if rest:
                self.put(key, rest, is_bounded=is_bounded)

    def begin_for(self, key: Any, views: list[memoryview],
                  budget: int) -> tuple[int, list[memoryview]]:
        """Give a client's datagrams to its session, beginning as many as they need.

        Returns: what is left of the budget of new sessions, and of the datagrams
        """
        listener, turn = self._listener, self._listener.budget
        lookup = listener.table.get
        former = None
        while views:
            sink = lookup(key)
            if sink is None:
                if budget <= 0:
                    break
                budget -= 1
                try:
                    listener.begin_with(key, views[0])
                except Exception:
                    self._loop.fault(None)
                if turn.is_spent:
                    budget = 0
                views = views[1:]
                continue
            if sink is former:  # it wants no more, and does not leave
                listener.lost.drop(drops.UNWANTED, len(views))
                return budget, []
            former = sink
            try:
                views = sink.take(views) or []
            except Exception:
                self._loop.fault(sink)
                return budget, []
        return budget, views

    def again(self, c: Connection, views: list[memoryview]) -> None:
        """Take datagrams of a client that its session kept before it was ready for any."""
        _, rest = self.begin_for(c.key, views, len(views))
        if rest:
            self.put(c.key, rest, is_bounded=False)

    def admit(self, key: Any, peer: Any, local: bytes | None, view: memoryview,
              header: ProxyHeader | None = None) -> None:
        """Begin the session of a client that is ours. Args: header: in front of its datagram"""
        listener = self._listener
        if not listener.accepts:
            return
        loop = self._loop
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
        listening = listener.listening
        c = Connection(
            listener.sock, listener.fd, listener.family, peer, loop.next_number(), listening,
            listener, key,
        )
        if local is not None:
            port = inet.port_of(listening.options.sockaddr)
            host = socket.inet_ntop(socket.AF_INET if len(local) == 4 else socket.AF_INET6, local)
            c.local = (host, port) if len(local) == 4 else (host, port, 0, 0)
        c.received = len(view)
        try:
            listener.begin(c, loop, bytes(view), header)
        except Exception:
            loop.fault(None)
            loop.end_sessions_of(c)
        if not (c.placed or c.closed) and key:
            listener.table[key] = udp_clients.Waiting(c)

    def _exhausted(self) -> None:
        loop = self._loop
        self._listener.lost.drop(drops.NO_SLOT)
        loop.get(eviction.Eviction).refused.add()
        if loop.get(eviction.Eviction).may_log() and loop.log.level >= ALERT:
            loop.log.write(
                ALERT,
                f"{loop.connections} worker_connections are not enough "
                f"while accepting new connection on {self._listener.listening.options.text}",
            )

    def put(self, key: Any, views: list[memoryview], *, is_bounded: bool = True) -> None:
        """Keep copies of datagrams until the session begins. Args: is_bounded: drop over `limit`"""
        if not self._is_posted:
            self._is_posted = True
            self._loop.post(self._begin_some)
        kept = self.waiting.get(key)
        for view in views:
            if is_bounded and self.size >= self.limit:
                self._drop()
                continue
            if kept is None:
                kept = self.waiting[key] = deque()
            kept.append(bytes(view))
            self.size += len(view) + COST

    def pop(self, key: Any) -> list[memoryview]:
        """Return, and forget, the datagrams of a client."""
        found = self.waiting.pop(key)
        self.size -= sum(map(len, found)) + COST * len(found)
        return [memoryview(data) for data in found]

    def _begin_some(self) -> None:
        """Begin sessions, those first that have waited longest."""
        waiting, listener = self.waiting, self._listener
        budget = NEW
        for _ in range(NEW):
            if not waiting or budget <= 0:
                break
            key = next(iter(waiting))
            if not listener.accepts:
                self.pop(key)
                continue
            left = waiting[key]
            chunk = [left.popleft() for _ in range(min(CHUNK, len(left)))]
            self.size -= sum(map(len, chunk)) + COST * len(chunk)
            if not left:
                del waiting[key]
            views = [memoryview(data) for data in chunk]
            budget, rest = self.begin_for(key, views, budget)
            if rest:
                back = chunk[-len(rest) :]
                left.extendleft(reversed(back))
                self.size += sum(map(len, back)) + COST * len(back)
                waiting[key] = left
                waiting.move_to_end(key, last=False)
        self._is_posted = bool(waiting)
        if waiting:
            self._loop.post(self._begin_some)

    def _drop(self) -> None:
        """Count a datagram that is dropped, and say so once a second."""
        self._listener.lost.drop(drops.BACKLOG)
        loop, listener = self._loop, self._listener
        if loop.now_ms - self._warned_ms >= 1000 and loop.log.level >= WARN:
            self._warned_ms = loop.now_ms
            loop.log.write(
                WARN,
                "datagrams of new clients come faster than sessions can begin, server: "
                f"{listener.listening.options.text}, dropped so far: {listener.lost.total}",
            )
