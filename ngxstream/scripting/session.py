"""Session: one client's session as a user's function sees it.

A Session is a view of a Running (scripting/running.py), which the end of the session takes away.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Self

from ngxstream.core import codes, escape, log
from ngxstream.scripting import errors
from ngxstream.scripting.addresses import Address
from ngxstream.stream import endings, preread

if TYPE_CHECKING:
    from ngxstream.scripting.running import Intake, Running
    from ngxstream.stream import session as sessions

MOST_LOGGED: Final = 1024  # characters of one message


class Session:
    """One client's TCP connection or UDP session.

    A function may keep it: once the session has ended `is_ended` is true, and whatever else is
    asked of it raises SessionEndedError.
    """

    __slots__ = ("_running", "_state", "_variables", "__weakref__")

    def __init__(self, running: Running) -> None:
        """Made by ngxstream alone."""
        self._running: Running | None = running
        self._state: SimpleNamespace | None = None
        self._variables: Variables | None = None

    def _s(self) -> sessions.Session:
        if self._running is None:
            raise errors.SessionEndedError
        return self._running.s

    def release(self) -> None:
        """Let go of the session, which has ended. Called by ngxstream alone."""
        self._running = None
        self._variables = None

    # -- who and where -------------------------------------------------------------------------

    @property
    def is_ended(self) -> bool:
        """Whether the session has ended; true in `finally` blocks that run because it has ended."""
        return self._running is None or self._running.s.status != 0

    @property
    def number(self) -> int:
        """The number that error_log lines of the session begin with, `$connection`."""
        return self._s().c.number

    @property
    def protocol(self) -> str:
        """`TCP` or `UDP`."""
        return "UDP" if self._s().c.is_udp else "TCP"

    @property
    def client(self) -> Address:
        """The client's Address; behind a trusted proxy, the one that it names (realip)."""
        return Address(self._s().c.sockaddr)

    @property
    def local(self) -> Address:
        """The Address that the client has sent to."""
        return Address(self._s().c.local_sockaddr())

    @property
    def upstream(self) -> Address | None:
        """The Address of the server that was tried last, or is proxied to; None before."""
        states = self._s().states
        return Address.named(states[-1].peer_name) if states else None

    # -- how it fares --------------------------------------------------------------------------

    @property
    def status(self) -> int:
        """How the session has ended, `$status`; 0 while it goes on. For py_log"""
        return self._s().status

    @property
    def end_reason(self) -> str:
        """Why it has ended, `$session_end_reason`; empty while it goes on. For py_log"""
        s = self._s()
        return endings.of(s).reason.word if s.status else ""

    @property
    def ended_by(self) -> str:
        """Who has ended it: `client`, `upstream`, `proxy` or `operator`; empty while it goes on."""
        s = self._s()
        return endings.of(s).who if s.status else ""

    @property
    def bytes_received(self) -> int:
        """Bytes that were read from the client."""
        return self._s().c.received

    @property
    def bytes_sent(self) -> int:
        """Bytes sent to the client."""
        return self._s().c.sent

    @property
    def duration(self) -> float:
        """Seconds since the session began."""
        s = self._s()
        return max(0, s.loop.now_ms - s.start_ms) / 1000

    # -- what it carries -----------------------------------------------------------------------

    @property
    def variables(self) -> Variables:
        """The session's Variables, by name without `$`, as text: `s.variables["status"]`."""
        if self._variables is None:
            self._s()
            assert self._running is not None
            self._variables = Variables(self._running)
        return self._variables

    @property
    def state(self) -> SimpleNamespace:
        """An object for attributes of your own, kept for this session: `s.state.user = ...`."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    @property
    def preread(self) -> bytes:
        """What the client has sent and nobody has taken yet: the bytes of a TCP client that the
        preread phase looks at, the first datagram of a UDP client.
        """
        return self._s().preread

    @property
    def datagrams(self) -> list[bytes]:
        """All datagrams of a UDP client that the preread phase has looked at, in order; none of a
        TCP client.
        """
        s = self._s()
        return preread.datagrams(s) if s.c.is_udp else []

    async def more(self) -> None:
        """Wait until `preread` has more than when the function saw it last; over UDP, `datagrams`.

        For coroutines of py_preread. A client who ends, sends nothing within preread_timeout, or
        has filled preread_buffer_size, ends the session. Raises: ScriptError elsewhere
        """
        self._s()
        assert self._running is not None
        prereading = self._running.prereading
        if prereading is None:
            raise errors.ScriptError("more() is for coroutines of py_preread")
        await prereading.more()

    @property
    def log(self) -> SessionLog:
        """The error log of the session's server, a SessionLog: `s.log.notice("text")`."""
        return SessionLog(self._s())

    # -- what becomes of it --------------------------------------------------------------------

    def allow(self) -> None:
        """Let the session pass this phase; later handlers of the phase are skipped."""
        self._say(codes.OK)

    def decline(self) -> None:
        """Leave the decision to the next handler of the phase, as a function does that returns."""
        self._say(codes.DECLINED)

    def deny(self) -> None:
        """End the session with status 403 once the function returns."""
        self._say(codes.FORBIDDEN)

    def close(self, reason: str = "") -> None:
        """End the session with status 200 once the function returns; in a filter or content, once
        it returns or waits.

        Args: reason: for the error log, at level info
        Raises: ScriptError where it has ended
        """
        self._of_live().close(str(reason))

    def _say(self, verdict: int) -> None:
        running = self._of_live()
        running.verdict = verdict
        running.closing = None

    def _of_live(self) -> Running:
        if self._s().status:
            raise errors.SessionEndedError
        running = self._running
        assert running is not None
        if running.evaluating:
            raise errors.ScriptError("a variable does not decide what becomes of the session")
        return running

    def send_to_client(self, data: bytes) -> None:
        """Send bytes, or one datagram, to the client.

        Raises: BufferError where too much waits to be sent already; ScriptError where nothing can
        be sent now; SessionEndedError
        """
        self._s()
        assert self._running is not None
        self._running.channel.to_client(_checked(data))

    def send_to_upstream(self, data: bytes) -> None:
        """Send bytes, or one datagram, to the server that the session is proxied to.

        Raises: as send_to_client
        """
        self._s()
        assert self._running is not None
        self._running.channel.to_upstream(_checked(data))

    # -- the client, for py_content --------------------------------------------------------------

    def _intake(self) -> Intake:
        self._s()
        assert self._running is not None
        intake = self._running.intake
        if intake is None:
            raise errors.ScriptError("the client is read by the function of py_content alone")
        return intake

    async def receive(self) -> bytes:
        """Wait for what the client sends: bytes, or one datagram (which may be empty).

        What was preread comes first. Returns: b"" at the end of a TCP client's stream, for ever
        after; data can still be sent then.

        Raises: ScriptError outside of py_content; OSError; SessionEndedError
        """
        return await self._intake().receive()

    async def readexactly(self, size: int) -> bytes:
        """Wait for exactly so many bytes of a TCP client.

        Raises: IncompleteReadError where it ends before; as receive()
        """
        return await self._intake().readexactly(size)

    async def readuntil(self, separator: bytes = b"\n", limit: int = 65_536) -> bytes:
        """Wait for a separator in what a TCP client sends. Returns: all up to it, and itself

        Raises: LimitOverrunError where it does not end within so many bytes; IncompleteReadError
        where the client ends before; as receive()
        """
        return await self._intake().readuntil(separator, limit)

    async def drain(self) -> None:
        """Wait until the kernel has taken all that was sent to the client. Raises: as receive()"""
        await self._intake().drain()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return what receive() does, until a TCP client's stream ends."""
        intake = self._intake()
        data = await intake.receive()
        if not data and self.protocol == "TCP":
            raise StopAsyncIteration
        return data


