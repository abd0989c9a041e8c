"""What is a key of a keyval_zone, by the zone's type, and which keys fit what is looked up.

A key is bytes. Keys are counted by class, so that a look-up only tries classes that there are: of
prefixes the lengths, of networks the family and the length of its prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from ngxstream.core import ip

MAX_KEY: Final = 1024  # bytes

_V6: Final = 33  # the class of ::/0, behind those of IPv4's 0 to 32


class Keys(Protocol):
    """One type of keys."""

    @property
    def classes(self) -> int:
        """How many classes there are."""

    def parse(self, text: str) -> bytes:
        """Return the key that a text stands for. Raises: ValueError"""

    def text(self, key: bytes) -> str:
        """Return the text of a key."""

    def class_of(self, key: bytes) -> int:
        """Return the class of a key."""

    def candidates(self, subject: bytes, ladder: tuple[int, ...]) -> Iterable[bytes]:
        """Return the keys that fit what is looked up, the best first.

        Args: ladder: classes of the keys there are, in falling order
        """


def _encoded(text: str) -> bytes:
    key = text.encode()  # half of a surrogate pair is a ValueError
    if not 0 < len(key) <= MAX_KEY:
        raise ValueError(text)
    return key


class StringKeys:
    """Texts that are looked up as they are."""

    __slots__ = ()

    classes: int = 1

    def parse(self, text: str) -> bytes:
        """Return the key: any text that is not empty. Raises: ValueError"""
        return _encoded(text)

    def text(self, key: bytes) -> str:
        """Return the text."""
        return key.decode("utf-8", "replace")

    def class_of(self, key: bytes) -> int:
        """All are of one."""
        return 0

    def candidates(self, subject: bytes, ladder: tuple[int, ...]) -> Iterable[bytes]:
        """Return what is looked up."""
        return (subject,)


class PrefixKeys(StringKeys):
    """Texts with which that begins what is looked up; the longest is best."""

    __slots__ = ()

    classes: int = MAX_KEY + 1

    def class_of(self, key: bytes) -> int:
        """Return the length."""
        return len(key)

    def candidates(self, subject: bytes, ladder: tuple[int, ...]) -> Iterable[bytes]:
        """Return the beginnings of what is looked up that are as long as keys are."""
        size = len(subject)
        return [subject[:n] for n in ladder if n <= size]


class NetworkKeys:
    """Networks and addresses, as the length of the prefix and the packed address.

    An IPv4-mapped address is an IPv4 address, as geo has it.
    """

    __slots__ = ()

    classes: int = _V6 + 129

    def parse(self, text: str) -> bytes:
        """Return the key of `address` or `address/length`; low bits are cleared.

        Raises: ValueError
        """
        cidr = ip.parse_cidr(text)
        packed, length = cidr.packed, cidr.prefix
        if len(packed) == 16 and length >= 96:
            plain = ip.unmapped(packed)
            if plain is not packed:
                packed, length = plain, length - 96
        return bytes((length,)) + packed

    def text(self, key: bytes) -> str:
        """Return the address, with its length where that is not the whole one."""
        length, packed = key[0], key[1:]
        if len(packed) not in (4, 16):  # what only damage makes
            return key.hex()
        text = ip.ntop(packed)
        return text if length == len(packed) * 8 else f"{text}/{length}"

    def class_of(self, key: bytes) -> int:
        """Return a number for family and length."""
        return min(key[0], 32) if len(key) == 5 else _V6 + min(key[0], 128)

    def candidates(self, subject: bytes, ladder: tuple[int, ...]) -> Iterable[bytes]:
        """Return the networks around an address or a network, the smallest first."""
        try:
            key = self.parse(subject.decode("ascii"))
        except ValueError:
            return ()
        length, packed = key[0], key[1:]
        size = len(packed)
        base = 0 if size == 4 else _V6
        bits = size * 8
        value = int.from_bytes(packed, "big")
        return [
            bytes((n - base,)) + (value >> bits - n + base << bits - n + base).to_bytes(size, "big")
            for n in ladder
            if base <= n <= base + length
        ]


KINDS: Final[dict[str, Keys]] = {
    "string": StringKeys(),
    "ip": NetworkKeys(),
    "prefix": PrefixKeys(),
}
