"""Stream and DatagramSocket: connections that a function has opened, and how bytes are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ngxstream.scripting.addresses import Address

if TYPE_CHECKING:
    from ngxstream.event.opening import Opened

LIMIT: Final = 65_536  # bytes that readuntil() looks at unless it is told otherwise
PIECE: Final = 65_536

Read = Callable[[int], Awaitable[bytes]]


class IncompleteReadError(EOFError):
    """The stream ended before what was asked for had come. Attributes: partial: what had"""

    def __init__(self, partial: bytes) -> None:
        super().__init__(f"the stream ended after {len(partial)} bytes")
        self.partial = partial


class LimitOverrunError(Exception):
    """There is no separator within the limit. What was looked at is still there to be read."""


class Buffered:
    """Bytes of a stream that were read and not given yet."""

    __slots__ = ("_read", "_rest", "_seen")

    def __init__(self, read: Read, rest: bytes = b"") -> None:
        """Args: read: reads at most so many bytes, b"" at the end; rest: comes before them"""
        self._read = read
        self._rest = bytearray(rest)
        self._seen = 0  # bytes of the rest in which no separator begins

    async def read(self, most: int = PIECE) -> bytes:
        """Return the bytes that are there, at most so many."""
        if most < 1:
            raise ValueError("a size is at least 1")
        if not self._rest:
            return await self._read(most)
        return self._take(most)

    async def exactly(self, size: int) -> bytes:
        """Return so many bytes."""
        if size < 0:
            raise ValueError("a size is not negative")
        while len(self._rest) < size:
            data = await self._read(min(size - len(self._rest), PIECE))
            if not data:
                raise IncompleteReadError(self._take(len(self._rest)))
            self._rest += data
        return self._take(size)

    async def until(self, separator: bytes, limit: int) -> bytes:
        """Return all up to the separator, and that."""
        if not separator:
            raise ValueError("a separator has at least one byte")
        self._seen = 0
        while True:
            at = self._rest.find(separator, self._seen)
            if at >= 0 and at + len(separator) <= limit:
                return self._take(at + len(separator))
            if at >= 0 or len(self._rest) >= limit:
                raise LimitOverrunError(f"no separator in {limit} bytes")
            self._seen = max(0, len(self._rest) - len(separator) + 1)
            data = await self._read(PIECE)
            if not data:
                raise IncompleteReadError(self._take(len(self._rest)))
            self._rest += data

    def _take(self, size: int) -> bytes:
        data = bytes(self._rest[:size])
        del self._rest[:size]
        return data


class Stream:
    """A connection by TCP, TLS or a Unix socket.

    It belongs to the coroutine that has opened it and is closed with it; `async with` closes it
    earlier. What fails raises OSError (ConnectionResetError and so on).
    """

    __slots__ = ("_buffered", "_opened")

    def __init__(self, opened: Opened) -> None:
        """Made by connect() alone."""
        self._opened = opened
        self._buffered = Buffered(opened.read)

    @property
    def peer(self) -> Address:
        """The address of the other side."""
        return Address(self._opened.sock.getpeername())

    @property
    def local(self) -> Address:
        """The address of this side."""
        return Address(self._opened.sock.getsockname())

    @property
    def is_closed(self) -> bool:
        """Whether it was closed here."""
        return self._opened.is_closed

    async def read(self, most: int = PIECE) -> bytes:
        """Wait for bytes. Returns: at most so many; b"" at the end of the stream"""
        return await self._buffered.read(most)

    async def readexactly(self, size: int) -> bytes:
        """Wait for exactly so many bytes.

        Raises: IncompleteReadError where the stream ends before; OSError
        """
        return await self._buffered.exactly(size)

    async def readuntil(self, separator: bytes = b"\n", limit: int = LIMIT) -> bytes:
        """Wait for a separator. Returns: all up to it, and itself

        Raises: LimitOverrunError where it does not end within so many bytes;
        IncompleteReadError where the stream ends before; OSError
        """
        return await self._buffered.until(separator, limit)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read()
        if not data:
            raise StopAsyncIteration
        return data

    def write(self, data: bytes) -> None:
        """Send without waiting; what does not fit into the socket is sent later.

        Raises: BufferError where more than `py_buffer_size` would wait to be sent: nothing of it
        is sent, and drain() makes room; OSError
        """
        self._opened.write(data)

    async def drain(self) -> None:
        """Wait until the kernel has taken all that was written. Raises: OSError"""
        await self._opened.drain()

    async def send(self, data: bytes) -> None:
        """Send any amount, and wait until the kernel has taken it. Raises: OSError"""
        opened = self._opened
        view = memoryview(data)
        await opened.drain()
        for at in range(0, len(view), opened.limit):
            opened.write(bytes(view[at : at + opened.limit]))
            await opened.drain()

    async def send_eof(self) -> None:
        """Shut down the sending side after all data was sent; receiving goes on.

        Raises: OSError
        """
        await self._opened.drain()
        self._opened.end()

    def close(self) -> None:
        """Close the connection; data that waits is not sent. A second call does nothing."""
        self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        """Close it, once all is sent unless an exception leads out of the block."""
        try:
            if error is None and not self.is_closed:
                await self.drain()
        finally:
            self.close()


class DatagramSocket:
    """A connected UDP socket: it receives datagrams of its peer only.

    It belongs to the coroutine that has opened it and is closed with it. That nobody listens at the
    other side (ICMP) is a ConnectionRefusedError of whatever is called next.
    """

    __slots__ = ("_opened",)

    def __init__(self, opened: Opened) -> None:
        """Made by connect_udp() alone."""
        self._opened = opened

    @property
    def peer(self) -> Address:
        """The address of the other side."""
        return Address(self._opened.sock.getpeername())

    @property
    def local(self) -> Address:
        """The address of this side."""
        return Address(self._opened.sock.getsockname())

    async def send(self, data: bytes) -> None:
        """Send one datagram. Raises: OSError, for one that is too large as well"""
        await self._opened.send(data)

    async def receive(self) -> bytes:
        """Wait for one datagram, which may be empty. Raises: OSError"""
        return await self._opened.read()

    def close(self) -> None:
        """Close the socket. A second call does nothing."""
        self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        """Close it."""
        self.close()
