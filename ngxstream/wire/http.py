"""Requests of HTTP/1.1, as a server of small ones reads them.

A Parser is strict: what two programs could read in two ways is refused, so that no request hides
in another one. It owns no socket and never answers; what it refuses it names with a status.

1. A line ends with CR LF. A bare CR, a bare LF, NUL and other control characters, a folded line
   and a space before a colon are refused.
2. A body has one Content-Length of decimal digits, or `Transfer-Encoding: chunked`, never both;
   no other coding is known. A length is given once.
3. HTTP/1.1 has exactly one Host, HTTP/1.0 at most one. The authority of an absolute target takes
   its place.
4. Any bytes, whole or one by one, give the same events and the same error.

Source: RFC 9112, RFC 9110; ngx_http_parse.c for what is said of a refused request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from ngxstream.wire import reader

MAX_LINE: Final = 8192  # bytes of a request line
MAX_HEADERS: Final = 16_384  # bytes of all header lines of a request, the trailer's too
MAX_FIELDS: Final = 100  # header lines, the trailer's too
MAX_BODY: Final = 1 << 20  # bytes; also of what frames the chunks of a body
MAX_CHUNK_LINE: Final = 256  # bytes, with extensions, which are ignored

METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)

LINE: Final = "line"
HEADERS: Final = "headers"
BODY: Final = "body"

_TOKEN: Final = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
# what a line, whole or not, may be; it ends before the first byte that cannot stand there
_REQUEST_BEGUN: Final = re.compile(
    rb"([%s]*)(?: (?:([!$-;=?-~]+)(?: ([!-~]*))?)?)?" % _TOKEN
)
_FIELD_BEGUN: Final = re.compile(rb"([%s]+)(?::([\t -~\x80-\xff]*))?" % _TOKEN)
_CHUNK_BEGUN: Final = re.compile(rb"([0-9A-Fa-f]+)(?:;[\t -~\x80-\xff]*)?")
_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_AUTHORITY: Final = re.compile(
    r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::([0-9]{0,5}))?"
)
_ABSOLUTE: Final = re.compile(r"(?:https?)://([^/?]*)(.*)", re.IGNORECASE)


class HttpError(reader.WireError):
    """A request that is refused; the text follows `client sent` in a log."""

    def __init__(self, status: int, text: str, part: str) -> None:
        """Args: status: of the reply; part: LINE, HEADERS or BODY, where it was found"""
        super().__init__(text)
        self.status = status
        self.text = text
        self.part = part


class Head(NamedTuple):
    """A request without its body."""

    method: str
    path: str  # as sent, still percent-encoded; begins with "/", or is "*"
    query: str  # as sent, behind the "?"
    minor: int  # of the version: 1, 0 for HTTP/1.0
    host: str  # host as the client named it, in lower case, without port; "" for none
    authority: str  # host and port
    headers: dict[str, str]  # by lower-case name; of several of one name joined by ", "
    keep_alive: bool
    expects: bool  # to be told to continue
    length: int | None  # of the body; None when it comes in chunks


class Body(NamedTuple):
    """The body of the request whose Head came before it; empty for one without."""

    data: bytes


Event = Head | Body
Refusal = tuple[int, str, str]  # what an HttpError is made of


class Parser:
    """The requests of one connection, one after another."""

    __slots__ = (
        "_buffer",
        "_seen",  # bytes of the buffer without the end of a line
        "_step",  # function of the parser: no bound method, which would make a cycle
        "_refused",  # what it was, once a request is refused
        "_head",  # method, target and minor version
        "_fields",
        "_bytes",  # of the header lines so far
        "_left",  # bytes of the body or chunk still to come
        "_body",
        "_most",  # bytes of a body
        "_framing",  # bytes of chunk lines
        "_is_blank_allowed",  # an empty line may stand before a request
    )

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0
        self._refused: Refusal | None = None
        self._body = bytearray()
        self._left = 0
        self._framing = 0
        self._begin()

    def limit_body(self, size: int) -> None:
        """Take no more of the body whose Head came last; what is over it is refused by next()."""
        self._most = size

    def _begin(self) -> None:
        self._step: Callable[[Parser], Event | reader.NeedMore | None] = Parser._request_line
        self._head: tuple[str, str, int] = ("", "", 1)
        self._fields: list[tuple[str, str]] = []
        self._bytes = 0
        self._most = MAX_BODY
        self._is_blank_allowed = True

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a next request has come."""
        return not self._buffer and self._step is Parser._request_line

    @property
    def part(self) -> str:
        """What is being read: LINE, HEADERS or BODY."""
        step = self._step
        if step is Parser._request_line:
            return LINE
        return HEADERS if step is Parser._field else BODY

    def feed(self, data: reader.Buffer) -> None:
        """Take further bytes; what they make is told by next()."""
        self._buffer += data

    def next(self) -> Event | reader.NeedMore:
        """Return a Head, the Body that belongs to it, a Head… Raises: HttpError, for ever after"""
        if self._refused is not None:
            raise HttpError(*self._refused)
        try:
            while True:
                event = self._step(self)
                if event is not None:
                    return event
        except HttpError as error:
            self._refused = (error.status, error.text, error.part)
            self._buffer.clear()
            raise

    # -- steps: each returns an event, NEED_MORE, or None to go on with the next step ----------

    def _line(self, begun: re.Pattern[bytes], limit: int, at_limit: Refusal,
              broken: Refusal) -> bytes | None:
        """Take a line without its end, None while it is not whole. Raises: HttpError

        Args: begun: what it may be; of a line that is something else the first byte counts;
        at_limit, broken: made into errors here (one that is a local where it is raised is a cycle)
        """
        buffer = self._buffer
        end = buffer.find(b"\n", self._seen)
        size = len(buffer) if end < 0 else end
        line = bytes(buffer[: min(size, limit + 2)])
        is_ended = len(line) == size and line.endswith(b"\r")
        if is_ended:
            line = line[:-1]
        if line:
            match = begun.match(line)
            if (0 if match is None else match.end()) < min(len(line), limit):
                raise HttpError(*broken)
        if len(line) > limit:
            raise HttpError(*at_limit)
        if end < 0:
            self._seen = size
            return None
        if not is_ended:
            raise HttpError(*broken)
        self._seen = 0
        del buffer[: end + 1]
        return line

    def _request_line(self) -> Event | reader.NeedMore | None:
        line = self._line(
            _REQUEST_BEGUN, MAX_LINE, (414, "too long URI", LINE),
            (400, "invalid request", LINE),
        )
        if line is None:
            return reader.NEED_MORE
        if not line:
            if not self._is_blank_allowed:
                raise HttpError(400, "invalid request", LINE)
            self._is_blank_allowed = False
            return None
        match = _REQUEST_BEGUN.fullmatch(line)
        if match is None or not match[1] or not match[3]:
            raise HttpError(400, "invalid request", LINE)
        version = _VERSION.fullmatch(match[3])
        if version is None:
            raise HttpError(400, "invalid request", LINE)
        if version[1] != b"1":
            raise HttpError(505, "invalid version", LINE)
        method = match[1].decode("ascii")
        if method not in METHODS:
            raise HttpError(501, "invalid method", LINE)
        self._head = (method, match[2].decode("ascii"), min(1, int(version[2])))
        self._step = Parser._field
        return None

    def _field(self) -> Event | reader.NeedMore | None:
        done = self._take_field()
        if done is None:
            return reader.NEED_MORE
        return self._make_head() if done else None

    def _take_field(self) -> bool | None:
        """Take a header line. Returns: whether it was the empty one; None while it is not whole"""
        left = MAX_HEADERS - self._bytes
        line = self._line(
            _FIELD_BEGUN, left, (431, "too large request", HEADERS),
            (400, "invalid header line", HEADERS),
        )
        if line is None:
            return None
        if not line:
            return True
        self._bytes += len(line) + 2
        match = _FIELD_BEGUN.fullmatch(line)
        if match is None or match[2] is None:
            raise HttpError(400, "invalid header line", HEADERS)
        if len(self._fields) >= MAX_FIELDS:
            raise HttpError(431, "too many headers", HEADERS)
        name = match[1].decode("ascii").lower()
        self._fields.append((name, match[2].decode("latin-1").strip(" \t")))
        return False

    def _make_head(self) -> Head:
        method, target, minor = self._head
        named: dict[str, list[str]] = {}
        for name, value in self._fields:
            named.setdefault(name, []).append(value)
        path, query, authority = _target(method, target, named.get("host"), minor)
        host = _AUTHORITY.fullmatch(authority)
        if host is None or (authority and not host[1]):
            raise HttpError(400, "invalid host header", HEADERS)
        length = _length(named, minor)
        expect = named.get("expect")
        if expect is not None and minor and [one.lower() for one in expect] != ["100-continue"]:
            raise HttpError(417, "unknown expectation", HEADERS)
        if length is not None and length > MAX_BODY:
            raise HttpError(413, f"intended to send too large body: {length} bytes", HEADERS)
        options = {
            one.strip().lower() for text in named.get("connection", ()) for one in text.split(",")
        }
        keep_alive = "close" not in options and (minor == 1 or "keep-alive" in options)
        self._body.clear()
        self._framing = 0
        self._left = length or 0
        self._step = Parser._chunk_line if length is None else Parser._whole
        return Head(
            method, path, query, minor, host[1].lower(), authority.lower(),
            {name: ", ".join(values) for name, values in named.items()}, keep_alive,
            expect is not None and minor == 1, length,
        )

    def _whole(self) -> Event | reader.NeedMore | None:
        if self._left + len(self._body) > self._most:
            raise HttpError(413, "intended to send too large body", BODY)
        return self._finish() if self._take_body() else reader.NEED_MORE

    def _take_body(self) -> bool:
        """Move what there is of the body or chunk. Returns: whether it is whole"""
        piece = self._buffer[: self._left]
        if piece:
            self._body += piece
            del self._buffer[: len(piece)]
            self._left -= len(piece)
        return not self._left

    def _finish(self) -> Body:
        body = Body(bytes(self._body))
        self._body.clear()
        self._begin()
        return body

    def _chunk_line(self) -> Event | reader.NeedMore | None:
        line = self._line(
            _CHUNK_BEGUN, MAX_CHUNK_LINE, (400, "too long chunk line", BODY),
            (400, "invalid chunked body", BODY),
        )
        if line is None:
            return reader.NEED_MORE
        match = _CHUNK_BEGUN.fullmatch(line)
        if match is None or len(match[1]) > 16:
            raise HttpError(400, "invalid chunked body", BODY)
        size = self._left = int(match[1], 16)
        self._framing += len(line) + 4
        if len(self._body) + size > self._most or self._framing > MAX_BODY:
            raise HttpError(413, "intended to send too large chunked body", BODY)
        self._step = Parser._chunk if size else Parser._trailer
        return None

    def _chunk(self) -> Event | reader.NeedMore | None:
        if self._left and not self._take_body():
            return reader.NEED_MORE
        end = bytes(self._buffer[:2])
        if not b"\r\n".startswith(end):
            raise HttpError(400, "invalid chunked body", BODY)
        if len(end) < 2:
            return reader.NEED_MORE
        del self._buffer[:2]
        self._step = Parser._chunk_line
        return None

    def _trailer(self) -> Event | reader.NeedMore | None:
        done = self._take_field()
        if done is None:
            return reader.NEED_MORE
        return self._finish() if done else None


