"""Copying: bytes from one TCP socket to another through one shared buffer.

Answers for the data phase of ngx_stream_proxy_process (src/stream/ngx_stream_proxy_module.c).

A Half moves bytes one way: source -> sink. Two halves back to back are a proxied connection; the
fd of each half's source has that half's on_event in the loop's table, so a wake-up costs one
dictionary look-up and one call:

    client fd ──► up.on_event      up.source = client     up.sink = upstream
    upstream fd ► down.on_event    down.source = upstream down.sink = client

1. Edges are told once (event/poller.py). A half reads until a short read or EAGAIN, at most
   FAIR_SHARE times, then asks the loop to call again: one busy session never starves others.
2. Bytes that the sink does not take stay in `pending`, at most one buffer of them, and the source
   is not read until they are gone. That is the whole of backpressure.
3. A read error is the end of that direction, a write error the end of the session
   (ngx_stream_proxy_process_connection); the owner is told and decides.
4. A source that has ended is read to its end with MSG_MORE, so that the sink's peer gets the last
   bytes and the FIN in one segment: a packet, its ACK and a wake-up less for every connection.
5. How a direction is moved is which bound method stands in the table: copy, rated copy,
   splice (event/splice.py). None of them asks what the others would have done.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from ngxstream.event.poller import CLOSING, IN, OUT, READABLE

if TYPE_CHECKING:
    from ngxstream.event.connection import Stream
    from ngxstream.event.loop import Loop

FAIR_SHARE: Final = 16
# Two full buffers in one turn: a bulky flow, worth a pipe (event/splice.py).
BULKY: Final = 2
MSG_MORE: Final = int(socket.MSG_MORE)
RESUMED: Final = 1 << 24  # in a mask: no event, but resume()


class Owner(Protocol):
    """Who decides what the end of a direction means (modules/proxy/tcp.py)."""

    deadline: int
    timeout: int

    def on_end(self, half: Half) -> None:
        """All there will be has been read from half.source and taken by half.sink."""

    def on_last(self, half: Half) -> None:
        """The last bytes are held back in the sink, to leave with its FIN; on_end follows."""

    def on_held_back(self, half: Half) -> None:
        """Bytes are held back in the sink, and the end does not follow: they are to leave now."""

    def on_read_error(self, half: Half, error: OSError) -> None:
        """Reading failed; on_end follows."""

    def on_write_error(self, half: Half, error: OSError) -> None:
        """Writing failed; the half is not used again."""

    def on_bulky(self, half: Half) -> bool:
        """A flow proved bulky: returns True when another kind of half goes on."""

    def on_fault(self) -> None:
        """An unexpected exception came out of a half."""


class Half:
    """One direction of a proxied TCP connection, by copying."""

    __slots__ = (
        "owner",  # Owner | None: None once closed
        "loop",
        "twin",  # Half of the other direction
        "source_fd",
        "sink_fd",
        "recv_into",  # bound method of the source
        "send",  # bound method of the sink
        "view",  # memoryview: the loop's buffer, or a part of it
        "pending",  # memoryview | None: read, not taken by the sink yet
        "eof",  # bool: nothing more comes from the source
        "more",  # bool: the source may have more, left unread for the sink's sake
        "received",  # int: bytes read from the source
        "sent",  # int: bytes taken by the sink
        "limiter",  # rate limit of this direction, or None
        "closing",  # int: mask bits that tell of the source's end; 0 where send() takes no flags
    )

    def __init__(self, owner: Owner, loop: Loop, source: Stream, source_fd: int, sink: Stream,
                 sink_fd: int) -> None:
        self.owner: Owner | None = owner
        self.loop = loop
        self.twin: Any = None
        self.source_fd = source_fd
        self.sink_fd = sink_fd
        self.recv_into = source.recv_into
        self.send: Callable[..., int] = sink.send
        self.view = loop.view
        self.pending: memoryview | bytes | None = None
        self.eof = False
        self.more = False
        self.received = 0
        self.sent = 0
        self.limiter: RateLimiter | None = None
        self.closing = CLOSING

    def on_event(self, mask: int) -> None:
        """Handle an event of the source's fd: space for the twin's bytes, bytes for ours.

        # hot: one turn of a request or an answer is this function, once
        """
        if mask & OUT and self.twin.pending is not None:
            self.twin.flush()
        owner = self.owner
        if owner is None or not mask & READABLE:
            return
        if self.pending is not None or self.eof:
            self.more = True
            self.loop.poller.hold_read(self.source_fd)
            return
        if mask & self.closing:
            self._read_out(owner)
            return
        view = self.view
        turn = 0
        while True:
            try:
                n = self.recv_into(view)
            except BlockingIOError:
                break
            except OSError as error:
                owner.on_read_error(self, error)
                n = 0
            if not n:
                self.eof = True
                owner.on_end(self)
                return
            self.received += n
            try:
                sent = self.send(view[:n])
            except BlockingIOError:
                sent = 0
            except OSError as error:
                owner.on_write_error(self, error)
                return
            self.sent += sent
            if sent != n:
                self.block(view[sent:n])
                break
            if n != len(view):
                if mask & (CLOSING | RESUMED):
                    continue  # a short read does not tell that nothing follows
                break
            turn += 1
            if turn == FAIR_SHARE:
                self.loop.post(self.resume)
                break
            if turn == BULKY and owner.on_bulky(self):
                return
        owner.deadline = self.loop.now_ms + owner.timeout

    def _read_out(self, owner: Owner) -> None:
        """Read a source that has ended; see rule 4."""
        view = self.view
        held_back = False
        for _ in range(FAIR_SHARE):
            try:
                n = self.recv_into(view)
            except BlockingIOError:
                break
            except OSError as error:
                owner.on_read_error(self, error)
                n = 0
            if not n:
                self.eof = True
                if held_back:
                    owner.on_last(self)
                owner.on_end(self)
                return
            self.received += n
            try:
                sent = self.send(view[:n], MSG_MORE)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                owner.on_write_error(self, error)
                return
            self.sent += sent
            if sent != n:
                self.block(view[sent:n])  # a full sink holds nothing back
                held_back = False
                break
            held_back = True
        else:
            self.loop.post(self.resume)
        if held_back:
            owner.on_held_back(self)
        owner.deadline = self.loop.now_ms + owner.timeout

    def block(self, rest: memoryview) -> None:
        """Keep what the sink did not take, and leave the source unread until it does."""
        self.pending = memoryview(bytes(rest))
        self.more = True
        poller = self.loop.poller
        poller.hold_read(self.source_fd)
        poller.want_write(self.sink_fd)

    def flush(self) -> None:
        """Give the sink what is pending; with all of it gone, read on."""
        owner = self.owner
        pending = self.pending
        if owner is None or pending is None:
            return
        try:
            sent = self.send(pending)
        except BlockingIOError:
            self.loop.poller.want_write(self.sink_fd)
            return
        except OSError as error:
            owner.on_write_error(self, error)
            return
        self.sent += sent
        owner.deadline = self.loop.now_ms + owner.timeout
        if sent != len(pending):
            self.pending = pending[sent:]
            self.loop.poller.want_write(self.sink_fd)
            return
        self.pending = None
        self.loop.poller.no_write(self.sink_fd)
        if self.eof:
            owner.on_end(self)
        elif self.more:
            self.more = False
            self.loop.poller.release_read(self.source_fd)
            self.loop.post(self.resume)

    def resume(self) -> None:
        """Go on where the fair share or a full sink stopped us.

        The source may have ended meanwhile, and its edge was reported while nobody read: a short
        read is not taken for the end of what there is.
        """
        if self.owner is not None:
            handler = self.loop.handlers.get(self.source_fd)
            if handler is not None:
                handler(IN | RESUMED)

    def push(self, data: bytes) -> None:
        """Send bytes that did not come from the source (a header, what preread consumed)."""
        owner = self.owner
        assert owner is not None
        if self.pending is not None:
            self.pending = memoryview(bytes(self.pending) + data)
        else:
            self.give(owner, memoryview(data))

    def give(self, owner: Owner, view: memoryview) -> int:
        """Send to the sink and keep what it does not take. Returns: how much; -1: failed"""
        try:
            sent = self.send(view)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            owner.on_write_error(self, error)
            return -1
        self.sent += sent
        if sent != len(view):
            self.block(view[sent:])
        return len(view) - sent

    def on_event_rated(self, mask: int) -> None:
        """Handle an event of a rated source. Source: ngx_stream_proxy_process (limit_rate)"""
        if mask & OUT and self.twin.pending is not None:
            self.twin.flush()
        owner = self.owner
        if owner is None or not mask & READABLE:
            return
        limiter = self.limiter
        assert limiter is not None
        if self.pending is not None or self.eof or limiter.paused:
            self.more = True
            self.loop.poller.hold_read(self.source_fd)
            return
        for _ in range(FAIR_SHARE):
            allowance = limiter.allowance(self.loop.now_ms, self.received)
            if allowance <= 0:
                self._pause(limiter.wait_ms(allowance))
                return
            view = self.view[: min(allowance, len(self.view))]
            try:
                n = self.recv_into(view)
            except BlockingIOError:
                break
            except OSError as error:
                owner.on_read_error(self, error)
                n = 0
            if not n:
                self.eof = True
                owner.on_end(self)
                return
            self.received += n
            kept = self.give(owner, view[:n])
            if kept < 0:
                return
            delay = limiter.delay_ms(n)
            if delay > 0:
                self._pause(delay)
                return
            if kept:
                break
        else:
            self.loop.post(self.resume)
        owner.deadline = self.loop.now_ms + owner.timeout

    def _pause(self, delay_ms: int) -> None:
        # a direction at rest does not run into proxy_timeout
        owner = self.owner
        if owner is not None:
            owner.deadline = self.loop.now_ms + delay_ms + owner.timeout
        assert self.limiter is not None
        self.limiter.paused = True
        self.more = True
        self.loop.poller.hold_read(self.source_fd)
        self.loop.call_later(delay_ms, self._unpause, cancelable=True)

    def _unpause(self) -> None:
        assert self.limiter is not None
        self.limiter.paused = False
        if self.owner is not None and self.pending is None:
            self.more = False
            self.loop.poller.release_read(self.source_fd)
            self.resume()

    def on_fault(self) -> None:
        """Have the owner end the session after an exception nobody expected."""
        if self.owner is not None:
            self.owner.on_fault()

    def close(self) -> None:
        """Drop the references to twin and owner, which would be cycles."""
        self.owner = self.twin = self.pending = None


class RateLimiter:
    """Bytes a second, by whole seconds of proxying. Source: ngx_stream_proxy_process"""

    __slots__ = ("rate", "start_s", "paused")

    def __init__(self, rate: int, now_ms: int) -> None:
        self.rate = rate
        self.start_s = now_ms // 1000
        self.paused = False

    def allowance(self, now_ms: int, moved: int) -> int:
        """Return how many bytes may be read now; 0 or less: none."""
        return self.rate * (now_ms // 1000 - self.start_s + 1) - moved

    def wait_ms(self, allowance: int) -> int:
        """Return how long to wait when nothing may be read."""
        return -allowance * 1000 // self.rate + 1

    def delay_ms(self, n: int) -> int:
        """Return how long to rest after reading n bytes; 0 for not at all."""
        return n * 1000 // self.rate
