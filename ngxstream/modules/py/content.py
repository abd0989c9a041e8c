"""py_content: a function that serves a client itself, in place of a server.

TCP: what the function sends is flushed when it has returned, then the session ends with status
200. `proxy_timeout` is how long nothing may move; a client that resets its connection ends the
session at once, whatever the function waits for.

UDP: further datagrams of the client wait, up to `py_buffer_size` bytes, for receive(); what is over
that is dropped and counted. A session that idles gives way to a new client. It does not move to
another process: after a reload the function goes on with what it has, and once it waits for a
datagram the session ends; the client's next one begins another, by the new configuration.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ngxstream.conf import directive as d
from ngxstream.conf import units
from ngxstream.core import codes, errors, log
from ngxstream.event import datagram, drops, duplex, poller, tasks
from ngxstream.event.turn_budget import TurnBudget
from ngxstream.modules.py import conf, faults
from ngxstream.scripting import errors as scripting_errors
from ngxstream.scripting import running, streams
from ngxstream.stream import endings, explaining, phases
from ngxstream.stream.content import SERVING, STAYS, Content, ContentKind, Shown
from ngxstream.stream.explaining import Answer

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.tasks import Task
    from ngxstream.event.udp_clients import Sink
    from ngxstream.modules.py.conf import PyConf
    from ngxstream.modules.py.loading import Hook
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session

COST: Final = 64  # bytes that a datagram that waits counts besides its own
LINGER_MS: Final = 2000  # for a client that still sends: closing would throw away what it was sent
MOST_CONNECTIONS: Final = 64


def handle(s: Session) -> None:
    """Begin to serve a client: the content handler. Others may have used the turn up."""
    if s.loop.get(TurnBudget).is_spent and not s.c.is_udp:
        phases.run(s)  # comes here in one of the next turns
        return
    s.action = "running py_content"
    content = s.content = UdpServing(s) if s.c.is_udp else TcpServing(s)
    content.begin()


class Serving(Content):
    """One client whom a function serves."""

    __slots__ = (
        "deadline",
        "its",  # Running
        "moved_ms",  # int: when something moved last, loop ms
        "s",
        "tick",
        "timeout",
    )

    def __init__(self, s: Session) -> None:
        settings: PyConf = s.server.py
        self.s = s
        self.its = running.of(s, settings)
        self.timeout: int = s.server.proxy.timeout
        self.moved_ms = s.loop.now_ms
        self.deadline = s.loop.now_ms + self.timeout
        self.tick = 0

    def begin(self) -> None:
        """Call the function."""
        s, its = self.s, self.its
        its.channel = its.intake = self  # type: ignore[assignment]  # of both kinds
        s.loop.timers.add(self)
        hook: Hook = s.server.py.content
        try:
            said = its.ask(hook.call, its.session)
        except BaseException as error:  # noqa: BLE001 - told, and the session ends
            self._over(error)
            return
        coroutine = tasks.coroutine_of(said)
        if coroutine is None:
            self._over(None)
        else:
            its.start(coroutine, self.ended)

    def ended(self, task: Task) -> None:
        """End the session: the function is done."""
        self._over(task.error)

    def _over(self, error: BaseException | None) -> None:
        s, hook = self.s, self.s.server.py.content
        if s.status:  # cancelled with the session; what it raised instead is told
            if error is not None and not isinstance(error, (tasks.CancelledError, OSError)):
                faults.tell(s, hook, error)
            return
        if error is not None:
            s.finalize(faults.failed(s, hook, error))
            return
        verdict = self.its.take_verdict()
        if verdict is not None and verdict >= codes.STREAM_OK:
            s.finalize(verdict)
        else:
            self.flush()

    def flush(self) -> None:
        """End the session once all is sent."""
        self.s.finalize(codes.STREAM_OK)

    def last_ms(self) -> int:
        """Return when something moved last."""
        return self.moved_ms

    def on_timeout(self) -> None:
        """End the session, unless something has moved meanwhile."""
        s = self.s
        loop = s.loop
        self.deadline = self.last_ms() + self.timeout
        if self.deadline > loop.now_ms:
            loop.timers.add(self)
            return
        s.log_error(log.INFO, "connection timed out", errno.ETIMEDOUT)
        s.end(codes.STREAM_OK, endings.IDLE)

    def to_upstream(self, data: bytes) -> None:
        """Refuse: there is no upstream."""
        raise scripting_errors.ScriptError("py_content has no upstream")

    def shown(self) -> Shown:
        """Return what is to be told of it."""
        return Shown(SERVING, self.last_ms())

    def close(self) -> None:
        """Let go of everything; the session cancels the function."""
        self.s.loop.timers.remove(self)


class ClientStream(duplex.Duplex):
    """The client's connection; what fails there ends the session."""

    __slots__ = ("content",)

    def __init__(self, content: TcpServing, limit: int) -> None:
        s = content.s
        super().__init__(s.loop, s.c.sock, limit)
        self.content: TcpServing | None = content

    def on_event(self, mask: int) -> None:
        """Go on; a client that has reset its connection is gone."""
        content = self.content
        if content is None:
            return
        if mask & poller.ERR:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.fail(OSError(code, "recv() failed"))
                return
        super().on_event(mask)
        content.moved()

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        if self.content is not None:
            self.content.on_fault()

    def take(self, most: int) -> bytes | None:
        """Read what there is."""
        try:
            return super().take(most)
        except duplex.ClosedError:
            raise
        except OSError as error:
            self.fail(error)
            raise

    def count(self, received: int, sent: int) -> None:
        """Count bytes that went either way."""
        super().count(received, sent)
        if self.content is not None:
            c = self.content.s.c
            c.received += received
            c.sent += sent

    def fail(self, error: OSError) -> None:
        """End the session."""
        super().fail(error)
        if self.content is not None:
            s = self.content.s
            s.client_error(error, "the client's connection failed")
            s.end(codes.STREAM_OK, endings.of_client(error))

    def detach(self) -> None:
        """Let go of the socket and of the content."""
        self.content = None
        super().detach()


