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
6. As a rule a message is short, the sink takes all of it and nothing else is the case. What that
   takes is at hand in `quick`, which is None while anything else is: bytes are pending in either
   direction, or the source has ended. Who sets or clears `pending` says so by stall() and clear().
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
FLOWING: Final = IN | OUT  # the mask of an edge as long as nothing else happens
MESSAGE: Final = 16384  # bytes of a short message; longer ones go through the loop's buffer

# what moves a short message: receive, send, owner, loop
Quick = tuple[Callable[[int], bytes], Callable[[bytes], int], "Owner", "Loop"]


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
        "pending",  # memoryview | None: read, not taken by the sink yet
        "eof",  # bool: nothing more comes from the source
        "more",  # bool: the source may have more, left unread for the sink's sake
        "moved",  # int: bytes read from the source
        "unsent",  # int: how many of them the sink has not taken; below 0, it has others besides
        "limiter",  # rate limit of this direction, or None
        "closing",  # int: mask bits that tell of the source's end; 0 where send() takes no flags
        "quick",  # Quick | None, see rule 6
        "usual",  # Quick | None: what it is as a rule, from the first stall on
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
        self.pending: memoryview | bytes | None = None
        self.eof = False
        self.more = False
        self.moved = 0
        self.unsent = 0
        self.limiter: Limiter | None = None
        self.closing = CLOSING
        self.quick: Quick | None = None
        self.usual: Quick | None = None

    @property
    def view(self) -> memoryview:
        """The loop's buffer."""
        return self.loop.view

    @property
    def received(self) -> int:
        """Bytes read from the source."""
        return self.moved

    @received.setter
    def received(self, count: int) -> None:
        self.unsent += count - self.moved
        self.moved = count

    @property
    def sent(self) -> int:
        """Bytes taken by the sink."""
        return self.moved - self.unsent

    @sent.setter
    def sent(self, count: int) -> None:
        self.unsent = self.moved - count

    def on_event(self, mask: int) -> None:
        """Handle an event of the source's fd: space for the twin's bytes, bytes for ours.

        # hot: one turn of a request or an answer is this function, once
        """
        quick = self.quick
        if mask == FLOWING and quick is not None:
            receive, send, owner, loop = quick
            try:
                data = receive(MESSAGE)
            except BlockingIOError:
                owner.deadline = loop.now_ms + owner.timeout
                return
            except OSError as error:
                owner.on_read_error(self, error)
                data = b""
            if not data:
                self._on_source_end(owner)
                return
            try:
                sent = send(data)
            except OSError as error:
                if self._keep(owner, data, 0, error):
                    owner.deadline = loop.now_ms + owner.timeout
                return
            self.moved += sent
            if len(data) == sent < MESSAGE:
                owner.deadline = loop.now_ms + owner.timeout
                return
            if sent != len(data):
                self._keep(owner, data, sent, None)
                owner.deadline = loop.now_ms + owner.timeout
                return
            # a longer one
        else:
            if mask & OUT and self.twin.pending is not None:
                self.twin.flush()
            if self.owner is None or not mask & READABLE:
                return
            owner = self.owner
        if self.pending is not None or self.eof:
            self.more = True
            self.loop.poller.hold_read(self.source_fd)
            return
        if mask & self.closing:
            self._read_out(owner)
            return
        view = self.loop.view
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
                self._on_source_end(owner)
                return
            self.moved += n
            try:
                sent = self.send(view[:n])
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.unsent += n
                owner.on_write_error(self, error)
                return
            if sent != n:
                self.unsent += n - sent
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

    def _on_source_end(self, owner: Owner) -> None:
        """Have the owner decide what follows: nothing more comes from the source."""
        self.eof = True
        self.quick = None
        owner.on_end(self)

    def _keep(self, owner: Owner, data: bytes, sent: int, error: OSError | None) -> bool:
        """Keep of a message what the sink has no room for. Returns: False where sending failed"""
        self.moved += len(data) - sent
        self.unsent += len(data) - sent
        if error is not None and not isinstance(error, BlockingIOError):
            owner.on_write_error(self, error)
            return False
        self.block(memoryview(data)[sent:])
        return True

    def _read_out(self, owner: Owner) -> None:
        """Read a source that has ended; see rule 4."""
        view = self.loop.view
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
                if held_back:
                    owner.on_last(self)
                self._on_source_end(owner)
                return
            self.moved += n
            try:
                sent = self.send(view[:n], MSG_MORE)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.unsent += n
                owner.on_write_error(self, error)
                return
            if sent != n:
                self.unsent += n - sent
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
        self.stall()
        self.more = True
        poller = self.loop.poller
        poller.hold_read(self.source_fd)
        poller.want_write(self.sink_fd)

    def stall(self) -> None:
        """Look more closely from now on: something is pending."""
        twin = self.twin
        for half in (self, twin):  # the twin's events tell that there is room
            if half is not None and half.quick is not None:
                half.usual = half.quick
                half.quick = None

    def clear(self) -> None:
        """Do as usual again, if nothing is pending in the other direction either."""
        twin = self.twin
        if twin is not None and twin.pending is None:
            self.quick = None if self.eof else self.usual
            twin.quick = None if twin.eof else twin.usual

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
        self.clear()
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

    def waiting(self) -> int:
        """Return how many bytes the sink has yet to take."""
        return 0 if self.pending is None else len(self.pending)

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
        self.owner = self.twin = self.pending = self.quick = self.usual = None


class Limiter(Protocol):
    """What holds one direction of a session back."""

    paused: bool
    start_s: int

    def allowance(self, now_ms: int, moved: int) -> int:
        """Return how many bytes may be read now, where so many were; 0 or less: none."""

    def wait_ms(self, allowance: int) -> int:
        """Return how long to wait when nothing may be read."""

    def delay_ms(self, n: int) -> int:
        """Note n bytes that were just read. Returns: how long to rest; 0 for not at all"""

    def resume(self, moved: int) -> None:
        """Go on where so many bytes have moved that are counted already."""

    def lose(self, count: int) -> None:
        """Hear of datagrams that found no room to wait."""


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

    def resume(self, moved: int) -> None:
        """Do nothing: `start_s` tells."""

    def lose(self, count: int) -> None:
        """Leave it to the session to count them."""
