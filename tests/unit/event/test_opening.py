"""Opening: slots, owners, and that nothing is left wherever an attempt ends."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event import libssl_context, opening, tasks, tls_client, tls_protocols
from ngxstream.event.loop import Loop
from ngxstream.event.opening import Slots
from ngxstream.event.probing import Target
from tests.support import descriptors
from tests.support.awaited import result, start
from tests.support.certs import Authority
from tests.support.engine import engine, run_until

V4 = int(socket.AF_INET)
STREAM, DGRAM = int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)
CONNECTIONS = 8
PROTOCOLS = tls_protocols.TLSV1_2 | tls_protocols.TLSV1_3


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop that has all its slots, and no descriptor, left at the end."""
    with engine(connections=CONNECTIONS) as made:
        before = descriptors.count()
        yield made
        made.turn(0)
        assert CONNECTIONS == made.free_connections
        assert before == descriptors.count()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Give a listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


async def _stream(address: Any, slots: Slots, secure: Any = None) -> opening.Opened:
    task: tasks.Task = await tasks.CurrentTask()
    return await opening.connection(
        task, Target(V4, address, "it", STREAM, secure=secure), 4096, slots
    )


def test_a_connection_belongs_to_its_task(loop: Loop, server: socket.socket) -> None:
    """Its slot is taken; with the task it is closed."""

    async def talk() -> bytes:
        opened = await _stream(server.getsockname(), Slots(loop, None))
        assert loop.free_connections == CONNECTIONS - 1
        opened.write(b"ping")
        return await opened.read()

    task = start(loop, talk())
    run_until(loop, lambda: loop.free_connections < CONNECTIONS)
    client, _ = server.accept()
    with client:
        client.send(b"pong")
        run_until(loop, lambda: task.is_over)
        assert b"pong" == task.result
        assert b"ping" == client.recv(10)
        loop.turn(0)
        assert b"" == client.recv(10)


def test_one_that_is_refused_says_so(loop: Loop) -> None:
    """The class that Python has for it."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError, match=r"connect\(\) to it failed"):
            result(loop, _stream(closed.getsockname(), Slots(loop, None)))


def test_without_slots_nothing_is_opened(loop: Loop, server: socket.socket) -> None:
    """The error says what is short."""
    loop.free_connections = 0
    with pytest.raises(OSError, match="8 worker_connections are not enough") as raised:
        result(loop, _stream(server.getsockname(), Slots(loop, None)))
    assert errno.EMFILE == raised.value.errno
    loop.free_connections = CONNECTIONS


def test_a_task_may_have_so_many(loop: Loop, server: socket.socket,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused; one that was closed makes room."""
    monkeypatch.setattr(tasks, "MOST_OWNED", 2)
    address, slots = server.getsockname(), Slots(loop, None)

    async def opens() -> None:
        first = await _stream(address, slots)
        await _stream(address, slots)
        with pytest.raises(OSError, match="2 connections"):
            await _stream(address, slots)
        first.close()
        await _stream(address, slots)

    result(loop, opens())


def test_slots_that_were_reserved_come_first(loop: Loop) -> None:
    """They are given back to the client's connection, and to all once that is closed."""
    c: Any = SimpleNamespace(reserved=1, closed=False)
    slots = Slots(loop, c)
    slots.take()
    assert (0, CONNECTIONS) == (c.reserved, loop.free_connections)
    slots.take()
    assert CONNECTIONS - 1 == loop.free_connections
    slots.give()
    assert (1, CONNECTIONS - 1) == (c.reserved, loop.free_connections)
    slots.give()
    slots.take()
    c.closed = True
    slots.give()
    assert CONNECTIONS + 1 == loop.free_connections  # the reserved one was taken off elsewhere
    loop.free_connections = CONNECTIONS


def test_a_datagram_socket_hears_of_its_peer_alone(loop: Loop) -> None:
    """What others send does not come."""
    kind = socket.SOCK_DGRAM
    with socket.socket(V4, kind) as peer, socket.socket(V4, kind) as other:
        peer.bind(("127.0.0.1", 0))

        async def talk() -> tuple[bytes, bytes]:
            task: tasks.Task = await tasks.CurrentTask()
            target = Target(V4, peer.getsockname(), "it", DGRAM, header=b"header:")
            opened = await opening.connection(task, target, 4096, Slots(loop, None))
            await opened.send(b"ping")
            return await opened.read(), await opened.read()

        task = start(loop, talk())
        data, address = peer.recvfrom(20)
        assert b"header:ping" == data
        other.sendto(b"forged", address)
        peer.sendto(b"", address)
        peer.sendto(b"pong", address)
        run_until(loop, lambda: task.is_over)
        assert (b"", b"pong") == task.result


def test_a_datagram_that_is_too_large_is_an_error(loop: Loop) -> None:
    """And nothing is left."""

    async def send() -> None:
        task: tasks.Task = await tasks.CurrentTask()
        target = Target(V4, ("127.0.0.1", 9), "it", DGRAM)
        opened = await opening.connection(task, target, 4096, Slots(loop, None))
        await opened.send(bytes(70_000))

    with pytest.raises(OSError) as raised:
        result(loop, send())
    assert errno.EMSGSIZE == raised.value.errno


