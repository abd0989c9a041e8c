"""The workers that outlived their master see to each other: who dies leaves no counts behind.

A master gives back what a dead worker held once it has reaped it. When it is gone itself, its
workers serve on, by zones that only they have. Each of them watches the others; the first that sees
one end gives back what it held, and the rest find nothing left to do.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ngxstream.core import log, shm
from ngxstream.event import poller

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

LOOK_MS: Final = 1000  # how often it is seen who holds something: one may have just been forked


class Siblings:
    """All other processes that hold something in the zones of this one."""

    __slots__ = ("_loop", "_watched", "_zones")

    def __init__(self, loop: Loop, zones: Sequence[shm.Zone]) -> None:
        self._loop = loop
        self._zones = zones
        self._watched: dict[int, int] = {}  # pid -> descriptor
        self.look()

    def look(self) -> None:
        """Watch those that are not watched yet, now and from time to time."""
        pids = {pid for zone in self._zones for pid in zone.ledgers.owners()}
        for pid in pids - self._watched.keys() - {os.getpid()}:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                shm.reclaim(self._zones, pid, self._complain)
            except OSError:
                break  # no descriptor is left; the next look may find one
            else:
                self._watched[pid] = fd
                self._loop.register(fd, functools.partial(self._on_end, pid), poller.LEVEL)
        self._loop.call_later(LOOK_MS, self.look, cancelable=True)

    def _on_end(self, pid: int, mask: int) -> None:
        fd = self._watched.pop(pid)
        self._loop.unregister(fd)
        os.close(fd)
        shm.reclaim(self._zones, pid, self._complain)  # if a lock is held, at the next look

    def _complain(self, text: str) -> None:
        self._loop.log.error(log.ALERT, text)
