"""DNS questions are written and answers read as RFC 1035 lays them out."""

import pytest

from ngxstream.wire import dns, reader

QUESTION = dns.Question("www.Example.com.", dns.A)
ECHO = b"\x03www\x07example\x03com\0\0\x01\0\x01"


def header(
    *, ident: int = 7, flags: int = 0x8180, questions: int = 1, answers: int = 0, rest: int = 0
) -> bytes:
    """Write a response header."""
    words = (ident, flags, questions, answers, rest, rest)
    return b"".join(word.to_bytes(2, "big") for word in words)


def record(kind: int, body: bytes, name: bytes = b"\xc0\x0c", ttl: int = 60) -> bytes:
    """Write one record; by default its owner is a pointer to the question."""
    fixed = kind.to_bytes(2, "big") + b"\0\x01" + ttl.to_bytes(4, "big")
    return name + fixed + len(body).to_bytes(2, "big") + body


def response(*records: bytes, echo: bytes = ECHO, flags: int = 0x8180) -> bytes:
    """Write a whole response to QUESTION."""
    return header(answers=len(records), flags=flags) + echo + b"".join(records)


def refusal(data: bytes) -> str:
    """Parse what must be refused and return the words."""
    with pytest.raises(dns.DnsError) as refused:
        dns.parse(data)
    return str(refused.value)


# --- questions ------------------------------------------------------------------------------


def test_a_query_asks_one_question_recursively() -> None:
    """Identifier, the recursion flag, one question, nothing else."""
    expected = (
        bytes.fromhex("1234 0100 0001 0000 0000 0000") + b"\x03www\x07Example\x03com\0\0\x01\0\x01"
    )
    assert expected == dns.build_query(0x1234, QUESTION)


@pytest.mark.parametrize(
    ("kind", "code"), [(dns.A, 1), (dns.CNAME, 5), (dns.PTR, 12), (dns.AAAA, 28), (dns.SRV, 33)]
)
def test_every_kind_is_asked_by_its_number(kind: int, code: int) -> None:
    """The question ends with the record type's number and class IN."""
    assert bytes((0, code, 0, 1)) == dns.build_query(1, dns.Question("a", kind))[-4:]


@pytest.mark.parametrize("name", ["", ".", "a..b", ".a", "a" * 64, ".".join(["a" * 49] * 6)])
def test_a_name_without_a_wire_form_is_refused(name: str) -> None:
    """Labels of 1 to 63 bytes and names up to 255 are all that DNS can carry."""
    with pytest.raises(dns.DnsError) as refused:
        dns.build_query(1, dns.Question(name, dns.A))
    assert f'invalid domain name "{name}"' == str(refused.value)


def test_the_longest_name_is_written() -> None:
    """255 bytes on the wire are still a name."""
    assert 255 == len(dns.name_to_wire(".".join(["a" * 63] * 3 + ["a" * 61])))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.5", "5.2.0.192.in-addr.arpa"),
        ("2001:db8::1", "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"),
    ],
)
def test_an_address_has_a_reverse_name(address: str, name: str) -> None:
    """PTR questions ask for the address backwards under arpa."""
    assert name == dns.reverse_name(address)


def test_only_an_address_has_a_reverse_name() -> None:
    """A host name cannot be turned around."""
    with pytest.raises(dns.DnsError, match='invalid address "localhost"'):
        dns.reverse_name("localhost")


# --- answers --------------------------------------------------------------------------------


def test_addresses_come_out_as_text() -> None:
    """A and AAAA records give address texts with their TTL."""
    parsed = dns.parse(
        response(record(dns.A, b"\xc0\0\x02\x01"), record(dns.AAAA, bytes(15) + b"\x01", ttl=5))
    )
    assert dns.Response(
        ident=7,
        rcode=dns.NOERROR,
        truncated=False,
        question=dns.Question("www.example.com", dns.A),
        records=(
            dns.Record("www.example.com", dns.A, 60, "192.0.2.1"),
            dns.Record("www.example.com", dns.AAAA, 5, "::1"),
        ),
    ) == (parsed)


def test_names_in_values_may_be_compressed() -> None:
    """CNAME, PTR and SRV values end in pointers into the message."""
    records = dns.parse(
        response(
            record(dns.CNAME, b"\x01W\xc0\x10"),
            record(dns.PTR, b"\xc0\x0c"),
            record(dns.SRV, b"\0\x01\0\x02\x00\x35\x02ns\xc0\x18"),
        )
    ).records
    assert [
        "w.example.com",
        "www.example.com",
        dns.Srv(1, 2, 53, "ns.com"),
    ] == [one.value for one in records]


