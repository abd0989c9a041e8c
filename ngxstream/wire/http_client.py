"""HTTP/1.1 as a client of one request: the bytes of the request, and its reply.

Neither owns a socket. Everything is strict: what could be read in two ways is refused, so that
nobody's reply, and no part of a request, hides in another one.

1. A request has no CR, LF or NUL that its maker has not put there, one Host, one length.
2. A reply's lines end with CR LF; it has one Content-Length of decimal digits, or comes in chunks,
   or ends with the connection; never two of these. Interim replies (1xx) are passed over, but for
   101, which nobody asks for.
3. HEAD, 204 and 304 have no body, whatever their header says.
4. What is read is bounded: MAX_LINE, MAX_HEADERS, MAX_FIELDS, MAX_INTERIM, and the body by its
   caller; also of what frames chunks.
5. Any bytes, whole or one by one, give the same reply and the same error. What follows a reply is
   not looked at: the connection ends.

Source: RFC 9112, RFC 9110
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from urllib import parse

from ngxstream.wire import reader

MAX_LINE: Final = 8192  # bytes of a status line
MAX_HEADERS: Final = 65_536  # bytes of all header lines, those of interim replies and trailer too
MAX_FIELDS: Final = 256  # header lines, likewise
MAX_INTERIM: Final = 16  # replies before the one that counts
MAX_CHUNK_LINE: Final = 256  # bytes, with extensions, which are ignored
MAX_URL: Final = 8000  # characters

_STATUS: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t -~\x80-\xff]*)")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_URL: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*)|[0-9A-Fa-f:.]+")
_FRAMING: Final = frozenset((
    "host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade",
    "expect", "keep-alive", "proxy-connection",
))
_WITH_LENGTH: Final = frozenset(("POST", "PUT", "PATCH"))  # of 0 where there is no body
_PORTS: Final = {"http": 80, "https": 443}


class ReplyError(reader.WireError):
    """A reply that is none; the text says why."""


class Url(NamedTuple):
    """What a URL names. Args: authority: as Host has it; target: path and query, as sent"""

    is_secure: bool
    host: str
    port: int
    authority: str
    target: str


def parse_url(url: str) -> Url:
    """Take a URL apart. Raises: ValueError for what is no URL of http or https"""
    if not isinstance(url, str) or len(url) > MAX_URL or not _URL.fullmatch(url):
        raise ValueError("a URL is printable ASCII without spaces (urllib.parse.quote writes it)")
    parts = parse.urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError("a URL begins with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("a URL with a user or password is not taken: set a header")
    host = parts.hostname or ""
    if not _HOST.fullmatch(host) or len(host) > 253:
        raise ValueError("a URL needs the name or address of a host")
    usual = _PORTS[parts.scheme]
    port = usual if parts.port is None else parts.port
    if not port:
        raise ValueError("0 is no port")
    authority = f"[{host}]" if ":" in host else host
    if port != usual:
        authority += f":{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(parts.scheme == "https", host, port, authority, target)


def request(method: str, url: Url, fields: Iterable[tuple[str, str]], length: int | None) -> bytes:
    """Return the head of a request. Args: length: of its body, None for none

    Raises: ValueError for what cannot stand there, and for fields that are made here
    """
    if not isinstance(method, str) or not _TOKEN.fullmatch(method) or method == "CONNECT":
        raise ValueError(f"{method!r} is no method that can be used here")
    lines = [f"{method} {url.target} HTTP/1.1", f"Host: {url.authority}", "Connection: close"]
    if length is None and method in _WITH_LENGTH:
        length = 0
    if length is not None:
        lines.append(f"Content-Length: {length}")
    for name, value in fields:
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header")
        if name.lower() in _FRAMING:
            raise ValueError(f"the header {name} is written here")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ValueError(f"the header {name} has characters that no header may have")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "", "")).encode("latin-1")


class Reply(NamedTuple):
    """A whole reply. Args: fields: names as sent, in order"""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes


class Parser:
    """The reply to one request: feed() it until `reply` is there."""

    __slots__ = (
        "_body",
        "_buffer",
        "_fields",
        "_framing",  # int: bytes of chunk lines
        "_has_body",  # bool: the method's replies may have one
        "_headers",  # int: bytes of header lines so far
        "_interim",  # int: replies that were passed over
        "_lines",  # int: header lines so far
        "_left",  # int: bytes of the body or chunk still to come
        "_most",
        "_refused",  # str: what it was, once it is refused
        "_seen",  # int: bytes of the buffer without the end of a line
        "_status",  # (status, reason, minor version)
        "_step",  # a function of the parser: no bound method, which would make a cycle
        "reply",  # Reply | None
    )

    def __init__(self, method: str, max_body: int) -> None:
        """Args: method: of the request; max_body: bytes"""
        self._has_body = method != "HEAD"
        self._most = max_body
        self._buffer = bytearray()
        self._body = bytearray()
        self._fields: list[tuple[str, str]] = []
        self._framing = self._headers = self._interim = self._left = self._lines = self._seen = 0
        self._refused = ""
        self._status = (0, "", 1)
        self._step: Callable[[Parser], bool] = Parser._status_line
        self.reply: Reply | None = None

    def feed(self, data: reader.Buffer) -> None:
        """Take further bytes; none say that the connection has ended. Raises: ReplyError"""
        if self._refused:
            raise ReplyError(self._refused)
        if self.reply is not None:
            return
        self._buffer += data
        try:
            while self.reply is None and self._step(self):
                pass
            if not data and self.reply is None:
                self._end()
        except ReplyError as error:
            self._refused = str(error)
            self._buffer.clear()
            self._body.clear()
            raise

    def _end(self) -> None:
        """Take the end of the connection."""
        if self._step is not Parser._until_end:
            raise ReplyError("the reply ended too soon")
        self._finish()

    # -- steps: each tells whether the next one may go on ----------------------------------------

    def _line(self, limit: int) -> bytes | None:
        """Take a line without its end, None while it is not whole. Raises: ReplyError"""
        buffer = self._buffer
        end = buffer.find(b"\n", self._seen)
        if end > limit or (end < 0 and len(buffer) > limit):
            raise ReplyError("a line of the reply is too long")
        if end < 0:
            self._seen = len(buffer)
            return None
        line = bytes(buffer[:end])
        self._seen = 0
        del buffer[: end + 1]
        if not line.endswith(b"\r"):
            raise ReplyError("a line of the reply has no proper end")
        return line[:-1]

    def _status_line(self) -> bool:
        line = self._line(MAX_LINE)
        if line is None:
            return False
        match = _STATUS.fullmatch(line)
        if match is None:
            raise ReplyError("the reply has no status line of HTTP/1.1")
        self._status = (int(match[2]), (match[3] or b"").decode("latin-1"), int(match[1]))
        self._step = Parser._field
        return True

    def _take_field(self) -> bool | None:
        """Take a header line. Returns: whether it was the empty one; None while it is not whole"""
        line = self._line(MAX_HEADERS - self._headers)
        if line is None:
            return None
        if not line:
            return True
        self._headers += len(line) + 2
        self._lines += 1
        match = _FIELD.fullmatch(line)
        if match is None:
            raise ReplyError("the reply has an invalid header line")
        if self._lines > MAX_FIELDS or self._headers > MAX_HEADERS:
            raise ReplyError("the reply has too many headers")
        self._fields.append((match[1].decode("ascii"), match[2].decode("latin-1").strip(" \t")))
        return False

    def _field(self) -> bool:
        done = self._take_field()
        if done is None:
            return False
        if done:
            self._on_head()
        return True

    def _on_head(self) -> None:
        """Decide how long the body is. Raises: ReplyError"""
        status, _, minor = self._status
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                raise ReplyError(f"the reply has an unexpected status, {status}")
            self._fields.clear()
            self._step = Parser._status_line
            return
        lengths = self._values("content-length")
        codings = self._values("transfer-encoding")
        if codings:
            if lengths:
                raise ReplyError('the reply has "Content-Length" and "Transfer-Encoding"')
            if [one.lower() for one in codings] != ["chunked"] or not minor:
                raise ReplyError('the reply has an unknown "Transfer-Encoding"')
        elif len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
            raise ReplyError('the reply has an invalid "Content-Length"')
        if not self._has_body or status in (204, 304):
            self._finish()
        elif codings:
            self._step = Parser._chunk_line
        elif lengths:
            self._left = int(lengths[0])
            self._bound(self._left)
            self._step = Parser._whole
        else:
            self._step = Parser._until_end

    def _values(self, name: str) -> list[str]:
        return [value for field, value in self._fields if field.lower() == name]

    def _bound(self, size: int) -> None:
        """See that so much more may come. Raises: ReplyError"""
        if len(self._body) + size > self._most:
            raise ReplyError(f"the reply has more than {self._most} bytes")

    def _take_body(self) -> bool:
        """Move what there is of the body or chunk. Returns: whether it is whole"""
        piece = self._buffer[: self._left]
        self._body += piece
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        return not self._left

    def _whole(self) -> bool:
        if self._take_body():
            self._finish()
        return False

    def _until_end(self) -> bool:
        self._bound(len(self._buffer))
        self._body += self._buffer
        self._buffer.clear()
        return False

    def _chunk_line(self) -> bool:
        line = self._line(MAX_CHUNK_LINE)
        if line is None:
            return False
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise ReplyError("the reply has an invalid chunk")
        self._left = int(match[1], 16)
        self._framing += len(line) + 4
        self._bound(max(self._left, self._framing - MAX_HEADERS))
        self._step = Parser._chunk if self._left else Parser._trailer
        return True

    def _chunk(self) -> bool:
        if self._left and not self._take_body():
            return False
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise ReplyError("the reply has an invalid chunk")
        del self._buffer[:2]
        self._step = Parser._chunk_line
        return True

    def _trailer(self) -> bool:
        known = len(self._fields)
        done = self._take_field()
        del self._fields[known:]  # a trailer is nobody's header
        if done:
            self._finish()
        return done is False

    def _finish(self) -> None:
        status, reason, _ = self._status
        self.reply = Reply(status, reason, tuple(self._fields), bytes(self._body))
        self._buffer.clear()
        self._body.clear()
