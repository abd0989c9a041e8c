"""Clients of a UDP listener: what a table knows them by, and what takes their datagrams.

A table's key is the client's sockaddr; on a wildcard socket the packed local address stands behind
it, and where PROXY headers tell clients apart (udp_proxied.py) so does what they say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from ngxstream.event import datagram

if TYPE_CHECKING:
    from ngxstream.event.connection import Connection

KEPT: Final = 64  # datagrams kept for a session that is not ready yet
NOBODY: Final = bytes(14)  # an abstract name that nobody has


def peer_of(key: Any) -> Any:
    """Return the address that answers go to, from the key a table knows a client by.

    An unnamed Unix client has no address: what is sent to NOBODY is refused.
    Source: ngx_event_udp.c ngx_event_recvmsg, where such a client's socklen is made up
    """
    if key is None:
        return NOBODY
    return key[0] if type(key) is tuple and type(key[0]) is tuple else key


def local_of(key: Any) -> bytes:
    """Return the packed local address in a key of a wildcard socket: its second part, in which
    its length comes first where there is more (udp_proxied.py).
    """
    data: bytes = key[1]
    return data if len(data) in (4, 16) else data[1 : 1 + data[0]]


def moved(key: Any, peer: Any) -> Any:
    """Return the key of a client's other address, at the same local address as a key of it."""
    local = b"" if key == peer_of(key) else local_of(key)
    return (peer, local) if local else peer


def tagged(key: Any, tag: bytes) -> Any:
    """Return a key for one more session of the client that a key is of, told apart by a tag."""
    peer = peer_of(key)
    local = b"" if key == peer else local_of(key)
    data = bytes((len(local),)) + local + tag
    return peer, data + b"\0" if len(data) in (4, 16) else data


class Sink(Protocol):
    """Where a client's datagrams go.

    The views that it is handed die when its method returns: it copies what it keeps. A method
    returns the datagrams that are not its own any more, as the session wants no more: they begin
    the client's next one.
    """

    c: Connection

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Take datagrams, in order. Returns: what is left for the client's next session, if any"""

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Take a coalesced message of datagrams of `size` bytes (the last may be shorter)."""


class Waiting:
    """The sink of a session that is not ready for datagrams yet (a name being resolved)."""

    __slots__ = ("c", "kept", "dropped")

    def __init__(self, c: Connection) -> None:
        self.c = c
        self.kept: list[bytes] = []
        self.dropped = 0

    def take(self, views: list[memoryview]) -> None:
        """Keep copies, up to a bound."""
        room = KEPT - len(self.kept)
        self.kept.extend(bytes(view) for view in views[:room])
        self.dropped += max(0, len(views) - room)

    def take_burst(self, view: memoryview, size: int) -> None:
        """Keep the datagrams of a burst."""
        self.take(datagram.split(view, size))
