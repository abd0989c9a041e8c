"""Requests of HTTP/1.1: what is read, what is refused and with which status."""

import pytest

from ngxstream.wire import http, reader

HOST = b"Host: a\r\n"


def events(data: bytes) -> list[object]:
    """Return what bytes make, the error last if there is one."""
    parser = http.Parser()
    parser.feed(data)
    found: list[object] = []
    try:
        while (event := parser.next()) is not reader.NEED_MORE:
            found.append(event)
    except http.HttpError as error:
        found.append((error.status, error.text, error.part))
    return found


def head_of(data: bytes) -> http.Head:
    """Return the first head."""
    head = events(data)[0]
    assert isinstance(head, http.Head), head
    return head


def refusal(data: bytes) -> tuple[int, str, str]:
    """Return what a request is refused for."""
    error = events(data)[-1]
    assert isinstance(error, tuple) and not isinstance(error, http.Head), error
    return error


def get(*lines: bytes, first: bytes = b"GET / HTTP/1.1") -> bytes:
    """Write a request of these lines."""
    return b"\r\n".join([first, *lines, b"", b""])


def test_a_request_is_read() -> None:
    """Its parts, and an empty body behind it."""
    raw = b"GET /a/b%20c?d=e&f HTTP/1.1\r\nHOST: Example.COM:8080\r\nX:\t y \r\n\r\n"
    head, body = events(raw)
    assert http.Body(b"") == body
    assert http.Head(
        "GET", "/a/b%20c", "d=e&f", 1, "example.com", "example.com:8080",
        {"host": "Example.COM:8080", "x": "y"}, True, False, 0,
    ) == head  # fmt: skip


def test_requests_follow_each_other() -> None:
    """With their bodies, and with an empty line between them."""
    raw = get(HOST.strip(), b"Content-Length: 3") + b"abc" + b"\r\n" + get(HOST.strip())
    found = events(raw)
    assert [b"abc", b""] == [one.data for one in found if isinstance(one, http.Body)]
    assert 4 == len(found)


def test_a_body_may_come_in_chunks() -> None:
    """Extensions and a trailer mean nothing."""
    raw = get(HOST.strip(), b"Transfer-Encoding: Chunked")
    raw += b"3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    head, body = events(raw)
    assert isinstance(head, http.Head) and head.length is None
    assert http.Body(b"abc0123456789") == body


@pytest.mark.parametrize(
    ("first", "lines", "expected"),
    [
        (b"GET / HTTP/1.1", b"", True), (b"GET / HTTP/1.1", b"Connection: close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: x, Close\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: x\r\nConnection: close\r\n", False),
        (b"GET / HTTP/1.0", b"", False), (b"GET / HTTP/1.0", b"Connection: keep-alive\r\n", True),
        (b"GET / HTTP/1.7", b"", True),
    ],
)  # fmt: skip
def test_whether_the_connection_stays(first: bytes, lines: bytes, expected: bool) -> None:
    """By the version and what the client says."""
    assert expected is head_of(first + b"\r\n" + HOST + lines + b"\r\n").keep_alive


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        (b"/", b"a:1", ("a", "a:1", "/", "")), (b"/?", b"[::1]:80", ("[::1]", "[::1]:80", "/", "")),
        (b"http://B.c:2/x?y", b"a", ("b.c", "b.c:2", "/x", "y")),
        (b"HTTPS://b.c", b"a", ("b.c", "b.c", "/", "")),
        (b"http://b.c?y", b"a", ("b.c", "b.c", "/", "y")), (b"/", b"", ("", "", "/", "")),
        (b"//x/y", b"a", ("a", "a", "//x/y", "")),
    ],
)  # fmt: skip
def test_who_is_asked(target: bytes, host: bytes, expected: tuple[str, ...]) -> None:
    """Host says it, unless the target does."""
    head = head_of(get(b"Host: " + host, first=b"GET %b HTTP/1.1" % target))
    assert expected == (head.host, head.authority, head.path, head.query)


def test_http_1_0_needs_no_host() -> None:
    """And has none then."""
    assert "" == head_of(get(first=b"GET / HTTP/1.0")).host


def test_the_server_as_a_whole_may_be_asked_for_its_options() -> None:
    """And for nothing else."""
    assert "*" == head_of(get(HOST.strip(), first=b"OPTIONS * HTTP/1.1")).path
    assert 400 == refusal(get(HOST.strip(), first=b"GET * HTTP/1.1"))[0]


