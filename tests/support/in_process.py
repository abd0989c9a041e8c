"""A stream block built and served inside the test's own process: no program, no worker.

``build`` judges a configuration and gives what nginx would say; ``InProcess`` serves one on a Loop
that the test turns by hand.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from ngxstream import modules
from ngxstream.conf import reader
from ngxstream.conf.builder import Builder
from ngxstream.conf.files import Memory
from ngxstream.conf.module import Module
from ngxstream.core import errors
from ngxstream.core.files import OpenFiles
from ngxstream.core.log import DEBUG, INFO, Log
from ngxstream.core.log import NAMES as LEVELS
from ngxstream.core.shm_facts import Rows
from ngxstream.core.shm_zones import ZoneTable
from ngxstream.event import accept, listening
from ngxstream.event.loop import Loop, PoisoningLoop
from ngxstream.event.poller import Poller
from ngxstream.stream.core import StreamConf
from ngxstream.stream.session import Session
from tests.support import ports
from tests.support.proxies import PLACEHOLDER
from tests.support.waiting import PATIENCE, wait_until

CONF = "/p/conf/nginx.conf"


@dataclass
class Built:
    """What came of a configuration: a StreamConf or an error, and the warnings on the way."""

    conf: StreamConf | None
    error: str
    warnings: list[str]
    zones: ZoneTable = field(default_factory=ZoneTable)
    files: OpenFiles = field(default_factory=OpenFiles)


def build(
    text: str,
    *,
    prefix: str = "/p/",
    others: dict[str, bytes] | None = None,
    more: tuple[Module, ...] = (),
) -> Built:
    """Judge the text of a configuration (the events block may be missing).

    Args:
        text: with @names@ filled in
        prefix: where logs go
        others: files to include, by full path below /p/conf/
        more: modules besides those of the program
    """
    warnings: list[str] = []
    made = Built(None, "", warnings)
    builder = Builder(
        (*modules.ALL, *more),
        prefix=prefix,
        conf_prefix="/p/conf/",
        warn=lambda level, message: warnings.append(f"[{level}] {message}"),
    )
    builder.data["zones"] = made.zones
    builder.data["files"] = made.files
    raw = text.encode("utf-8", "surrogateescape")
    files = Memory({CONF: raw, **(others or {})})
    tree = reader.read(CONF, conf_prefix="/p/conf/", files=files)
    # the events block is judged by process/, which is not here
    statements = [st for st in tree.main.statements if st.directive != "events"]
    try:
        builder.build(statements)
    except errors.ConfError as error:
        made.error = str(error)
    else:
        made.conf = builder.data.get("stream_conf")
    return made


def settle(conf: StreamConf, loop: Loop) -> None:
    """Have what a loop has counted of servers added to the cells at once."""
    for server in getattr(conf, "servers", ()):
        if server.watched is not None:
            server.watched.flush(loop)


@dataclass
class LogTarget:
    """A log target that keeps its lines as (level, message)."""

    level: int = DEBUG
    on_stderr: bool = False
    lines: list[tuple[str, str]] = field(default_factory=list)

    def write(self, level: int, line: bytes) -> None:
        """Keep a line, without its time."""
        message = line.decode(errors="surrogateescape").split(": ", 1)[1].rstrip("\n")
        self.lines.append((LEVELS[level], message))

    def with_level(self, level: int) -> Self:
        """Return the same: every level is kept anyway."""
        return self


class InProcess:
    """A stream block served on a Loop in this process; TCP only."""

    def __init__(
        self, text: str, *, level: int = INFO, poller: Poller | None = None, slots: int = 1,
        **settings: Any,
    ) -> None:
        """Build and listen; log at a level. ``@name@`` stands for a free port, one per name.

        Args: slots: of worker_connections that a client takes when it is accepted
        """
        self.ports: dict[str, int] = {}
        built = build(PLACEHOLDER.sub(lambda match: str(self.port(match[1])), text), **settings)
        assert built.conf is not None, built.error
        built.zones.build()
        built.files.open_all()
        self.built = built
        self.conf = built.conf
        self.target = LogTarget(level)
        self.log = Log([self.target])
        self.loop = PoisoningLoop(self.log, poller)
        self.rows = Rows()
        self.conf.facts.attach(self.rows)
        self.loop.cells = self.rows.cells
        self.conf.use_main_log(self.log, lambda specs: self.log)
        self.sessions: list[Session] = []
        self.socks: list[socket.socket] = []
        self.clients: list[socket.socket] = []
        for conf in self.conf.listenings:
            options = conf.options
            sock = socket.socket(options.family, options.socktype)
            sock.bind(options.sockaddr)
            sock.listen()
            sock.setblocking(False)
            self.socks.append(sock)
            opened = listening.Listening(options)
            begin = self._beginner(conf.begin)
            accept.TcpListener(self.loop, opened, sock, begin, slots=slots)

    def _beginner(self, begin: Callable[..., Session]) -> Callable[..., Session]:
        def begin_and_note(c: Any, loop: Loop) -> Session:
            s = begin(c, loop)
            self.sessions.append(s)
            return s

        return begin_and_note

    def facts(self, label: str = "") -> dict[str, int]:
        """Return the facts that have this label and are not 0."""
        settle(self.conf, self.loop)
        return {
            cell.fact.name: n for cell, n in self.conf.facts.totals() if n and cell.label == label
        }

    def port(self, name: str) -> int:
        """Return the port that ``@name@`` stands for."""
        if name not in self.ports:
            self.ports[name] = ports.free_port()
        return self.ports[name]

    def address(self, number: int = 0) -> Any:
        """Return the address of the listening socket of that number."""
        return self.socks[number].getsockname()

    def turn_until(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """Turn the loop until the condition holds; return its value."""

        def turn() -> Any:
            self.loop.turn(wait_ms=5)
            return condition()

        return wait_until(turn, PATIENCE, what, every=0)  # a turn waits by itself

    def connect(self, number: int = 0) -> socket.socket:
        """Connect a client whose receives do not wait."""
        client = socket.socket(self.socks[number].family)
        client.connect(self.address(number))
        client.setblocking(False)
        self.clients.append(client)
        return client

    def read(self, client: socket.socket) -> bytes:
        """Turn until the client's stream ends; return all of it."""
        data = bytearray()

        def is_over() -> bool:
            try:
                while piece := client.recv(65536):
                    data.extend(piece)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                pass
            return True

        self.turn_until(is_over, "the end of the stream")
        return bytes(data)

    def close(self) -> None:
        """Close clients, what is left of their sessions, what listens, logs and zones."""
        for sock in self.clients:
            sock.close()
        for s in self.sessions:
            s.finalize(200)
        self.loop.turn(wait_ms=0)
        for sock in self.socks:
            sock.close()
        self.loop.poller.close()
        self.built.files.close_all()
        self.built.zones.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
