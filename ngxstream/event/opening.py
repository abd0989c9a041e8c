"""Opening: connections that tasks make, and what they take of worker_connections.

1. Each socket has a slot from before it is made until it is closed: one that the client's
   connection has reserved, else a free one.
2. It belongs to the task that opened it, and is closed with it (event/tasks.py).
3. Whatever fails raises OSError, by its errno the class that Python has for it, and leaves nothing
   open. Deadlines are the caller's: it interrupts the task.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import codes, errors
from ngxstream.event import connect, duplex, tasks

if TYPE_CHECKING:
    from ngxstream.event.connection import Connection
    from ngxstream.event.loop import Loop
    from ngxstream.event.probing import Security, Target

AGAIN_MS: Final = 10  # the socket's buffer is full: no event tells when it is not


class Slots:
    """What the sockets of one session's tasks take of worker_connections."""

    __slots__ = ("_borrowed", "_c", "_loop")

    def __init__(self, loop: Loop, c: Connection | None) -> None:
        """Args: c: the client's connection, which may have some reserved"""
        self._loop = loop
        self._c = c
        self._borrowed = 0

    def take(self) -> None:
        """Take one. Raises: OSError where there is none"""
        c, loop = self._c, self._loop
        if c is not None and c.reserved and not c.closed:
            c.reserved -= 1
            self._borrowed += 1
        elif loop.free_connections > 0:
            loop.free_connections -= 1
        else:
            raise OSError(
                errno.EMFILE, f"{loop.connections} worker_connections are not enough"
            )

    def give(self) -> None:
        """Give one back."""
        c = self._c
        if self._borrowed and c is not None and not c.closed:
            self._borrowed -= 1
            c.reserved += 1
        else:
            self._loop.free_connections += 1


class Opened(duplex.Duplex):
    """A connection that a task has opened."""

    __slots__ = (
        "header",  # bytes: goes in front of the first datagram
        "owner",
        "slots",
    )

    def __init__(self, task: tasks.Task, sock: Any, limit: int, slots: Slots) -> None:
        """Have the task own it: the slot is given back when it is closed. Raises: OSError"""
        super().__init__(task.loop, sock, limit)
        self.owner: tasks.Task | None = None
        self.slots = slots
        self.header = b""
        task.own(self)

    def close(self) -> None:
        """Close the socket and give its slot back. Idempotent."""
        if self.is_closed:
            return
        super().close()
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.disown(self)
        self.slots.give()

    def end(self) -> None:
        """Tell the other side that nothing more comes. Raises: OSError"""
        if self.is_closed:
            raise duplex.ClosedError
        self.sock.shutdown(socket.SHUT_WR)

    async def send(self, data: bytes) -> None:
        """Send one datagram. Raises: OSError"""
        while True:
            if self.is_closed:
                raise duplex.ClosedError
            try:
                self.count(0, self.sock.send(self.header + data))
            except (BlockingIOError, InterruptedError):
                await tasks.Sleep(AGAIN_MS)
            else:
                self.header = b""
                await self.share.take()
                return


async def connection(task: tasks.Task, target: Target, limit: int, slots: Slots) -> Opened:
    """Connect, and shake hands where a stream is to be secured; a datagram socket hears of its
    peer alone.

    Args: limit: bytes that may wait to be sent. Raises: OSError
    """
    slots.take()
    try:
        sock, is_ready = _begun(task.loop, target)
        try:
            opened = Opened(task, sock, limit, slots)
        except BaseException:
            sock.close()
            raise
    except BaseException:
        slots.give()
        raise
    opened.header = target.header
    try:
        opened.open()
        if target.kind == connect.STREAM:
            if not is_ready:
                await _connected(opened, target.name)
            connect.set_nodelay(sock, target.family)
            if target.header and sock.send(target.header) != len(target.header):
                raise OSError(errno.ENOBUFS, "could not send PROXY protocol header at once")
            if target.secure is not None:
                await _shake(opened, target.secure, target.name)
    except BaseException:
        opened.close()
        raise
    return opened


def _begun(loop: Loop, target: Target) -> tuple[socket.SocketType, bool]:
    """Begin a connection. Raises: OSError"""
    try:
        return connect.connect_peer(
            target.family, target.kind, target.sockaddr, target.name, target.options,
            target.local, False, loop.get(connect.ephemeral_ports),
        )
    except errors.NgxError as error:
        raise OSError(error.errno or errno.EIO, str(error.message)) from None


async def _connected(opened: Opened, name: str) -> None:
    """Wait until the connection is there. Raises: OSError"""
    edge = tasks.Edge()
    loop = opened.loop
    loop.register(opened.fd, lambda _: edge.tell())
    await edge.next()
    code = opened.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, f"connect() to {name} failed: {os.strerror(code)}")
    opened.open()


async def _shake(opened: Opened, secure: Security, name: str) -> None:
    """Put the connection under TLS. Raises: OSError"""
    edge = tasks.Edge()
    loop = opened.loop
    try:
        transport = opened.sock = secure.begin(loop, opened.sock)
    except errors.NgxError as error:
        raise OSError(errno.EPROTO, str(error)) from None
    loop.register(opened.fd, lambda _: edge.tell())
    while (code := transport.handshake()) == codes.AGAIN:
        loop.poller.release_read(opened.fd)
        await edge.next()
    if code != codes.OK:
        message, number = transport.failure
        raise OSError(number or errno.EPROTO, f"{message}, {name}")
    said = secure.complaint(transport)
    if said:
        transport.quiet = True
        raise CertificateError(f"{said.removeprefix('upstream ')}, {name}")
    opened.open()


class CertificateError(OSError):
    """The certificate of a server is not to be trusted, or another's."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EPROTO, text)
