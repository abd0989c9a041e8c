"""DNS questions are written and answers read as RFC 1035 lays them out."""

import pytest

from ngxstream.wire import dns, dns_names, reader
from tests.support.work import lines_run

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


def values(message: bytes) -> list[object]:
    """Parse and return the values of the records."""
    return [one.value for one in dns.parse(message).records]


WWW = b"\x03www\x07example\x03com\0"


def refusal(data: bytes) -> str:
    """Parse what must be refused and return the words."""
    with pytest.raises(dns_names.DnsError) as refused:
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
    with pytest.raises(dns_names.DnsError) as refused:
        dns.build_query(1, dns.Question(name, dns.A))
    assert f'invalid domain name "{name}"' == str(refused.value)


# --- answers --------------------------------------------------------------------------------


def test_addresses_are_read_with_their_time_to_live() -> None:
    """A and AAAA records give packed addresses, names stay as they are on the wire."""
    parsed = dns.parse(
        response(record(dns.A, b"\xc0\0\x02\x01"), record(dns.AAAA, bytes(15) + b"\x01", ttl=5))
    )
    assert dns.Response(
        ident=7,
        rcode=dns.NOERROR,
        truncated=False,
        asked=WWW,
        kind=dns.A,
        records=(
            dns.Record(WWW, dns.A, 60, b"\xc0\0\x02\x01"),
            dns.Record(WWW, dns.AAAA, 5, bytes(15) + b"\x01"),
        ),
    ) == (parsed)


@pytest.mark.parametrize(
    ("kind", "body", "text"), [(dns.A, b"\xc0\0\x02\x01", "192.0.2.1"), (dns.AAAA, bytes(16), "::")]
)
def test_addresses_are_found_as_text(kind: int, body: bytes, text: str) -> None:
    """What was asked for is spelled for people."""
    echo = WWW + kind.to_bytes(2, "big") + b"\0\x01"
    assert (text,) == dns.follow(dns.parse(response(record(kind, body), echo=echo))).values


def test_names_in_values_may_be_compressed() -> None:
    """CNAME, PTR and SRV values end in pointers into the message."""
    message = response(
        record(dns.CNAME, b"\x01W\xc0\x10"),
        record(dns.PTR, b"\xc0\x0c"),
        record(dns.SRV, b"\0\x01\0\x02\x00\x35\x02ns\xc0\x18"),
    )
    assert [
        b"\x01w\x07example\x03com\0",
        WWW,
        dns.SrvData(1, 2, 53, b"\x02ns\x03com\0"),
    ] == values(message)


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (dns.PTR, b"\x01W\xc0\x10", "w.example.com"),
        (dns.SRV, b"\0\x01\0\x02\x00\x35\x02ns\xc0\x18", dns.Srv(1, 2, 53, "ns.com")),
        (dns.SRV, bytes(6) + b"\0", dns.Srv(0, 0, 0, "")),
    ],
)
def test_names_that_were_asked_for_are_found_as_text(
    kind: int, body: bytes, expected: object
) -> None:
    """Names are in lower case; the root is the empty one, by which SRV says `not here`."""
    echo = WWW + kind.to_bytes(2, "big") + b"\0\x01"
    assert (expected,) == dns.follow(dns.parse(response(record(kind, body), echo=echo))).values


@pytest.mark.parametrize("label", [b"\x03a.b", b"\x01.", b"\x2e" + b"a" * 45 + b"."])
def test_a_label_with_a_dot_inside_has_no_text(label: bytes) -> None:
    """An alias that would be asked for as another name is refused."""
    parsed = dns.parse(response(record(dns.CNAME, label + b"\xc0\x10")))
    with pytest.raises(dns_names.DnsError, match="invalid label in DNS response"):
        dns.follow(parsed)


def test_a_label_with_a_dot_inside_is_not_two_labels() -> None:
    r"""A record of `www\.example.com` is not one of www.example.com."""
    data = response(record(dns.A, b"\1\2\3\4", name=b"\x0bwww.example\x03com\0"))
    assert () == dns.follow(dns.parse(data)).values


