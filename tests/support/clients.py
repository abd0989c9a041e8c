"""Clients of the tests: sockets with a deadline on every step.

``tcp_exchange`` and ``udp_exchange`` do one whole exchange; ``TcpClient`` and ``UdpClient`` go step
by step. A step that does not end in time raises TimeoutError.
"""

import contextlib
import socket
import struct
from typing import Any, Self

from tests.support.backends import Address, family_of, make_socket
from tests.support.waiting import PATIENCE


class _Client:
    """What both kinds of clients have."""

    sock: socket.socket

    @property
    def name(self) -> Address:
        """Own address and source port."""
        return self.sock.getsockname()[:2]

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TcpClient(_Client):
    """One TCP (or unix:) connection."""

    def __init__(
        self,
        address: Any,
        *,
        source: Address | None = None,
        netns: str | None = None,
        timeout: float = PATIENCE,
        rcvbuf: int = 0,
    ) -> None:
        """Connect; address is (host, port) or the path of a unix socket."""
        host = address if isinstance(address, str) else address[0]
        self.sock = make_socket(family_of(host), socket.SOCK_STREAM, netns)
        self.sock.settimeout(timeout)
        try:
            if rcvbuf:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            if source:
                self.sock.bind(source)
            self.sock.connect(address)
        except BaseException:
            self.sock.close()
            raise

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def recv(self, size: int = 65536) -> bytes:
        """Return the next bytes, empty at the end of the stream."""
        return self.sock.recv(size)

    def recv_exactly(self, size: int) -> bytes:
        """Return that many bytes; raises EOFError if the stream ends before."""
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError(
                    f"the stream ended after {len(data)} of {size} bytes: {data[-200:]!r}"
                )
            data += piece
        return bytes(data)

    def recv_to_eof(self) -> bytes:
        """Return everything up to the end of the stream; a reset raises ConnectionResetError."""
        data = bytearray()
        while piece := self.sock.recv(65536):
            data += piece
        return bytes(data)

    def half_close(self) -> None:
        """Say that no more bytes will come, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def exchange(self, data: bytes, size: int | None = None) -> bytes:
        """Send and return the answer of that size (by default as long as what was sent)."""
        self.send(data)
        return self.recv_exactly(len(data) if size is None else size)


def tcp_exchange(
    address: Any,
    payload: bytes = b"",
    *,
    size: int | None = None,
    half_close: bool = False,
    source: Address | None = None,
    netns: str | None = None,
    timeout: float = PATIENCE,
) -> bytes:
    """Connect, send, and return the answer: size bytes of it, by default all up to the end.

    Args: half_close sends FIN after the payload, before reading.
    """
    with TcpClient(address, source=source, netns=netns, timeout=timeout) as client:
        if payload:
            client.send(payload)
        if half_close:
            client.half_close()
        return client.recv_to_eof() if size is None else client.recv_exactly(size)


class UdpClient(_Client):
    """One UDP socket that talks to one address, from one source port."""

    def __init__(
        self,
        address: Address,
        *,
        source: Address | None = None,
        netns: str | None = None,
        timeout: float = PATIENCE,
        connected: bool = True,
    ) -> None:
        """Bind; connected sockets hear of ICMP errors and of no other sender."""
        self.address = address
        self._connected = connected
        self.sock = make_socket(family_of(address[0]), socket.SOCK_DGRAM, netns)
        self.sock.settimeout(timeout)
        try:
            if source:
                self.sock.bind(source)
            if connected:
                self.sock.connect(address)
        except BaseException:
            self.sock.close()
            raise

    def send(self, data: bytes) -> None:
        """Send one datagram, which may be empty."""
        if self._connected:
            self.sock.send(data)
        else:
            self.sock.sendto(data, self.address)

    def recv(self) -> bytes:
        """Return the next datagram."""
        return self.sock.recv(65536)

    def recv_from(self) -> tuple[bytes, Address]:
        """Return the next datagram and where it came from."""
        data, source = self.sock.recvfrom(65536)
        return data, source[:2]

    def exchange(self, data: bytes) -> bytes:
        """Send one datagram and return the next one that comes."""
        self.send(data)
        return self.recv()

    def drain(self, quiet: float = 0.3) -> list[bytes]:
        """Return the datagrams that come until none did for that many seconds."""
        before = self.sock.gettimeout()
        self.sock.settimeout(quiet)
        found = []
        try:
            with contextlib.suppress(TimeoutError):
                while True:
                    found.append(self.recv())
        finally:
            self.sock.settimeout(before)
        return found


def udp_exchange(
    address: Address,
    payload: bytes,
    *,
    source: Address | None = None,
    netns: str | None = None,
    timeout: float = PATIENCE,
) -> bytes:
    """Send one datagram from a new source port and return the first that comes back."""
    with UdpClient(address, source=source, netns=netns, timeout=timeout) as client:
        return client.exchange(payload)
