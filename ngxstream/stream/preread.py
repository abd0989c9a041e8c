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
5. A handler that waits for something else than data (DONE) is not asked before resume() is called.
   What comes meanwhile stays where it is, or is kept within preread_buffer_size (UDP: the rest is
   dropped, and counted); a full buffer ends the session once the handler wants more. A client who
   resets the connection, or ends it without having sent anything, ends the session; one that has
   only ended its direction may still have what it sent looked at.
"""

from __future__ import annotations

import os
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
from ngxstream.event import datagram, drops
from ngxstream.event.udp_clients import KEPT
from ngxstream.stream import endings, phases
from ngxstream.stream.content import ANEW, PREREAD, SCRIPT, Content, ContentKind, Kept, Shown

if TYPE_CHECKING:
    from ngxstream.event.connection import Table
    from ngxstream.stream.endings import Ending
    from ngxstream.stream.phases import Handler
    from ngxstream.stream.session import Session

KEY: Final = "preread"  # where the session keeps its Preread while it waits
KEEPS: Final = (Kept(KEY, stays="a session moves behind all phases"),)


class Preread:
    """One session's waiting for its first bytes."""

    __slots__ = ("s", "handler", "size", "timer", "peeks", "timed_out", "over", "is_elsewhere")

    def __init__(self, s: Session, handler: Handler) -> None:
        core = s.server.core
        self.s = s
        self.handler = handler
        self.size: int = core.preread_buffer_size  # bytes
        plain = isinstance(s.c.sock, socket.SocketType)
        self.peeks = plain and s.loop.poller.name == "epoll"
        self.timed_out = False
        self.over = False
        self.is_elsewhere = False  # the handler waits for something else than data
        self.timer = s.loop.call_later(core.preread_timeout, self.on_timeout)
        s.add_cleanup(self.timer.cancel)  # the session may be ended from outside
        s.set_module_ctx(KEY, self)
        s.loop.register(s.c.fd, self.on_event)

    def on_event(self, mask: int) -> None:
        """Go on with the phase: there is something to read."""
        if self.over or self.s.status:
            return
        if not self.is_elsewhere:
            phases.run(self.s)
            return
        ending = self._see_client()
        if ending is not None:
            self.s.end(STREAM_OK, ending)

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
        if self.is_elsewhere:
            s.loop.poller.release_read(s.c.fd)
        if self.peeks:
            s.preread = b""
        s.set_module_ctx(KEY, None)

    def look(self) -> int:
        """Read what there is and ask the handler. Returns: its code, or a status to end with"""
        if self.timed_out:
            self.s.ending = endings.PREREAD_TIMEOUT
            return STREAM_OK
        if self.is_elsewhere:
            code = self.handler(self.s)
            if code != AGAIN:
                return code
            self.is_elsewhere = False
            self.s.loop.poller.release_read(self.s.c.fd)
        return self._peek() if self.peeks else self._take()

    def wait_elsewhere(self) -> None:
        """Read no more than what tells whether the client is there, until resume() is called."""
        if not self.is_elsewhere:
            self.is_elsewhere = True
            self.s.loop.post(self._look_after)  # an edge may have been told already

    def _look_after(self) -> None:
        self.on_event(0)

    def _see_client(self) -> Ending | None:
        """Look after the client while the handler waits elsewhere. Returns: how it has left"""
        s = self.s
        try:
            is_there = self._is_there() if self.peeks else self._keep()
        except BlockingIOError:
            return None
        except OSError as error:
            s.client_error(error, "recv() failed")
            return endings.of_client(error)
        return None if is_there else endings.CLOSED_BY_CLIENT

    def _is_there(self) -> bool:
        """Tell whether the client has sent anything. Raises: OSError"""
        sock = self.s.c.sock
        data = sock.recv(1, socket.MSG_PEEK)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # which data stand before
        if error:
            raise OSError(error, os.strerror(error))
        return bool(data)

    def _keep(self) -> bool:
        """Take what has come, as far as there is room. Returns: see _is_there. Raises: OSError"""
        s = self.s
        while room := max(0, self.size - len(s.preread)):
            buffer = bytearray(room)
            count = s.c.sock.recv_into(buffer)
            if not count:
                break
            s.preread += bytes(buffer[:count])
        s.loop.poller.hold_read(s.c.fd)
        return bool(s.preread)

    def _peek(self) -> int:
        s = self.s
        try:
            data = s.c.sock.recv(self.size, socket.MSG_PEEK)
        except BlockingIOError:
            return AGAIN
        except OSError as error:
            s.client_error(error, "recv() failed")
            s.ending = endings.of_client(error)
            return STREAM_OK
        if not data:
            s.ending = endings.CLOSED_BY_CLIENT
            return STREAM_OK
        s.preread = data
        code = self.handler(s)
        if code != AGAIN:
            return code
        if len(data) == self.size:
            s.log_error(ERR, "preread buffer full")
            s.ending = endings.PREREAD_FULL
            return BAD_REQUEST
        # A peek never gets past unread bytes to the end of the stream: ask for it.
        if not _is_half_closed(s.c.fd):
            return AGAIN
        s.ending = endings.CLOSED_BY_CLIENT
        return STREAM_OK

    def _take(self) -> int:
        s = self.s
        while len(s.preread) < self.size:
            buffer = bytearray(self.size - len(s.preread))
            try:
                count = s.c.sock.recv_into(buffer)
            except BlockingIOError:
                return AGAIN
            except OSError as error:
                s.client_error(error, "recv() failed")
                s.ending = endings.of_client(error)
                return STREAM_OK
            if not count:
                s.ending = endings.CLOSED_BY_CLIENT
                return STREAM_OK
            s.preread += bytes(buffer[:count])
            code = self.handler(s)
            if code != AGAIN:
                return code
        s.log_error(ERR, "preread buffer full")
        s.ending = endings.PREREAD_FULL
        return BAD_REQUEST


