"""An engine for tests in process: a loop with a log that remembers, and listening sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ngxstream.event import accept, poller, udp, udp_answers
from ngxstream.event.listen_options import ListenOptions
from ngxstream.event.loop import Loop, PoisoningLoop
from ngxstream.event.splice import PipePool

DEADLINE_S = 20


class MemoryLog:
    """A log that keeps its lines."""

    def __init__(self, level: int = 7) -> None:  # info
        self.level = level
        self.lines: list[tuple[int, str]] = []

    def write(self, level: int, text: str) -> None:
        """Keep one line."""
        self.lines.append((level, text))


class Listener:
    """A listening socket and its listener in a loop."""

    def __init__(self, loop: Loop, begin: Callable[..., Any], kind: int, host: str = "127.0.0.1",
                 **options: Any) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.SocketType(family, kind)
        sock.bind((host, 0))
        sock.setblocking(False)
        self.address = sock.getsockname()
        text = f"{host}:{self.address[1]}"
        wildcard = host in ("0.0.0.0", "::")
        self.options = ListenOptions(
            family=family, socktype=kind, sockaddr=self.address, text=text, wildcard=wildcard
        )
        self.socks = [sock]
        self.sock = sock
        if kind == socket.SOCK_STREAM:
            sock.listen(128)
            self.listener: Any = accept.TcpListener(loop, self, sock, begin, **options)
        else:
            if wildcard:
                sock.setsockopt(socket.IPPROTO_IP, udp_answers.IP_PKTINFO, 1)
            self.listener = udp.UdpListener(loop, self, sock, begin)


@contextmanager
def engine(name: str = "epoll", connections: int = 512) -> Iterator[Loop]:
    """Give a loop over one of the pollers; everything is closed at the end."""
    loop = PoisoningLoop(MemoryLog(), poller.POLLERS[name](512), connections)
    try:
        yield loop
    finally:
        loop.get(PipePool).close()
        loop.poller.close()


def run_until(loop: Loop, done: Callable[[], bool], seconds: float = DEADLINE_S) -> None:
    """Turn a loop until something holds; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "the loop did not get there in time"
        loop.turn(0 if loop.posted else 10)
