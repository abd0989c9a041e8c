"""The preread phase: let handlers look at a client's first bytes without taking them.

Answers for ngx_stream_core_preread_phase, ngx_stream_preread_peek and ngx_stream_preread
(ngx_stream_core_module.c).

1. A handler is first asked without data. If it wants some (AGAIN), it is asked anew whenever more
   has come, with everything so far in `s.preread`.
2. On a plain TCP or unix connection under epoll the bytes are peeked at: they stay in the
   kernel, are counted nowhere, and `s.preread` is empty again once the phase is over. On a TLS
   session, and where readiness is a level (poll, select), they are taken, and `s.preread` keeps
   them for whoever proxies them on.
3. preread_timeout is for the whole phase. When it is over, and on EOF or an error, the session
   ends with status 200 and no upstream has been tried; a buffer full of bytes that were not
   enough is a 400.
4. Over UDP a handler is first asked with the first datagram. If it wants more (AGAIN), the client's
   further datagrams come here, and it is asked anew with each of them: datagrams() returns all so
   far. What ends that is the same, and a number of datagrams besides. Once the phase is over, what
   came behind the first datagram goes on as if it came now: to what the content listed, or to the
   client's next session. Until then none of it is counted.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Final

from ngxstream.core.codes import (
    AGAIN,
    BAD_REQUEST,
    DECLINED,
    DONE,
    ERROR,
    INTERNAL_SERVER_ERROR,
    OK,
    STREAM_OK,
)
from ngxstream.core.log import ERR
from ngxstream.event import datagram
from ngxstream.event.udp_clients import KEPT
from ngxstream.stream import phases
from ngxstream.stream.content import ANEW, Content, ContentKind, Kept

if TYPE_CHECKING:
    from ngxstream.event.connection import Table
    from ngxstream.stream.phases import Handler
    from ngxstream.stream.session import Session

KEY: Final = "preread"  # where the session keeps its Preread while it waits
KEEPS: Final = (Kept(KEY, stays="a session moves behind all phases"),)


class Preread:
    """One session's waiting for its first bytes."""

    __slots__ = ("s", "handler", "size", "timer", "peeks", "timed_out", "over")

    def __init__(self, s: Session, handler: Handler) -> None:
        core = s.server.core
        self.s = s
        self.handler = handler
        self.size: int = core.preread_buffer_size  # bytes
        plain = isinstance(s.c.sock, socket.SocketType)
        self.peeks = plain and s.loop.poller.name == "epoll"
        self.timed_out = False
        self.over = False
        self.timer = s.loop.call_later(core.preread_timeout, self.on_timeout)
        s.add_cleanup(self.timer.cancel)  # the session may be ended from outside
        s.set_module_ctx(KEY, self)
        s.loop.register(s.c.fd, self.on_event)

    def on_event(self, mask: int) -> None:
        """Go on with the phase: there is something to read."""
        if not self.over:
            phases.run(self.s)

    def on_timeout(self) -> None:
        """End the session: nothing usable came in time."""
        self.timed_out = True
        phases.run(self.s)

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        self.stop()
        self.s.finalize(INTERNAL_SERVER_ERROR)

    def stop(self) -> None:
        """End the waiting, whatever came of it."""
        # on_event stays registered until the content registers something else
        self.over = True
        self.timer.cancel()
        s = self.s
        if self.peeks:
            s.preread = b""
        s.set_module_ctx(KEY, None)

    def look(self) -> int:
        """Read what there is and ask the handler. Returns: its code, or a status to end with"""
        if self.timed_out:
            return STREAM_OK
        return self._peek() if self.peeks else self._take()

    def _peek(self) -> int:
        s = self.s
        try:
            data = s.c.sock.recv(self.size, socket.MSG_PEEK)
        except BlockingIOError:
            return AGAIN
        except OSError as error:
            s.client_error(error, "recv() failed")
            return STREAM_OK
        if not data:
            return STREAM_OK
        s.preread = data
        code = self.handler(s)
        if code != AGAIN:
            return code
        if len(data) == self.size:
            s.log_error(ERR, "preread buffer full")
            return BAD_REQUEST
        # A peek never gets past unread bytes to the end of the stream: ask for it.
        return STREAM_OK if _is_half_closed(s.c.fd) else AGAIN

    def _take(self) -> int:
        s = self.s
        while True:
            buffer = bytearray(self.size - len(s.preread))
            try:
                count = s.c.sock.recv_into(buffer)
            except BlockingIOError:
                return AGAIN
            except OSError as error:
                s.client_error(error, "recv() failed")
                return STREAM_OK
            if not count:
                return STREAM_OK
            s.preread += bytes(buffer[:count])
            code = self.handler(s)
            if code != AGAIN:
                return code
            if len(s.preread) >= self.size:
                s.log_error(ERR, "preread buffer full")
                return BAD_REQUEST


