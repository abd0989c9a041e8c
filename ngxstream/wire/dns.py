"""DNS messages for a client that asks one question at a time: queries out, responses in.

Answers for the message handling in core/ngx_resolver.c (ngx_resolver_create_*_query,
ngx_resolver_process_response); the format is RFC 1035 §4.  Names are text without the trailing
dot; response names are lower case, since DNS compares them so.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Final

from ngxstream.wire import reader

A: Final = 1
CNAME: Final = 5
PTR: Final = 12
AAAA: Final = 28
SRV: Final = 33

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
TIMEDOUT: Final = 110  # not on the wire: nginx counts a silent server among the codes

MAX_DATAGRAM: Final = 4096  # nginx reads no more (NGX_RESOLVER_UDP_SIZE)

_CLASS_IN: Final = 1
_POINTERS: Final = 127  # in one name: as many as it can have labels (nginx: 128)
_RECURSION_DESIRED: Final = 0x0100
_TRUNCATED: Final = 0x0200
_ERRORS: Final = {
    FORMERR: "Format error",
    SERVFAIL: "Server failure",
    NXDOMAIN: "Host not found",
    NOTIMP: "Unimplemented",
    REFUSED: "Operation refused",
    TIMEDOUT: "Operation timed out",
}


class DnsError(reader.WireError):
    """A DNS message that cannot be read, or a name that cannot be asked for."""


class NotOurs(DnsError):
    """A sound DNS message, but no answer to the question asked: late, or forged."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a name as given (any case, a trailing dot is dropped) and a record type."""

    name: str
    kind: int


@dataclass(frozen=True, slots=True)
class Srv:
    """The value of an SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the answer section.

    ``value`` is the address text for A and AAAA, a name for CNAME and PTR, an Srv for SRV.
    """

    name: str
    kind: int
    ttl: int  # seconds
    value: str | Srv


@dataclass(frozen=True, slots=True)
class Response:
    """One response; ``records`` are the answers of the kinds above, empty if ``truncated``."""

    ident: int
    rcode: int
    truncated: bool
    question: Question | None  # None only with FORMERR: the server could not read ours
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What a response says about the name that was asked, aliases followed."""

    name: str  # where the aliases lead; the name asked if there are none
    ttl: int  # seconds: the shortest on the way; 0 if nothing was found
    values: tuple[str | Srv, ...]  # of the kind asked; empty if the alias leads out of the answer


def strerror(code: int) -> str:
    """Describe a response code in nginx's words (ngx_resolver_strerror)."""
    return _ERRORS.get(code, "Unknown error")


def name_to_wire(name: str) -> bytes:
    """Write a name as labels; a trailing dot is dropped.

    raises: DnsError if a label is empty or over 63 bytes, or the name over 255.
    """
    wire = bytearray()
    for label in name.removesuffix(".").split("."):
        raw = label.encode("utf-8", "surrogateescape")
        if not 0 < len(raw) < 64:
            raise DnsError(f'invalid domain name "{name}"')
        wire.append(len(raw))
        wire += raw
    if len(wire) > 254:
        raise DnsError(f'invalid domain name "{name}"')
    return bytes(wire) + b"\0"


def reverse_name(address: str) -> str:
    """Name the PTR question for an address text, IPv4 or IPv6.

    raises: DnsError if it is no address.
    """
    try:
        return ip_address(address).reverse_pointer
    except ValueError:
        raise DnsError(f'invalid address "{address}"') from None


def build_query(ident: int, question: Question) -> bytes:
    """Write a recursive query with one question.

    shape: ``ident`` 0..65535, the caller's secret; raises: DnsError for a name that has no wire
    form (nginx answers "Host not found" to itself).
    """
    header = (ident, _RECURSION_DESIRED, 1, 0, 0, 0)
    return (
        b"".join(word.to_bytes(2, "big") for word in header)
        + name_to_wire(question.name)
        + question.kind.to_bytes(2, "big")
        + _CLASS_IN.to_bytes(2, "big")
    )


def frame(message: bytes) -> bytes:
    """Write a message for TCP: its 16-bit length, then itself (RFC 1035 §4.2.2)."""
    return len(message).to_bytes(2, "big") + message


def unframe(data: reader.Buffer) -> bytes | reader.NeedMore:
    """Take the first message out of all the bytes a TCP stream has brought so far.

    returns: the message (it took two bytes more of ``data``) or NEED_MORE.
    """
    if len(data) < 2 or len(data) < 2 + (data[0] << 8 | data[1]):
        return reader.NEED_MORE
    return bytes(data[2 : 2 + (data[0] << 8 | data[1])])


def ident_of(data: reader.Buffer) -> int:
    """Read the identifier alone, to find whose response this is before parsing it.

    raises: DnsError if there is none.
    """
    if len(data) < 12:
        raise DnsError("short DNS response")
    return data[0] << 8 | data[1]


