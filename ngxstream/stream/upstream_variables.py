"""The $upstream_* variables: one item for each attempt, joined by commas.

Answers for the variables of ngx_stream_upstream.c. What an attempt was is written down in
stream/upstream.UpstreamState by the proxy; here it is only spelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ngxstream.stream.variables import NOCACHEABLE, Getter, Variable

if TYPE_CHECKING:
    from ngxstream.stream.session import Session
    from ngxstream.stream.upstream import UpstreamState


def _listed(spell: Callable[[UpstreamState], bytes]) -> Getter:
    """Make the getter of a list variable; not found as long as there was no attempt."""

    def get(s: Session) -> bytes | None:
        states = s.states
        if not states:
            return None
        if len(states) == 1:
            return spell(states[0])
        return b", ".join([spell(state) for state in states])

    return get


def _time(ms: int) -> bytes:
    """Spell milliseconds as seconds; `-` for what did not happen (-1)."""
    if ms == -1:
        return b"-"
    return b"%d.%03d" % divmod(max(ms, 0), 1000)


def _addr(state: UpstreamState) -> bytes:
    return state.peer_name.encode("utf-8", "surrogateescape")


def _bytes_sent(state: UpstreamState) -> bytes:
    return b"%d" % state.bytes_sent


def _bytes_received(state: UpstreamState) -> bytes:
    return b"%d" % state.bytes_received


def _connect_time(state: UpstreamState) -> bytes:
    return _time(state.connect_ms)


def _first_byte_time(state: UpstreamState) -> bytes:
    return _time(state.first_byte_ms)


def _session_time(state: UpstreamState) -> bytes:
    return _time(state.session_ms)


VARIABLES = (
    Variable("upstream_addr", _listed(_addr), NOCACHEABLE,
             "Addresses of the servers that were tried, joined by `, `."),
    Variable("upstream_bytes_sent", _listed(_bytes_sent), NOCACHEABLE,
             "Bytes sent to each server that was tried."),
    Variable("upstream_bytes_received", _listed(_bytes_received), NOCACHEABLE,
             "Bytes received from each server that was tried."),
    Variable("upstream_connect_time", _listed(_connect_time), NOCACHEABLE,
             "Seconds that connecting took in each attempt; `-` if it failed."),
    Variable("upstream_first_byte_time", _listed(_first_byte_time), NOCACHEABLE,
             "Seconds until the first byte from each server; `-` if none came."),
    Variable("upstream_session_time", _listed(_session_time), NOCACHEABLE,
             "Seconds each attempt lasted."),
)
