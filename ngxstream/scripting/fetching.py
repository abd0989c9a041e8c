"""fetch(): one request of HTTP/1.1, and its reply.

Each request has a connection of its own, which ends with the reply: nothing of one can be taken for
another's. Redirects are the caller's business, and proxies of the environment are not used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ngxstream.scripting import net
from ngxstream.scripting import tls as tls_options
from ngxstream.scripting.errors import ScriptError
from ngxstream.scripting.waiting import timeout as limit
from ngxstream.wire import http_client

if TYPE_CHECKING:
    from ngxstream.scripting.streams import Stream
    from ngxstream.scripting.tls import TLS

MAX_SIZE: Final = 1 << 20  # bytes of a body unless more are asked for
TIMEOUT: Final = 30.0  # seconds, of all of it
PIECE: Final = 65_536
_CHARSET: Final = re.compile(r";\s*charset=\"?([A-Za-z0-9_.:-]+)", re.IGNORECASE)


class FetchError(ScriptError):
    """a reply that is none, or is larger than it may be"""


class Headers(Mapping[str, str]):
    """The headers of a reply: a mapping whose names are found in any case.

    Several of one name are joined by ", "; get_all() gives each.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        """Args: fields: names and values, in order"""
        self._fields = tuple(fields)

    def get_all(self, name: str) -> list[str]:
        """Return the value of each header of that name."""
        wanted = name.lower()
        return [value for field, value in self._fields if field.lower() == wanted]

    def __getitem__(self, name: str) -> str:
        found = self.get_all(name)
        if not found:
            raise KeyError(name)
        return ", ".join(found)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(field.lower() for field, _ in self._fields))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"<Headers {dict(self)!r}>"


@dataclass(frozen=True, slots=True)
class Response:
    """A reply. Attributes: status: such as 200, whichever it is; reason: the text behind it"""

    status: int
    reason: str
    headers: Headers
    body: bytes

    def text(self, encoding: str | None = None) -> str:
        """Return the body as text, by default in what its Content-Type says, or UTF-8.

        Bytes that are none become U+FFFD. Raises: LookupError for an encoding that is not known
        """
        if encoding is None:
            found = _CHARSET.search(self.headers.get("content-type", ""))
            encoding = found[1] if found else "utf-8"
        return self.body.decode(encoding, "replace")

    def json(self) -> Any:
        """Return the value that the body is as JSON. Raises: ValueError where it is none"""
        return json.loads(self.body)


async def fetch(url: str, *, method: str = "GET",
                headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
                body: bytes | str | None = None, timeout: float | None = TIMEOUT,
                max_size: int = MAX_SIZE, verify: bool = True,
                tls: TLS | None = None) -> Response:
    """Make one request by HTTP/1.1.

    Args: url: of http or https, printable ASCII; headers: besides Host, Content-Length and
    Connection, which are written here; body: text is sent as UTF-8; timeout: seconds for all of it,
    None for no limit; max_size: bytes of the reply's body; verify: whether the server's certificate
    is verified; tls: further wishes

    A reply of any status is returned: a redirect is not followed.

    Raises: FetchError for a reply that is none or too large; OSError, CertificateError and
    ResolveError among them; TimeoutError; ValueError for what cannot be asked for, such as a line
    break in a header
    """
    to = http_client.parse_url(url)
    data = body.encode() if isinstance(body, str) else body
    fields = headers.items() if isinstance(headers, Mapping) else headers
    head = http_client.request(method, to, fields, None if data is None else len(data))
    secure: bool | TLS = False
    if to.is_secure:
        secure = replace(tls or tls_options.TLS(), verify=verify)
    async with limit(timeout), await net.connect(
        to.host, to.port, tls=secure, timeout=None
    ) as stream:
        reply = await _exchange(stream, method, head, data or b"", max_size)
        stream.close()
    return Response(reply.status, reply.reason, Headers(reply.fields), reply.body)


async def _exchange(stream: Stream, method: str, head: bytes, body: bytes,
                    max_size: int) -> http_client.Reply:
    """Send a request and read its reply. Raises: FetchError, OSError"""
    parser = http_client.Parser(method, max_size)
    refused: OSError | None = None
    try:
        await stream.send(head + body[:PIECE])
        await stream.send(body[PIECE:])
    except OSError as error:  # it may have answered before it read all
        refused = error
    try:
        while parser.reply is None:
            parser.feed(await stream.read(PIECE))
    except http_client.ReplyError as error:
        if refused is not None:
            raise refused from None
        raise FetchError(str(error)) from None
    except OSError:
        if refused is not None:
            raise refused from None
        raise
    finally:
        refused = None  # its traceback leads back here
    return parser.reply
