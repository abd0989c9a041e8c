"""UDP sessions with a rate limit (proxy_upload_rate, proxy_download_rate): datagrams wait.

nginx loses a client's datagrams that come during a pause. Here they wait, in order and up to a
bound, and leave when the rate allows; what is over the bound is dropped and counted. Answers of
the server wait in its socket's buffer in the kernel, unread, as in nginx.

The arithmetic of what is allowed is nginx's (event/pump.py RateLimiter): a datagram goes, whole,
while the allowance is above 0.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from ngxstream.event import datagram

if TYPE_CHECKING:
    from ngxstream.event.timers import Timer
    from ngxstream.modules.proxy.udp import UdpProxy
    from ngxstream.modules.proxy.udp_exchange import Exchange
    from ngxstream.stream.upstream import UpstreamState

DELAYED: Final = 256  # datagrams that may wait
DELAYED_BYTES: Final = 1 << 18


class Rates:
    """The limits of one session: what its client, or its server, may send in a second.

    As a Sink it stands before the session in its client's table.
    """

    __slots__ = (
        "c",
        "proxy",
        "header",  # bytes: goes in front of every datagram
        "upload",  # Limiter | None
        "download",
        "delayed",  # deque[bytes]: of the client, not yet allowed
        "delayed_bytes",
        "uploaded",  # int: bytes let through to the server
        "upload_timer",  # Timer | None
        "download_timer",
    )

    def __init__(self, proxy: Exchange) -> None:
        conf = proxy.conf
        self.c = proxy.c
        self.proxy: UdpProxy = proxy  # type: ignore[assignment]  # there is no other kind
        self.header = proxy.proxy_header() if conf.is_headed else b""
        self.upload, self.download = proxy.limiters()
        self.delayed: deque[bytes] = deque()
        self.delayed_bytes = 0
        self.uploaded = len(proxy.first)  # it goes at once
        self.upload_timer: Timer | None = None
        self.download_timer: Timer | None = None

    def begin(self) -> None:
        """Count the first datagram, which goes at once."""
        if self.upload is not None:
            self.upload.delay_ms(self.uploaded)

    def take(self, views: list[memoryview]) -> None:
        """Send on what the rate allows; the rest waits."""
        proxy = self.proxy
        proxy.requests += len(views)
        pc = proxy.pc
        for n, view in enumerate(views, 1):
            self.c.received += len(view)
            if proxy.pc is None:
                return
            if not self.delayed and self._allowance() > 0:
                self._send(view)
                if proxy.pc is not pc and proxy.pc is not None:
                    pc = proxy.pc
                    proxy.dropped -= len(views) - n  # fail_over() took them for lost
            elif len(self.delayed) < DELAYED and self.delayed_bytes < DELAYED_BYTES:
                self.delayed.append(bytes(view))
                self.delayed_bytes += len(view)
            else:
                proxy.dropped += 1
                self.upload.lose(1)  # type: ignore[union-attr]
        if proxy.s.status:
            return
        proxy.deadline = proxy.loop.now_ms + proxy.timeout
        self.wait()
        if not proxy.expected:
            proxy.settle()

    def take_burst(self, view: memoryview, size: int) -> None:
        """Take a coalesced message datagram by datagram."""
        self.take(datagram.split(view, size))

    def _send(self, data: bytes | memoryview) -> None:
        self.uploaded += len(data)
        self.upload.delay_ms(len(data))  # type: ignore[union-attr]
        self.proxy.send(b"".join((self.header, data)) if self.header else data)

    def _allowance(self) -> int:
        assert self.upload is not None
        return self.upload.allowance(self.proxy.loop.now_ms, self.uploaded)

    def wait(self) -> None:
        """Come back when the rate allows more."""
        if self.delayed and self.upload_timer is None:
            assert self.upload is not None
            delay_ms = max(1, self.upload.wait_ms(min(0, self._allowance())))
            loop = self.proxy.loop
            self.upload_timer = loop.call_later(delay_ms, self._go_on, cancelable=True)

    def _go_on(self) -> None:
        self.upload_timer = None
        delayed, proxy = self.delayed, self.proxy
        while delayed and proxy.pc is not None and self._allowance() > 0:
            data = delayed.popleft()
            self.delayed_bytes -= len(data)
            self._send(data)
        if proxy.s.status:
            return
        proxy.deadline = proxy.loop.now_ms + proxy.timeout
        self.wait()
        proxy.settle()

    def on_event(self, mask: int) -> None:
        """Drain one answer at a time, or one coalesced message, while the rate allows."""
        proxy = self.proxy
        if not self.may_read():
            return
        state, before = self.received()
        if proxy.gro:
            proxy.on_event_gro(mask)
        else:
            proxy.on_event(mask)
        self.note_read(state, before)

    def received(self) -> tuple[UpstreamState | None, int]:
        """Return the attempt that goes on, and how many bytes came from its server."""
        state = self.proxy.state
        return state, 0 if state is None else state.bytes_received

    def note_read(self, state: UpstreamState | None, before: int) -> None:
        """Have what was read count at once. Args: of the attempt, before reading"""
        if self.download is not None and state is not None:
            self.download.delay_ms(state.bytes_received - before)

    def may_read(self) -> bool:
        """Tell whether an answer may be read now; otherwise it is waited for."""
        proxy, download = self.proxy, self.download
        if download is not None:
            proxy.limit = 1
            state = proxy.state
            received = state.bytes_received if state is not None else 0
            allowance = download.allowance(proxy.loop.now_ms, received)
            if allowance <= 0:
                self._pause(download.wait_ms(allowance))
                return False
        return True

    def _pause(self, delay_ms: int) -> None:
        """Leave the server's answers in the kernel for a while."""
        proxy = self.proxy
        if self.download_timer is None:
            self.download_timer = proxy.loop.call_later(
                max(1, delay_ms), self._resume, cancelable=True
            )
            proxy.watch()

    def _resume(self) -> None:
        self.download_timer = None
        proxy = self.proxy
        if proxy.pc is not None:
            proxy.deadline = proxy.loop.now_ms + proxy.timeout
            proxy.watch()

    @property
    def is_resting(self) -> bool:
        """Whether a direction waits for its rate."""
        return self.upload_timer is not None or self.download_timer is not None

    def pack(self) -> tuple[int | None, int | None, int]:
        """Return when counting began and how many bytes were sent."""
        upload, download = self.upload, self.download
        return (
            None if upload is None else upload.start_s,
            None if download is None else download.start_s,
            self.uploaded,
        )

    def unpack(self, packed: tuple[int | None, int | None, int]) -> None:
        """Count on from there."""
        upload_s, download_s, self.uploaded = packed
        if self.upload is not None and upload_s is not None:
            self.upload.start_s = upload_s
        if self.download is not None and download_s is not None:
            self.download.start_s = download_s
        if self.upload is not None:
            self.upload.resume(self.uploaded)
        if self.download is not None:
            self.download.resume(self.received()[1])

    def take_delayed(self) -> list[bytes]:
        """Return, and forget, what waits for the rate, as the server gets it."""
        self.uploaded += self.delayed_bytes  # they are let through where they go
        if self.upload is not None:
            self.upload.delay_ms(self.delayed_bytes)
        found = [self.header + data for data in self.delayed]
        self.delayed.clear()
        return found

    def begin_anew(self) -> bytes | None:
        """Begin with another server. Returns: what waits longest, which goes now, None for none"""
        self.stop()
        if self.download is not None:
            self.download.start_s = self.proxy.loop.now_ms // 1000  # no byte of that one came yet
            self.download.resume(0)
        if not self.delayed:
            return None
        data = self.delayed.popleft()
        self.delayed_bytes -= len(data)
        self.uploaded += len(data)
        return data

    def stop(self) -> None:
        """Stop the timers."""
        for timer in (self.upload_timer, self.download_timer):
            if timer is not None:
                timer.cancel()
        self.upload_timer = self.download_timer = None

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.proxy.on_fault()
