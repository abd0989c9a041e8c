"""PROXY protocol headers are read as nginx reads them and written as nginx writes them."""

import pytest

from ngxstream.wire import proxy_protocol, reader

SRC = ("192.0.2.1", 40000)
DST = ("198.51.100.2", 443)
SRC6 = ("2001:db8::1", 40000, 0, 0)
DST6 = ("2001:db8::2", 443, 0, 0)

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\n"


def v2(body: bytes, command: int = 0x21, kind: int = 0x11) -> bytes:
    """Write a version 2 header around any body."""
    head = proxy_protocol.SIGNATURE + bytes((command, kind))
    return head + len(body).to_bytes(2, "big") + body


INET_BODY = bytes.fromhex("c0000201 c6336402 9c40 01bb")


def read(data: bytes, *transports: int) -> proxy_protocol.ProxyHeader:
    """Parse what must be a whole header."""
    header = proxy_protocol.parse(data, transports or (proxy_protocol.STREAM,))
    assert isinstance(header, proxy_protocol.ProxyHeader)
    return header


def refusal(data: bytes) -> str:
    """Parse what must be refused and return the words."""
    with pytest.raises(proxy_protocol.BrokenHeader) as refused:
        proxy_protocol.parse(data)
    return str(refused.value)


# --- version 1 in ---------------------------------------------------------------------------


def test_a_v1_line_gives_both_ends_and_its_length() -> None:
    """A TCP4 line tells client and server and leaves what follows it alone."""
    expected = proxy_protocol.ProxyHeader(
        version=1,
        command=proxy_protocol.PROXY,
        family=proxy_protocol.INET,
        transport=proxy_protocol.STREAM,
        length=len(V1),
        has_client=True,
        src_addr="192.0.2.1",
        src_port=40000,
        dst_addr="198.51.100.2",
        dst_port=443,
    )
    assert expected == read(V1 + b"payload")


def test_v1_addresses_are_kept_as_sent() -> None:
    """Only the characters of an address are checked, as nginx does; the text is not touched."""
    header = read(b"PROXY TCP6 2001:DB8:0::1 dead.beef 001 65535\r\n")
    assert ("2001:DB8:0::1", "dead.beef") == (header.src_addr, header.dst_addr)
    assert (proxy_protocol.INET6, 1, 65535) == (header.family, header.src_port, header.dst_port)


