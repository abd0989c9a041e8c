"""Thousands of UDP clients, or the backend behind them, in a process of their own.

    python -m tests.support.crowd echo            prints its port and answers what it gets
    python -m tests.support.crowd clients PORT N  opens N sockets, prints N when all have an answer

Both go on until their standard input ends. Descriptors are limited by process: what the test's
own process holds is not in the way. A datagram without an answer is sent again.
"""

import resource
import select
import socket
import subprocess
import sys
import time
from typing import Self

from tests.support.proxies import ROOT
from tests.support.waiting import PATIENCE

WINDOW = 64  # sockets waiting for an answer at a time: no receive buffer is filled
AGAIN_S = 0.5


class Crowd:
    """One such process; use it as a context manager."""

    def __init__(self, *words: str) -> None:
        """Start it. Args: words as in the head of this file"""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crowd", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip().isdigit(), f"the crowd said {line!r}"
        self.number = int(line)

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _echo() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.register(0, select.POLLIN | select.POLLHUP)
        while not any(fd == 0 for fd, _ in poller.poll()):
            data, peer = sock.recvfrom(2048)
            sock.sendto(data, peer)


def _clients(port: int, count: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    socks: list[socket.socket] = []
    waiting: dict[int, tuple[socket.socket, float]] = {}
    poller = select.epoll()
    give_up = time.monotonic() + 3 * PATIENCE
    while len(socks) < count or waiting:
        while len(socks) < count and len(waiting) < WINDOW:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect(("127.0.0.1", port))
            socks.append(sock)
            poller.register(sock, select.EPOLLIN | select.EPOLLET)
            waiting[sock.fileno()] = sock, 0.0
        now = time.monotonic()
        assert now < give_up, f"{len(socks) - len(waiting)} of {count} were answered"
        for fd, (sock, sent) in waiting.items():
            if now - sent > AGAIN_S:
                sock.send(b"x")
                waiting[fd] = sock, now
        for fd, _ in poller.poll(AGAIN_S):
            if fd in waiting:
                waiting.pop(fd)[0].recv(2048)
    print(count, flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        _echo()
    else:
        _clients(int(sys.argv[2]), int(sys.argv[3]))
