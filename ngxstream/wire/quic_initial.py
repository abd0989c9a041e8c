"""A client's Initial packets: their keys, their protection, and the frames inside.

RFC 9001 section 5 (QUIC version 1) and RFC 9369 section 3.3 (version 2). The keys are made of the
connection id that stands in the packet itself, so everybody on the way can read what is inside, and
the parser of a proxy too; they keep nothing secret. AES is somebody else's (class Cipher).

1. A packet is believed when its tag is right, and nothing of one that it is not right for is used.
2. In the payload stand the frames that RFC 9000 table 3 allows in Initial packets. Anything else is
   an error of the connection, and so it is here.
3. The work for a payload is bounded by its length: MAX_FRAMES are read, and a run of PADDING and
   PING counts as one.
"""

from __future__ import annotations

import hmac
import re
from typing import Final, NamedTuple, Protocol

from ngxstream.wire import quic, reader

MAX_FRAMES: Final = 256  # of a packet, ranges of an ACK among them; a client's has some ten
SAMPLE: Final = 16  # bytes, of header protection
_LONGEST_NUMBER: Final = 4  # bytes of a packet number
_RESERVED: Final = 0x0C  # bits of the first byte

_ACK: Final = 0x02
_ACK_ECN: Final = 0x03
_CRYPTO: Final = 0x06
_CONNECTION_CLOSE: Final = 0x1C
_OTHER_THAN_PADDING_AND_PING: Final = re.compile(rb"[^\0\1]")


class _Version(NamedTuple):
    """What the two versions do not have in common."""

    salt: bytes
    key: bytes  # labels of HKDF-Expand-Label
    iv: bytes
    hp: bytes


class InitialError(reader.WireError):
    """A packet that opens, with contents that no Initial packet of a client may have."""


class Closed(InitialError):
    """The client gives the connection up."""


class Unreadable(reader.WireError):
    """A packet that these keys do not open: another connection's, or forged."""


class Cipher(Protocol):
    """AES with keys of 128 bits."""

    def encrypt_block(self, key: bytes, block: bytes) -> bytes:
        """Encrypt 16 bytes by themselves (ECB)."""

    def open(self, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes | None:
        """Return what is in ciphertext and tag of 16 bytes (GCM), None where it is not right."""


class Keys(NamedTuple):
    """The keys of one side of a connection. Args: key, hp: 16 bytes each; iv: 12 bytes"""

    key: bytes
    iv: bytes
    hp: bytes


def _label(name: str, size: int) -> bytes:
    """Make an HkdfLabel without context. Source: RFC 8446 section 7.1"""
    label = b"tls13 " + name.encode()
    return size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0"


_CLIENT_IN: Final = _label("client in", 32)
_VERSIONS: Final = {
    quic.VERSION_1: _Version(
        bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
        _label("quic key", 16), _label("quic iv", 12), _label("quic hp", 16),
    ),
    quic.VERSION_2: _Version(
        bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
        _label("quicv2 key", 16), _label("quicv2 iv", 12), _label("quicv2 hp", 16),
    ),
}


def client_keys(version: int, destination: bytes) -> Keys:
    """Derive the keys of what a client sends in Initial packets.

    Args: version: one of quic's; destination: the connection id its first Initial packet is sent to
    Source: RFC 9001 section 5.2
    """
    made = _VERSIONS[version]
    secret = _expand(hmac.digest(made.salt, destination, "sha256"), _CLIENT_IN)
    return Keys(
        _expand(secret, made.key)[:16], _expand(secret, made.iv)[:12], _expand(secret, made.hp)[:16]
    )


def _expand(secret: bytes, label: bytes) -> bytes:
    """Return the first 32 bytes of HKDF-Expand. Source: RFC 5869 section 2.3"""
    return hmac.digest(secret, label + b"\1", "sha256")


def open_packet(
    cipher: Cipher, keys: Keys, data: bytes, header: quic.LongHeader, largest: int
) -> tuple[int, bytes]:
    """Remove the protection of an Initial packet. Returns: its number and its payload

    Args: data: the datagram it stands in; largest: packet number that was read so far, -1 before
    Raises: Unreadable; InitialError. Source: RFC 9001 sections 5.3 and 5.4
    """
    at = header.number_at
    sample = data[at + _LONGEST_NUMBER : at + _LONGEST_NUMBER + SAMPLE]
    if header.end < at + _LONGEST_NUMBER + SAMPLE:
        raise Unreadable("a packet without a sample")
    mask = cipher.encrypt_block(keys.hp, sample)
    first = data[header.start] ^ mask[0] & 0x0F
    size = (first & 3) + 1
    masked = int.from_bytes(data[at : at + size], "big")
    truncated = masked ^ int.from_bytes(mask[1 : 1 + size], "big")
    number = full_number(truncated, 8 * size, largest)
    nonce = (int.from_bytes(keys.iv, "big") ^ number).to_bytes(12, "big")
    associated = bytes((first,)) + data[header.start + 1 : at] + truncated.to_bytes(size, "big")
    payload = cipher.open(keys.key, nonce, data[at + size : header.end], associated)
    if payload is None:
        raise Unreadable("a packet that these keys do not open")
    if first & _RESERVED:
        raise InitialError("reserved bits are set")
    return number, payload


def full_number(truncated: int, bits: int, largest: int) -> int:
    """Return the packet number nearest to the next expected one. Source: RFC 9000 section A.3"""
    expected = largest + 1
    window = 1 << bits
    candidate = expected & ~(window - 1) | truncated
    if candidate <= expected - window // 2 and candidate < (1 << 62) - window:
        return candidate + window
    if candidate > expected + window // 2 and candidate >= window:
        return candidate - window
    return candidate


def crypto_frames(payload: bytes) -> list[tuple[int, bytes]]:
    """Return the CRYPTO frames of a payload, each as offset and data, in their order.

    Raises: InitialError: a frame that is cut off or must not be here, too many; Closed
    """
    found: list[tuple[int, bytes]] = []
    if not payload:
        raise InitialError("a packet without frames")
    frames = 0
    at = 0
    try:
        while True:
            begins = _OTHER_THAN_PADDING_AND_PING.search(payload, at)
            if begins is None:
                return found
            at = begins.end()
            kind = payload[at - 1]
            frames += 1
            if kind == _CRYPTO:
                offset, at = quic.varint(payload, at)
                size, at = quic.varint(payload, at)
                if size > len(payload) - at:
                    raise InitialError("a CRYPTO frame is cut off")
                found.append((offset, payload[at : at + size]))
                at += size
            elif kind in (_ACK, _ACK_ECN):
                ranges, at = _skip_ack(payload, at, kind, MAX_FRAMES - frames)
                frames += ranges
            elif kind == _CONNECTION_CLOSE:
                raise Closed("the client closes")
            else:
                raise InitialError("a frame that is not of Initial packets")
            if frames > MAX_FRAMES:
                raise InitialError("too many frames")
    except quic.QuicError as error:
        raise InitialError(str(error)) from None


def _skip_ack(payload: bytes, at: int, kind: int, most: int) -> tuple[int, int]:
    """Pass over an ACK frame. Returns: its ranges, and the offset behind it"""
    _, at = quic.varint(payload, at)  # the largest number
    _, at = quic.varint(payload, at)  # the delay
    ranges, at = quic.varint(payload, at)
    if ranges > most:
        raise InitialError("too many ranges")
    integers = 1 + 2 * ranges + (3 if kind == _ACK_ECN else 0)
    for _ in range(integers):
        _, at = quic.varint(payload, at)
    return ranges, at
