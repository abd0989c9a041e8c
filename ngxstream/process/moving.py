"""Sessions that are known by ids, among the workers of one configuration: where a client's new
address is another worker's, his datagrams go to the session, and then the session to that worker.

nginx has no counterpart. event/udp_ids.py finds the sessions; a session travels as at a reload
(departure.py, adoption.py), by the mailboxes that all workers of a configuration have.

1. A session is offered first: a worker that hands over may be gone before it comes. One that wants
   it stays for HOLD_MS, and passes on what comes when it has handed over meanwhile.
2. Whoever hands over itself moves nothing: its sessions go where the hand-over has them go.
3. A session that nobody wanted stays, and its datagrams come to it. It is offered again (udp_quic).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import drops, udp_clients
from ngxstream.event.udp_ids import ARRIVING_MS, ClientIds
from ngxstream.process import departure, handover, mailbox
from ngxstream.stream import content

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import UdpListener
    from ngxstream.event.udp_ids import Known
    from ngxstream.process.mailbox import Outbox
    from ngxstream.process.service import Service
    from ngxstream.stream.session import Session

QUEUED: Final = 1024  # messages that may wait for one worker
OFFERED: Final = 1024  # sessions that nobody has answered for
HOLD_MS: Final = ARRIVING_MS


class Moving:
    """What one worker sends the others of its configuration."""

    __slots__ = ("_boxes", "_ids", "_loop", "_may_move", "_offered", "_service")

    def __init__(self, loop: Loop, service: Service, boxes: Sequence[Outbox],
                 may_move: Callable[[], bool]) -> None:
        """Args: boxes: of all workers; may_move: whether no hand-over goes on"""
        self._loop = loop
        self._service = service
        self._boxes = boxes
        self._may_move = may_move
        self._offered: dict[int, tuple[Session, Known]] = {}  # by $connection
        ids = self._ids = loop.get(ClientIds)
        ids.forward = self.forward
        ids.moved = self.on_moved
        ids.awaits = lambda: service.others_settle

    def forward(self, listener: UdpListener, key: Any, peer: Any, data: bytes | memoryview,
                hops: int, worker: int) -> bool:
        """Pass a datagram on to the worker that has its session. Returns: whether there is one"""
        if worker >= len(self._boxes):
            return False  # of a former configuration that had more
        box = self._boxes[worker]
        if box.waiting >= QUEUED:
            listener.lost.drop(drops.STRAY)
            return True
        where, local = listener.listening.options.key, handover.local_of(key, peer)
        box.put(mailbox.FOUND, where, key, peer, local, [bytes(data)], hops)
        box.pump()
        return True

    def on_moved(self, s: Session, known: Known) -> None:
        """Offer a session to the worker whose client it is by its new address."""
        worker = self._owner(s)
        if worker is None or len(self._offered) >= OFFERED:
            return
        if s.c.number not in self._offered:
            number = s.c.number
            s.add_cleanup(lambda: self._forget(number))
        self._offered[s.c.number] = s, known
        box = self._boxes[worker]
        box.put(mailbox.OFFER, self._service.worker, s.c.number)
        box.pump()

    def on_offer(self, worker: int, number: int) -> None:
        """Say that a session may come, and be there when it does."""
        if worker >= len(self._boxes) or not self._may_move():
            return
        self._loop.live += 1
        self._loop.call_later(HOLD_MS, self._let_go, cancelable=True)
        box = self._boxes[worker]
        box.put(mailbox.WANTED, number)
        box.pump()

    def _let_go(self) -> None:
        self._loop.live -= 1

    def on_wanted(self, number: int) -> None:
        """Send a session that was offered, if it still is to go there."""
        s, known = self._offered.pop(number, (None, None))
        if s is None or known is None:
            return
        worker, held = self._owner(s), s.content
        if worker is None or held is None:
            return
        loop, c, box = self._loop, s.c, self._boxes[worker]
        for name in known.ids:
            self._ids.give(known.where, name, known, worker)
        try:
            record, sockets, waiting = departure.pack(s, held, self._service.places)
        except Exception:  # noqa: BLE001 - it ends alone
            loop.fault(held)
            loop.end_sessions_of(c)
            return
        fds = [sock.fileno() for sock in sockets]
        box.put(mailbox.SESSIONS, [record], bytes((len(sockets),)), fds=fds, socks=sockets)
        for data in waiting:
            box.put(mailbox.WAITING, number, [data])
        box.pump()

    def _owner(self, s: Session) -> int | None:
        """Return the worker that a session should go to, None where it should stay."""
        service, c, held = self._service, s.c, s.content
        if s.status or held is None or c.table is None or not self._may_move():
            return None
        listening = c.table.listening
        worker = handover.owner_of(
            listening, udp_clients.peer_of(c.key), service.cycle.workers,
            current=service.is_current(listening),
        )
        is_full = self._boxes[worker].waiting >= QUEUED
        if worker == service.worker or is_full or held.way() != content.MOVES:
            return None
        return worker

    def _forget(self, number: int) -> None:
        self._offered.pop(number, None)
