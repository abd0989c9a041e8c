"""IP addresses and blocks of them: text to packed bytes and back (ngx_inet.c).

A packed address is 4 or 16 bytes in network order.
"""

import re
import socket
from typing import Final, NamedTuple

AF_INET: Final = int(socket.AF_INET)
AF_INET6: Final = int(socket.AF_INET6)

_DIGITS: Final = re.compile(r"[0-9]+")
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_PLAIN_V4: Final = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})(?:\.|\Z)){4}")  # most of a geo block
_NONE: Final = b"\xff\xff\xff\xff"  # INADDR_NONE
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


def atoi(text: str) -> int:
    """Return a decimal number, -1 for anything else. Source: ngx_string.c ngx_atoi"""
    if _DIGITS.fullmatch(text) is None or len(text.lstrip("0")) > 18:
        return -1
    return int(text)


def inet_addr(text: str) -> bytes | None:
    """Return the packed IPv4 address, None when text is none.

    nginx takes a missing number for 0 ("1..2.3"), and 255.255.255.255 for its own error mark.
    Source: ngx_inet.c ngx_inet_addr
    """
    try:
        packed = socket.inet_aton(text) if _PLAIN_V4.fullmatch(text) else None
    except OSError:
        packed = None
    if packed is None:
        packed = _inet_addr(text)
    return None if packed == _NONE else packed


def _inet_addr(text: str) -> bytes | None:
    parts = text.split(".")
    if len(parts) != 4:
        return None
    octets = []
    for part in parts:
        if part and _DIGITS.fullmatch(part) is None:
            return None
        digits = part.lstrip("0")
        if len(digits) > 3:
            return None
        octet = int(digits or "0")
        if octet > 255:
            return None
        octets.append(octet)
    return bytes(octets)


def inet6_addr(text: str) -> bytes | None:
    """Return the packed IPv6 address, None when text is none.

    One colon too many in front is forgiven, as nginx does. Source: ngx_inet.c ngx_inet6_addr
    """
    words: list[int] = []       # 16-bit words so far
    gap: int | None = None      # index of the word where :: stands
    nibbles = word = 0
    start = -1                  # where the text since the last colon begins
    begin = 1 if text[:1] == ":" else 0
    for pos in range(begin, len(text)):
        c = text[pos]
        if c == ":":
            start = pos + 1
            if nibbles:
                words.append(word)
                if len(words) == 8:
                    return None
                nibbles = word = 0
            elif gap is None:
                gap = len(words)
            else:
                return None
            continue
        if c == "." and nibbles:
            v4 = inet_addr(text[start:]) if start >= 0 and len(words) <= 6 else None
            if v4 is None:
                return None
            words.append(int.from_bytes(v4[:2], "big"))
            word = int.from_bytes(v4[2:], "big")
            break
        nibbles += 1
        if nibbles > 4 or c not in _HEX:
            return None
        word = word * 16 + int(c, 16)
    if not text or (nibbles == 0 and gap is None):
        return None
    words.append(word)
    missing = 8 - len(words)
    if (missing > 0) != (gap is not None):
        return None
    if gap is not None:
        words[gap:gap] = [0] * missing
    return b"".join(w.to_bytes(2, "big") for w in words)


def parse(text: str) -> bytes | None:
    """Return the packed address of a literal of either family, None when text is none.

    Source: ngx_inet.c ngx_parse_addr
    """
    packed = inet_addr(text)
    return inet6_addr(text) if packed is None else packed


def ntop(packed: bytes) -> str:
    """Return the text of a packed address of 4 or 16 bytes. Source: ngx_inet.c ngx_inet_ntop"""
    if len(packed) == 4:
        return f"{packed[0]}.{packed[1]}.{packed[2]}.{packed[3]}"
    return _inet6_ntop(packed)


def _inet6_ntop(p: bytes) -> str:
    """The longest run of two zero words or more is ::, the first of equals. Source: ngx_inet6_ntop

    Unlike inet_ntop(3), low addresses such as ::1234 end in a dotted quad too.
    """
    words = [p[i] * 256 + p[i + 1] for i in range(0, 16, 2)]
    gap, width = -1, 1
    at = 0
    while at < 8:
        end = at
        while end < 8 and not words[end]:
            end += 1
        if end - at > width:
            gap, width = at, end - at
        at = end + 1
    if gap < 0:
        return ":".join(f"{w:x}" for w in words)
    quad = gap == 0 and ((width == 5 and words[5] == 0xFFFF) or width == 6
                         or (width == 7 and p[14] != 0 and p[15] != 1))
    head = ":".join(f"{w:x}" for w in words[:gap])
    tail = [f"{w:x}" for w in words[gap + width:6 if quad else 8]]
    if quad:
        tail.append(ntop(p[12:]))
    return f"{head}::{':'.join(tail)}"


def unmapped(packed: bytes) -> bytes:
    """Return the IPv4 address inside an IPv4-mapped IPv6 address, any other as it is."""
    if len(packed) == 16 and packed.startswith(_V4_MAPPED):
        return packed[12:]
    return packed


class Cidr(NamedTuple):
    """A block of addresses."""

    packed: bytes    # 4 or 16 bytes, low bits cleared
    prefix: int      # bits that count, 0..32 or 0..128
    low_bits: bool   # whether low bits had to be cleared: "low address bits ... are meaningless"

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return AF_INET if len(self.packed) == 4 else AF_INET6

    def mask(self) -> bytes:
        """Return the netmask, as long as packed."""
        size = len(self.packed)
        return _mask(self.prefix, size * 8).to_bytes(size, "big")

    def __contains__(self, packed: object) -> bool:
        """Whether a packed address of the same family lies in the block."""
        if not isinstance(packed, bytes) or len(packed) != len(self.packed):
            return False
        shift = len(packed) * 8 - self.prefix
        return int.from_bytes(packed, "big") >> shift == int.from_bytes(self.packed, "big") >> shift


def _mask(prefix: int, bits: int) -> int:
    return ((1 << prefix) - 1) << (bits - prefix)


def parse_cidr(text: str) -> Cidr:
    """Return the block `address` or `address/prefix` stands for.

    Raises: ValueError. Source: ngx_inet.c ngx_ptocidr
    """
    host, slash, prefix_text = text.partition("/")
    packed = parse(host)
    if packed is None:
        raise ValueError(text)
    bits = len(packed) * 8
    if not slash:
        return Cidr(packed, bits, low_bits=False)
    prefix = atoi(prefix_text)
    if not 0 <= prefix <= bits:
        raise ValueError(text)
    value = int.from_bytes(packed, "big")
    kept = value & _mask(prefix, bits)
    return Cidr(kept.to_bytes(len(packed), "big"), prefix, low_bits=kept != value)
