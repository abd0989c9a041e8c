"""The worker: the process that serves. It takes up rights and loop after the fork, opens its
gates, and leaves at once or in grace.

Answers for ngx_worker_process_cycle, ngx_worker_process_init and ngx_worker_process_exit
(src/os/unix/ngx_process_cycle.c).

1. A signal is a byte in a socket pair that the loop reads: nothing happens inside a handler.
2. Told to leave in grace, a worker closes its gates and TCP listening sockets at once, and each
   UDP listening socket when the last client that is answered through it has gone. Where others
   take its place, its UDP clients go to them first (handover.py).
3. The master's death closes the channel. A worker notes it and serves on, until a new master asks
   for its listening sockets (rendezvous.py).
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, log
from ngxstream.event import loop as loops
from ngxstream.event import poller, wakeups
from ngxstream.event.accept import BURST, TcpGate
from ngxstream.event.loop import Loop
from ngxstream.event.udp import UdpGate
from ngxstream.event.udp_proxied import ProxiedUdpGate
from ngxstream.modules.proxy import udp_one_way
from ngxstream.process import channel as channels
from ngxstream.process import handover, rendezvous, signals, system
from ngxstream.process.siblings import Siblings
from ngxstream.stream import travel

if TYPE_CHECKING:
    from ngxstream.event.listening import Listening
    from ngxstream.process.channel import Channel
    from ngxstream.process.cycle import Cycle
    from ngxstream.process.generations import Generations
    from ngxstream.process.mailbox import Mailbox
    from ngxstream.stream.session import Session

POLLERS: Final[dict[str, Callable[[int], poller.Poller]]] = {
    "epoll": poller.EpollPoller,
    "poll": lambda events: poller.PollPoller(),
    "select": lambda events: poller.SelectPoller(),
}
BURST_ALL: Final = 1 << 16  # multi_accept: more than any backlog holds
SWEEP_MS: Final = 1000  # how often a leaving worker looks for UDP sockets nobody needs any more


class Signals:
    """Signals as bytes the loop can read."""

    __slots__ = ("_reader", "_writer", "_obey")

    def __init__(self, heard: Iterable[int], obey: Callable[[int], None]) -> None:
        """Hear these signals from now on; `obey(number)` is called from the loop."""
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._obey = obey
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in heard:
            signal.signal(number, _nothing)  # the byte in the socket is all we want
        for number in signals.IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._reader.fileno()

    def on_readable(self, mask: int) -> None:
        """Obey every signal that came, in order."""
        with contextlib.suppress(BlockingIOError):
            for number in self._reader.recv(4096):
                self._obey(number)


def _nothing(number: int, frame: Any) -> None:
    """Do nothing: Python has put the signal's number into the wakeup socket already."""