def parse_answer(data: reader.Buffer, ident: int, question: Question) -> Response:
    """Parse the response to one question.

    raises: NotOurs if identifier or question are not those asked; DnsError as ``parse``.
    """
    response = parse(data)
    if response.ident != ident:
        raise NotOurs(f"unexpected DNS response {response.ident}")
    asked = Question(_read_name(reader.Cursor(name_to_wire(question.name))), question.kind)
    if response.question is not None and response.question != asked:
        raise NotOurs(f"wrong question in DNS response {response.ident}")
    return response


def parse(data: reader.Buffer) -> Response:
    """Parse one whole response message.

    raises: DnsError, and nothing else, whatever the bytes.
    source: ngx_resolver.c ngx_resolver_process_response; records of other kinds than asked for
    here are passed over where nginx gives the whole response up.
    """
    cursor = reader.Cursor(data)
    try:
        return _parse(cursor)
    except reader.Short:
        raise DnsError("short DNS response") from None


def follow(response: Response) -> Found:
    """Follow the aliases of a response from the name asked to the records asked for.

    shape: records of other owners are not looked at; a chain that loops ends where it meets
    itself.  source: nginx takes any record of the kind asked, whoever owns it; we do not.
    """
    if response.question is None:
        return Found("", 0, ())
    name, kind = response.question.name, response.question.kind
    owned: dict[str, list[Record]] = {}
    for record in response.records:
        owned.setdefault(record.name, []).append(record)
    ttls: list[int] = []
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        mine = owned.get(name, ())
        wanted = [record for record in mine if record.kind == kind]
        if wanted:
            return Found(
                name,
                min(ttls + [record.ttl for record in wanted]),
                tuple(record.value for record in wanted),
            )
        for record in mine:
            if record.kind == CNAME and isinstance(record.value, str):
                ttls.append(record.ttl)
                name = record.value
                break
    return Found(name, min(ttls, default=0), ())


def _parse(cursor: reader.Cursor) -> Response:
    ident, flags = cursor.u16(), cursor.u16()
    questions, answers = cursor.u16(), cursor.u16()
    cursor.skip(4)  # how many records the sections we do not read hold
    if flags & 0xF800 != 0x8000:
        raise DnsError(f"invalid DNS response {ident} fl:{flags:04X}")
    rcode = flags & 0x0F
    if questions == 0 and rcode == FORMERR:
        return Response(ident, rcode, truncated=False, question=None, records=())
    if questions != 1:
        raise DnsError("invalid number of questions in DNS response")
    question = Question(_read_name(cursor), cursor.u16())
    query_class = cursor.u16()
    if query_class != _CLASS_IN:
        raise DnsError(f"unknown query class {query_class} in DNS response")
    if flags & _TRUNCATED:
        return Response(ident, rcode, truncated=True, question=question, records=())
    records = [record for _ in range(answers) if (record := _read_record(cursor)) is not None]
    return Response(ident, rcode, truncated=False, question=question, records=tuple(records))


def _read_record(cursor: reader.Cursor) -> Record | None:
    name = _read_name(cursor)
    kind, record_class, ttl = cursor.u16(), cursor.u16(), cursor.u32()
    if ttl >> 31:
        ttl = 0  # RFC 2181 §8; nginx does the same
    body = cursor.restrict_to(cursor.u16())
    if record_class != _CLASS_IN:
        raise DnsError(f"unexpected RR class {record_class} in DNS response")
    value = _read_value(kind, body)
    return None if value is None else Record(name, kind, ttl, value)


def _read_value(kind: int, body: reader.Cursor) -> str | Srv | None:
    try:
        if kind == A:
            value: str | Srv = inet_ntop(AF_INET, body.take(4))
        elif kind == AAAA:
            value = inet_ntop(AF_INET6, body.take(16))
        elif kind in (CNAME, PTR):
            value = _read_name(body)
        elif kind == SRV:
            value = Srv(body.u16(), body.u16(), body.u16(), _read_name(body))
        else:
            return None
    except reader.Short:
        raise DnsError(f"invalid record of type {kind} in DNS response") from None
    if body.remaining():
        raise DnsError(f"invalid record of type {kind} in DNS response")
    return value


def _read_name(cursor: reader.Cursor) -> str:
    """Read a name; each pointer must lead before the labels it continues, so none can loop."""
    labels: list[bytes] = []
    size = pointers = 0
    part = cursor  # the caller's cursor up to the first pointer, then one of our own
    start = cursor.position
    while (head := part.u8()) != 0:
        if head < 64:
            labels.append(bytes(part.take(head)))
            size += head + 1
            if size > 254:
                raise DnsError("too long domain name in DNS response")
            continue
        if head < 192:
            raise DnsError("invalid label in DNS response")
        target = (head & 0x3F) << 8 | part.u8()
        pointers += 1
        if target >= start or pointers > _POINTERS:
            raise DnsError("invalid compression pointer in DNS response")
        part = reader.Cursor(cursor.view, target)
        start = target
    return b".".join(labels).lower().decode("utf-8", "surrogateescape")
