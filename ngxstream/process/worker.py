"""The worker process: it drops privileges after the fork, opens its listeners, and exits at once
or gracefully.

Answers for ngx_worker_process_cycle, ngx_worker_process_init and ngx_worker_process_exit
(src/os/unix/ngx_process_cycle.c).

1. A signal is a byte in a socket pair that the loop reads: nothing happens inside a handler.
2. Told to leave in grace, a worker closes its TCP listening sockets at once, and each
   UDP listening socket when the last client that is answered through it has gone. Where others
   take its place, its UDP clients go to them first (handover.py).
3. The master's death closes the channel. A worker notes it and serves on, until a new master asks
   for its listening sockets (orphan.py).
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ngxstream.core import log
from ngxstream.event import poller
from ngxstream.process import arrival as arrivals
from ngxstream.process import channel as channels
from ngxstream.process import departure as departures
from ngxstream.process import directives, handover, orphan, signals, status, system, worker_facts
from ngxstream.process.questioner import Questioner
from ngxstream.process.service import SWEEP_MS, Service, make_loop
from ngxstream.process.siblings import Siblings

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.process.channel import Channel
    from ngxstream.process.cycle import Cycle
    from ngxstream.process.generations import Generations
    from ngxstream.process.mailbox import Mailbox


class WorkerContext:
    """What the workers of one master share, besides the configuration they serve by."""

    __slots__ = (
        "former", "generations", "mailboxes", "others", "owner", "patience_ms", "wakeups_fds"
    )

    def __init__(
        self, generations: Generations, mailboxes: Sequence[Mailbox], former: Sequence[Cycle] = (),
        patience_ms: int = handover.START_MS, wakeups_fds: Mapping[int, int] | None = None,
        others: Iterable[int] = (),
    ) -> None:
        """Args: mailboxes: one for each worker; former: cycles whose UDP sessions go on;
        patience_ms: how long an idle worker waits for UDP clients, 0 for ever; wakeups_fds: what
        wakeups.make() returned, if there are other workers; others: pids of those who serve beside
        the workers of this generation: other workers, another master
        """
        self.others = frozenset(others)
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
        "context",  # WorkerContext: what it shares with the other workers of its master
        "arrival",  # arrivals.Arrival
        "handing_over",  # bool: it was told to
        "siblings",  # Siblings | None: once the master is gone
        "stays",  # bool: those before it were told to leave, or were about to be
        "_asks_by",  # socket | None: that questions to all workers go by
        "_idle",  # bool: former workers read the UDP sockets still
    )

    def __init__(
        self, cycle: Cycle, number: int, channel: Channel, title: system.Title,
        context: WorkerContext, *, daemonized: bool, idle: bool = False,
        asks_by: socket.socket | None = None,
    ) -> None:
        """Be made after the fork.

        Args: number: its place, 0 <= number < cycle.workers; idle: former workers will hand their
        UDP clients over; asks_by: its end of the pair that questions go by, where there is one
        """
        self._asks_by = asks_by
        self.context = context
        self._idle = idle
        self.handing_over = False
        self.stays = False
        self.siblings: Siblings | None = None
        self.arrival: arrivals.Arrival
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

        Raises: WorkerInitError, OSError when the worker cannot begin
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
        """Become what the configuration says, and listen. Raises: as run"""
        cycle = self.cycle
        system.init_worker(
            cycle.main, self.number, cycle.log, capabilities=cycle.reading.capabilities
        )
        loop = self.loop = make_loop(cycle, self.number)
        heard = signals.Receiver(signals.HANDLED, self._obey)
        loop.register(heard.fileno(), heard.on_readable, poller.LEVEL)
        loop.register(self.channel.fileno(), self.on_channel, poller.LEVEL)
        context = self.context
        context.generations.zone.claim()
        for known in (cycle, *context.former):
            known.zones.claim()  # while there are descriptors
        self.service = Service(
            cycle, loop, self.number,
            idle=self._idle, former=context.former, generations=context.generations,
            wakeups_fds=context.wakeups_fds,
        )
        loop.free_connections -= self.service.count() + 1  # one for the channel
        if self._asks_by is not None:
            Questioner(loop, self._asks_by, context.owner)
            loop.free_connections -= 1
        self.arrival = arrivals.Arrival(
            loop,
            self.service,
            context.mailboxes[self.number].reader,
            [box.writer for box in context.mailboxes],
            idle=self._idle,
            patience_ms=context.patience_ms,
            users=[known.main.user.uid for known in (cycle, *context.former) if known.main.user],
            refused=cycle.facts.counter(directives.REFUSED),
        )
        self.arrival.when_settled(self._settle)

    # -- commands ------------------------------------------------------------------------------

    def on_channel(self, mask: int) -> None:
        """Do what the master says. Source: ngx_channel_handler"""
        try:
            while True:
                try:
                    message = self.channel.receive()
                except OSError as error:
                    if error.errno != errno.EPROTO or self.siblings is not None:
                        raise  # an orphan waits for another one who can speak to it
                    text = f"what the master said is refused: {error.strerror}"
                    self.cycle.log.error(log.WARN, text)
                    continue
                if message.command == channels.QUIT:
                    self.quit()
                elif message.command == channels.TERMINATE:
                    self.terminate()
                elif message.command == channels.REOPEN:
                    self.service.reopen()
                elif message.command == channels.GO:
                    self.arrival.go()
                elif message.command == channels.STAY:
                    self.stays = True
                elif message.command == channels.GIVE:
                    has = [*self.cycle.listenings, *self.cycle.lingering]
                    orphan.give(self.loop, self.channel, [] if self.loop.exiting else has)
                elif message.command == channels.HANDOVER:
                    self.hand_over(handover.Plan.unpack(message.payload, message.fds))
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self.loop.unregister(self.channel.fileno())
            self.channel.close()
            self.loop.get(status.Status).is_orphan = True
            self._go_on_alone()
            self.cycle.suspend()  # the next master reads what it begins with at any moment
            on = "leaving" if self.loop.exiting or self.loop.stopped else "serving on"
            self.cycle.log.error(log.NOTICE, f"the master process is gone, {on}")
            self._wait_for_master()
            if self.siblings is None:  # nobody else gives back what they held
                cycles = (self.cycle, *self.context.former)
                zones = [zone for cycle in cycles for zone in cycle.zones.zones()]
                zones += [self.context.generations.zone, self.cycle.rows.zone]
                self.siblings = Siblings(self.loop, zones)

    def _go_on_alone(self) -> None:
        """Read UDP, unless those before this worker do, whom nobody will tell to hand over.

        What the master had begun is undone then: they serve on, and this worker leaves. But not if
        they may have been told to leave.
        """
        if self.arrival.is_unheard and any(map(arrivals.is_alive, self.context.others)):
            self.arrival.wait()
            self.loop.call_later(handover.START_MS, self._give_way, cancelable=True)
        else:
            self.arrival.go()

    def _give_way(self) -> None:
        """Leave, where nobody has begun to hand over since the master died, or will."""
        if not self.arrival.is_unheard:
            return
        are_alive = any(map(arrivals.is_alive, self.context.others))
        if are_alive and self.stays:
            self.loop.call_later(handover.START_MS, self._give_way, cancelable=True)
        elif are_alive:
            self.cycle.log.error(log.NOTICE, "the workers before this one serve on, leaving")
            self.quit()
        else:
            self.arrival.go()

    def _wait_for_master(self) -> None:
        """Serve on, or finish, until a new master comes; nginx's worker never learns."""
        path = orphan.place_of(self.cycle.main, self.cycle.options)
        owner = self.context.owner
        try:
            orphan.Orphan(self.loop, path, owner, self._on_new_master)
        except OSError as error:
            self.cycle.log.error(log.WARN, "no new master will find this worker", error)

    def _on_new_master(self, channel: Channel) -> None:
        self.cycle.log.error(log.NOTICE, "another process takes the place of the master")
        self.channel = channel
        self.loop.get(status.Status).is_orphan = False
        self.loop.register(channel.fileno(), self.on_channel, poller.LEVEL)
        serves = not (self.loop.exiting or self.arrival.is_unheard)
        orphan.introduce(channel, self.cycle if serves else None)

    def _obey(self, number: int) -> None:
        """Do what a signal says. Source: ngx_signal_handler, NGX_PROCESS_WORKER"""
        if number in self.loop.silent:
            return
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
        self.service.close_listeners(udp=not self.handing_over)
        self.service.retire()
        self.arrival.when_settled(self._sweep)
        loop.exiting = True
        loop.get(worker_facts.Publisher).publish()
        loop.on_idle = self._leave

    def _sweep(self) -> None:
        self.service.close_sockets()
        if self.service.udp_listeners:
            self.loop.call_later(SWEEP_MS, self._sweep, cancelable=True)

    # -- UDP sessions change hands -------------------------------------------------------------

    def _settle(self) -> None:
        """All that former workers had is here."""
        self.context.generations.settle(self.cycle.generation)
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
        departure = departures.Departure(self.loop, self.service, plan, self._departed)
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
