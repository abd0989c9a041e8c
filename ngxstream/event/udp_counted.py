"""UDP listeners that count their drains, where something shows it.

A drain is counted after it was made, so nothing is done for each datagram: a listener that came to
the end of its queue remembers how many it found, and one that did not found as many as it looked
for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ngxstream.event.udp import UdpListener
from ngxstream.event.udp_proxied import ProxiedUdpListener

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop


class Drains:
    """The drains of one worker since somebody asked: `loop.get(Drains)`."""

    __slots__ = ("datagrams", "drains")

    def __init__(self, loop: Loop) -> None:
        self.drains = 0
        self.datagrams = 0  # messages that were read: coalesced ones are one

    def take(self) -> tuple[int, int]:
        """Return how many drains and datagrams there were, and begin at 0."""
        found = self.drains, self.datagrams
        self.drains = self.datagrams = 0
        return found


class _Counted:
    """What is different of a listener that counts."""

    __slots__ = ()
    if TYPE_CHECKING:
        loop: Loop
        _limit: int

    def choose(self) -> Callable[[int], None]:
        """Return what reads the socket, and counts."""
        read: Callable[[int], None] = super().choose()  # type: ignore[misc]
        return functools.partial(self.on_counted, read, self.loop.get(Drains))

    def on_counted(self, read: Callable[[int], None], count: Drains, mask: int) -> None:
        """Make a drain and count it."""
        before = self._limit
        read(mask)
        after = self._limit
        count.drains += 1
        count.datagrams += min(before, after)


class CountedUdpListener(_Counted, UdpListener):
    """A UdpListener that counts its drains."""

    __slots__ = ()


class CountedProxiedUdpListener(_Counted, ProxiedUdpListener):
    """A ProxiedUdpListener that does."""

    __slots__ = ()


def counted(listener: type[UdpListener]) -> Any:
    """Return the class in the place of a class of listeners."""
    return CountedProxiedUdpListener if listener is ProxiedUdpListener else CountedUdpListener
