"""Store: a worker's connection to a Redis or Valkey server, which is made again when it is lost.

1. Nothing waits for the server: send() keeps a command until the turn of the loop ends, when all
   that came together goes out in one piece, and done(reply) is called in a later turn.
2. done(LOST) says that no reply came, and so whether the command was executed is not known. Each
   done is called once. The server is away then for everybody: it closed the connection, said
   something that is no reply, or did not answer within `timeout_ms`.
3. No more than MOST_WAITING commands and MOST_BYTES of them wait. send() returns False for one
   more, and while the server is away; nothing is kept for the time when it is back.
4. A lost connection is made again at once, then after pauses of up to LONGEST_MS. Of several
   addresses the next one is tried; where there is a Sentinel, it is asked who the master is.
5. What a listener raises ends neither the others nor the connection.
"""

from __future__ import annotations

import enum
import errno
import functools
import os
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ngxstream.core import errors, inet, log
from ngxstream.event import connect, names, opening, tasks
from ngxstream.event.probing import Target
from ngxstream.wire.resp import ErrorReply, Parser, Push, Reply, RespError, command

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.event.opening import Opened
    from ngxstream.event.probing import Security

MOST_WAITING: Final = 20_000  # commands that wait for a reply
MOST_BYTES: Final = 8 << 20  # of commands that the kernel has not taken
PIECE: Final = 65_536
FIRST_MS: Final = 100  # pauses between two attempts to connect, which double
LONGEST_MS: Final = 5000
IDLE_MS: Final = 2000  # without a command; then a PING tells whether the server is there
SAID_MS: Final = 1000  # between two lines in the log

Done = Callable[[Reply], None]


class Lost(enum.Enum):
    """The type of LOST: what stands for a reply that did not come."""

    LOST = "lost"


LOST: Final = Lost.LOST


class StoreError(errors.NgxError):
    """the store cannot be used"""


class StoreOptions(NamedTuple):
    """Where a store is, and how it is spoken to.

    Args: text: its name for logs, without a password; addresses: of the server, or of Sentinels;
    service: the name that Sentinels know the master by, "" where there are none; password: None
    for none; secure: the TLS to the server and to Sentinels, None for none; cells: indices of the
    counters (core/facts.py) of commands, of those refused, of those without a reply, and of lost
    connections
    """

    text: str
    addresses: tuple[inet.Addr, ...]
    service: str
    user: bytes
    password: bytes | None
    sentinel_password: bytes | None
    db: int
    secure: Security | None
    timeout_ms: int
    cells: tuple[int, int, int, int]


class Listener(Protocol):
    """Who wants to know how the connection fares."""

    def on_up(self) -> None:
        """Begin: the server takes commands."""

    def on_down(self) -> None:
        """Know that the server is away."""

    def on_push(self, push: Push) -> None:
        """Take what the server sends unasked."""


