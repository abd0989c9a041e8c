"""HTTP/3 by aioquic: servers in a thread of their own, and a client. For tests that have aioquic.

The extra `interop` installs it; tests ask tools.require_module() before they import this.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import SessionTicket

from tests.support import certs
from tests.support.certs import Authority
from tests.support.waiting import PATIENCE

VERSIONS = {"v1": QuicProtocolVersion.VERSION_1, "v2": QuicProtocolVersion.VERSION_2}


def payload(name: str, size: int) -> bytes:
    """Return a body of which each part says where it is of."""
    word = f"{name} {size} ".encode()
    return (word * (size // len(word) + 1))[:size]


class _Protocol(QuicConnectionProtocol):
    """One connection that speaks HTTP/3."""

    http: H3Connection | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        """Hand events of streams to HTTP."""
        if isinstance(event, ProtocolNegotiated):
            self.http = self.http or H3Connection(self._quic)
        elif isinstance(event, ConnectionTerminated):
            self.on_end(event)
        if self.http is not None:
            for one in self.http.handle_event(event):
                self.on_http(one)

    def on_end(self, event: ConnectionTerminated) -> None:
        """Note that the connection is over."""

    def on_http(self, event: Any) -> None:
        """Take an event of HTTP."""


class _Server(_Protocol):
    """The server's side: answers each request with its own name and the path."""

    def __init__(self, *args: Any, name: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.name = name

    def on_http(self, event: Any) -> None:
        """Answer a request."""
        if isinstance(event, HeadersReceived):
            path = dict(event.headers)[b":path"].decode()
            assert self.http is not None
            body = f"{self.name}{path}".encode()
            if path.startswith("/bytes/"):
                body = payload(self.name, int(path.removeprefix("/bytes/")))
            self.http.send_headers(event.stream_id, [(b":status", b"200")])
            self.http.send_data(event.stream_id, body, end_stream=True)
            self.transmit()


class Servers:
    """HTTP/3 servers, one for each name, with certificates of one authority."""

    def __init__(self, authority: Authority, *names: str, retry: bool = False) -> None:
        """Serve on ports of the system's choice. Args: retry: answer first packets with a Retry"""
        self.ports: dict[str, int] = {}
        self.pins: dict[str, str] = {}  # of the servers' keys, as browsers take them
        self._tickets: dict[bytes, SessionTicket] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers = []
        for name in names:
            pair = authority.issue(name)
            configuration = QuicConfiguration(
                is_client=False, alpn_protocols=H3_ALPN,
                supported_versions=list(VERSIONS.values()),
            )
            configuration.load_cert_chain(str(pair.cert), str(pair.key))
            self.pins[name] = certs.pin(pair)
            self._servers.append(self._run(partial(
                serve, "127.0.0.1", 0, configuration=configuration, retry=retry,
                create_protocol=partial(_Server, name=name),
                session_ticket_fetcher=lambda label: self._tickets.pop(label, None),
                session_ticket_handler=lambda ticket: self._tickets.update({ticket.ticket: ticket}),
            )))
            transport = self._servers[-1]._transport
            self.ports[name] = transport.get_extra_info("sockname")[1]

    def _run(self, make: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        async def close() -> None:
            for server in self._servers:
                server.close()
            await asyncio.sleep(0)  # the transports are closed in the next turn

        self._run(close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


class _Client(_Protocol):
    """The client's side: one request at a time."""

    patience_s = PATIENCE

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._body = bytearray()

    async def get(self, name: str, path: str) -> str:
        """Ask for a path; return the body of the answer."""
        self.http = self.http or H3Connection(self._quic)
        stream = self._quic.get_next_available_stream_id()
        self.http.send_headers(stream, [
            (b":method", b"GET"), (b":scheme", b"https"), (b":authority", name.encode()),
            (b":path", path.encode()),
        ], end_stream=True)
        self.transmit()
        return await asyncio.wait_for(self._answer, self.patience_s)

    def on_body(self, size: int) -> None:
        """Note how much of it is there."""

    def on_end(self, event: ConnectionTerminated) -> None:
        """Have who waits for an answer know that there will be none."""
        if not self._answer.done():
            self._answer.set_exception(ConnectionError(event.reason_phrase))
            self._answer.exception()

    def on_http(self, event: Any) -> None:
        """Put the answer together."""
        if isinstance(event, DataReceived):
            self._body += event.data
            self.on_body(len(self._body))
            if event.stream_ended and not self._answer.done():
                self._answer.set_result(self._body.decode())


class _Hand(asyncio.DatagramProtocol):
    """What hears for a client at an address that it has moved to."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Hand on what came."""
        self._client.datagram_received(data, addr)


class _Mover(_Client):
    """A client whose address changes while an answer comes, as behind a NAT that forgets it."""

    patience_s = 4 * PATIENCE  # what is lost on the way comes again after longer and longer
    moves: list[int]  # sizes of the body at which it does
    moved = 0
    updates = 0

    def on_body(self, size: int) -> None:
        """Move where it is time to."""
        if self.moves and size >= self.moves[0]:
            self.moves.pop(0)
            self._task = asyncio.ensure_future(self.move())

    async def move(self) -> None:
        """Send from another port from now on, and hear nothing at the former one."""
        old: Any = self._transport
        host, *_ = old.get_extra_info("sockname")
        made, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Hand(self), sock=_bound(host)
        )
        self._transport = made
        old.close()
        self.moved += 1
        await asyncio.wait_for(self.ping(), self.patience_s)  # as a client does whose answers stop

    async def get(self, name: str, path: str) -> str:
        """Ask for a path, and close what was moved to."""
        try:
            return await super().get(name, path)
        finally:
            if self.moved:
                await self._task


def _bound(host: str) -> socket.socket:
    """Return a socket like those that aioquic's connect() makes."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((host, 0, 0, 0))
    return sock


@dataclass
class Told:
    """What came of one connection."""

    body: str
    was_resumed: bool
    early_data: bool  # the server took what was sent with the hello
    had_retry: bool
    version: int
    tickets: list[SessionTicket] = field(default_factory=list)


def configuration_of(
    name: str, *, version: str = "v1", alpn: tuple[str, ...] = (), is_large: bool = False
) -> QuicConfiguration:
    """Return what a client wants.

    Args: alpn: more protocols that are offered; is_large: transport parameters of more than a
    datagram
    """
    first = VERSIONS[version]
    return QuicConfiguration(
        is_client=True, alpn_protocols=[*H3_ALPN, *alpn], server_name=name,
        quantum_readiness_test=is_large, original_version=first,
        supported_versions=[first, *(one for one in VERSIONS.values() if one != first)],
    )


def first_flight(configuration: QuicConfiguration) -> list[bytes]:
    """Return the datagrams that a client begins with."""
    connection = QuicConnection(configuration=configuration)
    connection.connect(("127.0.0.1", 443), now=0.0)
    return [datagram for datagram, _ in connection.datagrams_to_send(now=0.0)]


def get(
    address: tuple[str, int], name: str, path: str, *, authority: Authority,
    ticket: SessionTicket | None = None, **wanted: Any,
) -> Told:
    """Connect, ask for a path, close.

    Args: ticket: of an earlier connection, with which the request goes at once (0-RTT); wanted: as
    of configuration_of()
    """
    configuration = configuration_of(name, **wanted)
    configuration.cafile, configuration.verify_mode = str(authority.cert), ssl.CERT_REQUIRED
    configuration.session_ticket = ticket
    tickets: list[SessionTicket] = []

    async def ask() -> Told:
        connected = connect(
            *address, configuration=configuration, create_protocol=_Client,
            session_ticket_handler=tickets.append, wait_connected=ticket is None,
        )
        async with connected as client:
            body = await client.get(name, path)
            inner = client._quic
            return Told(
                body, inner.tls.session_resumed, inner.tls.early_data_accepted,
                inner._retry_source_connection_id is not None, inner._version, tickets,
            )

    return asyncio.run(ask())


async def download(
    address: tuple[str, int], name: str, size: int, *, authority: Authority,
    moves: tuple[int, ...] = (), updates: bool = False, ticket: SessionTicket | None = None,
    tickets: list[SessionTicket] | None = None, **wanted: Any,
) -> int:
    """Connect, load so many bytes while the address changes, close.

    Args: moves: how many have come when it does; updates: the keys change in the middle; ticket: of
    an earlier connection, with which the request goes at once (0-RTT); tickets: gets new ones.
    Returns: how often the address has changed. Raises: AssertionError where the bytes are others
    """
    configuration = configuration_of(name, **wanted)
    configuration.cafile, configuration.verify_mode = str(authority.cert), ssl.CERT_REQUIRED
    configuration.session_ticket = ticket
    client: Any = None
    try:
        async with connect(
            *address, configuration=configuration, create_protocol=_Mover,
            wait_connected=ticket is None,
            session_ticket_handler=None if tickets is None else tickets.append,
        ) as client:
            client.moves = list(moves)
            if updates:
                client.request_key_update()
            body = await client.get(name, f"/bytes/{size}")
            assert body.encode() == payload(name, size)
            assert (ticket is not None) == client._quic.tls.early_data_accepted
            moved: int = client.moved
            return moved
    finally:
        if client is not None:
            client._transport.close()
