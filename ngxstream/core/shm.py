"""Zones: memory that all workers share, made by the master before it forks, and its lock
(ngx_shmem.c, ngx_slab.c, ngx_shmtx.c).

A worker can die by SIGKILL between any two instructions, and what it held must be released. Two
mechanisms do that, and neither needs the dead process:

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
import functools
import itertools
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import errors
from ngxstream.core.log import PROCESS
from ngxstream.core.shm_ledger import CHUNK, Ledger, Ledgers

if TYPE_CHECKING:
    from ngxstream.core.shm_counts import Counts

PAGE: Final = mmap.PAGESIZE
LEAST: Final = 8 * PAGE  # no zone may be smaller. Source: ngx_stream_limit_conn_zone

_RECLAIMING: Final = 2  # the byte of the lock that is held by who gives back
CHANGING: Final = 16  # the first byte of those that are held by who changes something for long
BATCH: Final = 32  # entries given back before others may take the lock: some 0.2 ms
PATIENCE_S: Final = 1.0  # how long soon() waits for a lock
RECLAIM_S: Final = 1.0  # how long one call of reclaim() may take
RETRY_S: Final = 0.0005

# What reading memory that another process has spoiled may raise.
DAMAGE: Final = (
    errors.InternalError, IndexError, ValueError, OverflowError, TypeError, OSError, struct.error
)


class BusyError(errors.InternalError):
    """A lock of shared memory is held for too long."""


class UnfinishedError(BusyError):
    """There is more to give back than who does it has time for at once."""


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

    def take(self, number: int) -> bool:
        """Take another lock until drop(number), unless another process has it; tell whether.

        This process is not kept from taking it twice.
        """
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def drop(self, number: int) -> None:
        """Let go of what take() took."""
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
        "fold",     # Callable | None: fold(address, words) takes a page of a dead process's row
        "_ledger",  # Ledger | None: of this process, or of one that forked it
    )

    def __init__(self, name: str, size: int, tag: str, chunk: int = CHUNK) -> None:
        """Make a zone. Raises: OSError.

        Args: name: what the configuration and lsof call it; size: in bytes; it bounds tables of
        keys, cells come on top; tag: name of the module it belongs to; chunk: bytes of a ledger
        """
        if size:
            self.memory(size).close()  # what nginx would map: there must be so much
        self.name = name
        self.size = size
        self.tag = tag
        self.lock = Lock(f"zone {name}")
        self.data: Any = None
        self.ledgers = Ledgers(f"ledgers of zone {name}", self.lock, chunk)
        self.parts: list[Counts] = []
        self.fold: Callable[[int, memoryview[int]], None] | None = None
        self._ledger: Ledger | None = None

    def memory(self, size: int) -> mmap.mmap:
        """Return so many shared bytes, all 0. Raises: OSError."""
        try:
            return mmap.mmap(-1, size)
        except OverflowError:  # more than there are addresses
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None

    def sparse(self, size: int) -> mmap.mmap:
        """Return so many shared bytes, all 0, of which only what is touched has to be there.

        Raises: OSError
        """
        fd = os.memfd_create(f"zone {self.name}"[:200], os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def ints(self, count: int) -> memoryview[int]:
        """Return so many shared 64-bit cells (format "q"), all 0. Raises: OSError."""
        return memoryview(self.memory(max(count, 1) * 8)).cast("q")[:count]

    @property
    def ledger(self) -> Ledger:
        """What this process holds. Raises: OSError where it has none yet and cannot have one."""
        ledger = self._ledger
        if ledger is None or ledger.pid != PROCESS.pid:  # a child's parent may have counted
            ledger = self._ledger = Ledger(self.ledgers, PROCESS.pid)
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
                for give_back in self._all_of(chunk):
                    with self.lock.soon():
                        give_back()
                    if time.monotonic() > end:
                        raise UnfinishedError
                self.ledgers.free(chunk)
                if time.monotonic() > end:
                    raise UnfinishedError

    def _all_of(self, chunk: int) -> Iterator[Callable[[], None]]:
        """Yield what gives back a part of what a chunk says is held."""
        if self.fold is not None:
            for address, words in self.ledgers.pages(chunk):
                yield functools.partial(self.fold, address, words)
            return
        held = self.ledgers.held(chunk)
        for start in range(0, len(held), BATCH):
            yield functools.partial(self._give_back, held[start : start + BATCH])

    def _give_back(self, held: Iterable[tuple[int, int]]) -> None:
        for address, word in held:
            if word > 0:
                self.parts[word >> 60].give_back(address, word)

    def close(self) -> None:
        """Let go of the zone in this process; the memory goes with its last user."""
        self.lock.close()
        self.ledgers.close()
        self.parts.clear()
        self.fold = None
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
