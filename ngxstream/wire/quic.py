"""QUIC packets with long headers, as they stand in a datagram: kind, connection ids, token, extent.

Versions 1 (RFC 9000 section 17.2) and 2 (RFC 9369 section 3). Nothing is decrypted here: packet
number and payload are protected, and wire/quic_initial.py opens those of Initial packets.

1. A header tells where its packet ends, so that the next one in the datagram can be found.
2. Headers of other versions, and packets with short headers, are refused: nothing in them is known
   for certain but the connection ids (RFC 8999), which ids_of() returns of long ones. In a short
   header the destination stands behind the first byte, and its length nowhere.
3. The fixed bit is not looked at: a client that has a token may clear it (RFC 9287), and who opens
   a packet knows it by its keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ngxstream.wire import reader

VERSION_1: Final = 0x00000001
VERSION_2: Final = 0x6B3343CF
MAX_ID: Final = 20  # bytes of a connection id. Source: RFC 9000 section 17.2
LEAST_FIRST: Final = 1200  # bytes of a client's first datagram. Source: RFC 9000 section 14.1
LEAST_MADE_UP: Final = 8  # bytes of the id that a client begins with. Source: RFC 9000 section 7.2
MAX_PACKETS: Final = 16  # of a datagram that are looked at; a client's has three at most

INITIAL: Final = 0
ZERO_RTT: Final = 1
HANDSHAKE: Final = 2
RETRY: Final = 3  # by servers alone

# version -> kind of a packet by bits 4 and 5 of its first byte
_KINDS: Final = {
    VERSION_1: (INITIAL, ZERO_RTT, HANDSHAKE, RETRY),
    VERSION_2: (RETRY, INITIAL, ZERO_RTT, HANDSHAKE),
}
_LONG: Final = 0x80
_RETRY_TAG: Final = 16  # bytes



class Ids(NamedTuple):
    """What is known of any packet with a long header. Source: RFC 8999 section 5.1"""

    version: int
    destination: bytes
    source: bytes


class QuicError(reader.WireError):
    """Bytes that are no packet with a long header of version 1 or 2."""


class LongHeader(NamedTuple):
    """The header of one packet, but for what is protected.

    ``start``, ``number_at`` and ``end`` are offsets in the datagram: of the first byte, of the
    packet number (of a Retry: of its tag) and one past the packet.
    """

    kind: int
    version: int
    destination: bytes  # connection id, MAX_ID bytes at most
    source: bytes  # connection id
    token: bytes  # of an Initial or Retry
    start: int
    number_at: int
    end: int


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Read an integer of variable length. Returns: it, and the offset behind it

    Raises: QuicError. Source: RFC 9000 section 16
    """
    if at >= len(data):
        raise QuicError("an integer is missing")
    first = data[at]
    if first < 0x40:
        return first, at + 1
    size = 1 << (first >> 6)
    end = at + size
    if end > len(data):
        raise QuicError("an integer is cut off")
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * size - 2)) - 1), end


def parse(data: bytes, start: int = 0) -> LongHeader:
    """Read the header of the packet that begins at an offset of a datagram.

    Raises: QuicError: for anything but a packet of version 1 or 2 that is there to its end
    """
    if len(data) < start + 7 or not data[start] & _LONG:
        raise QuicError("no long header")
    version = int.from_bytes(data[start + 1 : start + 5], "big")
    kinds = _KINDS.get(version)
    if kinds is None:
        raise QuicError("another version")
    kind = kinds[data[start] >> 4 & 3]
    destination, at = _connection_id(data, start + 5)
    source, at = _connection_id(data, at)
    token = b""
    if kind == RETRY:
        end = len(data)
        if end < at + _RETRY_TAG:
            raise QuicError("a Retry is cut off")
        number_at = end - _RETRY_TAG
        return LongHeader(kind, version, destination, source, data[at:number_at], start, number_at,
                          end)
    if kind == INITIAL:
        size, at = varint(data, at)
        if size > len(data) - at:
            raise QuicError("a token is cut off")
        token = data[at : at + size]
        at += size
    size, at = varint(data, at)
    if size > len(data) - at:
        raise QuicError("a packet is cut off")
    return LongHeader(kind, version, destination, source, token, start, at, at + size)


def ids_of(data: bytes) -> Ids | None:
    """Return the connection ids of the first packet of a datagram, whatever its version.

    None where it has no long header, or ids that are longer than MAX_ID. Source: RFC 8999
    """
    if len(data) < 7 or not data[0] & _LONG:
        return None
    try:
        destination, at = _connection_id(data, 5)
        source, at = _connection_id(data, at)
    except QuicError:
        return None
    return Ids(int.from_bytes(data[1:5], "big"), destination, source)


def begins(data: bytes | memoryview) -> bool:
    """Tell whether a datagram is one that a client begins a connection with.

    Source: RFC 9000 sections 7.2 and 14.1
    """
    if len(data) < LEAST_FIRST or not data[0] & _LONG:
        return False
    try:
        header = parse(bytes(data))
    except QuicError:
        return False
    return header.kind == INITIAL and len(header.destination) >= LEAST_MADE_UP


def _connection_id(data: bytes, at: int) -> tuple[bytes, int]:
    """Read a connection id and its length. Returns: it, and the offset behind it"""
    if at >= len(data):
        raise QuicError("a connection id is missing")
    size = data[at]
    end = at + 1 + size
    if size > MAX_ID or end > len(data):
        raise QuicError("a connection id is too long")
    return data[at + 1 : end], end


def packets(data: bytes) -> Iterator[LongHeader]:
    """Yield the headers of a datagram's packets, as far as they can be read, MAX_PACKETS at most.

    What is for another connection than the first packet is passed over. Source: RFC 9000
    section 12.2
    """
    at = 0
    first: LongHeader | None = None
    for _ in range(MAX_PACKETS):
        try:
            header = parse(data, at)
        except QuicError:
            return
        if first is None:
            first = header
        if header.destination == first.destination:
            yield header
        at = header.end