def test_the_root_is_an_empty_name() -> None:
    """SRV says `not here` with the root as its target."""
    value = dns.parse(response(record(dns.SRV, bytes(6) + b"\0"))).records[0].value
    assert dns.Srv(0, 0, 0, "") == value


def test_records_of_other_kinds_are_passed_over() -> None:
    """A signature or a text between the addresses does no harm."""
    parsed = dns.parse(response(record(46, b"signed"), record(dns.A, b"\1\2\3\4"), record(39, b"")))
    assert ["1.2.3.4"] == [one.value for one in parsed.records]


def test_a_ttl_with_the_top_bit_is_zero() -> None:
    """A TTL beyond 2^31 counts as none."""
    assert 0 == dns.parse(response(record(dns.A, b"\1\2\3\4", ttl=1 << 31))).records[0].ttl


def test_a_truncated_response_says_so_and_is_not_read_further() -> None:
    """The TC flag leaves no records, however the rest was cut."""
    parsed = dns.parse(response(record(dns.A, b"\1\2\3\4")[:8], flags=0x8380))
    assert (True, ()) == (parsed.truncated, parsed.records)


@pytest.mark.parametrize("rcode", [1, 2, 3, 4, 5, 9])
def test_an_error_code_is_told(rcode: int) -> None:
    """The low four bits of the flags are the response code."""
    assert rcode == dns.parse(response(flags=0x8180 | rcode)).rcode


def test_a_server_that_could_not_read_the_question_need_not_repeat_it() -> None:
    """Format error without a question is an answer to whatever was asked."""
    parsed = dns.parse_answer(header(flags=0x8181, questions=0), 7, QUESTION)
    assert (dns.FORMERR, None) == (parsed.rcode, parsed.question)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "short DNS response"),
        (header()[:11], "short DNS response"),
        (header(flags=0x0100) + ECHO, "invalid DNS response 7 fl:0100"),
        (header(flags=0x9180) + ECHO, "invalid DNS response 7 fl:9180"),
        (header(questions=0), "invalid number of questions in DNS response"),
        (header(questions=2) + ECHO + ECHO, "invalid number of questions in DNS response"),
        (header() + ECHO[:-1], "short DNS response"),
        (header() + ECHO[:-1] + b"\x03", "unknown query class 3 in DNS response"),
        (header(answers=1) + ECHO, "short DNS response"),
        (response(record(dns.A, b"\1\2\3")), "invalid record of type 1 in DNS response"),
        (response(record(dns.A, b"\1\2\3\4\5")), "invalid record of type 1 in DNS response"),
        (response(record(dns.AAAA, bytes(4))), "invalid record of type 28 in DNS response"),
        (response(record(dns.CNAME, b"\x05abc")), "invalid record of type 5 in DNS response"),
        (response(record(dns.SRV, bytes(6))), "invalid record of type 33 in DNS response"),
        (response(record(dns.A, b"\1\2\3\4")[:-1]), "short DNS response"),
        (response(record(dns.A, b"\1\2\3\4", name=b"\x40")), "invalid label in DNS response"),
        (response(b"\0\0\x01\0\x03" + bytes(6)), "unexpected RR class 3 in DNS response"),
    ],
)
def test_a_message_that_is_no_response_is_refused(data: bytes, words: str) -> None:
    """Each way of being wrong has its words."""
    assert words == refusal(data)


@pytest.mark.parametrize("name", [b"\xc0\x21", b"\x01a\xc0\x21", b"\xff\xff", b"\xc0\x23\xc0\x21"])
def test_a_pointer_may_only_lead_backwards(name: bytes) -> None:
    """A pointer to itself, to its own labels or forward is refused: it could loop."""
    expected = "invalid compression pointer in DNS response"
    assert expected == refusal(response(record(dns.A, b"\1\2\3\4", name=name)))


def test_pointers_to_pointers_are_followed_while_they_lead_backwards() -> None:
    """A chain of pointers ends, since each leads before the one it came from."""
    first = record(dns.CNAME, b"\xc0\x0c")  # value at 12 + 21 + 12
    second = record(dns.CNAME, b"\xc0\x2d")
    records = dns.parse(response(first, second)).records
    assert ["www.example.com", "www.example.com"] == [one.value for one in records]


@pytest.mark.parametrize(("count", "is_refused"), [(127, False), (128, True), (8000, True)])
def test_a_name_has_no_more_pointers_than_it_can_have_labels(count: int, is_refused: bool) -> None:
    """A record of nothing but pointers shall not keep a worker busy for every name in it."""
    start = 12 + len(ECHO) + 12  # of the data of the first record
    places = [12, *range(start, start + 2 * (count - 2), 2)]
    chain = b"".join((0xC000 | place).to_bytes(2, "big") for place in places)
    hidden = record(dns.A, chain)[:2] + b"\0\x10" + record(dns.A, chain)[4:]  # a TXT record
    last = (0xC000 | start + 2 * (count - 2)).to_bytes(2, "big")
    message = response(hidden, record(dns.A, bytes(4), name=last))
    if is_refused:
        assert "invalid compression pointer in DNS response" == refusal(message)
    else:
        assert "www.example.com" == dns.parse(message).records[0].name


