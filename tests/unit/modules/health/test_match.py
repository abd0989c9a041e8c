"""match: bytes from the file to the wire, and what an answer is compared with."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.modules.health.match import Match, unescape
from ngxstream.wire.probes import ProbeError
from tests.support.in_process import build
from tests.support.proxies import ROOT


def text(inside: str) -> str:
    """Return a configuration whose second line is inside of a match."""
    return (
        f"stream {{ match m {{\n{inside}\n}} upstream u {{ server 127.0.0.1:1; }} "
        "server { listen 127.0.0.1:9; proxy_pass u; health_check match=m; } }"
    )


def match(inside: str) -> Match:
    """Return the match of a block of this inside."""
    built = build(text(inside))
    assert built.conf is not None, built.error
    health: Any = built.conf.upstreams[0].health
    found: Match = health.checks[0].said
    return found


def passes(one: Match, answer: bytes, step: int = 0) -> bool | None:
    """Tell whether an answer passes, None where more is awaited. Args: step: bytes at a time"""
    dialogue = one.dialogue()
    next(dialogue)
    step = step or len(answer)
    try:
        if one.send:
            dialogue.send(b"")
        for n in range(0, len(answer), step):
            dialogue.send(answer[n : n + step])
    except StopIteration:
        return True
    except ProbeError:
        return False
    return None


@given(data=st.binary(min_size=1, max_size=60))
def test_every_byte_comes_through(data: bytes) -> None:
    r"""As `\xHH` in the file, in a word and in quotes, upper and lower case."""
    lower = "".join(f"\\x{byte:02x}" for byte in data)
    upper = "".join(f"\\x{byte:02X}" for byte in data)
    found = match(f'send {lower}; expect "{upper}";')
    assert (data, data) == (found.send, found.expect)


def test_a_byte_may_stand_for_itself() -> None:
    """NUL and those that are no text as well, and what nginx writes in quotes."""
    built = build(text('send "\\r\\n\\t\0\udcff"; expect a\0\udc80b;'))
    assert built.conf is not None, built.error
    health: Any = built.conf.upstreams[0].health
    said: Match = health.checks[0].said
    assert b"\r\n\t\0\xff" == said.send
    assert b"a\0\x80b" == said.expect


@pytest.mark.parametrize(
    ("written", "data"),
    [(r"\x4", rb"\x4"), (r"\xg0", rb"\xg0"), (r"a\x41b", b"aAb"), (r"\X41", rb"\X41")],
)
def test_what_is_no_escape_stays(written: str, data: bytes) -> None:
    """Only a backslash, an x and two digits are one byte."""
    assert data == unescape(written)


@pytest.mark.refusal("match")
@pytest.mark.parametrize(
    ("inside", "error"),
    [
        ("send a; send b;", '"send" is duplicate'),
        ("expect a; expect ~ b;", '"expect" is duplicate'),
        ("send;", 'invalid number of arguments in "send"'),
        ("send a b;", 'invalid number of arguments in "send"'),
        ("expect;", 'invalid number of arguments in "expect"'),
        ("expect ~ a b;", 'invalid number of arguments in "expect"'),
        ("expect a b;", 'invalid number of arguments in "expect"'),
        ('expect "";', '"expect" is empty'),
        ("receive a;", 'unknown parameter "receive" in match "m"'),
        ("expect { }", 'unexpected "{"'),
    ],
)
def test_what_a_block_cannot_say(inside: str, error: str) -> None:
    """The place is told."""
    assert f"{error} in /p/conf/nginx.conf:2" == build(text(inside)).error


def test_a_wrong_regular_expression_is_told() -> None:
    """With its place."""
    error = build(text("expect ~ (;")).error
    assert error.endswith(" in /p/conf/nginx.conf:2")
    assert "(" in error


def test_names_are_known_once() -> None:
    """Two blocks of one name are refused."""
    built = build("stream { match m { }\nmatch m { } }")
    assert 'duplicate match "m" in /p/conf/nginx.conf:2' == built.error


@pytest.mark.effect("match")
@pytest.mark.parametrize(
    ("expect", "answer", "passed"),
    [
        ("abc", b"abc", True),
        ("abc", b"abcd", True),
        ("abc", b"ab", None),
        ("abc", b"xabc", False),
        (r"\x00\xff", b"\0\xff\0", True),
        ("~ b+c", b"abbc", True),
        ("~ ^b", b"ab", None),
        ("~ B", b"b", None),
        ("~* B", b"b", True),
        (r"~ \x24", b"\0\0\x24\0", True),
        (r"~ ^\x00.\xff$", b"\0\n\xff", None),
        (r"~ ^\x00[\x00-\x20]\xff$", b"\0\n\xff", True),
    ],
)
def test_an_answer_is_compared(expect: str, answer: bytes, passed: bool | None) -> None:
    """A text with its beginning, an expression with all of it; in pieces as at once."""
    one = match(f"expect {expect};")
    assert passed is passes(one, answer)
    if passed is True:
        assert passes(one, answer, step=1)


def test_an_expression_takes_bounded_time() -> None:
    """One that would run for years fails the check."""
    one = match("expect ~ ^(a+)+$;")
    assert not passes(one, b"a" * 3000 + b"c")


def test_the_documented_examples_work() -> None:
    """A time server and a DNS server, in bytes: what the guide of NGINX Plus shows."""
    ntp = match(r"send \xe3" + r"\x00" * 47 + r"; expect ~* \x24;")
    assert b"\xe3" + bytes(47) == ntp.send
    assert passes(ntp, b"\x24\1\0\xe9" + bytes(44))
    assert not passes(ntp, b"\xe4\0" + bytes(46))
    dns = match(
        r"send \x00\x2a\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x04test\x00\x00\x01"
        r"\x00\x01; expect ~* .*\x7f\x00\x00\x05;"
    )
    query = b"\0\x2a\1\0\0\1\0\0\0\0\0\0\7example\4test\0\0\1\0\1"
    assert query == dns.send
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\5"
    assert passes(dns, query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:] + answer)
    assert not passes(dns, query[:2] + b"\x81\x83" + query[4:])


def test_the_page_shows_what_can_be_said() -> None:
    """Its configuration, of which the request of a time server is one of 48 bytes."""
    page = (ROOT / "docs" / "health.md").read_text()
    built = build(page.partition("```nginx\n")[2].partition("```")[0])
    assert built.conf is not None, built.error
    assert [] == built.warnings
    health: Any = built.conf.upstreams.first("time").health  # type: ignore[union-attr]
    assert b"\xe3" + bytes(47) == health.checks[0].said.send
