"""UDP load: an echo server, and clients with a window of datagrams outstanding each."""

from __future__ import annotations

import select
import socket
import struct
from typing import Any, Final

from tests.bench.load.mmsg import Batch, now, percentiles, udp_socket

SIZE: Final = 100
LOST_NS: Final = 300_000_000  # a client that heard nothing for so long begins its window anew
SAMPLE_EVERY: Final = 8
GRO: Final = 104
SEGMENT: Final = 103
SOL_UDP: Final = 17
_stamp: Final = struct.Struct("=q")


def echo(port: int) -> None:
    """Send every datagram back, for ever."""
    sock = udp_socket(buffer=4 << 20)
    sock.bind(("127.0.0.1", port))
    batch = Batch(64, SIZE, named=True)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    fd = sock.fileno()
    print("{}", flush=True)
    while True:
        n = batch.receive(fd)
        if n:
            batch.send(fd, n)
        else:
            poll.poll()


class Windows:
    """Clients that keep `window` datagrams each on their way, round trip after round trip."""

    def __init__(self, port: int, clients: int, window: int) -> None:
        self.window = window
        self.socks = []
        self.epoll = select.epoll()
        self.heard: dict[int, int] = {}
        for _ in range(clients):
            sock = udp_socket(buffer=1 << 16)
            sock.connect(("127.0.0.1", port))
            self.socks.append(sock)
            self.heard[sock.fileno()] = 0
            self.epoll.register(sock, select.EPOLLIN)
        self.outgoing = Batch(64, SIZE, shared=True)
        self.incoming = Batch(64, SIZE, shared=True)

    def run(self, seconds: float) -> dict[str, Any]:
        """Run for a while. Returns: units (round trips), seconds, lost, percentiles"""
        window, heard = self.window, self.heard
        out, incoming = self.outgoing, self.incoming
        samples: list[int] = []
        trips = lost = turn = 0
        begin = now()
        end = begin + int(seconds * 1e9)
        for fd in heard:
            _stamp.pack_into(out.buffer, 0, now())
            out.send(fd, window)
            heard[fd] = begin
        checked = begin
        t = begin
        single = window == 1
        by_fd = {s.fileno(): s for s in self.socks}
        while t < end:
            for fd, _ in self.epoll.poll(0.1):
                t = now()
                if single:  # no batch to be had: the socket module costs less
                    sock = by_fd[fd]
                    try:
                        sock.recv_into(incoming.buffer)
                        n = 1
                        _stamp.pack_into(out.buffer, 0, t)
                        sock.send(out.buffer)
                    except OSError:
                        continue
                else:
                    n = incoming.receive(fd)
                    if not n:
                        continue
                    _stamp.pack_into(out.buffer, 0, t)
                    out.send(fd, n)
                trips += n
                heard[fd] = t
                turn += 1
                if not turn % SAMPLE_EVERY:
                    samples.append(t - _stamp.unpack_from(incoming.buffer)[0])
            t = now()
            if t - checked > LOST_NS:
                checked = t
                for fd, last in heard.items():
                    if t - last > LOST_NS:
                        _stamp.pack_into(out.buffer, 0, t)
                        lost += window
                        out.send(fd, window)
                        heard[fd] = t
        return {
            "units": trips, "seconds": (t - begin) / 1e9, "lost": lost, **percentiles(samples)
        }


def fire(port: int, backend_port: int, clients: int, seconds: float, window: int = 256) -> Any:
    """Send datagrams that nobody answers; the receiver at the far end sits in this process.

    At most `window` are on their way; those that never arrive are given up after a while.
    """
    sink = udp_socket(buffer=4 << 20)
    sink.bind(("127.0.0.1", backend_port))
    fds = []
    socks = [udp_socket() for _ in range(clients)]
    for sock in socks:
        sock.connect(("127.0.0.1", port))
        fds.append(sock.fileno())
    out, incoming = Batch(8, SIZE, shared=True), Batch(64, SIZE, shared=True)
    poll = select.poll()
    poll.register(sink, select.POLLIN)
    samples: list[int] = []
    received = lost = turn = 0
    begin = t = last = now()
    end = begin + int(seconds * 1e9)
    flying = 0
    while t < end:
        t = now()
        while flying + 8 <= window:
            _stamp.pack_into(out.buffer, 0, t)
            flying += out.send(fds[turn % clients], 8)
            turn += 1
        poll.poll(100)
        n = incoming.receive(sink.fileno())
        t = now()
        if n:
            received += n
            flying -= n
            last = t
            samples.append(t - _stamp.unpack_from(incoming.buffer)[0])
        elif t - last > LOST_NS:
            lost += flying
            flying = 0
            last = t
    return {
        "units": received, "seconds": (t - begin) / 1e9, "lost": lost, **percentiles(samples)
    }


def gso_echo(port: int) -> None:
    """Send everything back, coalesced messages as such."""
    sock = udp_socket(buffer=4 << 20)
    sock.setsockopt(SOL_UDP, GRO, 1)
    sock.bind(("127.0.0.1", port))
    view = memoryview(bytearray(65536))
    print("{}", flush=True)
    while True:
        n, ancillary, _, peer = sock.recvmsg_into((view,), 64)
        size = 0
        for level, kind, data in ancillary:
            if level == SOL_UDP and kind == GRO:
                size = int.from_bytes(data[:4], "little")
        try:
            if 0 < size < n:
                segment = (SOL_UDP, SEGMENT, struct.pack("=H", size))
                sock.sendmsg((view[:n],), (segment,), 0, peer)
            else:
                sock.sendto(view[:n], peer)
        except OSError:
            continue  # no room: the client begins its window anew


def gso(port: int, flows: int, segments: int, size: int, seconds: float) -> dict[str, Any]:
    """Clients that send a window as one GSO message, and the next when all of it came back."""
    socks: dict[int, socket.socket] = {}
    epoll = select.epoll()
    payload = bytes(size * segments)
    whole = len(payload)
    for _ in range(flows):
        sock = udp_socket(buffer=4 << 20)
        sock.setblocking(False)
        sock.setsockopt(SOL_UDP, SEGMENT, size)
        sock.setsockopt(SOL_UDP, GRO, 1)
        sock.connect(("127.0.0.1", port))
        socks[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLIN)
    view = memoryview(bytearray(65536))
    missing = dict.fromkeys(socks, whole)
    sent_at = dict.fromkeys(socks, 0)
    samples: list[int] = []
    total = lost = 0
    begin = t = checked = now()
    end = begin + int(seconds * 1e9)
    for fd, sock in socks.items():
        sent_at[fd] = now()
        sock.send(payload)
    while t < end:
        for fd, _ in epoll.poll(0.1):
            sock = socks[fd]
            while missing[fd] > 0:
                try:
                    n = sock.recv_into(view)
                except OSError:
                    break
                total += n
                missing[fd] -= n
            if missing[fd] <= 0:
                t = now()
                samples.append(t - sent_at[fd])
                missing[fd] = whole
                sent_at[fd] = t
                sock.send(payload)
        t = now()
        if t - checked > LOST_NS:
            checked = t
            for fd, sock in socks.items():
                if t - sent_at[fd] > LOST_NS:
                    lost += missing[fd] // size
                    missing[fd] = whole
                    sent_at[fd] = t
                    sock.send(payload)
    return {
        "units": total / size, "seconds": (t - begin) / 1e9, "lost": lost, **percentiles(samples)
    }
