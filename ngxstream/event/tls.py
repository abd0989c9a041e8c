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
4. The SSL* is this object's: made here, freed when the connection is closed, after the turn and
   never within a callback of the library. Nothing is asked of it afterwards.
5. The library's queue of errors is empty between calls: one that was left there would be taken for
   the failure of whoever asks next.
6. Who closes first sends close_notify. A client has LINGER_MS to answer it; an upstream has not.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.codes import AGAIN, ERROR, OK
from ngxstream.event import libssl

if TYPE_CHECKING:
    import socket

    from ngxstream.event.connection import Stream
    from ngxstream.event.libssl_context import Context
    from ngxstream.event.loop import Loop

LINGER_MS: Final = 3000
_RECEIVED_SHUTDOWN: Final = 2
_BOTH_SHUTDOWN: Final = 3
MAX_SESSIONS: Final = 1024  # of peers a client side remembers
NOT_NOW: Final = -1  # of read_at()
_SMALL: Final = 1024  # bytes that are copied sooner than their address is found out


class Failure(OSError):
    """A failed read or write in nginx's words; `code` is the errno, None for a fault of TLS."""

    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(code or errno.EPROTO, message)
        self.message = message
        self.code = code


class PeerSession:
    """A session of a peer, to be resumed by later connections."""

    __slots__ = ("_lib", "pointer")

    def __init__(self, lib: libssl.Library, pointer: int) -> None:
        """Own a reference. Args: pointer: SSL_SESSION*"""
        self._lib = lib
        self.pointer = pointer

    def __del__(self) -> None:
        self._lib.SSL_SESSION_free(self.pointer)


