"""Every wire parser keeps its contract on any bytes.

Given any bytes, whole or one more at a time, a parser returns an event, asks for more or raises
its own error; and how the bytes arrive changes nothing about how they end.
"""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from ngxstream.wire import client_hello, dns, dns_names, proxy_protocol, reader

Parse = Callable[[reader.Buffer], object]


def outcome(parse: Parse, own: type[reader.WireError], data: reader.Buffer) -> object:
    """Parse once: the event, NEED_MORE, or the class of the parser's own error."""
    try:
        return parse(data)
    except own as error:
        return type(error) if str(error) else "an error without words"


def keeps_contract(parse: Parse, own: type[reader.WireError], data: bytes) -> object:
    """Check that ``data`` ends the same way whole and byte by byte; return the outcome."""
    whole = outcome(parse, own, data)
    step: object = reader.NEED_MORE
    for end in range(len(data) + 1):
        step = outcome(parse, own, data[:end])
        if step is not reader.NEED_MORE:
            break
    assert whole == step
    assert whole == outcome(parse, own, memoryview(data))
    return whole


def mutated(valid: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Take valid input and cut, overwrite, insert or repeat a little of it."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(valid))
        for _ in range(draw(st.integers(0, 4))):
            at = draw(st.integers(0, len(data)))
            end = min(len(data), at + draw(st.integers(0, 4)))
            data[at:end] = draw(
                st.one_of(st.binary(max_size=4), st.sampled_from([b"\xff", b"\0\0", b" ", b"\r\n"]))
            )
        return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)

    return build()


# --- PROXY protocol -------------------------------------------------------------------------

ports = st.integers(0, 65535)
v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).map(str)
v4_ends = st.tuples(v4, ports)
v6_ends = st.tuples(v6, ports, st.just(0), st.just(0))
ends = st.one_of(v4_ends, v6_ends, st.just("/run/unix.sock"))
tlvs = st.lists(
    st.builds(proxy_protocol.build_tlv, st.integers(0, 255), st.binary(max_size=9)), max_size=3
).map(b"".join)
v1_headers = st.builds(proxy_protocol.build_v1, ends, ends)
v2_headers = st.builds(proxy_protocol.build_v2, ends, ends, st.sampled_from([1, 2]), tlvs)
headers = st.one_of(v1_headers, v2_headers, st.just(b"PROXY UNKNOWN a b\r\n"))
lookups = st.sampled_from(["alpn", "ssl", "ssl_cn", "ssl_verify", "0x04", "0x", "what", "ssl_0xe0"])


@given(st.one_of(st.binary(max_size=130), mutated(headers), headers))
def test_proxy_headers_keep_the_contract(data: bytes) -> None:
    """Any bytes are a header, the beginning of one, or refused."""
    keeps_contract(proxy_protocol.parse, proxy_protocol.BrokenHeader, data)


@given(headers, st.binary(max_size=20))
def test_a_written_proxy_header_is_read_and_its_payload_left(header: bytes, payload: bytes) -> None:
    """A header ends where it was written to end, whatever follows."""
    parsed = proxy_protocol.parse_datagram(header + payload)
    assert len(header) == parsed.length


@given(v4_ends, v4_ends)
def test_both_versions_tell_the_ends_they_were_given(
    src: tuple[str, int], dst: tuple[str, int]
) -> None:
    """Addresses and ports survive the way out and back in."""
    for header in (proxy_protocol.build_v1(src, dst), proxy_protocol.build_v2(src, dst)):
        parsed = proxy_protocol.parse_datagram(header)
        assert src == (parsed.src_addr, parsed.src_port)
        assert dst == (parsed.dst_addr, parsed.dst_port)


@given(st.one_of(st.binary(max_size=40), mutated(tlvs)), lookups)
def test_tlv_lookup_finds_nothing_or_something_or_fails_by_name(data: bytes, name: str) -> None:
    """Any TLV bytes give a value, none, or a TlvError."""
    found = outcome(
        lambda raw: proxy_protocol.find_tlv(bytes(raw), name), proxy_protocol.TlvError, data
    )
    assert found is None or isinstance(found, bytes | type)


@given(st.one_of(st.binary(max_size=60), mutated(v2_headers)))
def test_the_checksum_of_any_bytes_can_be_asked_for(data: bytes) -> None:
    """Verifying a checksum never fails, it only says no."""
    assert proxy_protocol.verify_crc32c(data) in (True, False, None)


# --- ClientHello ----------------------------------------------------------------------------


@st.composite
def extensions(draw: st.DrawFn) -> bytes:
    """Write one extension, of a kind that is looked into or not."""
    kind = draw(st.sampled_from([0, 10, 13, 16, 43, 51, 0xFE0D]))
    name = draw(st.binary(min_size=1, max_size=12))
    if kind == 0:
        body = b"\0" + len(name).to_bytes(2, "big") + name
        body = len(body).to_bytes(2, "big") + body
    elif kind == 16:
        body = bytes((len(name),)) + name
        body = len(body).to_bytes(2, "big") + body
    elif kind == 43:
        body = b"\x02\x03\x04"
    else:
        body = len(name).to_bytes(2, "big") + name
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


