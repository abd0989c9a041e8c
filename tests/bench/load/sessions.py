"""Many sessions: idle ones to weigh, live ones to count the cost of, paced ones to time."""

from __future__ import annotations

import select
import socket
import sys
from collections import deque
from typing import Any

from tests.bench.load.mmsg import Batch, now, percentiles, udp_socket
from tests.bench.load.udp import SIZE

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def _wait_for_word() -> bool:
    return bool(sys.stdin.readline())


def idle_tcp(port: int, warm: int, count: int) -> None:
    """Open connections, use each once, leave them open; a line after each of the two steps."""
    held = []
    for number in (warm, count):
        for _ in range(number):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(REQUEST)
            sock.recv(4096)
            held.append(sock)
        print("{}", flush=True)
        if not _wait_for_word():
            return


def idle_udp(port: int, warm: int, count: int) -> None:
    """Do the same with UDP clients of one datagram each."""
    held = []
    for number in (warm, count):
        for _ in range(number):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.settimeout(2)
            sock.connect(("127.0.0.1", port))
            sock.send(bytes(SIZE))
            sock.recv(4096)
            held.append(sock)
        print("{}", flush=True)
        if not _wait_for_word():
            return


def live_udp(port: int, count: int, trips: int, window: int = 64, addresses: int = 0) -> None:
    """Begin `count` sessions, then make round trips over all of them in turn.

    Args: addresses: from 127.0.0.2 on, that the clients have; 0: all have the usual one
    prints a line when asked to begin, after the sessions stand, and after the trips.
    """
    socks = []
    for n in range(count):
        sock = udp_socket(buffer=1 << 13)
        sock.setblocking(False)
        if addresses:
            sock.bind((f"127.0.0.{2 + n % addresses}", 0))
        sock.connect(("127.0.0.1", port))
        socks.append(sock)
    print("{}", flush=True)
    _wait_for_word()
    _go_round(socks, count, window)
    print("{}", flush=True)
    _wait_for_word()
    _go_round(socks, trips, window)
    print("{}", flush=True)
    _wait_for_word()


def _go_round(socks: list[socket.socket], trips: int, window: int) -> None:
    """Make round trips, `window` at a time, each on the next socket in turn."""
    batch = Batch(1, SIZE, shared=True)
    count = len(socks)
    done = 0
    place = 0
    while done < trips:
        some = [socks[(place + i) % count] for i in range(min(window, trips - done, count))]
        place = (place + len(some)) % count
        for sock in some:
            sock.send(batch.buffer)
        for sock in some:
            while not batch.receive(sock.fileno()):
                poll = select.poll()
                poll.register(sock, select.POLLIN)
                if not poll.poll(500):
                    sock.send(batch.buffer)
        done += len(some)


def paced(port: int, connections: int, rate: float, seconds: float, is_udp: bool) -> dict[str, Any]:
    """Make requests at fixed times whatever the answers do: open loop.

    The time of a request counts from when it was due, so a stall is not hidden. TCP asks an HTTP
    server, UDP an echo.
    """
    kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
    request = bytes(SIZE) if is_udp else REQUEST
    socks = []
    epoll = select.epoll()
    waiting: dict[int, deque[int]] = {}
    size = SIZE
    for _ in range(connections):
        sock = socket.socket(socket.AF_INET, kind)
        sock.connect(("127.0.0.1", port))
        if not is_udp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.send(request)
            size = len(sock.recv(65536))
        sock.setblocking(False)
        epoll.register(sock, select.EPOLLIN)
        waiting[sock.fileno()] = deque()
        socks.append(sock)
    by_fd = {sock.fileno(): sock for sock in socks}
    rest = dict.fromkeys(by_fd, 0)
    interval = 1e9 / rate
    samples: list[int] = []
    buffer = bytearray(65536)
    begin = t = now()
    end = begin + int(seconds * 1e9)
    number = 0
    due = begin
    while t < end:
        while due <= t:
            sock = socks[number % connections]
            try:
                sock.send(request)
                waiting[sock.fileno()].append(due)
            except OSError:
                pass
            number += 1
            due = begin + int(number * interval)
        # epoll's own timeout is in whole milliseconds
        select.select((epoll,), (), (), max(0.0, (due - now()) / 1e9))
        for fd, _ in epoll.poll(0):
            try:
                n = by_fd[fd].recv_into(buffer)
            except OSError:
                continue
            t = now()
            whole, rest[fd] = divmod(rest[fd] + n, size)
            times = waiting[fd]
            samples.extend(t - times.popleft() for _ in range(min(whole, len(times))))
        t = now()
    unanswered = sum(map(len, waiting.values()))
    count = len(samples)
    return {
        "units": count, "seconds": (t - begin) / 1e9, "lost": unanswered, **percentiles(samples)
    }
