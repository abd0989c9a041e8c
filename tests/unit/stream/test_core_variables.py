"""What the variables of the core say of a session."""

import os
import socket
import time
from typing import Any

import pytest

from ngxstream import NGINX_VERSION
from ngxstream.stream import core_variables, values, variables
from ngxstream.stream.upstream import UpstreamState
from ngxstream.wire import proxy_protocol
from tests.support.sessions import FakeClient, FakeSession


def say(text: str, s: FakeSession) -> bytes:
    """Evaluate a text."""
    table = variables.VariableTable(core_variables.VARIABLES)
    value = values.compile_value(text, table)
    table.link()
    return value.get(s)


def found(name: str, s: FakeSession) -> bytes | None:
    """Ask for a variable; None is not found."""
    table = variables.VariableTable(core_variables.VARIABLES)
    ref = table.ref(name)
    table.link()
    return ref.get(s)


V6 = FakeClient(sockaddr=("2001:db8::1", 4000, 0, 0), local=("::1", 443, 0, 0), family=10)
UNIX = FakeClient(sockaddr="", local="/run/x.sock", family=socket.AF_UNIX)


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (FakeClient(), b"192.0.2.1 40000 198.51.100.2 53"),
        (V6, b"2001:db8::1 4000 ::1 443"),
        (UNIX, b"unix:  unix:/run/x.sock "),
        (FakeClient(sockaddr=b"\0abstract", local="/x", family=1), b"unix:  unix:/x "),
        (FakeClient(sockaddr=("192.0.2.1", 0)), b"192.0.2.1  198.51.100.2 53"),
        (FakeClient(sockaddr=("fe80::1%lo", 1, 0, 1), family=10), b"fe80::1 1 198.51.100.2 53"),
    ],
)
def test_addresses_are_spelled(client: FakeClient, expected: bytes) -> None:
    """Addresses have no port, unix sockets have none either, port 0 is empty."""
    text = "$remote_addr $remote_port $server_addr $server_port"
    assert expected == say(text, FakeSession(c=client))


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (FakeClient(), bytes([192, 0, 2, 1])),
        (V6, socket.inet_pton(socket.AF_INET6, "2001:db8::1")),
        (UNIX, b"unix:"),
    ],
)
def test_binary_address(client: FakeClient, expected: bytes) -> None:
    """The binary address has 4 or 16 bytes; a unix client has its text."""
    assert expected == say("$binary_remote_addr", FakeSession(c=client))


def test_protocol_follows_the_socket() -> None:
    """A datagram client is UDP."""
    assert b"TCP" == say("$protocol", FakeSession())
    assert b"UDP" == say("$protocol", FakeSession(c=FakeClient(is_udp=True)))


def test_counters_and_names() -> None:
    """Numbers are decimal."""
    s = FakeSession(c=FakeClient(received=12, sent=3456789012))
    text = "$connection $bytes_received $bytes_sent $server_name $hostname $pid $nginx_version"
    expected = f"7 12 3456789012 example.com host.example 4711 {NGINX_VERSION}"
    assert expected.encode() == say(text, s)


def test_bytes_are_cached_as_in_nginx() -> None:
    """A counter used early keeps its early value."""
    table = variables.VariableTable(core_variables.VARIABLES)
    value = values.compile_value("$bytes_sent", table)
    table.link()
    s = FakeSession()
    assert b"0" == value.get(s)
    s.c.sent = 5
    assert b"0" == value.get(s)


@pytest.mark.parametrize(
    ("now_ms", "expected"), [(1000, b"0.000"), (1005, b"0.005"), (62_345, b"61.345"), (1, b"0.000")]
)
def test_session_time(now_ms: int, expected: bytes) -> None:
    """Seconds and three digits of milliseconds; never negative."""
    s = FakeSession()
    s.loop.now_ms = now_ms
    assert expected == say("$session_time", s)


def test_status_has_three_digits() -> None:
    """Before the end it is 000."""
    assert b"000" == say("$status", FakeSession())
    assert b"502" == say("$status", FakeSession(status=502))


