"""Zones: memory that all workers share, made by the master before it forks, and its lock
(ngx_shmem.c, ngx_slab.c, ngx_shmtx.c).

A worker can die by SIGKILL between any two instructions, and what it held must come back. Two
things see to that, and neither asks the dead for help:

1. The lock is a record lock of fcntl(2) on a file without a name. The kernel owns it: it goes
   when its holder goes. Locks of this kind belong to a process, so a fork starts without any.
   (1.5 µs for a pair of lock and unlock; flock(2) is 0.9 but belongs to the open file, which a
   fork shares: workers would not exclude each other.)
2. What is in use now (connections of a peer, sessions of a key) is counted in all and for each
   process (shm_counts.py, shm_ledger.py). When the master has reaped a process, `reclaim(pid)`
   subtracts what it held; where there is no master any more, another worker does.

Plain cells (`Zone.ints`) are for what may be slightly wrong after a crash: weights,
failure counts, averages. A cell is 8 bytes and aligned, so it is never seen half written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import errors
from ngxstream.core.shm_ledger import Ledger, Ledgers

if TYPE_CHECKING:
    from ngxstream.core.shm_counts import Counts

PAGE: Final = mmap.PAGESIZE
LEAST: Final = 8 * PAGE  # no zone may be smaller. Source: ngx_stream_limit_conn_zone

_RECLAIMING: Final = 2  # the byte of the lock that is held by who gives back
# what is given back before the lock is free for others again: some 0.2 ms
BATCH: Final = 32
# how long who must not be kept from other things waits for a lock
PATIENCE_S: Final = 1.0
RECLAIM_S: Final = 1.0  # how long who reclaims may be kept from other things by what he reclaims
RETRY_S: Final = 0.0005

# What reading memory that another process may have spoiled ends in.
DAMAGE: Final = (
    errors.InternalError, IndexError, ValueError, OverflowError, TypeError, OSError, struct.error
)


class BusyError(errors.InternalError):
    """A lock of shared memory is held for too long."""


class UnfinishedError(BusyError):
    """There is more to give back than who does it has time for at once."""


class _Process:
    """The pid of this process, also of one that was forked: asking the kernel costs 0.1 µs."""

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.note()
        os.register_at_fork(after_in_child=self.note)

    def note(self) -> None:
        """Ask the kernel."""
        self.pid = os.getpid()


_SELF: Final = _Process()


class Lock:
    """A lock between processes that its holder's death releases. Not reentrant, not for threads."""

    __slots__ = ("fd",)

    def __init__(self, name: str) -> None:
        """Make the file. Raises: OSError. Args: name: what lsof shows"""
        self.fd = -1  # there may be no descriptor left
        self.fd = os.memfd_create(name[:200].partition("\0")[0], os.MFD_CLOEXEC)

    def __enter__(self) -> None:
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1)

    def __exit__(self, *exc: object) -> None:
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1)

    @contextlib.contextmanager
    def byte(self, number: int) -> Iterator[None]:
        """Hold another lock, known by its number: 1 or more. Take a lower one first, or none."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, number)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, number)

    @contextlib.contextmanager
    def soon(self, number: int = 0, patience_s: float = PATIENCE_S) -> Iterator[None]:
        """Hold the lock, or another, but do not wait for long: its holder may be stopped.

        Raises: BusyError
        """
        end = time.monotonic() + patience_s
        while True:
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= end:
                    raise BusyError from None
            time.sleep(RETRY_S)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Give the descriptor back; the other processes' stay."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


class Zone:
    """One named piece of shared memory with its lock.

    The master makes the zone and its parts; a worker only uses what it inherited. `data` is for
    the module that owns the zone and stays with it when a new configuration adopts it.
    """

    __slots__ = (
        "name",     # str
        "size",     # int: bytes, as configured
        "tag",      # str: name of the module it belongs to
        "lock",     # Lock
        "data",     # Any: what the owner module built upon it
        "ledgers",  # Ledgers: of all processes
        "parts",    # list[Counts]: what their entries are about
        "_ledger",  # Ledger | None: of this process, or of one that forked it
    )

    def __init__(self, name: str, size: int, tag: str) -> None:
        """Make a zone. Raises: OSError.

        Args: name: what the configuration and lsof call it; size: in bytes; it bounds tables of
        keys, cells come on top; tag: name of the module it belongs to
        """
        if size:
            self.memory(size).close()  # what nginx would map: there must be so much
        self.name = name
        self.size = size
        self.tag = tag
        self.lock = Lock(f"zone {name}")
        self.data: Any = None
        self.ledgers = Ledgers(f"ledgers of zone {name}", self.lock)
        self.parts: list[Counts] = []
        self._ledger: Ledger | None = None

    def memory(self, size: int) -> mmap.mmap:
        """Return so many shared bytes, all 0. Raises: OSError."""
        try:
            return mmap.mmap(-1, size)
        except OverflowError:  # more than there are addresses
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None

    def ints(self, count: int) -> memoryview[int]:
        """Return so many shared 64-bit cells (format "q"), all 0. Raises: OSError."""
        return memoryview(self.memory(max(count, 1) * 8)).cast("q")[:count]

    @property
    def ledger(self) -> Ledger:
        """What this process holds. Raises: OSError where it has none yet and cannot have one."""
        ledger = self._ledger
        if ledger is None or ledger.pid != _SELF.pid:  # a child's parent may have counted
            ledger = self._ledger = Ledger(self.ledgers, _SELF.pid)
        return ledger

    def claim(self) -> None:
        """Make this process's ledger, if the zone counts anything. Raises: OSError."""
        if self.parts:
            self.ledger  # noqa: B018 - asking is claiming

    def reclaim(self, pid: int) -> None:
        """Give back what a dead process held.

        For the master, once it has reaped it, and for workers that have lost theirs. The lock is
        held for a few entries at a time. What the dead process wrote is not believed further than
        it makes sense, and does not take longer than RECLAIM_S at a time.

        Raises: BusyError when somebody else keeps a lock, UnfinishedError, one of DAMAGE
        """
        end = time.monotonic() + RECLAIM_S
        with self.lock.soon(_RECLAIMING):
            chunks = self.ledgers.chunks_of(pid)
            if not chunks:
                return
            with self.lock.soon():
                for part in self.parts:
                    part.recover()  # before its ledger is read: it may have died in a change
            for chunk in chunks:
                held = self.ledgers.held(chunk)
                for start in range(0, len(held), BATCH):
                    with self.lock.soon():
                        for address, word in held[start : start + BATCH]:
                            if word > 0:
                                self.parts[word >> 60].give_back(address, word)
                    if time.monotonic() > end:
                        raise UnfinishedError
                self.ledgers.free(chunk)
                if time.monotonic() > end:
                    raise UnfinishedError

    def close(self) -> None:
        """Let go of the zone in this process; the memory goes with its last user."""
        self.lock.close()
        self.ledgers.close()
        self.parts.clear()
        self.data = None
        self._ledger = None


