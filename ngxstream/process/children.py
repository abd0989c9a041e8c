"""The master's worker processes: started, reaped, and started anew when they die.

Answers for ngx_start_worker_processes and ngx_reap_children (src/os/unix/ngx_process_cycle.c) and
ngx_process.c. A worker of the current cycle that dies is started anew: at once, or after a pause
that grows when the ones before it died at once too. One that says it cannot begin (code 2) is not.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from ngxstream.core import log, shm
from ngxstream.core.clock import monotonic_ms
from ngxstream.event import wakeups
from ngxstream.ipc import port
from ngxstream.process import channel as channels
from ngxstream.process import system
from ngxstream.process.handover import START_MS
from ngxstream.process.mailbox import Mailbox
from ngxstream.process.questions import port_to
from ngxstream.process.reload import MAX_REASON, READY_S
from ngxstream.process.worker import Worker, WorkerContext
from ngxstream.process.worker_facts import RESPAWNS

if TYPE_CHECKING:
    from ngxstream.process.channel import Channel
    from ngxstream.process.cycle import Cycle
    from ngxstream.process.master import Master

RECLAIM_MS: Final = 2000  # until it is tried again to give back what a dead worker counted
RECLAIM_TRIES: Final = 20
FIRST_WAIT_MS: Final = 50  # after the first TERM; then twice as long each time
LAST_WAIT_MS: Final = 1000  # a longer one means KILL
# how long a new worker waits to be told that it may read: all have to have begun by then
PATIENCE_MS: Final = int(READY_S * 1000) + START_MS
AT_ONCE_MS: Final = 5000  # a worker that lived less has died at once
PAUSE_MS: Final = 100  # before the third worker in a row that dies at once; then twice as long
LONGEST_PAUSE_MS: Final = 10_000


class Child:
    """A worker as the master knows it. Source: ngx_process_t"""

    __slots__ = ("pid", "number", "cycle", "channel", "started_ms", "leaving")

    def __init__(self, pid: int, number: int, cycle: Cycle, channel: Channel) -> None:
        """Args: number: its place among the workers of its cycle"""
        self.pid = pid
        self.number = number
        self.cycle = cycle
        self.channel = channel
        self.started_ms = monotonic_ms()
        self.leaving = False  # it was told to

    def tell(self, command: int, number: int, to: log.Log) -> None:
        """Send a command through the channel, or a signal where that fails."""
        if not self.channel.send(command):
            self.kill(number, to)

    def kill(self, number: int, to: log.Log) -> None:
        """Send a signal; a master without the right to goes on."""
        try:
            os.kill(self.pid, number)
        except OSError as error:
            to.error(log.ALERT, f"kill({self.pid}, {int(number)}) failed", error)


class Shared:
    """What the workers of one cycle share, made before they are forked."""

    __slots__ = ("mailboxes", "wakeups")

    def __init__(self, workers: int, to: log.Log) -> None:
        """Make it for so many workers. Raises: OSError where there are no descriptors left"""
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


class Children:
    """All workers of a master, of whatever cycle; iterating gives each Child."""

    __slots__ = (
        "by_pid",
        "shared",  # Shared: by the workers of the cycle
        "replaced",  # None, or what a reload is about to replace: its Shared and Cycle
        "_deaths",  # dict[int, int]: worker number -> times in a row it died at once
        "_master",
    )

    def __init__(self, master: Master) -> None:
        self.by_pid: dict[int, Child] = {}
        self.shared = Shared(0, master.cycle.log)
        self.replaced: tuple[Shared, Cycle] | None = None
        self._deaths: dict[int, int] = {}
        self._master = master

    def __iter__(self) -> Iterator[Child]:
        return iter(self.by_pid.values())

    def __len__(self) -> int:
        return len(self.by_pid)

    # -- beginning -----------------------------------------------------------------------------

    def start(self, *, idle: bool = False) -> bool:
        """Start all workers of the cycle.

        Args: idle: Others will hand their UDP clients over.
        Returns: Whether all could be forked.
        Raises: OSError: There are no descriptors for what they share; none was started.
        Source:
            ngx_process_cycle.c ngx_start_worker_processes
        """
        master, cycle = self._master, self._master.cycle
        cycle.log.error(log.NOTICE, "start worker processes")
        self._deaths.clear()
        shared = Shared(cycle.workers, cycle.log)
        if self.replaced is None:
            self.shared.close()
        self.shared = shared
        master.begin_generation(idle=idle)
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # what the workers share stays shared: their collector does not touch it
        started = [self.spawn(number, idle=idle) for number in range(cycle.main.worker_processes)]
        return all(started)

    def spawn(self, number: int, *, idle: bool = False) -> bool:
        """Start one worker. Returns: whether it could be forked. Source: ngx_spawn_process"""
        cycle = self._master.cycle
        uid = None if cycle.main.user is None else cycle.main.user.uid
        asking: tuple[socket.socket, ...] = ()  # both ends of what questions go by
        try:
            if cycle.stream is not None and cycle.stream.is_shown:
                asking = port.pair()
            ours, theirs = channels.Channel.pair(uid)
        except OSError as error:
            cycle.log.error(log.ALERT, 'socketpair() failed while spawning "worker process"', error)
            for sock in asking:
                sock.close()
            return False
        try:
            pid = os.fork()
        except OSError as error:
            cycle.log.error(log.ALERT, 'fork() failed while spawning "worker process"', error)
            ours.close()
            theirs.close()
            for sock in asking:
                sock.close()
            return False
        if pid == 0:
            self._become_worker(number, theirs, idle, asking[1] if asking else None)
        theirs.close()
        cycle.log.error(log.NOTICE, f"start worker process {pid}")
        self.by_pid[pid] = Child(pid, number, cycle, ours)
        if asking:
            asking[1].close()
            try:
                self._master.questions.add(pid, port_to(pid, asking[0], uid))
            except OSError as error:  # where the kernel signals nobody, workers are not asked
                cycle.log.error(log.ALERT, "fcntl(F_SETOWN) failed", error)
                asking[0].close()
        return True

    def _become_worker(
        self, number: int, theirs: Channel, idle: bool, asks_by: socket.socket | None
    ) -> None:
        """Run the worker in the forked child; never returns."""
        code = 1
        master, cycle = self._master, self._master.cycle
        try:
            others = {pid for pid, one in self.by_pid.items() if one.cycle is not cycle}
            others.update(master.survivors.living())
            if master.other.is_alive:
                others.add(master.other.pid)
            # a worker keeps none of the master's other ports
            boxes = self.shared.mailboxes
            own = [theirs] if asks_by is None else [theirs, asks_by]
            port.keep_only([*own, boxes[number].reader, *(box.writer for box in boxes)])
            self.by_pid.clear()
            if self.replaced is not None:
                shared, before = self.replaced
                shared.close()
                cycle.forget(before)
            cycle.redirect_stderr()
            context = WorkerContext(
                master.generations, boxes, master.old,
                patience_ms=0 if master.other.is_alive else PATIENCE_MS,
                wakeups_fds=self.shared.wakeups, others=others,
            )
            worker = Worker(
                cycle, number, theirs, master.title, context,
                daemonized=master.daemonized, idle=idle, asks_by=asks_by,
            )
            code = worker.run()
        except system.WorkerInitError as error:
            cycle.log.error(log.LEVELS[error.level], str(error))
            theirs.send(channels.FAILED, log.encode(str(error))[:MAX_REASON])
            code = 1 if isinstance(error, system.ScarceError) else system.FATAL
        except BaseException as error:  # noqa: BLE001 - a child must never run the master's code
            cycle.log.error(log.ALERT, log.unexpected())
            reason = log.encode(f"{type(error).__name__}: {error}")
            theirs.send(channels.FAILED, reason[:MAX_REASON])
        finally:
            os._exit(code)

    # -- end and replacement -------------------------------------------------------------------

    def reap(self) -> None:
        """See who has died, give back what they held, and start anew whom we need.

        Source: ngx_process_get_status, ngx_reap_children
        """
        other = self._master.other
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self.by_pid.pop(pid, None)
            name = "worker process" if child is not None else "unknown process"
            if pid == other.pid:
                name = "new binary process"
            self._log_end(f"{name} {pid}", status)
            self._reclaim(pid)
            if pid == other.pid and other.started:
                other.ended(crashed=status != 0)
            if child is not None:
                child.channel.close()
                self._master.questions.forget(pid)
                self._replace(child, status)

    def _reclaim(self, pid: int, tries: int = RECLAIM_TRIES) -> None:
        """Give back what a dead process counted; later, if somebody keeps a zone locked."""
        if pid in self.by_pid:  # it is another process by now
            return
        master = self._master
        cycles = (master.cycle, *master.old)
        zones = [master.generations.zone, master.cycle.rows.zone]
        zones += (zone for one in cycles for zone in one.zones.zones())
        to = master.cycle.log
        done = shm.reclaim(zones, pid, lambda text: to.error(log.ALERT, text))
        if not done and tries:
            master.later(RECLAIM_MS, lambda: self._reclaim(pid, tries - 1))

    def _log_end(self, who: str, status: int) -> None:
        to = self._master.cycle.log
        if os.WIFSIGNALED(status):
            core = " (core dumped)" if os.WCOREDUMP(status) else ""
            to.error(log.ALERT, f"{who} exited on signal {os.WTERMSIG(status)}{core}")
        else:
            to.error(log.NOTICE, f"{who} exited with code {os.WEXITSTATUS(status)}")

    def _replace(self, child: Child, status: int) -> None:
        """Start another worker in the place of one that was not to leave."""
        master, cycle = self._master, self._master.cycle
        if child.leaving or master.is_ending or child.cycle is not cycle:
            return
        code = os.waitstatus_to_exitcode(status)
        if code == system.FATAL:
            cycle.log.error(
                log.ALERT,
                f"worker process {child.pid} exited with fatal code {code} and cannot be respawned",
            )
            if not any(one.cycle is cycle for one in self):
                cycle.log.error(
                    log.EMERG, "no worker process is left, nothing is served before a reload"
                )
            return
        number = child.number
        if code == 0 or monotonic_ms() - child.started_ms >= AT_ONCE_MS:
            self._deaths.pop(number, None)
            self._respawn(number)
            return
        deaths = self._deaths[number] = self._deaths.get(number, 0) + 1
        if deaths == 1:
            self._respawn(number)
            return
        pause_ms = min(PAUSE_MS << min(deaths - 2, 16), LONGEST_PAUSE_MS)
        cycle.log.error(
            log.ALERT,
            f"worker process {number} died at once {deaths} times in a row, "
            f"starting it again in {pause_ms}ms",
        )
        master.later(pause_ms, lambda: self._spawn_again(number, cycle))

    def _spawn_again(self, number: int, cycle: Cycle) -> None:
        master = self._master
        if cycle is master.cycle and not (master.is_ending or master.not_accepting):
            self._respawn(number)

    def _respawn(self, number: int) -> None:
        cycle = self._master.cycle
        if self.spawn(number, idle=not self._master.udp_is_ours) and cycle.board is not None:
            with contextlib.suppress(OSError):  # no descriptor is left for a row of the master's
                cycle.facts.counter(RESPAWNS).add()

    # -- commands ------------------------------------------------------------------------------

    def let_read(self) -> None:
        """Tell the workers of the cycle that nobody is left to hand UDP clients over."""
        for child in self:
            if child.cycle is self._master.cycle:
                child.channel.send(channels.GO)

    def let_stay(self) -> None:
        """Tell the workers of the cycle that those before them are about to leave."""
        for child in self:
            if child.cycle is self._master.cycle:
                child.channel.send(channels.STAY)

    def quit(self, whom: Iterable[Child]) -> None:
        """Have workers leave in grace."""
        for child in whom:
            if not child.leaving:
                child.leaving = True
                child.tell(channels.QUIT, signal.SIGQUIT, self._master.cycle.log)

    def terminate(self, wait_ms: int = FIRST_WAIT_MS) -> None:
        """Have all leave now: TERM, again and again, then KILL."""
        for child in self:
            if wait_ms > LAST_WAIT_MS:
                child.kill(signal.SIGKILL, self._master.cycle.log)
            elif wait_ms == FIRST_WAIT_MS:
                child.tell(channels.TERMINATE, signal.SIGTERM, self._master.cycle.log)
            else:
                child.kill(signal.SIGTERM, self._master.cycle.log)
            child.leaving = True
        if self.by_pid:
            self._master.later(wait_ms, lambda: self.terminate(min(wait_ms * 2, 1600)))
