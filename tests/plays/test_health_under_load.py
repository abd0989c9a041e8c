"""Health checks under a steady load: a real server of a group is stopped, and started again.

Only checks decide here: failures of sessions are not counted (`max_fails=0`), and nobody is tried
after one (`proxy_next_upstream off`). Each request is a connection, or a socket, of its own; it
says what a probe of the protocol says, and is served when that is content.
"""

from __future__ import annotations

import functools
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event.loop import Loop
from ngxstream.event.probing import Outcome, Probing, Target
from ngxstream.wire import probes
from tests.support import api_calls, real_servers
from tests.support.api_calls import PLUS
from tests.support.certs import Authority, Pair
from tests.support.dns import Dnsmasq
from tests.support.engine import engine, run_until
from tests.support.proxies import Proxy, ProxyFactory

RATE = 200  # requests a second, at most
SERVERS = 3
FAILS, INTERVAL_MS, TIMEOUT_MS = 2, 400, 400
# of a server: from one check that passes to the FAILS-th that does not, be each as late as it may
BLIND_MS = FAILS * (INTERVAL_MS + TIMEOUT_MS)
PATIENCE_MS = 3000  # of a client

Start = Callable[[Path, int], AbstractContextManager[Any]]


def dnsmasq(folder: Path, port: int) -> Dnsmasq:
    """Run one that knows a name."""
    return Dnsmasq({"www.test": ["192.0.2.1"]}, folder=folder, port=port)


def tls(folder: Path, port: int) -> AbstractContextManager[Any]:
    """Run nginx with TLS."""
    ca = folder / "ca"
    pair = Pair(ca / "www.test.crt", ca / "www.test.key")
    if not ca.exists():
        pair = Authority(ca).issue("www.test")
    return real_servers.nginx(folder, "return 200;", pair, port=port)


# what clients and checks say, over what, the parameters, what serves it, and more of the server
KINDS: dict[str, tuple[str, bool, dict[str, str], Start, str, str]] = {
    "dnsmasq": ("dns", True, {"name": "www.test"}, dnsmasq, "udp type=dns name=www.test", ""),
    "redis": ("redis", False, {}, lambda folder, port: real_servers.redis(
        folder, "--save", "", port=port), "type=redis", ""),
    "nginx": ("http", False, {}, tls, "type=tls", "proxy_ssl on;"),
    "mosquitto": ("mqtt", False, {}, lambda folder, port: real_servers.mosquitto(
        folder, "allow_anonymous true", port=port), "type=mqtt", ""),
    "postgres": ("pgsql", False, {}, lambda folder, port: real_servers.postgres(
        folder, port=port), "type=pgsql", ""),
    "exim": ("smtp", False, {}, lambda folder, port: real_servers.exim(
        folder, "smtp_accept_max = 0", port=port), "type=smtp", ""),
    "freeradius": ("radius", True, {"secret": "s"}, lambda folder, port: real_servers.freeradius(
        folder, "s", port=port), "type=radius secret=s", ""),
}


