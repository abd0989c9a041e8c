"""Replies of HTTP/1.1."""

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.wire import http_reply


def test_a_reply_has_a_head() -> None:
    """A status line and the fields; what would be two lines is refused."""
    assert b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n" == http_reply.head(204, [("A", "b")])
    assert http_reply.head(599, []).startswith(b"HTTP/1.1 599 ")
    for field in (("A", "b\r\nC: d"), ("A\n", "b"), ("A", "b\0"), ("A", "\u20ac")):
        with pytest.raises(ValueError, match="no header line"):
            http_reply.head(200, [field])


def test_a_piece_of_a_body_is_a_chunk() -> None:
    """Its length in hexadecimal digits."""
    assert b"c\r\nhello, world\r\n" == http_reply.chunk(b"hello, world")


@given(st.integers(0, 2**32))
def test_a_time_is_written_as_mail_has_it(seconds: int) -> None:
    """In the one form that is allowed."""
    assert email.utils.formatdate(seconds, usegmt=True) == http_reply.date(seconds)
