"""A DNS server that answers as a test says, over UDP and TCP on one port; it records the questions.

A script is called with each Query and returns messages to send back (none: silence). ``respond``
writes a sound one; anything else may be sent as well. In a test with a loop of its own call
``step()`` between turns; beside a program use it as a context manager, which serves from a thread.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ngxstream.core import inet
from ngxstream.wire import dns, dns_names
from tests.support import ports

Record = tuple[str, int, int, Any]  # name, kind, ttl, value: an address, a name, an Srv


@dataclass(frozen=True, slots=True)
class Query:
    """One question as it came."""

    ident: int
    name: str
    kind: int
    source: tuple[str, int]
    tcp: bool
    raw: bytes


Script = Callable[[Query], Iterable[bytes]]


def name_bytes(name: str) -> bytes:
    """Write a name without compression; empty is the root."""
    return dns_names.to_wire(name) if name else b"\0"


def value_bytes(kind: int, value: Any) -> bytes:
    """Write a record's data."""
    if kind in (dns.A, dns.AAAA):
        return socket.inet_pton(socket.AF_INET if kind == dns.A else socket.AF_INET6, value)
    if kind == dns.SRV:
        words = (value.priority, value.weight, value.port)
        return b"".join(word.to_bytes(2, "big") for word in words) + name_bytes(value.target)
    return name_bytes(value)


def respond(
    query: Query,
    records: Sequence[Record] = (),
    *,
    rcode: int = 0,
    truncated: bool = False,
    ident: int | None = None,
    name: str | None = None,
    kind: int | None = None,
) -> bytes:
    """Write a response; ident, name and kind override what the query said."""
    flags = 0x8180 | rcode | (0x0200 if truncated else 0)
    head = (query.ident if ident is None else ident, flags, 1, len(records), 0, 0)
    parts = [b"".join(word.to_bytes(2, "big") for word in head)]
    parts.append(name_bytes(query.name if name is None else name))
    parts.append((query.kind if kind is None else kind).to_bytes(2, "big") + b"\0\1")
    for owner, of_kind, ttl, value in records:
        data = value_bytes(of_kind, value)
        parts.append(name_bytes(owner) + of_kind.to_bytes(2, "big") + b"\0\1")
        parts.append(ttl.to_bytes(4, "big") + len(data).to_bytes(2, "big") + data)
    return b"".join(parts)


def table(records: Sequence[Record]) -> Script:
    """Make a script that answers from records: those of the name and kind asked, aliases first."""

    def script(query: Query) -> Iterable[bytes]:
        found = [r for r in records if r[0] == query.name and r[1] in (query.kind, dns.CNAME)]
        known = any(r[0] == query.name for r in records)
        return (respond(query, found, rcode=0 if known else dns.NXDOMAIN),)

    return script


def silent(_: Query) -> Iterable[bytes]:
    """Never answer."""
    return ()


class ScriptedDns:
    """The server. ``script`` may be replaced at any time."""

    def __init__(self, script: Script = silent, host: str = "127.0.0.1") -> None:
        """Bind a free port for UDP and TCP."""
        self.script = script
        self.queries: list[Query] = []
        self.port = ports.free_port()
        self.address = (host, self.port)
        self.text = f"{host}:{self.port}"
        self.addr = inet.Addr(inet.AF_INET, self.address, self.text)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(self.address)
        self.udp.setblocking(False)
        self.listener: socket.socket | None = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(self.address)
        self.listener.listen()
        self.listener.setblocking(False)
        self.streams: dict[socket.socket, bytearray] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def asked(self) -> list[tuple[str, int]]:
        """Return (name, kind) of every question so far."""
        return [(query.name, query.kind) for query in list(self.queries)]

    def refuse_tcp(self) -> None:
        """Listen over UDP alone from now on."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    def step(self) -> None:
        """Answer what has come so far."""
        while True:
            try:
                raw, source = self.udp.recvfrom(65536)
            except BlockingIOError:
                break
            except ConnectionRefusedError:
                continue  # an answer found its socket closed
            for message in self._hear(raw, source, tcp=False):
                self.udp.sendto(message, source)
        if self.listener is not None:
            try:
                stream, _ = self.listener.accept()
                stream.setblocking(False)
                self.streams[stream] = bytearray()
            except BlockingIOError:
                pass
        for stream in list(self.streams):
            self._read(stream)

    def _read(self, stream: socket.socket) -> None:
        buffer = self.streams[stream]
        try:
            data = stream.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            del self.streams[stream]
            stream.close()
            return
        buffer += data
        while isinstance(raw := dns.unframe(buffer), bytes):
            del buffer[: len(raw) + 2]
            stream.setblocking(True)
            for message in self._hear(raw, stream.getpeername(), tcp=True):
                stream.sendall(dns.frame(message))
            stream.setblocking(False)

    def _hear(self, raw: bytes, source: Any, *, tcp: bool) -> list[bytes]:
        labels = []
        at = 12
        while raw[at]:
            labels.append(raw[at + 1 : at + 1 + raw[at]].decode())
            at += 1 + raw[at]
        kind = int.from_bytes(raw[at + 1 : at + 3], "big")
        ident = int.from_bytes(raw[:2], "big")
        query = Query(ident, ".".join(labels), kind, source, tcp, raw)
        self.queries.append(query)
        return list(self.script(query))

    def _serve(self) -> None:
        while not self._stopping.is_set():
            watched = select.poll()
            watched.register(self.udp, select.POLLIN)
            if self.listener is not None:
                watched.register(self.listener, select.POLLIN)
            for stream in self.streams:
                watched.register(stream, select.POLLIN)
            if watched.poll(50):
                self.step()

    def close(self) -> None:
        """Stop and close all sockets."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        for sock in (self.udp, self.listener, *self.streams):
            if sock is not None:
                sock.close()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
