"""Datagrams that tell whose they are: every byte of one follows from its owner and its number.

The sizes are unequal, and a datagram that was cut, glued or mixed with another one is nobody's.
"""

import struct
from typing import Final

HEAD: Final = struct.Struct("!4sII")
MAGIC: Final = b"OWN."
SIZES: Final = (12, 36, 60, 1200, 24, 600, 84)


def datagram(owner: int, number: int) -> bytes:
    """Return the number-th datagram of an owner."""
    head = HEAD.pack(MAGIC, owner, number)
    return head * (SIZES[(owner + number) % len(SIZES)] // HEAD.size)


def owner_of(data: bytes) -> tuple[int, int] | None:
    """Return owner and number; None for what datagram() did not make."""
    if len(data) < HEAD.size:
        return None
    magic, owner, number = HEAD.unpack_from(data)
    if magic != MAGIC or data != datagram(owner, number):
        return None
    return owner, number
