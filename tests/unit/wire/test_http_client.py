"""http_client: what a request may be, and how long a reply is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.wire import http, http_client, reader
from ngxstream.wire.http_client import Parser, ReplyError, Url, parse_url

URL = parse_url("http://a.test/")


def reply(data: bytes, method: str = "GET", most: int = 100) -> http_client.Reply:
    """Return the reply that bytes are which end with the connection."""
    parser = Parser(method, most)
    parser.feed(data)
    parser.feed(b"")
    assert parser.reply is not None
    return parser.reply


@pytest.mark.parametrize(("url", "expected"), [
    ("http://a.test", Url(False, "a.test", 80, "a.test", "/")),
    ("https://A.test/b?c=d#e", Url(True, "a.test", 443, "a.test", "/b?c=d")),
    ("http://a.test:8080?x", Url(False, "a.test", 8080, "a.test:8080", "/?x")),
    ("http://a.test:80/", Url(False, "a.test", 80, "a.test", "/")),
    ("https://[2001:db8::1]:80/", Url(True, "2001:db8::1", 80, "[2001:db8::1]:80", "/")),
])
def test_a_url_is_taken_apart(url: str, expected: Url) -> None:
    """The fragment stays here, and a usual port is not said."""
    assert expected == parse_url(url)


@pytest.mark.parametrize("url", [
    "a.test", "ftp://a.test/", "http://", "http:///x", "http://a.test/\r\nX: y", "http://a b/",
    "http://a.test/\tx", "http://user:secret@a.test/", "http://a.test:0/", "http://a.test:99999/",
    "http://a.test:x/", "http://\xe4.test/", "http://a.test/\0", "http://[::1/", "http://a\\b/",
    "http://a.test/" + "x" * 8000, "http://a%0d.test/",
])
def test_what_is_no_url_is_refused(url: str) -> None:
    """ValueError, whatever it is."""
    with pytest.raises(ValueError, match=r"."):
        parse_url(url)


def test_a_request_is_what_was_asked_for() -> None:
    """One Host, one length, and the connection ends behind it."""
    head = http_client.request("POST", URL, [("X-A", "b"), ("x-a", "c\td")], 3)
    assert (
        b"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 3\r\n"
        b"X-A: b\r\nx-a: c\td\r\n\r\n"
    ) == head
    assert b"Content-Length: 0\r\n" in http_client.request("PUT", URL, [], None)
    assert b"Content-Length" not in http_client.request("GET", URL, [], None)


@pytest.mark.parametrize(("name", "value"), [
    ("X\r\nY", "z"), ("X", "y\r\nZ: 1"), ("X", "y\n"), ("X", "y\0"), ("X ", "y"), ("", "y"),
    ("X:", "y"), ("\xe4", "y"), ("X", "\u0100"), ("Host", "b.test"), ("content-length", "7"),
    ("Transfer-Encoding", "chunked"), ("CONNECTION", "keep-alive"), ("X", b"y"), (b"X", "y"),
    ("X", "\x7f"),
])
def test_nothing_gets_into_a_request_that_is_not_a_header(name: str, value: str) -> None:
    """Nor what is written here."""
    with pytest.raises(ValueError, match="header"):
        http_client.request("GET", URL, [(name, value)], None)


@pytest.mark.parametrize("method", ["", "GET /x", "G\r\n", "CONNECT", "\xe4"])
def test_what_is_no_method_is_refused(method: str) -> None:
    """A tunnel is none, either."""
    with pytest.raises(ValueError, match="method"):
        http_client.request(method, URL, [], None)


@given(
    st.text(max_size=8), st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=3)
)
def test_our_server_reads_one_request_in_whatever_is_made(
    method: str, fields: list[tuple[str, str]]
) -> None:
    """What is not refused is one head with these headers and nothing behind it."""
    try:
        head = http_client.request(method, URL, fields, None)
    except ValueError:
        return
    parser = http.Parser()
    parser.feed(head)
    if method not in http.METHODS:
        with pytest.raises(http.HttpError, match="invalid method"):
            parser.next()
        return
    found = parser.next()
    if found is reader.NEED_MORE:
        raise AssertionError("it is not whole")
    assert isinstance(found, http.Head)
    assert {name.lower() for name, _ in fields} <= found.headers.keys()
    assert {name for name in found.headers if name not in ("host", "connection", "content-length")
            } == {name.lower() for name, _ in fields}


@pytest.mark.parametrize(("data", "status", "body"), [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabcd", 200, b"ab"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n001\r\nc\r\n0\r\n\r\n", 200,
     b"abc"),
    (b"HTTP/1.0 200 OK\r\n\r\nabc", 200, b"abc"),
    (b"HTTP/1.1 204 No Content\r\n\r\nabc", 204, b""),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b""),
    (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", 404,
     b""),
])
def test_how_long_a_body_is(data: bytes, status: int, body: bytes) -> None:
    """By its length, by its chunks, to the end of the connection, or none."""
    found = reply(data)
    assert (status, body) == (found.status, found.body)
    assert "Link" not in dict(found.fields)
    assert b"" == reply(data, "HEAD").body


@pytest.mark.parametrize(("data", "text"), [
    (b"HTTP/2 200 OK\r\n", "no status line"),
    (b"HTTP/1.1 20 OK\r\n", "no status line"),
    (b"ICY 200 OK\r\n", "no status line"),
    (b"HTTP/1.1 200 OK\n", "no proper end"),
    (b"HTTP/1.1 200 OK\r\nA: 1\n\r\n", "no proper end"),
    (b"HTTP/1.1 200 OK\r\nA : 1\r\n", "invalid header"),
    (b"HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\n", "invalid header"),
    (b"HTTP/1.1 200 OK\r\nA: \0\r\n", "invalid header"),
    (b"HTTP/1.1 200 OK\r\nA: a\rb\r\n", "invalid header"),
    (b"HTTP/1.1 101 Switching\r\n\r\n", "unexpected status, 101"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 17, "unexpected status, 100"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "Content-Length"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "Content-Length"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", "Content-Length"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "and"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
     "Transfer-Encoding"),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "invalid chunk"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "invalid chunk"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "invalid chunk"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", "more than 100 bytes"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n", "more than 100 bytes"),
    (b"HTTP/1.0 200 OK\r\n\r\n" + bytes(101), "more than 100 bytes"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", "too soon"),
    (b"HTTP/1.1 200 OK\r\nA: 1\r\n", "too soon"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", "too soon"),
    (b"", "too soon"),
    (b"A" * 9000, "too long"),
    (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, "too long"),
    (b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * 257, "too many headers"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 300, "too long"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: 1\r\n" * 257,
     "too many headers"),
])
def test_what_is_no_reply_is_refused(data: bytes, text: str) -> None:
    """For ever after; the text says why."""
    parser = Parser("GET", 100)
    with pytest.raises(ReplyError, match=text) as raised:  # noqa: PT012
        parser.feed(data) if data else None
        parser.feed(b"")
    with pytest.raises(ReplyError, match=str(raised.value).replace("(", r"\(")):
        parser.feed(b"HTTP/1.1 200 OK\r\n\r\n")


def test_chunks_of_a_byte_cost_no_more_than_a_bound() -> None:
    """What frames them is bounded as well."""
    parser = Parser("GET", 1 << 20)
    parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(ReplyError, match="more than"):  # noqa: PT012
        for _ in range(1 << 20):
            parser.feed(b"1;" + b"x" * 200 + b"\r\na\r\n")


def test_headers_keep_their_order() -> None:
    """And their names as sent."""
    found = reply(b"HTTP/1.1 200 All right\r\nB: 1\r\nA:\t2 \r\nContent-Length: 0\r\n\r\n")
    assert "All right" == found.reason
    assert (("B", "1"), ("A", "2"), ("Content-Length", "0")) == found.fields
