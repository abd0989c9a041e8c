"""Names change in a real DNS server while clients come and go: no session fails for it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support import ports
from tests.support.backends import (
    BackendFactory,
    TcpBackend,
    UdpBackend,
    tagged,
    udp_tagged,
)
from tests.support.dns import Dnsmasq
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

CLIENTS = 3
HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]


class Traffic:
    """Clients that open one session after the other; counts who answered and what went wrong."""

    def __init__(self, address: tuple[str, int], kind: int) -> None:
        self.address = address
        self.kind = kind
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stopping = threading.Event()
        self._turn = threading.Semaphore(CLIENTS)  # held during a session
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def _session(self) -> str:
        with socket.socket(socket.AF_INET, self.kind) as client:
            client.settimeout(PATIENCE)
            client.connect(self.address)
            client.send(b"x")
            return client.recv(99).decode()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._turn:
                    answer = self._session()
            except OSError as error:
                answer = repr(error)
            name, colon, _ = answer.partition(":x")
            if colon:
                self.answers[name] += 1
            else:
                self.failures.append(answer or "closed")
            self._stopping.wait(0.005)  # a pace

    @contextlib.contextmanager
    def rest(self) -> Iterator[None]:
        """Have no session under way for a while."""
        for _ in range(CLIENTS):
            self._turn.acquire()
        yield
        self._turn.release(CLIENTS)

    def wait_for(self, name: str) -> None:
        """Wait until a backend of that name answers from now on."""
        before = self.answers[name]
        wait_until(lambda: self.answers[name] > before, PATIENCE, f"an answer of {name}")

    def wait_without(self, *names: str) -> None:
        """Wait until 30 sessions in a row have met none of these."""

        def is_quiet() -> bool:
            before = Counter(self.answers)
            wait_until(lambda: self.answers.total() >= before.total() + 30, PATIENCE, "sessions")
            return all(before[name] == self.answers[name] for name in names)

        wait_until(is_quiet, PATIENCE, f"no more answers of {names}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def traffic(proxy: Proxy, kind: int = socket.SOCK_STREAM) -> Iterator[Traffic]:
    """Give traffic through the proxy; afterwards no session may have failed."""
    with Traffic(proxy.address("main"), kind) as running:
        yield running
    assert [] == running.failures


def four_tcp(backends: BackendFactory) -> list[TcpBackend]:
    """Start a backend at each of HOSTS, all at one port, named by its last number."""
    port = ports.free_port()
    return [backends.tcp(tagged(host[-1]), host, port) for host in HOSTS]


def four_udp(backends: BackendFactory) -> list[UdpBackend]:
    """The same over UDP."""
    port = ports.free_port()
    return [backends.udp(udp_tagged(host[-1]), host, port) for host in HOSTS]


CONF = """
worker_processes 4;
events {}
stream {
    resolver %s ipv6=off;
    upstream group { zone group 64k; %s }
    server { listen 127.0.0.1:@main@%s; proxy_pass group; }
}
"""


def wait_resolved(proxy: Proxy, kind: int = socket.SOCK_STREAM) -> None:
    """Wait until the first lookup is through: before it there is nobody to serve."""
    probe = Traffic(proxy.address("main"), kind)

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return ":" in probe._session()
        return False

    wait_until(answers, PATIENCE, "the first answer")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_no_session_fails_while_addresses_come_and_go(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path, kind: int
) -> None:
    """Addresses are added, removed, replaced, denied and held; workers die and reload."""
    is_udp = kind == socket.SOCK_DGRAM
    port = (four_udp(backends) if is_udp else four_tcp(backends))[0].port
    with Dnsmasq({"a.test": HOSTS[:1]}, folder=tmp_path, ttl=1) as dns:
        begun = time.monotonic()
        line = f"server a.test:{port} resolve;"
        held = f"{dns.text} hold_nx=1h"
        conf = CONF % (held, line, " udp; proxy_responses 1" if is_udp else "")
        proxy = ngxstream(conf, expected=("exited on signal 9",))
        if not is_udp:
            wait_resolved(proxy)
        else:
            wait_until(lambda: dns.queries("a.test"), PATIENCE, "the first question")
            wait_resolved_udp(proxy)
        with traffic(proxy, kind) as clients:
            clients.wait_for("1")
            dns.update({"a.test": HOSTS[:2]})
            clients.wait_for("2")
            dns.update({"a.test": HOSTS[2:3]})
            clients.wait_for("3")
            clients.wait_without("1", "2")
            asked = len(dns.queries("a.test"))
            dns.update({})  # the name does not exist any more
            wait_until(lambda: len(dns.queries("a.test")) > asked, PATIENCE, "a vain question")
            proxy.wait_log(r"a\.test could not be resolved \(3: Host not found\)")
            clients.wait_for("3")
            with clients.rest():  # what is under way in a worker that is killed dies with it
                killed = proxy.worker_pids()[0]
                os.kill(killed, signal.SIGKILL)
                wait_until(
                    lambda: len({*proxy.worker_pids()} - {killed}) == 4,
                    PATIENCE,
                    "a new worker",
                )
            clients.wait_for("3")
            proxy.reload()
            clients.wait_for("3")
            dns.update({"a.test": [HOSTS[3], HOSTS[0]]})
            clients.wait_for("4")
            clients.wait_for("1")
            clients.wait_without("2", "3")
        # 4 workers, one question each TTL + 1 s
        assert len(dns.queries("a.test")) <= (time.monotonic() - begun) / 2 + 3


def wait_resolved_udp(proxy: Proxy) -> None:
    """Wait until a datagram is answered; those that meet an empty group are lost."""

    def answers() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            client.connect(proxy.address("main"))
            client.send(b"x")
            with contextlib.suppress(TimeoutError):
                return bool(client.recv(99))
            return False

    wait_until(answers, PATIENCE, "the first answer")


@pytest.mark.slow
def test_a_name_that_is_gone_serves_nobody_until_it_is_back(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """The group is empty in all workers when the name does not exist, and full when it does."""
    port = four_tcp(backends)[0].port
    with Dnsmasq({"a.test": HOSTS[:1]}, folder=tmp_path, ttl=1) as dns:
        proxy = ngxstream(CONF % (dns.text, f"server a.test:{port} resolve;", ""))
        wait_resolved(proxy)
        dns.update({})
        proxy.wait_log(r"a\.test could not be resolved \(3: Host not found\)")
        client = Traffic(proxy.address("main"), socket.SOCK_STREAM)

        def served_by() -> str:
            with contextlib.suppress(ConnectionResetError):
                return client._session()[:1]
            return ""

        wait_until(lambda: not served_by(), PATIENCE, "a session without a server")
        assert [""] * 20 == [served_by() for _ in range(20)]
        proxy.wait_log(r"no live upstreams while connecting to upstream")
        dns.update({"a.test": HOSTS[1:2]})
        wait_until(lambda: served_by() == "2", PATIENCE, "a session with a server")


@pytest.mark.slow
def test_no_session_fails_while_the_dns_server_is_away(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """It is silent, then gone, then back with another address."""
    port = four_tcp(backends)[0].port
    first = Dnsmasq({"a.test": HOSTS[:1]}, folder=tmp_path, ttl=1)
    try:
        line = f"resolver_timeout 2s; server a.test:{port} resolve;"
        proxy = ngxstream(CONF % (first.text, line, ""))
        wait_resolved(proxy)
        with traffic(proxy) as clients:
            first.pause()
            proxy.wait_log(r"a\.test could not be resolved \(110: Operation timed out\)")
            clients.wait_for("1")
            first.close()
            proxy.wait_log(r"recv\(\) failed \(111: Connection refused\) while resolving, resolver")
            clients.wait_for("1")
            records = {"a.test": HOSTS[1:2]}
            with Dnsmasq(records, folder=tmp_path, ttl=1, port=first.port):
                clients.wait_for("2")
                clients.wait_without("1")
    finally:
        first.close()


@pytest.mark.slow
def test_a_service_is_followed_by_priority_weight_and_port(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """SRV records decide who serves, how often, where; backups serve when the others are down."""
    heavy, light = backends.tcp(tagged("heavy")), backends.tcp(tagged("light"))
    backup = backends.tcp(tagged("backup"), "127.0.0.2")
    names = {"one.test": ["127.0.0.1"], "two.test": ["127.0.0.2"]}

    def srv(port: int, priority: int, weight: int, target: str = "one.test") -> str:
        return f"_app._tcp.test,{target},{port},{priority},{weight}"

    records = [
        srv(heavy.port, 10, 3), srv(light.port, 10, 1), srv(backup.port, 20, 1, "two.test"),
    ]
    line = "server test service=app resolve max_fails=1 fail_timeout=60s;"
    first = Dnsmasq(names, folder=tmp_path, ttl=1, srv=records)
    try:
        conf = (CONF % (first.text, line, "")).replace("processes 4", "processes 1")
        proxy = ngxstream(conf)
        wait_resolved(proxy)
        with traffic(proxy) as clients:
            wait_until(lambda: clients.answers.total() >= 200, PATIENCE, "sessions")
            heavies, lights = clients.answers["heavy"], clients.answers["light"]
            assert 0.7 < heavies / (heavies + lights) < 0.8
            assert not clients.answers["backup"]
        heavy.close()  # not under way: that would cut sessions
        light.close()
        with traffic(proxy) as clients:
            wait_until(lambda: clients.answers["backup"] >= 50, PATIENCE, "sessions")
            assert {"backup"} == set(clients.answers)
        first.close()
        again = [srv(backup.port, 5, 1, "two.test")]
        second = Dnsmasq(names, folder=tmp_path, ttl=1, srv=again, port=first.port)
        with second, traffic(proxy) as clients:
            wait_until(lambda: len(second.queries("_app")) >= 2, PATIENCE, "questions")
            clients.wait_for("backup")
    finally:
        first.close()


@pytest.mark.slow
def test_sessions_to_a_name_of_the_moment_follow_its_changes(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """proxy_pass with a variable asks again when the TTL is over."""
    port = four_tcp(backends)[0].port
    with Dnsmasq({"a.test": HOSTS[:1]}, folder=tmp_path, ttl=1) as dns:
        conf = CONF % (dns.text, "server 127.0.0.1:1;", "")
        conf = conf.replace("server { listen", "map '' $name { default a.test; } server { listen")
        proxy = ngxstream(conf.replace("proxy_pass group", f"proxy_pass $name:{port}"))
        with traffic(proxy) as clients:
            clients.wait_for("1")
            dns.update({"a.test": HOSTS[1:2]})
            clients.wait_for("2")
            clients.wait_without("1")


@pytest.mark.slow
def test_a_real_answer_over_tcp_fills_the_group(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Path
) -> None:
    """150 addresses do not fit into a datagram: dnsmasq truncates, and is asked over TCP."""
    port = ports.free_port()
    many = [f"127.0.1.{n}" for n in range(1, 151)]
    servers = [backends.tcp(tagged("b"), host, port) for host in many[::50]]
    with Dnsmasq({"a.test": many}, folder=tmp_path, ttl=60) as dns:
        proxy = ngxstream(CONF % (dns.text, f"server a.test:{port} resolve;", ""))
        wait_resolved(proxy)
        with traffic(proxy):
            wait_until(lambda: all(server.accepted for server in servers), PATIENCE, "all of them")
        assert 2 == len(dns.queries("a.test"))
