"""Routes PostgreSQL clients by the database in their startup message."""

import struct

from ngxstream.scripting import HOLD, MORE, Filter, Hold, Session

SSL_REQUEST = struct.pack(">II", 8, 80877103)
VERSION = 3 << 16
LONGEST = 10_000  # bytes of a startup message, as the server has it
ANALYTICS = {"reports", "warehouse"}


def route(s: Session) -> object:
    """Choose the server, once the startup message is whole: `py_preread`."""
    data = s.preread
    if SSL_REQUEST.startswith(data[:8]) and len(data) < 8:
        return MORE
    if data.startswith(SSL_REQUEST):
        if not hasattr(s.state, "is_refused"):
            s.state.is_refused = True
            s.send_to_client(b"N")
        data = data[8:]
    if len(data) < 8:
        return MORE
    size, version = struct.unpack_from(">II", data)
    if version != VERSION or not 8 < size <= LONGEST:
        s.close("neither a startup message nor an SSLRequest")
        return None
    if len(data) < size:
        return MORE
    words = data[8:size].split(b"\0")
    settings = dict(zip(words[::2], words[1::2], strict=False))
    database = settings.get(b"database") or settings.get(b"user", b"")
    s.variables["server"] = "analytics" if database.decode("utf-8", "replace") in ANALYTICS else "main"
    return None


def without_request(s: Session) -> Filter | None:
    """Return a filter for clients who asked for TLS: the server is not asked: `py_filter`."""
    return WithoutRequest(s) if hasattr(s.state, "is_refused") else None


class WithoutRequest(Filter):
    """Keeps the SSLRequest, which was answered here, from the server."""

    is_past = False

    def from_client(self, data: bytes) -> bytes | Hold:
        """Return what the server gets."""
        if self.is_past:
            return data
        if len(data) <= len(SSL_REQUEST):
            return HOLD
        self.is_past = True
        return data.removeprefix(SSL_REQUEST)