@st.composite
def hellos(draw: st.DrawFn) -> bytes:
    """Write a ClientHello over records of any size."""
    listed = b"".join(draw(st.lists(extensions(), max_size=4, unique_by=lambda one: one[:2])))
    body = b"\x03\x03" + bytes(32) + b"\x01s\0\x02\x13\x01\x01\0"
    if listed:
        body += len(listed).to_bytes(2, "big") + listed
    body = b"\x01" + len(body).to_bytes(3, "big") + body
    size = draw(st.integers(1, 200))
    return b"".join(
        b"\x16\x03\x01" + len(body[at : at + size]).to_bytes(2, "big") + body[at : at + size]
        for at in range(0, len(body), size)
    )


starts = st.sampled_from([b"", b"\x16\x03\x01", b"\x80\x2e\x01", b"\x16\x03\x01\0\x30\x01\0\0\x2c"])


@given(st.one_of(st.builds(bytes.__add__, starts, st.binary(max_size=90)), mutated(hellos())))
def test_client_hellos_keep_the_contract(data: bytes) -> None:
    """Any bytes are a hello, the beginning of one, or declined."""
    keeps_contract(lambda part: client_hello.Parser().feed(part), client_hello.NotClientHello, data)


@given(st.one_of(hellos(), mutated(hellos())), st.integers(1, 40))
def test_a_parser_that_goes_on_ends_as_one_that_starts_over(data: bytes, step: int) -> None:
    """Feeding a Parser in pieces of any size changes nothing about the answer."""
    parser = client_hello.Parser()
    fed: object = reader.NEED_MORE
    for end in [*range(0, len(data), step), len(data)]:
        fed = outcome(parser.feed, client_hello.NotClientHello, data[:end])
        if fed is not reader.NEED_MORE:
            break
    assert outcome(client_hello.Parser().feed, client_hello.NotClientHello, data) == fed


@given(hellos())
def test_a_well_formed_hello_is_one(data: bytes) -> None:
    """No well-formed hello is declined."""
    assert isinstance(client_hello.Parser().feed(data), client_hello.ClientHello)


# --- DNS ------------------------------------------------------------------------------------

labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)
owners = st.one_of(
    names.map(dns_names.to_wire),
    st.just(b"\xc0\x0c"),
    st.integers(12, 90).map(lambda n: bytes((192, n))),
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Write one record of a kind we read or not."""
    kind = draw(st.sampled_from([dns.A, dns.AAAA, dns.CNAME, dns.PTR, dns.SRV, 16, 41]))
    body = {dns.A: bytes(4), dns.AAAA: bytes(16), dns.SRV: bytes(6) + draw(owners)}.get(kind)
    if body is None:
        body = draw(owners)
    fixed = kind.to_bytes(2, "big") + b"\0\x01" + draw(st.binary(min_size=4, max_size=4))
    return draw(owners) + fixed + len(body).to_bytes(2, "big") + body


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Write a response to any question."""
    answers = draw(st.lists(records(), max_size=4))
    flags = draw(st.sampled_from([0x8180, 0x8183, 0x8580, 0x8380]))
    words = (draw(ports), flags, 1, len(answers), 0, 0)
    echo = dns_names.to_wire(draw(names)) + b"\0\x01\0\x01"
    return b"".join(word.to_bytes(2, "big") for word in words) + echo + b"".join(answers)


@given(st.one_of(st.binary(max_size=120), responses(), mutated(responses())))
def test_dns_messages_keep_the_contract(data: bytes) -> None:
    """Any datagram is a response or refused as DNS, and aliases in it can be followed."""
    parsed = outcome(dns.parse, dns_names.DnsError, data)
    if isinstance(parsed, dns.Response):
        assert isinstance(dns.follow(parsed), dns.Found)
        parsed = type(parsed)
    assert isinstance(parsed, type)


@given(ports, names, st.sampled_from([dns.A, dns.AAAA, dns.CNAME, dns.PTR, dns.SRV]))
def test_a_question_echoed_is_ours(ident: int, name: str, kind: int) -> None:
    """A server that returns the question with the response flag answers it."""
    question = dns.Question(name, kind)
    query = bytearray(dns.build_query(ident, question))
    query[2] |= 0x80
    parsed = dns.parse(query, ident, question)
    assert (kind, ()) == (parsed.kind, parsed.records)
    assert name == dns.follow(parsed).name


@given(st.lists(st.binary(max_size=12), max_size=4), st.binary(max_size=3))
def test_framed_messages_come_out_of_the_stream_in_order(
    messages: list[bytes], rest: bytes
) -> None:
    """Whatever is framed is unframed, and the stream is left at the next length."""
    stream = b"".join(map(dns.frame, messages)) + rest
    for message in messages:
        assert message == keeps_contract(dns.unframe, dns_names.DnsError, stream)
        stream = stream[2 + len(message) :]
    assert rest == stream