def test_records_of_other_kinds_are_passed_over() -> None:
    """A signature or a text between the addresses does no harm."""
    parsed = dns.parse(response(record(46, b"signed"), record(dns.A, b"\1\2\3\4"), record(39, b"")))
    assert [b"\1\2\3\4"] == [one.value for one in parsed.records]


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
    parsed = dns.parse(header(flags=0x8181, questions=0), 7, QUESTION)
    assert (dns.FORMERR, None) == (parsed.rcode, parsed.asked)


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
    assert [WWW, WWW] == values(response(first, second))


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
        assert dns.parse(message).records[0].owner == WWW


@pytest.mark.parametrize(("count", "is_refused"), [(127, False), (128, True)])
def test_pointers_count_through_names_that_were_read_before(count: int, is_refused: bool) -> None:
    """Each owner is a pointer to the owner before it; a name read before is not free of them."""
    places = [12, *range(12 + len(ECHO), 12 + len(ECHO) + 16 * (count - 1), 16)]
    owners = [(0xC000 | place).to_bytes(2, "big") for place in places]
    message = response(*[record(dns.A, b"\1\2\3\4", name=owner) for owner in owners])
    if is_refused:
        assert "invalid compression pointer in DNS response" == refusal(message)
    else:
        assert [WWW] * count == [one.owner for one in dns.parse(message).records]


def test_a_name_may_not_outgrow_dns_through_pointers() -> None:
    """Labels gathered by pointers count towards the 255 bytes."""
    label = b"\x3f" + b"a" * 63
    first = record(46, b"")[:-2]
    echo = label * 3 + b"\0\0\x01\0\x01"
    data = header(answers=1) + echo + label + b"\xc0\x0c" + first[2:] + b"\0\0"
    assert "too long domain name in DNS response" == refusal(data)


LABELS = [b"\x32" + b"a" * 50] * 4 + [b"\x31" + b"b" * 49]  # with the root 255 bytes


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("extra", [b"", b"c"])
def test_a_name_of_255_bytes_is_read_and_one_of_256_is_not(
    kept: int, again: bool, extra: bytes
) -> None:
    """The root counts, and what a pointer leads to, the first time and later."""
    labels = [*LABELS]
    if extra:
        labels[4 - kept] = bytes((labels[4 - kept][0] + 1,)) + labels[4 - kept][1:] + extra
    question = b"".join(labels[5 - kept :]) + b"\0"  # the last labels, which a pointer leads to
    owner = b"".join(labels[: 5 - kept]) + (b"\xc0\x0c" if kept else b"\0")
    names = [b"\xc0\x0c", owner] if again else [owner]
    records = [record(dns.A, b"\1\2\3\4", name=name) for name in names]
    message = response(*records, echo=question + b"\0\x01\0\x01")
    if extra:
        assert "too long domain name in DNS response" == refusal(message)
    else:
        assert dns.parse(message).records[-1].owner == b"".join(LABELS) + b"\0"


# --- bounds ---------------------------------------------------------------------------------


