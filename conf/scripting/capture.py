"""Writes some UDP sessions over IPv4 to a file of pcapng, as if they had been seen on the wire."""

import random
import struct
import time

from ngxstream.scripting import Address, Filter, Session, process

SHARE = 0.01  # of the sessions
MOST = 100 << 20  # bytes
RAW_IP = 101  # the link type: packets begin with the IP header

file = None  # of this worker, once it has a session to write
written = 0


def block(kind: int, body: bytes) -> None:
    """Write a block of pcapng."""
    global file, written
    if file is None:
        path = f"{process.prefix}logs/capture-{process.worker}.pcapng"
        file = open(path, "ab", buffering=1 << 16)
        block(0x0A0D0D0A, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1))  # a section
        block(1, struct.pack("=HHI", RAW_IP, 0, 0))  # an interface
    body += bytes(-len(body) % 4)
    size = len(body) + 12
    written += size
    if written <= MOST:
        file.write(struct.pack("=II", kind, size) + body + struct.pack("=I", size))
        file.flush()


def packet(source: Address, target: Address, data: bytes) -> None:
    """Write a datagram, behind the headers of IP and UDP that it might have had."""
    udp = struct.pack(">HHHH", source.port, target.port, 8 + len(data), 0) + data
    assert source.ip is not None and target.ip is not None
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    seen = ip + source.ip.packed + target.ip.packed + udp
    now = time.time_ns() // 1000
    block(6, struct.pack("=IIIII", 0, now >> 32, now & 0xFFFFFFFF, len(seen), len(seen)) + seen)


def sampled(s: Session) -> Filter | None:
    """Return a filter for some sessions: `py_filter`."""
    is_v4 = s.client.ip is not None and s.client.ip.version == 4
    return Capture(s) if is_v4 and random.random() < SHARE else None


class Capture(Filter):
    """Writes what passes, and passes it on."""

    def from_client(self, data: bytes) -> bytes:
        """Write a datagram of the client."""
        packet(self.session.client, self.session.local, data)
        return data

    def from_upstream(self, data: bytes) -> bytes:
        """Write an answer, as the client gets it."""
        packet(self.session.local, self.session.client, data)
        return data
