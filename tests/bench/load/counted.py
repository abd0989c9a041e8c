"""An exact number of units, so that what a proxy executed meanwhile can be divided by it.

Each program makes a line when its warm-up is through, waits for a word, does the units and makes
another line.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys

from tests.bench.load.mmsg import udp_socket
from tests.bench.load.sessions import REQUEST
from tests.bench.load.udp import SIZE

CLOSING = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
PATIENCE_S = 20


def _say() -> bool:
    print("{}", flush=True)
    return bool(sys.stdin.readline())


def _wait(epoll: select.epoll) -> list[tuple[int, int]]:
    found = epoll.poll(PATIENCE_S)
    if not found:
        raise SystemExit("nothing comes any more")
    return found


class _Requests:
    """Connections that ask an HTTP server one question after another."""

    def __init__(self, port: int, connections: int) -> None:
        self.epoll = select.epoll()
        self.socks: dict[int, socket.socket] = {}
        self.size = 0
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(REQUEST)
            self.size = len(sock.recv(65536))
            self.socks[sock.fileno()] = sock
            self.epoll.register(sock, select.EPOLLIN)

    def make(self, count: int) -> None:
        asked = 0
        got = dict.fromkeys(self.socks, 0)
        for sock in list(self.socks.values())[:count]:
            sock.send(REQUEST)
            asked += 1
        done = 0
        while done < count:
            for fd, _ in _wait(self.epoll):
                sock = self.socks[fd]
                got[fd] += len(sock.recv(65536))
                if got[fd] == self.size:
                    got[fd] = 0
                    done += 1
                    if asked < count:
                        asked += 1
                        sock.send(REQUEST)


def requests(port: int, connections: int, warm: int, count: int) -> None:
    """Make requests over connections that stay open."""
    load = _Requests(port, connections)
    load.make(warm)
    if _say():
        load.make(count)
        _say()


def _connect(port: int, at_once: int, count: int) -> None:
    epoll = select.epoll()
    socks: dict[int, socket.socket] = {}
    begun = done = 0
    while done < count:
        while begun < count and len(socks) < at_once:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            socks[sock.fileno()] = sock
            epoll.register(sock, select.EPOLLOUT)
            begun += 1
        for fd, mask in _wait(epoll):
            sock = socks[fd]
            if mask & select.EPOLLOUT:
                sock.send(CLOSING)
                epoll.modify(fd, select.EPOLLIN)
            elif not sock.recv(65536):
                del socks[fd]
                sock.close()
                done += 1


def connections(port: int, at_once: int, warm: int, count: int) -> None:
    """Make connections of one request each, which the server closes."""
    _connect(port, at_once, warm)
    if _say():
        _connect(port, at_once, count)
        _say()


def _datagrams(socks: dict[int, socket.socket], epoll: select.epoll, window: int,
               count: int) -> None:
    data = bytes(SIZE)
    sent = done = 0
    for sock in socks.values():
        for _ in range(window):
            if sent < count:
                sock.send(data)
                sent += 1
    while done < count:
        for fd, _ in _wait(epoll):
            sock = socks[fd]
            got = 0
            try:
                while got < window:
                    sock.recv(65536)
                    got += 1
            except BlockingIOError:
                pass
            done += got
            for _ in range(min(got, count - sent)):
                sock.send(data)
                sent += 1


def datagrams(port: int, clients: int, window: int, warm: int, count: int) -> None:
    """Make round trips of clients that keep a window of datagrams on their way."""
    epoll = select.epoll()
    socks = {}
    for _ in range(clients):
        sock = udp_socket(buffer=1 << 18)
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        socks[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLIN)
    _datagrams(socks, epoll, window, warm)
    if _say():
        _datagrams(socks, epoll, window, count)
        _say()


def _shake_hands(context: ssl.SSLContext, port: int, count: int) -> None:
    for _ in range(count):
        with (socket.create_connection(("127.0.0.1", port)) as sock,
              context.wrap_socket(sock)):
            pass


def handshakes(port: int, clients: int, warm: int, count: int) -> None:
    """Make full TLS 1.3 handshakes one after another. Args: clients: one, for each waits"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _shake_hands(context, port, warm)
    if _say():
        _shake_hands(context, port, count)
        _say()
