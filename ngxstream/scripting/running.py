"""Running: what is kept of one session whose functions run. Not part of the public interface.

The public Session (scripting/session.py) is a view of it that functions may keep for as long as
they like: once the session has ended the view has nothing behind it any more.

1. A session has one Running, made when a function is called for it first, in its ctx under KEY.
2. Tasks belong to the session: they are cancelled when it ends, whatever they wait for. Their
   `finally` blocks still find the session, and may log; what they send goes nowhere.
3. `channel` is what send_to_client() and send_to_upstream() use now: a Greeting, unless the content
   has set another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

from ngxstream.core import codes, escape, log
from ngxstream.event import opening, tasks, time_limit, tls
from ngxstream.event.turn_budget import TurnBudget
from ngxstream.scripting import context, errors
from ngxstream.scripting.session import Session
from ngxstream.stream import content as contents
from ngxstream.stream import endings

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream import session as sessions
    from ngxstream.stream.variables import VariableTable

KEY: Final = contents.FUNCTIONS  # in ctx
MOST_TASKS: Final = 64  # of one session
CHEAP_NS: Final = 50_000  # calls that take less are not charged
MOST_REASON: Final = 1024  # characters of what close() is told


class Channel(Protocol):
    """Where what a function sends goes."""

    def to_client(self, data: bytes) -> None:
        """Send to the client. Raises: ScriptError, BufferError where too much waits already"""

    def to_upstream(self, data: bytes) -> None:
        """Send to the upstream. Raises: as to_client"""


class Prereading(Protocol):
    """Where a coroutine of the preread phase waits for its client."""

    def more(self) -> tasks.Suspension:
        """Return what waits until more has come than was seen."""


class Intake(Protocol):
    """Where what a function receives comes from: the content that it is."""

    async def receive(self) -> bytes:
        """Wait for bytes, or one datagram."""

    async def readexactly(self, size: int) -> bytes:
        """Wait for so many bytes."""

    async def readuntil(self, separator: bytes, limit: int) -> bytes:
        """Wait for a separator."""

    async def drain(self) -> None:
        """Wait until all was sent."""


class Settings(Protocol):
    """What a server's configuration says that all functions of its sessions have in common."""

    @property
    def time_limit(self) -> int:
        """What one call may take, ms."""

    @property
    def buffer_size(self) -> int:
        """How much may wait to be sent in each direction, bytes."""

    @property
    def variables(self) -> VariableTable:
        """All variables there are."""

    def begin(self, loop: Loop) -> None:
        """Begin what is done beside sessions, before a function is called; once in a process."""


class Greeting:
    """The usual channel: a proxied session's relay, once there is one.

    Before that what is sent to the client goes out at once, or not at all.
    """

    __slots__ = ("most", "s")

    def __init__(self, s: sessions.Session, most: int) -> None:
        """Args: most: how many bytes may wait to be sent"""
        self.s = s
        self.most = most

    def to_client(self, data: bytes) -> None:
        """Send to the client; a socket that has sent nothing yet has room."""
        s, c = self.s, self.s.c
        if s.status:  # a `finally` block sends behind the end
            return
        content = s.content
        shook = isinstance(c.sock, tls.Transport) and c.sock.is_done
        if s.address.ssl and not shook:
            raise errors.ScriptError("nothing can be sent to the client before its TLS handshake")
        try:
            if content is not None and content.send_to_client(data, self.most):
                return
            sent = c.send(data)
        except contents.UnsendableError as error:
            raise errors.ScriptError(str(error)) from None
        except OSError as error:
            raise errors.ScriptError(f"sending to the client failed: {error.strerror}") from error
        if sent != len(data):
            raise BufferError("the client's socket has no room")

    def to_upstream(self, data: bytes) -> None:
        """Send to the upstream, if there is one."""
        if self.s.status:
            return
        content = self.s.content
        try:
            if content is not None and content.send_to_upstream(data, self.most):
                return
        except contents.UnsendableError as error:
            raise errors.ScriptError(str(error)) from None
        raise errors.ScriptError("there is no upstream yet")