class TcpServing(Serving):
    """A TCP client, with TLS or without."""

    __slots__ = ("buffered", "is_flushing", "is_lingering", "stream")

    def __init__(self, s: Session) -> None:
        super().__init__(s)
        stream = self.stream = ClientStream(self, s.server.py.buffer_size)
        s.c.received += len(s.preread)
        self.buffered = streams.Buffered(stream.read, bytes(s.preread))
        s.preread = b""
        self.is_flushing = False
        self.is_lingering = False

    def begin(self) -> None:
        """Watch the client, and call the function."""
        self.s.set_nodelay()
        self.stream.open()
        super().begin()

    def last_ms(self) -> int:
        """Return when something moved last."""
        return self.stream.moved_ms

    def to_client(self, data: bytes) -> None:
        """Send. Raises: BufferError, OSError"""
        if not self.s.status:  # else a `finally` block sends behind the end
            self.stream.write(data)

    async def receive(self) -> bytes:
        """Wait for bytes."""
        return await self.buffered.read()

    async def readexactly(self, size: int) -> bytes:
        """Wait for so many bytes."""
        return await self.buffered.exactly(size)

    async def readuntil(self, separator: bytes, limit: int) -> bytes:
        """Wait for a separator."""
        return await self.buffered.until(separator, limit)

    async def drain(self) -> None:
        """Wait until all was sent."""
        await self.stream.drain()

    def moved(self) -> None:
        """End the session where the last of it was sent, or read."""
        if self.s.status:
            return
        if self.is_lingering:
            self._discard()
        elif self.is_flushing and not self.stream.out:
            self._finish()

    def flush(self) -> None:
        """End the session once all is sent."""
        self.is_flushing = True
        if not self.stream.out:
            self._finish()

    def _finish(self) -> None:
        """End the session; a client that still sends is given a moment to take its last bytes."""
        s = self.s
        if type(s.c.sock) is socket.SocketType and self.stream.take(duplex.PIECE):
            self.is_lingering = True
            self.timeout = LINGER_MS
            self.deadline = s.loop.now_ms + LINGER_MS
            s.loop.timers.add(self)
            try:
                s.c.sock.shutdown(socket.SHUT_WR)
            except OSError:
                s.finalize(codes.STREAM_OK)
                return
            self._discard()
        elif not s.status:
            s.finalize(codes.STREAM_OK)

    def _discard(self) -> None:
        """Read on for nobody, a piece in a turn."""
        s = self.s
        data = self.stream.take(duplex.PIECE)
        if s.status or data is None:
            s.loop.poller.release_read(s.c.fd)
        elif not data:
            s.finalize(codes.STREAM_OK)
        else:
            s.loop.post(self.moved)

    def on_timeout(self) -> None:
        """End the session where nothing moves, or it has lingered long enough."""
        if self.is_lingering:
            self.s.finalize(codes.STREAM_OK)
        else:
            super().on_timeout()

    def close(self) -> None:
        """Let go of everything."""
        super().close()
        self.stream.detach()


