"""The master process: it starts workers (children.py) and handles one signal at a time.

Answers for ngx_master_process_cycle (src/os/unix/ngx_process_cycle.c). All signals are blocked and
fetched with sigwaitinfo(2): there are no handlers, so nothing happens in between.

1. A reload starts the new workers, waits until they have begun, then tells the old ones to hand
   their UDP clients over and to leave in grace (reload.py).
2. TERM is repeated with growing waits and becomes KILL; QUIT waits as long as it takes.
3. An old cycle stays referenced, its logs and zones open, while a worker of it lives or UDP
   sessions that began under it do; so does a UDP address that only such sessions use.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core import log
from ngxstream.core.clock import monotonic_ms
from ngxstream.event import listening
from ngxstream.process import channel as channels
from ngxstream.process import orphan, pidfile, signals, system, verdict
from ngxstream.process.board import Load
from ngxstream.process.children import Children
from ngxstream.process.cycle import Cycle, rebuild
from ngxstream.process.generations import Generations
from ngxstream.process.notify import Notifier
from ngxstream.process.other_master import OtherMaster
from ngxstream.process.questions import Questions
from ngxstream.process.reload import Beginning, Reload
from ngxstream.process.rendezvous import Survivors
from ngxstream.process.single import SingleProcess
from ngxstream.process.takeover import LATE_MS, TakeOver

if TYPE_CHECKING:
    from ngxstream.process.upgrade import Link

RETIRE_MS: Final = 200  # how often old cycles are looked after while there are any


class Master:
    """The master process."""

    __slots__ = (
        "cycle",  # the one that serves
        "old",  # list[Cycle]: replaced, with workers still
        "children",  # Children
        "title",
        "daemonized",
        "terminating",
        "quitting",
        "not_accepting",
        "_due",  # list[(ms, callable)]: what the master does later
        "generations",  # Generations
        "survivors",  # Survivors: workers of a master that died
        "takeover",  # TakeOver: who hands over UDP clients
        "_has_udp",  # bool: beside another master, the UDP clients are ours
        "_retiring",  # bool: a look at old cycles is due
        "_load",  # Load: of the first cycle
        "verdicts",  # verdict.Server: where verdicts on reloads are told
        "manager",  # Notifier: the service manager, if one listens
        "other",  # OtherMaster: another master, during an upgrade
        "questions",  # Questions: of workers to workers
    )

    def __init__(
        self, cycle: Cycle, title: system.Title, survivors: Survivors, *, daemonized: bool,
        link: Link | None = None, load: Load | None = None,
    ) -> None:
        """Take a committed cycle, its pid file written, with signals blocked.

        Args: link: to the master that started this one, if one did; load: began with the cycle
        """
        self.cycle = cycle
        self._load = load or Load()
        self.old: list[Cycle] = []
        self.children = Children(self)
        self.title = title
        self.daemonized = daemonized
        self.terminating = False
        self.quitting = False
        self.not_accepting = False
        self._due: list[tuple[int, Callable[[], None]]] = []
        self.generations = Generations()
        self.survivors = survivors
        self.takeover = TakeOver(self)
        self._has_udp = link is None
        self._retiring = False
        self.verdicts = verdict.Server(cycle.log, cycle.main.pid)
        self.manager = Notifier(os.environ)
        self.other = OtherMaster(self, link)
        self.questions = Questions(
            self.later, self.children.by_pid.keys, self._may_ask, lambda: self.cycle.log
        )

    def run(self) -> int:
        """Serve until told otherwise; return the exit code. Source: ngx_master_process_cycle"""
        self.title.set(" ".join(["master process", *self.cycle.options.argv]))
        self.other.learn()
        self._load.record(self.cycle, accepted=True, message="")
        self.children.start(idle=bool(self.survivors.all) or self.other.is_alive)
        if self.manager.is_heard or self.survivors.all or self.other.is_alive:
            beginning = Beginning(list(self.children))
            beginning.wait()
            if not beginning.ready and not signals.is_ending():
                return self._give_up(beginning.reasons)
        self.other.look()
        self.takeover.begin()
        if not self.other.is_alive:
            self.manager.ready(self._status())
        while self.children or self._has_orphans or not self.is_ending:
            self._wait()
        return self._exit()

    @property
    def _has_orphans(self) -> bool:
        """Whether workers of a dead master finish their sessions, with no other master for them."""
        left = self.quitting and not (self.terminating or self.other.is_alive)
        return left and self.survivors.are_left

    def _await_orphans(self) -> None:
        if self._has_orphans:
            self.later(RETIRE_MS, self._await_orphans)

    def tell_main(self) -> None:
        """Tell the service manager that this one is the main process, as soon as it may hear it."""
        # until systemd has seen the old one end, it ignores our messages (NotifyAccess=main)
        self.later(LATE_MS, self._tell_main)

    def _tell_main(self) -> None:
        if not self.is_ending:
            self.manager.ready(self._status())

    def _status(self) -> str:
        return f"serving, worker processes: {self.cycle.main.worker_processes}"

    def _give_up(self, reasons: Sequence[str]) -> int:
        """End a start without workers; tell the service manager."""
        for reason in reasons:
            self.cycle.log.error(log.EMERG, f"no worker process can begin: {reason}")
        self.manager.status("no worker process can begin: " + "; ".join(reasons))
        for child in self.children:
            child.kill(signal.SIGKILL, self.cycle.log)
        self._exit(unlink=not self.survivors.all)
        return 1

    def _exit(self, *, unlink: bool = True) -> int:
        self.verdicts.close()
        path = self.cycle.main.pid
        if self.other.started:
            path = pidfile.oldbin(path)
        error = pidfile.remove(path)
        if error is not None:
            self.cycle.log.error(log.ALERT, f'unlink() "{path}" failed', error)
        self.cycle.log.error(log.NOTICE, "exit")
        self._close_listening(unlink=unlink)
        return 0

    def _close_listening(self, *, unlink: bool = True) -> None:
        """Close the listening sockets; paths of Unix sockets are left to another master."""
        self.other.look()  # it may have gone a moment ago
        unlink = unlink and not self.other.is_alive
        listening.close_all(self.cycle.listenings, unlink=unlink, log=self.cycle.log)

    # -- waiting -------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait for a signal or for what is due, and do it."""
        due = min((at for at, _ in self._due), default=None)
        info: signal.struct_siginfo | None
        if due is None:
            info = signal.sigwaitinfo(signals.HANDLED)
        else:
            info = signal.sigtimedwait(signals.HANDLED, max(0, due - monotonic_ms()) / 1000)
        if info is not None and not self.questions.has_heard(info):
            self._obey(info)
            return
        now = monotonic_ms()
        ripe = [do for at, do in self._due if at <= now]
        self._due = [(at, do) for at, do in self._due if at > now]
        for do in ripe:
            do()

    def _may_ask(self, pid: int) -> bool:
        """Tell whether a worker is of the user that the workers of the cycle are of."""
        child = self.children.by_pid.get(pid)
        return child is not None and child.cycle.main.user == self.cycle.main.user

    def later(self, delay_ms: int, do: Callable[[], None]) -> None:
        """Do something later, between signals."""
        self._due.append((monotonic_ms() + delay_ms, do))

    def _obey(self, info: signal.struct_siginfo) -> None:
        """Do what a signal says. Source: ngx_signal_handler, NGX_PROCESS_MASTER"""
        number = info.si_signo
        action = ""
        do: Callable[[], None] | None = None
        if number in signals.TERMINATE:
            action, do = "exiting", self.terminate
        elif number == signals.SHUTDOWN:
            action, do = "shutting down", self.quit
        elif number == signals.RECONFIGURE:
            action, do = "reconfiguring", self.reload
        elif number == signals.REOPEN:
            action, do = "reopening logs", self.reopen
        elif number == signals.NO_ACCEPT:
            # a terminal that changes its size sends it too, and must not stop the service
            if self.daemonized or info.si_pid:
                action, do = "stop accepting connections", self.stop_accepting
        elif number == signals.CHANGE_BINARY:
            action = "ignoring" if self.other.is_alive else "changing binary"
            do = self.other.change_binary
        elif number == signal.SIGCHLD:
            do = self._reap
        self.cycle.log.error(log.NOTICE, signals.received(number, info.si_pid, action))
        if do is not None:
            do()

    # -- configurations ------------------------------------------------------------------------

    def begin_generation(self, *, idle: bool) -> None:
        """Be about to start workers of a cycle. Args: idle: as of Children.start"""
        self._has_udp = not idle or self._has_udp
        self.generations.begin()
        self.other.announce(starting=True)  # mail may wait for those who will read it

    def _reap(self) -> None:
        self.children.reap()
        if self.udp_is_ours and not any(child.leaving for child in self.children):
            self.takeover.let_read()
        self.retire()

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end, in whatever way."""
        return self.terminating or self.quitting

    @property
    def udp_is_ours(self) -> bool:
        """Whether the UDP clients belong to this master's workers, not to another's."""
        if not self.other.is_alive or self._has_udp:
            return True
        return self.generations.settled(self.cycle.generation) > 0  # handed over to us

    def retire(self) -> None:
        """Let go of old cycles without workers and sessions, and of addresses nobody needs."""
        if not self.old and not self.cycle.lingering:
            return
        if self.generations.settled(self.cycle.generation) < len(self.children.shared.mailboxes):
            in_use = self.old  # sessions may be on their way
        else:
            in_use = [cycle for cycle in self.old if self.generations.live(cycle.generation)]
            self.cycle.release_lingering(in_use)
        used = {id(child.cycle) for child in self.children}
        used |= {id(cycle) for cycle in in_use}
        gone = [cycle for cycle in self.old if id(cycle) not in used]
        self.old = [cycle for cycle in self.old if id(cycle) in used]
        for cycle in gone:
            cycle.retire([self.cycle, *self.old])
        if gone:
            system.trim_memory()
        if (self.old or self.cycle.lingering) and not self._retiring:
            self._retiring = True
            self.later(RETIRE_MS, self._look_after_old)

    def _look_after_old(self) -> None:
        self._retiring = False
        if not self.is_ending:
            self.retire()

    # -- commands ------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Leave now: TERM to the workers, again and again, then KILL."""
        if not self.terminating:
            self.terminating = True
            if not self.other.started:
                self.manager.stopping("stopping")
            self.children.terminate()  # first: who has to be found may keep us waiting
            self._meet_last()
            self.survivors.tell(channels.TERMINATE)

    def quit(self) -> None:
        """Leave when the workers have finished their sessions."""
        self.quitting = True
        if not self.other.started:
            self.manager.stopping("finishing the sessions, then stopping")
        self._leave_udp()
        self.children.quit(self.children)
        self._meet_last()
        self.survivors.tell(channels.QUIT)
        self._await_orphans()
        self._close_listening()

    def _meet_last(self) -> None:
        """Find all workers of dead masters before everything ends: nobody looks for them later."""
        self.other.look()
        if not self.other.is_alive:
            self.survivors.meet(orphan.place_of(self.cycle.main, self.cycle.options))

    def stop_accepting(self) -> None:
        """Have the workers leave, and start no others."""
        self.not_accepting = True
        self._leave_udp()
        self.children.quit(self.children)
        self.other.announce()

    def _leave_udp(self) -> None:
        """Have another master's workers take the UDP clients, if there is one."""
        if self.other.is_alive and self.udp_is_ours:
            self.other.hand_over()
            self._has_udp = False
            self.generations.begin()

    def reload(self) -> None:
        """Serve by a new configuration, or go on with the old one; send the result to who asked."""
        self.verdicts.admit()
        if self.is_ending:
            self.verdicts.refuse("[emerg] the master process is stopping, nothing is reloaded")
            return
        if self.other.started:
            self.other.restart()
            self.verdicts.accept()
            return
        self.manager.reloading()
        pid_path = self.cycle.main.pid
        load = Load(self.cycle)
        collector = verdict.Collector(self.cycle.log)
        accepted = self._reload(collector)
        text = collector.warnings if accepted else collector.text
        load.record(self.cycle, accepted=accepted, message=text)
        if accepted:
            self.manager.ready(self._status())
            self.verdicts.accept(collector.warnings)
            if self.cycle.main.pid != pid_path:
                self.verdicts.move(self.cycle.main.pid)
        else:
            self.manager.ready(f"{self._status()}; the last reload was refused: {collector.text}")
            self.verdicts.refuse(f"{collector.warnings}\n{collector.text}")
        self.verdicts.restore()

    def _reload(self, to: log.Log) -> bool:
        """Reload. Returns: whether the new configuration serves; if not, `to` was told why"""
        try:
            new = rebuild(self.cycle, to)
        except Exception:  # noqa: BLE001 - a fault of ours must not take the service with it
            to.error(log.ALERT, log.unexpected())
            return False
        return new is not None and Reload(self, new, to).run()

    def reopen(self) -> None:
        """Open all logs anew, here and in the workers."""
        to = self.cycle.log
        self.survivors.tell(channels.REOPEN)
        to.error(log.NOTICE, "reopening logs")
        for cycle in (*self.old, self.cycle):
            user = cycle.main.user
            cycle.reopen(to, None if user is None else user.uid)
        for child in self.children:
            child.tell(channels.REOPEN, signal.SIGUSR1, to)


def block_signals() -> None:
    """Keep signals for the master's loop. Before the pid file is written: then they may come."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.HANDLED)
    for number in signals.IGNORED:
        signal.signal(number, signal.SIG_IGN)


def serve(
    cycle: Cycle, title: system.Title, survivors: Survivors, *, daemonized: bool,
    link: Link | None = None, load: Load | None = None,
) -> int:
    """Serve a committed cycle until told otherwise; return the exit code. Args: as of Master"""
    if cycle.main.master_process:
        return Master(cycle, title, survivors, daemonized=daemonized, link=link, load=load).run()
    survivors.tell(channels.QUIT)
    return SingleProcess(cycle, load).run()
