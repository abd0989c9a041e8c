"""Probes: what each says, what it takes for an answer, and that nothing else comes of any bytes."""

import hashlib
import re
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.wire import probes
from ngxstream.wire.probes import Dialogue, ProbeError

Answer = Callable[[bytes], bytes] | bytes

MYSQL = b"\x4a\0\0\0\x0a8.0.1\0" + bytes(67)
MYSQL_OK = b"\7\0\0\2\0\0\0\2\0\0\0"
MYSQL_STRANGER = b"\x0f\0\0\2\xff\x15\x04#28000Access"
MYSQL_FULL = b"\x17\0\0\0\xff\x10\x04Too many connections"
FATAL = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
NO_USER = b"SFATAL\0C28000\0Mrole does not exist\0\0"


def drive(dialogue: Dialogue, answers: Sequence[Answer], step: int = 0) -> list[bytes] | None:
    """Answer what a probe sends, one answer to each text. Returns: what it sent, None if it waits.

    A last text without an answer is nothing but sent.

    Args: step: bytes that come at a time, 0 for all at once
    """
    sent = []
    left = list(answers)
    try:
        data = next(dialogue)
        while True:
            if data:
                sent.append(data)
            if not left:
                dialogue.send(b"")
                return None
            one = left.pop(0)
            answer = one(sent[-1]) if callable(one) else one
            pieces = [answer[n : n + step] for n in range(0, len(answer), step)] if step else [
                answer
            ]
            if data:
                data = dialogue.send(b"")  # it is sent
                if data:
                    raise AssertionError("it does not wait for an answer")
            for piece in pieces:
                data = dialogue.send(piece)
    except StopIteration:
        return sent


def dns(code: int, ident: bytes | None = None, question: bytes | None = None) -> Answer:
    """Return an answer with a response code to the query that comes."""

    def answer(query: bytes) -> bytes:
        return (ident or query)[:2] + bytes((0x81, 0x80 | code)) + b"\0\1" + bytes(6) + (
            question or query[12:]
        )

    return answer


def framed(answer: Answer) -> Answer:
    """Return an answer over TCP."""
    assert callable(answer)
    return lambda query: struct.pack(">H", len(data := answer(query[2:]))) + data


def ntp(leap: int, stratum: int, origin: bytes | None = None) -> Answer:
    """Return a server's answer."""
    return lambda query: bytes(((leap << 6) | 0x24, stratum)) + bytes(22) + (
        query[40:48] if origin is None else origin
    ) + bytes(16)


def radius(code: int, secret: bytes) -> Answer:
    """Return a signed answer."""

    def answer(query: bytes) -> bytes:
        head = bytes((code, query[1])) + b"\0\x14"
        return head + hashlib.md5(head + query[4:20] + secret).digest()

    return answer


def sip(status: bytes) -> Answer:
    """Return an answer to OPTIONS."""
    return lambda query: b"SIP/2.0 " + status + b"\r\n" + b"\r\n".join(
        line for line in query.split(b"\r\n") if line.startswith((b"Via", b"Call-ID"))
    ) + b"\r\n\r\n"