def test_a_body_may_wait_to_be_asked_for() -> None:
    """By HTTP/1.1 alone."""
    lines = (HOST.strip(), b"Expect: 100-Continue", b"Content-Length: 1")
    assert head_of(get(*lines)).expects
    assert not head_of(get(*lines, first=b"GET / HTTP/1.0")).expects


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET\r\n", 400), (b"GET /\r\n", 400), (b"GET / HTTP/1.1 \r\n", 400),
        (b"GET  / HTTP/1.1\r\n", 400), (b"GET /\tHTTP/1.1\r\n", 400), (b" GET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\n", 400), (b"GET / HTTP/1.1\rX", 400), (b"GET /\0 HTTP/1.1\r\n", 400),
        (b"GET /\xe9 HTTP/1.1\r\n", 400), (b"GET /#a HTTP/1.1\r\n", 400),
        (b"GET / http/1.1\r\n", 400), (b"GET / HTTP/1.10\r\n", 400), (b"GET / HTTP/11\r\n", 400),
        (b"GET / HTTP/2.0\r\n", 505), (b"GET / HTTP/0.9\r\n", 505), (b"PRI * HTTP/2.0\r\n", 505),
        (b"get / HTTP/1.1\r\n", 501), (b"BREW / HTTP/1.1\r\n", 501), (b"G(T / HTTP/1.1\r\n", 400),
        (b"\r\n\r\n", 400), (b"\x16\x03\x01", 400), (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", 400),
        (b"GET /" + b"a" * http.MAX_LINE, 414),
    ],
)  # fmt: skip
def test_a_request_line_is_refused(raw: bytes, status: int) -> None:
    """By the first byte that cannot stand where it is, before the line is whole."""
    assert (status, "line") == refusal(raw)[::2]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"", 400), (HOST * 2, 400), (b"Host: a\r\nHost: b\r\n", 400), (b"Host: a b\r\n", 400),
        (b"Host: a/b\r\n", 400), (b"Host: a@b\r\n", 400), (b"Host: a:b\r\n", 400),
        (b"Host: :80\r\n", 400), (b"Host: [::1\r\n", 400), (b"Host: \xe9\r\n", 400),
        (b"Host : a\r\n", 400), (b" Host: a\r\n", 400), (HOST + b" folded\r\n", 400),
        (HOST + b"\tfolded\r\n", 400), (HOST + b"a\r\n", 400), (HOST + b": a\r\n", 400),
        (HOST + b"a: b\0c\r\n", 400), (HOST + b"a: b\rc\r\n", 400), (HOST + b"a: b\n", 400),
        (HOST + b"a b: c\r\n", 400), (HOST + b"a\x7f: c\r\n", 400), (HOST + b"a: \x7f\r\n", 400),
        (HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n", 400),
        (HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        (HOST + b"Content-Length: 1, 1\r\n", 400), (HOST + b"Content-Length: +1\r\n", 400),
        (HOST + b"Content-Length: -1\r\n", 400), (HOST + b"Content-Length: 0x1\r\n", 400),
        (HOST + b"Content-Length: 1_0\r\n", 400), (HOST + b"Content-Length: \r\n", 400),
        (HOST + b"Content-Length: " + b"1" * 30 + b"\r\n", 400),
        (HOST + b"Content-Length: %d\r\n" % (http.MAX_BODY + 1), 413),
        (HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        (HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
        (HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        (HOST + b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (HOST + b"Transfer-Encoding: identity\r\n", 501), (HOST + b"Transfer-Encoding:\r\n", 501),
        (HOST + b"Transfer-Encoding: \x0bchunked\r\n", 400),
        (HOST + b"Expect: 200-ok\r\n", 417), (HOST + b"a: b\r\n" * http.MAX_FIELDS, 431),
        (HOST + b"a: " + b"b" * http.MAX_HEADERS, 431),
        (HOST + (b"a: " + b"b" * 1000 + b"\r\n") * 17, 431),
    ],
)  # fmt: skip
def test_headers_are_refused(lines: bytes, status: int) -> None:
    """What two programs could read in two ways, and what is too much."""
    assert (status, "headers") == refusal(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")[::2]


def test_an_old_request_has_no_chunks() -> None:
    """HTTP/1.0 knows none: somebody in between would not see the end."""
    raw = b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert 400 == refusal(raw)[0]


@pytest.mark.parametrize("target", [b"a", b"a:80", b"http:///", b"http://u@h/", b"ftp://a/"])
def test_targets_of_other_forms_are_refused(target: bytes) -> None:
    """No authority alone, no user, no other scheme."""
    assert 400 == refusal(get(HOST.strip(), first=b"GET %b HTTP/1.1" % target))[0]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\r\n", 400), (b"g\r\n", 400), (b"-1\r\n", 400), (b"0x1\r\n", 400), (b" 1\r\n", 400),
        (b"1 ;a\r\n", 400), (b"1\n", 400), (b"1\r\nab", 400), (b"1\r\na\n", 400),
        (b"1\r\na\r\r", 400), (b"1;" + b"a" * 300 + b"\r\n", 400), (b"1;\0\r\n", 400),
        (b"0\r\n a: b\r\n", 400), (b"0\r\na\r\n", 400), (b"00000000000000001\r\n", 400),
        (b"100001\r\n", 413), (b"fffffffffffffff\r\n", 413),
        ((b"1;" + b"a" * 250 + b"\r\na\r\n") * 5000, 413),
    ],
)  # fmt: skip
def test_chunks_are_refused(body: bytes, status: int) -> None:
    """What is no chunk, and what is too much, be it in what frames them."""
    raw = get(HOST.strip(), b"Transfer-Encoding: chunked")
    found = refusal(raw + body)
    assert status == found[0]
    assert found[2] == ("headers" if b": b" in body or body == b"0\r\na\r\n" else "body")


def _passes(raw: bytes) -> bool:
    return isinstance(events(raw)[-1], http.Body)


def test_limits_are_what_the_documentation_says() -> None:
    """To the byte."""
    chunked = get(b"Host: a", b"Transfer-Encoding: chunked")
    for n, fits in ((8192, True), (8193, False)):
        line = b"GET /%s HTTP/1.1" % (b"a" * (n - len("GET / HTTP/1.1")))
        assert fits == _passes(get(b"Host: a", first=line))
    for n, fits in ((99, True), (100, False)):
        assert fits == _passes(get(b"Host: a", *[b"a: b"] * n))
    for n, fits in ((16_384, True), (16_385, False)):
        rest = n - len("Host: a\r\n") - 10 * len("b: \r\n")  # ends of lines count
        lines = [b"b: " + b"c" * (rest // 10)] * 9 + [b"b: " + b"c" * (rest - rest // 10 * 9)]
        assert fits == _passes(get(b"Host: a", *lines))
    for n, fits in ((256, True), (257, False)):
        assert fits == _passes(chunked + b"0;" + b"a" * (n - 2) + b"\r\n\r\n")


def test_the_framing_of_a_body_is_limited() -> None:
    """That of each body by itself, with the ends of its lines."""
    chunked = get(b"Host: a", b"Transfer-Encoding: chunked")
    line = b"1;" + b"a" * 250 + b"\r\nx\r\n"  # 256 of it are framing
    most = http.MAX_BODY // 256
    end = b"0\r\n\r\n"
    almost = chunked + line * (most - 1) + end
    assert [True, True] == [_passes(almost), _passes(almost * 2)]
    assert (413, http.BODY) == refusal(chunked + line * most + end)[::2]


def test_a_body_may_be_limited_when_its_head_is_known() -> None:
    """Whether its length was told or not; the next one is not."""
    told = get(b"Host: a", b"Content-Length: 3") + b"abc"
    chunked = get(b"Host: a", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"
    for raw in (told, chunked):
        parser = http.Parser()
        parser.feed(raw + told)
        assert isinstance(parser.next(), http.Head)
        parser.limit_body(3)
        assert [http.Body(b"abc"), 3] == [parser.next(), getattr(parser.next(), "length", None)]
        assert http.Body(b"abc") == parser.next()
        parser = http.Parser()
        parser.feed(raw)
        parser.next()
        parser.limit_body(2)
        with pytest.raises(http.HttpError) as raised:
            parser.next()
        assert 413 == raised.value.status


def test_only_spaces_and_tabs_stand_around_a_value() -> None:
    """Other characters that a text may call spaces are of it: no length has such."""
    assert 400 == refusal(get(b"Host: a", b"Content-Length: 0\xa0"))[0]
    assert "\x85b\xa0" == head_of(get(b"Host: a", b"X: \x85b\xa0")).headers["x"]


def test_an_old_request_expects_nothing() -> None:
    """Whatever it says: HTTP/1.0 has no such thing."""
    head = head_of(get(b"Expect: more", first=b"GET / HTTP/1.0"))
    assert not head.expects


def test_a_wrong_host_is_refused_beside_an_absolute_target() -> None:
    """Though it is not the one that counts."""
    assert 400 == refusal(get(b"Host: a/b", first=b"GET http://a/ HTTP/1.1"))[0]


def test_a_refused_connection_stays_refused() -> None:
    """What comes behind is not looked at."""
    parser = http.Parser()
    parser.feed(b"\0")
    for _ in range(2):
        with pytest.raises(http.HttpError) as caught:
            parser.next()
        assert (400, "invalid request") == (caught.value.status, str(caught.value))
        parser.feed(get(HOST.strip()))


def test_what_is_being_read_can_be_told() -> None:
    """The part of a request, and whether there is any."""
    parser = http.Parser()
    seen = []
    head = b"GET / HTTP/1.1\r\n", HOST, b"Content-Length: 2\r\n\r\n", b"a", b"b"
    for piece in (b"", *head):
        parser.feed(piece)
        while parser.next() is not reader.NEED_MORE:
            pass
        seen.append((parser.part, parser.is_idle))
    idle, reading = ("line", True), ("headers", False)
    assert [idle, reading, reading, ("body", False), ("body", False), idle] == seen
