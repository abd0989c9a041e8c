"""UDP sessions with a rate limit (proxy_upload_rate, proxy_download_rate): datagrams wait.

nginx loses a client's datagrams that come during a pause. Here they wait, in order and up to a
bound, and leave when the rate allows; what is over the bound is dropped and counted. Answers of
the server wait in its socket's buffer in the kernel, unread, as in nginx.

The arithmetic of what is allowed is nginx's (event/pump.py RateLimiter): a datagram goes, whole,
while the allowance is above 0.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import datagram, poller
from ngxstream.modules.proxy import handler
from ngxstream.modules.proxy.headed import Headed
from ngxstream.modules.proxy.udp import CountedUdpProxy, UdpProxy

if TYPE_CHECKING:
    from ngxstream.event.pump import RateLimiter
    from ngxstream.stream.session import Session

DELAYED: Final = 256  # datagrams that may wait
DELAYED_BYTES: Final = 1 << 18


# The slots of a rated session, declared by the classes at the end (handler.NO_SLOTS).
SLOTS: Final = (
    "upload",  # RateLimiter | None
    "download",
    "delayed",  # deque[bytes]: of the client, not yet allowed
    "delayed_bytes",
    "uploaded",  # int: bytes let through to the server
    "upload_timer",  # Timer | None
    "download_timer",
)


class _Rated(UdpProxy):
    """A session whose client, or server, may send so many bytes a second."""

    __slots__ = handler.NO_SLOTS

    upload: RateLimiter | None
    download: RateLimiter | None
    delayed: deque[bytes]
    delayed_bytes: int
    uploaded: int
    upload_timer: Any
    download_timer: Any

    def __init__(self, s: Session) -> None:
        super().__init__(s)
        self.upload = self.limiter(self.conf.upload_rate)
        self.download = self.limiter(self.conf.download_rate)
        self.delayed = deque()
        self.delayed_bytes = 0
        self.uploaded = len(self.first)  # it goes at once
        self.upload_timer = None
        self.download_timer = None

    # -- from the client -----------------------------------------------------------------------

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Send on what the rate allows; the rest waits."""
        if self.upload is None:
            return super().take(views)
        now_ms = self.loop.now_ms
        self.requests += len(views)
        pc = self.pc
        for n, view in enumerate(views, 1):
            self.c.received += len(view)
            if self.pc is None:
                return None
            if not self.delayed and self._allowance() > 0:
                self.uploaded += len(view)
                self.send(view)
                if self.pc is not pc and self.pc is not None:
                    pc = self.pc
                    self.dropped -= len(views) - n  # fail_over() took them for lost
            elif len(self.delayed) < DELAYED and self.delayed_bytes < DELAYED_BYTES:
                self.delayed.append(bytes(view))
                self.delayed_bytes += len(view)
            else:
                self.dropped += 1
        if self.s.status:
            return None
        self.deadline = now_ms + self.timeout
        self._wait()
        if not self.expected:
            self.settle()
        return None

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Take a coalesced message datagram by datagram."""
        if self.upload is None:
            return super().take_burst(view, size)
        return self.take(datagram.split(view, size))

    def _allowance(self) -> int:
        assert self.upload is not None
        return self.upload.allowance(self.loop.now_ms, self.uploaded)

    def _wait(self) -> None:
        """Come back when the rate allows more."""
        if self.delayed and self.upload_timer is None:
            assert self.upload is not None
            delay_ms = max(1, self.upload.wait_ms(min(0, self._allowance())))
            self.upload_timer = self.loop.call_later(delay_ms, self._go_on, cancelable=True)

    def _go_on(self) -> None:
        self.upload_timer = None
        delayed = self.delayed
        while delayed and self.pc is not None and self._allowance() > 0:
            data = delayed.popleft()
            self.delayed_bytes -= len(data)
            self.uploaded += len(data)
            self.send(data)
        if self.s.status:
            return
        self.deadline = self.loop.now_ms + self.timeout
        self._wait()
        self.settle()

    def settle(self) -> bool:
        """End the session if nothing waits and all that is expected has come."""
        return not self.delayed and super().settle()

    # -- from the server -----------------------------------------------------------------------

    def on_event(self, mask: int) -> None:
        """Drain one answer at a time while the rate allows."""
        if self.download is None:
            super().on_event(mask)
            return
        self.limit = 1
        allowance = self.download.allowance(self.loop.now_ms, self._downloaded())
        if allowance <= 0:
            self._pause(self.download.wait_ms(allowance))
            return
        super().on_event(mask)

    def on_event_gro(self, mask: int) -> None:
        """Drain coalesced answers while the rate allows."""
        if self.download is not None:
            allowance = self.download.allowance(self.loop.now_ms, self._downloaded())
            if allowance <= 0:
                self._pause(self.download.wait_ms(allowance))
                return
        super().on_event_gro(mask)

    def _downloaded(self) -> int:
        return self.state.bytes_received if self.state is not None else 0

    def _pause(self, delay_ms: int) -> None:
        """Leave the server's answers in the kernel for a while."""
        if self.download_timer is None and self.queue is None:
            self.loop.poller.remove(self.pc_fd)
            self.download_timer = self.loop.call_later(
                max(1, delay_ms), self._resume, cancelable=True
            )

    def _resume(self) -> None:
        self.download_timer = None
        if self.pc is not None and self.queue is None:
            self.deadline = self.loop.now_ms + self.timeout
            handler = self.on_event_gro if self.gro else self.on_event
            self.loop.register(self.pc_fd, handler, poller.LEVEL)

    def on_timeout(self) -> None:
        """Nothing moved for proxy_timeout; a direction that has to rest does not count.

        source: ngx_stream_proxy_process, which removes the timer while one is delayed
        """
        if self.upload_timer is not None or self.download_timer is not None:
            self.deadline = self.loop.now_ms + self.timeout
            self.loop.timers.add(self)
            return
        super().on_timeout()

    # -- changing hands, ending ----------------------------------------------------------------

    def fail_over(self) -> None:
        """Go on to the next server; the pauses of the former one are over."""
        self.leave()
        super().fail_over()
        if self.pc is not None:
            self.dropped -= len(self.delayed)  # they were not sent yet
            self._wait()

    def pack_rates(self) -> Any:
        """Return when the counting began and how much was let through."""
        upload, download = self.upload, self.download
        return (
            None if upload is None else upload.start_s,
            None if download is None else download.start_s,
            self.uploaded,
        )

    def unpack_rates(self, packed: Any) -> None:
        """Count on from there."""
        upload_s, download_s, self.uploaded = packed
        if self.upload is not None and upload_s is not None:
            self.upload.start_s = upload_s
        if self.download is not None and download_s is not None:
            self.download.start_s = download_s

    def waiting(self) -> list[bytes]:
        """Return, and forget, what waits for room or for the rate."""
        found = super().waiting()
        found += map(self.whole, self.delayed)
        self.uploaded += self.delayed_bytes  # they are let through where they go
        self.delayed.clear()
        return found

    def leave(self) -> None:
        """Stop the timers."""
        for timer in (self.upload_timer, self.download_timer):
            if timer is not None:
                timer.cancel()
        self.upload_timer = self.download_timer = None

    def close(self) -> None:
        """Let go of everything."""
        if self.download_timer is not None:
            self.gro = True  # its socket is not watched: it cannot rest among the others
        self.leave()
        super().close()


class RatedUdpProxy(_Rated):
    """The plain kind."""

    __slots__ = SLOTS


class RatedCountedUdpProxy(CountedUdpProxy, _Rated):
    """One that takes only so many datagrams."""

    __slots__ = SLOTS


class RatedHeadedUdpProxy(Headed, _Rated):
    """One with a PROXY header in front of every datagram."""

    __slots__ = SLOTS


class RatedHeadedCountedUdpProxy(Headed, CountedUdpProxy, _Rated):
    """One with both."""

    __slots__ = SLOTS
