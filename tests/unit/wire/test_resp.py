"""Replies of Redis as they come, and commands to it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.wire import resp
from ngxstream.wire.resp import ErrorReply, Parser, Push, RespError


@pytest.mark.parametrize(("data", "value"), [
    (b"+OK\r\n", b"OK"),
    (b"-ERR no such thing\r\n", ErrorReply("ERR no such thing")),
    (b":-42\r\n", -42),
    (b":+7\r\n", 7),
    (b"$5\r\na\r\nb\0\r\n", b"a\r\nb\0"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"_\r\n", None),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b",3.25\r\n", b"3.25"),
    (b"(12345678901234567890123\r\n", b"12345678901234567890123"),
    (b"!8\r\nERR a\r\nb\r\n", ErrorReply("ERR a\r\nb")),
    (b"=7\r\ntxt:abc\r\n", b"abc"),
    (b"*0\r\n", []),
    (b"*2\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n", [1, [b"a", []]]),
    (b"%1\r\n+a\r\n:1\r\n", [b"a", 1]),
    (b"~2\r\n+a\r\n+b\r\n", [b"a", b"b"]),
    (b"|1\r\n+ttl\r\n:3600\r\n*1\r\n:9\r\n", [9]),
    (b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", Push([b"invalidate", [b"k"]])),
])
def test_each_kind_of_a_reply_is_read(data: bytes, value: object) -> None:
    """At once and byte by byte."""
    assert [value] == Parser().feed(data)
    parser = Parser()
    found = [reply for n in range(len(data)) for reply in parser.feed(data[n : n + 1])]
    assert [value] == found
    assert isinstance(found[0], type(value))


@pytest.mark.parametrize("data", [
    b"x\r\n", b"\r\n", b":\r\n", b":1a\r\n", b":--1\r\n", b":+-1\r\n", b"$a\r\n", b"$-2\r\n",
    b"$3\r\nabcde",
    b"#x\r\n", b"_x\r\n", b"$1048577\r\n", b"*65537\r\n", b"$" + b"1" * 30 + b"\r\n",
    b"+" + b"a" * 5000, b"*1\r\n" * 9, b"*1\r\n>1\r\n:1\r\n",
    b":" + b"9" * 40 + b"\r\n", "$\N{SUPERSCRIPT TWO}\r\n".encode(),
])
def test_what_is_no_reply_is_refused(data: bytes) -> None:
    """As soon as no continuation could make it one."""
    with pytest.raises(RespError):
        Parser().feed(data)


def test_a_reply_has_a_largest_size() -> None:
    """Together with all that is in it."""
    parser = Parser()
    parser.feed(b"*20\r\n")
    piece = b"$1048576\r\n" + bytes(1 << 20) + b"\r\n"
    for _ in range(15):
        assert [] == parser.feed(piece)
    with pytest.raises(RespError, match="too long"):
        parser.feed(piece)


def test_many_large_replies_are_no_large_reply() -> None:
    """Each is measured by itself, however it was cut."""
    parser = Parser()
    piece = b"$1048576\r\n" + bytes(1 << 20) + b"\r\n"
    for _ in range(20):
        assert [] == parser.feed(piece[:700_000])
        assert [bytes(1 << 20)] == parser.feed(piece[700_000:])


VALUES = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4), max_leaves=12,
).filter(lambda value: depth(value) <= resp.MOST_DEPTH)


def depth(value: Any) -> int:
    """Return how many lists are within one another."""
    return 1 + max((depth(one) for one in value), default=0) if isinstance(value, list) else 0


def encoded(value: Any) -> bytes:
    """Return a value as a server sends it."""
    if value is None:
        return b"_\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(map(encoded, value))


@given(st.lists(VALUES, max_size=5), st.data())
def test_replies_are_read_however_they_are_cut(values: list[Any], data: st.DataObject) -> None:
    """Pipelined, in any pieces."""
    text = b"".join(map(encoded, values))
    parser = Parser()
    found: list[Any] = []
    while text:
        cut = data.draw(st.integers(1, len(text)))
        found += parser.feed(text[:cut])
        text = text[cut:]
    assert values == found


@given(st.binary(max_size=200), st.data())
def test_any_bytes_are_read_or_refused(text: bytes, data: st.DataObject) -> None:
    """The same in one piece and in two, and nothing but RespError is raised."""
    def outcome(pieces: list[bytes]) -> tuple[list[Any], bool]:
        parser = Parser()
        found: list[Any] = []
        try:
            for piece in pieces:
                found += parser.feed(piece)
        except RespError:
            return found, False
        return found, True

    cut = data.draw(st.integers(0, len(text)))
    whole, is_good = outcome([text])
    parts, are_good = outcome([text[:cut], text[cut:]])
    assert is_good == are_good
    if is_good:
        assert whole == parts


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=6))
def test_a_command_is_a_list_of_strings(words: list[bytes]) -> None:
    """As a server reads it, whatever bytes are in it."""
    assert [words] == Parser().feed(resp.command(words))


def test_an_error_has_a_code() -> None:
    """Its first word."""
    assert "READONLY" == ErrorReply("READONLY You can't write against a replica.").code


def test_what_takes_much_memory_and_few_bytes_is_bounded() -> None:
    """Empty lists in a list: each takes more memory than the four bytes it came as."""
    parser = Parser()
    piece = b"*65536\r\n" + b"*0\r\n" * 65_536
    parser.feed(b"*65536\r\n")
    with pytest.raises(RespError, match="a reply is too long"):
        parser.feed(4 * piece)
    assert 60_000 == len(Parser().feed(b"*60000\r\n" + b"$10\r\n0123456789\r\n" * 60_000)[0])
