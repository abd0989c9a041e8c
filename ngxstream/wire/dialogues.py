"""Dialogues with a server, without a socket: what all probes (probes.py) are made of."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

Dialogue = Generator[bytes, bytes, None]

SHOWN: Final = 80  # bytes of an answer that a message shows
MOST_LINE: Final = 4096  # bytes of a line


class ProbeError(Exception):
    """The server is not well; the text says what it was expected to say, and what it said."""


def shown(data: bytes) -> str:
    r"""Return bytes for a message: printable ASCII, the rest as \xHH, cut."""
    text = repr(bytes(data[:SHOWN]))[2:-1]
    return f'"{text}"' + ("…" if len(data) > SHOWN else "")


def take(count: int, data: bytes = b"", sent: bytes = b"") -> Generator[bytes, bytes, bytes]:
    """Read until there are so many bytes."""
    if sent and len(data) >= count:
        raise ProbeError(f"it answers before it is asked: {shown(data)}")
    while len(data) < count:
        data += yield sent
        sent = b""
    return data


def line(data: bytes = b"", sent: bytes = b"") -> Generator[bytes, bytes, tuple[bytes, bytes]]:
    """Read one line. Returns: it, without its end, and what came behind it. Raises: ProbeError"""
    while b"\n" not in data:
        if len(data) > MOST_LINE:
            raise ProbeError(f"a line does not end: {shown(data)}")
        data += yield sent
        sent = b""
    found, _, rest = data.partition(b"\n")
    return found.removesuffix(b"\r"), rest
