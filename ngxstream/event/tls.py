"""TLS on a connection: the handshake as steps, the transport afterwards, and the end of it.

Answers for ngx_ssl_handshake(), ngx_ssl_recv(), ngx_ssl_write() and ngx_ssl_shutdown() of
src/event/ngx_event_openssl.c. It knows no directive: contexts come ready made
(event/libssl_context.py).

1. A Transport stands where the socket stood (`c.sock`, `proxy.pc`) and has its methods:
   recv_into and send raise BlockingIOError when the kernel has no bytes or no
   buffer space, whichever way the library wanted to go.
2. Readiness: an edge tells of bytes in the kernel, never of those the library holds. Who reads a
   Transport reads until BlockingIOError, and looks again after every event of its descriptor: a
   write may have waited for a read and a read for space.
3. What was given to send() and not taken is given again, the same bytes first.
4. A peer's end of stream ends ours, with close_notify or without: truncation is an end, as in
   nginx.
5. Who closes first sends close_notify. A client has LINGER_MS to answer it; an upstream has not.
"""

from __future__ import annotations

import ctypes
import errno
import ssl
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.codes import AGAIN, ERROR, OK
from ngxstream.event import libssl

if TYPE_CHECKING:
    from ngxstream.event.connection import Stream
    from ngxstream.event.libssl_context import Context
    from ngxstream.event.loop import Loop

LINGER_MS: Final = 3000
_RECEIVED_SHUTDOWN: Final = 2
WANTS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
MAX_SESSIONS: Final = 1024  # of peers a client side remembers


class Failure(OSError):
    """A failed read or write in nginx's words; `code` is the errno, None for a fault of TLS."""

    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(code or errno.EPROTO, message)
        self.message = message
        self.code = code


