"""The event loop of a worker: poll, handle, expire, run what was posted, close what is done.

Answers for ngx_process_events_and_timers (src/event/ngx_event.c).

1. `now_ms` is read once per turn and is the only clock of the data path.
2. Sockets are closed at the end of a turn, so an fd number means one thing within it.
3. An unexpected exception is an [alert] and ends what it came from: one session, one handler,
   never the loop nor what else happens in the turn. Whoever goes through objects of several
   sessions catches what each of them raises and gives it to fault().
4. Slots and copy buffer are shared by all: a view of them is good until the function returns that
   it was handed to. Who keeps bytes copies them. PoisoningLoop shows who did not.
"""

from __future__ import annotations

import gc
import itertools
import mmap
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ngxstream.core import clock, codes, facts, gather
from ngxstream.core.log import ALERT, CRIT, unexpected
from ngxstream.event import timers
from ngxstream.event.poller import EpollPoller, Handler, LimitError, Poller

if TYPE_CHECKING:
    from ngxstream.core.log import Log
    from ngxstream.event.connection import Connection, Stream

T = TypeVar("T")

POISON: Final = "NGXSTREAM_POISON"  # environment variable: serve by a PoisoningLoop
BUFFER_SIZE: Final = 65536  # any datagram fits; the copy path moves this much a turn
LONGEST_MS: Final = 3_600_000  # a poll waits no longer: a timeout must fit an int
SLOTS: Final = 64  # datagrams a drain can hold
STRIDE: Final = BUFFER_SIZE + 320  # at 64 KiB from each other all would share a few cache lines


