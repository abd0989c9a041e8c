"""What connections do, told at debug level in nginx's words: sockets and TLS that log their calls.

Answers for the ngx_log_debug lines of src/os/unix/ngx_recv.c and its neighbours, and of
ngx_event_openssl.c. A session at debug level gets these in the place of its own; no other one
pays for them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.event import libssl_facts

if TYPE_CHECKING:
    from ngxstream.core.log import Log
    from ngxstream.event.libssl import Library
    from ngxstream.event.tls import Transport

DEBUG: Final = 8


class Trace:
    """Where the lines of a connection go; its sockets may outlive its session."""

    __slots__ = ("log", "number")

    def __init__(self, log: Log, number: int) -> None:
        """Args: log: of the session, replaced with it; number: $connection"""
        self.log = log
        self.number = number

    def say(self, text: str) -> None:
        """Write a line, if the log wants it still."""
        if self.log.level >= DEBUG:
            self.log.write(DEBUG, f"*{self.number} {text}")


def _size(data: int | memoryview | Sequence[memoryview]) -> int:
    if isinstance(data, int):
        return data
    return len(data) if isinstance(data, bytes | bytearray | memoryview) else sum(map(len, data))


def _told(name: str, call: Callable[..., Any]) -> Any:
    """Return a method that does what one of a bare socket does, and says so."""

    def method(self: TracingSocket, data: Any, *args: Any) -> Any:
        say, of = self.trace.say, f"of {_size(data)}"
        try:
            done = call(self, data, *args)
        except OSError as error:
            say(f"{name}: fd:{self.fileno()} -1 {of}")
            if error.errno == errno.EAGAIN:
                say(f"{name}() not ready ({errno.EAGAIN}: {os.strerror(errno.EAGAIN)})")
            raise
        n = done[0] if isinstance(done, tuple) else done
        say(f"{name}: fd:{self.fileno()} {n if isinstance(n, int) else len(n)} {of}")
        return done

    return method


class TracingSocket(socket.SocketType):
    """A bare socket that says what it receives and sends."""

    __slots__ = ("trace",)

    trace: Trace

    @classmethod
    def take(cls, sock: socket.SocketType, trace: Trace) -> TracingSocket:
        """Make one of a non-blocking socket, which loses its descriptor unless it is one."""
        if not isinstance(sock, cls):
            kind = sock.type | socket.SOCK_NONBLOCK
            sock = cls(sock.family, kind, sock.proto, fileno=sock.detach())
        sock.trace = trace
        return sock

    recv = _told("recv", socket.SocketType.recv)
    recv_into = _told("recv", socket.SocketType.recv_into)
    recvmsg_into = _told("recvmsg", socket.SocketType.recvmsg_into)
    send = _told("send", socket.SocketType.send)
    sendmsg = _told("sendmsg", socket.SocketType.sendmsg)


class _Wrapped:
    """Stands for an object whose calls are told."""

    __slots__ = ("inner", "say")

    def __init__(self, inner: Any, say: Callable[[str], None]) -> None:
        self.inner = inner
        self.say = say

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Library(_Wrapped):
    """The TLS library, as one connection calls it."""

    __slots__ = ()

    inner: Library

    def SSL_accept(self, pointer: int) -> int:  # noqa: N802 - the library's name
        return self._shaken(pointer, self.inner.SSL_accept(pointer))

    def SSL_connect(self, pointer: int) -> int:  # noqa: N802
        return self._shaken(pointer, self.inner.SSL_connect(pointer))

    def _shaken(self, pointer: int, code: int) -> int:
        self.say(f"SSL_do_handshake: {code}")
        if code == 1:
            protocol = libssl_facts.protocol(self.inner, pointer) or b""
            cipher = libssl_facts.cipher(self.inner, pointer) or b""
            self.say(f'SSL: {protocol.decode()}, cipher: "{cipher.decode()}"')
            if self.inner.SSL_session_reused(pointer):
                self.say("SSL reused session")
        return code

    def SSL_read(self, pointer: int, address: int, size: int) -> int:  # noqa: N802
        code: int = self.inner.SSL_read(pointer, address, size)
        self.say(f"SSL_read: {code}")
        return code

    def SSL_write(self, pointer: int, data: bytes | int, size: int) -> int:  # noqa: N802
        self.say(f"SSL to write: {size}")
        code: int = self.inner.SSL_write(pointer, data, size)
        self.say(f"SSL_write: {code}")
        return code

    def SSL_get_error(self, pointer: int, code: int) -> int:  # noqa: N802
        error: int = self.inner.SSL_get_error(pointer, code)
        self.say(f"SSL_get_error: {error}")
        return error

    def SSL_shutdown(self, pointer: int) -> int:  # noqa: N802
        code: int = self.inner.SSL_shutdown(pointer)
        self.say(f"SSL_shutdown: {code}")
        return code


def trace_tls(transport: Transport, trace: Trace) -> None:
    """Have a connection under TLS tell what it does from now on."""
    lib: Any = _Library(transport.lib, trace.say)
    transport.lib = lib
