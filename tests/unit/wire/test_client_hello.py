"""The ClientHello parser believes what nginx's ssl_preread believes and declines the rest."""

import ssl

import pytest

from ngxstream.wire import client_hello, reader


def u16(value: int) -> bytes:
    """Write a 16-bit integer."""
    return value.to_bytes(2, "big")


def extension(kind: int, body: bytes) -> bytes:
    """Write one extension."""
    return u16(kind) + u16(len(body)) + body


def sni(name: bytes, kind: int = 0) -> bytes:
    """Write a server_name extension with one name."""
    entry = bytes((kind,)) + u16(len(name)) + name
    return extension(0, u16(len(entry)) + entry)


def alpn(*names: bytes) -> bytes:
    """Write an ALPN extension."""
    listed = b"".join(bytes((len(name),)) + name for name in names)
    return extension(16, u16(len(listed)) + listed)


def codes(kind: int, *values: int) -> bytes:
    """Write an extension that lists 16-bit codes."""
    listed = b"".join(u16(value) for value in values)
    return extension(kind, u16(len(listed)) + listed)


def message(*extensions: bytes, version: bytes = b"\x03\x03", kind: int = 1) -> bytes:
    """Write a ClientHello handshake message."""
    joined = b"".join(extensions)
    body = version + bytes(32) + b"\x04sess" + u16(4) + b"\x13\x01\xc0\x2f" + b"\x01\x00"
    if extensions:
        body += u16(len(joined)) + joined
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body


def records(body: bytes, size: int = 16384) -> bytes:
    """Cut a handshake message into records of ``size`` bytes."""
    return b"".join(
        b"\x16\x03\x01" + u16(len(body[at : at + size])) + body[at : at + size]
        for at in range(0, len(body), size)
    )


FULL = message(
    codes(10, 29, 23),
    sni(b"example.com"),
    codes(13, 0x0403),
    alpn(b"h2", b"http/1.1"),
    extension(43, b"\x02\x03\x04"),
    extension(0xFE0D, b"outer"),
)
EXPECTED = client_hello.ClientHello(
    protocol="TLSv1.3",
    server_name=b"example.com",
    alpn=b"h2,http/1.1",
    ciphers=(0x1301, 0xC02F),
    groups=(29, 23),
    signature_algorithms=(0x0403,),
)


def declined(data: bytes) -> str:
    """Parse what must be declined and return the reason."""
    with pytest.raises(client_hello.NotClientHello) as reason:
        client_hello.Parser().feed(data)
    return str(reason.value)


def test_a_whole_hello_tells_all_it_offers() -> None:
    """Name, protocols, version and the lists of codes come out of one record."""
    assert EXPECTED == client_hello.Parser().feed(records(FULL) + b"trailing")


@pytest.mark.parametrize("size", [1, 5, 40, 100])
def test_a_hello_may_span_records(size: int) -> None:
    """Records of any size give the same hello."""
    assert EXPECTED == client_hello.Parser().feed(records(FULL, size))


@pytest.mark.parametrize("size", [16384, 7])
def test_a_parser_goes_on_where_it_stopped(size: int) -> None:
    """Fed the stream as it grows, a Parser waits until the last byte and then answers."""
    stream = records(FULL, size)
    parser = client_hello.Parser()
    for end in range(len(stream)):
        assert parser.feed(stream[:end]) is reader.NEED_MORE
    assert EXPECTED == parser.feed(memoryview(stream))


def test_a_hello_of_openssl_is_understood() -> None:
    """What the ssl module sends is read as it was asked for."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["dot", "h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    stream = context.wrap_bio(incoming, outgoing, server_hostname="dns.example.net")
    with pytest.raises(ssl.SSLWantReadError):
        stream.do_handshake()
    hello = client_hello.Parser().feed(outgoing.read())
    assert isinstance(hello, client_hello.ClientHello)
    assert ("TLSv1.3", b"dns.example.net", b"dot,h2") == (
        hello.protocol,
        hello.server_name,
        hello.alpn,
    )
    assert 0x1301 in hello.ciphers
    assert hello.groups
    assert hello.signature_algorithms


@pytest.mark.parametrize(
    ("version", "protocol"),
    [
        (b"\x03\x00", "SSLv3"),
        (b"\x03\x01", "TLSv1"),
        (b"\x03\x02", "TLSv1.1"),
        (b"\x03\x03", "TLSv1.2"),
        (b"\x03\x04", "TLSv1.3"),
        (b"\x03\x05", ""),
        (b"\x00\x02", "SSLv2"),
        (b"\x7f\x12", ""),
    ],
)
def test_the_version_is_named_as_openssl_names_it(version: bytes, protocol: str) -> None:
    """Without extensions the hello's own version counts; an unknown one has no name."""
    hello = client_hello.Parser().feed(records(message(version=version)))
    assert isinstance(hello, client_hello.ClientHello)
    assert (protocol, b"", b"") == (hello.protocol, hello.server_name, hello.alpn)


def test_any_supported_versions_extension_means_tls_1_3() -> None:
    """The extension alone decides, even if it lists only older versions."""
    hello = client_hello.Parser().feed(records(message(extension(43, b"\x02\x03\x03"))))
    assert client_hello.ClientHello("TLSv1.3", ciphers=(0x1301, 0xC02F)) == hello


