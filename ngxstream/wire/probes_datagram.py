"""Probes of protocols over datagrams (dialogues.py); of DNS and SIP over TCP, too."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from ngxstream.wire import dialogues, dns, dns_names
from ngxstream.wire.dialogues import Dialogue, ProbeError, shown


class _DnsOptions(NamedTuple):
    name: str
    kind: int
    codes: frozenset[int]


_KINDS: Final = {"A": 1, "NS": 2, "SOA": 6, "TXT": 16, "AAAA": 28, "SRV": 33}
_CODES: Final = {"NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4,
                 "REFUSED": 5}


def dns_options(options: Mapping[str, str]) -> _DnsOptions:
    """Read name, qtype and rcode (several by "|"). Raises: ValueError"""
    name = options.get("name", ".")
    try:
        _dns_name(name)
    except dns_names.DnsError as error:
        raise ValueError(f'"name" is no name: {error}') from None
    qtype = options.get("qtype", "NS" if name == "." else "A").upper()
    kind = _KINDS.get(qtype)
    if kind is None:
        raise ValueError(f'"qtype" may be {", ".join(sorted(_KINDS))}, not "{qtype}"')
    words = options.get("rcode", "NOERROR").upper().split("|")
    for word in words:
        if word not in _CODES:
            raise ValueError(f'"rcode" may be {", ".join(_CODES)}, several with |, not "{word}"')
    codes = frozenset(_CODES[word] for word in words)
    return _DnsOptions(name, kind, codes)


def _dns_name(name: str) -> bytes:
    """Return a name in wire form. Raises: DnsError"""
    return b"\0" if name == "." else dns_names.to_wire(name.removesuffix("."))


def _dns_query(asked: _DnsOptions) -> bytes:
    """Return a message with a random identifier."""
    question = _dns_name(asked.name) + struct.pack(">HH", asked.kind, 1)
    return secrets.token_bytes(2) + struct.pack(">5H", 0x0100, 1, 0, 0, 0) + question


def _dns_answers(query: bytes, data: bytes, asked: _DnsOptions) -> bool:
    """Tell whether a message answers a query; others are late or forged. Raises: ProbeError"""
    if len(data) < 12 or data[:2] != query[:2] or not data[2] & 0x80:
        return False
    if data[4:6] == b"\0\1" and data[12 : len(query)].lower() != query[12:].lower():
        return False
    code = data[3] & 0x0F
    if code not in asked.codes:
        names = {number: word for word, number in _CODES.items()}
        wanted = " or ".join(sorted(names[one] for one in asked.codes))
        raise ProbeError(f"expected {wanted}, got {names.get(code, f'RCODE {code}')}")
    return True


def dns_udp(options: Mapping[str, str]) -> Dialogue:
    """Ask for a name and expect a response code. Options: name, qtype, rcode. Source: RFC 1035"""
    asked = dns_options(options)
    query = _dns_query(asked)
    data = yield query
    while not _dns_answers(query, data, asked):
        data = yield b""


def dns_tcp(options: Mapping[str, str]) -> Dialogue:
    """Do the same over TCP."""
    asked = dns_options(options)
    query = _dns_query(asked)
    data = yield from dialogues.take(2, sent=dns.frame(query))
    length = int.from_bytes(data[:2], "big")
    data = yield from dialogues.take(2 + length, data)
    if not _dns_answers(query, data[2 : 2 + length], asked):
        raise ProbeError(f"expected an answer to the question, got {shown(data)}")


def ntp(options: Mapping[str, str]) -> Dialogue:
    """Ask for the time and expect a server that has it. Source: RFC 5905, 7.3"""
    sent = os.urandom(8)  # a random transmit timestamp comes back as the originate timestamp
    data = yield b"\x23" + bytes(39) + sent
    while len(data) < 48 or data[24:32] != sent or data[0] & 7 != 4:
        data = yield b""
    leap, stratum = data[0] >> 6, data[1]
    if leap == 3 or not 0 < stratum < 16:
        why = f", {shown(data[12:16])}" if not stratum else ""  # kiss-o'-death
        raise ProbeError(f"the server has no time: leap indicator {leap}, stratum {stratum}{why}")


def radius(options: Mapping[str, str]) -> Dialogue:
    """Send Status-Server and expect a signed answer. Options: secret. Source: RFC 5997, RFC 2865"""
    secret = options["secret"].encode("utf-8", "surrogateescape")
    ident, authenticator = secrets.randbelow(256), os.urandom(16)
    head = struct.pack(">BBH", 12, ident, 38) + authenticator
    signature = hmac.digest(secret, head + b"\x50\x12" + bytes(16), "md5")
    data = yield head + b"\x50\x12" + signature
    while not _is_signed(data, ident, authenticator, secret):
        data = yield b""
    if data[0] not in (2, 5):  # Access-Accept, Accounting-Response
        raise ProbeError(f"the server refuses, code {data[0]}")


def _is_signed(data: bytes, ident: int, authenticator: bytes, secret: bytes) -> bool:
    if len(data) < 20 or data[1] != ident:
        return False
    length = int.from_bytes(data[2:4], "big")
    if not 20 <= length <= len(data):
        return False
    signed = data[:4] + authenticator + data[20:length] + secret
    return hmac.compare_digest(hashlib.md5(signed, usedforsecurity=False).digest(), data[4:20])


def sip_udp(options: Mapping[str, str]) -> Dialogue:
    """Send OPTIONS and expect a final answer below 500. Options: uri. Source: RFC 3261, 11"""
    call, request = _sip_request(options, "UDP")
    data = yield request
    while not _sip_answers(data, call):
        data = yield b""


def sip_tcp(options: Mapping[str, str]) -> Dialogue:
    """Do the same over TCP."""
    call, request = _sip_request(options, "TCP")
    data = yield request
    while True:
        head, end, rest = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
        if not end:
            data += yield b""
        elif _sip_answers(head, call):
            return
        else:
            data = rest


def _sip_request(options: Mapping[str, str], over: str) -> tuple[bytes, bytes]:
    """Return the Call-ID of a request, and the request."""
    branch, tag, call = (secrets.token_hex(8) for _ in range(3))
    uri = options.get("uri", "sip:ping@localhost")
    request = (
        f"OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/{over} localhost;branch=z9hG4bK{branch};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:ngxstream@localhost>;tag={tag}\r\nTo: <{uri}>\r\n"
        f"Call-ID: {call}@localhost\r\nCSeq: 1 OPTIONS\r\nContact: <sip:ngxstream@localhost>\r\n"
        "Accept: application/sdp\r\nContent-Length: 0\r\n\r\n"
    )
    return call.encode(), request.encode("utf-8", "surrogateescape")


def _sip_answers(data: bytes, call: bytes) -> bool:
    """Tell whether a message is the final answer to a request. Raises: ProbeError"""
    line = data.partition(b"\r\n")[0]
    found = re.match(rb"SIP/2\.0 ([1-6]\d\d)(?: |$)", line)
    if call not in data or found is None or found[1] < b"200":
        return False
    if b"500" <= found[1] < b"600":
        raise ProbeError(f"expected a status below 500, got {shown(line)}")
    return True