def _secure(name: str, authority: Authority | None, **more: Any) -> tls_client.Secure:
    context = libssl_context.Context(PROTOCOLS, server_side=False)
    context.set_ciphers("DEFAULT")
    if authority is not None:
        context.verify_peer(9, ask=False)
        context.trust(str(authority.cert))
    return tls_client.Secure(context, name.encode(), True, authority is not None, **more)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give an authority."""
    return Authority(tmp_path_factory.mktemp("ca"))


class TlsServer:
    """One connection under TLS, each side taking its steps when it can."""

    def __init__(self, server: socket.socket, pair: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        context.sni_callback = self._heard  # type: ignore[assignment]
        self.name: str | None = None
        self.context = context
        self.server = server
        server.setblocking(False)
        self.sock: ssl.SSLSocket | None = None
        self.is_done = False

    def _heard(self, _: Any, name: str | None, __: Any) -> None:
        self.name = name

    def step(self) -> bool:
        """Go on. Returns: whether hands are shaken"""
        try:
            if self.sock is None:
                client, _ = self.server.accept()
                client.setblocking(False)
                self.sock = self.context.wrap_socket(
                    client, server_side=True, do_handshake_on_connect=False
                )
            if not self.is_done:
                self.sock.do_handshake()
                self.is_done = True
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLError):
            pass
        return self.is_done

    def close(self) -> None:
        """Close what there is."""
        if self.sock is not None:
            self.sock.close()


def _shaken(loop: Loop, server: socket.socket, pair: Any, secure: Any,
            then: Callable[[opening.Opened, TlsServer], Any]) -> tuple[tasks.Task, TlsServer]:
    made = TlsServer(server, pair)

    async def talk() -> Any:
        opened = await _stream(server.getsockname(), Slots(loop, None), secure)
        return await then(opened, made)

    task = start(loop, talk())
    run_until(loop, lambda: (made.step() and False) or task.is_over)
    return task, made


async def _ping(opened: opening.Opened, made: TlsServer) -> bytes:
    opened.write(b"ping")
    await opened.drain()
    while True:
        try:
            assert made.sock is not None
            return made.sock.recv(10)
        except (ssl.SSLWantReadError, OSError):
            made.step()
            await tasks.NextTurn()


def test_a_server_that_is_who_it_should_be(loop: Loop, server: socket.socket,
                                           authority: Authority) -> None:
    """The name goes by SNI, and the certificate is for it."""
    task, made = _shaken(loop, server, authority.issue("a.test"), _secure("a.test", authority),
                         _ping)
    made.close()
    assert task.error is None
    assert (b"ping", "a.test") == (task.result, made.name)


@pytest.mark.parametrize("case", ["another name", "another authority", "an address"])
def test_a_server_that_is_somebody_else(loop: Loop, server: socket.socket, authority: Authority,
                                        tmp_path: Path, case: str) -> None:
    """Its certificate is for another name, of nobody who is trusted, or for no address."""
    name, trusted = "a.test", authority
    if case == "another name":
        name = "b.test"
    elif case == "another authority":
        trusted = Authority(tmp_path, "another")
    more = {"has_address": True} if case == "an address" else {}
    secure = _secure("127.0.0.1" if more else name, trusted, **more)
    task, made = _shaken(loop, server, authority.issue("a.test", file=case.replace(" ", "")),
                         secure, _ping)
    made.close()
    assert isinstance(task.error, opening.CertificateError)
    assert "certificate" in str(task.error)
    task.error = None


def test_an_address_of_the_certificate_will_do(loop: Loop, server: socket.socket,
                                               authority: Authority) -> None:
    """Where the host was named by it: nothing goes by SNI."""
    pair = authority.issue("ip.test", more="subjectAltName=IP:127.0.0.1\n")
    secure = _secure("127.0.0.1", authority, has_address=True)
    task, made = _shaken(loop, server, pair, secure, _ping)
    made.close()
    assert task.error is None
    assert made.name is None


def test_a_handshake_with_no_tls_says_why(loop: Loop, server: socket.socket) -> None:
    """And leaves nothing."""

    async def talk() -> None:
        await _stream(server.getsockname(), Slots(loop, None), _secure("a.test", None))

    task = start(loop, talk())
    loop.turn(0)
    client, _ = server.accept()
    with client:
        client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        run_until(loop, lambda: task.is_over)
    assert isinstance(task.error, OSError)
    assert "SSL_do_handshake() failed" in str(task.error)
    task.error = None


@pytest.mark.parametrize("at", ["connect", "handshake", "read", "drain"])
def test_a_task_that_is_cancelled_leaves_nothing(loop: Loop, server: socket.socket,
                                                 at: str) -> None:
    """Wherever it waits."""

    async def talk() -> None:
        secure = _secure("a.test", None) if at == "handshake" else None
        opened = await _stream(server.getsockname(), Slots(loop, None), secure)
        if at == "drain":
            while not opened.out:
                opened.write(bytes(4096))
            await opened.drain()
        await opened.read()

    task = start(loop, talk())
    if at != "connect":
        for _ in range(3):
            loop.turn(0)
    assert not task.is_over
    task.cancel()
    assert isinstance(task.error, tasks.CancelledError)
    task.error = None
