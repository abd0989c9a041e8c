"""What each process holds of a zone's counts, written down where every other process can read it.

A worker can die by SIGKILL between any two instructions. What it held is given back by whoever
outlives it, and costs what it held, however large the zone is and however many processes there are.

1. The ledgers of all processes are one file without a name that grows: chunks of words, a word for
   each thing that is held (`Counts` says what it means), 0 for nothing. A process maps its chunks.
   How large a chunk is says who makes the file; one of rows of cells (shm_facts.py) is very large.
2. Whose chunk it is says one word in a page of owners: the pid, or 0, and then all its words are 0.
   A process owns chunks from its first count to its end. A pid is not given anew before its process
   is reaped, and not reclaimed later than that.
3. Only its process writes to a ledger while it lives; a change that death interrupted is completed
   by the next process that holds the zone's lock (Counts.recover), through the file.

The file is sparse: what was never touched takes no memory. It is not the file of the zone's lock,
for a process loses its locks on a file when it closes any descriptor of it, and mmap keeps one.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ngxstream.core.files import c_string

if TYPE_CHECKING:
    from ngxstream.core.shm import Lock

PAGE: Final = mmap.ALLOCATIONGRANULARITY
WORD: Final = 8  # bytes
CHUNK: Final = 64 * PAGE  # bytes, where nobody says otherwise
GROUP: Final = PAGE // WORD  # chunks whose owners are in one page, before them
GROUPS: Final = 1024  # at most: any worker can make the file longer than anybody can read
MOST_READ: Final = 2048  # chunks that are added up, some 20 ms: it can claim all there could be

_PACK: Final = struct.Struct("=q")
_OWNERS: Final = 1  # the byte of the lock that is held while a chunk finds an owner

# A word of a ledger: in which view and at which index its process writes it, its address in the
# file, and the list it goes to when it is free.
Entry = tuple["memoryview[int]", int, int, list["Entry"]]


class Ledgers:
    """The ledgers of all processes that hold something of one zone."""

    __slots__ = (
        "chunk",  # bytes
        "entries",  # words of a chunk, but for the first one
        "_fd",
        "_group_bytes",  # of the chunks whose owners are in one page, and that page
        "_lock",
    )

    def __init__(self, name: str, lock: Lock, chunk: int = CHUNK) -> None:
        """Make the file. Raises: OSError. Args: chunk: bytes, whole pages"""
        self.chunk = chunk
        self.entries = chunk // WORD - 1
        self._group_bytes = PAGE + GROUP * chunk
        self._fd = -1
        self._fd = os.memfd_create(c_string(name[:200]), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # it grows; a mapping whose file had become shorter would be deadly to touch
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._lock = lock

    def owners(self) -> set[int]:
        """Return the pids of all processes that hold something, or may."""
        return {pid for _, owners in self._pages() for pid in owners} - {0}

    def chunks_of(self, pid: int) -> list[int]:
        """Return the addresses of a process's chunks."""
        found = []
        for start, owners in self._pages():
            at = -1
            for _ in range(owners.count(pid)):
                at = owners.index(pid, at + 1)
                found.append(start + PAGE + at * self.chunk)
        return found

    def claim(self, pid: int) -> int:
        """Give a process a chunk that is nobody's; return its address. Raises: OSError."""
        with self._lock.byte(_OWNERS):
            at = 0
            for start, owners in self._pages():
                if 0 in owners:
                    at = start + PAGE + owners.index(0) * self.chunk
                    break
                at = start + self._group_bytes + PAGE  # in the next group, if this is the last
            at = at or PAGE
            if at >= GROUPS * self._group_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if os.fstat(self._fd).st_size < at + self.chunk:
                os.ftruncate(self._fd, at + self.chunk)
            self.write(self._owner_of(at), pid)  # one store: it is claimed, or it is not
        return at

    def map(self, address: int) -> mmap.mmap:
        """Map a chunk. Raises: OSError."""
        return mmap.mmap(self._fd, self.chunk, offset=address)

    def write(self, address: int, word: int) -> None:
        """Store one word. Raises: ValueError where there can be none."""
        if address % WORD or address >= os.fstat(self._fd).st_size:
            raise ValueError(f"no word at {address}")
        os.pwrite(self._fd, _PACK.pack(word), address)

    def held(self, address: int) -> list[tuple[int, int]]:
        """Return address and word of everything that a chunk says is held."""
        (used,) = _PACK.unpack(os.pread(self._fd, WORD, address))
        used = min(max(used, 0), self.entries)  # its process wrote it
        words = memoryview(os.pread(self._fd, used * WORD, address + WORD)).cast("q")
        return [(address + WORD * n, word) for n, word in enumerate(words, 1) if word]

    def pages(self, address: int) -> Iterator[tuple[int, memoryview[int]]]:
        """Yield address and words of the pages of a chunk that were ever touched, in their order.

        For a chunk that is a row: its first word, which is none of them, says where it ends.
        """
        (used,) = _PACK.unpack(os.pread(self._fd, WORD, address))
        end = address + WORD * (1 + min(max(used, 0), self.entries))  # its process wrote it
        at = address + WORD
        while at < end:
            try:
                # (who else moves the position of this file, which all share, does no harm)
                at = max(at, os.lseek(self._fd, at, os.SEEK_DATA))
            except OSError:  # ENXIO: nothing was touched from there on
                return
            size = min(PAGE - at % PAGE, end - at)
            if size > 0:
                data = os.pread(self._fd, size, at)
                yield at, memoryview(data[: len(data) // WORD * WORD]).cast("q")
            at += PAGE - at % PAGE

    def clear(self, address: int, count: int) -> None:
        """Store 0 in so many words. Raises: ValueError where there are none."""
        end = address + count * WORD
        if address % WORD or not 0 <= count <= GROUP or end > os.fstat(self._fd).st_size:
            raise ValueError(f"no {count} words at {address}")
        os.pwrite(self._fd, bytes(count * WORD), address)

    def words(self, at: int, count: int = 1) -> Iterator[bytes]:
        """Yield, of each process's chunk, so many words from this one on."""
        return (words for _, words in self.words_of_all(at, count))

    def words_of_all(self, at: int, count: int = 1) -> Iterator[tuple[int, bytes]]:
        """Yield them with the pid of each process."""
        left = MOST_READ
        for start, owners in self._pages():
            for n, pid in enumerate(owners):
                if pid:
                    if not left:
                        return
                    left -= 1
                    address = start + PAGE + n * self.chunk + at * WORD
                    data = os.pread(self._fd, count * WORD, address)
                    if len(data) == count * WORD:  # else nobody's: a process has written its pid
                        yield pid, data

    def free(self, address: int) -> None:
        """Take a chunk from its owner, who is dead and holds nothing any more.

        By one process at a time: the chunk may have another owner as soon as this is done.
        """
        try:
            with self.map(address) as chunk:
                chunk.madvise(mmap.MADV_REMOVE)  # the memory goes back, and all words are 0
        except OSError:  # no descriptor is left, perhaps
            self.write(address, 0)  # the only word that is not 0
        self.write(self._owner_of(address), 0)

    def close(self) -> None:
        """Let go of the file in this process."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def _pages(self) -> Iterator[tuple[int, list[int]]]:
        """Yield address and owners of every group; there may be no chunk yet that has none."""
        size = min(os.fstat(self._fd).st_size, GROUPS * self._group_bytes)
        for start in range(0, size, self._group_bytes):
            yield start, memoryview(os.pread(self._fd, PAGE, start)).cast("q").tolist()

    def index_of(self, address: int) -> int:
        """Return which word of its chunk the one at this address is."""
        return (address % self._group_bytes - PAGE) % self.chunk // WORD

    def _owner_of(self, address: int) -> int:
        """Return where it is written whose chunk the one at this address is."""
        group, offset = divmod(address, self._group_bytes)
        return group * self._group_bytes + (offset - PAGE) // self.chunk * WORD


class Ledger:
    """What this process holds of a zone.

    The first word of a chunk is how many entries of it were ever used.
    """

    __slots__ = (
        "pid",  # int: the process; a child that it forks has another ledger
        "places",  # dict[int, Entry]: entries that are kept by what they count (Tally)
        "_ledgers",
        "_chunk",  # int: address of the latest chunk
        "_free",  # list[Entry]: used before, nothing is in them now
        "_left",  # int: entries of the latest chunk that were never used
        "_view",  # memoryview "q" of the latest chunk; entries keep the others'
    )

    _view: memoryview[int]

    def __init__(self, ledgers: Ledgers, pid: int) -> None:
        """Claim the first chunk. Raises: OSError."""
        self.pid = pid
        self.places: dict[int, Entry] = {}
        self._ledgers = ledgers
        self._free: list[Entry] = []
        self._grow()

    def _grow(self) -> None:
        self._chunk = self._ledgers.claim(self.pid)
        self._view = memoryview(self._ledgers.map(self._chunk)).cast("q")
        self._left = self._ledgers.entries

    @property
    def row(self) -> memoryview[int]:
        """The latest chunk whole, for who knows its words by number and takes no entries."""
        return self._view

    def take(self) -> Entry:
        """Return an entry whose word is 0; append it to its list when it is 0 again.

        Raises: OSError when there is no memory for more
        """
        if self._free:
            return self._free.pop()
        if not self._left:
            self._grow()
        view = self._view
        at = view[0] + 1
        view[0] = at  # who reclaims must look at it before there can be anything in it
        self._left -= 1
        return view, at, self._chunk + at * WORD, self._free
