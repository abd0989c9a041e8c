"""Thousands of listening addresses: UDP sessions go on over crash, reload and upgrade."""

import contextlib
import os
import resource
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import descriptors, processes, tools
from tests.support.proxies import Ngxstream
from tests.support.waiting import wait_until

PATIENCE_S = 240.0  # thousands of sockets take a loaded machine a while
ALERTS = ("exited on signal 9",)


def address(n: int) -> str:
    """Return the n-th address of this machine that one port is listened at."""
    return f"127.1.{n // 250}.{n % 250 + 1}"


class Echo:
    """A backend that echoes, and knows the port each client's session came from last."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.sock.bind(("127.0.0.1", 0))
        self.ports: dict[bytes, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.sock.settimeout(0.1)
        while not self._over.is_set():
            try:
                data, source = self.sock.recvfrom(100)
            except TimeoutError:
                continue
            self.ports[data.split(b"|")[0]] = source[1]
            self.sock.sendto(data, source)

    def close(self) -> None:
        """Stop."""
        self._over.set()
        self._thread.join()
        self.sock.close()


CLIENTS = 37  # so many that each of two workers has about half of them


class Crowd:
    """Clients that have sessions at all of the addresses.

    A session is named in each of its datagrams: what comes back has to be its own.
    """

    def __init__(self, addresses: int, sessions: int, port: int) -> None:
        self._port = port
        self.names = [
            ((n + n // addresses) % CLIENTS, n % addresses) for n in range(sessions)
        ]
        assert len(set(self.names)) == sessions
        self._socks = []
        self._poll = selectors.DefaultSelector()
        for n in range(CLIENTS):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            self._poll.register(sock, selectors.EVENT_READ, n)
            self._socks.append(sock)

    def round(self, word: str, window: int = 200) -> int:
        """Exchange a datagram in every session; return how many were answered at once.

        One that is not answered for a while is sent again: what is asked here is whose session
        it is. An answer that is another session's fails.
        """
        missing: dict[bytes, float] = {}
        waiting = list(reversed(self.names))
        again = 0
        end = time.monotonic() + PATIENCE_S
        while waiting or missing:
            assert time.monotonic() < end, f"no answer in {len(missing) + len(waiting)} sessions"
            now = time.monotonic()
            while waiting and len(missing) < window:
                client, at = waiting.pop()
                missing[self._send(client, at, word)] = now
            for key, _ in self._poll.select(0.2):
                sock: socket.socket = key.fileobj  # type: ignore[assignment]
                with contextlib.suppress(BlockingIOError):
                    while True:
                        data, source = sock.recvfrom(100)
                        client, at = map(int, data.split(b"|")[0].split(b","))
                        assert (client, address(at)) == (key.data, source[0])
                        missing.pop(data, None)
            for data, sent in list(missing.items()):
                if now - sent > 3:
                    again += 1
                    client, at = map(int, data.split(b"|")[0].split(b","))
                    self._send(client, at, word)
                    missing[data] = now
        return len(self.names) - again

    def _send(self, client: int, at: int, word: str) -> bytes:
        data = f"{client},{at}|{word}".encode()
        self._socks[client].sendto(data, (address(at), self._port))
        return data

    def close(self) -> None:
        """Stop."""
        self._poll.close()
        for sock in self._socks:
            sock.close()


@contextlib.contextmanager
def world(
    tmp_path: Path, udp: int, tcp: int, sessions: int
) -> Iterator[tuple[Ngxstream, Crowd, Echo]]:
    """Give the running program, its clients and their backend."""
    echo = Echo()
    listens = " ".join(f"listen {address(n)}:@main@ udp;" for n in range(udp))
    streams = " ".join(f"listen {address(n)}:@main@;" for n in range(tcp))
    conf = f"""
        worker_processes 2; events {{ worker_connections 30000; }} stream {{
            server {{
                {listens} proxy_pass 127.0.0.1:{echo.sock.getsockname()[1]}; proxy_timeout 1h;
            }}
            {f'server {{ {streams} return tcp; }}' if tcp else ''}
        }}"""
    running = Ngxstream(conf, tmp_path, expected=ALERTS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with descriptors.room_for_many(min(hard, 20_000)), contextlib.closing(echo):
        running.start(PATIENCE_S)
        with contextlib.closing(Crowd(udp, sessions, running.port("main"))) as crowd:
            try:
                yield running, crowd, echo
                running.stop(timeout=PATIENCE_S)
                running.assert_healthy()
            finally:
                running.kill()


def begun(running: Ngxstream, but: set[int]) -> None:
    """Wait until both workers of the present master serve, and no others of `but`."""
    wait_until(
        lambda: len(set(running.worker_pids()) - but) == 2 and running._serving(but) == 2,
        PATIENCE_S, "the new workers serve",
    )


@pytest.mark.root
@pytest.mark.parametrize(
    ("udp", "tcp", "sessions"),
    [
        (300, 300, 600),
        pytest.param(3000, 0, 3000, marks=pytest.mark.slow, id="3000"),
        pytest.param(8000, 0, 10_000, marks=pytest.mark.slow, id="8000"),
    ],
)
def test_sessions_go_on_whatever_the_number_of_listeners(
    tmp_path: Path, udp: int, tcp: int, sessions: int
) -> None:
    """The server hears every session from the same port, after a killed master, HUP and USR2."""
    tools.require_root()
    with world(tmp_path, udp, tcp, sessions) as (running, crowd, echo):
        crowd.round("first")
        before = dict(echo.ports)
        assert sessions == len(before)

        old = set(running.worker_pids())
        os.kill(running.pid, signal.SIGKILL)
        assert running._process is not None
        running._process.wait()
        running.wait_log("the master process is gone, serving on", count=2)
        running.start(PATIENCE_S)
        begun(running, old)
        crowd.round("restarted")
        assert before == echo.ports

        running.reload(timeout=PATIENCE_S)
        crowd.round("reloaded")
        assert before == echo.ports

        master = running.pid
        os.kill(master, signal.SIGUSR2)
        wait_until(lambda: running.pid not in (0, master), PATIENCE_S, "the new master")
        begun(running, set())
        crowd.round("beside")
        os.kill(master, signal.SIGQUIT)
        wait_until(lambda: not processes.is_alive(master), PATIENCE_S, "the old master leaves")
        crowd.round("upgraded")
        assert before == echo.ports
        warned = [line for line in running.error_log() if "[warn]" in line]
        assert [] == [line for line in warned if "exceed open file resource limit" not in line]