class UdpServing(Serving):
    """A UDP client, and the sink of its datagrams."""

    __slots__ = (
        "answers",  # int: datagrams sent
        "arrived",  # Edge
        "c",
        "dropped",
        "is_leaving",  # bool: another worker has the client's next datagram
        "queue",  # deque[bytes]
        "requests",  # int: datagrams received
        "share",
        "size",  # int: bytes that wait, each datagram's COST with them
    )

    def __init__(self, s: Session) -> None:
        super().__init__(s)
        self.c = s.c
        self.answers = 0
        self.requests = 1
        self.dropped = 0
        self.is_leaving = False
        self.queue = deque((bytes(s.preread),))
        self.size = len(s.preread) + COST
        self.arrived = tasks.Edge()
        self.share = duplex.Share()
        s.preread = b""

    def begin(self) -> None:
        """Have the client's further datagrams come here, and call the function."""
        sink: Sink = self
        if self.s.server.gate is not None:
            sink = self.s.server.gate(self.s, sink)
        self.c.table.enlist(self.c, sink)  # type: ignore[union-attr]
        super().begin()

    def take(self, views: list[memoryview]) -> None:
        """Keep copies, up to a bound, and tell the function."""
        limit = self.s.server.py.buffer_size
        self.moved_ms = self.s.loop.now_ms
        self.requests += len(views)
        for view in views:
            self.c.received += len(view)
            if self.size + len(view) + COST > limit and self.queue:
                self.dropped += 1
                self.c.table.lost.drop(drops.UNWANTED)  # type: ignore[union-attr]
            else:
                self.queue.append(bytes(view))
                self.size += len(view) + COST
        self.arrived.tell()

    def take_burst(self, view: memoryview, size: int) -> None:
        """Keep the datagrams of a burst."""
        self.take(datagram.split(view, size))

    async def receive(self) -> bytes:
        """Wait for a datagram."""
        await self.share.take()
        while not self.queue:
            if self.is_leaving:
                self.s.loop.post(self._leave)
            await self.arrived.next()
            self.share.begin()
        data = self.queue.popleft()
        self.size -= len(data) + COST
        return data

    async def readexactly(self, size: int) -> bytes:
        """Refuse."""
        raise scripting_errors.ScriptError("datagrams are received whole")

    async def readuntil(self, separator: bytes, limit: int) -> bytes:
        """Refuse."""
        raise scripting_errors.ScriptError("datagrams are received whole")

    async def drain(self) -> None:
        """Let others go on: datagrams do not wait here."""
        await self.share.take()

    def to_client(self, data: bytes) -> None:
        """Send a datagram. Raises: BufferError, OSError"""
        if self.s.status:
            return
        if self.c.send(data) == codes.AGAIN:
            raise BufferError("the listening socket has no room")
        self.answers += 1
        self.moved_ms = self.s.loop.now_ms

    def _leave(self) -> None:
        self.s.finalize(codes.STREAM_OK)

    def way(self) -> int:
        """Stay: the function goes on with what it has, and ends when it waits for more."""
        self.is_leaving = True
        if self.arrived.is_awaited:
            self.s.loop.post(self._leave)
        return STAYS

    @property
    def active_ms(self) -> int:
        """When something moved last, loop ms."""
        return self.moved_ms

    @property
    def conversing(self) -> bool:
        """Whether both sides have spoken more than once."""
        return self.requests > 1 and self.answers > 0

    def give_way(self) -> None:
        """End for the sake of a new client."""
        s = self.s
        s.log_plain(log.INFO, "udp session gives way to a new client")
        s.end(codes.STREAM_OK, endings.EVICTED)

    def shown(self) -> Shown:
        """Return what is to be told of it."""
        return Shown(SERVING, self.moved_ms, datagrams=(self.requests, self.answers))

    def close(self) -> None:
        """Let go of everything."""
        super().close()
        if self.dropped:
            self.s.log_error(
                log.WARN, f"{self.dropped} datagrams came faster than they were received, "
                "and were dropped"
            )


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Say which function would serve the client; it is not called."""
    why = f"{s.server.py.content.word} serves the client"
    explanation.end(explaining.RETURNED, why, codes.STREAM_OK)
    return Answer(codes.OK, why)


def _content(scope: Scope, module: Module, st: Statement) -> None:
    """Read `py_content module.function [connections=number];`."""
    conf.hook_setter("content")(scope, module, st)
    connections = 0
    for word in st.args[1:]:
        name, _, text = word.partition("=")
        try:
            connections = units.parse_number(text)
        except ValueError:
            connections = -1
        if name != "connections" or not 0 <= connections <= MOST_CONNECTIONS:
            raise errors.ConfError(f'invalid parameter "{word}"')
    server: ServerConf = scope.owner
    server.serve_by(handle, scope, st, slots=1 + connections)


DIRECTIVES: Final = (
    d.Directive("py_content", d.SERVER, d.TAKE12, _content,
                "A function that serves clients itself.", extension=True),
)
CONTENTS: Final = (
    ContentKind("TCP client of a function", TcpServing, stays="TCP sessions stay"),
    ContentKind("UDP client of a function", UdpServing,
                stays="what a coroutine is about to do cannot be packed"),
)
EXPLAINS: Final[tuple[Any, ...]] = ((handle, _explain),)
