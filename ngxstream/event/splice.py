"""Splicing: bulk TCP moved by the kernel, pipe in the middle, no byte seen by Python.

nginx does not splice. Numbers that made it (one flow, loopback, CPU seconds per GB): copying
through 256 KiB 0.37-0.46, splice with a 1 MiB pipe 0.11-0.20, with the default 64 KiB pipe 0.34.

Why it is so
------------
* A pipe holds pages, not bytes: sixteen by default, 256 when it is grown to 1 MiB. The size is
  what pays, so a pipe that cannot be grown is not used.
* Pipes are few: two descriptors and up to 256 pages each, and an unprivileged user may pin only
  pipe-user-pages-soft (64 MiB) in all his pipes, after which new ones shrink to two pages. So
  they are pooled, at most POOL_LIMIT a worker, and a half holds one only while bytes are in it
  or its flow is in full run: at every lull the pipe goes back.
* With no pipe to be had a half copies for that turn: the same bytes, the same rules.
* A turn moves at most SHARE pipes full, as much as a copying half's share and about half a
  millisecond: the small flows beside a bulky one wait no longer for it than that.
* Short exchanges never come here: a half is promoted once, when it has filled the copy buffer
  several times in one turn (pump.BULKY).
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

from ngxstream.event import pump
from ngxstream.event.poller import OUT, READABLE

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

PIPE_SIZE: Final = 1 << 20
POOL_LIMIT: Final = 64
SHARE: Final = 2  # pipes full that one flow may move in a turn
FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    """A pipe and how many bytes are in it."""

    __slots__ = ("read_fd", "write_fd", "held")

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        try:
            fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close both ends."""
        os.close(self.read_fd)
        os.close(self.write_fd)


class PipePool:
    """The pipes of a worker: lent for as long as bytes flow."""

    __slots__ = ("_idle", "_made", "limit")

    def __init__(self, _: object = None, limit: int = POOL_LIMIT) -> None:
        self._idle: list[Pipe] = []
        self._made = 0
        self.limit = limit

    def take(self) -> Pipe | None:
        """Lend a pipe, or None when there is none to be had."""
        if self._idle:
            return self._idle.pop()
        if self._made >= self.limit:
            return None
        try:
            pipe = Pipe()
        except OSError:  # descriptors or pipe memory are out: copy
            return None
        self._made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take a pipe back; one with bytes in it is of no use to anybody else."""
        if pipe.held:
            pipe.close()
            self._made -= 1
        else:
            self._idle.append(pipe)

    def drop(self) -> bool:
        """Close one idle pipe. Returns: whether there was one"""
        if not self._idle:
            return False
        self._idle.pop().close()
        self._made -= 1
        return True

    def close(self) -> None:
        """Close the idle pipes."""
        while self.drop():
            pass


class SpliceHalf(pump.Half):
    """One direction of a proxied TCP connection, spliced."""

    __slots__ = (
        "pipe",  # Pipe | None: lent by the pool
        "behind",  # bytes: pushed while bytes are in the pipe, and to be sent behind them
    )

    pipe: Pipe | None
    behind: bytes

    @classmethod
    def promote(cls, half: pump.Half) -> SpliceHalf:
        """Make the splice half that replaces a copy half. The owner swaps them."""
        new = cls.__new__(cls)
        for name in pump.Half.__slots__:
            setattr(new, name, getattr(half, name))
        new.quick = new.usual = half.quick = half.usual = None
        new.pipe = None
        new.behind = b""
        half.owner = None
        return new

    def on_event(self, mask: int) -> None:
        """Move what the source has into a pipe and out to the sink."""
        if mask & OUT and self.twin.pending is not None:
            self.twin.flush()
        owner = self.owner
        if owner is None or not mask & READABLE:
            return
        loop = self.loop
        if self.pending is not None or self.eof:
            self.more = True
            loop.poller.hold_read(self.source_fd)
            return
        pipe = loop.get(PipePool).take()
        if pipe is None:
            super().on_event(mask & ~OUT)
            return
        self.pipe = pipe
        splice = os.splice
        source_fd, sink_fd = self.source_fd, self.sink_fd
        for _ in range(SHARE):
            try:
                n = splice(source_fd, pipe.write_fd, PIPE_SIZE, flags=FLAGS)
            except BlockingIOError:
                self._give_back(loop)
                break
            except OSError as error:
                owner.on_read_error(self, error)
                n = 0
            if not n:
                self._give_back(loop)
                self.eof = True
                owner.on_end(self)
                return
            self.received += n
            pipe.held = n
            try:
                sent = splice(pipe.read_fd, sink_fd, n, flags=FLAGS)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                owner.on_write_error(self, error)
                return
            self.sent += sent
            pipe.held = n - sent
            if sent != n:
                # the sink is probably full: its next edge continues here
                self._hold()
                self.flush()
                break
        else:
            self._give_back(loop)
            loop.post(self.resume)
        if self.owner is not None:
            owner.deadline = loop.now_ms + owner.timeout

    def _give_back(self, loop: Loop) -> None:
        pipe = self.pipe
        if pipe is not None:
            self.pipe = None
            loop.get(PipePool).give(pipe)

    def _hold(self) -> None:
        self.pending = _IN_PIPE
        self.stall()
        self.more = True
        poller = self.loop.poller
        poller.mute_read(self.source_fd)
        poller.want_write(self.sink_fd)

    def flush(self) -> None:
        """Give the sink what the pipe holds; with all of it gone, read on."""
        pipe = self.pipe
        if pipe is None:  # a turn without a pipe left bytes that were copied
            super().flush()
            return
        owner = self.owner
        if owner is None:
            return
        while pipe.held:
            try:
                sent = os.splice(pipe.read_fd, self.sink_fd, pipe.held, flags=FLAGS)
            except BlockingIOError:
                self.loop.poller.want_write(self.sink_fd)
                return
            except OSError as error:
                owner.on_write_error(self, error)
                return
            self.sent += sent
            pipe.held -= sent
            owner.deadline = self.loop.now_ms + owner.timeout
        self.pending = None
        self.clear()
        self._give_back(self.loop)
        poller = self.loop.poller
        poller.no_write(self.sink_fd)
        self.more = False
        poller.unmute_read(self.source_fd)  # and what is there will be reported
        behind, self.behind = self.behind, b""
        if behind and self.give(owner, memoryview(behind)):
            return
        if self.eof:
            owner.on_end(self)

    def push(self, data: bytes) -> None:
        """Send bytes that did not come from the source, behind those in the pipe."""
        if self.pipe is None:
            super().push(data)
        else:
            self.behind += data

    def waiting(self) -> int:
        """Return how many bytes the sink has yet to take, but for those in the pipe."""
        return super().waiting() if self.pipe is None else len(self.behind)

    def close(self) -> None:
        """Drop all references; bytes still in the pipe are lost with it."""
        self._give_back(self.loop)
        super().close()


_IN_PIPE: Final = memoryview(b"in the pipe")
