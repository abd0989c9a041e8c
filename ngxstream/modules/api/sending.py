"""A reply as bytes: its head, and its body in pieces, whole or in chunks.

A reply that is one text, or is made within the first slice, has a Content-Length; of any other the
length is not known: it comes in chunks, or to an HTTP/1.0 client until the connection closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic_ns, time
from typing import TYPE_CHECKING, Final

from ngxstream import VERSION
from ngxstream.modules.api import encoding
from ngxstream.stream.api import JSON
from ngxstream.wire import http_reply

if TYPE_CHECKING:
    from ngxstream.stream.api import Reply
    from ngxstream.wire.http import Head

PIECE: Final = 65_536  # characters that are made before the client takes some

COMMON: Final = (
    ("Server", f"ngxstream/{VERSION}"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class Sending:
    """One reply on its way. What makes its body may raise anything."""

    __slots__ = (
        "reply",
        "head",  # Head | None: of the request, None for what was no request
        "text",  # Iterator[str] | None: what is left of the body
        "is_chunked",
        "keeps",  # bool: the connection goes on behind it
    )

    def __init__(self, reply: Reply, head: Head | None, keeps: bool) -> None:
        """Args: keeps: whether the connection may go on behind it"""
        self.reply = reply
        self.head = head
        self.keeps = keeps
        self.is_chunked = False
        self.text: Iterator[str] | None = None

    @property
    def is_done(self) -> bool:
        """Whether all of it was made."""
        return self.text is None

    def begin(self, over: int) -> bytes:
        """Return the head and the first piece. Args: over: ns, when the slice is over"""
        reply, head = self.reply, self.head
        body = self._begin_body(over)
        is_whole = self.text is None
        is_new = head is None or head.minor == 1
        self.is_chunked = is_new and not is_whole
        self.keeps &= is_whole or is_new
        fields = [("Date", http_reply.date(time())), *COMMON]
        if reply.value is not None:
            fields.append(("Content-Type", reply.kind))
        if self.is_chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        elif is_whole and reply.status != 204:
            fields.append(("Content-Length", str(len(body))))
        if not self.keeps:
            fields.append(("Connection", "close"))
        elif not is_new:
            fields.append(("Connection", "keep-alive"))
        lines = http_reply.head(reply.status, [*fields, *reply.headers])
        if head is not None and head.method == "HEAD":
            self.close()
            return lines
        return lines + self._framed(body)

    def _begin_body(self, over: int) -> bytes:
        value, kind = self.reply.value, self.reply.kind
        if value is None:
            return b""
        text = encoding.whole(value) if kind == JSON else value
        if isinstance(text, str):
            return encoding.to_bytes(text)
        self.text = encoding.pieces(value) if kind == JSON else iter(value)
        return self._make(over)

    def go_on(self, over: int) -> bytes:
        """Return the next piece, which may be nothing yet. Args: over: see begin()"""
        return self._framed(self._make(over))

    def _framed(self, body: bytes) -> bytes:
        if not self.is_chunked:
            return body
        framed = http_reply.chunk(body) if body else b""
        return framed if self.text is not None else framed + http_reply.LAST_CHUNK

    def _make(self, over: int) -> bytes:
        if self.text is None:
            return b""
        parts: list[str] = []
        size = 0
        for part in self.text:
            parts.append(part)
            size += len(part)
            if size >= PIECE or monotonic_ns() >= over:
                break
        else:
            self.text = None
        return encoding.to_bytes("".join(parts))

    def close(self) -> None:
        """Make no more of it."""
        text, self.text = self.text, None
        close: Callable[[], None] | None = getattr(text, "close", None)
        if close is not None:
            close()
