"""Real scrapers: nginx-prometheus-exporter and Prometheus read what a driver has counted."""

from __future__ import annotations

import os
import signal
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import backends as b
from tests.support import certs, ports, prometheus, tools
from tests.support.clients import TcpClient, UdpClient
from tests.support.prometheus import Samples, series
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until

# what the driver cannot know; the API's own clients are another's
UNKNOWN = ("connect_time", "first_byte_time", "response_time")
OURS = ("server_zone", "api")

RULES = """
groups:
- name: ngxstream
  rules:
  - alert: ServerUnavailable
    expr: nginxplus_stream_upstream_server_state == 4
"""


class Driver:
    """A program with servers of all kinds, the clients that come, and what they count."""

    def __init__(self, factory: ProxyFactory, backends: b.BackendFactory, folder: Path,
                 workers: int) -> None:
        authority = certs.Authority(folder / "ca")
        pair = authority.issue("a.test")
        self.tcp = [backends.tcp(), backends.tcp()]
        self.udp = backends.udp()
        self.dead = [f"127.0.0.1:{ports.free_tcp_port()}" for _ in range(2)]
        servers = "".join(f"server {one.text};" for one in self.tcp)
        self.conf = f"""
            worker_processes {workers}; events {{}} stream {{
            limit_conn_zone $server_port zone=l:64k;
            upstream echoes {{ zone z 64k; {servers} }}
            upstream answers {{ server {self.udp.text}; }}
            upstream dead {{ zone z; server {self.dead[0]}; server {self.dead[1]}; }}
            server {{ listen 127.0.0.1:@tcp@; status_zone tcp; proxy_pass echoes; }}
            server {{ listen 127.0.0.1:@udp@ udp; status_zone udp; proxy_pass answers;
                      proxy_responses 1; }}
            server {{ listen 127.0.0.1:@tls@ ssl; status_zone tls; proxy_pass echoes;
                      ssl_certificate {pair.cert}; ssl_certificate_key {pair.key}; }}
            server {{ listen 127.0.0.1:@dead@; status_zone dead; proxy_pass dead;
                      proxy_next_upstream on; }}
            server {{ listen 127.0.0.1:@limited@; status_zone limited; proxy_pass echoes;
                      limit_conn l 1; }}
            server {{ listen 127.0.0.1:@api@; status_zone api; api; }} }}
        """
        self.program = factory(self.conf)
        self.zones: Counter[tuple[str, str]] = Counter()
        self.to_udp = 0
        self.udp_sessions = 0
        self.limited: Counter[str] = Counter()
        self.rounds = 0
        self.context = ssl.create_default_context(cafile=str(authority.cert))

    def _count(self, zone: str, received: int, sent: int, code: str = "2xx") -> None:
        counts = {"connections": 1, "received": received, "sent": sent, code: 1}
        for name, n in counts.items():
            self.zones[zone, name] += n

    def drive(self) -> None:
        """Have some clients of each kind come and go."""
        self.rounds += 1
        for n in range(1, 7):
            with TcpClient(self.program.address("tcp")) as client:
                assert b"x" * n == client.exchange(b"x" * n)
            self._count("tcp", n, n)
            with UdpClient(self.program.address("udp")) as udp:
                assert b"y" * n == udp.exchange(b"y" * n)
            self._count("udp", n, n)
            self.to_udp += n
            self.udp_sessions += 1
        for n in range(1, 4):
            with (
                TcpClient(self.program.address("tls")) as client,
                self.context.wrap_socket(client.sock, server_hostname="a.test") as inside,
            ):
                inside.sendall(b"z" * n)
                assert b"z" * n == inside.recv(10)
            self._count("tls", n, n)
        with TcpClient(self.program.address("limited")) as first:
            assert b"a" == first.exchange(b"a")
            with TcpClient(self.program.address("limited")) as second:
                assert b"" == second.recv_to_eof()
        self._count("limited", 1, 1)
        self._count("limited", 0, 0, "5xx")
        self.limited.update(passed=1, rejected=1)
        if self.rounds == 1:
            with TcpClient(self.program.address("dead")) as client:
                assert b"" == client.recv_to_eof()
            self._count("dead", 0, 0, "5xx")

    def expected(self) -> Samples:
        """Return all samples about the stream block."""
        found: Samples = {}
        for zone in ("tcp", "udp", "tls", "dead", "limited"):
            for name in ("connections", "received", "sent", "processing", "discarded"):
                key = series(f"nginxplus_stream_server_zone_{name}", server_zone=zone)
                found[key] = self.zones[zone, name]
            for code in ("2xx", "4xx", "5xx"):
                key = series("nginxplus_stream_server_zone_sessions", server_zone=zone, code=code)
                found[key] = self.zones[zone, code]
        for name, n in (("handshakes", self.zones["tls", "connections"]), ("handshakes_failed", 0),
                        ("session_reuses", 0)):
            found[series(f"nginxplus_stream_server_zone_ssl_{name}", server_zone="tls")] = n
        for one in self.tcp:
            size = sum(len(talk.received) for talk in one.conversations)
            self._peer(found, "echoes", one.text, connections=one.accepted, sent=size,
                       received=size)
        self._peer(found, "answers", self.udp.text, connections=self.udp_sessions,
                   sent=self.to_udp, received=self.to_udp)
        for address in self.dead:
            self._peer(found, "dead", address, state=4, connections=1, fails=1, unavail=1)
        for group in ("echoes", "answers", "dead"):
            found[series("nginxplus_stream_upstream_zombies", upstream=group)] = 0
        for name in ("passed", "rejected", "rejected_dry_run"):
            key = series(f"nginxplus_stream_limit_connection_{name}", zone="l")
            found[key] = self.limited[name]
        return found

    def _peer(self, found: Samples, group: str, server: str, **counts: int) -> None:
        usual = {"state": 1, "active": 0, "limit": 0, "sent": 0, "received": 0, "fails": 0,
                 "unavail": 0, "connections": 0}
        for name, n in {**usual, **counts}.items():
            key = f"nginxplus_stream_upstream_server_{name}"
            found[series(key, upstream=group, server=server)] = n


