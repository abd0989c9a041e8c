"""The names in a certificate: the subject alternative names of its DER (RFC 5280 section 4.2.1.6).

The library that serves it has read it before; what it says is believed no further than it makes
sense: any bytes give a list of names, or DerError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ngxstream.core import ip

SEQUENCE: Final = 0x30
OID: Final = 0x06
OCTETS: Final = 0x04
EXTENSIONS: Final = 0xA3
SUBJECT_ALT_NAME: Final = b"\x55\x1d\x11"  # 2.5.29.17
TEXTS: Final = (0x81, 0x82, 0x86)  # mail address, DNS name, URI
ADDRESS: Final = 0x87
MOST: Final = 1000  # names that are returned


class DerError(ValueError):
    """These bytes are no certificate."""


def names(der: bytes) -> list[str]:
    """Return DNS names, addresses, mail addresses and URIs, in their order. Raises: DerError"""
    certificate = _only(_elements(der), SEQUENCE)
    signed = next((content for _, content in _elements(certificate)), b"")
    found: list[str] = []
    for tag, content in _elements(signed):
        if tag == EXTENSIONS:
            for _, extension in _elements(_only(_elements(content), SEQUENCE)):
                found += _alternative(list(_elements(extension)))
    return found[:MOST]


def _alternative(extension: list[tuple[int, bytes]]) -> Iterator[str]:
    if not extension or extension[0] != (OID, SUBJECT_ALT_NAME):
        return
    tag, content = extension[-1]
    if tag != OCTETS:
        raise DerError("an extension without a value")
    for kind, name in _elements(_only(_elements(content), SEQUENCE)):
        if kind in TEXTS:
            yield name.decode("utf-8", "surrogateescape")
        elif kind == ADDRESS and len(name) in (4, 16):
            yield ip.ntop(name)


def _only(elements: Iterator[tuple[int, bytes]], wanted: int) -> bytes:
    """Return the content of the first element, which has to be of one kind."""
    for tag, content in elements:
        if tag == wanted:
            return content
        break
    raise DerError(f"no element {wanted:#x} where there has to be one")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of what follows one another. Raises: DerError"""
    at, end = 0, len(data)
    while at < end:
        if end - at < 2:
            raise DerError("an element ends within its head")
        tag, size = data[at], data[at + 1]
        at += 2
        if tag & 0x1F == 0x1F:
            raise DerError("a tag of several bytes")
        if size & 0x80:
            count = size & 0x7F
            if not 1 <= count <= 4 or end - at < count:
                raise DerError("a length of no, or too many bytes")
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if size > end - at:
            raise DerError("an element ends early")
        yield tag, data[at : at + size]
        at += size
