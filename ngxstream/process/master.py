"""The master: it serves nobody. It starts workers, replaces them, and obeys signals, one at a time.

Answers for ngx_master_process_cycle and ngx_reap_children (src/os/unix/ngx_process_cycle.c) and
ngx_process.c. All signals are blocked and fetched with sigwaitinfo(2): there are no handlers, so
nothing happens in between.

1. A worker of the current cycle that dies is started anew: at once, or after a pause that grows
   when the ones before it died at once too. One that says it cannot begin (code 2) is not.
2. A reload starts the new workers, waits until they have begun, then tells the old ones to hand
   their UDP clients over and to leave in grace (reload.py).
3. TERM is repeated with growing waits and becomes KILL; QUIT waits as long as it takes.
4. An old cycle stays referenced, its logs and zones open, while a worker of it lives or UDP
   sessions that began under it do; so does a UDP address that only such sessions use.
"""

from __future__ import annotations

import gc
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core import log, shm
from ngxstream.event import listening, wakeups
from ngxstream.event.loop import monotonic_ms
from ngxstream.ipc import port
from ngxstream.process import channel as channels
from ngxstream.process import pidfile, signals, system, upgrade, verdict
from ngxstream.process.cycle import Cycle, rebuild
from ngxstream.process.generations import Generations
from ngxstream.process.handover import START_MS, Plan
from ngxstream.process.mailbox import Mailbox
from ngxstream.process.notify import Notifier
from ngxstream.process.reload import MAX_REASON, Beginning, Reload
from ngxstream.process.rendezvous import Survivor, Survivors
from ngxstream.process.single import SingleProcess
from ngxstream.process.succession import Succession
from ngxstream.process.worker import Family, Worker

if TYPE_CHECKING:
    from ngxstream.process.channel import Channel
    from ngxstream.process.upgrade import Link

LATE_MS: Final = 1000  # after the start: who was left by a killed master and did not answer then
RECLAIM_MS: Final = 2000  # until it is tried again to give back what a dead worker counted
RECLAIM_TRIES: Final = 20
RETIRE_MS: Final = 200  # how often old cycles are looked after while there are any
FIRST_WAIT_MS: Final = 50  # after the first TERM; then twice as long each time
LAST_WAIT_MS: Final = 1000  # a longer one means KILL
AT_ONCE_MS: Final = 5000  # a worker that lived less has died at once
PAUSE_MS: Final = 100  # before the third worker in a row that dies at once; then twice as long
LONGEST_PAUSE_MS: Final = 10_000


class Child:
    """A worker as the master knows it. source: ngx_process_t"""

    __slots__ = ("pid", "number", "cycle", "channel", "started_ms", "leaving")

    def __init__(self, pid: int, number: int, cycle: Cycle, channel: Channel) -> None:
        """shape: number is its place among the workers of its cycle"""
        self.pid = pid
        self.number = number
        self.cycle = cycle
        self.channel = channel
        self.started_ms = monotonic_ms()
        self.leaving = False  # it was told to

    def tell(self, command: int, number: int, to: log.Log) -> None:
        """Say it through the channel, or by a signal where that fails."""
        if self.channel.send(command):
            return
        try:
            os.kill(self.pid, number)
        except OSError as error:
            to.error(log.ALERT, f"kill({self.pid}, {int(number)}) failed", error)


class Shared:
    """What the workers of one cycle share, made before they are forked."""

    __slots__ = ("mailboxes", "wakeups")

    def __init__(self, workers: int, to: log.Log) -> None:
        """Make it for so many workers.

        Raises:
            OSError: There are no descriptors left for it.
        """
        self.mailboxes = [Mailbox() for _ in range(workers)]
        self.wakeups: dict[int, int] = {}
        if workers > 1:
            try:
                self.wakeups = wakeups.make()
            except OSError as error:
                to.error(log.ALERT, "eventfd() failed", error)

    def close(self) -> None:
        """Close this process's copies."""
        for box in self.mailboxes:
            box.close()
        wakeups.close(self.wakeups)


