"""A direction of a TCP relay through a filter: that gets what is read, what it returns is sent.

Answers for the place of ngx_stream_top_filter in ngx_stream_proxy_process. What a filter is, is not
known here.

1. A filter gets bytes, never a view: it may keep them.
2. While it has not answered (take() returned None), or the sink is full, the source is not read. So
   one piece is on its way at a time, and what waits for the sink is what came of one piece, and
   what was pushed meanwhile.
3. A direction ends when the source has ended, end() has answered and the sink has taken all of it:
   on_end() is called then, `eof` is not set before.
4. Pieces are moved for SHARE_NS in a turn, or pump.FAIR_SHARE of them: a filter may be slow. What
   takes more than CHEAP_NS is charged to the turn, and when that is used up the others wait for
   one of the next (event/turn_budget.py): clients whose bytes are expensive wait for each other.
5. The source may be under TLS, the sink too: one class serves all of them.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Final, Protocol

from ngxstream.event import pump, tls, turn_budget
from ngxstream.event.poller import CLOSING, OUT, READABLE
from ngxstream.event.pump import RESUMED

if TYPE_CHECKING:
    from ngxstream.event.connection import Stream
    from ngxstream.event.loop import Loop

SHARE_NS: Final = 2_000_000
CHEAP_NS: Final = 200_000


class Filter(Protocol):
    """What the bytes of one direction pass."""

    room: int  # how many bytes it can be given now, at least 1
    most: int  # how many may wait for the sink after a call

    def begin(self, half: FilteredHalf) -> None:
        """Know the half that it is the filter of: what comes late goes to half.go_on()."""

    def take(self, data: bytes) -> bytes | None:
        """Return what is to be sent in place of these bytes; None: it comes later."""

    def end(self) -> bytes | None:
        """Return what is to be sent behind the last bytes; None: it comes later."""

    def on_full(self, waiting: int) -> None:
        """End the session: more than `most` bytes wait for the sink."""

    def close(self) -> None:
        """Let go of the half and of everything."""


def charge(budget: turn_budget.TurnBudget, owner: object, spent_ns: int) -> None:
    """Charge the time of a filter to the turn, if it is worth it."""
    if spent_ns > CHEAP_NS:
        budget.has_share(owner)
        budget.charge(spent_ns)


class FilteredHalf(pump.Half):
    """One direction of a proxied TCP connection, through a filter."""

    __slots__ = (
        "budget",  # TurnBudget of the loop
        "filter",  # Filter | None: None once closed
        "first",  # bytes: read before there was a relay, the filter has yet to get it
        "drains",  # bool: read until BlockingIOError, by which TLS alone tells that nothing follows
        "is_let_in",  # bool: it was put off, and has its turn now
        "is_over",  # bool: the source has ended
        "is_put_off",  # bool: it waits for one of the next turns
        "waits",  # bool: the filter has not answered
    )

    def __init__(self, owner: pump.Owner, loop: Loop, source: Stream, source_fd: int,
                 sink: Stream, sink_fd: int, *, through: Filter) -> None:
        """Args: through: the filter"""
        super().__init__(owner, loop, source, source_fd, sink, sink_fd)
        self.filter: Filter | None = through
        self.first = b""
        self.drains = type(source) is tls.Transport
        self.budget = loop.get(turn_budget.TurnBudget)
        self.is_let_in = self.is_put_off = False
        self.is_over = False
        self.waits = False
        if type(sink) is tls.Transport:
            self.closing = 0
        through.begin(self)

    def begin_with(self, data: bytes) -> None:
        """Have the filter get bytes that were read before there was a relay."""
        self.received += len(data)
        self.first = data
        self.loop.post(self.resume)

    def on_event(self, mask: int) -> None:
        """Handle an event of the source's fd: space for the twin's bytes, bytes for the filter."""
        twin = self.twin
        if twin is not None and twin.pending is not None and (mask & OUT or self.drains):
            twin.flush()
        owner = self.owner
        if owner is None or not (mask & READABLE or self.drains):
            return
        if not self._rests() and self.budget.is_busy and not self.is_let_in:
            self.is_put_off = True
            owner.deadline = self.loop.now_ms + owner.timeout
            self.budget.put_off(self, self._on_turn)
        if self._rests():
            self.more = True
            self.loop.poller.hold_read(self.source_fd)
            return
        begun_ns = monotonic_ns()
        try:
            self._move(owner, mask, begun_ns + SHARE_NS)
        finally:
            charge(self.budget, self, monotonic_ns() - begun_ns)

    def _on_turn(self) -> None:
        """Go on where the time of a turn was used up."""
        if self.owner is not None and self.budget.let_in(self, self._on_turn):
            self.is_put_off = False
            self.is_let_in = True
            self.more = False
            self.loop.poller.release_read(self.source_fd)
            self.resume()
            self.is_let_in = False

    def _move(self, owner: pump.Owner, mask: int, until_ns: int) -> None:
        """Read pieces and send what the filter makes of them."""
        limiter = self.limiter
        is_asked_again = self.drains or mask & (CLOSING | RESUMED)
        for _ in range(pump.FAIR_SHARE):
            size = n = len(self.first)
            if not n:
                assert self.filter is not None
                size = min(self.filter.room, len(self.view))
                if limiter is not None:
                    allowance = limiter.allowance(self.loop.now_ms, self.received)
                    if allowance <= 0:
                        self._pause(limiter.wait_ms(allowance))
                        return
                    size = min(size, allowance)
                n = self._read(owner, size)
                if n < 0:
                    break
                if not n:
                    self._end()
                    return
            if not self._through(n):
                return
            if self._rests():
                break
            delay_ms = 0 if limiter is None else limiter.delay_ms(n)
            if delay_ms > 0:
                self._pause(delay_ms)
                return
            if n < size and not is_asked_again:
                break
            if monotonic_ns() > until_ns:
                self.loop.post(self.resume)
                break
        else:
            self.loop.post(self.resume)
        owner.deadline = self.loop.now_ms + owner.timeout

    def _rests(self) -> bool:
        """Tell whether the source is not to be read now."""
        limiter = self.limiter
        return bool(
            self.pending is not None or self.waits or self.eof or self.is_put_off
            or (limiter is not None and limiter.paused)
        )

    def _read(self, owner: pump.Owner, size: int) -> int:
        """Read into the view. Returns: how much; 0: the end; -1: nothing for now"""
        try:
            n = self.recv_into(self.view[:size])
        except BlockingIOError:
            return -1
        except OSError as error:
            owner.on_read_error(self, error)
            return 0
        self.received += n
        return n

    def _through(self, n: int) -> bool:
        """Give the filter what was read, and send what it makes of it. Returns: whether to go on"""
        data = self.first
        if data:
            self.first = b""
        else:
            data = bytes(self.view[:n])
        assert self.filter is not None
        made = self.filter.take(data)
        if self.owner is None:
            return False
        if made is None:
            self.waits = self.more = True
            self.loop.poller.hold_read(self.source_fd)
            return True
        return not made or self._send(made)

    def _send(self, data: bytes) -> bool:
        """Send what a filter made, behind what waits. Returns: whether the session goes on"""
        self.push(data)
        through, pending = self.filter, self.pending
        if through is None:
            return False
        if pending is not None and len(pending) > through.most:
            through.on_full(len(pending))
        return self.owner is not None

    def go_on(self, made: bytes) -> None:
        """Send what a filter made of bytes that it was given before; then read on."""
        owner = self.owner
        if owner is None:
            return
        self.waits = False
        owner.deadline = self.loop.now_ms + owner.timeout
        if self.is_over:
            self._finish(made)
        elif (not made or self._send(made)) and self.pending is None:
            self.more = False
            self.loop.poller.release_read(self.source_fd)
            self.loop.post(self.resume)

    def _end(self) -> None:
        """Ask the filter for its last bytes: the source has ended."""
        self.is_over = self.waits = True
        assert self.filter is not None
        made = self.filter.end()
        if self.owner is not None and made is not None:
            self.waits = False
            self._finish(made)

    def _finish(self, made: bytes) -> None:
        """Send the last bytes, and end the direction once the sink has all of them."""
        self.eof = True
        if made and not self._send(made):
            return
        owner = self.owner
        if owner is not None and self.pending is None:
            if self.closing:
                owner.on_last(self)
            owner.on_end(self)

    def on_event_rated(self, mask: int) -> None:
        """Handle an event of a rated source."""
        self.on_event(mask)

    def close(self) -> None:
        """Drop all references."""
        through, self.filter = self.filter, None
        if through is not None:
            through.close()
        super().close()
