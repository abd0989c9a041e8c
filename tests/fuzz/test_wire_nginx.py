"""A real nginx, shown the same bytes, takes them for what our parsers take them for."""

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.wire import client_hello, proxy_protocol, reader
from tests.support import proxies
from tests.support.waiting import PATIENCE

# nginx of 2022 looks at 107 bytes for a PROXY header; later ones and we at 4096.
OLD_LOOK = 107

CONF = """events {}
stream {
    server {
        listen 127.0.0.1:@hello@;
        ssl_preread on;
        return "<$ssl_preread_protocol|$ssl_preread_server_name|$ssl_preread_alpn_protocols>";
    }
    server {
        listen 127.0.0.1:@header@ proxy_protocol;
        return "<$proxy_protocol_addr|$proxy_protocol_port
$proxy_protocol_server_addr|$proxy_protocol_server_port>";
    }
}
"""


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[proxies.Nginx]:
    """Run an nginx that tells what it has read."""
    with proxies.Nginx(CONF, tmp_path_factory.mktemp("wire"), log_level="error") as running:
        yield running


def told(address: tuple[str, int], data: bytes) -> bytes:
    """Send bytes and the end of the stream; return what nginx answers, nothing if it refuses."""
    answer = b""
    with socket.create_connection(address, PATIENCE) as sock:
        # nginx answers without reading all, so its close may be a reset: what it said stays
        with contextlib.suppress(OSError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while part := sock.recv(65536):
                answer += part
    return answer


def hello_answer(data: bytes) -> bytes:
    """Write what nginx should answer, by our parser."""
    try:
        hello = client_hello.Parser().feed(data)
    except client_hello.NotClientHello:
        return b"<||>"
    if isinstance(hello, reader.NeedMore):
        return b""
    return b"<%b|%b|%b>" % (hello.protocol.encode(), hello.server_name, hello.alpn)


def header_answer(data: bytes) -> bytes:
    """Write what nginx should answer, by our parser; a header cut short is refused by nginx."""
    try:
        header = proxy_protocol.parse(data)
    except proxy_protocol.BrokenHeader:
        return b""
    if isinstance(header, reader.NeedMore):
        return b""
    if not header.has_client:
        return b"<|\n|>"
    # nginx prints no port 0
    ends = (header.src_addr, header.src_port or "", header.dst_addr, header.dst_port or "")
    return "<{}|{}\n{}|{}>".format(*ends).encode()


names = st.binary(min_size=1, max_size=12)


@st.composite
def extensions(draw: st.DrawFn) -> bytes:
    """Write an extension, sometimes with a length that is not right."""
    kind = draw(st.sampled_from([0, 0, 16, 16, 43, 10, 51]))
    name = draw(names)
    if kind == 0:
        entry = draw(st.sampled_from([b"\0", b"\0", b"\0", b"\1"]))
        body = entry + len(name).to_bytes(2, "big") + name
        body = (len(body) + draw(st.sampled_from([0, 0, 0, 1, -1]))).to_bytes(2, "big") + body
    elif kind == 16:
        body = b"".join(bytes((len(one),)) + one for one in draw(st.lists(names, max_size=3)))
        body = (len(body) + draw(st.sampled_from([0, 0, 0, 1]))).to_bytes(2, "big") + body
    elif kind == 43:
        body = draw(st.sampled_from([b"\x02\x03\x04", b"\x02\x03\x03", b"\x00", b"\x05\x03\x04"]))
    else:
        body = name
    size = len(body) + draw(st.sampled_from([0, 0, 0, 0, 1]))
    return kind.to_bytes(2, "big") + size.to_bytes(2, "big") + body


@st.composite
def hellos(draw: st.DrawFn) -> bytes:
    """Write a ClientHello over records of any size, a byte of it changed sometimes."""
    version = draw(st.sampled_from([b"\3\3", b"\3\1", b"\3\0", b"\0\2", b"\3\7"]))
    body = version + bytes(32) + b"\1s\0\2\x13\1\1\0"
    listed = b"".join(draw(st.lists(extensions(), max_size=4)))
    if listed:
        body += len(listed).to_bytes(2, "big") + listed
    body = b"\1" + len(body).to_bytes(3, "big") + body
    size = draw(st.integers(1, 200))
    data = bytearray().join(
        b"\x16\3\1" + len(body[at : at + size]).to_bytes(2, "big") + body[at : at + size]
        for at in range(0, len(body), size)
    )
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))] if draw(st.booleans()) else data)


others = st.sampled_from(
    [b"hello", b"GET / HTTP/1.1\r\n", b"\x80\x2e\1\0\2", b"\x80\x2e\1\3\1xx", b"\x16\2\1\0\1x"]
)


@given(st.one_of(hellos(), others))
def test_nginx_reads_the_same_hello(nginx: proxies.Nginx, data: bytes) -> None:
    """Version, name and protocols, or a refusal, or waiting for more, are nginx's own."""
    assert told(nginx.address("hello"), data) == hello_answer(data)


ports = st.integers(0, 65536)
addresses = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.sampled_from(["", "dead.beef", "::ffff:1.2.3.4", "1.2.3.4x", "fe80::1%lo"]),
)
v1_lines = st.builds(
    "PROXY {} {} {} {} {}{}x".format,
    st.sampled_from(["TCP4", "TCP6", "TCP5", "UNKNOWN", "UNKNOWNx", "UDP4", "TCP"]),
    addresses,
    addresses,
    ports,
    ports,
    st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r", ""]),
).map(str.encode)


@st.composite
def v2_headers(draw: st.DrawFn) -> bytes:
    """Write a version 2 header, right or wrong, with payload."""
    kind = draw(st.sampled_from([0x11, 0x11, 0x21, 0x12, 0x31, 0x00]))
    body = draw(st.binary(max_size=OLD_LOOK - 16))
    size = len(body) + draw(st.sampled_from([0, 0, 0, 1, -1 if body else 0]))
    command = draw(st.sampled_from([0x21, 0x21, 0x21, 0x20, 0x22, 0x11]))
    return proxy_protocol.SIGNATURE + bytes((command, kind)) + size.to_bytes(2, "big") + body


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Write a header, a byte of it changed or the end missing sometimes."""
    data = bytearray(draw(st.one_of(v1_lines, v2_headers())))
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))] if draw(st.booleans()) else data)


@given(headers())
def test_nginx_reads_the_same_proxy_header(nginx: proxies.Nginx, data: bytes) -> None:
    """Addresses and ports of a header, or its refusal, are nginx's own."""
    data = data[:OLD_LOOK]
    assert told(nginx.address("header"), data) == header_answer(data)
