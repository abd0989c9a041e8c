"""Sending datagrams: one, or a burst in one call with generic segmentation offload (GSO).

Linux: UDP_SEGMENT and UDP_GRO, udp(7). A burst is one message that the kernel divides into
datagrams of `size` bytes; only the last may be shorter. One send of four datagrams costs little
more than one of one, and peers that read with GRO get them in one piece too.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from typing import Final

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
MAX_SEGMENTS: Final = 64
# the payload of one IPv4 message; over IPv6 20 more would fit, not worth a second number
MAX_PAYLOAD: Final = 65507
ANCILLARY_SPACE: Final = (  # for facts()
    socket.CMSG_SPACE(struct.calcsize("=I4s4s"))
    + socket.CMSG_SPACE(struct.calcsize("=16sI"))
    + socket.CMSG_SPACE(4)
)
# errnos of a path that cannot do GSO: no checksum offload, a segment above the MTU
_NO_GSO: Final = frozenset((errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP))

_segments = [[(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))] for size in range(2049)]


def segment_control(size: int) -> list[tuple[int, int, bytes]]:
    """Return the control data that divides a message into datagrams of `size` bytes."""
    if size < len(_segments):
        return _segments[size]
    return [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))]


def unsegmented(
    control: list[tuple[int, int, bytes]]
) -> tuple[list[tuple[int, int, bytes]], int]:
    """Return control data without what divides a burst, and the size that said; 0 for none."""
    size = 0
    rest = []
    for one in control:
        if one[:2] == (SOL_UDP, UDP_SEGMENT):
            (size,) = struct.unpack("=H", one[2])
        else:
            rest.append(one)
    return rest, size


def runs(views: Sequence[memoryview]) -> list[tuple[int, int, int]]:
    """Divide a list of datagrams into runs that may be one GSO message each.

    Returns: [(first, past the last, size)]; a run is of one size but for a shorter last
    datagram, at most MAX_SEGMENTS long and MAX_PAYLOAD bytes; order and boundaries are kept.
    Empty datagrams stand alone.
    """
    count = len(views)
    size = len(views[0]) if views else 0
    if size and count <= MAX_SEGMENTS and count * size <= MAX_PAYLOAD:  # hot: all of one size
        sizes = set(map(len, views))
        if len(sizes) == 1:
            return [(0, count, size)]
    found = []
    first = 0
    while first < count:
        size = total = len(views[first])
        end = first + 1
        if size:
            most = min(count, first + min(MAX_SEGMENTS, MAX_PAYLOAD // size))
            while end < most:
                n = len(views[end])
                if n > size or not n:
                    break
                total += n
                end += 1
                if n < size:
                    break
        found.append((first, end, size))
        first = end
    return found


def is_no_gso(error: OSError) -> bool:
    """Tell whether a send failed because this path cannot do GSO."""
    return error.errno in _NO_GSO


def facts(ancillary: list[tuple[int, int, bytes]]) -> tuple[bytes | None, int]:
    """Return the local address and the size of coalesced datagrams that control data tell."""
    local, size = None, 0
    for level, _, data in ancillary:
        if level == SOL_UDP:
            size = int.from_bytes(data[:4], "little")
        elif level == socket.IPPROTO_IP:
            local = data[8:12]
        elif level == socket.IPPROTO_IPV6:
            local = data[:16]
    return local, size


def split(view: memoryview, size: int) -> list[memoryview]:
    """Divide a coalesced message into its datagrams."""
    return [view[at : at + size] for at in range(0, len(view), size)]


def has_gro(sock: socket.SocketType) -> bool:
    """Tell whether a UDP socket coalesces what it receives."""
    try:
        return bool(sock.getsockopt(SOL_UDP, UDP_GRO))
    except OSError:
        return False


def has_gso(sock: socket.SocketType) -> bool:
    """Tell whether the kernel divides what a UDP socket sends."""
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def set_gro(sock: socket.SocketType, on: bool) -> bool:
    """Switch coalescing of received datagrams. Returns: whether the kernel can do it"""
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, int(on))
    except OSError:
        return False
    return True
