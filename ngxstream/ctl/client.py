"""A client of the API with the standard library alone: one request, one reply.

An example for programs that use the API, too: all it takes is
`with Client.of(url) as api: api.get("/9/nginx")`.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final, Self

Args = Mapping[str, str | None]  # of a query; empty ones are left out
Said = tuple[str, Any]  # what a command has to say: text for people, and a value for --json

PLUS: Final = "/9"  # the trees of the API, behind its prefix
OWN: Final = "/ngxstream/1"

# Exit codes of ngxstreamctl, documented in its manual.
OK: Final = 0
REFUSED: Final = 1  # the API said no: there is no such thing, or it cannot be done
USAGE: Final = 2
UNREACHABLE: Final = 3  # no API was found, or nobody answers there
FORBIDDEN: Final = 4  # who asks may not, or the API is read-only

TIMEOUT_S: Final = 10.0
MOST: Final = 256 << 20  # bytes of a reply
# what is raised where a reply has not the form that is expected
MALFORMED: Final = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError
)
_FORBIDDEN: Final = frozenset((401, 403, 405))
_NOT_FOUND: Final = 404
# what says less in the API's own words, which are those of NGINX Plus; by its code
_WORDS: Final = {
    "MethodDisabled": "the API is read-only: its server wants `api write=on;` for this",
    "UpstreamStatic": "the upstream has no `zone`, so its servers are those of the configuration",
}


class CtlError(Exception):
    """What a command ends with. Args: text: for people; code: of the exit"""

    def __init__(self, text: str, code: int = REFUSED) -> None:
        super().__init__(text)
        self.code = code


class _UnixConnection(http.client.HTTPConnection):
    """A connection over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect. Raises: OSError"""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


class Client:
    """One API. Raises: CtlError from every request that does not succeed."""

    def __init__(
        self, connection: http.client.HTTPConnection, where: str, prefix: str = "/api",
        user: str = "",
    ) -> None:
        """Args: where: for messages; prefix: of the API; user: NAME:PASSWORD, "" for none"""
        self._connection = connection
        self._is_kept = False  # it has served a request already
        self.where = where
        self.prefix = prefix
        self._headers = {"Accept": "application/json", "User-Agent": "ngxstreamctl"}
        if user:
            token = base64.b64encode(user.encode()).decode("ascii")
            self._headers["Authorization"] = f"Basic {token}"

    @classmethod
    def of(cls, url: str, user: str = "", tls: ssl.SSLContext | None = None) -> Client:
        """Return the client of an address.

        Args: url: http://HOST:PORT[/PREFIX], https://… or unix:PATH[:/PREFIX]; tls: for https, with
        the CA and the client's certificate. Raises: CtlError
        """
        if url.startswith("unix:"):
            path, _, prefix = url.removeprefix("unix:").partition(":")
            return cls(_UnixConnection(path), url, _prefix(prefix), user)
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise CtlError(f'"{url}" is no URL: {error}', USAGE) from None
        if not host or parts.scheme not in ("http", "https"):
            raise CtlError(f'"{url}" is no URL: http://HOST:PORT, https://… or unix:PATH', USAGE)
        if parts.username:
            user = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = tls or ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT_S, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        return cls(connection, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
                   _prefix(parts.path), user)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the connection."""
        self._connection.close()

    # -- requests ------------------------------------------------------------------------------

    def get(self, path: str, **args: str | None) -> Any:
        """Return what stands at a path of the API. Args: path: "/9/nginx"; args: of the query"""
        return self.request("GET", path, args)

    def request(
        self, method: str, path: str, args: Args | None = None, body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Send a request; return the decoded body, None for none. Args: path: below the prefix"""
        data = self.fetch(method, self.prefix + path, args, body, headers)
        if not data:
            return None
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise CtlError(f"{self.where} did not answer in JSON: is it the API?",
                           UNREACHABLE) from None

    def fetch(
        self, method: str, path: str, args: Args | None = None, body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """Send a request for any path of the server and return the body."""
        query = urllib.parse.urlencode({k: v for k, v in (args or {}).items() if v})
        target = urllib.parse.quote(path, safe="/%") + (f"?{query}" if query else "")
        sent = {**self._headers, **(headers or {})}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        try:
            status, got = self._exchange(method, target, data, sent)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            self._connection.close()
            self._is_kept = False
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if isinstance(error, ssl.SSLCertVerificationError):
                text = f"{error.verify_message}: --cacert names a CA's file, --insecure checks none"
            raise CtlError(f"{self.where}: {text}", UNREACHABLE) from None
        if status >= 300:
            raise self._refused(status, got)
        return got

    def _exchange(
        self, method: str, target: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Return status and body. Raises: OSError, HTTPException

        A worker that leaves closes its idle connections: what changes nothing is asked again then.
        """
        try:
            self._connection.request(method, target, data, headers)
            reply = self._connection.getresponse()
            got = reply.read(MOST)
        except ConnectionError:
            if not self._is_kept or method != "GET":
                raise
            self._connection.close()
            self._is_kept = False
            return self._exchange(method, target, data, headers)
        self._is_kept = True
        return reply.status, got

    def _refused(self, status: int, body: bytes) -> CtlError:
        code = FORBIDDEN if status in _FORBIDDEN else REFUSED
        try:
            error = json.loads(body)["error"]
            word, text = str(error["code"]), str(error["text"])
        except MALFORMED:
            said = body[:80].decode("ascii", "replace") if body[:1] not in (b"", b"<") else ""
            if status == _NOT_FOUND:
                said, code = "is it the API?", UNREACHABLE
            return CtlError(f"{self.where}: HTTP {status}{said and ': '}{said}", code)
        if word == "Unauthorized":
            text = "wrong user or password" if "Authorization" in self._headers else (
                "the API wants a user and a password: name the user by --user"
            )
        text = _WORDS.get(word, text)
        return CtlError(f"{text} ({word})", code)


def _prefix(path: str) -> str:
    return path.rstrip("/") or "/api"


def segment(name: str) -> str:
    """Return a name as one segment of a path."""
    return urllib.parse.quote(name, safe="")