def test_a_name_may_not_outgrow_dns_through_pointers() -> None:
    """Labels gathered by pointers count towards the 255 bytes."""
    label = b"\x3f" + b"a" * 63
    first = record(46, b"")[:-2]
    echo = label * 3 + b"\0\0\x01\0\x01"
    data = header(answers=1) + echo + label + b"\xc0\x0c" + first[2:] + b"\0\0"
    assert "too long domain name in DNS response" == refusal(data)


# --- whose answer ---------------------------------------------------------------------------


def test_an_answer_to_the_question_is_taken_in_any_case() -> None:
    """Names compare without regard to case or to a trailing dot."""
    data = response(record(dns.A, b"\1\2\3\4"), echo=ECHO.replace(b"www", b"wWw"))
    assert 1 == len(dns.parse_answer(data, 7, QUESTION).records)


@pytest.mark.parametrize(
    ("ident", "question"),
    [
        (8, QUESTION),
        (7, dns.Question("example.com", dns.A)),
        (7, dns.Question("www.example.com", dns.AAAA)),
    ],
)
def test_an_answer_to_something_else_is_not_ours(ident: int, question: dns.Question) -> None:
    """Another identifier, name or type marks a late or forged response."""
    with pytest.raises(dns.NotOurs):
        dns.parse_answer(response(record(dns.A, b"\1\2\3\4")), ident, question)


def test_the_identifier_can_be_read_alone() -> None:
    """The caller may look the question up before parsing."""
    assert 7 == dns.ident_of(header())
    with pytest.raises(dns.DnsError):
        dns.ident_of(header()[:11])


# --- aliases --------------------------------------------------------------------------------


def test_addresses_are_found_behind_aliases() -> None:
    """A chain of CNAMEs, in any order, leads to the addresses; the shortest TTL counts."""
    data = response(
        record(dns.A, b"\1\2\3\4", name=b"\x01b\0", ttl=90),
        record(dns.CNAME, b"\x01b\0", name=b"\x01a\0", ttl=30),
        record(dns.CNAME, b"\x01a\0", ttl=60),
        record(dns.A, b"\4\3\2\1", name=b"\x01b\0", ttl=80),
    )
    assert dns.Found("b", 30, ("1.2.3.4", "4.3.2.1")) == dns.follow(dns.parse(data))


def test_an_alias_out_of_the_answer_is_told() -> None:
    """If the target's records are not there, its name is what to ask next."""
    found = dns.follow(dns.parse(response(record(dns.CNAME, b"\x01a\0", ttl=9))))
    assert dns.Found("a", 9, ()) == found


def test_records_of_other_names_are_not_believed() -> None:
    """An address for a name nobody asked about is left where it is."""
    data = response(record(dns.A, b"\1\2\3\4", name=b"\x04evil\0"))
    assert dns.Found("www.example.com", 0, ()) == dns.follow(dns.parse(data))


def test_a_loop_of_aliases_ends() -> None:
    """Two aliases for each other find nothing."""
    data = response(record(dns.CNAME, b"\x01a\0"), record(dns.CNAME, b"\xc0\x0c", name=b"\x01a\0"))
    assert () == dns.follow(dns.parse(data)).values


def test_a_response_without_a_question_finds_nothing() -> None:
    """A format error has no name to look for."""
    parsed = dns.parse(header(flags=0x8181, questions=0))
    assert dns.Found("", 0, ()) == dns.follow(parsed)


# --- TCP and words --------------------------------------------------------------------------


def test_a_framed_message_is_taken_out_of_the_stream() -> None:
    """Over TCP a length goes first; bytes of the next message are left."""
    stream = dns.frame(b"abc") + b"\0"
    for end in range(5):
        assert dns.unframe(stream[:end]) is reader.NEED_MORE
    assert b"abc" == dns.unframe(stream)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "Format error"),
        (2, "Server failure"),
        (3, "Host not found"),
        (4, "Unimplemented"),
        (5, "Operation refused"),
        (110, "Operation timed out"),
        (6, "Unknown error"),
    ],
)
def test_codes_have_nginxs_words(code: int, words: str) -> None:
    """Response codes are described as nginx's log describes them."""
    assert words == dns.strerror(code)
