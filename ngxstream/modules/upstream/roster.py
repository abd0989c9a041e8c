"""The list of a group's server lines in shared memory, where they may change at run time.

1. The list is written whole, by one worker at a time (changes.py), and has a version that all
   workers look at. A configuration has a list of its own: what a reload begins with does not touch
   the workers that serve on.
2. A line is one address, or a name whose addresses are found at run time. An address of such a
   name has a line too where it differs from that of its name: it names that one as its parent.
3. What is read is checked: a line that makes no sense is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.core import inet
from ngxstream.ipc import codec
from ngxstream.ipc.codec import Field
from ngxstream.modules.upstream.records import CLAIMED, Halves
from ngxstream.stream.upstream import Peer, ServerSpec

if TYPE_CHECKING:
    from ngxstream.core import shm

CLOSED: Final = CLAIMED  # the cell of a list that says so: nobody asks for a list
_LINE: Final = codec.Record(
    "server",
    Field(1, "id", codec.UINT),
    Field(2, "server", codec.Text(1024)),
    Field(3, "address", codec.Text(1024), ""),
    Field(4, "weight", codec.Int(1), 1),
    Field(5, "max_conns", codec.UINT, 0),
    Field(6, "max_fails", codec.UINT, 1),
    Field(7, "fail_timeout", codec.UINT, 10),
    Field(8, "slow_start", codec.UINT, 0),
    Field(9, "backup", codec.BOOL, False),
    Field(10, "down", codec.BOOL, False),
    Field(11, "drain", codec.BOOL, False),
    Field(12, "service", codec.Text(1024), ""),
    Field(13, "parent", codec.Int(-1), -1),
    Field(14, "nth", codec.UINT, 0),
)


class Line(NamedTuple):
    """One server line.

    Args: id: the row of its peer, or one that is its own; -1 while it has none; server: as written;
    address: its only one, as peers are named, "" for a name that is resolved at run time;
    fail_timeout, slow_start: in seconds; parent: the id of the name's line, -1 for none; nth: of
    names that look alike
    """

    id: int
    server: str
    address: str = ""
    weight: int = 1
    max_conns: int = 0
    max_fails: int = 1
    fail_timeout: int = 10
    slow_start: int = 0
    backup: bool = False
    down: bool = False
    drain: bool = False
    service: str = ""
    parent: int = -1
    nth: int = 0

    @property
    def is_name(self) -> bool:
        """Whether it stands for what a name is resolved to."""
        return not self.address

    def spec(self) -> ServerSpec:
        """Return it as the configuration would give it. Raises: ValueError for no server"""
        spec = ServerSpec(self.server, [])
        url = inet.parse_url(self.address or self.server, no_resolve=True)
        if self.address:
            if len(url.addrs) != 1 or url.no_port:
                raise ValueError(self.address)
            spec.addrs = list(url.addrs)
        else:
            if url.addrs or not url.host or url.no_port != bool(self.service):
                raise ValueError(self.server)
            spec.resolve = url.host
        spec.host = url.host
        spec.port = url.port
        self.apply(spec)
        return spec

    def apply(self, spec: ServerSpec) -> None:
        """Say of a spec what may change."""
        spec.id = self.id if self.parent < 0 else self.parent
        for name in PARAMETERS:
            setattr(spec, name, getattr(self, name))

    def encode(self) -> bytes:
        """Return its bytes."""
        return _LINE.encode(self)


# what the line has in common with ServerSpec
PARAMETERS: Final = (
    "weight", "max_conns", "max_fails", "fail_timeout", "slow_start", "backup", "down", "drain",
    "service",
)


def decode(data: bytes) -> Line:
    """Return the line of these bytes. Raises: CodecError"""
    return Line(*_LINE.decode(data))


def of_spec(spec: ServerSpec, number: int, address: str = "", **more: Any) -> Line:
    """Return the line of a spec of the configuration. Args: address: one of its addresses"""
    said = {name: getattr(spec, name) for name in PARAMETERS}
    return Line(number, spec.name, address, **said, **more)


def peer_of(spec: ServerSpec) -> Peer:
    """Return the only peer of a line that is an address."""
    ((family, sockaddr, name),) = spec.addrs
    return Peer(spec, family, sockaddr, name)


class Roster(Halves):
    """The lines of one group. Use it under the zone's lock."""

    __slots__ = ("capacity",)

    def __init__(self, zone: shm.Zone, rows: int) -> None:
        """Make an empty one, with room for as many lines as the zone has rows."""
        super().__init__(zone, max(1 << 16, rows << 8))
        self.capacity = rows

    @property
    def is_closed(self) -> bool:
        """Whether the lines are those of another configuration from now on."""
        return self.cells[CLOSED] != 0

    @is_closed.setter
    def is_closed(self, value: bool) -> None:
        self.cells[CLOSED] = value

    def read(self) -> list[bytes]:
        """Return the bytes of the lines, none where somebody has spoiled them."""
        try:
            return self.items()
        except codec.CodecError:
            return []