def of_stream(samples: Samples) -> Samples:
    """Return those that the driver knows; the others of the stream block are 0 or times."""
    found = {}
    for (name, labels), value in samples.items():
        if not name.startswith("nginxplus_stream_") or OURS in labels:
            continue
        if name.endswith(UNKNOWN):
            continue
        # of servers that nobody checks; ours says nothing of these, as newer exporters do
        if "_upstream_server_health_checks_" in name or "_upstream_server_ssl_" in name or (
            "_server_zone_ssl_" in name and ("server_zone", "tls") not in labels
        ):
            assert value == 0
            continue
        found[name, labels] = value
    return found


def await_equal(expected: Callable[[], Samples], read: Callable[[], Samples]) -> None:
    """Wait until what is read is what was counted."""
    difference: set[object] = set()

    def is_equal() -> bool:
        nonlocal difference
        difference = set(expected().items()) ^ set(of_stream(read()).items())
        return not difference

    try:
        wait_until(is_equal, every=0.05)
    except AssertionError:
        assert set() == difference
        raise


@pytest.mark.parametrize("workers", [1, 4])
def test_the_exporter_reads_what_was_counted(
    ngxstream: ProxyFactory, backends: b.BackendFactory, tmp_path: Path, workers: int
) -> None:
    """By all workers, over a reload and the death of one; /metrics says the same."""
    tools.require("prometheus-nginx-exporter")
    driver = Driver(ngxstream, backends, tmp_path, workers)
    program = driver.program
    base = f"http://127.0.0.1:{program.port('api')}"

    def die() -> None:
        pid = program.worker_pids()[0]
        program.expected.append("exited on signal 9")
        os.kill(pid, signal.SIGKILL)
        program.wait_log("signal 9")
        wait_until(lambda: len(set(program.worker_pids()) - {pid}) == workers)

    with prometheus.exporter(f"{base}/api", tmp_path, "-nginx.plus") as url:
        for step in (lambda: None, program.reload, die):
            step()
            driver.drive()
            await_equal(driver.expected, lambda: prometheus.parsed(prometheus.fetch(url)))
            await_equal(
                driver.expected, lambda: prometheus.parsed(prometheus.fetch(f"{base}/metrics"))
            )
        up = prometheus.parsed(prometheus.fetch(url))[series("nginxplus_up")]
        assert up == 1 == prometheus.parsed(prometheus.fetch(f"{base}/metrics"))[
            series("nginxplus_up")
        ]


def test_the_exporter_reads_stub_status(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """In its mode for nginx itself."""
    tools.require("prometheus-nginx-exporter")
    program = ngxstream(
        "events {} stream { server { listen 127.0.0.1:@a@; return x; } "
        "server { listen 127.0.0.1:@api@; api; } }"
    )
    for _ in range(3):
        with TcpClient(program.address("a")) as client:
            assert b"x" == client.recv_to_eof()
    uri = f"http://127.0.0.1:{program.port('api')}/stub_status"
    names = ("connections_accepted", "connections_handled", "http_requests_total")
    with prometheus.exporter(uri, tmp_path) as url:

        def is_right() -> bool:
            """Tell whether what was counted a moment ago is there."""
            found = prometheus.parsed(prometheus.fetch(url))
            return (
                1 == found[series("nginx_up")] == found[series("nginx_connections_active")]
                and all(found[series(f"nginx_{name}")] >= 4 for name in names)
            )

        wait_until(is_right, every=0.05)


def test_prometheus_reads_what_was_counted(
    ngxstream: ProxyFactory, backends: b.BackendFactory, tmp_path: Path
) -> None:
    """Without an exporter; and an alert on it fires."""
    tools.require("prometheus")
    driver = Driver(ngxstream, backends, tmp_path, 2)
    target = f"127.0.0.1:{driver.program.port('api')}"
    with prometheus.prometheus(target, "/metrics", tmp_path, RULES) as server:
        driver.drive()
        await_equal(driver.expected, lambda: server.query('{__name__=~"nginxplus_stream_.*"}'))
        wait_until(lambda: len(server.alerts()) == len(driver.dead), every=0.05)
        assert set(driver.dead) == {one["server"] for one in server.alerts()}
        ends = server.query("ngxstream_stream_upstream_server_ends_total{upstream='echoes'}")
        assert sum(one.accepted for one in driver.tcp) == sum(ends.values())
        counted = server.query("ngxstream_stream_server_zone_session_seconds_count"
                               "{server_zone='tcp'}")
        assert [driver.zones["tcp", "connections"]] == list(counted.values())