class Service:
    """What serves a cycle on a loop: its gates, its modules' work, its logs."""

    __slots__ = (
        "cycle",
        "loop",
        "worker",  # its number
        "tcp_gates",
        "udp_gates",
        "places",  # travel.Places: of this and of former configurations
        "former",  # list[Cycle]: whose sessions may come, or are here
        "_generations",  # Generations | None
        "_current",  # frozenset[Listening]: those of the cycle
        "_gates",  # dict: ListenOptions.key -> UdpGate, one for each address
    )

    def __init__(
        self,
        cycle: Cycle,
        loop: Loop,
        worker: int,
        *,
        idle: bool = False,
        former: Sequence[Cycle] = (),
        generations: Generations | None = None,
        wakeups_fds: Mapping[int, int] | None = None,
    ) -> None:
        """Open the gates of one worker.

        shape: worker counts from 0; idle leaves the UDP gates unread; former are cycles whose UDP
        sessions may be handed over, counted in generations; wakeups_fds is what wakeups.make()
        returned, if there are other workers
        """
        self.cycle = cycle
        self.loop = loop
        self.worker = worker
        self.tcp_gates: list[TcpGate] = []
        self.udp_gates: list[UdpGate] = []
        self.places = travel.Places()
        self.former = list(former)
        self._generations = generations
        self._current = frozenset(cycle.listenings)
        self._gates: dict[Any, UdpGate] = {}
        for known in (cycle, *former):
            if known.stream is not None:
                self.places.add(known.generation, known.stream, known.listenings)
        for listening in cycle.lingering:
            for gate in self._add_udp(listening, _nobody, idle):
                gate.accepts = False
        stream, events = cycle.stream, cycle.events
        if stream is None:
            return
        relays = {slots: wakeups.Relay(loop, fd) for slots, fd in (wakeups_fds or {}).items()}
        for conf, listening in zip(stream.listenings, cycle.listenings, strict=True):
            if conf.options.is_udp:
                forward = udp_one_way.forwarder(conf, loop)
                for gate in self._add_udp(listening, conf.begin, idle, conf.believes):
                    if forward is not None:
                        gate.forward_by(forward)
                continue
            for sock in listening.for_worker(worker, cycle.workers):
                exclusive = cycle.workers > 1 and listening.is_shared(sock)
                self.tcp_gates.append(
                    TcpGate(
                        loop,
                        listening,
                        sock,
                        conf.begin,
                        burst=BURST_ALL if events.multi_accept else BURST,
                        exclusive=exclusive,
                        pause_ms=events.accept_mutex_delay,
                        slots=conf.slots,
                        relay=relays.get(conf.slots) if exclusive else None,
                    )
                )
        stream.start_worker(loop)

    def _add_udp(
        self,
        listening: Listening,
        begin: Callable[..., Any],
        idle: bool,
        believes: Callable[[Any, bytes | None], bool] | None = None,
    ) -> list[UdpGate]:
        """Make this worker's gates of one address; they share the table of its clients.

        shape: believes says whose PROXY headers are taken, None where there are none
        """
        table: dict[Any, Any] = {}
        make: Callable[..., UdpGate] = UdpGate
        if believes is not None:
            make = functools.partial(ProxiedUdpGate, believes=believes)
        added = [
            make(self.loop, listening, sock, begin, table=table, idle=idle)
            for sock in listening.for_worker(self.worker, self.cycle.workers)
        ]
        self.udp_gates += added
        if added:
            self._gates[listening.options.key] = added[0]
        return added

    def gate_of(self, key: Any) -> UdpGate | None:
        """Return the gate of an address. shape: key is ListenOptions.key"""
        return self._gates.get(key)

    def is_current(self, listening: Listening) -> bool:
        """Tell whether an address is one of the configuration that serves, not of a former one."""
        return listening in self._current

    def count_adopted(self, s: Session) -> None:
        """Count a session of a former configuration until it ends or goes on elsewhere."""
        generation, _ = self.places.place_of(s.address)
        if generation != self.cycle.generation and self._generations is not None:
            s.add_cleanup(self._generations.adopt(generation))

    def close_lingering(self) -> bool:
        """Close the gates of addresses that are gone once they have no clients left.

        returns: whether some have
        """
        left = []
        for gate in self.udp_gates:
            if self.is_current(gate.listening) or gate.table or gate.is_needed:
                left.append(gate)
                continue
            gate.close()
            self._gates.pop(gate.listening.options.key, None)
        self.udp_gates = left
        used = {gate.sock for gate in left}
        used |= {session.c.sock for session in self.loop.sessions if session.c.is_udp}
        lingering = [sock for one in self.cycle.lingering for sock in one.socks]
        for sock in lingering:
            if sock not in used:
                sock.close()
        return any(sock in used for sock in lingering)

    def count(self) -> int:
        """Return how many gates there are; each takes a connection slot, as in nginx."""
        return len(self.tcp_gates) + len(self.udp_gates)

    def close_gates(self, *, udp: bool = True) -> None:
        """Take no new clients, TCP or at all. The listening sockets stay."""
        for tcp_gate in self.tcp_gates:
            tcp_gate.close()
        if udp:
            for udp_gate in self.udp_gates:
                udp_gate.close()

    def close_sockets(self) -> None:
        """Close this process's copies of the listening sockets that no session needs.

        Call it again later for UDP: a socket stays while clients are answered through it.
        """
        needed = {session.c.sock for session in self.loop.sessions if session.c.is_udp}
        needed |= {gate.sock for gate in self.udp_gates if gate.open or gate.is_needed}
        for listening in (*self.cycle.listenings, *self.cycle.lingering):
            for sock in listening.socks:
                if sock not in needed:
                    sock.close()
        self.udp_gates = [gate for gate in self.udp_gates if gate.sock in needed]

    def reopen(self) -> None:
        """Open all logs anew. source: ngx_reopen_files"""
        self.cycle.log.error(log.NOTICE, "reopening logs")
        for cycle in (self.cycle, *self.former):
            cycle.reopen(self.cycle.log, None)
            if cycle.stream is not None:
                cycle.stream.reopen(self.loop)

    def stop(self) -> None:
        """Have the modules finish what they do in the background."""
        for cycle in (self.cycle, *self.former):
            if cycle.stream is not None:
                cycle.stream.stop_worker(self.loop)

    def shut_down_sessions(self) -> None:
        """End every session: worker_shutdown_timeout is over. source: ngx_shutdown_timer_handler"""
        for session in list(self.loop.sessions):
            try:
                session.log_error(log.INFO, "shutdown timeout")
                session.finalize(codes.STREAM_OK)
            except Exception:  # noqa: BLE001 - the others end all the same
                self.loop.fault(session.content)