class Further(Content):
    """The further datagrams that a UDP session waits for.

    Meanwhile it is the Sink of the client, and the content: it gives way to new clients.
    """

    __slots__ = (
        "c", "s", "kept", "size", "timer", "active_ms", "is_waiting", "is_elsewhere", "goes_on"
    )

    def __init__(self, s: Session) -> None:
        self.c = s.c
        self.s = s
        self.kept: list[bytes] = []  # what came behind s.preread
        self.size = len(s.preread)  # bytes, of all
        self.is_waiting = False  # for one more, or elsewhere
        self.is_elsewhere = False  # the handler waits for something else than data
        self.goes_on = False  # its phase let the session pass
        self.timer = s.loop.call_later(s.server.core.preread_timeout, self.on_timeout)
        s.add_cleanup(self.timer.cancel)  # the session may be ended from outside
        s.set_module_ctx(KEY, self)

    def wait(self) -> int:
        """Wait for one more, if there may be one. Returns: AGAIN, or a status to end with"""
        s = self.s
        if self._is_full():
            s.log_error(ERR, "preread buffer full")
            s.ending = endings.PREREAD_FULL
            return BAD_REQUEST
        self._enlist()
        return AGAIN

    def wait_elsewhere(self) -> int:
        """Keep what comes until resume() is called. Returns: AGAIN"""
        self._enlist()
        self.is_elsewhere = True
        return AGAIN

    def _is_full(self) -> bool:
        most: int = self.s.server.core.preread_buffer_size
        return self.size >= most or len(self.kept) + 1 >= KEPT

    def _enlist(self) -> None:
        s, c = self.s, self.c
        self.is_waiting = True
        s.content = self
        self.active_ms = s.loop.now_ms  # type: ignore[misc]  # a slot here
        c.table.enlist(c, self)  # type: ignore[union-attr]

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Go on with the phase, datagram by datagram; give on what is not wanted here."""
        table: Table = self.c.table  # type: ignore[assignment]
        for n, view in enumerate(views, 1):
            if self.is_elsewhere and self._is_full():
                table.lost.drop(drops.UNWANTED)
                continue
            self.kept.append(bytes(view))
            self.size += len(view)
            if not self.is_elsewhere:
                self._go_on(table)
            if not self.is_waiting:
                return self._leave(table, views[n:])
        return None

    def resume(self) -> None:
        """Ask the handler anew: what it waited for elsewhere has come."""
        table: Table = self.c.table  # type: ignore[assignment]
        self._go_on(table)
        if not self.is_waiting:
            rest = self._leave(table, [])
            if rest:
                table.again(self.c, rest)

    def _go_on(self, table: Table) -> None:
        s = self.s
        self.is_waiting = self.is_elsewhere = False
        s.content = None
        table.go_on(self.c, lambda: phases.run(s))

    def _leave(self, table: Table, views: list[memoryview]) -> list[memoryview]:
        """Give on what was kept and what came behind it. Returns: what nobody wants"""
        self.timer.cancel()
        self.s.set_module_ctx(KEY, None)
        if not self.goes_on:
            return views
        kept, self.kept = self.kept, []  # the session's cleanups hold this object
        return table.give(self.c, [*(memoryview(data) for data in kept), *views])

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Take the datagrams of a burst."""
        return self.take(datagram.split(view, size))

    def count(self) -> None:
        """Count what the session that ends here has taken."""
        self.c.received += self.size - len(self.s.preread)

    def on_timeout(self) -> None:
        """End the session: nothing usable came in time."""
        self.s.end(STREAM_OK, endings.PREREAD_TIMEOUT)

    def give_way(self) -> None:
        """End for a new client."""
        self.s.end(STREAM_OK, endings.EVICTED)

    close = count

    def shown(self) -> Shown:
        """Return what is to be told of it."""
        return Shown(SCRIPT if self.is_elsewhere else PREREAD, self.active_ms)

    def way(self) -> int:
        """Have what is kept begin a session elsewhere."""
        return ANEW


CONTENTS: Final = (ContentKind(KEY, Further, stays="it begins anew"),)


def datagrams(s: Session) -> list[bytes]:
    """Return all datagrams that a UDP session's handlers may look at, in order."""
    further = s.module_ctx(KEY)
    return [s.preread] if further is None else [s.preread, *further.kept]


def resume(s: Session) -> None:
    """Ask a handler anew that has said DONE; from the loop, not from within a handler."""
    waiting = s.module_ctx(KEY)
    if isinstance(waiting, Further):
        waiting.resume()
    else:
        phases.run(s)


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
    if code == DONE and not s.status:
        if waiting is None:
            waiting = Preread(s, handler)
        waiting.wait_elsewhere()
        return AGAIN
    if code == AGAIN:
        return AGAIN
    if waiting is not None:
        waiting.stop()
    return _advance(s, code)


def _check_datagrams(s: Session, handler: Handler) -> int:
    """Ask one preread handler of a UDP session, which may want further datagrams."""
    code = handler(s)
    further: Further | None = s.module_ctx(KEY)
    if code == AGAIN or (code == DONE and not s.status):
        if further is None:
            further = Further(s)
        code = further.wait() if code == AGAIN else further.wait_elsewhere()
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