class Master:
    """The master process."""

    __slots__ = (
        "cycle",  # the one that serves
        "old",  # list[Cycle]: replaced, with workers still
        "children",  # dict[int, Child] by pid
        "title",
        "daemonized",
        "terminating",
        "quitting",
        "not_accepting",
        "_due",  # list[(ms, callable)]: what the master does later
        "_deaths",  # dict[int, int]: worker number -> times in a row it died at once
        "generations",  # Generations
        "shared",  # Shared: by the workers of the cycle
        "replaced",  # None, or what a reload is about to replace: its Shared and Cycle
        "survivors",  # Survivors: workers of a master that died
        "_has_udp",  # bool: beside another master, the UDP clients are ours
        "_retiring",  # bool: a look at old cycles is due
        "verdicts",  # verdict.Server: where verdicts on reloads are told
        "manager",  # Notifier: the service manager, if one listens
        "other",  # Succession: another master, during an upgrade
    )

    def __init__(
        self,
        cycle: Cycle,
        title: system.Title,
        survivors: Survivors,
        *,
        daemonized: bool,
        link: Link | None = None,
    ) -> None:
        """shape: the cycle is committed, its pid file written, signals are blocked; link leads to
        the master that started this one, if one did
        """
        self.cycle = cycle
        self.old: list[Cycle] = []
        self.children: dict[int, Child] = {}
        self.title = title
        self.daemonized = daemonized
        self.terminating = False
        self.quitting = False
        self.not_accepting = False
        self._due: list[tuple[int, Callable[[], None]]] = []
        self._deaths: dict[int, int] = {}
        self.generations = Generations()
        self.shared = Shared(0, cycle.log)
        self.replaced: tuple[Shared, Cycle] | None = None
        self.survivors = survivors
        self._has_udp = link is None
        self._retiring = False
        self.verdicts = verdict.Server(cycle.log, cycle.main.pid)
        self.manager = Notifier(os.environ)
        self.other = Succession(self, link)

    def run(self) -> int:
        """Serve until told otherwise; return the exit code. source: ngx_master_process_cycle"""
        self.title.set(" ".join(["master process", *self.cycle.options.argv]))
        self.other.learn()
        self.start_workers(idle=bool(self.survivors.all) or self.other.is_alive)
        if self.manager.is_heard or self.survivors.all or self.other.is_alive:
            beginning = Beginning(list(self.children.values()))
            beginning.wait()
            if not beginning.ready and not signals.is_ending():
                return self._give_up(beginning.reasons)
        self.other.look()
        if self.survivors.all:
            self._succeed()
            self.later(LATE_MS, self._succeed_late)
        if not self.other.is_alive:
            self.manager.ready(self._status())
        while self.children or not (self.terminating or self.quitting):
            self._wait()
        return self._exit()

    def _succeed(self) -> None:
        """Have the workers of a dead master leave, their UDP clients in our hands."""
        heirs = self.survivors.heirs
        if heirs:
            self.hand_over(heirs)
        self.survivors.tell(channels.QUIT)
        if not heirs:
            self.let_read()

    def meet_survivors(self) -> None:
        """Have the workers of another master that is gone now leave."""
        self._succeed_late()
        self.later(LATE_MS, self._succeed_late)

    def _succeed_late(self) -> None:
        """The same for one that was slow to see its master die."""
        if self.survivors.meet(self.cycle.main.pid):
            self._succeed()

    def inherit(self) -> None:
        """Be the only master: the older one is gone."""
        self.meet_survivors()  # if it was killed
        self.let_read()
        # until systemd has seen the old one end, it does not take our word (NotifyAccess=main)
        self.later(LATE_MS, self._tell_main)

    def _tell_main(self) -> None:
        if not (self.terminating or self.quitting):
            self.manager.ready(self._status())

    def _status(self) -> str:
        return f"serving, worker processes: {self.cycle.main.worker_processes}"

    def _give_up(self, reasons: Sequence[str]) -> int:
        """End a start that has no worker, so that who watches it, or serves still, learns of it."""
        for reason in reasons:
            self.cycle.log.error(log.EMERG, f"no worker process can begin: {reason}")
        self.manager.status("no worker process can begin: " + "; ".join(reasons))
        for child in self.children.values():
            os.kill(child.pid, signal.SIGKILL)
        self._exit(unlink=not self.survivors.all)
        return 1

    @property
    def mailboxes(self) -> list[Mailbox]:
        """One for each worker of the cycle."""
        return self.shared.mailboxes

    def _exit(self, *, unlink: bool = True) -> int:
        self.verdicts.close()
        path = self.cycle.main.pid
        if self.other.started:
            path += upgrade.OLDBIN
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
        if due is None:
            self._obey(signal.sigwaitinfo(signals.HEARD))
            return
        wait_s = max(0, due - monotonic_ms()) / 1000
        info = signal.sigtimedwait(signals.HEARD, wait_s)
        if info is not None:
            self._obey(info)
            return
        now = monotonic_ms()
        ripe = [do for at, do in self._due if at <= now]
        self._due = [(at, do) for at, do in self._due if at > now]
        for do in ripe:
            do()

    def later(self, delay_ms: int, do: Callable[[], None]) -> None:
        """Do something later, between signals."""
        self._due.append((monotonic_ms() + delay_ms, do))

    def _obey(self, info: signal.struct_siginfo) -> None:
        """Do what a signal says. source: ngx_signal_handler, NGX_PROCESS_MASTER"""
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
            do = self.reap
        self.cycle.log.error(log.NOTICE, signals.received(number, info.si_pid, action))
        if do is not None:
            do()

    # -- workers -------------------------------------------------------------------------------

    def start_workers(self, *, idle: bool = False) -> bool:
        """Start all workers of the cycle.

        Args:
            idle: Others will hand their UDP clients over.

        Returns:
            Whether all could be forked.

        Raises:
            OSError: There are no descriptors for what they share; none was started.

        Source:
            ngx_process_cycle.c ngx_start_worker_processes
        """
        self.cycle.log.error(log.NOTICE, "start worker processes")
        self._deaths.clear()
        self._has_udp = not idle or self._has_udp
        shared = Shared(self.cycle.workers, self.cycle.log)
        if self.replaced is None:
            self.shared.close()
        self.shared = shared
        self.generations.begin()
        self.other.announce(starting=True)  # mail may wait for those who will read it
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # what the workers share stays shared: their collector does not touch it
        started = [
            self.spawn(number, idle=idle) for number in range(self.cycle.main.worker_processes)
        ]
        return all(started)

    def spawn(self, number: int, *, idle: bool = False) -> bool:
        """Start one worker. returns: whether it could be forked. source: ngx_spawn_process"""
        cycle = self.cycle
        try:
            user = cycle.main.user
            ours, theirs = channels.Channel.pair(None if user is None else user.uid)
        except OSError as error:
            cycle.log.error(log.ALERT, 'socketpair() failed while spawning "worker process"', error)
            return False
        try:
            pid = os.fork()
        except OSError as error:
            cycle.log.error(log.ALERT, 'fork() failed while spawning "worker process"', error)
            ours.close()
            theirs.close()
            return False
        if pid == 0:
            self._become_worker(number, theirs, idle)
        theirs.close()
        cycle.log.error(log.NOTICE, f"start worker process {pid}")
        self.children[pid] = Child(pid, number, cycle, ours)
        return True

    def _become_worker(self, number: int, theirs: Channel, idle: bool) -> None:
        """Be a worker in the forked child; never returns."""
        code = 1
        cycle = self.cycle
        try:
            # whatever else the master speaks through is none of a worker's
            boxes = self.mailboxes
            port.keep_only(
                [theirs, boxes[number].reader, *(box.writer for box in boxes)]
            )
            self.children.clear()
            if self.replaced is not None:
                shared, before = self.replaced
                shared.close()
                cycle.forget(before)
            cycle.redirect_stderr()
            family = Family(
                self.generations, self.mailboxes, self.old,
                patience_ms=0 if self.other.is_alive else START_MS,
                wakeups_fds=self.shared.wakeups,
            )
            worker = Worker(
                cycle, number, theirs, self.title, family, daemonized=self.daemonized, idle=idle
            )
            code = worker.run()
        except system.WorkerInitError as error:
            cycle.log.error(log.LEVELS[error.level], str(error))
            theirs.send(channels.FAILED, log.encode(str(error))[:MAX_REASON])
            code = 1 if isinstance(error, system.ScarceError) else system.FATAL
        except BaseException as error:  # noqa: BLE001 - a child must never run the master's code
            text = traceback.format_exc().strip().replace("\n", " | ")
            cycle.log.error(log.ALERT, f"unexpected exception: {text}")
            reason = log.encode(f"{type(error).__name__}: {error}")
            theirs.send(channels.FAILED, reason[:MAX_REASON])
        finally:
            os._exit(code)

    def reap(self) -> None:
        """See who has died, give back what they held, and start anew whom we need.

        source: ngx_process_get_status, ngx_reap_children
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = self.children.pop(pid, None)
            name = "worker process" if child is not None else "unknown process"
            if pid == self.other.pid:
                name = "new binary process"
            self._log_end(f"{name} {pid}", status)
            self._reclaim(pid)
            if pid == self.other.pid and self.other.started:
                self.other.ended()
            if child is not None:
                child.channel.close()
                self._replace(child, status)
        if self.udp_is_ours and not any(child.leaving for child in self.children.values()):
            self.let_read()
        self.retire()

    def _reclaim(self, pid: int, tries: int = RECLAIM_TRIES) -> None:
        """Give back what a dead process counted; later, if somebody keeps a zone locked."""
        if pid in self.children:  # it is another process by now
            return
        cycles = (self.cycle, *self.old)
        zones = [self.generations.zone, self.cycle.rows.zone]
        zones += (zone for one in cycles for zone in one.zones.zones())
        to = self.cycle.log
        done = shm.reclaim(zones, pid, lambda text: to.error(log.ALERT, text))
        if not done and tries:
            self.later(RECLAIM_MS, lambda: self._reclaim(pid, tries - 1))

    def _log_end(self, who: str, status: int) -> None:
        to = self.cycle.log
        if os.WIFSIGNALED(status):
            core = " (core dumped)" if os.WCOREDUMP(status) else ""
            to.error(log.ALERT, f"{who} exited on signal {os.WTERMSIG(status)}{core}")
        else:
            to.error(log.NOTICE, f"{who} exited with code {os.WEXITSTATUS(status)}")

    def _replace(self, child: Child, status: int) -> None:
        """Start another worker in the place of one that was not to leave."""
        if child.leaving or self.terminating or self.quitting or child.cycle is not self.cycle:
            return
        code = os.waitstatus_to_exitcode(status)
        if code == system.FATAL:
            self.cycle.log.error(
                log.ALERT,
                f"worker process {child.pid} exited with fatal code {code} and cannot be respawned",
            )
            if not any(one.cycle is self.cycle for one in self.children.values()):
                self.cycle.log.error(
                    log.EMERG, "no worker process is left, nothing is served before a reload"
                )
            return
        number = child.number
        if code == 0 or monotonic_ms() - child.started_ms >= AT_ONCE_MS:
            self._deaths.pop(number, None)
            self.spawn(number, idle=not self.udp_is_ours)
            return
        deaths = self._deaths[number] = self._deaths.get(number, 0) + 1
        if deaths == 1:
            self.spawn(number, idle=not self.udp_is_ours)
            return
        pause_ms = min(PAUSE_MS << min(deaths - 2, 16), LONGEST_PAUSE_MS)
        self.cycle.log.error(
            log.ALERT,
            f"worker process {number} died at once {deaths} times in a row, "
            f"starting it again in {pause_ms}ms",
        )
        cycle = self.cycle
        self.later(pause_ms, lambda: self._spawn_again(number, cycle))

    def _spawn_again(self, number: int, cycle: Cycle) -> None:
        stopped = self.terminating or self.quitting or self.not_accepting
        if cycle is self.cycle and not stopped:
            self.spawn(number, idle=not self.udp_is_ours)

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
        if self.generations.settled(self.cycle.generation) < len(self.mailboxes):
            in_use = self.old  # sessions may be on their way
        else:
            in_use = [cycle for cycle in self.old if self.generations.live(cycle.generation)]
            self.cycle.release_lingering(in_use)
        used = {id(child.cycle) for child in self.children.values()}
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
        if not (self.terminating or self.quitting):
            self.retire()

    def let_read(self) -> None:
        """Tell the workers of the cycle that nobody is left to hand UDP clients over."""
        for child in self.children.values():
            if child.cycle is self.cycle:
                child.channel.send(channels.GO)

    # -- commands ------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Leave now: TERM to the workers, again and again, then KILL."""
        if not self.terminating:
            self.terminating = True
            if not self.other.started:
                self.manager.stopping("stopping")
            self.survivors.tell(channels.TERMINATE)
            self._terminate_workers(FIRST_WAIT_MS)

    def _terminate_workers(self, wait_ms: int) -> None:
        to = self.cycle.log
        for child in self.children.values():
            if wait_ms > LAST_WAIT_MS:
                os.kill(child.pid, signal.SIGKILL)
            elif wait_ms == FIRST_WAIT_MS:
                child.tell(channels.TERMINATE, signal.SIGTERM, to)
            else:
                os.kill(child.pid, signal.SIGTERM)
            child.leaving = True
        if self.children:
            self.later(wait_ms, lambda: self._terminate_workers(min(wait_ms * 2, 1600)))

    def quit(self) -> None:
        """Leave when the workers have finished their sessions."""
        self.quitting = True
        if not self.other.started:
            self.manager.stopping("finishing the sessions, then stopping")
        self._leave_udp()
        self.quit_workers(list(self.children.values()))
        self._close_listening()

    def quit_workers(self, whom: list[Child]) -> None:
        """Have workers leave in grace."""
        for child in whom:
            if not child.leaving:
                child.leaving = True
                child.tell(channels.QUIT, signal.SIGQUIT, self.cycle.log)

    def stop_accepting(self) -> None:
        """Have the workers leave, and start no others."""
        self.not_accepting = True
        self._leave_udp()
        self.quit_workers(list(self.children.values()))
        self.other.announce()

    def _leave_udp(self) -> None:
        """Have another master's workers take the UDP clients, if there is one."""
        if self.other.is_alive and self.udp_is_ours:
            self.other.hand_over()
            self._has_udp = False
            self.generations.begin()

    def reload(self) -> None:
        """Serve by a new configuration, or go on with the old one, and tell who asked."""
        self.verdicts.admit()
        if self.terminating or self.quitting:
            self.verdicts.refuse("[emerg] the master process is stopping, nothing is reloaded")
            return
        if self.other.started:
            self.other.restart()
            self.verdicts.accept()
            return
        self.manager.reloading()
        pid_path = self.cycle.main.pid
        collector = verdict.Collector(self.cycle.log)
        if self._reload(collector):
            self.manager.ready(self._status())
            self.verdicts.accept()
            if self.cycle.main.pid != pid_path:
                self.verdicts.move(self.cycle.main.pid)
        else:
            self.manager.ready(f"{self._status()}; the last reload was refused: {collector.text}")
            self.verdicts.refuse(collector.text)
        self.verdicts.restore()

    def _reload(self, to: log.Log) -> bool:
        """Reload. returns: whether the new configuration serves; if not, `to` was told why"""
        try:
            new = rebuild(self.cycle, to)
        except Exception:  # noqa: BLE001 - a fault of ours must not take the service with it
            text = traceback.format_exc().strip().replace("\n", " | ")
            to.error(log.ALERT, f"unexpected exception: {text}")
            return False
        return new is not None and Reload(self, new, to).run()

    def hand_over(self, whom: Sequence[Child | Survivor]) -> None:
        """Have old workers give their UDP clients to the workers of the cycle."""
        listening.widen((*self.cycle.listenings, *self.cycle.lingering))
        plan = Plan(
            [box.writer for box in self.mailboxes],
            [one.options.key for one in self.cycle.listenings],
            [child.pid for child in whom],
        )
        if not self.send_plan(plan):
            self.let_read()

    def send_plan(self, plan: Plan) -> bool:
        """Tell the workers of a plan to hand over. returns: whether any of them heard it"""
        packed = plan.pack()
        fds = [sock.fileno() for sock in plan.writers]
        everyone: list[Child | Survivor] = [*self.children.values(), *self.survivors.all]
        told = [
            child.channel.send(channels.HANDOVER, packed, fds)
            for child in everyone
            if child.pid in plan.pids
        ]
        return any(told)

    def reopen(self) -> None:
        """Open all logs anew, here and in the workers."""
        to = self.cycle.log
        self.survivors.tell(channels.REOPEN)
        to.error(log.NOTICE, "reopening logs")
        for cycle in (*self.old, self.cycle):
            user = cycle.main.user
            cycle.reopen(to, None if user is None else user.uid)
        for child in self.children.values():
            child.tell(channels.REOPEN, signal.SIGUSR1, to)


def block_signals() -> None:
    """Keep signals for the master's loop. Before the pid file is written: then they may come."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.HEARD)
    for number in signals.IGNORED:
        signal.signal(number, signal.SIG_IGN)


def serve(
    cycle: Cycle,
    title: system.Title,
    survivors: Survivors,
    *,
    daemonized: bool,
    link: Link | None = None,
) -> int:
    """Serve a committed cycle until told otherwise; return the exit code."""
    if cycle.main.master_process:
        return Master(cycle, title, survivors, daemonized=daemonized, link=link).run()
    survivors.tell(channels.QUIT)
    return SingleProcess(cycle).run()
