"""A session without sockets, for code that only asks a session for its facts."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ngxstream.core.clock import Clock
from ngxstream.core.log import DEBUG, Log
from ngxstream.event.loop import Loop
from tests.support.clock import FakeClock
from tests.support.in_process import LogTarget

NOON = 1_795_262_400.0  # 21 Nov 2026, 12:00:00 UTC


@dataclass
class FakeClient:
    """What a Connection tells."""

    sockaddr: Any = ("192.0.2.1", 40000)
    local: Any = ("198.51.100.2", 53)
    family: int = 2
    is_udp: bool = False
    number: int = 7
    received: int = 0
    sent: int = 0
    passes: int = 0

    def local_sockaddr(self) -> Any:
        """Return the address the client connected to."""
        return self.local


class FakeLoop:
    """What a Loop tells, and the work of its turns."""

    def __init__(self) -> None:
        self.now_ms = 1000
        self.pid = 4711
        self.hostname = b"host.example"
        self.posted: list[Any] = []
        self.post = self.posted.append
        self._services: dict[Any, Any] = {}

    get = Loop.get


@dataclass
class FakeSession:
    """What a Session tells, and where it keeps what it is told."""

    c: FakeClient = field(default_factory=FakeClient)
    status: int = 0
    start_ms: int = 1000
    values: list[Any] | None = None
    captures: tuple[bytes | None, ...] | None = None
    states: list[Any] | None = None
    proxy_protocol: Any = None
    preread: bytes = b""
    server: Any = field(default_factory=lambda: SimpleNamespace(server_name="example.com"))
    address: Any = field(default_factory=lambda: SimpleNamespace(names=None))
    loop: Any = field(default_factory=FakeLoop)
    ctx: dict[str, Any] = field(default_factory=dict)
    target: LogTarget = field(default_factory=LogTarget)

    def __post_init__(self) -> None:
        """Log to a list, by a clock that stands still at noon."""
        self.log = Log([self.target], clock=Clock(FakeClock(NOON)))

    def module_ctx(self, name: str) -> Any:
        """Return a module's scratch, or None."""
        return self.ctx.get(name)

    def set_module_ctx(self, name: str, value: Any) -> None:
        """Keep a module's scratch."""
        self.ctx[name] = value

    def select_server(self, server: Any) -> None:
        """Go on under another server."""
        self.server = server

    def log_error(self, level: int, message: str, err: int | None = None) -> None:
        """Log without a context."""
        assert level <= DEBUG
        self.log.error(level, message, err)