class Loop:
    """One worker's loop and what every session of the worker shares."""

    def __init__(self, log: Log, poller: Poller | None = None, connections: int = 512,
                 numbers: Iterator[int] | None = None) -> None:
        self.log = log
        self.poller = poller or EpollPoller()
        self.handlers = self.poller.handlers
        self.timers = timers.TimerWheel()
        self.now_ms = clock.monotonic_ms()
        self.lines = gather.Gatherer()  # of log files
        self.turns = 0  # those whose poll returned all that was ready
        self._batch = self.poller.max_events
        self.posted: list[Callable[[], None]] = []
        self.closing: list[Stream] = []  # sockets to close at the end of the turn
        self.connections = connections  # worker_connections
        self.free_connections = connections  # slots left
        self.waiting: set[Callable[[], None]] = set()  # called once when a client's slot is free
        self._services: dict[Callable[[Loop], Any], Any] = {}
        self.sessions: set[Any] = set()  # every live session, for worker_shutdown_timeout
        self.live = 0  # sessions and non-cancelable timers: what keeps a quitting worker
        self.next_number = (numbers or itertools.count(1)).__next__
        self.cells = facts.private()  # this process's row of facts (core/facts.py)
        self.worker = 0
        self.workers = 1  # that serve beside this one, itself counted
        self.is_single = False  # there is no master, the process reloads itself
        self.pid = os.getpid()
        self.silent: set[int] = set()  # signals that are somebody's own: no log line tells of them
        self.hostname = socket.gethostname().lower().encode()
        self.collects = False  # run() leaves the cyclic collector on: others' code makes cycles
        self.exiting = False
        self.stopped = False
        self.on_idle: Callable[[], None] | None = None  # exiting, and nothing lives any more
        # one copy buffer and one set of datagram slots for all sessions: nothing is held idle
        # (an anonymous mapping: only pages that were written to are resident)
        space = memoryview(mmap.mmap(-1, (SLOTS + 1) * STRIDE))
        starts = range(0, (SLOTS + 1) * STRIDE, STRIDE)
        self.view, *self.slots = (space[start : start + BUFFER_SIZE] for start in starts)
        self.slot = self.slots[0]  # of one that is expected alone
        self.register = self.poller.add
        self.unregister = self.poller.remove

    def get(self, make: Callable[[Loop], T]) -> T:
        """Return what make(loop) returned at the first call; hot callers keep it."""
        found: T | None = self._services.get(make)
        if found is None:
            found = self._services[make] = make(self)
        return found

    def call_later(self, delay_ms: int, callback: Callable[[], None],
                   cancelable: bool = False) -> timers.Timer:
        """Call back once after a delay; a cancelable timer keeps no quitting worker alive."""
        timer = timers.Timer(callback, self._timer_done, cancelable)
        timer.deadline = max(1, self.now_ms + delay_ms)
        self.timers.add(timer)
        if not cancelable:
            self.live += 1
        return timer

    def _timer_done(self, timer: timers.Timer) -> None:
        self.timers.remove(timer)
        if not timer.cancelable:
            self.live -= 1

    def post(self, callback: Callable[[], None]) -> None:
        """Call back at the end of this turn."""
        self.posted.append(callback)

    def close_later(self, sock: Stream) -> None:
        """Forget a socket's events now and close it at the end of the turn."""
        self.poller.forget(sock.fileno())
        self.closing.append(sock)

    def close_connection(self, c: Connection) -> None:
        """Close a client; its fd is closed at the end of the turn. Source: ngx_close_connection"""
        if c.closed:
            return
        c.closed = True
        if c.reserved:
            self.free_connections += c.reserved
            c.reserved = 0
        self.free_connections += 1
        self.live -= 1
        if self.waiting:
            self.posted.extend(self.waiting)  # a slot towards the server may be free only then
            self.waiting.clear()
        table = c.table
        if table is not None:
            table.forget(c)
            c.table = None
        else:
            self.poller.pop(c.fd, None)
            self.closing.append(c.sock)

    def run(self) -> None:
        """Turn until stop(), or until a graceful exit has nothing left to wait for."""
        if not self.collects:
            gc.disable()
        try:
            self.serve()
        finally:
            self.lines.active = False
            self.lines.write()

    def serve(self) -> None:
        """Turn until stop()."""
        if not self.stopped:
            self._turn(None, is_last=False)

    def stop(self) -> None:
        """Leave run() after this turn."""
        self.stopped = True

    def turn(self, wait_ms: int | None = None) -> None:
        """Run one turn. Args: wait_ms: Overrides how long the poll may wait (tests)"""
        self._turn(wait_ms, is_last=True)

    def _turn(self, given_ms: int | None, *, is_last: bool) -> None:
        """Run turns. # hot: with one event in a turn this is half of what Python executes

        Args: given_ms: as of turn(); is_last: after the first one, or with stop()
        """
        wheel, lines, handlers, closing = self.timers, self.lines, self.handlers, self.closing
        wait, batch, now_ms = self.poller.wait, self._batch, self.now_ms
        handler: Any = None
        while True:
            wait_ms = wheel.next_ms - now_ms if given_ms is None else given_ms
            if wait_ms < 0 or (self.posted and given_ms is None):
                wait_ms = 0
            elif wait_ms > LONGEST_MS:
                wait_ms = LONGEST_MS
            events = wait(wait_ms / 1000, batch)
            lines.active = True
            now_ms = self.now_ms = monotonic_ns() // 1_000_000
            if len(events) < batch:
                self.turns += 1
            for fd, mask in events:
                try:
                    handler = handlers[fd]
                    handler(mask)
                except KeyError as error:
                    if _came_from_below(error):
                        self._guard(handler)  # else its owner is gone since the poll
                except Exception:  # the loop's last guard
                    self._guard(handler)
            if now_ms >= wheel.next_ms:
                wheel.expire(now_ms, self._guard)
            if self.posted:
                posted, self.posted = self.posted, []  # what they post runs in the next turn
                self.call_all(posted)
            lines.active = False
            while lines.waiting:
                self.call_all((lines.write,))
            if closing:  # after the lines: who sees the end finds them
                self._close_all()
            if self.exiting and self.live <= 0 and self.on_idle is not None:
                self.on_idle()
            if self.stopped or is_last:
                return

    def _close_all(self) -> None:
        """Close the sockets that were to be closed at the end of the turn."""
        for sock in self.closing:
            try:
                sock.close()
            except OSError:
                pass
            except Exception:
                self.fault(None)
        self.closing.clear()

    def _guard(self, handler: Handler | Callable[[], None]) -> None:
        """Log an unexpected exception and end the owner of the method it came out of."""
        self.fault(timers.owner_of(handler))

    def fault(self, owner: object) -> None:
        """Log the exception being handled, a bug of ours; end its owner, if it has on_fault()."""
        self._tell_fault()
        on_fault = getattr(owner, "on_fault", None)
        if on_fault is not None:
            try:
                on_fault()
            except Exception:  # the others go on
                self._tell_fault()

    def call_all(self, callbacks: Iterable[Callable[[], None]]) -> None:
        """Call each, whatever the others raise."""
        for callback in callbacks:
            try:
                callback()
            except Exception:
                self._guard(callback)

    def end_sessions_of(self, c: Connection) -> None:
        """End what was begun for a connection, after a fault, and close it."""
        for s in [s for s in self.sessions if s.c is c]:
            s.finalize(codes.INTERNAL_SERVER_ERROR)
        self.close_connection(c)

    def _tell_fault(self) -> None:
        error = sys.exception()
        if isinstance(error, LimitError):
            if self.log.level >= CRIT:
                self.log.write(CRIT, str(error.strerror))
        elif self.log.level >= ALERT:
            self.log.write(ALERT, unexpected())


def _came_from_below(error: Exception) -> bool:
    """Tell whether a function that was called has raised an exception.

    A variable of the caller's that had the traceback would be a reference cycle with its frame.
    """
    trace = error.__traceback__
    return trace is not None and trace.tb_next is not None


class PoisoningLoop(Loop):
    """A loop that spoils slots and copy buffer after each turn, to show views that were kept.

    For developers: the tests use it, and a program started with NGXSTREAM_POISON in its
    environment. What is sent from a view that outlived its turn is full of 0xDD.
    """

    POISON = b"\xdd" * BUFFER_SIZE
    USUAL = 2048  # most datagrams are no longer

    def serve(self) -> None:
        """Turn until stop(), one by one."""
        while not self.stopped:
            self.turn()

    def turn(self, wait_ms: int | None = None) -> None:
        """Run one turn, then spoil what it read."""
        super().turn(wait_ms)
        poison, usual = self.POISON, self.USUAL
        for space in (self.view, *self.slots):
            if space[usual] != poison[0]:
                space[:] = poison
            else:
                space[:usual] = poison[:usual]


# as the environment asks when the program starts: a worker's keeps only what `env` names
SERVING: Final = PoisoningLoop if os.environ.get(POISON) else Loop