class Transport:
    """A TCP connection under TLS."""

    __slots__ = (
        "loop",
        "lib",
        "context",  # Context it began with
        "sock",  # WrappedSocket: owns the descriptor
        "connection",  # the ssl module's object, None once closed
        "pointer",  # int: SSL*
        "fd",
        "read",  # (buffer) -> bytes read; raises what the ssl module raises
        "wants_write",  # bool: the handshake waits to write, not to read
        "is_done",  # bool: the handshake is over, and well
        "waits",  # bool: the peer is given time to end too
        "quiet",  # bool: no close_notify is sent
        "session_key",  # what a client side remembers the session by, None for not at all
        "asked_name",  # bytes | None: name in the ClientHello, where it was read
        "failure",  # (message, errno | None) of a handshake that failed
        "complain",  # (message): called with what is wrong with the end, None where nobody does
        "deadline",  # ms, of the lingering
        "tick",
    )

    def __init__(self, loop: Loop, context: Context, sock: Stream) -> None:
        """Take over a socket for TLS. Raises: SslError. Source: ngx_ssl_create_connection"""
        lib = self.lib = context.lib
        self.loop = loop
        self.context = context
        assert not isinstance(sock, Transport)
        self.sock = libssl.WrappedSocket.take(sock)
        self.fd = self.sock.fileno()
        self.wants_write = False
        self.is_done = False
        self.waits = context.server_side
        self.quiet = False
        self.session_key: Hashable = None
        self.asked_name: bytes | None = None
        self.failure: tuple[str, int | None] = ("", None)
        self.complain: Callable[[str], None] | None = None
        self.deadline = 0
        self.tick = 0
        try:
            connection = context.wrap(self.sock, context.server_side, None)
        except ssl.SSLError as error:
            self.sock.close()
            raise libssl.SslError(f"SSL_new() failed{lib.reason_of(error)}") from None
        self.connection: Any = connection
        self.pointer = lib.connection_pointer(connection)
        if context.id_context:  # from 3.13 on Python gives every connection its own
            lib.SSL_set_session_id_context(
                self.pointer, context.id_context, len(context.id_context)
            )
        self.read: Callable[[memoryview | bytearray], int] = partial(connection.read, 0)

    def handshake(self) -> int:
        """Go on with the handshake. Returns: OK, AGAIN (after the next event), ERROR

        After ERROR `failure` says why. Source: ngx_ssl_handshake
        """
        lib, pointer = self.lib, self.pointer
        code = lib.SSL_do_handshake(pointer)
        if code == 1:
            self.is_done = True
            lib.record_failures(pointer)
            return OK
        error = lib.SSL_get_error(pointer, code)
        if error == libssl.ERROR_WANT_READ:
            self.wants_write = False
            return AGAIN
        if error == libssl.ERROR_WANT_WRITE:
            self.wants_write = True
            self.loop.poller.want_write(self.fd)
            return AGAIN
        number = ctypes.get_errno() or None if error == libssl.ERROR_SYSCALL else None
        if error == libssl.ERROR_ZERO_RETURN or not lib.ERR_peek_error():
            self.failure = ("peer closed connection in SSL handshake", number)
            lib.ERR_clear_error()
        else:
            self.failure = (f"SSL_do_handshake() failed{lib.reasons()}", number)
        return ERROR

    def recv_into(self, buffer: memoryview | bytearray) -> int:
        """Read into a buffer; 0 at the end. Raises: BlockingIOError, Failure"""
        try:
            return self.read(buffer)
        except WANTS:
            raise BlockingIOError from None
        except ssl.SSLZeroReturnError:
            return 0
        except OSError as error:
            raise self.failed("SSL_read() failed", error) from None

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Read at most so many bytes; none at the end. Raises: BlockingIOError, Failure

        Args: flags: With MSG_PEEK they are the bytes of the records, as nginx looks at them
        """
        if flags:
            return self.sock.recv(size, flags)
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer)])

    def send(self, data: bytes | memoryview) -> int:
        """Write all of it. Raises: BlockingIOError (none of it counts as sent), Failure"""
        try:
            sent: int = self.connection.write(data)
        except WANTS:
            raise BlockingIOError from None
        except OSError as error:
            raise self.failed("SSL_write() failed", error) from None
        return sent

    def failed(self, message: str, error: OSError) -> Failure:
        """Make a Failure of what the ssl module raised; no close_notify is sent."""
        self.quiet = True
        lib = self.lib
        if told := lib.take_recorded(self.pointer):
            return Failure(message + told, None)
        if not isinstance(error, ssl.SSLError):
            return Failure(message, error.errno)
        if not getattr(error, "reason", None):  # an error of the kernel
            return Failure(message, lib.last_errno())
        return Failure(message + lib.reason_of(error), None)

    def has_pending(self) -> bool:
        """Tell whether the library holds bytes no event will tell of."""
        return bool(self.lib.SSL_has_pending(self.pointer))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.fd

    def getsockname(self) -> Any:
        """Return the local address."""
        return self.sock.getsockname()

    def getpeername(self) -> Any:
        """Return the peer's address."""
        return self.sock.getpeername()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Set an option of the socket."""
        self.sock.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int) -> int:
        """Return an option of the socket."""
        return self.sock.getsockopt(level, option)

    def shutdown(self, how: int) -> None:
        """Shut the socket down below TLS, as nginx's half close does."""
        self.sock.shutdown(how)

    def close(self) -> None:
        """Send close_notify and close, perhaps later. Idempotent. Source: ngx_ssl_shutdown"""
        if self.connection is None or self.deadline:
            return
        if self.is_done:
            self._remember()
            if not self.quiet and self._say_end() == AGAIN:
                self._linger()
                return
        self._release()
        self.sock.close()

    def _say_end(self) -> int:
        """Send close_notify; look for the peer's if it is waited for. Returns: OK or AGAIN"""
        lib, pointer = self.lib, self.pointer
        if lib.SSL_get_shutdown(pointer) & _RECEIVED_SHUTDOWN:
            return OK  # who ended first does not wait for an answer
        code = lib.SSL_shutdown(pointer)
        if code == 0 and self.waits:
            code = lib.SSL_shutdown(pointer)
        if code < 0:
            error = lib.SSL_get_error(pointer, code)
            if error == libssl.ERROR_WANT_READ and self.waits:
                return AGAIN
            if error == libssl.ERROR_WANT_WRITE and self.waits:
                self.loop.poller.want_write(self.fd)
                return AGAIN
            if self.complain is not None and lib.ERR_peek_error():
                self.complain(f"SSL_shutdown() failed{lib.reasons()}")
            lib.ERR_clear_error()
            lib.take_recorded(pointer)
        return OK

    def _linger(self) -> None:
        loop = self.loop
        # the connection is over for everybody else, yet it needs its slot and its worker
        loop.free_connections -= 1
        loop.live += 1
        self.deadline = loop.now_ms + LINGER_MS
        loop.timers.add(self)
        try:
            loop.register(self.fd, self.on_event)
        except FileExistsError:
            # forget() leaves it to the close of a descriptor to take it out of the kernel's set
            loop.handlers[self.fd] = self.on_event

    def on_event(self, mask: int) -> None:
        """Look whether the peer has ended too."""
        if self.connection is not None and self._say_end() == OK:
            self._end_linger()

    def on_timeout(self) -> None:
        """Wait no longer."""
        self._end_linger()

    def on_fault(self) -> None:
        """End after an exception nobody expected."""
        if self.connection is not None:
            self._end_linger()

    def _end_linger(self) -> None:
        loop = self.loop
        loop.timers.remove(self)
        loop.free_connections += 1
        loop.live -= 1
        loop.poller.forget(self.fd)
        loop.closing.append(self.sock)
        self._release()

    def _remember(self) -> None:
        """Keep the session of a peer for the next connection to it."""
        key = self.session_key
        if key is not None:
            session = self.connection.session
            if session is not None and (session.has_ticket or session.id):
                sessions = self.context.sessions
                if len(sessions) >= MAX_SESSIONS and key not in sessions:
                    del sessions[next(iter(sessions))]
                sessions[key] = session

    def _release(self) -> None:
        self.connection = None
        self.complain = None
        self.pointer = 0
        self.read = released


def released(_: object) -> int:
    """Stand for read() once a connection is closed."""
    raise BlockingIOError