R = {"secret": "s"}
GOOD = [
    ("http", "tcp", {}, [b"HTTP/1.1 200 OK\r\n\r\n"]),
    ("http", "tcp", {"uri": "/x", "host": "h"}, [b"HTTP/1.0 302\r\n"]),
    ("http", "tcp", {}, [b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n"]),
    ("redis", "tcp", {}, [b"+PONG\r\n"]),
    ("redis", "tcp", {}, [b"-NOAUTH Authentication required.\r\n"]),
    ("mysql", "tcp", {}, [MYSQL, MYSQL_OK]),
    ("mysql", "tcp", {"user": "u"}, [MYSQL, MYSQL_STRANGER]),
    ("mysql", "tcp", {}, [MYSQL, b"\1\0\0\2\xfe", MYSQL_STRANGER]),
    ("pgsql", "tcp", {}, [b"R\0\0\0\x08\0\0\0\x0a"]),
    ("pgsql", "tcp", {}, [b"E" + struct.pack(">I", 4 + len(NO_USER)) + NO_USER]),
    ("smtp", "tcp", {}, [b"220 ready\r\n", b"250-a\r\n250-b\r\n250 c\r\n", b"221 bye\r\n"]),
    ("mqtt", "tcp", {}, [b"\x20\2\0\0"]),
    ("mqtt", "tcp", {}, [b"\x20\2\0\5"]),
    ("dns", "udp", {}, [dns(0)]),
    ("dns", "udp", {"name": "a.example", "rcode": "noerror|NXDOMAIN"}, [dns(3)]),
    ("dns", "udp", {}, [dns(2, b"\xff\xff\xff"), dns(0)]),
    ("dns", "tcp", {"name": "a.example.", "qtype": "aaaa"}, [framed(dns(0))]),
    ("ntp", "udp", {}, [ntp(0, 2)]),
    ("ntp", "udp", {}, [ntp(0, 2, b"forgery!"), ntp(0, 2)]),
    ("radius", "udp", R, [radius(2, b"s")]),
    ("sip", "udp", {}, [sip(b"200 OK")]),
    ("sip", "udp", {}, [sip(b"404 Not Found")]),
    ("sip", "tcp", {}, [sip(b"200 OK")]),
]
BAD = [
    ("http", "tcp", {}, [b"HTTP/1.1 503 No\r\n"], "503 No"),
    ("http", "tcp", {}, [b"SSH-2.0-x\r\n"], "SSH"),
    ("http", "tcp", {}, [b"x" * 5000], "does not end"),
    ("redis", "tcp", {}, [b"-LOADING Redis is loading\r\n"], "LOADING"),
    ("mysql", "tcp", {}, [MYSQL_FULL], "Too many"),
    ("mysql", "tcp", {}, [MYSQL, MYSQL_FULL], "Too many"),
    ("mysql", "tcp", {}, [b"HTTP/1.1 400"], "HTTP"),
    ("mysql", "tcp", {}, [b"\3\0\0\0\x09ab"], "greeting"),
    ("mysql", "tcp", {}, [MYSQL, b"\3\0\0\2\5ab"], "to a login"),
    ("mysql", "tcp", {}, [MYSQL + MYSQL_OK], "before it is asked"),
    ("pgsql", "tcp", {}, [b"E" + struct.pack(">I", 4 + len(FATAL)) + FATAL], "57P03 the database"),
    ("pgsql", "tcp", {}, [b"HTTP/1.1 400"], "HTTP"),
    ("smtp", "tcp", {}, [b"421 busy\r\n"], "421 busy"),
    ("smtp", "tcp", {}, [b"220 ok\r\n", b"502 no\r\n"], "expected 250"),
    ("mqtt", "tcp", {}, [b"\x20\2\0\3"], "return code 3"),
    ("mqtt", "tcp", {}, [b"HTTP"], "HTTP"),
    ("dns", "udp", {}, [dns(2)], "got SERVFAIL"),
    ("dns", "tcp", {}, [framed(dns(0, b"\xff\xff\xff"))], "answer to the question"),
    ("ntp", "udp", {}, [ntp(3, 0)], "no time"),
    ("ntp", "udp", {}, [ntp(0, 16)], "stratum 16"),
    ("radius", "udp", R, [radius(3, b"s")], "code 3"),
    ("ntp", "udp", {}, [ntp(0, 0)], 'stratum 0, "'),
    ("sip", "udp", {}, [sip(b"503 Busy")], "503 Busy"),
    ("sip", "tcp", {}, [sip(b"503 Busy")], "503 Busy"),
]
WAITS = [
    ("dns", "udp", {"name": "a.example"}, [dns(0, question=b"\1b\7example\0\0\1\0\1")]),
    ("dns", "udp", {}, [dns(0, b"zzz"), b"", b"x"]),
    ("ntp", "udp", {}, [ntp(0, 2, b"forgery!"), b"short"]),
    ("radius", "udp", R, [radius(2, b"wrong"), b"x" * 19]),
    ("sip", "udp", {}, [b"SIP/2.0 200 OK\r\nCall-ID: other", sip(b"100 Trying")]),
    ("sip", "tcp", {}, [sip(b"100 Trying"), b"SIP/2.0 200 OK\r\nCall-ID: other\r\n\r\n"]),
]


def begin(name: str, over: str, options: dict[str, str]) -> Dialogue:
    """Begin a probe."""
    kind = probes.KINDS[name]
    kind.check(options)
    make = getattr(kind, over)
    assert make is not None
    return make(options)


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(("name", "over", "options", "answers"), GOOD)
def test_a_server_that_serves_passes(
    name: str, over: str, options: dict[str, str], answers: list[Answer], step: int
) -> None:
    """By one answer, whether a stream comes at once or byte by byte."""
    if step and over == "udp":
        return
    sent = drive(begin(name, over, options), answers, step)
    assert sent is not None
    if options.get("uri"):
        assert b"/x" in sent[0]


@pytest.mark.parametrize(("name", "over", "options", "answers", "text"), BAD)
def test_a_server_that_does_not_serve_fails(
    name: str, over: str, options: dict[str, str], answers: list[Answer], text: str
) -> None:
    """With what was expected, and what it said."""
    with pytest.raises(ProbeError, match=text):
        drive(begin(name, over, options), answers)


@pytest.mark.parametrize(("name", "over", "options", "answers"), WAITS)
def test_what_answers_another_question_is_left_aside(
    name: str, over: str, options: dict[str, str], answers: list[Answer]
) -> None:
    """A late or forged datagram neither passes nor fails: the probe waits on."""
    assert drive(begin(name, over, options), answers) is None


EVERY = [
    (name, over) for name, kind in probes.KINDS.items() for over in ("udp", "tcp")
    if getattr(kind, over) is not None
]


@given(st.sampled_from(EVERY), st.lists(st.binary(max_size=64), max_size=8), st.data())
def test_any_bytes_pass_fail_or_wait(
    which: tuple[str, str], pieces: list[bytes], data: st.DataObject
) -> None:
    """Nothing but ProbeError leaves a probe."""
    options = {"secret": "s"} if which[0] == "radius" else {}
    good = [one for one in GOOD if one[:2] == which]
    if good and data.draw(st.booleans()):
        answer = data.draw(st.sampled_from(good))[3][0]
        if isinstance(answer, bytes):
            cut = data.draw(st.integers(0, len(answer)))
            pieces = [answer[:cut] + (pieces[0] if pieces else b""), *pieces]
    said = "passes or waits"
    try:
        drive(begin(*which, options), pieces)
    except ProbeError as error:
        said = str(error)
    assert said.isprintable()


@pytest.mark.parametrize(
    ("send", "expect", "pattern", "answers", "passes"),
    [
        (b"", None, None, [], True),
        (b"x", None, None, [], True),
        (b"", b"220", None, [b"22", b"0 ready"], True),
        (b"", b"220", None, [b"22", b"1"], False),
        (b"", None, re.compile(rb"\x24", re.IGNORECASE), [b"\0\0", b"\xff\x24"], True),
        (b"a\0b", b"\0\xff", None, [b"\0\xff\0"], True),
    ],
)
def test_send_and_expect(
    send: bytes, expect: bytes | None, pattern: re.Pattern[bytes] | None, answers: list[bytes],
    passes: bool,
) -> None:
    """A text is the beginning of the answer, an expression is anywhere in what came so far."""
    dialogue = probes.match(send, expect, pattern and pattern.search)
    if passes:
        assert [send] * bool(send) == drive(dialogue, answers)
    else:
        with pytest.raises(ProbeError, match="expected"):
            drive(dialogue, answers)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("radius", {}, '"secret" is missing'),
        ("redis", {"uri": "/"}, '"uri" is unknown'),
        ("dns", {"qtype": "X"}, '"qtype" may be A, '),
        ("dns", {"rcode": "NOERROR|FINE"}, '"rcode" may be NOERROR, '),
        ("dns", {"name": "a..b"}, '"name" is no name: '),
        ("dns", {"name": ""}, '"name" is empty'),
        ("http", {"uri": "/\r\nHost: x"}, "characters"),
        ("http", {"uri": "/a b"}, "characters"),
        ("http", {"uri": "foo"}, '"uri" has to begin with "/"'),
        ("http", {"uri": "http://a/"}, '"uri" has to begin with "/"'),
        ("http", {"uri": "/é"}, "as %HH"),
        ("http", {"uri": "/#a"}, "as %HH"),
        ("http", {"uri": ""}, '"uri" is empty'),
        ("http", {"host": "a/b"}, '"host" is no name of a host'),
        ("sip", {"uri": "ping@example.com"}, '"uri" is no SIP URI'),
        ("sip", {"uri": "sip:a>b"}, '"uri" is no SIP URI'),
        ("smtp", {"helo": "é"}, '"helo" is no name of a host'),
        ("mysql", {"user": ""}, '"user" is empty'),
    ],
)
def test_options_are_checked(name: str, options: dict[str, str], text: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match=re.escape(text)):
        probes.KINDS[name].check(options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("http", {"uri": "/a%20b?c=[d]&e=f/g|h;i", "host": "[2001:db8::1]:80"}),
        ("http", {"host": "xn--bcher-kva.example_1"}),
        ("sip", {"uri": "sips:a@[2001:db8::1]:5061;transport=tls?x=y"}),
        ("sip", {"uri": "tel:+49-30-1"}),
        ("smtp", {"helo": "[192.0.2.1]"}),
        ("dns", {"name": "a.test", "qtype": "aaaa", "rcode": "noerror|NXDOMAIN"}),
    ],
)
def test_what_protocols_take_is_taken(name: str, options: dict[str, str]) -> None:
    """Paths, hosts and names of all forms."""
    probes.KINDS[name].check(options)


def test_a_message_shows_what_came_and_nothing_that_a_terminal_obeys() -> None:
    """Bytes that are no text are spelled out, a long answer is cut."""
    assert r'"\x1b[2J\n"' == probes.shown(b"\x1b[2J\n")
    assert probes.shown(b"a" * 100).endswith('a"…')
