"""Domain names on the wire: from text and back, and out of a message whose names are compressed.

The format is RFC 1035 §3.1 and §4.1.4. In wire form names are lower case and without pointers: DNS
compares them label by label and without regard to case.
"""

from typing import Final

from ngxstream.wire import reader

STEPS: Final = 8192  # labels and pointers walked in one response
MAX_NAME: Final = 255  # bytes on the wire, the root included. Source: RFC 1035 §2.3.4
_POINTERS: Final = 127  # in one name: as many as it can have labels (nginx: 128)
_UNKNOWN: Final = (b"", 0)


class DnsError(reader.WireError):
    """A DNS message that cannot be read, or a name that cannot be asked for."""


def to_wire(name: str) -> bytes:
    """Write a name as labels. Raises: DnsError for an empty or too long label or name"""
    raw = name.encode("utf-8", "surrogateescape").removesuffix(b".")
    if len(raw) <= MAX_NAME - 2:  # a long text is not even cut into labels
        labels = raw.split(b".")
        if all(0 < len(label) < 64 for label in labels):
            return b"".join([bytes((len(label),)) + label for label in labels]) + b"\0"
    raise DnsError(f'invalid domain name "{name}"')


def from_wire(name: bytes) -> str:
    """Spell a wire-form name. Raises: DnsError for a label that has a dot inside"""
    return spell(name)[0]


def spell(name: bytes) -> tuple[str, int]:
    """Return a name's text and how many dots are in it."""
    text = bytearray(name[1:-1])
    at = name[0]
    dots = 0
    while at < len(text):
        size = text[at]
        text[at] = 0x2E
        at += size + 1
        dots += 1
    if text.count(b".") != dots:
        raise DnsError("invalid label in DNS response")
    return text.decode("utf-8", "surrogateescape"), dots


class TooManySteps(Exception):
    """A message whose names have more labels and pointers than are looked at."""


class ShortName(DnsError):
    """A name that goes on behind the end of the message."""


class Names:
    """The names of one message, in wire form and lower case."""

    __slots__ = ("data", "known", "left")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.known: dict[bytes, tuple[bytes, int]] = {}  # by pointer: the name, pointers in it
        self.left = STEPS

    def read(self, at: int) -> tuple[bytes, int]:
        """Read the name at an offset.

        Each pointer must lead before the labels it continues, so none can loop (RFC 1035 §4.1.4:
        to a prior occurrence).

        Returns:
            The name, and the offset behind it.

        Raises:
            DnsError: it is no name.
            TooManySteps: STEPS are used up.
        """
        data, known, left = self.data, self.known, self.left
        pieces: list[bytes] = []
        first = b""  # the first pointer
        size = pointers = after = 0
        try:
            while True:
                start = at
                longest = start + MAX_NAME - 1 - size
                while 0 < (head := data[at]) < 64:
                    at += head + 1
                    left -= 1
                    if at > longest:
                        raise DnsError("too long domain name in DNS response")
                left -= 1
                if left < 0:
                    raise TooManySteps
                size += at - start
                pieces.append(data[start:at])
                if not head:
                    pieces.append(b"\0")
                    break
                if head < 192:
                    raise DnsError("invalid label in DNS response")
                pointer = data[at : at + 2]
                target = (head & 0x3F) << 8 | data[at + 1]
                if not first:
                    first = pointer
                    after = at + 2
                place = known.get(pointer, _UNKNOWN)
                pointers += 1 + place[1]
                if target >= start or pointers > _POINTERS:
                    raise DnsError("invalid compression pointer in DNS response")
                if place[0]:
                    size += len(place[0])
                    if size > MAX_NAME:
                        raise DnsError("too long domain name in DNS response")
                    pieces.append(place[0])
                    break
                at = target
        except IndexError:
            raise ShortName("short DNS response") from None
        finally:
            self.left = left
        if first:
            if first not in known:
                known[first] = b"".join(pieces[1:]).lower(), pointers - 1
            return b"".join(pieces).lower(), after
        return b"".join(pieces).lower(), at + 1