class Transport:
    """A TCP connection under TLS."""

    __slots__ = (
        "loop",
        "lib",
        "context",  # Context it began with
        "sock",  # socket: owns the descriptor
        "pointer",  # int: SSL*, which it owns; 0 once closed
        "fd",
        "wants_write",  # bool: the handshake waits to write, not to read
        "is_done",  # bool: the handshake is over, and well
        "quiet",  # bool: no close_notify is sent
        "session_key",  # what a client side remembers the session by, None for not at all
        "asked_name",  # bytes | None: name in the ClientHello, where it was read
        "failure",  # (message, errno | None): there once a handshake has failed
        "complain",  # (message): called with what is wrong with the end, None where nobody does
        "deadline",  # ms, of the lingering; 0 before
        "tick",
    )

    failure: tuple[str, int | None]


    def __init__(self, loop: Loop, context: Context, sock: Stream) -> None:
        """Take over a socket for TLS. Raises: SslError. Source: ngx_ssl_create_connection"""
        lib = self.lib = context.lib
        self.loop = loop
        self.context = context
        self.sock: socket.SocketType = sock  # type: ignore[assignment]  # a plain one
        fd = self.fd = sock.fileno()
        self.wants_write = False
        self.is_done = False
        self.quiet = False
        self.session_key: Hashable = None
        self.asked_name: bytes | None = None
        self.complain: Callable[[str], None] | None = None
        self.deadline = 0
        self.tick = 0
        pointer = self.pointer = lib.SSL_new(context.pointer) or 0
        if not pointer:
            sock.close()
            raise lib.error("SSL_new() failed")
        if lib.SSL_set_fd(pointer, fd) != 1:
            said = lib.error("SSL_set_fd() failed")
            self.close()
            raise said

    def handshake(self) -> int:
        """Go on with the handshake. Returns: OK, AGAIN (after the next event), ERROR

        After ERROR `failure` says why. Source: ngx_ssl_handshake
        """
        lib, pointer = self.lib, self.pointer
        if not pointer:
            self.failure = ("the connection is closed", None)
            return ERROR
        # both are SSL_do_handshake(), having said at first which side is ours
        code = (lib.SSL_accept if self.context.server_side else lib.SSL_connect)(pointer)
        if code == 1:
            self.is_done = True
            lib.ERR_clear_error()  # what a handshake tolerated would be taken for a later failure
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

    def read_at(self, address: int, size: int) -> int:
        """Read into memory. Returns: bytes read; 0 at the end; NOT_NOW. Raises: Failure"""
        pointer = self.pointer
        if not pointer:
            return NOT_NOW
        lib = self.lib
        code: int = lib.SSL_read(pointer, address, size)
        if code > 0:
            return code
        error = lib.SSL_get_error(pointer, code)
        if error in libssl.WANTS:
            return NOT_NOW
        if error == libssl.ERROR_ZERO_RETURN:
            return 0
        if error == libssl.ERROR_SYSCALL and not ctypes.get_errno():
            return 0  # libraries before 3.0: an end without close_notify
        raise self.failed("SSL_read() failed", error)

    def recv_into(self, buffer: memoryview | bytearray) -> int:
        """Read into a buffer; 0 at the end. Raises: BlockingIOError, Failure"""
        count = self.read_at(address_of(buffer), len(buffer))
        if count < 0:
            raise BlockingIOError
        return count

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
        size, pointer = len(data), self.pointer
        if not size:
            return 0
        if not pointer:
            raise BlockingIOError
        lib = self.lib
        code: int = lib.SSL_write(pointer, data if type(data) is bytes else _readable(data), size)
        if code > 0:
            return code
        error = lib.SSL_get_error(pointer, code)
        if error in libssl.WANTS:
            raise BlockingIOError
        raise self.failed("SSL_write() failed", error)

    def failed(self, message: str, error: int) -> Failure:
        """Make a Failure of a call that failed; no close_notify is sent.

        Args: error: of SSL_get_error, nothing else of the library was called since
        """
        self.quiet = True
        number = ctypes.get_errno() or None if error == libssl.ERROR_SYSCALL else None
        return Failure(message + self.lib.reasons(), number)

    def has_pending(self) -> bool:
        """Tell whether the library holds bytes no event will tell of."""
        return bool(self.pointer and self.lib.SSL_has_pending(self.pointer))

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
        if not self.pointer or self.deadline:
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
        waits = self.context.server_side  # the peer is given time to end too
        code = lib.SSL_shutdown(pointer)
        if code == 0 and waits:
            code = lib.SSL_shutdown(pointer)
        if code < 0:
            error = lib.SSL_get_error(pointer, code)
            if error == libssl.ERROR_WANT_READ and waits:
                return AGAIN
            if error == libssl.ERROR_WANT_WRITE and waits:
                self.loop.poller.want_write(self.fd)
                return AGAIN
            if self.complain is not None and lib.ERR_peek_error():
                self.complain(f"SSL_shutdown() failed{lib.reasons()}")
            lib.ERR_clear_error()
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
        if self.pointer and self._say_end() == OK:
            self._end_linger()

    def on_timeout(self) -> None:
        """Wait no longer."""
        self._end_linger()

    def on_fault(self) -> None:
        """End after an exception nobody expected."""
        if self.pointer:
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
        key, lib = self.session_key, self.lib
        if key is None:
            return
        pointer = lib.SSL_get1_session(self.pointer)
        if not pointer:
            return
        session = PeerSession(lib, pointer)
        if lib.SSL_SESSION_is_resumable(pointer):
            sessions = self.context.sessions
            if len(sessions) >= MAX_SESSIONS and key not in sessions:
                del sessions[next(iter(sessions))]
            sessions[key] = session

    def _release(self) -> None:
        """Free what the library has of the connection. Idempotent."""
        lib = self.lib
        pointer, self.pointer = self.pointer, 0
        self.complain = None
        if not pointer:
            return
        if self.is_done:
            # or the library holds the session for broken, where no close_notify was sent
            lib.SSL_set_shutdown(pointer, _BOTH_SHUTDOWN)
        lib.SSL_free(pointer)


def address_of(buffer: memoryview | bytearray) -> int:
    """Return where a writable buffer begins; valid while the buffer is kept and not resized."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _readable(data: bytes | memoryview) -> bytes | int:
    """Return what the library can be given in the place of a view: a copy of few bytes is cheaper.

    A view of what cannot be written to has no address to be had.
    """
    if len(data) <= _SMALL or type(data) is not memoryview or data.readonly:
        return bytes(data)
    return address_of(data)


def view_address(loop: Loop) -> int:
    """Return where the loop's copy buffer begins. For `loop.get()`"""
    return address_of(loop.view)