def reclaim(zones: Iterable[Zone], pid: int, complain: Callable[[str], None]) -> bool:
    """Give back what a dead process held, in each zone once.

    Args: zones: all there are; one may come more than once; pid: the process; complain: is told of
    zones where that is not possible
    Returns: whether it is done; if not (a lock is held, there is more) it should be tried again
    """
    done = True
    for zone in {id(zone): zone for zone in zones}.values():
        try:
            zone.reclaim(pid)
        except UnfinishedError:
            done = False
        except BusyError:
            done = False
            complain(f'the lock of shared memory zone "{zone.name}" is held for too long')
        except DAMAGE as error:
            what = f"what process {pid} counted stays: {type(error).__name__} {error}"
            complain(f'shared memory zone "{zone.name}" is damaged, {what}')
    return done


class Serial:
    """Numbers that no two workers give out: `$connection`.

    A process takes BLOCK numbers at a time, so a single worker counts 1, 2, 3 and several workers
    each count on in their own block. Source: ngx_event_accept.c ngx_connection_counter
    """

    __slots__ = ("_cell", "_lock", "next")

    BLOCK: Final = 128

    def __init__(self) -> None:
        """Made by the master, which gives out no number itself before it forks."""
        self._cell = memoryview(mmap.mmap(-1, 8)).cast("q")
        self._lock = Lock("connection serial")
        # called: returns a number that was never returned before, in any process; all in C but
        # for the first of a block
        self.next: Callable[[], int] = itertools.chain.from_iterable(self._blocks()).__next__

    def _blocks(self) -> Iterator[range]:
        while True:
            with self._lock:
                first = self._cell[0] + 1
                self._cell[0] += self.BLOCK
            yield range(first, first + self.BLOCK)
