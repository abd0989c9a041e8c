"""Who else is bound to a UDP address: the kernel's own table, read when bind() says "in use".

nginx has no counterpart: it binds UDP with SO_REUSEADDR and never learns of others.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from typing import Any, Final

_TABLES: Final[dict[int, str]] = {
    socket.AF_INET: "/proc/net/udp",
    socket.AF_INET6: "/proc/net/udp6",
}
_ANY: Final = b"\0" * 16


def only_by(own: Iterable[socket.socket], sockaddr: tuple[Any, ...]) -> bool:
    """Tell whether all sockets in the way of a UDP address are among `own`, and any is.

    Sockets of the other address family count when none of its own is in the way.
    """
    inodes = {os.fstat(sock.fileno()).st_ino for sock in own if sock.fileno() >= 0}
    family = socket.AF_INET6 if ":" in sockaddr[0] else socket.AF_INET
    other = socket.AF_INET if family == socket.AF_INET6 else socket.AF_INET6
    wanted = _packed(socket.inet_pton(family, sockaddr[0].partition("%")[0]))
    for table in (family, other):
        in_the_way = [
            inode
            for address, port, inode in _rows(table)
            if port == sockaddr[1] and (address == wanted or _ANY in (address, wanted))
        ]
        if in_the_way:
            return all(inode in inodes for inode in in_the_way)
    return False


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