@pytest.mark.parametrize(
    ("zone", "local", "iso"),
    [
        ("UTC0", b"21/Nov/2026:12:00:00 +0000", b"2026-11-21T12:00:00+00:00"),
        ("IST-5:30", b"21/Nov/2026:17:30:00 +0530", b"2026-11-21T17:30:00+05:30"),
        ("NST3:30", b"21/Nov/2026:08:30:00 -0330", b"2026-11-21T08:30:00-03:30"),
    ],
)
def test_times_are_local(
    zone: str, local: bytes, iso: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock is spelled as logs and ISO 8601 have it."""
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        s = FakeSession()
        assert local + b" " + iso == say("$time_local $time_iso8601", s)
        assert b"1795262400.000" == say("$msec", s)
    finally:
        if before is None:
            monkeypatch.delenv("TZ")
        else:
            monkeypatch.setenv("TZ", before)
        time.tzset()


def header(data: bytes) -> Any:
    """Parse a PROXY header."""
    return proxy_protocol.parse(data)


def test_header_variables_without_a_header() -> None:
    """They are not found, which is not the same as empty."""
    for name in ("addr", "port", "server_addr", "server_port", "tlv_alpn"):
        assert None is found(f"proxy_protocol_{name}", FakeSession())


def test_header_variables() -> None:
    """The text of a version 1 header is kept as it was sent."""
    s = FakeSession(proxy_protocol=header(b"PROXY TCP4 1.2.3.004 5.6.7.8 90 0\r\n"))
    text = (
        "$proxy_protocol_addr $proxy_protocol_port "
        "$proxy_protocol_server_addr [$proxy_protocol_server_port]"
    )
    assert b"1.2.3.004 90 5.6.7.8 []" == say(text, s)


def test_a_header_without_addresses_is_none() -> None:
    """A health check's LOCAL or UNKNOWN header says nothing of the client."""
    s = FakeSession(proxy_protocol=header(b"PROXY UNKNOWN\r\n"))
    assert None is found("proxy_protocol_addr", s)


def test_tlvs_by_name_and_number() -> None:
    """A TLV is asked for by its name, by its number, or inside the ssl TLV."""
    tlvs = proxy_protocol.build_tlv(1, b"h2") + proxy_protocol.build_tlv(0xEA, b"own")
    tlvs += proxy_protocol.build_ssl_tlv(1, 0, proxy_protocol.build_tlv(0x21, b"TLSv1.3"))
    data = proxy_protocol.build_v2(("1.2.3.4", 5), ("6.7.8.9", 10), tlvs=tlvs)
    s = FakeSession(proxy_protocol=header(data))
    text = (
        "$proxy_protocol_tlv_alpn $proxy_protocol_tlv_0xea $proxy_protocol_tlv_ssl_version "
        "$proxy_protocol_tlv_ssl_verify"
    )
    assert b"h2 own TLSv1.3 0" == say(text, s)
    other = FakeSession(proxy_protocol=header(data))
    assert None is found("proxy_protocol_tlv_authority", other)
    assert [] == s.target.lines + other.target.lines


def test_an_unknown_tlv_is_logged() -> None:
    """A name that means no TLV is an error in the log and not found."""
    data = proxy_protocol.build_v2(("1.2.3.4", 5), ("6.7.8.9", 10))
    s = FakeSession(proxy_protocol=header(data))
    assert None is found("proxy_protocol_tlv_odd", s)
    assert [("error", 'unknown PROXY protocol TLV "odd"')] == s.target.lines


@pytest.mark.parametrize("name", ["ssl_verify", "ssl_version", "ssl_0x21"])
def test_a_short_ssl_tlv_is_not_found_without_a_word(name: str) -> None:
    """nginx fails the variable and says nothing; TLVs that do not add up are told of."""
    short = proxy_protocol.build_tlv(proxy_protocol.TLV_SSL, b"\x01\0")
    ends = ("1.2.3.4", 5), ("6.7.8.9", 10)
    s = FakeSession(proxy_protocol=header(proxy_protocol.build_v2(*ends, tlvs=short)))
    assert None is found(f"proxy_protocol_tlv_{name}", s)
    assert [] == s.target.lines
    broken = FakeSession(proxy_protocol=header(proxy_protocol.build_v2(*ends, tlvs=b"\x20\xff")))
    assert None is found(f"proxy_protocol_tlv_{name}", broken)
    assert [("error", "broken PROXY protocol TLV")] == broken.target.lines


UPSTREAM = (
    "$upstream_addr|$upstream_bytes_sent|$upstream_bytes_received|$upstream_connect_time|"
    "$upstream_first_byte_time|$upstream_session_time"
)


def test_upstream_variables_before_any_attempt() -> None:
    """They are not found."""
    assert b"|||||" == say(UPSTREAM, FakeSession())
    assert None is found("upstream_addr", FakeSession(states=[]))


def test_upstream_variables_list_every_attempt() -> None:
    """One item for each attempt; `-` for what did not happen; no name for a local failure."""
    refused, aborted, used = UpstreamState(0), UpstreamState(0), UpstreamState(0)
    refused.peer_name = "127.0.0.1:1"
    refused.session_ms = 3
    used.peer_name = "unix:/x"
    used.connect_ms, used.first_byte_ms, used.session_ms = 0, 61_001, 61_500
    used.bytes_sent, used.bytes_received = 10, 20
    expected = (
        b"127.0.0.1:1, , unix:/x|0, 0, 10|0, 0, 20|-, -, 0.000|-, -, 61.001|0.003, -, 61.500"
    )
    assert expected == say(UPSTREAM, FakeSession(states=[refused, aborted, used]))


def test_every_variable_is_documented() -> None:
    """Each has its line for docs/variables.md, ending in a full stop."""
    assert [] == [v.name for v in core_variables.VARIABLES if not v.doc.endswith(".")]
