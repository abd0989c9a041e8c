"""Socket addresses, and what is known by one, as kinds of the codec (codec.py).

A client is known by its address, a listening address by its socket type and family as well.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

from ngxstream.core import inet
from ngxstream.core.inet import ListenKey as Listen
from ngxstream.core.inet import SockAddr
from ngxstream.ipc.codec import CodecError, Repeated

Key = SockAddr | tuple[SockAddr | None, bytes] | None

_PORT: Final = struct.Struct("<H")
_PORT6: Final = struct.Struct("<HII")  # port, flow label, scope
_MAX_PATH: Final = 108  # sizeof(sockaddr_un.sun_path)
_MAX_HOST: Final = 64  # INET6_ADDRSTRLEN, and the name of an interface
_MAX_TAG: Final = 1 << 16  # it may hold a datagram's PROXY header


class Address:
    """A socket address as Python has it: a path, an abstract name, (host, port[, …]) or None.

    The text of a host stays as it is: addresses are keys, and nginx's spelling is not everywhere
    that of the C library.
    """

    __slots__ = ()

    def encode(self, value: SockAddr | None) -> bytes:
        """Return a mark of the form, and the address."""
        if value is None:
            return b"0"
        if isinstance(value, str):
            return b"P" + value.encode("utf-8", "surrogateescape")
        if isinstance(value, bytes):
            return b"A" + value
        host: bytes = value[0].encode("ascii")
        if len(value) == 2:
            return b"4" + _PORT.pack(value[1]) + host
        return b"6" + _PORT6.pack(*value[1:]) + host

    def decode(self, data: bytes) -> SockAddr | None:
        """Return an address that is one. Raises: CodecError"""
        form, rest = data[:1], data[1:]
        if form == b"4" and len(rest) > _PORT.size:
            return _host(socket.AF_INET, rest[_PORT.size :]), *_PORT.unpack_from(rest)
        if form == b"6" and len(rest) > _PORT6.size:
            return _host(socket.AF_INET6, rest[_PORT6.size :]), *_PORT6.unpack_from(rest)
        if form in (b"P", b"A") and len(rest) <= _MAX_PATH:
            return rest if form == b"A" else rest.decode("utf-8", "surrogateescape")
        if data == b"0":
            return None
        raise CodecError("no socket address")


def _host(family: int, data: bytes) -> str:
    """Return the text of a numeric address. Raises: CodecError"""
    if len(data) > _MAX_HOST or not data.isascii() or b"\0" in data:
        raise CodecError("no numeric address")
    text = data.decode("ascii")
    plain, percent, zone = text.partition("%")
    try:
        socket.inet_pton(family, plain)
    except OSError:
        raise CodecError("no numeric address") from None
    if percent and not (family == socket.AF_INET6 and zone.isalnum()):
        raise CodecError("no numeric address")
    return text


class ClientKey:
    """What a table of UDP clients knows one by: an address, or that and bytes behind it."""

    __slots__ = ()

    def encode(self, value: Any) -> bytes:
        """Return the address, behind its length where more follows."""
        if type(value) is tuple and type(value[1]) is bytes:
            address = ADDRESS.encode(value[0])
            return b"\1" + bytes((len(address),)) + address + value[1]
        return b"\0" + ADDRESS.encode(value)

    def decode(self, data: bytes) -> Key:
        """Return a key. Raises: CodecError"""
        if data[:1] == b"\0":
            return ADDRESS.decode(data[1:])
        if data[:1] != b"\1" or len(data) < 2 or data[1] > len(data) - 2:
            raise CodecError("no key of a client")
        if len(data) > 2 + data[1] + _MAX_TAG:
            raise CodecError("too long a key of a client")
        return ADDRESS.decode(data[2 : 2 + data[1]]), data[2 + data[1] :]


class ListenKey:
    """A listening address: (socket type, family, sockaddr), as ListenOptions.key has it."""

    __slots__ = ()

    def encode(self, value: Listen) -> bytes:
        """Return two bytes and the address."""
        return bytes(value[:2]) + ADDRESS.encode(value[2])

    def decode(self, data: bytes) -> Listen:
        """Return a key whose address is of its family. Raises: CodecError"""
        sockaddr = ADDRESS.decode(data[2:])
        kind, family = data[0], inet.family_of(sockaddr)
        if kind not in (socket.SOCK_STREAM, socket.SOCK_DGRAM) or family != data[1]:
            raise CodecError("no listening address")
        return kind, family, sockaddr


ADDRESS: Final = Repeated(Address(), 256)  # a client's is its key as well
CLIENT_KEY: Final = ClientKey()
LISTEN_KEY: Final = ListenKey()
