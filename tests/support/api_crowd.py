"""Clients of the API by the dozen, and UDP sessions beside them, each in its own process.

    python -m tests.support.api_crowd udp PORT SESSIONS HERTZ SECONDS
    python -m tests.support.api_crowd http PORT FAST SLOW PATH

`udp` sends numbered datagrams and prints how many went, how many came back, and the percentiles
of the round trip in ms. `http` has FAST clients ask again as soon as they are answered and SLOW
ones that take some bytes now and then; it goes on until its standard input ends, and prints what
came of it.
"""

import json
import resource
import select
import selectors
import socket
import struct
import subprocess
import sys
import time
from typing import Any, Final, Self

from tests.support.proxies import ROOT

_HEAD: Final = struct.Struct("!Id")
_SIP: Final = 512  # bytes that a slow client takes
_SIP_S: Final = 0.2


class Player:
    """One such process; use it as a context manager."""

    def __init__(self, *words: object) -> None:
        """Start it. Args: words as in the head of this file"""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.api_crowd", *map(str, words)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """Wait for its end, or bring it about; return what it says."""
        told, _ = self._process.communicate()
        found: dict[str, Any] = json.loads(told)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _udp(port: int, count: int, hertz: float, seconds: float) -> dict[str, Any]:
    """Play UDP sessions; each sends a datagram HERTZ times a second and wants it back."""
    poller = select.epoll()
    socks: list[socket.socket] = []
    by_fd: dict[int, socket.socket] = {}
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        poller.register(sock.fileno(), select.EPOLLIN)
        socks.append(sock)
        by_fd[sock.fileno()] = sock
    sent = 0
    waiting: set[int] = set()
    trips: list[float] = []
    begun = time.monotonic()
    end = begun + seconds
    step = 1 / hertz / count
    while True:
        now = time.monotonic()
        while now < end and begun + sent * step <= now:
            socks[sent % count].send(_HEAD.pack(sent, time.monotonic()).ljust(100, b"."))
            waiting.add(sent)
            sent += 1
        if now >= end and (not waiting or now > end + 5):
            break
        for fd, _ in poller.poll(min(0.01, max(0.0, begun + sent * step - now))):
            try:
                while True:
                    data = by_fd[fd].recv(2048)
                    number, at = _HEAD.unpack_from(data)
                    if number in waiting:
                        waiting.discard(number)
                        trips.append(time.monotonic() - at)
            except BlockingIOError:
                continue
    trips.sort()
    return {
        "sent": sent,
        "lost": len(waiting),
        **{f"p{n}": round(trips[len(trips) * n // 100] * 1000, 3) for n in (50, 90, 99)},
    }


class _Client:
    """One HTTP connection."""

    def __init__(self, port: int, path: str, is_slow: bool) -> None:
        self.request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self.is_slow = is_slow
        self.sock = socket.socket()
        if is_slow:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.tail = b""
        self.got = 0
        self.answers = 0

    def ask(self) -> None:
        """Send a request."""
        self.sock.send(self.request)

    def read(self) -> bool:
        """Take what there is; ask again behind an answer. Returns: False when it was cut off"""
        try:
            data = self.sock.recv(_SIP if self.is_slow else 1 << 18)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self.got += len(data)
        self.tail = (self.tail + data)[-5:]
        if self.tail == b"0\r\n\r\n" or self.tail.endswith(b"}"):
            self.answers += 1
            self.tail = b""
            self.ask()
        return bool(data)


def _http(port: int, fast: int, slow: int, path: str) -> dict[str, Any]:
    """Play clients of the API."""
    picked = selectors.DefaultSelector()
    clients = [_Client(port, path, n >= fast) for n in range(fast + slow)]
    for client in clients:
        client.ask()
        if not client.is_slow:
            picked.register(client.sock, selectors.EVENT_READ, client)
    sleepy = [client for client in clients if client.is_slow]
    cut = 0
    sip = time.monotonic()
    picked.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in picked.select(0.05):
            if key.data is None:
                return {
                    "answers": sum(client.answers for client in clients),
                    "fewest": min((c.answers for c in clients if not c.is_slow), default=0),
                    "bytes": sum(client.got for client in clients),
                    "cut": cut,
                }
            if not key.data.read():
                picked.unregister(key.fileobj)
                cut += 1
        if time.monotonic() >= sip:
            sip = time.monotonic() + _SIP_S
            for client in list(sleepy):
                if not client.read():
                    sleepy.remove(client)
                    cut += 1


def main() -> None:
    """Play what the command line says."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kind, port, *rest = sys.argv[1:]
    if kind == "udp":
        told = _udp(int(port), int(rest[0]), float(rest[1]), float(rest[2]))
    else:
        told = _http(int(port), int(rest[0]), int(rest[1]), rest[2])
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
