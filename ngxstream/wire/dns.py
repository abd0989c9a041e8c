"""DNS messages for a client that asks one question at a time: queries out, responses in.

Answers for the message handling in core/ngx_resolver.c (ngx_resolver_create_*_query,
ngx_resolver_process_response); the format is RFC 1035 §4.  Names are text without the trailing
dot where they are given to others; inside a response they stay in wire form and lower case, since
DNS compares them label by label and without regard to case.

What one response may cost is bounded, whoever wrote it (RFC 9267 tells what goes wrong elsewhere):

1. identifier and question are compared before a record is looked at;
2. no more than RECORDS records are read, and no more than STEPS labels and pointers are walked in
   all names together (dns_names.py); what comes later is left unread, and the response says so:
   ``is_cut``;
3. a pointer leads before the labels it continues, a name has no more pointers than labels, and a
   name that many pointers lead to is walked once;
4. addresses and names become text only where they are what was asked for, names up to SPELLED
   labels in all.
"""

import struct
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Final, NamedTuple

from ngxstream.wire import dns_names, reader

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

RECORDS: Final = 1024  # read of one answer section (BIND keeps 100 of a name: max-records-per-type)
SPELLED: Final = 4096  # labels of one response that become text

_CLASS_IN: Final = 1
_NAMING: Final = frozenset((CNAME, PTR, SRV))  # the kinds whose value ends in a name
_HEADER: Final = struct.Struct(">6H")
_FIXED: Final = struct.Struct(">HHIH")  # of a record, behind its owner
_SRV: Final = struct.Struct(">3H")
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


class NotOurs(dns_names.DnsError):
    """A sound DNS message, but no answer to the question asked: late, or forged."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a name as given (any case, a trailing dot is dropped) and a record type."""

    name: str
    kind: int


class Srv(NamedTuple):
    """The value of an SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


class SrvData(NamedTuple):
    """The same as it is on the wire: the target in wire form, lower case."""

    priority: int
    weight: int
    port: int
    target: bytes


class Record(NamedTuple):
    """One record; ``value`` is a packed address, a name (CNAME, PTR) or SrvData, in wire form."""

    owner: bytes  # wire form, lower case
    kind: int
    ttl: int  # seconds
    value: bytes | SrvData


@dataclass(frozen=True, slots=True)
class Response:
    """One response; ``records`` are the answers of the kinds above, empty if ``truncated``."""

    ident: int
    rcode: int
    truncated: bool
    asked: bytes | None  # wire form, lower case; None only with FORMERR: it was not readable
    kind: int
    records: tuple[Record, ...]
    is_cut: bool = False  # there was more than is read


@dataclass(frozen=True, slots=True)
class Found:
    """What a response says about the name that was asked, aliases followed."""

    name: str  # where the aliases lead; the name asked if there are none
    ttl: int  # seconds: the shortest on the way; 0 if nothing was found
    values: tuple[str | Srv, ...]  # of the kind asked; empty if the alias leads out of the answer


def strerror(code: int) -> str:
    """Describe a response code in nginx's words (ngx_resolver_strerror)."""
    return _ERRORS.get(code, "Unknown error")


def build_query(ident: int, question: Question) -> bytes:
    """Write a query. Args: ident: 0..65535. Raises: DnsError for a name without wire form"""
    header = (ident, _RECURSION_DESIRED, 1, 0, 0, 0)
    return (
        b"".join(word.to_bytes(2, "big") for word in header)
        + dns_names.to_wire(question.name)
        + question.kind.to_bytes(2, "big")
        + _CLASS_IN.to_bytes(2, "big")
    )


def frame(message: bytes) -> bytes:
    """Write a message for TCP: its 16-bit length, then itself (RFC 1035 §4.2.2)."""
    return len(message).to_bytes(2, "big") + message


def unframe(data: reader.Buffer) -> bytes | reader.NeedMore:
    """Return the first message of a TCP stream, without its two length bytes, or NEED_MORE."""
    if len(data) < 2 or len(data) < 2 + (data[0] << 8 | data[1]):
        return reader.NEED_MORE
    return bytes(data[2 : 2 + (data[0] << 8 | data[1])])


def follow(response: Response) -> Found:
    """Follow the aliases of a response from the name asked to the records asked for.

    Records of other owners are not looked at; a chain that loops ends where it meets itself.

    Raises:
        DnsError: an alias or a target that no text can spell.
    Source: nginx takes any record of the kind asked, whoever owns it; we do not.
    """
    owner, kind = response.asked, response.kind
    if owner is None:
        return Found("", 0, ())
    owned: dict[bytes, list[Record]] = {}
    aliases: dict[bytes, Record] = {}
    for record in response.records:
        if record.kind == kind:
            owned.setdefault(record.owner, []).append(record)
        elif record.kind == CNAME:
            aliases.setdefault(record.owner, record)
    ttls: list[int] = []
    seen: set[bytes] = set()
    while owner not in seen:
        seen.add(owner)
        wanted = owned.get(owner)
        if wanted:
            ttls.append(min([record.ttl for record in wanted]))
            texts = _texts(kind, [record.value for record in wanted])
            return Found(dns_names.from_wire(owner), min(ttls), texts)
        alias = aliases.get(owner)
        if alias is not None and isinstance(alias.value, bytes):
            ttls.append(alias.ttl)
            owner = alias.value
    return Found(dns_names.from_wire(owner), min(ttls, default=0), ())