class Further(Content):
    """The further datagrams that a UDP session waits for.

    Meanwhile it is the Sink of the client, and the content: it gives way to new clients.
    """

    __slots__ = ("c", "s", "kept", "size", "timer", "active_ms", "is_waiting", "goes_on")

    def __init__(self, s: Session) -> None:
        self.c = s.c
        self.s = s
        self.kept: list[bytes] = []  # what came behind s.preread
        self.size = len(s.preread)  # bytes, of all
        self.is_waiting = False  # for one more
        self.goes_on = False  # its phase let the session pass
        self.timer = s.loop.call_later(s.server.core.preread_timeout, self.on_timeout)
        s.add_cleanup(self.timer.cancel)  # the session may be ended from outside
        s.set_module_ctx(KEY, self)

    def wait(self) -> int:
        """Wait for one more, if there may be one. Returns: AGAIN, or a status to end with"""
        s, c = self.s, self.c
        if self.size >= s.server.core.preread_buffer_size or len(self.kept) + 1 >= KEPT:
            s.log_error(ERR, "preread buffer full")
            return BAD_REQUEST
        self.is_waiting = True
        s.content = self
        self.active_ms = s.loop.now_ms  # type: ignore[misc]  # a slot here
        c.table.enlist(c, self)  # type: ignore[union-attr]
        return AGAIN

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Go on with the phase, datagram by datagram; give on what is not wanted here."""
        c, s = self.c, self.s
        table: Table = c.table  # type: ignore[assignment]
        for n, view in enumerate(views, 1):
            self.kept.append(bytes(view))
            self.size += len(view)
            self.is_waiting = False
            s.content = None
            table.go_on(c, lambda: phases.run(s))
            if self.is_waiting:
                continue
            self.timer.cancel()
            s.set_module_ctx(KEY, None)
            if not self.goes_on:
                return views[n:]
            kept, self.kept = self.kept, []  # the session's cleanups hold this object
            return table.give(c, [*(memoryview(data) for data in kept), *views[n:]])
        return None

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Take the datagrams of a burst."""
        return self.take(datagram.split(view, size))

    def count(self) -> None:
        """Count what the session that ends here has taken."""
        self.c.received += self.size - len(self.s.preread)

    def on_timeout(self) -> None:
        """End the session: nothing usable came in time."""
        self.s.finalize(STREAM_OK)

    give_way = on_timeout  # for a new client
    close = count

    def way(self) -> int:
        """Have what is kept begin a session elsewhere."""
        return ANEW


CONTENTS: Final = (ContentKind(KEY, Further, stays="it begins anew"),)


def datagrams(s: Session) -> list[bytes]:
    """Return all datagrams that a UDP session's handlers may look at, in order."""
    further = s.module_ctx(KEY)
    return [s.preread] if further is None else [s.preread, *further.kept]


def _is_half_closed(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


def check(s: Session, handler: Handler) -> int:
    """Ask one preread handler and advance by its answer. Source: ngx_stream_core_preread_phase"""
    s.action = "prereading client data"
    if s.c.is_udp:
        return _check_datagrams(s, handler)
    waiting: Preread | None = s.module_ctx(KEY)
    if waiting is None:
        code = handler(s)
        if code == AGAIN:
            waiting = Preread(s, handler)
            code = waiting.look()
    else:
        code = waiting.look()
    if code == AGAIN:
        return AGAIN
    if waiting is not None:
        waiting.stop()
    return _advance(s, code)


def _check_datagrams(s: Session, handler: Handler) -> int:
    """Ask one preread handler of a UDP session, which may want further datagrams."""
    code = handler(s)
    further: Further | None = s.module_ctx(KEY)
    if code == AGAIN:
        if further is None:
            further = Further(s)
        code = further.wait()
        if code == AGAIN:
            return AGAIN
    if further is not None:
        further.goes_on = code in (OK, DECLINED)
        if not further.goes_on:
            further.count()
    return _advance(s, code)


def _advance(s: Session, code: int) -> int:
    if code == OK:
        s.phase = s.address.engine[s.phase][2]
        return OK
    if code == DECLINED:
        s.phase += 1
        return OK
    if code == DONE:
        return DONE
    s.finalize(INTERNAL_SERVER_ERROR if code == ERROR else code)
    return DONE
