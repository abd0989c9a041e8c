"""A UDP server with a filter inside the test's process, a client and a backend, all by hand."""

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ngxstream.core import log
from ngxstream.scripting import running
from tests.support import ports
from tests.support.udp_in_process import UdpInProcess
from tests.support.waiting import wait_until

IMPORTS = "from ngxstream.scripting import HOLD, Filter, sleep\n"


class Talk:
    """One client, one backend, and what is between them."""

    def __init__(self, folder: Path, code: str, lines: str = "", *, name: str = "F",
                 servers: tuple[str, ...] = (), level: int = log.INFO) -> None:
        """Args: code: the module; name: what py_filter names in it; lines: of the server block"""
        (folder / "f.py").write_text(IMPORTS + code)
        self.backend = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for sock in (self.backend, self.client):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        last = f"127.0.0.1:{self.backend.getsockname()[1]}"
        group = "".join(f"server {one};" for one in (*servers, last))
        self.served = UdpInProcess(
            f"stream {{ py_import f from {folder}/f.py; upstream u {{ {group} }} server {{ "
            f"listen 127.0.0.1:{ports.free_udp_port()} udp; proxy_pass u; py_filter f.{name}; "
            f"{lines} }} }}",
            level=level,
        )
        self.loop = self.served.loop
        self.source: Any = None  # where the backend was sent the last one from
        self.client.connect(self.served.address())

    def send(self, *datagrams: bytes) -> None:
        """Send datagrams as the client; all are there when the loop turns."""
        for data in datagrams:
            self.client.send(data)

    def answer(self, *datagrams: bytes) -> None:
        """Send datagrams as the backend."""
        for data in datagrams:
            self.backend.sendto(data, self.source)

    def seen(self, count: int) -> list[bytes]:
        """Return what the backend gets, so many, and see that it gets no more."""
        return self._receive(self.backend, count)

    def got(self, count: int) -> list[bytes]:
        """Return what the client gets."""
        return self._receive(self.client, count)

    def _receive(self, sock: socket.socket, count: int) -> list[bytes]:
        found: list[bytes] = []

        def look() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, source = sock.recvfrom(1 << 16)
                    found.append(data)
                    if sock is self.backend:
                        self.source = source
            return len(found) >= count

        self.turn_until(look, f"{count} datagrams")
        for _ in range(3):
            self.loop.turn(wait_ms=0)
        look()
        assert len(found) == count, found
        return found

    def turn_until(self, done: Callable[[], Any], what: str = "") -> Any:
        """Turn the loop until something holds."""

        def turn() -> Any:
            self.loop.turn(wait_ms=2)
            return done()

        return wait_until(turn, what=what, every=0.001)

    @property
    def proxy(self) -> Any:
        """The content of the only session."""
        (s,) = self.loop.sessions
        return s.content

    def session(self) -> Any:
        """Return the session once it has begun."""
        return self.turn_until(lambda: next(iter(self.loop.sessions), None), "a session")

    def errors(self) -> list[str]:
        """Return the error lines."""
        return [line for level, line in self.served.target.lines if level in ("error", "alert")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.served.close()
        running.limit_of(self.loop).close()  # its timers would outlive the test
        self.client.close()
        self.backend.close()