def _texts(kind: int, values: list[bytes | SrvData]) -> tuple[str | Srv, ...]:
    """Spell the values that were asked for; of names, as many as SPELLED labels reach."""
    if kind in (A, AAAA):
        family = AF_INET if kind == A else AF_INET6
        return tuple([inet_ntop(family, value) for value in values if isinstance(value, bytes)])
    texts: list[str | Srv] = []
    left = SPELLED
    for value in values:
        if isinstance(value, SrvData):
            text, dots = dns_names.spell(value.target)
            texts.append(Srv(value.priority, value.weight, value.port, text))
        else:
            text, dots = dns_names.spell(value)
            texts.append(text)
        left -= dots + 1
        if left <= 0:
            break
    return tuple(texts)


def parse(data: reader.Buffer, ident: int | None = None,
          question: Question | None = None) -> Response:
    """Parse one whole response, to this question, or to whatever it says was asked.

    Raises:
        NotOurs: identifier or question are not those asked; nothing behind them was looked at.
        DnsError: and nothing else, whatever the bytes.
    Source: ngx_resolver.c ngx_resolver_process_response; records of other kinds than asked for
    here are passed over where nginx gives the whole response up.
    """
    data = bytes(data)
    if len(data) < _HEADER.size:
        raise dns_names.DnsError("short DNS response")
    got, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if ident is not None and got != ident:
        raise NotOurs(f"unexpected DNS response {got}")
    if flags & 0xF800 != 0x8000:
        raise dns_names.DnsError(f"invalid DNS response {got} fl:{flags:04X}")
    rcode = flags & 0x0F
    if questions == 0 and rcode == FORMERR:
        return Response(got, rcode, truncated=False, asked=None, kind=0, records=())
    if questions != 1:
        raise dns_names.DnsError("invalid number of questions in DNS response")
    names = dns_names.Names(data)
    asked, at = names.read(_HEADER.size)
    if at + 4 > len(data):
        raise dns_names.DnsError("short DNS response")
    kind, query_class = data[at] << 8 | data[at + 1], data[at + 2] << 8 | data[at + 3]
    if query_class != _CLASS_IN:
        raise dns_names.DnsError(f"unknown query class {query_class} in DNS response")
    if question is not None and (
        kind != question.kind or asked != dns_names.to_wire(question.name).lower()
    ):
        raise NotOurs(f"wrong question in DNS response {got}")
    if flags & _TRUNCATED:
        return Response(got, rcode, truncated=True, asked=asked, kind=kind, records=())
    records: list[Record] = []
    count = min(answers, RECORDS)
    try:
        _read_records(names, at + 4, count, records)
        is_cut = count < answers
    except dns_names.TooManySteps:
        is_cut = True
    return Response(got, rcode, False, asked, kind, tuple(records), is_cut)


def _read_records(names: dns_names.Names, at: int, count: int, records: list[Record]) -> None:
    """Read so many records that begin at an offset; those of kinds we never ask for are left out.

    hot: an answer may have RECORDS of them
    """
    data, known, fixed = names.data, names.known, _FIXED.unpack_from
    end = len(data)
    take = records.append
    try:
        for _ in range(count):
            place = known.get(data[at : at + 2])  # a pointer to a name that was read before
            if place is None:
                owner, at = names.read(at)
            else:
                owner = place[0]
                at += 2
            kind, record_class, ttl, size = fixed(data, at)
            at += 10
            body = at
            at += size
            if at > end:
                raise dns_names.DnsError("short DNS response")
            if record_class != _CLASS_IN:
                raise dns_names.DnsError(f"unexpected RR class {record_class} in DNS response")
            if ttl >> 31:
                ttl = 0  # RFC 2181 §8; nginx does the same
            if kind == A:
                if size != 4:
                    raise dns_names.DnsError("invalid record of type 1 in DNS response")
            elif kind == AAAA:
                if size != 16:
                    raise dns_names.DnsError("invalid record of type 28 in DNS response")
            elif kind in _NAMING:
                take(Record(owner, kind, ttl, _read_naming(names, kind, body, at)))
                continue
            else:
                continue
            take(Record(owner, kind, ttl, data[body:at]))
    except struct.error:
        raise dns_names.DnsError("short DNS response") from None


def _read_naming(names: dns_names.Names, kind: int, at: int, end: int) -> bytes | SrvData:
    """Read the value of a CNAME, PTR or SRV record, which ends in a name."""
    data = names.data
    start = at + 6 if kind == SRV else at
    try:
        name, after = names.read(start)
    except dns_names.ShortName:
        after = -1
    if after != end:
        raise dns_names.DnsError(f"invalid record of type {kind} in DNS response")
    if kind != SRV:
        return name
    priority, weight, port = _SRV.unpack_from(data, at)
    return SrvData(priority, weight, port, name)
