"""Probes: short dialogues that tell whether a server of some protocol serves.

A probe is a generator without a socket. It yields what is to be sent, or b"" to wait for more, and
is given what came: the next bytes of a stream, or one datagram; b"" once all that it yielded has
been sent. It returns when the server is well and raises ProbeError when it is not. Whoever drives
it bounds time and bytes, and tells it nothing of the end of the connection: a server that closes
before the probe has returned is not well.

Nothing a server says is believed further than a length is checked, and nothing is kept of it.
"""

from __future__ import annotations

import re
import secrets
import struct
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, NamedTuple

from ngxstream.wire import dialogues
from ngxstream.wire import probes_datagram as datagram
from ngxstream.wire.dialogues import Dialogue, ProbeError, shown

__all__ = ("KINDS", "Dialogue", "Kind", "ProbeError", "match", "shown")


# -- send and expect -----------------------------------------------------------------------------


def match(send: bytes, expect: bytes | None, found: Callable[[bytes], object] | None) -> Dialogue:
    """Send a text, and have an answer begin with another one or match a regular expression.

    Args: send: b"" to have the server speak first; expect: what the answer begins with; found:
    tells of all that came so far whether it matches; at most one of the two
    Source: `match` of ngx_stream_upstream_hc_module as documented
    """
    if expect is None and found is None:
        if send:
            yield send
        return
    data = yield send
    while True:
        if found is not None:
            if data and found(data):  # what matches no bytes at all waits for some
                return
        elif expect is not None:
            if data.startswith(expect):
                return
            if not expect.startswith(data[: len(expect)]):
                raise ProbeError(f"expected {shown(expect)}, got {shown(data)}")
        data += yield b""


# -- protocols over streams ------------------------------------------------------------------------


def http(options: Mapping[str, str]) -> Dialogue:
    """GET a path and expect a status of 200 to 399. Options: uri, host. Source: RFC 9112"""
    uri, host = options.get("uri", "/"), options.get("host", "localhost")
    request = (
        f"GET {uri} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ngxstream\r\n"
        "Connection: close\r\n\r\n"
    )
    line, rest = yield from dialogues.line(sent=request.encode("utf-8", "surrogateescape"))
    while re.fullmatch(rb"HTTP/1\.1 1\d\d( .*)?", line):  # one that comes before the final one
        while line:
            line, rest = yield from dialogues.line(rest)
        line, rest = yield from dialogues.line(rest)
    found = re.fullmatch(rb"HTTP/1\.[01] ([1-5]\d\d)( .*)?", line)
    if found is None or not 200 <= int(found[1]) < 400:
        raise ProbeError(f"expected HTTP status 200 to 399, got {shown(line)}")


def redis(options: Mapping[str, str]) -> Dialogue:
    """PING; a server that wants a password first serves. Source: the RESP specification"""
    line, _ = yield from dialogues.line(sent=b"PING\r\n")
    if line != b"+PONG" and not line.startswith((b"-NOAUTH", b"-NOPERM")):
        raise ProbeError(f'expected "+PONG", got {shown(line)}')


# CLIENT_LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH
_MYSQL_CLIENT: Final = 0x1 | 0x200 | 0x8000 | 0x80000
_PGSQL_MOST_HOW: Final = 12  # of the ways to authenticate
_MYSQL_DENIED: Final = frozenset((1044, 1045, 1049, 1251, 1698, 1820, 1862))


