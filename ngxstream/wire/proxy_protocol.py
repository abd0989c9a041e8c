"""PROXY protocol headers, versions 1 and 2: parse, build, look a TLV up.

Answers for core/ngx_proxy_protocol.c; the format is HAProxy's proxy-protocol.txt.  Where nginx
wants a whole header in its first read, ``parse`` also takes one that comes in pieces; where
nginx waits for nothing, ``parse`` too refuses at the first byte that rules a header out.
"""

import re
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

from ngxstream.core import hashing
from ngxstream.wire import reader

MAX_HEADER: Final = 4096  # nginx peeks no more (NGX_PROXY_PROTOCOL_MAX_HEADER)
MAX_V1: Final = 107  # the longest line the specification allows, CR LF included
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"

LOCAL: Final = 0
PROXY: Final = 1
UNSPEC: Final = 0
INET: Final = 1
INET6: Final = 2
STREAM: Final = 1
DGRAM: Final = 2

TLV_ALPN: Final = 0x01
TLV_AUTHORITY: Final = 0x02
TLV_CRC32C: Final = 0x03
TLV_UNIQUE_ID: Final = 0x05
TLV_SSL: Final = 0x20
TLV_SSL_VERSION: Final = 0x21
TLV_SSL_CN: Final = 0x22
TLV_SSL_CIPHER: Final = 0x23
TLV_SSL_SIG_ALG: Final = 0x24
TLV_SSL_KEY_ALG: Final = 0x25
TLV_NETNS: Final = 0x30

CLIENT_SSL: Final = 0x01
CLIENT_CERT_CONN: Final = 0x02
CLIENT_CERT_SESS: Final = 0x04

_TLV_NAMES: Final = {
    "alpn": TLV_ALPN,
    "authority": TLV_AUTHORITY,
    "unique_id": TLV_UNIQUE_ID,
    "ssl": TLV_SSL,
    "netns": TLV_NETNS,
}
_SSL_TLV_NAMES: Final = {
    "version": TLV_SSL_VERSION,
    "cn": TLV_SSL_CN,
    "cipher": TLV_SSL_CIPHER,
    "sig_alg": TLV_SSL_SIG_ALG,
    "key_alg": TLV_SSL_KEY_ALG,
}

_V2_FIXED: Final = 16
_ADDRESSES: Final = {INET: (AF_INET, 4), INET6: (AF_INET6, 16)}
_ADDRESSES_SIZE: Final = {INET: 12, INET6: 36, 3: 216}  # 3 is unix, which nginx skips
_MAPPED: Final = bytes(10) + b"\xff\xff"

_V1_LINE: Final = re.compile(
    rb"PROXY TCP([46]) ([0-9A-Fa-f.:]*) ([0-9A-Fa-f.:]*) ([0-9]+) ([0-9]+)\r\n"
)
# Everything that a longer line could still turn into _V1_LINE.
_V1_BEGUN: Final = re.compile(
    rb"PROXY TCP[46] (?:[0-9A-Fa-f.:]*(?: (?:[0-9A-Fa-f.:]*(?: (?:([0-9]+)(?: (?:([0-9]+)\r?)?)?)?"
    rb")?)?)?)?"
)
_V1_STARTS: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN")

SocketAddress = tuple[str, int] | tuple[str, int, int, int] | str | bytes
"""What the socket module calls an address: a tuple for IPv4 and IPv6, a path for unix."""


class BrokenHeader(reader.WireError):
    """No PROXY protocol header, or one nginx would not take; the text is nginx's own."""


class TlvError(reader.WireError):
    """TLVs that do not add up: nginx fails the variable that asked for one."""


class ShortTlv(TlvError):
    """An SSL TLV too short for what it begins with: nginx says nothing of it."""


class UnknownTlv(TlvError):
    """A TLV name that means none: nginx logs it and finds nothing."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """One header as it was sent.

    ``has_client`` says whether nginx would believe the addresses: a LOCAL or UNKNOWN header, or
    one for another transport or family, is skipped and leaves the connection as it is.  Only
    with ``has_client`` are addresses, ports and ``tlvs`` filled in.  Version 1 address text is
    kept as sent, whatever it says.
    """

    version: int  # 1 or 2
    command: int  # LOCAL or PROXY; version 2 may carry others
    family: int  # UNSPEC, INET, INET6; version 2 may carry others
    transport: int  # UNSPEC, STREAM, DGRAM; version 2 may carry others
    length: int  # bytes of the buffer the header took
    has_client: bool = False
    src_addr: str = ""
    src_port: int = 0
    dst_addr: str = ""
    dst_port: int = 0
    tlvs: bytes = b""  # raw, the checksum among them


def parse(data: reader.Buffer,
          transports: tuple[int, ...] = (STREAM,)) -> ProxyHeader | reader.NeedMore:
    """Parse the header at the beginning of ``data``, all the bytes received so far.

    ``transports`` are the version 2 transports whose addresses are believed; nginx knows
    STREAM alone.  Bytes past the header are not looked at.
    Returns: the header (``length`` says how much of ``data`` it took) or NEED_MORE.
    Raises: BrokenHeader as soon as no continuation of ``data`` is a header.
    Source: ngx_proxy_protocol.c ngx_proxy_protocol_read.
    """
    head = bytes(data[:MAX_V1])
    if head[:12] == SIGNATURE:
        return _parse_v2(data, transports)
    if SIGNATURE.startswith(head) or any(start.startswith(head) for start in _V1_STARTS):
        return reader.NEED_MORE
    return _parse_v1(head)


def parse_datagram(data: reader.Buffer,
                   transports: tuple[int, ...] = (STREAM, DGRAM)) -> ProxyHeader:
    """Parse the header of one datagram. Raises: BrokenHeader, also for a header cut short"""
    header = parse(data, transports)
    if isinstance(header, reader.NeedMore):
        raise cut_short(data)
    return header


def cut_short(data: reader.Buffer) -> BrokenHeader:
    """Make the error for a header that ended before it was whole, in nginx's words."""
    head = bytes(data[:_V2_FIXED])
    if len(head) == _V2_FIXED and head.startswith(SIGNATURE):
        return BrokenHeader("header is too large")
    return _broken(bytes(data[:MAX_HEADER]))


