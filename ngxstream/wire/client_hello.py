"""The TLS ClientHello at the beginning of a stream: what it asks for, without answering it.

A stream of TLS records (feed), or the handshake message alone, as QUIC carries it (feed_message).

Answers for the parser in stream/ngx_stream_ssl_preread_module.c, judging the same bytes the same
way: whole records are read before their contents, a hello may span records, extensions must add
up as far as nginx adds them up, and bytes that are no hello are refused, not repaired.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

from ngxstream.wire import reader

_RECORD_HEADER: Final = 5
_HANDSHAKE: Final = 22
_SERVER_NAME: Final = 0
_SUPPORTED_GROUPS: Final = 10
_SIGNATURE_ALGORITHMS: Final = 13
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43

# ngx_stream_ssl_preread_protocol_variable; any other version is a valid, empty value
_PROTOCOLS: Final = {
    b"\x00\x02": "SSLv2",
    b"\x03\x00": "SSLv3",
    b"\x03\x01": "TLSv1",
    b"\x03\x02": "TLSv1.1",
    b"\x03\x03": "TLSv1.2",
    b"\x03\x04": "TLSv1.3",
}

# what ClientHello.protocol may be
PROTOCOLS: Final = frozenset((*_PROTOCOLS.values(), ""))

_Bytes = Generator[None, None, bytes]  # yields while bytes are missing, returns them at last


class NotClientHello(reader.WireError):
    """The stream does not begin with a ClientHello; nginx declines and proxies on."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What one ClientHello offers.

    ``ciphers``, ``groups`` and ``signature_algorithms`` are the client's lists of IANA code
    points in its order, GREASE values among them; a list that does not add up is left empty.
    """

    protocol: str  # as $ssl_preread_protocol prints it; "" for a version nginx has no name for
    server_name: bytes = b""  # as sent, not validated
    alpn: bytes = b""  # protocol names joined by ","
    ciphers: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    signature_algorithms: tuple[int, ...] = ()


class Parser:
    """Parses one stream's ClientHello, each record once. Source: ngx_stream_ssl_preread_handler"""

    __slots__ = ("_alpn", "_at", "_body", "_hello", "_next_record", "_server_name", "_version")

    def __init__(self) -> None:
        self._next_record = 0  # offset in the stream of the first record not taken in yet
        self._body = bytearray()  # the handshake bytes of the records taken in
        self._at = 0  # bytes of _body read
        self._version = b""  # as far as they are read: version, name, protocols
        self._server_name: bytes | None = None
        self._alpn: bytes | None = None
        self._hello = self._read_hello()
        self._hello.send(None)

    def feed(self, data: reader.Buffer) -> ClientHello | reader.NeedMore:
        """Go on with all the bytes received so far, from the first one of the stream.

        ``data`` may be a view of a peek; nothing of it is kept.  An answer is final.
        Returns: the hello or NEED_MORE (nginx cannot judge fewer than five bytes either).
        Raises: NotClientHello.
        """
        at = self._next_record
        while len(data) - at >= _RECORD_HEADER:
            head = bytes(data[at : at + _RECORD_HEADER])
            if head[0] & 0x80 and head[2] == 1 and head[3] in (0, 3):
                return ClientHello(_PROTOCOLS.get(head[3:5], ""))  # a version 2 hello
            if head[0] != _HANDSHAKE:
                raise NotClientHello("not a handshake")
            if head[1] != 3:
                raise NotClientHello("unsupported SSL version")
            end = at + _RECORD_HEADER + (head[3] << 8 | head[4])
            if len(data) < end:
                break
            body = data[at + _RECORD_HEADER : end]
            self._next_record = at = end
            hello = self.feed_message(body)
            if not isinstance(hello, reader.NeedMore):
                return hello
        return reader.NEED_MORE

    def feed_message(self, more: reader.Buffer) -> ClientHello | reader.NeedMore:
        """Go on with the next bytes of the handshake message itself: QUIC has no records.

        Returns: as feed. Raises: NotClientHello.
        """
        self._body += more
        try:
            self._hello.send(None)
        except StopIteration as done:
            hello: ClientHello = done.value
            return hello
        return reader.NEED_MORE

    def so_far(self) -> ClientHello:
        """Return what is known from the records so far; the rest of it may never come."""
        return ClientHello(
            protocol=_PROTOCOLS.get(self._version, ""),
            server_name=self._server_name or b"",
            alpn=self._alpn or b"",
        )

    def _take(self, size: int) -> _Bytes:
        """Wait until ``size`` more handshake bytes have come and return them."""
        while len(self._body) - self._at < size:
            yield
        start = self._at
        self._at = start + size
        return bytes(self._body[start : self._at])

    def _read_hello(self) -> Generator[None, None, ClientHello]:
        """Read the handshake message, suspended wherever its bytes have not come yet.

        Source: ngx_stream_ssl_preread_parse_record, as it stands since the lengths of extensions
        are checked against each other (CVE-2026-123640): a hello in which two readers could find
        two different names is declined.
        """
        head = yield from self._take(4)
        if head[0] != 1:
            raise NotClientHello("not a client hello")
        left = _Left(self._take, int.from_bytes(head[1:], "big"))

        self._version = yield from left.take(2)
        yield from left.take(32)  # random
        yield from left.take((yield from left.take(1))[0])  # session id
        ciphers = yield from left.take(int.from_bytes((yield from left.take(2)), "big"))
        yield from left.take((yield from left.take(1))[0])  # compression methods
        if left.size and int.from_bytes((yield from left.take(2)), "big") != left.size:
            raise NotClientHello("extensions length error")

        lists: dict[int, tuple[int, ...]] = {}
        while left.size:
            head = yield from left.take(4)
            kind, size = head[0] << 8 | head[1], head[2] << 8 | head[3]
            if kind == _SERVER_NAME:
                if self._server_name is not None:
                    raise NotClientHello("duplicate SNI")
                self._server_name = yield from left.server_name(size)
            elif kind == _ALPN:
                if self._alpn is not None:
                    raise NotClientHello("duplicate ALPN")
                self._alpn = yield from left.alpn(size)
            elif kind == _SUPPORTED_VERSIONS:
                listed = (yield from left.take(1))[0]
                if listed < 2 or 1 + listed != size:
                    raise NotClientHello("supported_versions format error")
                yield from left.take(listed)
                self._version = b"\x03\x04"  # whatever versions it lists
            else:
                body = yield from left.take(size)
                if kind in (_SUPPORTED_GROUPS, _SIGNATURE_ALGORITHMS):
                    lists.setdefault(kind, _listed_codes(body))
        return ClientHello(
            protocol=_PROTOCOLS.get(self._version, ""), server_name=self._server_name or b"",
            alpn=self._alpn or b"", ciphers=_codes(ciphers),
            groups=lists.get(_SUPPORTED_GROUPS, ()),
            signature_algorithms=lists.get(_SIGNATURE_ALGORITHMS, ()),
        )


