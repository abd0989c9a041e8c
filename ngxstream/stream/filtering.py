"""Filters: what may stand between a client and its server, as the proxy sees it.

nginx's counterpart are the filters of ngx_stream_top_filter. modules/py makes them, modules/proxy
has the bytes: neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from ngxstream.event import filtered
    from ngxstream.stream.session import Session


class Way(Protocol):
    """One direction of a UDP session that is filtered."""

    is_busy: bool  # some datagrams are not done with

    def give(self, datagrams: list[bytes]) -> None:
        """Filter datagrams, and have what comes of them sent; now or later, in order."""


class Outlet(NamedTuple):
    """Where what comes of a UDP direction goes.

    Args: send: these datagrams, at least one; lose: counts datagrams that found no room; rest:
    called when those that had to wait are done with
    """

    send: Callable[[list[bytes]], None]
    lose: Callable[[int], None]
    rest: Callable[[], object]


class Datagrams(Protocol):
    """The filter of a UDP session."""

    @property
    def up(self) -> Way | None:
        """What the client's datagrams pass; None where they pass nothing."""

    @property
    def down(self) -> Way | None:
        """What the server's datagrams pass."""

    def go_on(self) -> None:
        """Begin with what the session's filter had not done with in another process."""

    def close(self) -> None:
        """Let go of everything."""


class Filters(Protocol):
    """What makes the filters of a server's sessions. ServerConf.filters"""

    directive: str
    is_own: bool  # said in the server's own block

    def begin_tcp(self, s: Session) -> tuple[filtered.Filter | None, filtered.Filter | None]:
        """Make those of a session: from the client, from the upstream. It may have ended then."""

    def begin_udp(self, s: Session, up: Outlet, down: Outlet) -> Datagrams | None:
        """Make that of a UDP session, None for none. It may have ended then."""