def many(count: int, *, owner: bytes = b"\xc0\x0c", echo: bytes = ECHO) -> bytes:
    """Write a response of so many addresses, or of as many as 65 535 bytes hold."""
    one = record(dns.A, b"\1\2\3\4", name=owner)
    count = min(count, (65535 - 12 - len(echo)) // len(one))
    return header(answers=count) + echo + one * count


@pytest.mark.parametrize(("count", "is_cut"), [(dns.RECORDS, False), (dns.RECORDS + 1, True)])
def test_no_more_records_are_read_than_allowed(count: int, is_cut: bool) -> None:
    """What is over the bound is left unread, and said to be there."""
    parsed = dns.parse(many(count))
    assert (dns.RECORDS, is_cut) == (len(parsed.records), parsed.is_cut)


def test_no_more_labels_are_walked_than_allowed() -> None:
    """Names that are not compressed end the reading after so many labels, not the answer."""
    parsed = dns.parse(many(9999, owner=b"\1a" * 127 + b"\0"))
    assert parsed.is_cut
    assert dns_names.STEPS // 128 - 1 == len(parsed.records)


def test_of_names_that_were_asked_for_no_more_are_spelled_than_allowed() -> None:
    """A thousand long targets would cost more than the response itself."""
    echo = b"\1a" * 126 + b"\0" + b"\0\x21\0\1"
    pointer = b"\xc0\x0e"
    parsed = dns.parse(response(*[record(dns.SRV, bytes(6) + b"\1b" + pointer)] * 200, echo=echo))
    assert 200 == len(parsed.records)
    assert -(-dns.SPELLED // 126) == len(dns.follow(parsed).values)


LONG = b"\1a" * 127 + b"\0"


def chained(count: int) -> tuple[bytes, bytes]:
    """Write a TXT record that is a chain of pointers, and a pointer to the last of them."""
    start = 12 + len(ECHO) + 12
    places = [12, *range(start, start + 2 * (count - 2), 2)]
    chain = b"".join((0xC000 | place).to_bytes(2, "big") for place in places)
    last = (0xC000 | start + 2 * (count - 2)).to_bytes(2, "big")
    return record(16, chain), last


def stairs() -> bytes:
    """Write records each of whose owners is a label more in front of the owner before."""
    parts: list[bytes] = []
    place = 12 + len(ECHO)
    for n in range(dns.RECORDS):
        leads_to = place - 18 if n % 110 else 12
        owner = b"\1a" + (0xC000 | leads_to).to_bytes(2, "big")
        parts.append(record(dns.A, b"\1\2\3\4", name=owner))
        place += len(parts[-1])
    return response(*parts[:900])


COSTLY = {
    "4 000 addresses": many(9999),
    "4 000 addresses of a long name": many(9999, echo=LONG + b"\0\x01\0\x01"),
    "long names in full": many(9999, owner=LONG),
    "a long chain of pointers": header(answers=3800)
    + ECHO + chained(127)[0] + record(dns.A, b"\1\2\3\4", name=chained(127)[1]) * 3799,
    "a name without an end": header(answers=1) + ECHO + b"\1a" * 32000,
    "labels without an end": header(answers=1) + b"\1a" * 32000,
    "aliases of long names": header(answers=4000) + LONG + b"\0\x01\0\x01"
    + record(dns.CNAME, b"\1b\xc0\x0e") * 4000,
    "aliases that end each other": header(answers=4000) + ECHO
    + record(dns.CNAME, b"\xc0\x0c") * 4000,
    "empty records": header(answers=5900) + ECHO + record(99, b"", name=b"\0") * 5900,
    "owners that lean on each other": stairs(),
    "services": header(answers=2900) + LONG[2:] + b"\0\x21\0\1"
    + record(dns.SRV, bytes(6) + b"\1b\xc0\x0c") * 2900,
}


@pytest.mark.parametrize("what", COSTLY)
def test_no_response_takes_long(what: str) -> None:
    """Some 2 ms of a worker for any 65 535 bytes: the lines of Python that run are counted."""

    def read() -> None:
        try:
            dns.follow(dns.parse(COSTLY[what]))
        except dns_names.DnsError:
            return

    assert lines_run(read) < 100_000


# --- whose answer ---------------------------------------------------------------------------


def test_an_answer_to_the_question_is_taken_in_any_case() -> None:
    """Names compare without regard to case or to a trailing dot."""
    data = response(record(dns.A, b"\1\2\3\4"), echo=ECHO.replace(b"www", b"wWw"))
    assert 1 == len(dns.parse(data, 7, QUESTION).records)


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
        dns.parse(response(record(dns.A, b"\1\2\3\4")), ident, question)


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