class Store:
    """One connection, for as long as the worker lives."""

    __slots__ = (
        "is_up",  # bool: commands are taken
        "listeners",  # list[Listener]
        "loop",
        "options",
        "_broken",  # Exception | None: by which the connection ends when its task goes on
        "_next",  # int: which of the addresses is tried
        "_opened",  # Opened | None
        "_out",  # list[bytes]: commands of this turn
        "_said_ms",  # int: when the log had a line last
        "_sent_ms",  # int: when a command went out last
        "_since_ms",  # int: since when the server is away, 0 while it is not
        "_slots",
        "_task",
        "_timer",
        "_until_ms",  # int: when the attempt to connect is over
        "_waiting",  # deque[tuple[int, Done | None]]: deadline and who wants the reply
    )

    def __init__(self, loop: Loop, options: StoreOptions) -> None:
        self.loop = loop
        self.options = options
        self.is_up = False
        self.listeners: list[Listener] = []
        self._broken: Exception | None = None
        self._next = 0
        self._opened: Opened | None = None
        self._out: list[bytes] = []
        self._said_ms = -SAID_MS
        self._sent_ms = 0
        self._since_ms = 0
        self._slots = opening.Slots(loop, None)
        self._until_ms = 0
        self._waiting: deque[tuple[int, Done | None]] = deque()
        self._task = tasks.Task(loop, self._run(), self._ended)
        loop.post(self._task.start)
        self._tick()

    def close(self) -> None:
        """End the connection, when what was said before went out; nobody is told. Idempotent."""
        self.is_up = False
        self.listeners.clear()
        self._timer.cancel()
        self._waiting.clear()
        if self._out:  # a reply to a closed socket would have the kernel drop what was not sent
            self._out.insert(0, command((b"CLIENT", b"REPLY", b"OFF")))
            self._flush()
        self._task.cancel()

    # -- commands ------------------------------------------------------------------------------

    def send(self, words: tuple[bytes, ...], done: Done | None = None) -> bool:
        """Send a command. Args: words: its name first; done: is given the reply, or LOST

        Returns: False where it is not sent, and done is not called
        """
        if not self.is_up or len(self._waiting) >= MOST_WAITING:
            return False
        if not self._out:
            self.loop.post(self._flush)
        self._out.append(command(words))
        now_ms = self.loop.now_ms
        self._sent_ms = now_ms
        self._waiting.append((now_ms + self.options.timeout_ms, done))
        self.loop.cells[self.options.cells[0]] += 1
        return True

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._opened is None or not out:
            return
        try:
            self._opened.write(b"".join(out))
        except (BufferError, OSError) as error:
            self._break(StoreError("it does not read what it is sent")
                        if isinstance(error, BufferError) else error.with_traceback(None))

    def _take(self, reply: Reply) -> None:
        """Hand a reply to who asked for it."""
        if isinstance(reply, Push):
            for one in self.listeners:
                self.loop.call_all((functools.partial(one.on_push, reply),))
            return
        if not self._waiting:
            raise RespError("a reply that nobody asked for")
        _, done = self._waiting.popleft()
        if isinstance(reply, ErrorReply):
            self.loop.cells[self.options.cells[1]] += 1
            if reply.code == "READONLY" and self.options.service:
                self._break(StoreError("it is no master any more"))
        if done is not None:
            self.loop.call_all((functools.partial(done, reply),))

    # -- the connection ------------------------------------------------------------------------

    def _tick(self) -> None:
        """See whether a time is over."""
        now_ms = self.loop.now_ms
        timeout_ms = self.options.timeout_ms
        if self._until_ms and now_ms >= self._until_ms:
            self._until_ms = 0
            self._break(OSError(errno.ETIMEDOUT, "no connection in time"))
        elif self._waiting and now_ms >= self._waiting[0][0]:
            self._break(OSError(errno.ETIMEDOUT, "no reply in time"))
        elif self.is_up and not self._waiting and now_ms - self._sent_ms >= IDLE_MS:
            self.send((b"PING",))
        self._timer = self.loop.call_later(
            min(max(timeout_ms // 4, 20), 500), self._tick, cancelable=True
        )

    def _break(self, error: Exception) -> None:
        """Have the connection end where its task waits, or goes on next."""
        self._broken = error
        self._task.interrupt(error)

    async def _run(self) -> None:
        pause_ms = FIRST_MS
        while True:
            self._broken = None
            try:
                await self._serve()
            except (OSError, RespError, StoreError) as error:
                if self.is_up:
                    pause_ms = FIRST_MS
                self._lost(error)
            self._next += 1
            await tasks.Sleep(random.randint(pause_ms // 2, pause_ms))
            pause_ms = min(pause_ms * 2, LONGEST_MS)

    async def _serve(self) -> None:
        """Connect, and hand out replies until that ends. Raises: OSError, RespError, StoreError"""
        options = self.options
        self._until_ms = self.loop.now_ms + options.timeout_ms
        address = options.addresses[self._next % len(options.addresses)]
        if options.service:
            address = await self._master(address)
        opened = await self._open(address)
        self._opened = opened
        try:
            parser = Parser()
            await self._login(opened, parser)
            self._until_ms = 0
            self._up()
            while True:
                for reply in parser.feed(await self._read(opened)):
                    self._take(reply)
        finally:
            self._opened = None
            opened.close()

    async def _open(self, address: inet.Addr) -> Opened:
        target = Target(
            address.family, address.sockaddr, address.name, connect.STREAM,
            secure=self.options.secure if address.family != inet.AF_UNIX else None,
        )
        return await opening.connection(self._task, target, MOST_BYTES, self._slots)

    async def _read(self, opened: Opened) -> bytes:
        """Wait for bytes. Raises: OSError, StoreError, and what _break() was given"""
        if self._broken is not None:
            raise self._broken
        data = await opened.read(PIECE)
        if not data:
            raise StoreError("it closed the connection")
        return data

    async def _asked(self, opened: Opened, parser: Parser, *commands: tuple[bytes, ...]
                     ) -> list[Reply]:
        """Send commands before anybody else does. Returns: their replies. Raises: StoreError"""
        opened.write(b"".join(command(words) for words in commands))
        replies: list[Reply] = []
        while len(replies) < len(commands):
            replies += [one for one in parser.feed(await self._read(opened))
                        if not isinstance(one, Push)]
        if len(replies) > len(commands):
            raise RespError("a reply that nobody asked for")
        for words, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ErrorReply):
                name = words[0].decode("ascii", "replace")
                raise StoreError(f'{name} failed: "{reply.text}"')
        return replies

    async def _login(self, opened: Opened, parser: Parser) -> None:
        """Say who asks, and see that the server can do what is needed. Raises: StoreError"""
        options = self.options
        hello: tuple[bytes, ...] = (b"HELLO", b"3")
        if options.password is not None:
            hello = (*hello, b"AUTH", options.user or b"default", options.password)
        commands = [hello, (b"CLIENT", b"SETNAME", b"ngxstream")]
        if options.db:
            commands.append((b"SELECT", b"%d" % options.db))
        if options.service:
            commands.append((b"ROLE",))
        replies = await self._asked(opened, parser, *commands)
        if options.service and not (
            isinstance(replies[-1], list) and replies[-1][:1] == [b"master"]
        ):
            raise StoreError("it is no master")

    async def _master(self, sentinel: inet.Addr) -> inet.Addr:
        """Ask a Sentinel for the address of the master. Raises: OSError, RespError, StoreError"""
        options = self.options
        opened = await self._open(sentinel)
        try:
            commands: list[tuple[bytes, ...]] = []
            if options.sentinel_password is not None:
                commands.append((b"AUTH", options.sentinel_password))
            commands.append(
                (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", options.service.encode())
            )
            *_, reply = await self._asked(opened, Parser(), *commands)
        finally:
            opened.close()
        match reply:
            case [bytes(host), bytes(port)] if (
                len(port) <= 5 and port.isdigit() and 0 < int(port) < 65_536
            ):
                return await _address(host, int(port))
            case None:
                raise StoreError(f'Sentinel knows no master "{options.service}"')
        raise StoreError("Sentinel names no address")

    def _up(self) -> None:
        options, now_ms = self.options, self.loop.now_ms
        self.is_up = True
        self._sent_ms = now_ms
        if self._since_ms:
            away_s = (now_ms - self._since_ms) / 1000
            self._since_ms = 0
            self.loop.log.error(log.NOTICE, f'store "{options.text}" is back after {away_s:.1f} s')
        for one in self.listeners:
            self.loop.call_all((one.on_up,))

    def _lost(self, error: Exception) -> None:
        """Tell everybody that the server is away."""
        was_up, self.is_up = self.is_up, False
        now_ms = self.loop.now_ms
        self._until_ms = 0
        self._out.clear()
        waiting, self._waiting = self._waiting, deque()
        self.loop.cells[self.options.cells[2]] += len(waiting)
        if was_up:
            self.loop.cells[self.options.cells[3]] += 1
        self._since_ms = self._since_ms or max(now_ms, 1)
        if now_ms - self._said_ms >= SAID_MS:
            self._said_ms = now_ms
            code, text = None, str(error)
            if isinstance(error, OSError) and error.errno:  # a text may end with what errno says
                code = error.errno
                text = str(error.strerror).removesuffix(f": {os.strerror(code)}")
            self.loop.log.error(log.ERR, f'store "{self.options.text}" is away: {text}', code)
        for _, done in waiting:
            if done is not None:
                self.loop.call_all((functools.partial(done, LOST),))
        if was_up:
            for one in self.listeners:
                self.loop.call_all((one.on_down,))

    def _ended(self, task: tasks.Task) -> None:
        """Say so where the task ends but for close(): a fault of ours."""
        if not isinstance(task.error, tasks.CancelledError):
            self._lost(StoreError(f"unexpected end: {task.error!r}"))


async def _address(host: bytes, port: int) -> inet.Addr:
    """Return the address that a Sentinel says. Raises: OSError"""
    text = host.decode("ascii", "replace")
    literal = inet.parse_addr_port(f"[{text}]:{port}" if ":" in text else f"{text}:{port}")
    if literal is not None:
        return literal
    try:
        found: Any = await names.Lookup(host)
    except OSError as error:  # of gaierror, too
        raise StoreError(f'host "{text}" not found: {error.strerror}') from None
    for family, address in found:
        if family == inet.AF_INET:
            return inet.Addr(family, (address, port), f"{address}:{port}")
        if family == inet.AF_INET6:
            return inet.Addr(family, (address, port, 0, 0), f"[{address}]:{port}")
    raise StoreError(f'host "{text}" has no address')