class Running:
    """The functions of one session, and what they have said."""

    __slots__ = (
        "_channel", "closing", "evaluating", "intake", "is_over", "limit", "prereading", "s",
        "session", "settings", "slots", "tasks", "verdict",
    )

    def __init__(self, s: sessions.Session, settings: Settings) -> None:
        self.s = s
        self.settings = settings
        self.is_over = False
        self.limit: time_limit.TimeLimit = s.loop.get(time_limit.TimeLimit)
        self.verdict: int | None = None  # code or status, as a handler of a phase returns it
        self.closing: str | None = None  # why the session is to end, once close() was called
        self.evaluating: set[str] | None = None  # variables whose functions are being called
        self.prereading: Prereading | None = None  # while a coroutine is in the preread phase
        self._channel: Channel | None = None  # until something is sent: a Greeting
        self.intake: Intake | None = None
        self.slots: opening.Slots | None = None
        self.tasks: set[tasks.Task] | None = None
        self.session = Session(self)
        s.add_cleanup(self.end)

    def use(self, settings: Settings) -> None:
        """Go on by what another server says, which was selected by name."""
        self.settings = settings
        if type(self._channel) is Greeting:
            self._channel = None

    @property
    def channel(self) -> Channel:
        """What is used to send now."""
        if self._channel is None:
            self._channel = Greeting(self.s, self.settings.buffer_size)
        return self._channel

    @channel.setter
    def channel(self, channel: Channel) -> None:
        self._channel = channel

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a plain function within the time limit. Raises: what it raises"""
        return self.limit.call(self.settings.time_limit, function, *args)

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function, or a step of a coroutine. Its time is charged to the turn, as all that
        beginning sessions cost; whoever begins behind it may have to wait for the next one.

        Raises: what it raises
        """
        limit = self.limit
        if limit.limit_ms:  # a call within a call is part of it
            return limit.call(limit.limit_ms, function, *args)
        begun_ns = time.monotonic_ns()
        try:
            return limit.call(self.settings.time_limit, function, *args)
        finally:
            spent_ns = time.monotonic_ns() - begun_ns
            if spent_ns > CHEAP_NS:
                budget = self.s.loop.get(TurnBudget)
                budget.has_share(self.s)
                budget.charge(spent_ns)

    def start(self, coroutine: Coroutine[Any, Any, Any],
              done: Callable[[tasks.Task], None]) -> tasks.Task:
        """Run a coroutine until it waits or ends. Args: done: called when it has ended

        Raises: ScriptError where the session has too many, SessionEndedError
        """
        if self.is_over:
            coroutine.close()
            raise errors.SessionEndedError
        running = self.tasks
        if running is None:
            running = self.tasks = set()
        if len(running) >= MOST_TASKS:
            coroutine.close()
            raise errors.ScriptError(f"a session has {MOST_TASKS} tasks at most")

        def ended(task: tasks.Task) -> None:
            running.discard(task)
            done(task)

        task = tasks.Task(self.s.loop, coroutine, ended, self.ask, self._context())
        running.add(task)
        task.start()
        return task

    def _context(self) -> context.Context:
        """Return what the tasks have around them."""
        s = self.s
        if self.slots is None:
            self.slots = opening.Slots(s.loop, s.c)
        core = s.server.core
        return context.Context(
            self.slots, core.resolver, core.resolver_timeout, self.settings.buffer_size
        )

    def take_verdict(self) -> int | None:
        """Return, and forget, what was said of the session; None for nothing.

        Of one that close() ends it is logged, too, and is the session's ending.
        """
        verdict, self.verdict = self.verdict, None
        reason, self.closing = self.closing, None
        if reason is not None:
            self.s.ending = endings.SCRIPT
            self.s.log_error(log.INFO, f"closed by a function: {escape.shown(reason)}" if reason
                             else "closed by a function")
        return verdict

    def close(self, reason: str) -> None:
        """Have the session end once the function has returned; whoever called it sees to that."""
        self.verdict = codes.STREAM_OK
        self.closing = reason[:MOST_REASON]

    def check(self) -> None:
        """See that the session is there. Raises: SessionEndedError"""
        if self.is_over:
            raise errors.SessionEndedError

    def cancel(self) -> None:
        """Cancel all tasks."""
        running, self.tasks = self.tasks, None
        for task in tuple(running or ()):
            self.s.loop.call_all((task.cancel,))

    def end(self) -> None:
        """Cancel what runs and let go of the session. The session's cleanup"""
        if self.tasks:
            self.cancel()
        self.is_over = True
        self.session.release()
        self._channel = CLOSED
        self.intake = None


class Closed:
    """The channel of a session that has ended."""

    __slots__ = ()

    def to_client(self, data: bytes) -> None:
        """Refuse."""
        raise errors.SessionEndedError

    to_upstream = to_client


CLOSED: Final = Closed()


def limit_of(loop: Loop) -> time_limit.TimeLimit:
    """Return the time limit of a process."""
    found: time_limit.TimeLimit = loop.get(time_limit.TimeLimit)
    return found


def of(s: sessions.Session, settings: Settings) -> Running:
    """Return the Running of a session, which is made if it has none.

    Args: settings: of its server, which may be another one than before: it is selected by name
    """
    found: Running | None = s.module_ctx(KEY)
    if found is None:
        settings.begin(s.loop)
        found = Running(s, settings)
        s.set_module_ctx(KEY, found)
    elif found.settings is not settings:
        found.use(settings)
    return found
