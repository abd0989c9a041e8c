"""Groups under health checks in one process: servers that come and go, workers turned by hand."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any, Self

import pytest

from ngxstream.core.log import Log
from ngxstream.core.shm_facts import Rows
from ngxstream.event.loop import Loop
from ngxstream.stream import health, peer_state
from ngxstream.stream.upstream import Peer, UpstreamConf
from tests.support.engine import engine
from tests.support.groups import Steered
from tests.support.in_process import LogTarget
from tests.support.moving_clock import MovingClock
from tests.support.waiting import wait_until

BITS = {0: "up", peer_state.UNHEALTHY: "unhealthy", peer_state.CHECKING: "checking"}


class Server:
    """A TCP server at a port of its own that serves or does not."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, up: bool = True) -> None:
        """Args: port: 0 for a free one"""
        self.sock = self._bound(host, port)
        self.address: tuple[str, int] = self.sock.getsockname()
        self.text = f"{host}:{self.address[1]}"
        self.accepted = 0
        self.silent: list[socket.socket] | None = None  # connections that are kept open
        self.is_up = False
        if up:
            self.rise()

    @staticmethod
    def _bound(host: str, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.setblocking(False)
        return sock

    def rise(self) -> None:
        """Listen."""
        self.sock.listen(100)
        self.is_up = True

    def fall(self) -> None:
        """Refuse connections; the port stays ours."""
        self.step()
        self.sock.close()
        self.sock = self._bound(*self.address)
        self.is_up = False

    def step(self) -> None:
        """Take the connections that are there, and end them unless it is silent."""
        while self.is_up:
            try:
                client, _ = self.sock.accept()
            except BlockingIOError:
                return
            self.accepted += 1
            if self.silent is None:
                client.close()
            else:
                self.silent.append(client)

    def close(self) -> None:
        """Be gone."""
        self.sock.close()
        for one in self.silent or ():
            one.close()


class Checked:
    """A stream block with checks, the workers that make them, and the servers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, workers: int = 1,
                 connections: int = 512) -> None:
        self.clock = MovingClock(monkeypatch)
        self.stack = contextlib.ExitStack()
        self.target = LogTarget()
        self.loops: list[Loop] = []
        self.servers: list[Server] = []
        self.helpers: list[Any] = []  # others that take a step in each turn, and are closed
        for n in range(workers):
            loop = self.stack.enter_context(engine(connections=connections))
            loop.worker, loop.workers, loop.pid = n, workers, 1000 + n
            loop.log = Log([self.target])  # type: ignore[list-item]
            self.loops.append(loop)
        self.loop = self.loops[0]
        self.rows = Rows()
        self.now: Steered
        self.former: list[Steered] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "now"):
            for loop in self.loops:
                self.now.stream.stop_worker(loop)
            self.now.built.zones.close()
            self.turn()
        self.stack.close()
        for server in (*self.servers, *self.helpers):
            server.close()

    def server(self, **more: Any) -> Server:
        """Make one more server."""
        self.servers.append(Server(**more))
        return self.servers[-1]

    def serve(self, text: str) -> Steered:
        """Serve a stream block, instead of the one before; nothing of its workers has run yet."""
        old = getattr(self, "now", None)
        new = Steered(self.loop, text, old=old)
        new.stream.facts.attach(self.rows)
        for loop in self.loops:
            loop.cells = self.rows.cells
            new.stream.start_worker(loop)
            if old is not None:
                old.stream.stop_worker(loop)
        if old is not None:
            old.built.zones.close(new.built.zones)
        self.now = new
        return new

    def turn(self) -> None:
        """Let everybody do what can be done now."""
        for loop in self.loops:
            loop.turn(0)
        for server in (*self.servers, *self.helpers):
            server.step()

    def move(self, ms: int, step: int = 100) -> None:
        """Let time pass, in small steps."""
        for _ in range(0, ms, step):
            self.clock.pass_by(step)
            for _ in range(3):
                self.turn()

    def until(self, done: Callable[[], Any]) -> None:
        """Turn until something is so; the clock is the real one."""

        def turned() -> Any:
            self.turn()
            return done()

        wait_until(turned)

    # -- what is to be seen ----------------------------------------------------------------------

    @property
    def conf(self) -> UpstreamConf:
        """The group."""
        return self.now.conf()

    def peers(self) -> dict[str, Peer]:
        """Return its servers by address."""
        conf = self.conf
        assert conf.balancer is not None
        catch_up = getattr(conf.balancer, "catch_up", None)
        if catch_up is not None:
            catch_up()
        tier = conf.balancer.tier
        found = {peer.name: peer for peer in tier.peers}
        return found | {peer.name: peer for peer in (tier.backup.peers if tier.backup else ())}

    def states(self) -> list[str]:
        """Return what checks say of the servers, as their status has it."""
        return [BITS[peer.state.status & health.BITS] for peer in self.peers().values()]

    def report(self, server: Server) -> health.Report:
        """Return what is counted of a server."""
        conf = self.conf
        assert conf.health is not None
        return conf.health.report(self.peers()[server.text])

    def checks(self, server: Server) -> int:
        """Return how many checks of it have ended."""
        return self.report(server).checks