def _target(method: str, target: str, hosts: list[str] | None,
            minor: int) -> tuple[str, str, str]:
    """Return path, query and authority. Raises: HttpError"""
    if hosts is None:
        if minor:
            raise HttpError(400, 'HTTP/1.1 request without "Host" header', HEADERS)
    elif len(hosts) > 1:
        raise HttpError(400, "duplicate host header", HEADERS)
    authority = hosts[0] if hosts else ""
    if not _AUTHORITY.fullmatch(authority):
        raise HttpError(400, "invalid host header", HEADERS)
    if target == "*" and method == "OPTIONS":
        return "*", "", authority
    if not target.startswith("/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not absolute[1]:
            raise HttpError(400, "invalid URI", HEADERS)
        authority = absolute[1]
        target = absolute[2]
        target = target if target.startswith("/") else f"/{target}"
    path, _, query = target.partition("?")
    return path, query, authority


def _length(named: dict[str, list[str]], minor: int) -> int | None:
    """Return the length of the body, None for chunks. Raises: HttpError"""
    lengths = named.get("content-length")
    codings = named.get("transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise HttpError(
                400, '"Content-Length" and "Transfer-Encoding" headers at the same time', HEADERS
            )
        if not minor:
            raise HttpError(400, 'HTTP/1.0 request with "Transfer-Encoding" header', HEADERS)
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise HttpError(501, 'unknown "Transfer-Encoding"', HEADERS)
        return None
    if lengths is None:
        return 0
    if len(lengths) > 1:
        raise HttpError(400, 'duplicate "Content-Length" header', HEADERS)
    if not _LENGTH.fullmatch(lengths[0]):
        raise HttpError(400, 'invalid "Content-Length" header', HEADERS)
    return int(lengths[0])
