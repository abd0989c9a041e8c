"""The other master during an upgrade on the fly: the one this one started, or that started it.

Answers for ngx_exec_new_binary, and the ngx_new_binary branches of ngx_process_cycle.c. What the
two exchange, and which one has the UDP clients when, is defined in upgrade.py.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, log
from ngxstream.event import listening
from ngxstream.process import pidfile, signals, system, upgrade
from ngxstream.process.cycle import Cycle
from ngxstream.process.handover import Plan

if TYPE_CHECKING:
    from ngxstream.process.master import Master
    from ngxstream.process.upgrade import Link

LOOK_MS: Final = 200  # how often it is seen whether the older master lives
REFUSED: Final = (
    "the changing binary signal is ignored: you should shutdown or terminate before either old or "
    "new binary's process"
)


class OtherMaster:
    """The other master as this one knows it."""

    __slots__ = ("_link", "_master", "is_older", "pid")

    def __init__(self, master: Master, link: Link | None) -> None:
        """Args: link: that of the environment; the other one is the older then"""
        self._master = master
        self._link = link
        self.is_older = link is not None
        self.pid = link.pid if link is not None else 0

    @property
    def is_alive(self) -> bool:
        """Whether there is another master."""
        return self._link is not None

    @property
    def started(self) -> bool:
        """Whether there is one that this one has started."""
        return self._link is not None and not self.is_older

    # -- the older master's side ---------------------------------------------------------------

    def change_binary(self) -> None:
        """Start the new binary beside this one. Source: ngx_exec_new_binary"""
        master = self._master
        cycle, to = master.cycle, master.cycle.log
        if self.is_older and os.getppid() != self.pid:
            self.look()  # it may have ended this moment
        if self.is_alive:
            to.error(log.CRIT, REFUSED)
            return
        path, old = cycle.main.pid, pidfile.oldbin(cycle.main.pid)
        words = [sys.executable, *sys.orig_argv[1:]]
        try:
            os.rename(path, old)
        except OSError as error:
            to.error(
                log.ALERT,
                f'rename() {path} to {old} failed before executing new binary process "{words[0]}"',
                error,
            )
            return
        cycle.suspend()
        listening.widen((*cycle.listenings, *cycle.lingering))  # a start takes CPU time
        link, theirs = upgrade.Link.pair()
        with theirs:
            states = cycle.stream.hand_on() if cycle.stream is not None else ()
            link.tell([cycle, *master.old], (), (), states)
            try:
                self.pid = upgrade.execute(
                    words, system.environment(cycle.main.env, os.environ),
                    [*cycle.listenings, *cycle.lingering], theirs, signals.HANDLED,
                )
            except OSError as error:
                to.error(log.ALERT, f'fork() failed while spawning "{words[0]}"', error)
                link.close()
                cycle.resume()
                self._rename_back()
                return
        to.error(log.NOTICE, f"start new binary process {self.pid}")
        link.expect(self.pid)
        self._link = link
        self.is_older = False

    def ended(self, *, crashed: bool) -> None:
        """The new binary's master is gone: this one is alone again. Source: ngx_reap_children

        Args: crashed: its workers may be there still
        """
        master = self._master
        self.learn()  # its sessions may be on their way
        had_udp = not master.udp_is_ours
        self._forget()
        self._rename_back()
        master.cycle.resume()
        if master.not_accepting and not master.is_ending:
            master.not_accepting = False
            master.children.start(idle=crashed and had_udp)
        if not master.is_ending:  # workers that were started by HUP wait for its workers
            master.takeover.inherit(crashed=crashed, had_udp=had_udp)

    def _rename_back(self) -> None:
        master = self._master
        path = master.cycle.main.pid
        old = pidfile.oldbin(path)
        try:
            os.rename(old, path)
        except OSError as error:
            master.cycle.log.error(
                log.ALERT,
                f"rename() {old} back to {path} failed after the new binary process exited",
                error,
            )
        master.verdicts.move(path)  # the new one listened there

    def restart(self) -> None:
        """Serve again by the old binary's workers (HUP). The new one's have the UDP clients."""
        master = self._master
        master.cycle.log.error(log.NOTICE, "the new binary is running: nothing is read anew")
        if any(not child.leaving for child in master.children):
            return
        master.not_accepting = False
        self.learn()
        master.children.start(idle=True)

    # -- both sides ----------------------------------------------------------------------------

    def learn(self) -> None:
        """Make the other one's configurations known here, for the sessions that may come."""
        if self._link is None:
            return
        master = self._master
        said = self._link.latest(upgrade.WAIT_S if self.is_older else 0)
        self._say_fault()
        if said is None:
            return
        known = {cycle.generation for cycle in (master.cycle, *master.old)}
        for record in said.records:
            if record.generation in known:
                continue
            try:
                revived = Cycle.revive(
                    master.cycle, record.generation, record.texts, record.steered
                )
            except errors.NgxError as error:
                master.cycle.log.error(
                    log.WARN, f"a configuration of the other binary is not understood here: {error}"
                )
                continue
            master.old.append(revived)

    def announce(self, *, starting: bool = False) -> None:
        """Tell the other one where sessions may be sent to: to the workers there are."""
        if self._link is None:
            return
        master = self._master
        running = starting or any(not child.leaving for child in master.children)
        self._link.tell(
            [master.cycle, *master.old],
            [one.options.key for one in master.cycle.listenings],
            [box.writer for box in master.children.shared.mailboxes] if running else (),
        )

    def hand_over(self) -> None:
        """Have this master's workers give their UDP clients to the other one's."""
        if self._link is None:
            return
        master = self._master
        self.announce()  # the configurations there are by now
        said = self._link.latest(0 if self.is_older else upgrade.WAIT_S)
        self._say_fault()
        if said is None or not said.writers:
            return
        listening.widen((*master.cycle.listenings, *master.cycle.lingering))
        master.takeover.send(
            Plan(
                said.writers,
                said.keys,
                [child.pid for child in master.children if not child.leaving],
            )
        )

    def _say_fault(self) -> None:
        if self._link is not None and self._link.fault:
            self._master.cycle.log.error(
                log.WARN,
                f"the other binary's master was not understood: {self._link.fault}; UDP sessions "
                "that it would have handed over begin anew",
            )
            self._link.fault = ""

    def look(self) -> None:
        """See whether the older master lives still; if not, take what is left."""
        master = self._master
        if self._link is None or not self.is_older:
            return
        if os.getppid() == self.pid:
            master.later(LOOK_MS, self.look)
            return
        had_udp = not master.udp_is_ours
        path = master.cycle.main.pid
        # who leaves removes its pid file
        crashed = pidfile.is_device(path) or pidfile.read(pidfile.oldbin(path)) == self.pid
        self._forget()
        master.takeover.inherit(crashed=crashed, had_udp=had_udp)
        master.tell_main()

    def _forget(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self.pid = 0
        self.is_older = False
