"""Names as the system knows them (/etc/hosts, its DNS servers), asked for beside the loop.

For who has no `resolver` directive. The C library waits for an answer for as long as it likes, in
threads: THREADS of them, so that a name that nobody answers for does not hold up all others.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import offload, tasks

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

THREADS: Final = 4
MOST: Final = 64  # addresses of a name


class SystemNames:
    """The threads of one worker: `loop.get(SystemNames)`."""

    __slots__ = ("_queues",)

    def __init__(self, loop: Loop) -> None:
        self._queues = [offload.Offload(loop) for _ in range(THREADS)]

    def run(self, work: Callable[[], Any], done: offload.Done) -> None:
        """Have work done by the one with least to do. Raises: OSError where all have too much"""
        least = min(self._queues, key=lambda queue: queue.count)
        if not least.run(work, done):
            raise OSError(errno.ENOBUFS, "too many names are being looked up")


class Lookup(tasks.Suspension):
    """Waits for the addresses of a name: a list of (family, address). Raises: OSError"""

    __slots__ = ("_is_over", "_name")

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._is_over = False

    def begin(self, task: tasks.Task) -> None:
        """Ask."""

        def done(found: Any, error: OSError | None) -> None:
            if error is not None:
                task.fail(self, error)
            else:
                task.wake(self, found)

        task.loop.get(SystemNames).run(self._ask, done)

    def end(self) -> None:
        """Wait no more; it is not asked for if it was not yet."""
        self._is_over = True

    def _ask(self) -> list[tuple[int, str]]:
        if self._is_over:
            return []
        found = socket.getaddrinfo(self._name, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys((int(one[0]), str(one[4][0])) for one in found))[:MOST]
