"""What each worker tells of itself, in its row of facts, where something shows it.

1. How late the loop is: a timer is due every TICK_MS, and how late it is called is how long what
   became ready at that moment had to wait. The worst, the middle and the 99th of a hundred are of
   the last KEPT ticks, a minute; all of them are counted in a histogram.
2. The rest is looked at every PUBLISH_MS, and when this worker is asked: nothing is counted for it
   where clients are served.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

from ngxstream.core import clock
from ngxstream.core.facts import WORKERS, Cell, Counter, Fact
from ngxstream.event import drops, timers, udp_counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ngxstream.core.facts import Facts
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import UdpListener

TICK_MS: Final = 100
KEPT: Final = 600
PUBLISH_MS: Final = 1000
SILENT_MS: Final = 5000  # after so long without a word a worker's loop is taken for stuck
SESSIONS: Final = 8192  # that are looked at in a turn: some 0.5 ms
LISTENERS: Final = 512  # the same: some 2 ms
BOUNDS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)  # of the histogram

SERVING: Final = 1  # what a worker's state is; 0 is that of a process that is none
LEAVING: Final = 2

EACH: Final = "worker"  # what the cells are of


def _gauge(name: str, doc: str) -> Fact:
    return Fact(f"worker_{name}", EACH, doc, is_gauge=True)


STATE: Final = _gauge("state", f"{SERVING} for one that serves, {LEAVING} for one that leaves.")
NUMBER: Final = _gauge("number", "Its place among the workers of its configuration, from 0 on.")
GENERATION: Final = _gauge("generation", "The generation of its configuration.")
STARTED: Final = _gauge("started_ms", "When it began to serve, in milliseconds since 1970.")
TURNS: Final = _gauge("turns", "Turns of its loop.")
DELAY_WORST: Final = _gauge("delay_worst_ms", "How late its loop was, at worst, in a minute.")
DELAY_HALF: Final = _gauge("delay_p50_ms", "How late its loop was, half of the time.")
DELAY_MOST: Final = _gauge("delay_p99_ms", "How late its loop was, 99 times of 100.")
TCP: Final = _gauge("tcp_sessions", "TCP sessions that it has.")
UDP: Final = _gauge("udp_sessions", "UDP sessions that it has.")
GRO: Final = _gauge("gro", "Listening sockets that coalesce what they receive.")
GSO: Final = _gauge("gso", "Listening sockets with a kernel that divides what they send.")
HELD: Final = _gauge("held", "Datagrams that are held while sessions change hands.")
QUEUED: Final = _gauge("queued", "Datagrams that wait for space in a socket's buffer, or for "
                       "their session.")
OVERFLOW: Final = _gauge("kernel_drops", "Datagrams that the kernel dropped at listening sockets "
                         "whose receive buffer was full, since these were made.")
MEMORY: Final = _gauge("memory_bytes", "Its resident memory, what it shares with others included.")
SEEN: Final = _gauge("seen_ms", "When it told this last, on the monotonic clock of the host.")
GAUGES: Final = (STATE, NUMBER, GENERATION, STARTED, TURNS, DELAY_WORST, DELAY_HALF, DELAY_MOST,
                 TCP, UDP, GRO, GSO, HELD, QUEUED, OVERFLOW, MEMORY, SEEN)
_OF_LISTENERS: Final = (GRO, GSO, HELD, QUEUED, OVERFLOW)  # as udp.Standing

DELAYS: Final = Fact("loop_delays", EACH, "How often the loops were that late, at most so many "
                     "milliseconds (inf: more).")
DELAY_SUM: Final = Fact("loop_delay_sum_ms", WORKERS, "Sum of all delays of the loops.")
RESPAWNS: Final = Fact("worker_respawns", WORKERS, "Workers that were started in a dead one's "
                       "place.")
DRAINS: Final = Fact("udp_drains", WORKERS, "How often listening UDP sockets were drained.")
DATAGRAMS: Final = Fact("udp_datagrams", WORKERS, "Messages that were read from them; datagrams "
                        "that the kernel has coalesced are one.")
DROPS: Final = Fact("datagrams_dropped_because", "reason", "Datagrams from clients or to "
                    "clients that were dropped.")
FACTS: Final = (*GAUGES, DELAYS, DELAY_SUM, RESPAWNS, DRAINS, DATAGRAMS, DROPS)
LABELS: Final = (*map(str, BOUNDS_MS), "inf")  # of the cells of DELAYS


class WorkerCells:
    """The cells of one configuration."""

    __slots__ = ("datagrams", "delay_sum", "delays", "drains", "drops", "gauges")

    def __init__(self, facts: Facts) -> None:
        """Have them counted; while the configuration is read."""
        self.gauges: dict[Fact, Cell] = {fact: facts.cell(fact) for fact in GAUGES}
        self.delays = [facts.cell(DELAYS, label) for label in LABELS]
        self.delay_sum = facts.cell(DELAY_SUM)
        self.drains = facts.cell(DRAINS)
        self.datagrams = facts.cell(DATAGRAMS)
        self.drops = {reason: facts.cell(DROPS, reason) for reason in drops.REASONS}

    def lost(self, of: Cell | None) -> drops.Drops:
        """Return what counts what an address loses, by reason too. Raises: OSError"""
        by_reason = {reason: Counter(cell) for reason, cell in self.drops.items()}
        return drops.DropsByReason(of, by_reason)


class Publisher:
    """What one worker tells of itself: `loop.get(Publisher)`."""

    __slots__ = ("_cells", "_due_ms", "_late", "_listeners", "_looking", "_loop", "_publish_ms",
                 "_timer")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._cells: WorkerCells | None = None
        self._listeners: Callable[[], Iterable[UdpListener]] = tuple
        self._looking: Iterator[None] = iter(())  # what is left of a round
        self._late: deque[int] = deque(maxlen=KEPT)
        self._due_ms = 0
        self._publish_ms = 0
        self._timer: timers.Timer | None = None

    def start(
        self, cells: WorkerCells, generation: int, started_ms: int,
        listeners: Callable[[], Iterable[UdpListener]],
    ) -> None:
        """Begin, or go on by another configuration.

        Args: started_ms: as STARTED; listeners: returns all there are
        """
        self._cells = cells
        self._listeners = listeners
        self._set(NUMBER, self._loop.worker)
        self._set(GENERATION, generation)
        self._set(STARTED, started_ms)
        self.publish()
        if self._timer is None:
            self._wait()

    def stop(self, cells: WorkerCells) -> None:
        """End, unless another configuration took over."""
        if self._cells is cells and self._timer is not None:
            self._timer.cancel()
            for fact in GAUGES:  # others may have these cells after the next reload
                self._set(fact, 0)
            self._cells = self._timer = None
            self._looking = iter(())

    def _set(self, fact: Fact, value: int) -> None:
        assert self._cells is not None
        self._loop.cells[self._cells.gauges[fact].at] = value

    # -- how late the loop is ------------------------------------------------------------------

    def _wait(self) -> None:
        self._timer = self._loop.call_later(TICK_MS, self._tick, cancelable=True)
        # when the wheel looks at it: see TimerWheel.add
        self._due_ms = (self._timer.deadline // timers.TICK_MS + 1) * timers.TICK_MS

    def _tick(self) -> None:
        now_ms = clock.monotonic_ms()
        cells = self._cells
        assert cells is not None
        late = max(0, now_ms - self._due_ms)
        self._late.append(late)
        row = self._loop.cells
        place = next((n for n, most in enumerate(BOUNDS_MS) if late <= most), len(BOUNDS_MS))
        row[cells.delays[place].at] += 1
        row[cells.delay_sum.at] += late
        if now_ms >= self._publish_ms:
            self.publish()
        else:
            self._go_on()
        self._wait()

    # -- the rest ------------------------------------------------------------------------------

    def publish(self) -> None:
        """Tell how things are now; nothing where nobody began to."""
        loop = self._loop
        if self._cells is None:
            return
        now_ms = clock.monotonic_ms()
        self._publish_ms = now_ms + PUBLISH_MS
        self._set(SEEN, now_ms)
        self._set(STATE, LEAVING if loop.exiting else SERVING)
        self._set(TURNS, loop.turns)
        late = sorted(self._late) or [0]
        self._set(DELAY_WORST, late[-1])
        self._set(DELAY_HALF, late[len(late) // 2])
        self._set(DELAY_MOST, late[len(late) * 99 // 100])
        self._set(MEMORY, resident_bytes())
        drains, datagrams = loop.get(udp_counted.Drains).take()
        loop.cells[self._cells.drains.at] += drains
        loop.cells[self._cells.datagrams.at] += datagrams
        self._looking = self._look()
        self._go_on()

    def _go_on(self) -> None:
        """Look at some more, in this turn."""
        for _ in self._looking:
            return

    def _look(self) -> Iterator[None]:
        """Look at all sessions and listeners, of which there may be thousands, in some turns."""
        sessions = list(self._loop.sessions)
        datagrams = 0
        for start in range(0, len(sessions), SESSIONS):
            if start:
                yield
            datagrams += sum([s.c.is_udp for s in sessions[start : start + SESSIONS]])
        self._set(UDP, datagrams)
        self._set(TCP, len(sessions) - datagrams)
        sums = [0] * len(_OF_LISTENERS)
        for n, listener in enumerate(list(self._listeners()), 1):
            for place, value in enumerate(listener.standing()):
                sums[place] += value
            if n % LISTENERS == 0:
                yield
        for fact, value in zip(_OF_LISTENERS, sums, strict=True):
            self._set(fact, value)


def resident_bytes() -> int:
    """Return the resident memory of this process, 0 where the kernel does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
