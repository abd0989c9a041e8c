"""Filter: what py_filter puts between a client and the server that its session is proxied to."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from ngxstream.scripting.session import Session


class Hold:
    """The type of HOLD, of which there is one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "HOLD"


# Returned by from_client() or from_upstream() of a TCP session: keep these bytes, and give them
# again in front of the next ones.
HOLD: Final = Hold()

Sent: TypeAlias = bytes | Sequence[bytes] | None
Result: TypeAlias = Sent | Hold | Coroutine[Any, Any, Sent | Hold]
Datagrams: TypeAlias = Sequence[bytes] | None
Results: TypeAlias = Datagrams | Coroutine[Any, Any, Datagrams]


class Filter:
    """What sees, changes, drops or adds to the bytes of one proxied session.

    `py_filter` names a class derived from this one, or a function of one argument, the session,
    that returns a filter, or None for a session that needs none. It is called once a session, when
    a server is connected. A method that a class does not define costs nothing: what it would see
    is moved as in a session without a filter, for each direction by itself.

        class Upper(Filter):
            def from_client(self, data: bytes) -> bytes:
                return data.upper()

    A TCP method is called with what came, in pieces as they come: a piece is no message, and no
    longer than `py_buffer_size`. A UDP method is called with one datagram. What a method returns
    is sent on in place of what it was given:

    - bytes: these (b"" is an empty datagram, and nothing for TCP)
    None             nothing: the datagram, or the piece, is dropped
    a list of bytes  all of them, in order; for UDP each is a datagram
    HOLD             TCP: nothing for now; what was given comes again, in front of the next piece,
                     as long as it is shorter than `py_buffer_size`

    A method may be `async def`. Its direction waits for it: a TCP connection is not read, of UDP
    up to 256 datagrams, and `py_buffer_size` bytes of them, wait their turn, and more are dropped.
    The other direction goes on. `proxy_timeout` is how long nothing may move in both.

    What the other side does not take waits, and its source is not read until that is gone. More
    than `py_buffer_size` beyond what a call was given must not wait: the session ends with status
    500, as it does when a method raises, takes longer than `py_time_limit` or returns anything
    else. A method may end the session (close(), deny()); what it returns then is not sent. It may
    send to either side besides: what is sent so comes first, and passes no filter.
    """

    def __init__(self, session: Session) -> None:
        """Args: session: the session; self.session from now on"""
        self.session = session

    def from_client(self, data: bytes) -> Result:
        """Return what goes on to the server of what the client has sent."""
        return data

    def from_upstream(self, data: bytes) -> Result:
        """Return what goes on to the client of what the server has sent."""
        return data

    def from_client_batch(self, datagrams: list[bytes]) -> Results:
        """Return what goes on to the server of datagrams that came together, in order.

        For UDP it takes the place of from_client(), with one call for all that came at once; for
        TCP it is given a list of one piece, where there is no from_client().
        """
        return datagrams

    def from_upstream_batch(self, datagrams: list[bytes]) -> Results:
        """Return what goes on to the client of the server's answers, as from_client_batch()."""
        return datagrams

    def client_end(self, held: bytes) -> Sent | Coroutine[Any, Any, Sent]:
        """Return what is sent to the server before its connection is ended. TCP

        The client sends nothing more. It is not called for a session that ends for another reason.

        Args: held: what HOLD has kept, b"" for nothing; it goes on if it is returned, as no more
        comes behind it
        """
        return None

    def upstream_end(self, held: bytes) -> Sent | Coroutine[Any, Any, Sent]:
        """Return what is sent to the client before its connection is ended. See client_end()"""
        return None

    def pack(self) -> bytes | None:
        """Return what a filter of the same session has to know in another process, None: nothing.

        On a reload a UDP session goes on in a new process. Its filter is made anew there, by what
        `py_filter` names, and is given what pack() returned, 64 KiB at most. Datagrams that an
        `async` method has not done with are given to the new filter again.
        """
        return None

    def unpack(self, state: bytes) -> None:
        """Take what pack() returned in another process. The next call after __init__()"""
