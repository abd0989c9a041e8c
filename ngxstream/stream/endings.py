"""Endings: why a session ended, and who ended it, in a closed list of words.

nginx has $status alone, which is 200 for whatever happens once a server is connected.

1. The list is ALL. A reason keeps its place in it, by which it is counted (`number`): a new one is
   added at the end.
2. Who ends a session for a reason that its status and its content do not tell says so by
   Session.end(); what they tell is not written down anywhere, of() finds it when somebody asks.
3. `who` is whose doing it was: the client and the upstream close, reset, fail, or let a time pass
   that is theirs alone; the operator gives orders; everything else is decided here, by the proxy.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import codes

if TYPE_CHECKING:
    from ngxstream.stream.session import Session

CLIENT: Final = "client"
UPSTREAM: Final = "upstream"
PROXY: Final = "proxy"
OPERATOR: Final = "operator"


class Reason(NamedTuple):
    """Why sessions end.

    Args: number: its place in ALL; word: as logs, the API and metrics have it; doc: a sentence
    """

    number: int
    word: str
    doc: str


_WORDS: Final = {
    "closed": (
        "A side closed its connection, and everything that was read has been sent on; the proxy "
        "closes after the text of a `return`."
    ),
    "client_rst": "The client reset its connection.",
    "client_error": (
        "Reading from the client or sending to it failed for another reason, or its TLS records "
        "were invalid."
    ),
    "upstream_rst": (
        "The server reset the connection, or its host refused a datagram after answers had "
        "come."
    ),
    "upstream_error": "Reading from the server or sending to it failed for another reason.",
    "connect_failed": (
        "The last server that was tried refused the connection, or there is no route to it."
    ),
    "connect_timeout": (
        "The last server that was tried did not answer within `proxy_connect_timeout`."
    ),
    "tls_handshake_failed": (
        "The handshake with the client, or with the last server that was tried, failed; also "
        "because of a name or a certificate."
    ),
    "no_live_upstreams": "No server of the group can be used now.",
    "bad_target": "The value of `proxy_pass` or `pass` is not a valid address.",
    "resolve_failed": "The name in the value of `proxy_pass` has no address.",
    "upstream_timeout": (
        "The server had not sent all `proxy_responses` within `proxy_timeout` (UDP)."
    ),
    "client_timeout": (
        "The client took too long to send its PROXY protocol header, to do its handshake, or to "
        "read what was sent to it."
    ),
    "preread_timeout": (
        "The client did not send enough to choose a server by within `preread_timeout`."
    ),
    "preread_full": (
        "What the client sent filled `preread_buffer_size`, and was not enough to choose a "
        "server by."
    ),
    "protocol_error": "The client's PROXY protocol header, or its request to the API, was invalid.",
    "idle": "Nothing was sent in either direction for `proxy_timeout`, or the API got no request.",
    "responses_complete": "All `proxy_responses` have come (UDP).",
    "denied": "An access rule or the verification of the client's certificate refused the client.",
    "limit": "A limit (`limit_conn`, `limit_sess` or `limit_datagram`) refused the client.",
    "exhausted": "There were no worker connections, descriptors or ports left.",
    "evicted": "The session was idle when a new client needed its place (UDP).",
    "shutdown": "`worker_shutdown_timeout` was over after a reload or a stop.",
    "api": "The session was ended through the API.",
    "internal": "Something failed here; the error log says what.",
    "upstream_down": (
        "A health check found the server unhealthy, or the server was removed from its group or "
        "marked down (`proxy_session_drop`)."
    ),
    "script": "A function in Python (`py_*`) closed the session; the error log has its reason.",
    "lifetime": "`proxy_session_lifetime` was over.",
}
ALL: Final = tuple(Reason(at, word, doc) for at, (word, doc) in enumerate(_WORDS.items()))


class Ending(NamedTuple):
    """How one session ended. Args: who: CLIENT, UPSTREAM, PROXY or OPERATOR"""

    reason: Reason
    who: str


_BY_WORD: Final = {reason.word: reason for reason in ALL}


def _ending(word: str, who: str) -> Ending:
    return Ending(_BY_WORD[word], who)


CLOSED_BY_CLIENT: Final = _ending("closed", CLIENT)
CLOSED_BY_UPSTREAM: Final = _ending("closed", UPSTREAM)
CLOSED: Final = _ending("closed", PROXY)
CLIENT_RST: Final = _ending("client_rst", CLIENT)
CLIENT_ERROR: Final = _ending("client_error", CLIENT)
UPSTREAM_RST: Final = _ending("upstream_rst", UPSTREAM)
UPSTREAM_ERROR: Final = _ending("upstream_error", UPSTREAM)
CONNECT_FAILED: Final = _ending("connect_failed", UPSTREAM)
CONNECT_TIMEOUT: Final = _ending("connect_timeout", UPSTREAM)
CLIENT_HANDSHAKE_FAILED: Final = _ending("tls_handshake_failed", CLIENT)
UPSTREAM_HANDSHAKE_FAILED: Final = _ending("tls_handshake_failed", UPSTREAM)
NO_LIVE_UPSTREAMS: Final = _ending("no_live_upstreams", UPSTREAM)
BAD_TARGET: Final = _ending("bad_target", PROXY)
RESOLVE_FAILED: Final = _ending("resolve_failed", PROXY)
UPSTREAM_TIMEOUT: Final = _ending("upstream_timeout", UPSTREAM)
CLIENT_TIMEOUT: Final = _ending("client_timeout", CLIENT)
PREREAD_TIMEOUT: Final = _ending("preread_timeout", CLIENT)
PREREAD_FULL: Final = _ending("preread_full", CLIENT)
PROTOCOL_ERROR: Final = _ending("protocol_error", CLIENT)
IDLE: Final = _ending("idle", PROXY)
RESPONSES_COMPLETE: Final = _ending("responses_complete", PROXY)
DENIED: Final = _ending("denied", PROXY)
LIMIT: Final = _ending("limit", PROXY)
EXHAUSTED: Final = _ending("exhausted", PROXY)
EVICTED: Final = _ending("evicted", PROXY)
SHUTDOWN: Final = _ending("shutdown", OPERATOR)
API: Final = _ending("api", OPERATOR)
INTERNAL: Final = _ending("internal", PROXY)
UPSTREAM_UNHEALTHY: Final = _ending("upstream_down", UPSTREAM)
UPSTREAM_DROPPED: Final = _ending("upstream_down", OPERATOR)
SCRIPT: Final = _ending("script", PROXY)
LIFETIME: Final = _ending("lifetime", PROXY)

# what a status tells where nobody has said more
_BY_STATUS: Final = {
    codes.STREAM_OK: CLOSED,
    codes.BAD_REQUEST: PROTOCOL_ERROR,
    codes.FORBIDDEN: DENIED,
    408: CLIENT_TIMEOUT,  # of HTTP
    codes.BAD_GATEWAY: CONNECT_FAILED,
    codes.SERVICE_UNAVAILABLE: LIMIT,
}
_RESETS: Final = frozenset((errno.ECONNRESET, errno.EPIPE, errno.ECONNREFUSED))
_SCARCE: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN)
)


def of(s: Session) -> Ending:
    """Return how a session that is being finalized ends."""
    told: Ending | None = getattr(s, "ending", None)
    if told is not None:
        return told
    content = s.content
    if content is not None and s.status == codes.STREAM_OK:
        return content.ending()
    return _BY_STATUS.get(s.status, PROTOCOL_ERROR if s.status < 500 else INTERNAL)


def of_connect(code: int | None) -> Ending:
    """Return how a session ends whose last server could not be connected. Args: code: an errno"""
    return CONNECT_TIMEOUT if code == errno.ETIMEDOUT else CONNECT_FAILED


def of_resources(code: int | None) -> Ending:
    """Return how a session ends by what the kernel refused to this process. Args: code: an errno"""
    return EXHAUSTED if code in _SCARCE else INTERNAL


def of_client(error: OSError) -> Ending:
    """Return how a session ends by a failure on the client's connection."""
    return CLIENT_RST if error.errno in _RESETS else CLIENT_ERROR


def of_upstream(error: OSError) -> Ending:
    """Return how a session ends by a failure on the upstream's connection."""
    return UPSTREAM_RST if error.errno in _RESETS else UPSTREAM_ERROR