def _checked(data: bytes) -> bytes:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"bytes are sent, not {type(data).__name__}")
    return bytes(data)


class Variables(MutableMapping[str, str]):
    """The variables of a session: a mapping of names to text.

    A variable that has no value is "" here, and None by get(). Only those of `py_var`, `set` and
    named groups can be set. Bytes that are not UTF-8 are surrogates (PEP 383); raw() gives bytes.
    """

    __slots__ = ("_running",)

    def __init__(self, running: Running) -> None:
        """Made by ngxstream alone."""
        self._running = running

    def raw(self, name: str) -> bytes | None:
        """Return a value as bytes, None for a variable that has none.

        Raises: KeyError where there is no such variable; SessionEndedError
        """
        running = self._running
        running.check()
        return running.settings.variables.value_of(running.s, name)

    def __getitem__(self, name: str) -> str:
        return (self.raw(name) or b"").decode("utf-8", "surrogateescape")

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value, or the default for a variable that has none or does not exist."""
        try:
            value = self.raw(name)
        except KeyError:
            return default
        return default if value is None else value.decode("utf-8", "surrogateescape")

    def __setitem__(self, name: str, value: str | bytes) -> None:
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogateescape")
        elif not isinstance(value, bytes):
            raise TypeError(f"a variable is text or bytes, not {type(value).__name__}")
        self._assign(name, value)

    def __delitem__(self, name: str) -> None:
        self._assign(name, None)

    def _assign(self, name: str, value: bytes | None) -> None:
        running = self._running
        running.check()
        running.settings.variables.assign(running.s, name, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._running.settings.variables.known)

    def __len__(self) -> int:
        return len(self._running.settings.variables.known)


class SessionLog:
    """Writes lines to the error log; each has the session's number, client and server."""

    __slots__ = ("_s",)

    def __init__(self, s: sessions.Session) -> None:
        """Made by ngxstream alone."""
        self._s = s

    def debug(self, message: object) -> None:
        """Write at level debug."""
        self._write(log.DEBUG, message)

    def info(self, message: object) -> None:
        """Write at level info."""
        self._write(log.INFO, message)

    def notice(self, message: object) -> None:
        """Write at level notice."""
        self._write(log.NOTICE, message)

    def warning(self, message: object) -> None:
        """Write at level warn."""
        self._write(log.WARN, message)

    def error(self, message: object) -> None:
        """Write at level error."""
        self._write(log.ERR, message)

    def _write(self, level: int, message: object) -> None:
        if level <= self._s.log.level:
            self._s.log_error(level, escape.shown(str(message)[:MOST_LOGGED]))
