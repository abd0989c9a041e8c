"""When a listening UDP socket coalesces what it receives (generic receive offload, GRO).

GRO is a property of the socket. With peers that do not coalesce it costs 10-15 % more, with peers
that do it is worth ten times everything else, so it is switched by what was seen: on after HINTS
drains in which a client sent a long run of equal sizes, off after IDLE messages in a row that were
not coalesced, and each time harder to switch on again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from ngxstream.event import datagram

HINTS: Final = 8
RUN: Final = 8  # datagrams of one size from one client in one drain
IDLE: Final = 512


class Coalescing:
    """Whether one socket coalesces, and how often its peers would profit."""

    __slots__ = ("_hints", "_needed", "_on_switch", "_sock", "idle", "is_on")

    def __init__(self, sock: Any, on_switch: Callable[[], None]) -> None:
        """Args: on_switch: called after the socket was switched"""
        self._sock = sock
        self._on_switch = on_switch
        self._hints = 0
        self._needed = HINTS
        self.idle = 0  # messages in a row that were not coalesced
        self.is_on = False

    def ask(self) -> None:
        """Ask the socket: a former owner may have left it on, and what is queued is coalesced."""
        self.is_on = self._sock.family != socket.AF_UNIX and datagram.has_gro(self._sock)

    def see(self, views: list[memoryview]) -> None:
        """Notice a run of equal sizes: a peer that sends like this may be using GSO."""
        size = len(views[0])
        if size and all(len(view) == size for view in views[1:-1]):
            self._hints += 1
            if self._hints >= self._needed and not self.is_on:
                self.switch(True)
        else:
            self._hints = 0

    def switch(self, on: bool) -> None:
        """Switch the socket, if the kernel can do it."""
        if self._sock.family == socket.AF_UNIX or not datagram.set_gro(self._sock, on):
            self._needed = 1 << 62
            return
        self.is_on = on
        self._hints = 0
        self.idle = 0
        if not on:
            self._needed = min(self._needed * 8, 1 << 20)
        self._on_switch()
