"""Servers that do to who checks them what they can: each at a host of its own, all at one port.

flood     answers without end, over datagrams by many
drip      one byte, and another one a little later
silent    takes the connection and says nothing
reset     resets it
garbage   random bytes, and then nothing
closes    random bytes, and the end
refuses   nobody is there: a reset, or an ICMP message
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
from typing import Final, Self

from tests.support import ports

HOWS: Final = ("flood", "drip", "silent", "reset", "garbage", "closes", "refuses")
MOST: Final = 100_000_000  # bytes of a flood
DRIP_S: Final = 0.002
CHUNK: Final = bytes(65_536)
DATAGRAMS: Final = 20


class HostileServers:
    """All of them, in a thread of their own."""

    def __init__(self) -> None:
        self.hosts = {how: f"127.0.1.{n}" for n, how in enumerate(HOWS, 1)}
        self.accepted = dict.fromkeys(HOWS, 0)
        self.flooded = 0  # bytes
        self.most_flooded = 0  # bytes to one connection
        self._over = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._dripping: set[socket.socket] = set()
        self._flooding: dict[socket.socket, int] = {}
        self._random = random.Random(7)
        self.port = ports.free_port()
        for how, host in self.hosts.items():
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) if how != "refuses" else ():
                self._bind(how, host, kind)
        self._thread = threading.Thread(target=self._run)

    def _bind(self, how: str, host: str, kind: socket.SocketKind) -> None:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, self.port))
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.listen(512)
        self._selector.register(sock, selectors.EVENT_READ, (how, kind))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _run(self) -> None:
        while not self._over.is_set():
            for key, mask in self._selector.select(DRIP_S):
                how, kind = key.data
                sock: socket.socket = key.fileobj  # type: ignore[assignment]
                if kind == socket.SOCK_DGRAM:
                    self._answer(sock, how)
                elif kind == socket.SOCK_STREAM:
                    self._accept(sock, how)
                elif mask & selectors.EVENT_WRITE:
                    self._flood(sock)
                else:
                    self._read(sock)
            for sock in list(self._dripping):
                self._send(sock, b"x")

    def _accept(self, listening: socket.socket, how: str) -> None:
        sock, _ = listening.accept()
        self.accepted[how] += 1
        sock.setblocking(False)
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            return
        mask = selectors.EVENT_READ
        if how == "flood":
            self._flooding[sock] = 0
            mask |= selectors.EVENT_WRITE
        self._selector.register(sock, mask, (how, None))
        if how == "drip":
            self._dripping.add(sock)
        elif how in ("garbage", "closes"):
            self._send(sock, self._random.randbytes(self._random.randrange(1, 3000)))
        if how == "closes":
            self._close(sock)

    def _answer(self, sock: socket.socket, how: str) -> None:
        _, client = sock.recvfrom(4096)
        self.accepted[how] += 1
        with contextlib.suppress(OSError):
            for _ in range(DATAGRAMS if how == "flood" else how not in ("silent", "reset")):
                size = 1 if how == "drip" else self._random.randrange(0, 1400)
                sock.sendto(self._random.randbytes(size), client)

    def _flood(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                sent = sock.send(CHUNK)
            except OSError:
                self._close(sock)
                return
            self.flooded += sent
            self._flooding[sock] += sent
            self.most_flooded = max(self.most_flooded, self._flooding[sock])
            if self._flooding[sock] >= MOST:
                self._close(sock)

    def _read(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                is_over = not sock.recv(65_536)
            except ConnectionError:
                is_over = True
            if is_over:
                self._close(sock)

    def _send(self, sock: socket.socket, data: bytes) -> None:
        try:
            sock.send(data)
        except OSError:
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)
        self._dripping.discard(sock)
        self._flooding.pop(sock, None)
        sock.close()