def _nobody(*_: object) -> None:
    """Begin no session: the address is gone, and its gate accepts nobody."""


def make_loop(cycle: Cycle, worker: int) -> Loop:
    """Make the loop of a serving process, by what the events block says."""
    events = cycle.events
    use = POLLERS[events.use](events.epoll_events)
    loop = loops.SERVING(cycle.log, use, events.worker_connections)
    loop.next_number = cycle.serial.next
    loop.worker = worker
    return loop


class Family:
    """What the workers of one master share, besides the configuration they serve by."""

    __slots__ = ("former", "generations", "mailboxes", "owner", "patience_ms", "wakeups_fds")

    def __init__(
        self,
        generations: Generations,
        mailboxes: Sequence[Mailbox],
        former: Sequence[Cycle] = (),
        patience_ms: int = handover.START_MS,
        wakeups_fds: Mapping[int, int] | None = None,
    ) -> None:
        """shape: one mailbox for each worker; former are cycles whose UDP sessions go on;
        patience_ms is how long an idle worker waits for UDP clients, 0 for ever; wakeups_fds is
        what wakeups.make() returned, if there are other workers
        """
        self.wakeups_fds = wakeups_fds
        self.patience_ms = patience_ms
        self.generations = generations
        self.mailboxes = mailboxes
        self.former = former
        self.owner = os.geteuid()  # the master's