def _broken(data: bytes) -> BrokenHeader:
    """Quote the first line; the log escapes what is not to be printed."""
    shown = re.split(rb"[\r\n]", data, maxsplit=1)[0].decode("utf-8", "surrogateescape")
    return BrokenHeader(f'broken header: "{shown}"')


def _parse_v1(head: bytes) -> ProxyHeader | reader.NeedMore:
    if head.startswith(b"PROXY UNKNOWN"):
        end = head.find(b"\r\n", 13)
        if end >= 0:
            return ProxyHeader(1, LOCAL, UNSPEC, UNSPEC, end + 2)
        if len(head) < MAX_V1:
            return reader.NEED_MORE
        raise _broken(head)
    line = _V1_LINE.match(head)
    if line:
        version, src, dst, src_port, dst_port = line.groups()
        if int(src_port) > 65535 or int(dst_port) > 65535:
            raise _broken(head)
        return ProxyHeader(
            version=1, command=PROXY, family=INET if version == b"4" else INET6, transport=STREAM,
            length=line.end(), has_client=True, src_addr=src.decode("ascii"),
            src_port=int(src_port), dst_addr=dst.decode("ascii"), dst_port=int(dst_port),
        )
    begun = _V1_BEGUN.fullmatch(head) if len(head) < MAX_V1 else None
    if begun is None or any(port and int(port) > 65535 for port in begun.groups()):
        raise _broken(head)
    return reader.NEED_MORE


def _parse_v2(data: reader.Buffer, transports: tuple[int, ...]) -> ProxyHeader | reader.NeedMore:
    if len(data) > 12 and data[12] >> 4 != 2:
        raise BrokenHeader(f"unknown PROXY protocol version: {data[12] >> 4}")
    if len(data) < _V2_FIXED:
        return reader.NEED_MORE
    cursor = reader.Cursor(data, 12)
    command = cursor.u8() & 0x0F
    kind = cursor.u8()
    family, transport = kind >> 4, kind & 0x0F
    size = cursor.u16()
    if _V2_FIXED + size > MAX_HEADER:
        raise BrokenHeader("header is too large")
    has_client = command == PROXY and transport in transports and family in _ADDRESSES
    if has_client and size < _ADDRESSES_SIZE[family]:
        raise BrokenHeader("PROXY protocol addresses are cut short")  # nginx says nothing
    if cursor.remaining() < size:
        return reader.NEED_MORE
    if not has_client:
        return ProxyHeader(2, command, family, transport, _V2_FIXED + size)
    text_family, width = _ADDRESSES[family]
    body = cursor.restrict_to(size)
    return ProxyHeader(
        version=2, command=command, family=family, transport=transport, length=_V2_FIXED + size,
        has_client=True, src_addr=inet_ntop(text_family, body.take(width)),
        dst_addr=inet_ntop(text_family, body.take(width)), src_port=body.u16(), dst_port=body.u16(),
        tlvs=bytes(body.take(body.remaining())),
    )


def find_tlv(tlvs: bytes, name: str) -> bytes | None:
    """Look up the value behind ``$proxy_protocol_tlv_NAME``; None where there is none.

    ``name`` is the part after ``tlv_``, lower case; the first TLV of a type wins.
    Raises: UnknownTlv for a name that means nothing (nginx logs it at error and goes on);
    TlvError where nginx fails the variable, ShortTlv where it does so without a word.
    Source: ngx_proxy_protocol.c ngx_proxy_protocol_get_tlv.
    """
    rest, names = name, _TLV_NAMES
    if name.startswith("ssl_"):
        ssl = _lookup(tlvs, TLV_SSL)
        if ssl is None:
            return None
        if len(ssl) < 5:
            raise ShortTlv("broken PROXY protocol TLV")
        if name == "ssl_verify":
            return b"%d" % int.from_bytes(ssl[1:5], "big")
        rest, names, tlvs = name[4:], _SSL_TLV_NAMES, ssl[5:]
    if rest.startswith("0x"):
        if not re.fullmatch("[0-9a-fA-F]+", rest[2:]):
            raise TlvError(f'invalid PROXY protocol TLV "{name}"')
        return _lookup(tlvs, int(rest, 16))
    if rest not in names:
        raise UnknownTlv(f'unknown PROXY protocol TLV "{name}"')
    return _lookup(tlvs, names[rest])


