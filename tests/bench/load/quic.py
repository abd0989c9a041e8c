"""QUIC-like load: connections that begin with long headers and then load by short ones.

What is in the packets is nothing; who sends how much, and when, is a download: the server sends as
many bursts of SEGMENTS datagrams as the client has acknowledged, WINDOW of them ahead. Both sides
send bursts by GSO and take them by GRO, as QUIC implementations do on Linux.
"""

from __future__ import annotations

import select
import socket
import struct
from typing import Any, Final

from tests.bench.load.mmsg import now, percentiles, udp_socket
from tests.bench.load.udp import GRO, LOST_NS, SEGMENT, SOL_UDP

SIZE: Final = 1200
SEGMENTS: Final = 16  # of a burst, as quic-go and nginx have some ten
WINDOW: Final = 4  # bursts on their way
ID: Final = 8  # bytes of a connection id
_VERSION: Final = b"\0\0\0\1"


def long(first: bytes, second: bytes, size: int) -> bytes:
    """Build a packet with a long header, from the second id to the first."""
    ids = bytes((len(first),)) + first + bytes((len(second),)) + second
    return (b"\xe0" + _VERSION + ids).ljust(size, b"\0")


def short(name: bytes, size: int) -> bytes:
    """Build a packet with a short header."""
    return (b"\x41" + name).ljust(size, b"\0")


def serve(port: int) -> None:
    """Shake hands; then send a burst for each packet, and WINDOW for the first."""
    sock = udp_socket(buffer=4 << 20)
    sock.setsockopt(SOL_UDP, GRO, 1)
    sock.bind(("127.0.0.1", port))
    view = memoryview(bytearray(65536))
    burst = short(b"client-1", SIZE) * SEGMENTS
    control = [(SOL_UDP, SEGMENT, struct.pack("=H", SIZE))]
    known: set[Any] = set()
    print("{}", flush=True)
    while True:
        n, ancillary, _, peer = sock.recvmsg_into((view,), 64)
        size = n
        for level, kind, data in ancillary:
            if level == SOL_UDP and kind == GRO:
                size = int.from_bytes(data[:4], "little") or n
        try:
            if view[0] & 0x80:
                name = b"srv" + peer[1].to_bytes(ID - 3, "big")
                sock.sendto(long(b"client-1", name, SIZE), peer)
                known.discard(peer)
                continue
            count = -(-n // size)
            if peer not in known:
                known.add(peer)
                count += WINDOW - 1
            for _ in range(count):
                sock.sendmsg((burst,), control, 0, peer)
        except OSError:
            continue  # no room: the client asks again


def load(port: int, connections: int, seconds: float) -> dict[str, Any]:
    """Load by so many connections. Returns: units (datagrams that came), seconds, lost"""
    socks: dict[int, socket.socket] = {}
    epoll = select.epoll()
    view = memoryview(bytearray(65536))
    acks: dict[int, bytes] = {}
    run = now()  # ids are no other run's
    for number in range(connections):
        sock = udp_socket(buffer=4 << 20)
        sock.setsockopt(SOL_UDP, GRO, 1)
        sock.connect(("127.0.0.1", port))
        sock.settimeout(10)
        sock.send(long((run + number).to_bytes(ID, "big"), b"client-1", SIZE))
        n = sock.recv_into(view)
        at = 6 + ID
        acks[sock.fileno()] = short(bytes(view[at + 1 : at + 1 + ID]), 45)
        assert n == SIZE
        sock.setblocking(False)
        socks[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLIN)
    whole = SIZE * SEGMENTS
    came = dict.fromkeys(socks, 0)  # bytes that are not acknowledged
    heard = dict.fromkeys(socks, now())
    samples: list[int] = []
    total = lost = 0
    begin = t = checked = now()
    end = begin + int(seconds * 1e9)
    for fd, sock in socks.items():
        sock.send(acks[fd])
    while t < end:
        for fd, _ in epoll.poll(0.1):
            sock = socks[fd]
            t = now()
            samples.append(t - heard[fd])
            heard[fd] = t
            while True:
                try:
                    n = sock.recv_into(view)
                except OSError:
                    break
                total += n
                came[fd] += n
                while came[fd] >= whole:
                    came[fd] -= whole
                    sock.send(acks[fd])
        t = now()
        if t - checked > LOST_NS:
            checked = t
            for fd, sock in socks.items():
                if t - heard[fd] > LOST_NS:
                    heard[fd] = t
                    lost += 1
                    for _ in range(WINDOW):
                        sock.send(acks[fd])
    return {
        "units": total / SIZE, "seconds": (t - begin) / 1e9, "lost": lost, **percentiles(samples)
    }
