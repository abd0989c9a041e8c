"""Who else is bound to a UDP address: the kernel's own table, read when bind() says "in use".

nginx has no counterpart: it binds UDP with SO_REUSEADDR and never learns of others.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ngxstream.core.inet import InetAddr


_TABLES: Final[dict[int, str]] = {
    socket.AF_INET: "/proc/net/udp",
    socket.AF_INET6: "/proc/net/udp6",
}
_ANY: Final = b"\0" * 16


class Neighbours:
    """The UDP sockets of ours, and all that the kernel knows of.

    The kernel's table is read once, at the first question: with thousands of addresses that
    conflict it is long. Sockets of ours that were bound since are known all the same.
    """

    __slots__ = ("_own", "_ports", "_table")

    def __init__(self) -> None:
        """Know none yet."""
        self._own: list[socket.socket] = []
        self._ports: dict[int, list[socket.socket]] = {}  # bound ones, sorted out when asked for
        self._table: dict[tuple[int, int], list[tuple[bytes, int]]] | None = None

    def add(self, socks: Iterable[socket.socket]) -> None:
        """Add sockets that are ours; those that are not of UDP are ignored."""
        self._own += socks

    def alone_block(self, sockaddr: InetAddr) -> bool:
        """Tell whether a UDP address conflicts with sockets, and all of these are ours.

        Sockets of the other address family count when none of its own conflicts.
        """
        port = sockaddr[1]
        self._sort_out()
        own = [_row(sock) for sock in self._ports.get(port, ()) if sock.fileno() >= 0]
        inodes = {inode for _, _, inode in own}
        family = socket.AF_INET6 if ":" in sockaddr[0] else socket.AF_INET
        other = socket.AF_INET if family == socket.AF_INET6 else socket.AF_INET6
        wanted = _packed(socket.inet_pton(family, sockaddr[0].partition("%")[0]))
        if self._table is None:
            self._table = _read_table()
        for table in (family, other):
            rows = [(address, inode) for of, address, inode in own if of == table]
            rows += self._table.get((table, port), ())
            in_the_way = [
                inode for address, inode in rows if address == wanted or _ANY in (address, wanted)
            ]
            if in_the_way:
                return all(inode in inodes for inode in in_the_way)
        return False

    def _sort_out(self) -> None:
        for sock in self._own:
            if sock.fileno() >= 0 and sock.type == socket.SOCK_DGRAM:
                self._ports.setdefault(sock.getsockname()[1], []).append(sock)
        self._own.clear()


def _row(sock: socket.socket) -> tuple[int, bytes, int]:
    """Return what the kernel's table says of one socket, its family before it."""
    host = sock.getsockname()[0].partition("%")[0]
    return sock.family, _packed(socket.inet_pton(sock.family, host)), os.fstat(sock.fileno()).st_ino


def _read_table() -> dict[tuple[int, int], list[tuple[bytes, int]]]:
    """Return (address, inode) of all UDP sockets by family and port."""
    found: dict[tuple[int, int], list[tuple[bytes, int]]] = {}
    for family in _TABLES:
        for address, port, inode in _rows(family):
            found.setdefault((family, port), []).append((address, inode))
    return found


def _packed(address: bytes) -> bytes:
    """Return an address as 16 bytes, IPv4 as v4-mapped, all wildcards alike."""
    if not any(address):
        return _ANY
    return address if len(address) == 16 else b"\0" * 10 + b"\xff\xff" + address


def _rows(family: int) -> Iterable[tuple[bytes, int, int]]:
    """Give (address as 16 bytes, port, inode) of every UDP socket of this network namespace."""
    try:
        with open(_TABLES[family], encoding="ascii") as table:
            lines = table.readlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        # the address is printed in words as this machine reads them
        words = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
        packed = _packed(b"".join(struct.pack("=I", word) for word in words))
        yield packed, int(port, 16), int(fields[9])
