"""What serves a cycle on a loop: its listeners, the work of its modules, its logs.

Beside ngx_event_process_init (src/event/ngx_event.c), which makes a connection of each listening
socket. A worker has one Service; a process that does everything has one more for each configuration
that it replaced while sessions of it last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, log
from ngxstream.event import drops, eviction, poller, udp_counted, wakeups
from ngxstream.event import loop as loops
from ngxstream.event.accept import BURST, TcpListener
from ngxstream.event.udp import UdpListener
from ngxstream.event.udp_proxied import ProxiedUdpListener
from ngxstream.modules.proxy import quic_conf, udp_one_way
from ngxstream.process import status, status_workers
from ngxstream.stream import core_facts, endings, travel
from ngxstream.stream.asking import Asking

if TYPE_CHECKING:
    from ngxstream.core.inet import ListenKey, SockAddr
    from ngxstream.event.connection import Connection
    from ngxstream.event.listening import Listening
    from ngxstream.event.loop import Loop
    from ngxstream.process.cycle import Cycle
    from ngxstream.process.generations import Generations
    from ngxstream.stream.session import Session

SWEEP_MS: Final = 1000  # how often it is seen whether somebody needs a UDP socket still
BURST_ALL: Final = 1 << 16  # multi_accept: more than any backlog holds


class Service:
    """What serves a cycle on a loop: its listeners, the work of its modules, its logs."""

    __slots__ = (
        "cycle",
        "loop",
        "worker",  # its number
        "tcp_listeners",
        "udp_listeners",
        "places",  # travel.Places: of this and of former configurations
        "former",  # list[Cycle]: whose sessions may come, or are here
        "_generations",  # Generations | None
        "_current",  # frozenset[Listening]: those of the cycle
        "_listeners",  # dict: ListenOptions.key -> UdpListener, one for each address
    )

    def __init__(
        self, cycle: Cycle, loop: Loop, worker: int, *, idle: bool = False,
        former: Sequence[Cycle] = (), generations: Generations | None = None,
        wakeups_fds: Mapping[int, int] | None = None,
    ) -> None:
        """Make the listeners of one worker.

        Args: worker: counted from 0; idle: leave UDP sockets unread; former: cycles whose UDP
        sessions may be handed over, counted in generations; wakeups_fds: what wakeups.make()
        returned, if there are other workers
        """
        self.cycle = cycle
        self.loop = loop
        loop.cells = cycle.rows.cells
        if cycle.board is not None:
            loop.get(status.Status).cycle = cycle
        giving_way = loop.get(eviction.Eviction)
        giving_way.evicted = cycle.facts.counter(core_facts.EVICTED)
        giving_way.refused = cycle.facts.counter(core_facts.REFUSED)
        self.worker = worker
        self.tcp_listeners: list[TcpListener] = []
        self.udp_listeners: list[UdpListener] = []
        self.places = travel.Places()
        self.former = list(former)
        self._generations = generations
        self._current = frozenset(cycle.listenings)
        self._listeners: dict[ListenKey, UdpListener] = {}
        for known in (cycle, *former):
            for file in known.files:
                file.gather(loop.lines)
            if known.stream is not None:
                self.places.add(known.generation, known.stream, known.listenings)
        for listening in cycle.lingering:
            for listener in self._add_udp(listening, _nobody, idle):
                listener.accepts = False
        stream, events = cycle.stream, cycle.events
        if stream is None:
            return
        relays = {slots: wakeups.Relay(loop, fd) for slots, fd in (wakeups_fds or {}).items()}
        for conf, listening in zip(stream.listenings, cycle.listenings, strict=True):
            if conf.options.is_udp:
                forward = udp_one_way.forwarder(conf, loop)
                finder = quic_conf.finder(conf, loop)
                for listener in self._add_udp(listening, conf.begin, idle, conf.believes):
                    if finder is not None:
                        listener.find_by(finder)
                    if forward is not None:
                        listener.forward_by(forward)
                continue
            for sock in listening.for_worker(worker, cycle.workers):
                exclusive = cycle.workers > 1 and listening.is_shared(sock)
                self.tcp_listeners.append(
                    TcpListener(
                        loop, listening, sock, conf.begin,
                        burst=BURST_ALL if events.multi_accept else BURST, exclusive=exclusive,
                        pause_ms=events.accept_mutex_delay, slots=conf.slots,
                        relay=relays.get(conf.slots) if exclusive else None,
                    )
                )
        if stream.is_shown:
            loop.get(Asking).stream = stream
        stream.start_worker(loop)
        status_workers.start(self)

    def _add_udp(
        self,
        listening: Listening,
        begin: Callable[[Connection, Loop], object],
        idle: bool,
        believes: Callable[[SockAddr, bytes | None], bool] | None = None,
    ) -> list[UdpListener]:
        """Make the listeners of one address; they share the table of its clients.

        Args: believes: says whose PROXY headers are taken, None where there are none
        """
        table: dict[Any, Any] = {}
        kind = UdpListener if believes is None else ProxiedUdpListener
        lost = self._lost(listening)
        if self.cycle.board is not None:
            kind = udp_counted.counted(kind)
        make: Callable[..., UdpListener] = kind
        if believes is not None:
            make = functools.partial(make, believes=believes)
        added = [
            make(self.loop, listening, sock, begin, table=table, idle=idle, lost=lost)
            for sock in listening.for_worker(self.worker, self.cycle.workers)
        ]
        self.udp_listeners += added
        if added:
            self._listeners[listening.options.key] = added[0]
        return added

    def _lost(self, listening: Listening) -> drops.Drops:
        """Return what counts the datagrams that an address loses."""
        label = core_facts.label_of(listening.options)
        cell = self.cycle.facts.known(core_facts.DROPPED, label)
        cells = status_workers.cells_of(self.cycle)
        return drops.Drops(cell) if cells is None else cells.lost(cell)

    def listener_of(self, key: ListenKey) -> UdpListener | None:
        """Return the listener of an address. Args: key: ListenOptions.key"""
        return self._listeners.get(key)

    def is_current(self, listening: Listening) -> bool:
        """Tell whether an address is one of the configuration that serves, not of a former one."""
        return listening in self._current

    def count_adopted(self, s: Session) -> None:
        """Count a session of a former configuration until it ends or goes on elsewhere."""
        generation, _ = self.places.place_of(s.address)
        if generation != self.cycle.generation and self._generations is not None:
            s.add_cleanup(self._generations.adopt(generation))

    @property
    def others_settle(self) -> bool:
        """Whether another worker has yet to get the sessions of those before, or has just died."""
        generations = self._generations
        if generations is None:
            return False
        return generations.settled(self.cycle.generation) < self.cycle.workers

    def close_lingering(self) -> bool:
        """Close listeners of gone addresses that have no clients. Returns: whether others have"""
        left = []
        for listener in self.udp_listeners:
            if self.is_current(listener.listening) or listener.table or listener.is_needed:
                left.append(listener)
                continue
            listener.close()
            self._listeners.pop(listener.listening.options.key, None)
        self.udp_listeners = left
        used = {listener.sock for listener in left}
        used |= self._answering()
        lingering = [sock for one in self.cycle.lingering for sock in one.socks]
        for sock in lingering:
            if sock not in used:
                sock.close()
        return any(sock in used for sock in lingering)

    def count(self) -> int:
        """Return how many listeners there are; each takes a connection slot, as in nginx."""
        return len(self.tcp_listeners) + len(self.udp_listeners)

    def close_listeners(self, *, udp: bool = True) -> None:
        """Take no new clients, TCP or at all. The listening sockets stay."""
        for tcp_listener in self.tcp_listeners:
            tcp_listener.close()
        if udp:
            for udp_listener in self.udp_listeners:
                udp_listener.close()

    def close_sockets(self) -> None:
        """Close this process's copies of the listening sockets that no session needs.

        Call it again later for UDP: a socket stays while clients are answered through it.
        """
        needed = self._answering()
        needed |= {one.sock for one in self.udp_listeners if one.open or one.is_needed}
        for listening in (*self.cycle.listenings, *self.cycle.lingering):
            for sock in listening.socks:
                if sock not in needed:
                    sock.close()
        self.udp_listeners = [one for one in self.udp_listeners if one.sock in needed]

    def _answering(self) -> set[Any]:
        """Return the listening sockets that clients of sessions are answered through."""
        tables = (session.c.table for session in self.loop.sessions)
        return {table.sock for table in tables if table is not None}

    def reopen(self) -> None:
        """Open all logs anew. Source: ngx_reopen_files"""
        self.cycle.log.error(log.NOTICE, "reopening logs")
        for cycle in (self.cycle, *self.former):
            cycle.reopen(self.cycle.log, None)
            if cycle.stream is not None:
                cycle.stream.reopen(self.loop)

    def retire(self) -> None:
        """Have the modules begin nothing new by themselves: others serve from now on."""
        if self.cycle.stream is not None:
            self.cycle.stream.retire_worker(self.loop)

    def stop(self) -> None:
        """Have the modules finish what they do in the background."""
        for cycle in (self.cycle, *self.former):
            if cycle.stream is not None:
                cycle.stream.stop_worker(self.loop)

    def shut_down_sessions(self) -> None:
        """End every session: worker_shutdown_timeout is over. Source: ngx_shutdown_timer_handler"""
        for session in list(self.loop.sessions):
            try:
                session.log_error(log.INFO, "shutdown timeout")
                if session.content is not None:
                    session.content.count_live()
                session.end(codes.STREAM_OK, endings.SHUTDOWN)
            except Exception:  # noqa: BLE001 - the others end all the same
                self.loop.fault(session.content)


def _nobody(*_: object) -> None:
    """Begin no session: the address is gone, and its listener accepts nobody."""


def make_loop(cycle: Cycle, worker: int) -> Loop:
    """Make the loop of a serving process, by what the events block says."""
    events = cycle.events
    use = poller.POLLERS[events.use](events.epoll_events)
    loop = loops.SERVING(cycle.log, use, events.worker_connections)
    loop.next_number = cycle.serial.next
    loop.worker = worker
    loop.workers = cycle.workers
    return loop
