"""A reply as bytes: its length where it is known, chunks where it is not."""

from collections.abc import Iterator
from time import monotonic_ns
from typing import Any

import pytest

from ngxstream.modules.api.sending import PIECE, Sending
from ngxstream.stream.api import Items, Reply
from ngxstream.wire.http import Head
from tests.support import http_replies as h

LATE = 0  # a slice that is over


def head(method: str = "GET", minor: int = 1) -> Head:
    """Return the head of a request."""
    return Head(method, "/", "", minor, "", "", {}, True, False, 0)


def sent(sending: Sending, over: int = LATE) -> tuple[bytes, int]:
    """Return the bytes of a reply, and in how many pieces they came."""
    data, count = sending.begin(over), 1
    while not sending.is_done:
        data += sending.go_on(over)
        count += 1
    return data, count


def test_a_reply_of_one_slice_has_a_length() -> None:
    """And keeps the connection."""
    sending = Sending(Reply(201, {"a": 1}), head(), keeps=True)
    data, count = sent(sending, monotonic_ns() + 10**12)
    (got,) = h.replies(data)
    assert (201, {"a": 1}, 1, True) == (got.status, got.json, count, sending.keeps)
    assert ("7", "no-store", "nosniff") == tuple(
        got.headers[name] for name in ("content-length", "cache-control", "x-content-type-options")
    )
    assert "connection" not in got.headers


def test_a_value_is_one_piece_however_late_it_is() -> None:
    """Nothing in it is made while it is sent."""
    for value, kind in (({"a": [1, 2]}, "application/json"), ("text", "text/plain")):
        data, count = sent(Sending(Reply(200, value, kind), head(), keeps=True))
        assert 1 == count
        assert "content-length" in h.replies(data)[0].headers


def test_a_reply_of_several_slices_comes_in_chunks() -> None:
    """Made a piece at a time."""
    sending = Sending(Reply(200, Items(iter(range(50)))), head(), keeps=True)
    data, count = sent(sending)
    (got,) = h.replies(data)
    assert (list(range(50)), "chunked") == (got.json, got.headers["transfer-encoding"])
    assert count > 50
    assert sending.keeps


def test_an_old_client_reads_to_the_end() -> None:
    """HTTP/1.0 has no chunks: the connection closes behind the reply."""
    sending = Sending(Reply(200, Items(iter(range(9)))), head(minor=0), keeps=True)
    (got,) = h.replies(sent(sending)[0])
    assert (list(range(9)), "close", False) == (
        got.json, got.headers["connection"], sending.keeps
    )


def test_an_old_client_is_told_that_the_connection_stays() -> None:
    """Where it asked for it."""
    data, _ = sent(Sending(Reply(200, 1), head(minor=0), keeps=True), monotonic_ns() + 10**12)
    assert "keep-alive" == h.replies(data)[0].headers["connection"]


def test_the_head_alone_is_made_of_no_more_than_a_slice() -> None:
    """HEAD has the length where GET has it at once; no body is made for it beyond."""
    made: list[int] = []

    def make() -> Iterator[int]:
        for n in range(9):
            made.append(n)
            yield n

    sending = Sending(Reply(200, Items(make())), head("HEAD"), keeps=True)
    data = sending.begin(LATE)
    assert sending.is_done
    assert data.endswith(b"\r\n\r\n")
    assert [0] == made
    whole = Sending(Reply(200, [1]), head("HEAD"), keeps=True).begin(monotonic_ns() + 10**12)
    assert b"Content-Length: 3\r\n" in whole
    assert whole.endswith(b"\r\n\r\n")


def test_text_is_sent_as_it_is() -> None:
    """Whole or in pieces, under its own type, with its headers."""
    for value in ("a\nb\n", iter(["a\n", "b\n"])):
        reply = Reply(200, value, "text/plain; version=0.0.4", (("ETag", '"1"'),))
        data, _ = sent(Sending(reply, head(), keeps=False), monotonic_ns() + 10**12)
        (got,) = h.replies(data)
        assert (b"a\nb\n", "text/plain; version=0.0.4", '"1"', "close") == (
            got.body, *(got.headers[name] for name in ("content-type", "etag", "connection"))
        )


def test_no_more_than_a_piece_is_made_ahead() -> None:
    """However much time there is."""
    sending = Sending(Reply(200, Items("x" * 1000 for _ in range(1000))), head(), keeps=True)
    first = sending.begin(monotonic_ns() + 10**12)
    assert PIECE <= len(first) < PIECE + 2000
    sending.close()
    assert sending.is_done


def test_what_would_be_two_header_lines_is_none() -> None:
    """A fault of whoever made the reply."""
    reply = Reply(200, 1, headers=(("ETag", "a\r\nSet-Cookie: b"),))
    with pytest.raises(ValueError, match="no header line"):
        Sending(reply, head(), keeps=True).begin(LATE)


def test_closing_ends_what_makes_the_body() -> None:
    """So that it lets go of what it holds."""
    ended: list[Any] = []

    def make() -> Iterator[str]:
        try:
            while True:
                yield "x"
        finally:
            ended.append(True)

    sending = Sending(Reply(200, make(), "text/plain"), head(), keeps=True)
    sending.begin(LATE)
    sending.close()
    assert [True] == ended