def mysql(options: Mapping[str, str]) -> Dialogue:
    """Log in without a password and expect to be let in, or refused as an unknown user.

    Who leaves after the greeting is counted by the server, which blocks a host for that after some
    time (max_connect_errors), and the clients behind it. Options: user
    Source: MySQL, Protocol::HandshakeV10, HandshakeResponse41, AuthSwitchRequest
    """
    kind, body, rest = yield from _mysql_packet()
    if kind != 10 or len(body) < 8:
        raise ProbeError(f"expected a MySQL greeting, got {shown(bytes((kind,)) + body)}")
    user = options.get("user", "ngxstream").encode("utf-8", "surrogateescape")
    login = struct.pack("<IIB23x", _MYSQL_CLIENT, 1 << 24, 33) + user + b"\0\0"
    login += b"mysql_native_password\0"
    kind, body, rest = yield from _mysql_packet(rest, _mysql(1, login))
    if kind == 0xFE:  # it wants another method: no password by that one, either
        kind, body, rest = yield from _mysql_packet(rest, _mysql(3, b""))
    if kind == 0:
        yield _mysql(0, b"\1")  # COM_QUIT
    elif kind not in (0xFF, 1):
        raise ProbeError(f"expected an answer to a login, got {shown(bytes((kind,)) + body)}")