@pytest.mark.parametrize("line", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b 1 2\r\n"])
def test_a_v1_unknown_line_is_skipped(line: bytes) -> None:
    """UNKNOWN is a header without a client, whatever stands before its end."""
    header = read(line + b"x")
    assert (False, len(line)) == (header.has_client, header.length)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1"),
        (b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", "PROXY UDP4 1.1.1.1 2.2.2.2 1 2"),
        (b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", "PROXY TCP5 1.1.1.1 2.2.2.2 1 2"),
        (b"PROXY TCP4 1.1.1.g 2.2.2.2 1 2\r\n", "PROXY TCP4 1.1.1.g 2.2.2.2 1 2"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 1\r\n", "PROXY TCP4 1.1.1.1 2.2.2.2 65536 1"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2  1\r\n", "PROXY TCP4 1.1.1.1 2.2.2.2  1"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", "PROXY TCP4 1.1.1.1 2.2.2.2 1 2"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rx", "PROXY TCP4 1.1.1.1 2.2.2.2 1 2"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n", "PROXY TCP4 1.1.1.1 2.2.2.2 -1 2"),
        (b"proxy tcp4 ", "proxy tcp4 "),
        (b"\r\nGET", ""),
        (b"\x16\x03\x01\x1b[2J\xff", "\x16\x03\x01\x1b[2J\udcff"),
    ],
)
def test_what_is_no_header_is_refused_in_nginxs_words(data: bytes, shown: str) -> None:
    """The refusal quotes the first line; what is not to be printed is the log's to escape."""
    assert f'broken header: "{shown}"' == refusal(data)


@pytest.mark.parametrize(
    "data",
    [b"PROXY T", b"PROXY TCP4 1.1", b"PROXY UNKNOWN junk", V1[:-1], b"", b"P", b"\r\n\r"],
)
def test_a_header_in_pieces_is_waited_for(data: bytes) -> None:
    """The beginning of a header asks for more, where nginx would refuse it."""
    assert proxy_protocol.parse(data) is reader.NEED_MORE


@pytest.mark.parametrize("data", [b"PROXX", b"PROXY TCP4 z", b"PROXY TCP4 1 2 99999", b"\r\n\rx"])
def test_a_refusal_does_not_wait(data: bytes) -> None:
    """The first byte that rules a header out ends the wait."""
    refusal(data)


@pytest.mark.parametrize("start", [b"PROXY UNKNOWN ", b"PROXY TCP4 "])
def test_a_v1_line_longer_than_the_format_allows_is_refused(start: bytes) -> None:
    """A line that is not over after 107 bytes is no header; one of exactly 107 is."""
    long = start + b"1" * (107 - len(start))
    refusal(long)
    assert 107 == read(b"PROXY UNKNOWN" + b"1" * 92 + b"\r\n").length


# --- version 2 in ---------------------------------------------------------------------------


def test_a_v2_header_gives_both_ends_and_its_tlvs() -> None:
    """An INET STREAM header tells client, server and the raw TLVs after them."""
    data = v2(INET_BODY + b"\x04\x00\x01x")
    expected = proxy_protocol.ProxyHeader(
        version=2,
        command=proxy_protocol.PROXY,
        family=proxy_protocol.INET,
        transport=proxy_protocol.STREAM,
        length=len(data),
        has_client=True,
        src_addr="192.0.2.1",
        src_port=40000,
        dst_addr="198.51.100.2",
        dst_port=443,
        tlvs=b"\x04\x00\x01x",
    )
    assert expected == read(data + b"payload")


def test_a_v2_header_is_read_from_a_view() -> None:
    """A memoryview over the receive buffer serves as well as bytes."""
    data = v2(INET_BODY)
    header = proxy_protocol.parse(memoryview(bytearray(data + b"p")))
    assert read(data) == header


@pytest.mark.parametrize(
    ("command", "kind"),
    [(0x20, 0x11), (0x20, 0x00), (0x22, 0x11), (0x21, 0x12), (0x21, 0x31), (0x21, 0x01)],
)
def test_v2_headers_without_a_believable_client_are_skipped(command: int, kind: int) -> None:
    """LOCAL, another transport and another family are headers, but name no client."""
    data = v2(INET_BODY, command, kind)
    header = read(data)
    assert (False, "", b"", len(data)) == (
        header.has_client,
        header.src_addr,
        header.tlvs,
        header.length,
    )


def test_a_datagram_header_is_believed_where_datagrams_are_read() -> None:
    """A DGRAM header names its client to a caller that asks for DGRAM."""
    header = read(v2(INET_BODY, kind=0x12), proxy_protocol.DGRAM)
    assert (True, "192.0.2.1", 40000) == (header.has_client, header.src_addr, header.src_port)


def test_a_v2_inet6_header_prints_addresses_as_text() -> None:
    """IPv6 addresses are written in their short form, v4-mapped ones with dots."""
    body = (
        bytes.fromhex("20010db8000000000000000000000001") + bytes(10) + b"\xff\xff\x01\x02\x03\x04"
    )
    header = read(v2(body + b"\x00\x01\x00\x02", kind=0x21))
    assert ("2001:db8::1", "::ffff:1.2.3.4") == (header.src_addr, header.dst_addr)


def test_another_v2_version_is_refused_by_number() -> None:
    """A signature with a version that is not 2 is refused before the rest has come."""
    expected = "unknown PROXY protocol version: 3"
    assert expected == refusal(v2(INET_BODY, 0x31)[:13])


def test_a_v2_header_larger_than_4096_is_refused() -> None:
    """16 + 4080 bytes are waited for, one more is too large."""
    fits = v2(b"", kind=0)[:14] + (4080).to_bytes(2, "big")
    assert proxy_protocol.parse(fits) is reader.NEED_MORE
    assert "header is too large" == refusal(fits[:14] + (4081).to_bytes(2, "big"))


def test_a_v2_header_without_room_for_its_addresses_is_refused() -> None:
    """INET promises twelve bytes of addresses."""
    assert "PROXY protocol addresses are cut short" == refusal(v2(INET_BODY[:11]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", 'broken header: ""'),
        (b"PROXY TCP4 1.1", 'broken header: "PROXY TCP4 1.1"'),
        (v2(INET_BODY)[:12], 'broken header: ""'),
        (v2(INET_BODY)[:20], "header is too large"),
    ],
)
def test_a_datagram_must_hold_its_whole_header(data: bytes, words: str) -> None:
    """A header cut short is refused with the words nginx has for one that ends early."""
    with pytest.raises(proxy_protocol.BrokenHeader) as refused:
        proxy_protocol.parse_datagram(data)
    assert words == str(refused.value)


def test_a_datagram_header_says_where_the_payload_begins() -> None:
    """The payload of a datagram is what lies past the header's length."""
    datagram = proxy_protocol.build_v2(SRC, DST, proxy_protocol.DGRAM) + b"query"
    header = proxy_protocol.parse_datagram(memoryview(datagram))
    assert b"query" == datagram[header.length :]
    assert ("192.0.2.1", True) == (header.src_addr, header.has_client)


# --- TLVs -----------------------------------------------------------------------------------

SSL = proxy_protocol.build_ssl_tlv(
    proxy_protocol.CLIENT_SSL,
    1,
    proxy_protocol.build_tlv(0x21, b"TLSv1.3") + proxy_protocol.build_tlv(0x22, b"cn"),
)
TLVS = (
    proxy_protocol.build_tlv(0x01, b"h2")
    + proxy_protocol.build_tlv(0x02, b"example.com")
    + proxy_protocol.build_tlv(0x02, b"second")
    + SSL
    + proxy_protocol.build_tlv(0xE0, b"")
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpn", b"h2"),
        ("authority", b"example.com"),
        ("unique_id", None),
        ("netns", None),
        ("ssl", SSL[3:]),
        ("ssl_version", b"TLSv1.3"),
        ("ssl_cn", b"cn"),
        ("ssl_cipher", None),
        ("ssl_sig_alg", None),
        ("ssl_key_alg", None),
        ("ssl_0x22", b"cn"),
        ("ssl_verify", b"1"),
        ("0x02", b"example.com"),
        ("0xE0", b""),
        ("0xe1", None),
        ("0x1000", None),
    ],
)
def test_a_tlv_is_found_by_nginxs_names(name: str, value: bytes | None) -> None:
    """Names and hexadecimal types find the first TLV of their type, inside SSL or outside."""
    assert value == proxy_protocol.find_tlv(TLVS, name)


@pytest.mark.parametrize("name", ["cn", "verify", "ssl_alpn", "ssl_", "nothing", "", "0"])
def test_an_unknown_tlv_name_is_told(name: str) -> None:
    """A name of no TLV is unknown, in nginx's words."""
    with pytest.raises(proxy_protocol.UnknownTlv) as unknown:
        proxy_protocol.find_tlv(TLVS, name)
    assert f'unknown PROXY protocol TLV "{name}"' == str(unknown.value)


def test_an_ssl_name_is_not_looked_at_without_an_ssl_tlv() -> None:
    """Without an SSL TLV every ssl_ name finds nothing, as in nginx."""
    assert proxy_protocol.find_tlv(b"", "ssl_nothing") is None


@pytest.mark.parametrize("name", ["0x", "0xzz", "0x-1", "ssl_0x"])
def test_a_hexadecimal_name_without_a_number_is_invalid(name: str) -> None:
    """0x must be followed by hexadecimal digits alone."""
    with pytest.raises(proxy_protocol.TlvError) as invalid:
        proxy_protocol.find_tlv(TLVS, name)
    assert f'invalid PROXY protocol TLV "{name}"' == str(invalid.value)


@pytest.mark.parametrize(
    ("tlvs", "name"),
    [
        (b"\x01", "alpn"),
        (b"\x01\x00", "alpn"),
        (b"\x01\x00\x02x", "alpn"),
        (b"\x20\x00\x04abcd", "ssl_cn"),
        (b"\x20\x00\x06abcde\x22", "ssl_cn"),
    ],
)
def test_tlvs_that_do_not_add_up_are_broken(tlvs: bytes, name: str) -> None:
    """A TLV that is longer than what is left fails the look-up."""
    with pytest.raises(proxy_protocol.TlvError) as broken:
        proxy_protocol.find_tlv(tlvs, name)
    assert "broken PROXY protocol TLV" == str(broken.value)


def test_a_tlv_before_the_broken_one_is_found() -> None:
    """The look-up stops at the first of its type and does not see what is broken behind it."""
    assert b"h2" == proxy_protocol.find_tlv(proxy_protocol.build_tlv(1, b"h2") + b"\x02", "alpn")


# --- out ------------------------------------------------------------------------------------


def test_v2_to_a_udp_upstream_equals_nginxs_bytes() -> None:
    """The header before the datagram ``data`` is the one captured from nginx."""
    captured = bytes.fromhex(
        "0d0a0d0a000d0a515549540a211200137f0000017f0000019d3a5213030004d3595c96"
    )
    built = proxy_protocol.build_v2(
        ("127.0.0.1", 40250), ("127.0.0.1", 21011), proxy_protocol.DGRAM
    )
    assert captured == built


@pytest.mark.parametrize(
    ("src", "dst", "line"),
    [
        (SRC, DST, V1),
        (SRC6, DST6, b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\n"),
        (("fe80::1%eth0", 1, 0, 2), DST6, b"PROXY TCP6 fe80::1 2001:db8::2 1 443\r\n"),
        ("", "/run/a.sock", b"PROXY UNKNOWN\r\n"),
    ],
)
def test_v1_is_written_for_the_clients_family(
    src: proxy_protocol.SocketAddress, dst: proxy_protocol.SocketAddress, line: bytes
) -> None:
    """The line names TCP4 or TCP6 by the client; a unix client is UNKNOWN."""
    assert line == proxy_protocol.build_v1(src, dst)


@pytest.mark.parametrize(
    ("src", "dst", "kind", "addresses"),
    [
        (SRC, DST, 0x11, "c0000201c6336402"),
        (SRC6, DST6, 0x21, "20010db8" + "0" * 22 + "01" + "20010db8" + "0" * 22 + "02"),
        (SRC, DST6, 0x21, "0" * 20 + "ffffc0000201" + "20010db8" + "0" * 22 + "02"),
        (SRC6, DST, 0x21, "20010db8" + "0" * 22 + "01" + "0" * 20 + "ffffc6336402"),
        (("::ffff:192.0.2.1", 40000, 0, 0), ("::ffff:198.51.100.2", 443, 0, 0), 0x11,
         "c0000201c6336402"),
        (("::ffff:192.0.2.1", 40000, 0, 0), DST, 0x21,
         "0" * 20 + "ffffc0000201" + "0" * 20 + "ffffc6336402"),
    ],
)  # fmt: skip
def test_v2_families_are_promoted_and_demoted(
    src: proxy_protocol.SocketAddress, dst: proxy_protocol.SocketAddress, kind: int, addresses: str
) -> None:
    """Mixed families are written as IPv6; only two v4-mapped IPv6 addresses become IPv4."""
    built = proxy_protocol.build_v2(src, dst)
    assert bytes((0x21, kind)) == built[12:14]
    assert bytes.fromhex(addresses + "9c4001bb") == built[16:-7]


@pytest.mark.parametrize(("src", "dst"), [("", "/run/a.sock"), (b"\0abstract", DST)])
def test_v2_without_ip_addresses_is_local(
    src: proxy_protocol.SocketAddress, dst: proxy_protocol.SocketAddress
) -> None:
    """Anything but IP is LOCAL, UNSPEC and a checksum."""
    built = proxy_protocol.build_v2(src, dst, proxy_protocol.DGRAM)
    assert (b"\x20\x00\x00\x07\x03\x00\x04", 23) == (built[12:19], len(built))


def test_v2_carries_tlvs_before_the_checksum() -> None:
    """TLVs written out are read back, the checksum last."""
    header = read(proxy_protocol.build_v2(SRC, DST, tlvs=TLVS))
    assert TLVS == header.tlvs[:-7]
    assert 4 == len(proxy_protocol.find_tlv(header.tlvs, "0x03") or b"")


def test_a_v2_header_that_would_be_too_large_is_not_written() -> None:
    """A header no nginx would read is an error of the caller."""
    with pytest.raises(ValueError, match="too large"):
        proxy_protocol.build_v2(SRC, DST, tlvs=bytes(4096))


# --- checksum -------------------------------------------------------------------------------


@pytest.mark.parametrize("tlvs", [b"", TLVS])
def test_a_written_header_passes_its_checksum(tlvs: bytes) -> None:
    """What build_v2 writes, verify_crc32c accepts, for any family."""
    for src, dst in ((SRC, DST), (SRC6, DST6), ("", "")):
        assert proxy_protocol.verify_crc32c(proxy_protocol.build_v2(src, dst, tlvs=tlvs)) is True


def test_every_changed_bit_fails_the_checksum() -> None:
    """No single bit of addresses, TLVs or checksum can change unseen."""
    built = proxy_protocol.build_v2(SRC, DST, tlvs=proxy_protocol.build_tlv(1, b"h2"))
    for at in range(16, len(built)):
        for bit in range(8):
            changed = bytearray(built)
            changed[at] ^= 1 << bit
            assert proxy_protocol.verify_crc32c(changed) is not True


def test_a_header_without_a_checksum_is_not_judged() -> None:
    """No checksum TLV is neither right nor wrong."""
    assert proxy_protocol.verify_crc32c(v2(INET_BODY)) is None
    assert proxy_protocol.verify_crc32c(v2(b"", 0x20, 0)) is None


@pytest.mark.parametrize("tail", [b"\x03\x00\x03abc", b"\x03", b"\x03\x00\x04abc"])
def test_a_malformed_checksum_fails(tail: bytes) -> None:
    """A checksum of another size, or one cut off, is wrong."""
    assert proxy_protocol.verify_crc32c(v2(INET_BODY + tail)) is False
