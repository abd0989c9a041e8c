"""A leaving worker's side of the hand-over: it stops reading, then sends its sessions away.

nginx has no counterpart. handover.py tells what both sides do, stream/content.py which way a
session goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import udp_clients
from ngxstream.process import handover, mailbox
from ngxstream.process.mailbox import Outbox
from ngxstream.stream import content, core_facts, travel
from ngxstream.stream.session import UNTIL

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import UdpListener
    from ngxstream.process.handover import Plan
    from ngxstream.process.service import Service
    from ngxstream.stream.content import Content
    from ngxstream.stream.session import Session

LOOK_MS: Final = 50  # how often it is seen whether everything is sent
BATCH: Final = 120  # sessions in a message
BATCH_BYTES: Final = 48_000
MOST_SOCKETS: Final = mailbox.MAX_FDS - BATCH  # of a session


class Departure:
    """A leaving worker's side."""

    __slots__ = ("_boxes", "_by_owner", "_done", "_loop", "_more", "_plan", "_said", "_service",
                 "_until_ms")

    def __init__(self, loop: Loop, service: Service, plan: Plan, done: Callable[[], None]) -> None:
        """Stop reading, say so, and begin to send; done() is called when all is sent."""
        self._loop = loop
        self._service = service
        self._plan = plan
        self._done: Callable[[], None] | None = done
        self._boxes = [
            Outbox(loop, sock, feed=lambda n=n: self._feed(n))  # type: ignore[misc]
            for n, sock in enumerate(plan.writers)
        ]
        self._by_owner: list[deque[Session]] = [deque() for _ in self._boxes]
        self._more: list[deque[tuple[int, list[bytes]]]] = [deque() for _ in self._boxes]
        self._said: set[int] = set()
        timeout = service.cycle.main.worker_shutdown_timeout
        self._until_ms = loop.now_ms + timeout if timeout else 0
        for listener in service.udp_listeners:
            listener.close()
        for listener in service.udp_listeners:  # before STOPPED: what is read after that is younger
            for held in listener.take_held():
                self._put(listener, *held)
        pid = loop.pid
        for box in self._boxes:
            box.put(mailbox.STOPPED, pid, plan.pids)
            box.send()  # at once: the sockets are unread until all have heard it
        for s in loop.sessions:
            if s.c.is_udp:
                self._by_owner[self._owner(s)].append(s)
        for box in self._boxes:
            box.pump()

    def take(self, s: Session) -> None:
        """Send one more session, which came late."""
        n = self._owner(s)
        self._by_owner[n].append(s)
        self._boxes[n].pump()

    def pass_on(self, listener: UdpListener, key: Any, peer: Any, local: Any, data: bytes) -> None:
        """Send one datagram to the owner of its client."""
        self._boxes[self._put(listener, key, peer, local, data)].pump()

    def _put(self, listener: UdpListener, key: Any, peer: Any, local: Any, data: bytes) -> int:
        """Have one datagram sent to the owner of its client. Returns: whose box it is in"""
        listening = listener.listening
        n = self._owner_of(listening, peer)
        self._boxes[n].put(mailbox.DATAGRAMS, listening.options.key, key, peer, local, [data])
        return n

    def _owner_of(self, listening: Listening, peer: Any) -> int:
        current = listening.options.key in self._plan.keys
        return handover.owner_of(listening, peer, self._plan.workers, current=current)

    def _owner(self, s: Session) -> int:
        return self._owner_of(s.c.listening, udp_clients.peer_of(s.c.key))

    def _feed(self, n: int) -> bool:
        """Put the next message for one owner. Returns: whether there was any"""
        box, more = self._boxes[n], self._more[n]
        if more:
            box.put(mailbox.WAITING, *more.popleft())
            return True
        sessions = self._by_owner[n]
        packed: list[bytes] = []
        counts: list[int] = []
        socks: list[Any] = []
        size = 0
        while sessions and max(len(packed), len(socks)) < BATCH and size < BATCH_BYTES:
            s = sessions.popleft()
            if s.status:
                continue
            held = s.content
            try:
                way = content.ANEW if held is None else held.way()
                if held is None or way != content.MOVES:
                    if way == content.ANEW:
                        self._begin_anew(box, s)
                    continue
                data, sockets = self._pack(s, held, more)
            except Exception:  # noqa: BLE001 - the others of this message go on
                self._loop.fault(held)
                self._loop.end_sessions_of(s.c)
                continue
            packed.append(data)
            counts.append(len(sockets))
            socks += sockets
            size += len(data)
        if packed:
            fds = [sock.fileno() for sock in socks]
            box.put(mailbox.SESSIONS, packed, bytes(counts), fds=fds, socks=socks)
        if packed or box.waiting:
            return True
        if n not in self._said:
            self._said.add(n)
            box.put(mailbox.DONE, self._loop.pid)
            if len(self._said) == len(self._boxes):
                self._loop.post(self._finish)
            return True
        return False

    def _finish(self) -> None:
        if any(box.waiting and not box.gone for box in self._boxes):
            self._loop.call_later(LOOK_MS, self._finish, cancelable=True)
            return
        done, self._done = self._done, None
        if done is not None:
            done()

    def _pack(
        self, s: Session, held: Content, more: deque[tuple[int, list[bytes]]]
    ) -> tuple[bytes, Sequence[Any]]:
        """Pack one session and let go of it. Returns: its record, and its sockets"""
        c = s.c
        if self._until_ms and s.module_ctx(UNTIL) is None:
            s.set_module_ctx(UNTIL, self._until_ms)
        record, sockets, waiting = pack(s, held, self._service.places)
        more += [(c.number, [datagram]) for datagram in waiting]
        return record, sockets

    def _begin_anew(self, box: Outbox, s: Session) -> None:
        """Send the datagrams that a session got so far: it begins at its new owner."""
        c = s.c
        listener: Any = c.table
        peer = udp_clients.peer_of(c.key)
        local = handover.local_of(c.key, peer)
        travel.begin_anew(s, self._service.places)
        sink = listener.table.get(c.key)
        kept = getattr(sink, "kept", ()) if sink is not None and sink.c is c else ()
        for data in (s.preread, *kept):
            box.put(mailbox.DATAGRAMS, c.listening.options.key, c.key, peer, local, [data])
        if s.address.is_watched:
            core_facts.passed_on(s)
        _forget(s)


def pack(
    s: Session, held: Content, places: travel.Places
) -> tuple[bytes, Sequence[Any], list[bytes]]:
    """Pack one session and let go of it.

    Returns: its record, its sockets, and what it has yet to send to its server. Raises: ValueError
    """
    c = s.c
    listener: Any = c.table
    waiting = held.waiting()
    kind, data, sockets = held.pack()
    if len(sockets) > MOST_SOCKETS:
        raise ValueError(f"a session with {len(sockets)} sockets")
    sink = listener.table.get(c.key)
    record = handover.SESSION.encode((
        c.listening.options.key, travel.pack(s, places), kind, data,
        sink is not None and sink.c is c, len(waiting),
    ))
    _forget(s)
    return record, sockets, waiting


def _forget(s: Session) -> None:
    """Let go of a session that goes on, or begins, elsewhere: it ends nothing here."""
    loop, c = s.loop, s.c
    if s.content is not None:
        s.content.release()
    loop.call_all(reversed(s.abandon()))
    loop.close_connection(c)