class Load:
    """A steady load: no more than RATE requests a second, whatever becomes of those before."""

    def __init__(self, loop: Loop, address: tuple[str, int], kind: str) -> None:
        about, self._udp, self._options, *_ = KINDS[kind]
        self._loop = loop
        make = probes.KINDS[about].udp if self._udp else probes.KINDS[about].tcp
        assert make is not None
        self._make = make
        self._target = Target(
            socket.AF_INET, address, "it", socket.SOCK_DGRAM if self._udp else socket.SOCK_STREAM
        )
        self.begun = 0
        self.open: set[int] = set()  # numbers of those that are neither served nor failed yet
        self.failed: dict[int, str] = {}  # why, by number
        self.is_on = True
        self._loop.call_later(1, self._next)

    def _next(self) -> None:
        if not self.is_on:
            return
        self._loop.call_later(1000 // RATE, self._next)  # a machine that is late catches up nothing
        self.begun += 1
        self.open.add(self.begun)
        Probing(
            self._loop, self._target, self._make(self._options), PATIENCE_MS, 16384,
            functools.partial(self._done, self.begun), probes.ProbeError,
        ).begin()

    def _done(self, number: int, outcome: Outcome) -> None:
        self.open.discard(number)
        if not outcome.passed:
            self.failed[number] = outcome.text

    @property
    def under_way(self) -> int:
        """How many are neither served nor failed yet."""
        return len(self.open)

    def run(self, until: Callable[[], bool]) -> None:
        """Go on until something is so."""
        run_until(self._loop, until)

    def serve(self, count: int) -> None:
        """Go on until so many more were begun, and see that all of them are served."""
        first = self.begun
        self.run(lambda: self.begun >= first + count)
        self.is_on = False
        self.run(lambda: not self.under_way)
        assert not {n: why for n, why in self.failed.items() if n > first}
        self.is_on = True
        self._next()


class Seen:
    """What the API says of the group; asked twice a second at most."""

    def __init__(self, program: Proxy, loop: Loop) -> None:
        self._program = program
        self._loop = loop
        self._asked_ms = 0
        self._peers: dict[str, dict[str, Any]] = {}

    def peers(self) -> dict[str, dict[str, Any]]:
        """Return its servers by address."""
        if self._loop.now_ms - self._asked_ms > 500:
            found = api_calls.get(self._program, f"{PLUS}/stream/upstreams/u")["peers"]
            self._peers = {peer["server"]: peer for peer in found}
            self._asked_ms = self._loop.now_ms
        return self._peers

    def states(self) -> set[str]:
        """Return the states that there are."""
        return {peer["state"] for peer in self.peers().values()}


@contextmanager
def group(start: Start) -> Iterator[list[tuple[Any, Path]]]:
    """Run the servers of a group, each in a folder of its own.

    Some are other users', for whom pytest's folders are closed whenever another pytest begins.
    """
    with ExitStack() as stack:
        servers = []
        for _ in range(SERVERS):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers.append((stack.enter_context(start(folder, 0)), folder))
        yield servers


@pytest.mark.parametrize("kind", KINDS)
def test_clients_see_a_stopped_server_until_its_checks_do(
    ngxstream: ProxyFactory, kind: str
) -> None:
    """No failure after that, and none when it is back, which has its part of the load again."""
    _, udp, _, start, words, more = KINDS[kind]
    with group(start) as servers, engine(connections=4096) as loop:
        lines = "".join(f"server 127.0.0.1:{one.port} max_fails=0; " for one, _ in servers)
        program = ngxstream(
            "worker_processes 2; error_log logs/error.log info; events {} stream { upstream u { "
            f"{lines} }} proxy_next_upstream off; health_check_timeout {TIMEOUT_MS}ms; "
            f"server {{ listen 127.0.0.1:@in@ {'udp' if udp else ''}; proxy_pass u; {more} "
            f"{'proxy_responses 1;' if udp else ''} proxy_timeout 3s; health_check "
            f"interval={INTERVAL_MS}ms fails={FAILS} {words}; }} "
            "server { listen 127.0.0.1:@api@; api; } }"
        )
        seen = Seen(program, loop)
        load = Load(loop, program.address("in"), kind)
        load.run(lambda: all(
            peer["state"] == "up" and peer["connections"] and peer["health_checks"]["checks"]
            for peer in seen.peers().values()
        ) and load.begun > RATE)
        assert not load.failed
        stopped, folder = servers[0]
        name = f"127.0.0.1:{stopped.port}"
        begun, first = set(load.open), load.begun + 1  # on a busy machine not the latest alone
        under_way = len(begun)
        stop(stopped)
        load.run(lambda: seen.peers()[name]["state"] == "unhealthy")
        last = load.begun
        load.serve(RATE)
        assert {"up", "unhealthy"} == seen.states()
        assert {number for number in load.failed if number < first} <= begun
        bound = BLIND_MS * RATE // 1000 // SERVERS + under_way + 1
        assert 0 < len(load.failed) <= bound
        assert len(load.failed) <= (last - first + 1) // SERVERS + under_way + 1
        before = seen.peers()[name]["connections"]
        failed = len(load.failed)
        with start(folder, stopped.port):
            load.run(lambda: seen.peers()[name]["connections"] >= before + 50)
            load.serve(RATE)
            assert {"up"} == seen.states()
            load.is_on = False
            load.run(lambda: not load.under_way)
        assert failed == len(load.failed)
        assert 1 == seen.peers()[name]["health_checks"]["unhealthy"]


def stop(server: Any) -> None:
    """Have a server stop, and its port be closed."""
    (server.close if isinstance(server, Dnsmasq) else server.stop)()
