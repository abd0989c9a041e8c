"""In-process servers that do what a test says and record what they saw.

A TCP backend runs a script per connection in a thread of its own; a UDP backend answers each
datagram by a function. All bind port 0 unless told otherwise, and stop when their ``with`` ends.
Ready scripts: echo, tagged, greet, silent, reset, half_close; ready answers: udp_echo, udp_tagged,
udp_silent, udp_many.
"""

import contextlib
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support import netns as namespaces
from tests.support import ports
from tests.support.waiting import PATIENCE, wait_until

Address = tuple[str, int]


def family_of(host: str) -> socket.AddressFamily:
    """Return the address family of a numeric host or a unix path (it has a slash)."""
    if "/" in host:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def make_socket(
    family: socket.AddressFamily, kind: socket.SocketKind, netns: str | None = None
) -> socket.socket:
    """Return a socket, of the namespace with that name if one is given."""
    if netns is None:
        return socket.socket(family, kind)
    return namespaces.in_netns(netns, lambda: socket.socket(family, kind))


def _is_ready(sock: socket.socket, event: int) -> bool:
    """Wait a moment for an event of a socket; poll, since select fails past 1024 descriptors."""
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(50))


@dataclass(slots=True)
class Conversation:
    """One connection a TCP backend accepted, as its script drives it."""

    sock: socket.socket
    peer: Address  # the proxy's own address and source port
    number: int  # from 1, in the order accepted
    stopping: threading.Event
    received: bytearray = field(default_factory=bytearray)
    saw_eof: bool = False
    error: OSError | None = None  # what ended the connection, if it was an error

    def recv(self, size: int = 65536) -> bytes:
        """Return the next bytes; empty at the end of the stream or when the backend stops."""
        while not self.stopping.is_set():
            if _is_ready(self.sock, select.POLLIN):
                data = self.sock.recv(size)
                self.received += data
                self.saw_eof = not data
                return data
        return b""

    def recv_exactly(self, size: int) -> bytes:
        """Return that many bytes, fewer at the end of the stream."""
        data = b""
        while len(data) < size:
            piece = self.recv(size - len(data))
            if not piece:
                break
            data += piece
        return data

    def recv_to_eof(self) -> bytes:
        """Return everything up to the end of the stream."""
        return b"".join(iter(self.recv, b""))

    def send(self, data: bytes) -> None:
        """Send all of it; gives up when the backend stops."""
        view = memoryview(data)
        self.sock.setblocking(False)
        try:
            while view and not self.stopping.is_set():
                if _is_ready(self.sock, select.POLLOUT):
                    with contextlib.suppress(BlockingIOError):
                        view = view[self.sock.send(view) :]
        finally:
            self.sock.setblocking(True)

    def half_close(self) -> None:
        """Say that no more bytes will come, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def hold(self) -> None:
        """Do nothing until the backend stops."""
        self.stopping.wait()


Script = Callable[[Conversation], None]


def echo(conversation: Conversation) -> None:
    """Send back what comes, until the end of the stream."""
    while data := conversation.recv():
        conversation.send(data)


def tagged(name: str) -> Script:
    """Answer every piece with the name before it: ``name:piece``."""

    def script(conversation: Conversation) -> None:
        while data := conversation.recv():
            conversation.send(name.encode() + b":" + data)

    return script


def greet(data: bytes) -> Script:
    """Send the bytes at once, without reading, and close."""
    return lambda conversation: conversation.send(data)


def silent(conversation: Conversation) -> None:
    """Read everything and never answer; close when the peer does."""
    conversation.recv_to_eof()


def reset(conversation: Conversation) -> None:
    """Reset the connection at its first bytes."""
    conversation.recv()
    conversation.reset()


def half_close(reply: bytes) -> Script:
    """Read to the end of the stream, then answer: works only if half-closes are passed on."""

    def script(conversation: Conversation) -> None:
        conversation.recv_to_eof()
        conversation.send(reply)

    return script


class TcpBackend:
    """A TCP (or unix:) server that runs a script for each connection."""

    def __init__(
        self,
        script: Script = echo,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        netns: str | None = None,
        backlog: int = 128,
        accepting: bool = True,
    ) -> None:
        """Bind, listen and serve.

        Args: host is numeric, or a path for a unix socket; accepting False leaves connections in
        the backlog (established for the client, never answered).
        """
        self.script = script
        self.conversations: list[Conversation] = []
        family = family_of(host)
        self._sock = make_socket(family, socket.SOCK_STREAM, netns)
        if family == socket.AF_UNIX:
            self._sock.bind(host)
            self.address: Any = host
        else:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.bind((host, port))
            self.address = self._sock.getsockname()[:2]
        self._sock.listen(backlog)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        if accepting:
            self._spawn(self._accept)

    @property
    def port(self) -> int:
        """The port it is bound to."""
        return int(self.address[1])

    @property
    def text(self) -> str:
        """The address as a configuration writes it."""
        return address_text(self.address)

    @property
    def accepted(self) -> int:
        """How many connections were accepted so far."""
        return len(self.conversations)

    @property
    def received(self) -> bytes:
        """All bytes of all connections, in the order the connections were accepted."""
        return b"".join(bytes(c.received) for c in list(self.conversations))

    def wait_accepted(self, count: int, timeout: float = PATIENCE) -> list[Conversation]:
        """Wait until that many connections were accepted; return them all."""
        wait_until(lambda: self.accepted >= count, timeout, f"{count} connections accepted")
        return list(self.conversations)

    def wait_ended(self, count: int, timeout: float = PATIENCE) -> None:
        """Wait until that many connections saw the end of the stream or an error."""

        def ended() -> bool:
            over = [c for c in list(self.conversations) if c.saw_eof or c.error]
            return len(over) >= count

        wait_until(ended, timeout, f"{count} connections ended")

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if not _is_ready(self._sock, select.POLLIN):
                continue
            try:
                sock, peer = self._sock.accept()
            except OSError:  # reset while it waited in the backlog, or this backend is closed
                continue
            number = len(self.conversations) + 1
            conversation = Conversation(sock, peer[:2] if peer else ("", 0), number, self._stopping)
            self.conversations.append(conversation)
            self._spawn(self._converse, conversation)

    def _converse(self, conversation: Conversation) -> None:
        with conversation.sock:
            try:
                self.script(conversation)
            except OSError as error:
                conversation.error = error

    def close(self) -> None:
        """Stop listening and end all connections."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Answer = Callable[[bytes, Address], Iterable[bytes]]