def _lookup(tlvs: bytes, wanted: int) -> bytes | None:
    cursor = reader.Cursor(tlvs)
    try:
        while cursor.remaining():
            kind = cursor.u8()
            value = cursor.take(cursor.u16())
            if kind == wanted:
                return bytes(value)
    except reader.Short:
        raise TlvError("broken PROXY protocol TLV") from None
    return None


def verify_crc32c(header: reader.Buffer) -> bool | None:
    """Check the CRC32C TLV of one whole version 2 header; None if it carries none.

    nginx never checks it; a listener that is told to can.  A header whose TLVs do not add up
    before a checksum is found fails the check.
    """
    view = bytearray(header)
    addresses = _ADDRESSES_SIZE.get(view[13] >> 4, 0) if len(view) > _V2_FIXED else 0
    cursor = reader.Cursor(view, min(_V2_FIXED + addresses, len(view)))
    try:
        while cursor.remaining():
            kind = cursor.u8()
            value = cursor.take(cursor.u16())
            if kind == TLV_CRC32C:
                sent = bytes(value)
                value[:] = bytes(len(sent))
                return sent == hashing.crc32c(view).to_bytes(4, "big")
    except reader.Short:
        return False
    return None


def build_v1(src: SocketAddress, dst: SocketAddress) -> bytes:
    """Write the version 1 line from ``src`` to ``dst``; ``UNKNOWN`` for a unix client.

    Source: ngx_proxy_protocol.c ngx_proxy_protocol_write: the client's family names the line.
    """
    if not isinstance(src, tuple) or not isinstance(dst, tuple):
        return b"PROXY UNKNOWN\r\n"
    family = 6 if ":" in src[0] else 4
    line = f"PROXY TCP{family} {_host(src)} {_host(dst)} {src[1]} {dst[1]}\r\n"
    return line.encode("ascii")


def build_v2(src: SocketAddress, dst: SocketAddress, transport: int = STREAM,
             tlvs: bytes = b"") -> bytes:
    """Write the version 2 header from ``src`` to ``dst``, ended by its CRC32C TLV.

    One IPv4 and one IPv6 address are both written as IPv6; two v4-mapped ones as IPv4;
    anything but IP on either side is LOCAL and UNSPEC.  ``tlvs`` are ready-made (``build_tlv``,
    ``build_ssl_tlv``) and go before the checksum.
    Raises: ValueError if the header would pass MAX_HEADER.
    Source: ngx_proxy_protocol.c ngx_proxy_protocol_v2_write.
    """
    kind, addresses = 0x2000, b""
    if isinstance(src, tuple) and isinstance(dst, tuple):
        family, packed = _pack_addresses(src, dst)
        kind = 0x2100 | family << 4 | transport
        addresses = packed + src[1].to_bytes(2, "big") + dst[1].to_bytes(2, "big")
    size = len(addresses) + len(tlvs) + 7
    if _V2_FIXED + size > MAX_HEADER:
        raise ValueError(f"PROXY protocol header of {_V2_FIXED + size} bytes is too large")
    header = SIGNATURE + kind.to_bytes(2, "big") + size.to_bytes(2, "big") + addresses + tlvs
    checked = header + b"\x03\x00\x04\0\0\0\0"
    return checked[:-4] + hashing.crc32c(checked).to_bytes(4, "big")


def build_tlv(kind: int, value: bytes) -> bytes:
    """Write one TLV: type, 16-bit length, value."""
    return kind.to_bytes(1, "big") + len(value).to_bytes(2, "big") + value


def build_ssl_tlv(client: int, verify: int, subs: bytes) -> bytes:
    """Write the SSL TLV: ``client`` flags (CLIENT_*), OpenSSL's verify result, ready sub TLVs."""
    return build_tlv(TLV_SSL, client.to_bytes(1, "big") + verify.to_bytes(4, "big") + subs)


def _host(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    return address[0].partition("%")[0]  # a link-local address may name its zone


def _pack_addresses(src: tuple[str, int] | tuple[str, int, int, int],
                    dst: tuple[str, int] | tuple[str, int, int, int]) -> tuple[int, bytes]:
    hosts = (_host(src), _host(dst))
    sixes = [":" in host for host in hosts]
    packed = [
        inet_pton(AF_INET6 if six else AF_INET, host)
        for host, six in zip(hosts, sixes, strict=True)
    ]
    if not any(sixes):
        return INET, b"".join(packed)
    if all(one.startswith(_MAPPED) for one in packed):
        return INET, b"".join(one[12:] for one in packed)
    return INET6, b"".join(one if len(one) == 16 else _MAPPED + one for one in packed)