class Worker:
    """One worker process, from the fork to its end."""

    __slots__ = (
        "cycle",
        "number",
        "channel",
        "title",
        "daemonized",
        "loop",
        "service",
        "code",
        "family",  # Family: what it shares with the other workers of its master
        "arrival",  # handover.Arrival
        "handing_over",  # bool: it was told to
        "siblings",  # Siblings | None: once the master is gone
        "_idle",  # bool: former workers read the UDP sockets still
    )

    def __init__(
        self,
        cycle: Cycle,
        number: int,
        channel: Channel,
        title: system.Title,
        family: Family,
        *,
        daemonized: bool,
        idle: bool = False,
    ) -> None:
        """shape: number is the worker's place, 0 <= number < cycle.workers; made after the fork;
        idle says that former workers will hand their UDP clients over
        """
        self.family = family
        self._idle = idle
        self.handing_over = False
        self.siblings: Siblings | None = None
        self.arrival: handover.Arrival
        self.cycle = cycle
        self.number = number
        self.channel = channel
        self.title = title
        self.daemonized = daemonized
        self.code = 0
        self.loop: Loop
        self.service: Service

    def run(self) -> int:
        """Serve until told otherwise; return the exit code.

        raises: WorkerInitError, OSError when the worker cannot begin
        """
        try:
            self._begin()
        except poller.LimitError as error:  # with every try again it would be the same
            raise system.WorkerInitError(str(error.strerror)) from None
        except OSError as error:
            scarce = system.ScarceError.of(error)
            if scarce is None:
                raise
            raise scarce from None
        self.title.set("worker process")
        self.channel.send(channels.READY)
        self.loop.run()
        self.service.stop()
        self.cycle.log.error(log.NOTICE, "exit")
        return self.code

    def _begin(self) -> None:
        """Become what the configuration says, and open the gates. raises: as run"""
        cycle = self.cycle
        system.init_worker(
            cycle.main, self.number, cycle.log, capabilities=cycle.reading.capabilities
        )
        loop = self.loop = make_loop(cycle, self.number)
        heard = Signals(signals.HEARD, self._obey)
        loop.register(heard.fileno(), heard.on_readable, poller.LEVEL)
        loop.register(self.channel.fileno(), self.on_channel, poller.LEVEL)
        family = self.family
        family.generations.zone.claim()
        for known in (cycle, *family.former):
            known.zones.claim()  # while there are descriptors
        self.service = Service(
            cycle, loop, self.number,
            idle=self._idle, former=family.former, generations=family.generations,
            wakeups_fds=family.wakeups_fds,
        )
        loop.free_connections -= self.service.count() + 1  # one for the channel
        self.arrival = handover.Arrival(
            loop,
            self.service,
            family.mailboxes[self.number].reader,
            [box.writer for box in family.mailboxes],
            idle=self._idle,
            patience_ms=family.patience_ms,
            users=[
                known.main.user.uid for known in (cycle, *family.former) if known.main.user
            ],
        )
        self.arrival.when_settled(self._settle)

    # -- commands ------------------------------------------------------------------------------

    def on_channel(self, mask: int) -> None:
        """Do what the master says. source: ngx_channel_handler"""
        try:
            while True:
                message = self.channel.receive()
                if message.command == channels.QUIT:
                    self.quit()
                elif message.command == channels.TERMINATE:
                    self.terminate()
                elif message.command == channels.REOPEN:
                    self.service.reopen()
                elif message.command == channels.GO:
                    self.arrival.go()
                elif message.command == channels.GIVE:
                    has = [*self.cycle.listenings, *self.cycle.lingering]
                    rendezvous.give(self.loop, self.channel, [] if self.loop.exiting else has)
                elif message.command == channels.HANDOVER:
                    self.hand_over(handover.Plan.unpack(message.payload, message.fds))
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self.loop.unregister(self.channel.fileno())
            self.channel.close()
            self.arrival.go()
            on = "leaving" if self.loop.exiting else "serving on"
            self.cycle.log.error(log.NOTICE, f"the master process is gone, {on}")
            self._wait_for_master()
            if self.siblings is None:  # nobody else gives back what they held
                cycles = (self.cycle, *self.family.former)
                zones = [zone for cycle in cycles for zone in cycle.zones.zones()]
                self.siblings = Siblings(self.loop, [self.family.generations.zone, *zones])

    def _wait_for_master(self) -> None:
        """Serve on, or finish, until a new master comes; nginx's worker never learns."""
        path, owner = self.cycle.main.pid, self.family.owner
        try:
            rendezvous.Orphan(self.loop, path, owner, self._on_new_master)
        except OSError as error:
            self.cycle.log.error(log.WARN, "no new master will find this worker", error)

    def _on_new_master(self, channel: Channel) -> None:
        self.cycle.log.error(log.NOTICE, "a new master process takes over")
        self.channel = channel
        self.loop.register(channel.fileno(), self.on_channel, poller.LEVEL)
        rendezvous.introduce(channel, None if self.loop.exiting else self.cycle)

    def _obey(self, number: int) -> None:
        """Do what a signal says. source: ngx_signal_handler, NGX_PROCESS_WORKER"""
        action = ""
        if number in signals.TERMINATE:
            action, do = "exiting", self.terminate
        elif number == signals.SHUTDOWN or (number == signals.NO_ACCEPT and self.daemonized):
            action, do = "shutting down", self.quit
        elif number == signals.REOPEN:
            action, do = "reopening logs", self.service.reopen
        else:
            do = None
            if number in (signals.RECONFIGURE, signals.CHANGE_BINARY, signal.SIGIO):
                action = "ignoring"
        self.cycle.log.error(log.NOTICE, signals.received(number, action=action))
        if do is not None:
            do()

    def quit(self) -> None:
        """Take no new clients and leave when the last session has ended."""
        loop = self.loop
        if loop.exiting or loop.stopped:
            return
        self.cycle.log.error(log.NOTICE, "gracefully shutting down")
        self.title.set("worker process is shutting down")
        timeout = self.cycle.main.worker_shutdown_timeout
        if timeout:
            loop.call_later(timeout, self.service.shut_down_sessions, cancelable=True)
        if not self.handing_over:
            self.arrival.give_up()
        self.service.close_gates(udp=not self.handing_over)
        self.arrival.when_settled(self._sweep)
        loop.exiting = True
        loop.on_idle = self._leave

    def _sweep(self) -> None:
        self.service.close_sockets()
        if self.service.udp_gates:
            self.loop.call_later(SWEEP_MS, self._sweep, cancelable=True)

    # -- UDP sessions change hands -------------------------------------------------------------

    def _settle(self) -> None:
        """All that former workers had is here."""
        self.family.generations.settle(self.cycle.generation)
        self._sweep_lingering()

    def _sweep_lingering(self) -> None:
        if self.service.close_lingering() and not self.loop.exiting:
            self.loop.call_later(SWEEP_MS, self._sweep_lingering, cancelable=True)

    def hand_over(self, plan: handover.Plan) -> None:
        """Give all UDP clients to the workers of a plan, as soon as all of them are here."""
        if self.handing_over:
            return
        self.handing_over = True
        self.loop.live += 1
        self.arrival.when_settled(lambda: self._depart(plan))

    def _depart(self, plan: handover.Plan) -> None:
        departure = handover.Departure(self.loop, self.service, plan, self._departed)
        self.arrival.depart(departure)

    def _departed(self) -> None:
        self.loop.live -= 1
        if self.loop.exiting:
            self._sweep()

    def _leave(self) -> None:
        self.cycle.log.error(log.NOTICE, "exiting")
        self.loop.stop()

    def terminate(self) -> None:
        """Leave now; sessions are dropped."""
        if not self.loop.stopped:
            self._leave()
