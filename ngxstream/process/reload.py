"""One attempt to replace the configuration that serves: it succeeds as a whole or is undone.

nginx tells the old workers to leave as soon as it has started the new ones (ngx_process_cycle.c
ngx_master_process_cycle): where these cannot begin, nobody serves. Here:

1. The new workers are started beside the old ones, on sockets that are ready for both. Nothing that
   the old configuration needs is closed before every new worker has said that it has begun.
2. One that cannot begin, or does not within READY_S, refuses the reload: what cannot begin now
   could not be started again either when it dies. Its reason is the reason of the refusal.
3. Then the new workers leave in grace, those that have not begun by KILL. What only the new
   configuration opened is closed; its logs and zones when the last of its workers has left.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core import log
from ngxstream.process import channel as channels
from ngxstream.process import signals

if TYPE_CHECKING:
    from ngxstream.process.children import Child, Shared
    from ngxstream.process.cycle import Cycle
    from ngxstream.process.master import Master

READY_S: Final = 30.0  # how long new workers may take to begin
LOOK_S: Final = 0.1  # how often it is seen meanwhile whether the master is to end
MAX_REASON: Final = 2048


class Beginning:
    """The workers of a cycle from their fork until they have begun."""

    __slots__ = ("failed", "late", "ready", "reasons", "waiting")

    def __init__(self, children: Sequence[Child]) -> None:
        self.waiting = {child.channel.fileno(): child for child in children}  # nothing heard yet
        self.ready: list[Child] = []
        self.failed: list[Child] = []
        self.late: list[Child] = []  # not in time
        self.reasons: list[str] = []  # each once

    def wait(self, wait_s: float = READY_S) -> None:
        """Wait until all have begun or one cannot, time is up, or the master is to end."""
        end = time.monotonic() + wait_s
        while self.waiting and not self.failed:
            left = end - time.monotonic()
            if left <= 0:
                self.late = list(self.waiting.values())
                self.reasons.append(f"it did not begin within {wait_s:g}s")
                return
            if signals.is_ending():
                self.reasons.append("the master process is to end")
                return
            for fd in channels.wait_readable(self.waiting, min(left, LOOK_S)):
                self._hear(fd)

    def _hear(self, fd: int) -> None:
        child = self.waiting[fd]
        reason = "it ended before it began"
        try:
            message = child.channel.receive()
            if message.command == channels.READY:
                self.ready.append(self.waiting.pop(fd))
                return
            if message.command != channels.FAILED:
                return
            reason = message.payload.decode("utf-8", "surrogateescape")
        except BlockingIOError:
            return
        except (EOFError, OSError):
            pass  # it died without a message
        self.failed.append(self.waiting.pop(fd))
        if reason not in self.reasons:
            self.reasons.append(reason)


class Reload:
    """One attempt."""

    __slots__ = ("_before", "_log", "_master", "_new")

    def __init__(self, master: Master, new: Cycle, to: log.Log) -> None:
        """Make a try that has done nothing yet.

        Args: master: Whose workers it is about; new: A cycle that was built beside the one that
        serves; to: Where a refusal is written.
        """
        self._master = master
        self._before = master.cycle
        self._new = new
        self._log = to

    def run(self) -> bool:
        """Have the new cycle serve.

        Returns: Whether it does; otherwise the old one serves on unchanged.
        """
        master, new, before = self._master, self._new, self._before
        try:
            new.prepare(before)
        except Exception:  # noqa: BLE001 - a fault of ours must not take the service with it
            self._log.error(log.ALERT, log.unexpected())
            new.withdraw(before)
            new.retire([before, *master.old])
            before.resume()
            return False
        old_workers = list(master.children)
        serving = [child for child in old_workers if not child.leaving]
        ours = master.udp_is_ours
        former = master.children.shared
        master.children.replaced = former, before
        master.old.append(before)
        master.cycle = new
        reasons: list[str] = []
        try:
            if not master.children.start(idle=bool(serving) or not ours):
                reasons.append("not all of them could be started")
        except Exception as error:  # noqa: BLE001 - the same
            reasons.append(str(error))
            self._log.error(log.ALERT, log.unexpected())
        master.children.replaced = None
        started = [child for child in master.children if child.cycle is new]
        beginning = Beginning(started)
        if not reasons:
            beginning.wait()
            reasons = beginning.reasons
        if reasons:
            self._undo(reasons, beginning, former)
            return False
        new.settle(before)
        former.close()
        master.not_accepting = False
        if ours:
            master.takeover.hand_over(serving)
        master.children.quit(old_workers)
        master.retire()
        return True

    def _undo(self, reasons: Sequence[str], beginning: Beginning, former: Shared) -> None:
        """Have the old cycle serve on, and its workers alone."""
        master, new, before = self._master, self._new, self._before
        for reason in reasons:
            self._log.error(
                log.EMERG, f"the reload is refused, a new worker process cannot begin: {reason}"
            )
        self._log.error(log.NOTICE, "the old worker processes go on")
        master.cycle = before
        master.old.remove(before)
        master.old.append(new)  # until its workers have left
        before.refused += 1
        before.resume()
        for child in beginning.late:
            child.kill(signal.SIGKILL, self._log)  # it is not reaped yet: the number is its own
        for child in (*beginning.failed, *beginning.late):
            child.leaving = True
        master.children.quit([*beginning.ready, *beginning.waiting.values()])
        new.withdraw(before)
        if master.children.shared is not former:
            master.children.shared.close()
            master.children.shared = former
            master.generations.withdraw()
        master.other.announce()
        master.retire()
