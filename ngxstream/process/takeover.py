"""When the workers of a master may read UDP: who hands over to them, and how orphans are told to.

nginx has no counterpart. handover.py tells what workers do, rendezvous.py how orphans are found.

1. Nobody reads while another one does that has clients: they would get parts of each other's
   sessions. So the workers are told to read only when nobody who lives is handing over to them;
   who does tells them itself (STOPPED), and is waited for START_MS at most.
2. Where another master was killed whose workers have the UDP clients, its orphans are waited for
   LATE_MS: they see its death a moment later than this master may.
3. Who is to take over is told so before anybody is told to leave (STAY): should the master die,
   these workers wait for the others, however slow they are, and those that were told nothing leave.
4. Two plans for the same workers are one: these read when all of both have stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core.clock import monotonic_ms
from ngxstream.event import listening
from ngxstream.process import channel as channels
from ngxstream.process import orphan
from ngxstream.process.handover import START_MS, Plan

if TYPE_CHECKING:
    from ngxstream.process.children import Child, Shared
    from ngxstream.process.master import Master
    from ngxstream.process.rendezvous import Survivor

LATE_MS: Final = 1000  # who was left by a killed master and did not answer at first
LOOK_MS: Final = 200  # how often it is seen whether somebody hands over still


class TakeOver:
    """Who hands over to the workers of a master's cycle."""

    __slots__ = (
        "_end_ms",  # when those who hand over are waited for no more
        "_expecting",  # bool: orphans that are not found yet may have the UDP clients
        "_looking",  # bool: a look at who hands over is due
        "_master",
        "_pids",  # frozenset[int]: of those who were told to hand over
        "_to",  # Shared | None: what those share to whom
    )

    def __init__(self, master: Master) -> None:
        self._master = master
        self._pids: frozenset[int] = frozenset()
        self._to: Shared | None = None
        self._end_ms = 0
        self._expecting = False
        self._looking = False

    # -- orphans -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Have the orphans that were found hand over their UDP clients and leave."""
        if self._master.survivors.all:
            self._take_over()
            self._master.later(LATE_MS, self._meet)

    def inherit(self, *, crashed: bool, had_udp: bool) -> None:
        """Take what the workers of another master have that is gone.

        Args: crashed: it was killed, perhaps this moment: they are there still; had_udp: the UDP
        clients were theirs
        """
        self._expecting = crashed and had_udp
        self._meet()
        self._master.later(LATE_MS, self._expect_no_more)
        self.let_read()

    def _expect_no_more(self) -> None:
        self._expecting = False
        self._meet()

    def _meet(self) -> None:
        """See whether there are orphans that are not known yet."""
        cycle = self._master.cycle
        if self._master.survivors.meet(orphan.place_of(cycle.main, cycle.options)):
            self._take_over()

    def _take_over(self) -> None:
        master = self._master
        matching = self._master.survivors.matching([master.cycle, *master.old])
        if matching:
            self.hand_over(matching)
        self._master.survivors.tell(channels.QUIT)
        if not matching:
            self.let_read()

    # -- who reads -----------------------------------------------------------------------------

    def hand_over(self, whom: Sequence[Child | Survivor]) -> None:
        """Have workers give their UDP clients to the workers of the cycle."""
        master = self._master
        master.children.let_stay()
        listening.widen((*master.cycle.listenings, *master.cycle.lingering))
        plan = Plan(
            [box.writer for box in master.children.shared.mailboxes],
            [one.options.key for one in master.cycle.listenings],
            sorted(self._giving().union(child.pid for child in whom)),
        )
        if self.send(plan):
            self._to = master.children.shared
            self._pids = frozenset(plan.pids)
            self._end_ms = monotonic_ms() + START_MS
        self.let_read()

    def send(self, plan: Plan) -> bool:
        """Tell the workers of a plan to hand over. Returns: whether any of them heard it"""
        packed = plan.pack()
        fds = [sock.fileno() for sock in plan.writers]
        everyone: list[Child | Survivor] = [*self._master.children, *self._master.survivors.all]
        told = [
            child.channel.send(channels.HANDOVER, packed, fds)
            for child in everyone
            if child.pid in plan.pids
        ]
        return any(told)

    def let_read(self) -> None:
        """Have the workers of the cycle read, as soon as nobody hands over to them."""
        if self._expecting or (monotonic_ms() < self._end_ms and self._giving()):
            if not self._looking:
                self._looking = True
                self._master.later(LOOK_MS, self._look)
        else:
            self._master.children.let_read()

    def _look(self) -> None:
        self._looking = False
        if self._master.udp_is_ours and not self._master.is_ending:
            self.let_read()

    def _giving(self) -> frozenset[int]:
        """Return who lives of those who hand over to the workers there are.

        None does once these have everything.
        """
        children, cycle = self._master.children, self._master.cycle
        settled = self._master.generations.settled(cycle.generation)
        if self._to is not children.shared or settled >= len(children.shared.mailboxes):
            return frozenset()
        return self._pids & {*children.by_pid, *self._master.survivors.living()}
