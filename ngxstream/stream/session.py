"""Session: one client's connection or UDP session, and finalize(), which ends it.

Answers for ngx_stream_session_t, ngx_stream_init_connection and ngx_stream_finalize_session
(ngx_stream_handler.c).

1. A session ends in finalize() and nowhere else; calling it again does nothing.
2. Whatever a module takes on behalf of a session (a count in a zone, a peer) it gives back in a
   cleanup or in its content's close().
3. No object of a session is part of a reference cycle once finalize() is through: the cyclic
   collector does not run in a worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import errors, inet, log
from ngxstream.core.codes import STREAM_OK
from ngxstream.core.log import ALERT, INFO
from ngxstream.event import connect, tracing
from ngxstream.stream import phases
from ngxstream.stream.content import Kept

if TYPE_CHECKING:
    from ngxstream.core.log import Log
    from ngxstream.event.connection import Connection
    from ngxstream.event.loop import Loop
    from ngxstream.stream.addresses import AddressConf
    from ngxstream.stream.content import Content
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.core_facts import Counted
    from ngxstream.stream.endings import Ending
    from ngxstream.stream.upstream import UpstreamState
    from ngxstream.wire.proxy_protocol import ProxyHeader

DEBUG_CONNECTION: Final = "debug_connection"  # set in ctx: log everything
TRACE: Final = "trace"  # in ctx: Trace, at debug level
UNTIL: Final = "until"  # in ctx: loop ms when the worker_shutdown_timeout it began under ends it


class Session:
    """The session of one client, TCP or UDP.

    What all features share are slots (stream/travel.py says how each moves to another process); a
    module keeps its scratch in `ctx` under a key that it declares (StreamModule.keeps).
    """

    counted: Counted | None
    ending: Ending | None

    __slots__ = (
        "c",  # Connection: the client's
        "loop",  # Loop of this worker
        "address",  # AddressConf: where it came in
        "server",  # ServerConf: the selected (virtual) server
        "phase",  # int: index into the engine of the address
        "status",  # int: 0 until finalize
        "ending",  # Ending: as end() was told; missing or None where its status and content tell
        "log",  # Log of the server (its level is the threshold)
        "action",  # str | None: what it is doing, for error_log
        "start_ms",  # int: loop.now_ms at accept
        "content",  # Content | None
        "counted",  # Counted | None (stream/core_facts.py); missing where no server is watched
        "states",  # list[UpstreamState] | None: one for each attempt
        "values",  # list | None: cached variables by index
        "captures",  # tuple[bytes | None, ...] | None: of the latest regex, whole match first
        "ctx",  # dict[str, Any] | None: the modules' scratch, by the keys they declare
        "cleanups",  # list[callable] | None: run at the end, last first
        "preread",  # bytes: what was read (UDP: the first datagram) and not passed on yet
        "proxy_protocol",  # ProxyHeader | None: as received
        "__weakref__",
    )

    def __init__(
        self, c: Connection, loop: Loop, address: AddressConf, preread: bytes = b"",
        proxy_protocol: ProxyHeader | None = None,
    ) -> None:
        """Args: preread: a UDP client's first datagram; proxy_protocol: what stood before it"""
        self.c = c
        self.loop = loop
        self.address = address
        server = self.server = address.default_server
        self.phase = 0
        self.status = 0
        self.log: Log = server.log
        self.action: str | None = "initializing session"
        self.start_ms: int = loop.now_ms
        self.content: Content | None = None
        self.states: list[UpstreamState] | None = None
        self.values: list[Any] | None = None
        self.captures: tuple[bytes | None, ...] | None = None
        self.ctx: dict[str, Any] | None = None
        self.cleanups: list[Callable[[], None]] | None = None
        self.preread = preread
        self.proxy_protocol = proxy_protocol
        loop.sessions.add(self)

    def select_server(self, server: ServerConf) -> None:
        """Go on under another virtual server of the same address."""
        self.server = server
        self.log = server.log
        if self.module_ctx(DEBUG_CONNECTION):
            self.debug()
        if self.module_ctx(TRACE) is not None:
            self.trace().log = self.log

    def debug(self) -> None:
        """Log everything from now on, whatever the server's level (debug_connection)."""
        self.set_module_ctx(DEBUG_CONNECTION, True)
        self.log = self.log.with_level(log.DEBUG)

    def trace(self) -> tracing.Trace:
        """Return where what its connections do is told, at debug level."""
        trace: tracing.Trace | None = self.module_ctx(TRACE)
        if trace is None:
            trace = tracing.Trace(self.log, self.c.number)
            self.set_module_ctx(TRACE, trace)
        return trace

    def add_cleanup(self, cleanup: Callable[[], None]) -> None:
        """Have something done when the session ends."""
        if self.cleanups is None:
            self.cleanups = []
        self.cleanups.append(cleanup)

    def end_with(self, last: Callable[[], None]) -> None:
        """Have something done when all that was taken for the session is given back."""
        cleanups = self.cleanups
        self.cleanups = [last] if cleanups is None else [last, *cleanups]

    def module_ctx(self, name: str) -> Any:
        """Return a module's scratch, or None."""
        return None if self.ctx is None else self.ctx.get(name)

    def set_module_ctx(self, name: str, value: Any) -> None:
        """Keep a module's scratch for the rest of the session."""
        if self.ctx is None:
            self.ctx = {}
        self.ctx[name] = value

    def end(self, status: int, ending: Ending) -> None:
        """End the session, and say why. Args: as of finalize; ending: a record of endings.py"""
        if not self.status:
            self.ending = ending
            self.finalize(status)

    def finalize(self, status: int) -> None:
        """End the session: let go of the content, log, clean up, close. Idempotent.

        For whom status and content tell why; others call end().

        Args: status: what $status says, 200 <= status < 600. Source: ngx_stream_finalize_session
        """
        if self.status:
            return
        self.status = status
        content = self.content
        loop = self.loop
        if content is not None:
            try:
                content.close()
            except Exception:  # what was taken on behalf of the session is given back all the same
                loop.fault(None)
        for handler in self.address.log_handlers:
            try:
                handler(self)
            except Exception:
                loop.fault(None)
        cleanups = self.cleanups
        while cleanups:
            try:
                cleanups.pop()()
            except Exception:
                loop.fault(None)
        loop.sessions.discard(self)
        try:
            loop.close_connection(self.c)  # TLS may send its close_notify
        finally:
            self.content = None
            self.ctx = None
            self.values = None

    def abandon(self) -> list[Callable[[], None]]:
        """Forget the session; its connection goes on as another one's. No access log line.

        Returns: the cleanups, to be done when the connection ends
        """
        self.status = STREAM_OK
        self.loop.sessions.discard(self)
        cleanups, self.cleanups = self.cleanups or [], None
        self.content = None
        self.ctx = None
        self.values = None
        return cleanups

    # -- error_log -----------------------------------------------------------------------------

    def set_nodelay(self) -> None:
        """Have what is sent to the client wait for no more, if tcp_nodelay says so."""
        c = self.c
        if self.server.core.tcp_nodelay:
            connect.set_nodelay(c.sock, c.family)

    def log_error(self, level: int, message: str, err: int | None = None) -> None:
        """Write an error_log line with the session's number and context, if the level is on.

        Args: level: one of core/log's ints; err: an errno whose text follows the message
        Source: ngx_stream_log_error
        """
        log = self.log
        if level <= log.level:
            if err:
                message = f"{message} ({err}: {os.strerror(err)})"
            log.write(level, f"*{self.c.number} {message}{self.log_context()}")

    def client_error(self, error: OSError, message: str) -> None:
        """Log a failed call on the client's socket: info for what a client may cause, else alert.

        Source: ngx_connection_error with NGX_ERROR_INFO
        """
        # a TLS transport has its own words, and no errno where the fault is TLS's
        code = getattr(error, "code", error.errno)
        message = getattr(error, "message", message)
        level = INFO if code is None or code in errors.REMOTE_FAULTS else ALERT
        self.log_error(level, message, code)

    def log_plain(self, level: int, message: str) -> None:
        """Write an error_log line with the session's number and no context (start and end)."""
        log = self.log
        if level <= log.level:
            log.write(level, f"*{self.c.number} {message}")

    def log_context(self) -> str:
        """Return ` while ACTION, client: …, server: …` and what the content adds."""
        c = self.c
        udp = "udp " if c.is_udp else ""
        action = f" while {self.action}" if self.action else ""
        content = self.content
        suffix = content.log_suffix() if content is not None else ""
        return (
            f"{action}, {udp}client: {inet.address_text(c.sockaddr)}, "
            f"server: {self.address.text}{suffix}"
        )

    def log_connected(self) -> None:
        """Say who is connected to which address. Source: ngx_stream_init_connection"""
        c = self.c
        at = c.sockaddr
        # hot: an IPv4 address is spelled here
        client = f"{at[0]}:{at[1]}" if c.family == inet.AF_INET else inet.sock_ntop(at) or "unix:"
        udp = "udp " if c.is_udp else ""
        self.log.write(INFO, f"*{c.number} {udp}client {client} connected to {self.address.text}")


def begin(s: Session) -> None:
    """Enter the engine."""
    phases.run(s)


def _unpack_debug(s: Session, packed: object) -> None:
    if packed is not True:
        raise ValueError("neither debugged nor not")
    s.debug()


def _unpack_until(s: Session, packed: object) -> None:
    if not isinstance(packed, int):
        raise TypeError("no time")
    s.set_module_ctx(UNTIL, packed)


KEEPS: Final = (
    Kept(DEBUG_CONNECTION, lambda s: s.module_ctx(DEBUG_CONNECTION), _unpack_debug),
    Kept(TRACE, stays="made anew where the session goes on"),
    Kept(UNTIL, lambda s: s.module_ctx(UNTIL), _unpack_until),
)
