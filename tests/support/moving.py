"""A worker that leaves and one that comes, both in the test's process, and a session between them.

Example::

    with World(tmp_path) as world:
        world.exchange(b"hello")
        world.hand_over()
        world.exchange(b"still there")
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from ngxstream.core import clock, files, log
from ngxstream.event.recycle import SocketPool
from ngxstream.ipc.codec import Record
from ngxstream.modules.proxy import udp_state
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.process import arrival, cycle, departure, handover, mailbox
from ngxstream.process import service as services
from ngxstream.process.options import Options
from ngxstream.stream import travel
from ngxstream.stream.session import Session
from tests.support import ports, strangers, tools
from tests.support.waiting import wait_until

CONF = """
pid {folder}/p.pid; error_log {folder}/error.log debug;
events {{ worker_connections 64; }}
stream {{
    {stream}
    map $remote_addr $short {{ ~^(127\\.0)\\.(.*)$ $1; }}
    log_format f "$short $status"; access_log {folder}/access.log f;
    server {{ listen 127.0.0.1:{port} udp; proxy_pass 127.0.0.1:{backend}; {server} }}
    server {{ listen 127.0.0.2:{port} udp; return nothing; }}
}}
"""


def flat(schema: Record, data: bytes) -> list[Any]:
    """Return what a record says, its numbers one by one: SERVER, KEY and the like are places."""
    numbers, *rest = schema.decode(data)
    return [*numbers, *rest]


def session_of(values: list[Any]) -> bytes:
    """Return a session of such values."""
    return travel.SESSION.encode((values[:9], *values[9:]))


def proxied_of(values: list[Any]) -> bytes:
    """Return a proxied session of such values."""
    return udp_state.PROXIED.encode((values[:15], *values[15:]))


# of a session
GENERATION, ADDRESS, SERVER, NUMBER, FAMILY, START_MS = 0, 1, 2, 3, 6, 8
SOCKADDR, KEY, STATES, VALUES, KEPT = 9, 11, 13, 14, 16
# of a proxied one
DEADLINE, REUSED, PEER = 3, 13, 16


class Place:
    """One worker: a loop, its listeners, its mailbox."""

    def __init__(self, made: cycle.Cycle, *, idle: bool) -> None:
        self.loop = services.make_loop(made, 0)
        self.service = services.Service(made, self.loop, 0, idle=idle)
        self.loop.free_connections -= self.service.count() + 1
        self.box = mailbox.Mailbox()
        self.arrival = arrival.Arrival(
            self.loop, self.service, self.box.reader, [self.box.writer], idle=idle, patience_ms=0,
            users=[strangers.NOBODY],
        )

    def only_session(self) -> Session:
        """Return the session of the only client."""
        (session,) = self.loop.sessions
        return session

    def close(self) -> None:
        """Close everything."""
        for session in list(self.loop.sessions):
            session.finalize(200)
        self.loop.turn(0)
        self.loop.get(SocketPool).close()
        self.loop.turn(0)
        self.box.close()
        self.loop.poller.close()


class World:
    """Both workers, a client and a backend."""

    def __init__(self, folder: Path, *, stream: str = "", server: str = "") -> None:
        self.backend = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.backend.bind(("127.0.0.1", 0))
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.bind(("127.0.0.1", 0))
        for sock in (self.backend, self.client):
            sock.setblocking(False)
        self.address = ("127.0.0.1", ports.free_port())
        self.log = folder / "error.log"
        (folder / "nginx.conf").write_text(
            CONF.format(folder=folder, port=self.address[1], stream=stream, server=server,
                        backend=self.backend.getsockname()[1])
        )
        file = files.OpenFile(str(folder / "e.log"))
        file.open()
        builtin = log.Log([log.FileTarget(file, log.NOTICE, clock.Clock())],
                          console=log.Console("nginx"))
        words = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "e.log"]
        self.cycle = cycle.Cycle(Options(words), builtin)
        self.cycle.commit(None)
        self.file = file
        self.old = Place(self.cycle, idle=False)
        self.new = Place(self.cycle, idle=True)
        self.key = self.cycle.listenings[0].options.key

    def turn(self, done: Callable[[], Any]) -> Any:
        """Turn both loops until something holds."""

        def look() -> Any:
            for place in (self.old, self.new):
                place.loop.turn(0)
            return done()

        return wait_until(look, every=0.001)

    def exchange(self, data: bytes) -> tuple[str, int]:
        """Send a datagram, have the backend echo it; return where the backend heard it from."""
        self.client.sendto(data, self.address)
        self.turn(lambda: has_datagram(self.backend))
        heard, source = self.backend.recvfrom(65536)
        assert data == heard
        self.backend.sendto(heard, source)
        self.turn(lambda: has_datagram(self.client))
        assert (data, self.address) == self.client.recvfrom(65536)
        return source

    def hand_over(self) -> None:
        """Have the one that leaves give everything to the one that comes."""
        plan = handover.Plan([self.new.box.writer], [self.key], [os.getpid()])
        done: list[int] = []
        departure.Departure(self.old.loop, self.old.service, plan, lambda: done.append(1))
        self.turn(lambda: done and self.new.arrival.settled)

    def parcel(self) -> tuple[list[Any], list[Any], Any]:
        """Take the old one's session out; return what it says of it, as values, and its socket."""
        session = self.old.only_session()
        proxy = session.content
        assert isinstance(proxy, UdpProxy)
        values = flat(travel.SESSION, travel.pack(session, self.old.service.places))
        _, data, (sock,) = proxy.pack()
        proxy.release()
        self.old.loop.call_all(session.abandon())
        self.old.loop.close_connection(session.c)
        return values, flat(udp_state.PROXIED, data), sock

    def record(
        self, values: list[Any], proxied: list[Any], *, where: Any = None,
        kind: str = udp_state.NAME, listed: bool = True, waiting: int = 0,
    ) -> bytes:
        """Return a session's hand-over record."""
        return handover.SESSION.encode(
            (where or self.key, session_of(values), kind, proxied_of(proxied), listed, waiting)
        )

    def post(
        self, values: list[Any], proxied: list[Any], fd: int, *, uid: int = 0, **more: Any
    ) -> None:
        """Give the new one a session as another worker would, of some user. See record()"""
        self.say(
            mailbox.SESSIONS, [self.record(values, proxied, **more)], b"\1", fds=[fd], uid=uid
        )

    def say(self, kind: int, *values: Any, fds: tuple[int, ...] | list[int] = (), uid: int = 0):
        """Put a message into the new one's mailbox as a user, and have it read."""
        self.put(kind, *values, fds=fds, uid=uid)
        self.new.loop.turn(0)

    def put(self, kind: int, *values: Any, fds: tuple[int, ...] | list[int] = (), uid: int = 0):
        """Put a message into the new one's mailbox as a user."""

        def speak() -> None:
            outbox = mailbox.Outbox(self.new.loop, self.new.box.writer)
            outbox.put(kind, *values, fds=fds)
            assert outbox.send()

        if uid:
            strangers.run_as(uid, speak)
        else:
            speak()

    def unread(self) -> int:
        """Return how many messages are in the new one's mailbox, and take them out."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while self.new.box.reader.recv(1):
                count += 1
        return count

    def warnings(self) -> list[str]:
        """Return what was refused."""
        return [line for line in self.log.read_text().splitlines() if "[warn]" in line]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for place in (self.old, self.new):
            place.close()
        self.client.close()
        self.backend.close()
        for listening in self.cycle.listenings:
            for sock in listening.socks:
                sock.close()
        self.cycle.files.close_all()
        self.file.close()


def has_datagram(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a world with a session in the old worker."""
    yield from _with_session(tmp_path)


@pytest.fixture(name="world")
def world_of_root(tmp_path: Path) -> Iterator[World]:
    """Give the same to tests that need another user."""
    tools.require_root()
    yield from _with_session(tmp_path)


def _with_session(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        made.exchange(b"one")
        yield made