class _Left:
    """What is left of the handshake message; nothing may be longer than that."""

    __slots__ = ("_take", "size")

    def __init__(self, take: Callable[[int], _Bytes], size: int) -> None:
        self._take = take
        self.size = size  # bytes of the message not read yet

    def take(self, size: int) -> _Bytes:
        """Read ``size`` bytes of the message; refuse at once if it has not as many left."""
        if size > self.size:
            raise NotClientHello("failed to parse handshake")
        self.size -= size
        return self._take(size)

    def server_name(self, extension: int) -> _Bytes:
        """Read the first name of a server_name extension, which must be a DNS name."""
        listed = int.from_bytes((yield from self.take(2)), "big")
        if 2 + listed != extension:
            raise NotClientHello("SNI format error")
        head = yield from self.take(3)
        if head[0] != 0:
            raise NotClientHello("SNI hostname type is not DNS")
        size = head[1] << 8 | head[2]
        if listed < 3 + size:
            raise NotClientHello("SNI format error")
        name = yield from self.take(size)
        yield from self.take(listed - 3 - size)  # more names, of other types to come
        return name

    def alpn(self, extension: int) -> _Bytes:
        """Read all protocol names of an ALPN extension, joined by commas."""
        listed = int.from_bytes((yield from self.take(2)), "big")
        if not listed or 2 + listed != extension:
            raise NotClientHello("ALPN format error")
        names: list[bytes] = []
        while listed:
            size = (yield from self.take(1))[0]
            if size == 0:
                raise NotClientHello("ALPN empty protocol")
            if listed < 1 + size:
                raise NotClientHello("ALPN format error")
            names.append((yield from self.take(size)))
            listed -= 1 + size
        return b",".join(names)


def _codes(data: bytes) -> tuple[int, ...]:
    whole = len(data) & ~1
    return tuple(data[at] << 8 | data[at + 1] for at in range(0, whole, 2))


def _listed_codes(body: bytes) -> tuple[int, ...]:
    if len(body) < 2 or int.from_bytes(body[:2], "big") != len(body) - 2:
        return ()
    return _codes(body[2:])