def udp_echo(data: bytes, _: Address) -> Iterable[bytes]:
    """Answer with the datagram itself."""
    return (data,)


def udp_silent(_: bytes, __: Address) -> Iterable[bytes]:
    """Never answer."""
    return ()


def udp_tagged(name: str) -> Answer:
    """Answer each datagram with the name before it: ``name:datagram``."""
    return lambda data, _: (name.encode() + b":" + data,)


def udp_many(count: int) -> Answer:
    """Answer each datagram that many times: ``1:datagram``, ``2:datagram`` …"""
    return lambda data, _: [b"%d:%s" % (n, data) for n in range(1, count + 1)]


class UdpBackend:
    """A UDP server that answers each datagram by a function; records (datagram, source)."""

    def __init__(
        self,
        answer: Answer = udp_echo,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        netns: str | None = None,
        rcvbuf: int = 0,
    ) -> None:
        """Bind and serve; rcvbuf in bytes sets the receive buffer if not 0."""
        self.answer = answer
        self.seen: list[tuple[bytes, Address]] = []
        self._sock = make_socket(family_of(host), socket.SOCK_DGRAM, netns)
        if rcvbuf:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self._sock.bind((host, port))
        self.address: Address = self._sock.getsockname()[:2]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it is bound to."""
        return self.address[1]

    @property
    def text(self) -> str:
        """The address as a configuration writes it."""
        return address_text(self.address)

    @property
    def datagrams(self) -> list[bytes]:
        """The datagrams that came, in order."""
        return [data for data, _ in list(self.seen)]

    @property
    def sources(self) -> Counter[Address]:
        """How many datagrams came from each source address and port."""
        return Counter(source for _, source in list(self.seen))

    def wait_seen(self, count: int, timeout: float = PATIENCE) -> list[bytes]:
        """Wait until that many datagrams came; return them all."""
        wait_until(lambda: len(self.seen) >= count, timeout, f"{count} datagrams at the backend")
        return self.datagrams

    def send(self, data: bytes, to: Address) -> None:
        """Send a datagram from the backend's own address, asked or not."""
        self._sock.sendto(data, to)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            if not _is_ready(self._sock, select.POLLIN):
                continue
            try:
                data, source = self._sock.recvfrom(65536)
            except ConnectionRefusedError:
                continue  # an answer met a closed port
            self.seen.append((data, source[:2]))
            for reply in self.answer(data, source[:2]):
                self._sock.sendto(reply, source)

    def close(self) -> None:
        """Stop serving and close the socket: from then on the port refuses."""
        self._stopping.set()
        self._thread.join(PATIENCE)
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def refusing_tcp(host: str = "127.0.0.1", netns: str | None = None) -> Iterator[Address]:
    """Yield an address that refuses TCP connections, kept so while the ``with`` lasts.

    The socket is bound and never listens: the kernel answers RST, nobody else gets the port.
    """
    with make_socket(family_of(host), socket.SOCK_STREAM, netns) as sock:
        sock.bind((host, 0))
        yield sock.getsockname()[:2]


def refusing_udp(host: str = "127.0.0.1") -> Address:
    """Return an address where datagrams meet ICMP port unreachable."""
    return host, ports.free_udp_port()


def address_text(address: Any) -> str:
    """Return an address as a configuration writes it: 1.2.3.4:5, [::1]:5, unix:/path."""
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class BackendFactory:
    """Starts backends for a test; all are closed at its end."""

    def __init__(self) -> None:
        """Start none yet."""
        self._made: list[TcpBackend | UdpBackend] = []

    def tcp(self, *args: Any, **options: Any) -> TcpBackend:
        """Return a serving TcpBackend made with these arguments."""
        made = TcpBackend(*args, **options)
        self._made.append(made)
        return made

    def udp(self, *args: Any, **options: Any) -> UdpBackend:
        """Return a serving UdpBackend made with these arguments."""
        made = UdpBackend(*args, **options)
        self._made.append(made)
        return made

    def finish(self) -> None:
        """Close all."""
        for made in self._made:
            made.close()
