"""Steering: which worker a datagram's client belongs to, in the kernel and in Python alike.

nginx has no counterpart: without it the datagrams of one client reach any worker (the sessions of
ngx_event_udp.c live in one process), and with `reuseport` a hash nobody else can compute.

A classic BPF program on a SO_REUSEPORT group names the receiving socket of every datagram;
owner_of() is the same function. Both compute:

1. word = the IPv4 source address, or the four words of the IPv6 source address XORed; a v4-mapped
   address counts as the IPv4 address it maps.
2. owner = ((word XOR source port) * 2654435761 mod 2**32 >> 16) mod n.
3. Sockets are numbered in the order in which they were bound.

IPv4 options are stepped over. IPv6 extension headers are not: such a client may be steered
elsewhere than owner_of() says, always to the same worker.
"""

from __future__ import annotations

import array
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ngxstream.core.inet import InetAddr


SO_ATTACH_REUSEPORT_CBPF: Final = 51  # asm-generic/socket.h; the socket module has no name for it

_MULTIPLIER: Final = 2654435761  # Knuth's: 2**32 divided by the golden ratio
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"

# linux/filter.h. While the program runs, offset 0 is the payload: headers are read relative to
# the network header.
_NET: Final = 0xFFF00000  # SKF_NET_OFF
_LOAD_WORD: Final = 0x20
_LOAD_HALF: Final = 0x28
_LOAD_BYTE: Final = 0x30
_LOAD_HALF_AT_X: Final = 0x48
_LOAD_X_IHL: Final = 0xB1  # X = 4 * (byte & 15)
_LOAD_MEM: Final = 0x60
_STORE: Final = 0x02
_TO_X: Final = 0x07
_XOR_X: Final = 0xAC
_MUL: Final = 0x24
_SHIFT_RIGHT: Final = 0x74
_MOD: Final = 0x94
_JUMP: Final = 0x05
_JUMP_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_RETURN_A: Final = 0x16

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def owner_of(family: int, sockaddr: InetAddr, workers: int) -> int:
    """Tell which worker the client at a socket address, with a numeric host, belongs to."""
    host, port = sockaddr[:2]
    if family == socket.AF_INET:
        word = int.from_bytes(socket.inet_aton(host), "big")
    else:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        if packed.startswith(_MAPPED):
            word = int.from_bytes(packed[12:], "big")
        else:
            a, b, c, d = struct.unpack("!4I", packed)
            word = a ^ b ^ c ^ d
    return (((word ^ port) * _MULTIPLIER & 0xFFFFFFFF) >> 16) % workers


def program(workers: int) -> list[Instruction]:
    """Return the program that computes owner_of() for a group of `workers` sockets."""
    if workers == 1:
        return [(_RETURN, 0, 0, 0)]
    ipv6: list[Instruction] = [(_LOAD_WORD, 0, 0, _NET + 8), (_TO_X, 0, 0, 0)]
    for offset in (12, 16, 20):
        ipv6 += [(_LOAD_WORD, 0, 0, _NET + offset), (_XOR_X, 0, 0, 0), (_TO_X, 0, 0, 0)]
    ipv6 += [(_LOAD_HALF, 0, 0, _NET + 40)]
    ipv4: list[Instruction] = [
        (_LOAD_X_IHL, 0, 0, _NET),
        (_LOAD_HALF_AT_X, 0, 0, _NET),  # the source port stands first in the UDP header
        (_STORE, 0, 0, 0),
        (_LOAD_WORD, 0, 0, _NET + 12),
        (_TO_X, 0, 0, 0),
        (_LOAD_MEM, 0, 0, 0),
        (_JUMP, 0, 0, len(ipv6)),
    ]
    return [
        (_LOAD_BYTE, 0, 0, _NET),
        (_SHIFT_RIGHT, 0, 0, 4),
        (_JUMP_EQUAL, 0, len(ipv4), 4),
        *ipv4,
        *ipv6,
        (_XOR_X, 0, 0, 0),  # A and X are port and address, or the other way round
        (_MUL, 0, 0, _MULTIPLIER),
        (_SHIFT_RIGHT, 0, 0, 16),
        (_MOD, 0, 0, workers),
        (_RETURN_A, 0, 0, 0),
    ]


def attach(sock: socket.socket, workers: int) -> None:
    """Steer the whole group of a socket to its first `workers` sockets, from now on.

    A program that was attached before is replaced at once for all; what is queued stays where it
    is. Raises: OSError, EINVAL for a socket that never had a group
    """
    code = array.array("B", b"".join(struct.pack("HBBI", *step) for step in program(workers)))
    fprog = struct.pack("HP", len(code) // 8, code.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, fprog)