def _mysql(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes((number,)) + body


def _mysql_packet(
    data: bytes = b"", sent: bytes = b""
) -> Generator[bytes, bytes, tuple[int, bytes, bytes]]:
    """Read one packet. Returns: its kind, the rest of it, what came behind it. Raises: ProbeError

    An error that is about this user alone is returned as one of kind 255.
    """
    data = yield from dialogues.take(5, data, sent)
    size = int.from_bytes(data[:3], "little")
    if not 1 <= size < 1 << 14:
        raise ProbeError(f"expected a MySQL packet, got {shown(data)}")
    data = yield from dialogues.take(4 + size, data)
    kind, body = data[4], data[5 : 4 + size]
    if kind == 0xFF and (not sent or int.from_bytes(body[:2], "little") not in _MYSQL_DENIED):
        raise ProbeError(f"the server refuses: {shown(body[2:])}")
    return kind, body, data[4 + size :]


def pgsql(options: Mapping[str, str]) -> Dialogue:
    """Begin a session and expect to be asked for a password, or let in.

    A server that starts up, shuts down or recovers answers with an error of class 57. Options: user
    Source: PostgreSQL, Frontend/Backend Protocol 3.0
    """
    user = options.get("user", "postgres").encode("utf-8", "surrogateescape")
    words = b"user\0" + user + b"\0database\0" + user + b"\0application_name\0ngxstream\0\0"
    start = struct.pack(">II", 8 + len(words), 3 << 16) + words
    head = yield from dialogues.take(9, sent=start)
    length, how = struct.unpack_from(">II", head, 1)
    is_known = head[:1] in (b"E", b"v") or (head[:1] == b"R" and how <= _PGSQL_MOST_HOW)
    if not is_known or not 8 <= length < 1 << 16:
        raise ProbeError(f"expected a PostgreSQL message, got {shown(head)}")
    if head[:1] != b"E":
        return
    packet = yield from dialogues.take(1 + min(length, 4096), head)
    fields = {field[:1]: field[1:] for field in packet[5:].split(b"\0")}
    code = fields.get(b"C", b"")
    if code[:2] in (b"57", b"53", b"58", b"XX") or not code:  # others are about this user alone
        raise ProbeError(f"the server refuses: {shown(code + b' ' + fields.get(b'M', b''))}")


def smtp(options: Mapping[str, str]) -> Dialogue:
    """Expect 220, say EHLO, expect 250, say QUIT. Options: helo. Source: RFC 5321, 4.2"""
    helo = options.get("helo", "ngxstream.invalid").encode("ascii", "replace")
    rest = yield from _reply(b"220")
    rest = yield from _reply(b"250", rest, b"EHLO " + helo + b"\r\n")
    yield from _reply(b"221", rest, b"QUIT\r\n")


def _reply(code: bytes, data: bytes = b"", sent: bytes = b"") -> Generator[bytes, bytes, bytes]:
    """Read a reply of one or more lines. Returns: what came behind it. Raises: ProbeError"""
    while True:
        line, data = yield from dialogues.line(data, sent)
        sent = b""
        if line[:3] != code or line[3:4] not in (b" ", b"-", b""):
            raise ProbeError(f"expected {code.decode()}, got {shown(line)}")
        if line[3:4] != b"-":
            return data


def mqtt(options: Mapping[str, str]) -> Dialogue:
    """CONNECT and expect CONNACK with code 0, then DISCONNECT. Source: MQTT 3.1.1, 3.1 and 3.2"""
    name = b"ngxstream" + secrets.token_hex(6).encode()
    body = b"\0\4MQTT\4\2\0\x0a" + struct.pack(">H", len(name)) + name
    answer = yield from dialogues.take(4, sent=bytes((0x10, len(body))) + body)
    if answer[:2] != b"\x20\2":
        raise ProbeError(f"expected CONNACK, got {shown(answer)}")
    if answer[3] not in (0, 4, 5):  # 4, 5: it serves those who have a password
        raise ProbeError(f"the server refuses, return code {answer[3]}")
    if not answer[3]:
        yield b"\xe0\0"  # DISCONNECT


class Kind(NamedTuple):
    """One kind of probe.

    Args: udp, tcp: make the dialogue over datagrams, over a stream, None where there is none;
    options: names that it takes; needs: those that must be given; check_more: sees that their
    values are such as the protocol takes, and raises ValueError
    """

    udp: Callable[[Mapping[str, str]], Dialogue] | None = None
    tcp: Callable[[Mapping[str, str]], Dialogue] | None = None
    options: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    check_more: Callable[[Mapping[str, str]], None] | None = None

    def check(self, options: Mapping[str, str]) -> None:
        """See that options are such as the kind takes. Raises: ValueError"""
        for name in self.needs - options.keys():
            raise ValueError(f'"{name}" is missing')
        for name, value in options.items():
            if name not in self.options:
                raise ValueError(f'"{name}" is unknown')
            if not value:
                raise ValueError(f'"{name}" is empty')
            if any(not char.isprintable() for char in value) or " " in value:
                raise ValueError(f'"{name}" has characters that the protocol does not allow')
        if self.check_more is not None:
            self.check_more(options)


def _kind(
    udp: Any = None, tcp: Any = None, options: str = "", needs: str = "", check: Any = None
) -> Kind:
    return Kind(udp, tcp, frozenset(options.split()), frozenset(needs.split()), check)


def _check_http(options: Mapping[str, str]) -> None:
    """See that a target is a path, as RFC 9112 has it in 3.2.1. Raises: ValueError"""
    _check_form(options, "uri", r"/.*", 'has to begin with "/"')
    _check_form(options, "uri", r'[!"$-~]*', "has characters that have to be written as %HH")
    _check_form(options, "host", r"[!$-.0-;=A-\[\]_a-z~]+", "is no name of a host")


def _check_sip(options: Mapping[str, str]) -> None:
    _check_form(options, "uri", r"[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-~]+",
                "is no SIP URI, as sip:ping@example.com is one")


def _check_smtp(options: Mapping[str, str]) -> None:
    _check_form(options, "helo", r"[!-~]+", "is no name of a host")


def _check_form(options: Mapping[str, str], name: str, form: str, text: str) -> None:
    if name in options and not re.fullmatch(form, options[name]):
        raise ValueError(f'"{name}" {text}')


KINDS: Final[Mapping[str, Kind]] = {
    "dns": _kind(
        datagram.dns_udp, datagram.dns_tcp, "name qtype rcode", check=datagram.dns_options
    ),
    "http": _kind(None, http, "uri host", check=_check_http),
    "mqtt": _kind(None, mqtt),
    "mysql": _kind(None, mysql, "user"),
    "ntp": _kind(datagram.ntp),
    "pgsql": _kind(None, pgsql, "user"),
    "radius": _kind(datagram.radius, None, "secret", "secret"),
    "redis": _kind(None, redis),
    "sip": _kind(datagram.sip_udp, datagram.sip_tcp, "uri", check=_check_sip),
    "smtp": _kind(None, smtp, "helo", check=_check_smtp),
}