@pytest.mark.parametrize(
    ("data", "protocol"),
    [(b"\x80\x2e\x01\x00\x02", "SSLv2"), (b"\x80\x2e\x01\x03\x01\x00", "TLSv1")],
)
def test_a_version_2_hello_tells_its_version_alone(data: bytes, protocol: str) -> None:
    """An SSLv2 record with a ClientHello is accepted from its first five bytes."""
    assert client_hello.ClientHello(protocol) == client_hello.Parser().feed(data)


@pytest.mark.parametrize("data", [b"", b"h", b"GET ", b"\x16\x03\x01\x00", b"\x00\x00\x00\x00"])
def test_fewer_than_five_bytes_are_never_judged(data: bytes) -> None:
    """nginx waits for five bytes even if the first one rules a hello out."""
    assert client_hello.Parser().feed(data) is reader.NEED_MORE


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "not a handshake"),
        (b"\x80\x2e\x02\x00\x02", "not a handshake"),
        (b"\x15\x03\x01\x00\x02", "not a handshake"),
        (b"\x16\x02\x01\x00\x02", "unsupported SSL version"),
        (records(message(kind=2)), "not a client hello"),
        (records(message(sni(b"a", kind=1))), "SNI hostname type is not DNS"),
        (records(message(extension(0, b"\x00\x05\x00\x00\x03ab"))), "SNI format error"),
        (records(message(extension(0, b"\x00\x04\x00\x00\x02ab"))), "SNI format error"),
        (records(message(extension(0, b"\x00\x06\x00\x00\x02ab"))), "SNI format error"),
        (records(message(extension(0, b"\x00\x00"), extension(1, b"x"))), "SNI format error"),
        (records(message(sni(b"a"), sni(b"a"))), "duplicate SNI"),
        (records(message(sni(b""), sni(b"a"))), "duplicate SNI"),
        (records(message(alpn(b"a"), alpn(b"a"))), "duplicate ALPN"),
        (records(message(extension(43, b"\x00"))), "supported_versions format error"),
        (records(message(extension(43, b"\x01\x03"))), "supported_versions format error"),
        (records(message(extension(43, b"\x02\x03\x04x"))), "supported_versions format error"),
        (records(message(extension(43, b"\x04\x03\x04"))), "supported_versions format error"),
        (records(message(extension(16, b"\x00\x01\x00"))), "ALPN empty protocol"),
        (records(message(extension(16, b"\x00\x00"), extension(1, b""))), "ALPN format error"),
        (records(message(extension(16, b"\x00\x02\x01ax"))), "ALPN format error"),
        (records(message(extension(16, b"\x00\x02\x02h2"))), "ALPN format error"),
        (records(message(extension(99, b"")[:-1])), "failed to parse handshake"),
        (records(message(u16(99) + u16(9) + b"short")), "failed to parse handshake"),
        (records(b"\x01\x00\x00\x01\x03"), "failed to parse handshake"),
        (records(message()[:1] + b"\x00\x00\x2a" + message()[4:]), "failed to parse handshake"),
    ],
)  # fmt: skip
def test_what_is_no_hello_is_declined(data: bytes, reason: str) -> None:
    """Bytes that nginx declines are declined for the same reason."""
    assert reason == declined(data)


def test_a_later_record_of_another_type_is_declined() -> None:
    """A hello that breaks off into another record type is none."""
    assert "not a handshake" == declined(records(FULL[:30]) + b"\x17\x03\x03\x00\x01x")


def test_a_refusal_does_not_wait_for_the_rest_of_the_hello() -> None:
    """A length that cannot hold is refused when it is read, records before the end."""
    assert "failed to parse handshake" == declined(records(b"\x01\x00\x00\x22" + bytes(34)))


def test_only_the_first_entry_of_a_name_list_counts() -> None:
    """More names in one server_name extension are passed over."""
    listed = b"\x00\x00\x01a" + b"\x00\x00\x01b"
    hello = client_hello.Parser().feed(records(message(extension(0, u16(8) + listed), alpn(b"x"))))
    assert isinstance(hello, client_hello.ClientHello)
    assert (b"a", b"x") == (hello.server_name, hello.alpn)


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x00\x04\x00\x1d", b"\x00\x00\x00"])
def test_a_list_of_codes_that_does_not_add_up_is_empty(body: bytes) -> None:
    """nginx skips these lists, so a broken one is no reason to decline the hello."""
    hello = client_hello.Parser().feed(records(message(extension(10, body), sni(b"a"))))
    assert isinstance(hello, client_hello.ClientHello)
    assert ((), b"a") == (hello.groups, hello.server_name)


@pytest.mark.parametrize("length", [0, 8, 10, 0xFFFF])
def test_the_total_length_of_extensions_must_be_right(length: int) -> None:
    """A length that leaves bytes over, or promises more than the message has, is a refusal."""
    body = message(sni(b""))
    at = len(body) - len(sni(b"")) - 2
    stream = records(body[:at] + u16(length) + body[at + 2 :])
    assert "extensions length error" == declined(stream)
