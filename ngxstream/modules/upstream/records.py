"""Records in memory that all workers share: the addresses of a name, and what else is made so.

1. A record is written whole, in two halves by turns, and then its version counts up: a worker that
   dies while it writes leaves the other half.
2. Workers of another user can write it too. What is read is bounded and checked; what they spoil
   reads as nothing.
3. A record of a name that comes at run time is one of those the zone has in stock: it says whose it
   is, and who finds it another's reads nothing.
"""

from __future__ import annotations

import hashlib
import mmap
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import inet
from ngxstream.ipc import codec
from ngxstream.ipc.codec import Field

if TYPE_CHECKING:
    from ngxstream.core import shm

HALF: Final = 1 << 16  # bytes that the addresses of a name may take: some 1700 addresses

# Cells of a record.
VERSION: Final = 0  # counts the changes; its lowest bit tells which half is read
DUE: Final = 1  # when it is to be asked for next: CLOCK_MONOTONIC ms
CLAIMED: Final = 2  # until when somebody is asking
SIZES: Final = 3  # of the two halves
TRIED: Final = 5  # 1 when a lookup has come to an end, well or not
OWNER: Final = 6  # digest of the name it belongs to, 0 while it is in stock
BASE: Final = 7  # the version before the owner's first answer
CELLS: Final = 8

_FAMILIES: Final = {4: inet.AF_INET, 16: inet.AF_INET6}  # by the bytes of an address
_ENTRY: Final = codec.Record(
    "entry",
    Field(1, "address", codec.Bytes(16)),
    Field(2, "port", codec.Int(0, 65_535), 0),
    Field(3, "weight", codec.Int(1, 65_535), 1),
    Field(4, "backup", codec.BOOL, False),
    Field(5, "server", codec.Text(1024), ""),
    Field(6, "row", codec.UINT),
    Field(7, "denied_ms", codec.UINT, 0),
)


def digest(text: str) -> int:
    """Return what stands for a text in a cell: never 0."""
    data = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(data, "little", signed=True) or 1


class Halves:
    """Byte strings in shared memory, written whole; use it under the zone's lock."""

    __slots__ = ("cells", "_half", "_items", "_memory")

    def __init__(self, zone: shm.Zone, half: int) -> None:
        """Make an empty one. Args: half: the bytes that it may take, with 4 for each string"""
        self.cells = zone.ints(CELLS)
        self._half = half
        self._items: codec.List[bytes] = codec.List(codec.Bytes(half), half)
        self._memory = mmap.mmap(-1, 2 * half)

    def items(self) -> list[bytes]:
        """Return what was written last. Raises: CodecError for what nobody wrote"""
        half = self.cells[VERSION] & 1
        size = self.cells[SIZES + half]
        if not 0 < size <= self._half:
            return []
        return self._items.decode(self._memory[half * self._half : half * self._half + size])

    def fits(self, items: list[bytes]) -> bool:
        """Tell whether there is room for so much."""
        return sum(map(len, items)) + 4 * len(items) <= self._half

    def put(self, items: list[bytes]) -> None:
        """Replace what is in it by what fits."""
        data = self._items.encode(items)
        version = (self.cells[VERSION] + 1) & 0xFFFF_FFFF
        half = version & 1
        self._memory[half * self._half : half * self._half + len(data)] = data
        self.cells[SIZES + half] = len(data)
        self.cells[VERSION] = version


class Entry(NamedTuple):
    """One address of a name.

    port, weight and server are a service's, else 0, 1 and ""; row is the zone's; denied_ms is when
    a DNS server first answered that its name does not exist (CLOCK_MONOTONIC), 0 for never.
    """

    family: int
    host: str
    port: int
    weight: int
    backup: bool
    server: str
    row: int
    denied_ms: int = 0


class Record(Halves):
    """The addresses of one name."""

    __slots__ = ("configuration", "_rows")

    def __init__(self, zone: shm.Zone, rows: int) -> None:
        """Make a record without addresses. Args: rows: how many the zone has"""
        super().__init__(zone, HALF)
        self.configuration = 0  # the last one that had it; the master's
        self._rows = rows

    def read(self) -> list[Entry]:
        """Return the addresses, in the order in which they came."""
        try:
            return [self._entry(data) for data in self.items()]
        except codec.CodecError:
            return []

    def _entry(self, data: bytes) -> Entry:
        address, port, weight, backup, server, row, denied_ms = _ENTRY.decode(data)
        family = _FAMILIES.get(len(address))
        if family is None or row >= self._rows:
            raise codec.CodecError("no address, or no row of the zone")
        host = socket.inet_ntop(family, address)
        return Entry(family, host, port, weight, backup, server, row, denied_ms)

    def write(self, entries: list[Entry]) -> None:
        """Replace the addresses; what does not fit is left out."""
        packed = [
            _ENTRY.encode((socket.inet_pton(one.family, one.host), *one[2:])) for one in entries
        ]
        while not self.fits(packed):
            packed = packed[: len(packed) * 9 // 10]
        self.put(packed)

    def give(self, owner: int) -> None:
        """Take it out of the stock: it begins anew, for a name of this digest."""
        self.write([])
        cells = self.cells
        cells[BASE] = cells[VERSION]
        cells[DUE] = cells[CLAIMED] = cells[TRIED] = 0
        cells[OWNER] = owner


def by_origin(*tables: dict[str, Record]) -> dict[str, Record]:
    """Return the first record of every origin. Args: tables: by Name.key, the nearest first"""
    found: dict[str, Record] = {}
    for table in tables:
        for key, record in table.items():
            found.setdefault(key.rsplit("\0", 3)[0], record)
    return found
