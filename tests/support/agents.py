"""Agents beside servers, which say a line to who connects: one on each of some hosts, one port."""

from __future__ import annotations

import contextlib
import socket


class Agent:
    """Agents on several hosts at one port."""

    def __init__(self, *hosts: str) -> None:
        self.lines: dict[str, bytes] = dict.fromkeys(hosts, b"up\n")
        self.asked = dict.fromkeys(hosts, 0)
        self.sent_to_us = 0  # bytes
        self._open: list[socket.socket] = []
        self._socks: dict[str, socket.socket] = {}
        self.port = 0
        for host in hosts:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, self.port))
            sock.listen(100)
            sock.setblocking(False)
            self._socks[host] = sock
            self.port = sock.getsockname()[1]

    def step(self) -> None:
        """Answer who is there."""
        for host, sock in self._socks.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    client, _ = sock.accept()
                    client.setblocking(False)
                    self.asked[host] += 1
                    self._open.append(client)
                    with contextlib.suppress(ConnectionError):  # who asked has gone meanwhile
                        client.sendall(self.lines[host])
        for client in list(self._open):
            with contextlib.suppress(BlockingIOError):
                try:
                    said = client.recv(99)
                except ConnectionError:
                    said = b""
                self.sent_to_us += len(said)
                if not said:
                    self._close(client)

    def close(self) -> None:
        """Be gone."""
        for sock in (*self._socks.values(), *self._open):
            sock.close()
        self._socks.clear()
        self._open.clear()

    def _close(self, client: socket.socket) -> None:
        self._open.remove(client)
        client.close()
