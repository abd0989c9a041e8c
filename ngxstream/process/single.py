"""One process that does everything: `master_process off`, for debugging.

Answers for ngx_single_process_cycle (src/os/unix/ngx_process_cycle.c). It keeps the rights it has,
leaves at once whichever way it is told to, and reloads in place: old sessions go on beside the
new, and what only their configuration needed is kept until none is left.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from ngxstream.core import log
from ngxstream.event import listening, poller
from ngxstream.process import directives, pidfile, signals, verdict
from ngxstream.process.board import Load
from ngxstream.process.cycle import Cycle, rebuild
from ngxstream.process.notify import Notifier
from ngxstream.process.service import SWEEP_MS, Service, make_loop

CLEAN_MS: Final = 30_000  # how often old configurations are looked after: ngx_clean_old_cycles
SERVING: Final = "serving, one process for all"


class SingleProcess:
    """The only process of a `master_process off`."""

    __slots__ = ("service", "loop", "old", "verdicts", "manager")

    def __init__(self, cycle: Cycle, load: Load | None = None) -> None:
        """Begin to serve. Args: load: began with the cycle"""
        loop = self.loop = make_loop(cycle, 0)
        loop.is_single = True
        self.service = Service(cycle, loop, 0)
        (load or Load()).record(cycle, accepted=True, message="")
        self.verdicts = verdict.Server(cycle.log, cycle.main.pid)
        self.manager = Notifier(os.environ)
        self.old: list[Service] = []  # replaced, perhaps with sessions still

    @property
    def cycle(self) -> Cycle:
        """The configuration that serves."""
        return self.service.cycle

    def run(self) -> int:
        """Serve until a signal says otherwise; return the exit code."""
        heard = signals.Receiver(signals.HANDLED - self.loop.silent, self._obey)
        self.loop.register(heard.fileno(), heard.on_readable, poller.LEVEL)
        self.loop.free_connections -= self.service.count()
        self.manager.ready(SERVING)
        self.loop.run()
        self.manager.stopping("stopping")
        for service in (*self.old, self.service):
            service.stop()
        self.verdicts.close()
        error = pidfile.remove(self.cycle.main.pid)
        if error is not None:
            path = self.cycle.main.pid
            self.cycle.log.error(log.ALERT, f'unlink() "{path}" failed', error)
        self.cycle.log.error(log.NOTICE, "exit")
        listening.close_all(self.cycle.listenings, unlink=True, log=self.cycle.log)
        return 0

    def _obey(self, number: int) -> None:
        """Do what a signal says. Source: ngx_signal_handler, NGX_PROCESS_SINGLE"""
        if number in self.loop.silent:
            return
        action = ""
        if number in signals.TERMINATE:
            action, do = "exiting", self.loop.stop
        elif number == signals.SHUTDOWN:
            action, do = "shutting down", self.loop.stop
        elif number == signals.RECONFIGURE:
            action, do = "reconfiguring", self.reload
        elif number == signals.REOPEN:
            action, do = "reopening logs", self._reopen
        else:
            do = None
            if number in (signals.CHANGE_BINARY, signal.SIGIO):
                action = "ignoring"
        self.cycle.log.error(log.NOTICE, signals.received(number, action=action))
        if do is not None:
            do()

    def _reopen(self) -> None:
        self.service.reopen()
        for service in self.old:
            service.cycle.reopen(self.cycle.log, None)

    def reload(self) -> None:
        """Put a new configuration in the place of the old one, or keep that; tell who asked."""
        self.verdicts.admit()
        self.manager.reloading()
        before = self.service
        load = Load(before.cycle)
        collector = verdict.Collector(before.cycle.log)
        new = rebuild(before.cycle, collector)
        if new is None:
            load.record(before.cycle, accepted=False, message=collector.text)
            self.manager.ready(f"{SERVING}; the last reload was refused: {collector.text}")
            self.verdicts.refuse(f"{collector.warnings}\n{collector.text}")
            self.verdicts.restore()
            return
        before.close_listeners()
        before.retire()
        loop = self.loop
        loop.lines.write()  # until the new one serves, its lines are written at once
        new.commit(before.cycle)
        loop.log = new.log
        loop.free_connections += before.count()
        self.service = Service(new, loop, 0)
        loop.free_connections -= self.service.count()
        former = {listener.fd: listener for listener in before.udp_listeners}
        carried = 0
        for listener in self.service.udp_listeners:
            if listener.fd in former:
                carried += len(former[listener.fd].table)
                listener.take_over(former[listener.fd])
        new.facts.counter(directives.ADOPTED).add(carried)
        load.record(new, accepted=True, message=collector.warnings)
        self._close_lingering()
        if not self.old:
            loop.call_later(CLEAN_MS, self._sweep, cancelable=True)
        self.old.append(before)
        loop.lines.write()  # before anybody is told
        self.manager.ready(SERVING)
        self.verdicts.accept(collector.warnings)
        if new.main.pid != before.cycle.main.pid:
            self.verdicts.move(new.main.pid)
        self.verdicts.restore()

    def _close_lingering(self) -> None:
        """Close the UDP addresses that only former configurations have, once nobody is left."""
        if self.service.close_lingering():
            self.loop.call_later(SWEEP_MS, self._close_lingering, cancelable=True)
        else:
            self.cycle.release_lingering([])

    def _sweep(self) -> None:
        """Let go of configurations without sessions."""
        in_use = {id(session.server) for session in self.loop.sessions}
        kept = []
        for service in self.old:
            stream = service.cycle.stream
            if stream is not None and any(id(server) in in_use for server in stream.servers):
                kept.append(service)
        for service in self.old:
            if service not in kept:
                service.stop()
                service.cycle.retire([self.cycle, *(one.cycle for one in kept)])
        self.old = kept
        if kept:
            self.loop.call_later(CLEAN_MS, self._sweep, cancelable=True)
