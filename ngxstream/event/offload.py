"""Work beside the loop: a thread does it, one call after another, and the loop hears how it ended.

For what waits in C with the interpreter's lock released: a hash of a password, a disk. What is
called touches nothing of the loop. A thread lives as long as there is work, at a low priority.

Who has such work has an Offload of its own: a call that hangs holds up nobody else's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.log import ALERT, unexpected
from ngxstream.event.poller import LEVEL

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.event.timers import Timer

MAX_WAITING: Final = 16
_NICE: Final = 10  # a thread of its own may be slower than the one that serves

Done = Callable[[Any, OSError | None], None]


class _Job:
    """One call, until somebody has heard how it ended."""

    __slots__ = ("done", "error", "fault", "result", "timer", "work")

    def __init__(self, work: Callable[[], Any], done: Done) -> None:
        self.work = work
        self.done: Done | None = done  # None: it was told
        self.timer: Timer | None = None
        self.result: Any = None
        self.error: OSError | None = None
        self.fault = ""  # of ours, as it is logged

    def tell(self) -> None:
        """Tell how it ended, once."""
        done, self.done = self.done, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            done(self.result, self.error)

    def give_up(self) -> None:
        """Tell that it takes too long."""
        done, self.done = self.done, None
        if done is not None:
            done(None, TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))


class Offload:
    """A queue of work of one loop, and its thread."""

    __slots__ = ("_ended", "_event", "_lock", "_waiting", "loop")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()  # the thread is at the first one
        self._ended: deque[_Job] = deque()
        self._event = -1

    @property
    def count(self) -> int:
        """How much work there is: what is done now, and what waits."""
        return len(self._waiting)

    def run(self, work: Callable[[], Any], done: Done, patience_ms: int = 0) -> bool:
        """Have work done; done(result, error) is called once, in a later turn.

        Args: done: is given what `work` returned or raised, EIO for what was no OSError, and
        TimeoutError when it takes longer than patience_ms, if that is not 0: nobody hears how it
        ends then, and it is not begun any more
        Returns: whether there was room for it
        """
        job = _Job(work, done)
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append(job)
            is_first = len(self._waiting) == 1
        if patience_ms:
            job.timer = self.loop.call_later(patience_ms, job.give_up)
        if is_first:
            self._start()
        return True

    def _start(self) -> None:
        """Have a thread begin; there is none, or one that has no more to do."""
        try:
            if self._event < 0:
                self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self.loop.register(self._event, self._on_ended, LEVEL)
            threading.Thread(target=self._work, name="offload", daemon=True).start()
        except (OSError, RuntimeError):  # no descriptor, or no thread can be had
            job = self._waiting.popleft()
            job.error = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self.loop.post(job.tell)

    def _work(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        is_last = False
        while not is_last:
            job = self._waiting[0]
            if job.done is not None:
                try:
                    job.result = job.work()
                except OSError as error:
                    job.error = error
                except Exception:  # noqa: BLE001 - it is told, and logged
                    job.error = OSError(errno.EIO, os.strerror(errno.EIO))
                    job.fault = unexpected()
            with self._lock:
                self._waiting.popleft()
                self._ended.append(job)
                is_last = not self._waiting
                if self._event >= 0:
                    os.eventfd_write(self._event, 1)

    def _on_ended(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        with self._lock:
            if not self._waiting:
                self._close()
        while self._ended:
            job = self._ended.popleft()
            if job.fault:
                self.loop.log.write(ALERT, job.fault)
            self.loop.call_all((job.tell,))

    def close(self) -> None:
        """Hear of no more results."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        """Close the descriptor, with the lock: nobody writes to one that is closed."""
        if self._event >= 0:
            self.loop.unregister(self._event)
            os.close(self._event)
            self._event = -1
