"""What the kernel says of this host's routing, by rtnetlink: rules, routes, addresses. Read only.

Formats: rtnetlink(7), linux/rtnetlink.h, linux/fib_rules.h, linux/if_addr.h.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_GETADDR: Final = 22
_GETROUTE: Final = 26
_GETRULE: Final = 34
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR: Final = 2
_DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_ATTRIBUTE: Final = struct.Struct("=HH")  # rtattr

RTN_LOCAL: Final = 2
RT_TABLE_LOCAL: Final = 255
_TABLE, _FWMARK, _FWMASK = 15, 10, 16  # RTA_TABLE, FRA_TABLE; FRA_…
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


class Rule(NamedTuple):
    """One `ip rule` that looks at the mark: packets so marked are routed by a table."""

    mark: int
    mask: int
    table: int


class Route(NamedTuple):
    """One route of a table."""

    table: int
    kind: int  # RTN_LOCAL is a local one
    prefix: int  # length of the destination's, 0 for a default route


def rules(family: int) -> list[Rule]:
    """Return the rules with a mark, in their order. Raises: OSError"""
    found = []
    for body, attributes in _dump(_GETRULE, family, 12):
        if _FWMARK in attributes:
            mask = attributes.get(_FWMASK, b"\xff\xff\xff\xff")
            found.append(Rule(_u32(attributes[_FWMARK]), _u32(mask), _table(body, attributes)))
    return found


def routes(family: int) -> list[Route]:
    """Return all routes of a family, of every table but `local`. Raises: OSError"""
    return [
        Route(table, body[7], body[1])
        for body, attributes in _dump(_GETROUTE, family, 12)
        if (table := _table(body, attributes)) != RT_TABLE_LOCAL
    ]


def addresses(family: int) -> list[str]:
    """Return this host's addresses of global scope, as the interfaces have them. Raises: OSError"""
    found = []
    for body, attributes in _dump(_GETADDR, family, 8):
        packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        if packed is not None and body[3] == 0:  # RT_SCOPE_UNIVERSE
            found.append(socket.inet_ntop(family, packed))
    return found


def _u32(data: bytes) -> int:
    return int(struct.unpack("=I", data[:4])[0])


def _table(body: bytes, attributes: dict[int, bytes]) -> int:
    data = attributes.get(_TABLE)
    return body[4] if data is None else _u32(data)


def _dump(kind: int, family: int, size: int) -> Iterator[tuple[bytes, dict[int, bytes]]]:
    """Yield the answers to one question: the fixed part, and the attributes by number."""
    request = bytes((family,)) + bytes(size - 1)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(5)
        sock.sendto(_HEADER.pack(16 + size, kind, _DUMP, 1, 0) + request, (0, 0))
        for _ in itertools.count():
            data = sock.recv(1 << 18)
            while data:
                length, answer, _flags, _sequence, _pid = _HEADER.unpack_from(data)
                message, data = data[16:length], data[(length + 3) & ~3 :]
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", message)[0]
                    raise OSError(code, "rtnetlink")
                yield message[:size], _attributes(message[size:])


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found
