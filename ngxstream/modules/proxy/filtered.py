"""The halves of a TCP session whose server has filters, and what scripts send besides.

Each direction is chosen by itself: one that is not filtered has the half that it has in other
sessions, splice and all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ngxstream.event.filtered import FilteredHalf
from ngxstream.stream.content import UnsendableError

if TYPE_CHECKING:
    from ngxstream.event import filtered, pump
    from ngxstream.event.connection import Stream
    from ngxstream.modules.proxy.tcp import TcpProxy

    Make = Callable[..., pump.Half]


def halves(proxy: TcpProxy, plain: Make) -> tuple[pump.Half, pump.Half] | None:
    """Make the halves of a session, and have its filter get what preread has read.

    Args: plain: makes the half of a direction that is not filtered. Returns: from the client, from
    the upstream; None where the filter could not be made, which has ended the session
    """
    s, c, pc, pc_fd = proxy.s, proxy.c, proxy.pc, proxy.pc_fd
    from_client, from_upstream = s.server.filters.begin_tcp(s)  # type: ignore[union-attr]
    if s.status:
        return None

    def make(through: filtered.Filter | None, source: Stream, source_fd: int, sink: Stream,
             sink_fd: int) -> pump.Half:
        if through is None:
            return plain(proxy, proxy.loop, source, source_fd, sink, sink_fd)
        return FilteredHalf(
            proxy, proxy.loop, source, source_fd, sink, sink_fd, through=through
        )

    up = make(from_client, c.sock, c.fd, pc, pc_fd)
    down = make(from_upstream, pc, pc_fd, c.sock, c.fd)
    if s.preread and isinstance(up, FilteredHalf):
        up.begin_with(s.preread)
        s.preread = b""
    return up, down


def push(half: pump.Half, data: bytes, most: int) -> None:
    """Send bytes besides those of a relay, behind what waits.

    Args: most: how many may wait, besides a buffer of the relay's. Raises: BufferError;
    UnsendableError
    """
    if half.owner is None or (half.eof and not half.waiting()):
        raise UnsendableError("this direction has ended")
    if len(data) > most or half.waiting() + len(data) > most + len(half.view):
        raise BufferError(f"{half.waiting()} bytes wait to be sent already")
    if data:
        half.push(data)
