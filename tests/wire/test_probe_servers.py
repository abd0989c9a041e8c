"""Each probe against a real server of its protocol: serving, refusing, starting, stopped."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ngxstream.event import libssl_context, tls_protocols
from ngxstream.event.probing import Outcome, Probing, Target
from ngxstream.event.tls_client import Secure
from ngxstream.wire import probes
from tests.support import real_servers
from tests.support.api_calls import OWN, call
from tests.support.certs import Authority
from tests.support.dns import Dnsmasq
from tests.support.engine import engine, run_until
from tests.support.proxies import ProxyFactory
from tests.support.real_servers import HOST, Server
from tests.support.waiting import PATIENCE, wait_until

TIMEOUT_MS = 3000


def probe(
    address: tuple[str, int], kind: str, *, udp: bool = False, local: str = "", **options: str
) -> Outcome:
    """Make one probe."""
    about = probes.KINDS[kind]
    about.check(options)
    make = about.udp if udp else about.tcp
    assert make is not None
    found: list[Outcome] = []
    with engine() as loop:
        target = Target(
            socket.AF_INET, address, "it", socket.SOCK_DGRAM if udp else socket.SOCK_STREAM,
            local=(local, 0) if local else None,
        )
        Probing(
            loop, target, make(options), TIMEOUT_MS, 16384, found.append, probes.ProbeError
        ).begin()
        run_until(loop, lambda: bool(found))
    return found[0]


def comes_up(server: Server, kind: str, **more: str | bool) -> Outcome:
    """Probe until it passes."""

    def passes() -> Outcome | None:
        outcome = probe(server.address, kind, **more)  # type: ignore[arg-type]
        return outcome if outcome.passed else None

    found = wait_until(passes, PATIENCE, f"{kind} passes: {server.said()[-2000:]}")
    assert found is not None
    return found


def fails(address: tuple[str, int], kind: str, text: str, **more: str | bool) -> None:
    """See that a probe fails with a text."""
    outcome = probe(address, kind, **more)  # type: ignore[arg-type]
    assert outcome.passed is False
    assert text in outcome.text


@contextmanager
def held(address: tuple[str, int], count: int) -> Iterator[None]:
    """Keep so many connections to a server."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(address)).settimeout(PATIENCE)
        yield


# -- redis -------------------------------------------------------------------------------------


def test_redis_serves_also_who_has_a_password(tmp_path: Path) -> None:
    """Stopped it does not."""
    with real_servers.redis(tmp_path, "--save", "") as server:
        comes_up(server, "redis")
        server.stop()
        fails(server.address, "redis", "Connection refused")
    with real_servers.redis(tmp_path, "--save", "", "--requirepass", "x") as server:
        assert b"NOAUTH" in comes_up(server, "redis").received


def test_redis_that_loads_or_is_full_does_not_serve(tmp_path: Path) -> None:
    """It answers, but not +PONG."""
    with (
        real_servers.redis(tmp_path, "--save", "") as server,
        socket.create_connection(server.address) as sock,
    ):
        sets = [b"SET k%d " % n + os.urandom(1000).hex().encode() for n in range(200)]
        sock.sendall(b"\r\n".join((*sets, b"SAVE", b"")))
        wait_until((tmp_path / "dump.rdb").exists, PATIENCE, "it is saved")
    slow = ("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")
    with real_servers.redis(tmp_path, *slow) as server:
        fails(server.address, "redis", "LOADING")
        server.process.kill()
    (tmp_path / "dump.rdb").unlink()
    with (
        real_servers.redis(tmp_path, "--save", "") as server,
        socket.create_connection(server.address) as sock,
    ):
        sock.sendall(b"CONFIG SET maxclients 1\r\n")
        assert sock.recv(100) == b"+OK\r\n"
        fails(server.address, "redis", "max number of clients")


def test_a_running_program_is_asked_to_probe(tmp_path: Path, ngxstream: ProxyFactory) -> None:
    """The answer comes when the server's has come."""
    with real_servers.redis(tmp_path, "--save", "") as server:
        program = ngxstream(
            f"events {{}} stream {{ upstream u {{ server {HOST}:{server.port}; }} "
            "server { listen 127.0.0.1:@api@; api write=on; } server { listen 127.0.0.1:@a@; "
            "proxy_pass u; health_check interval=1h type=redis; } }"
        )
        status, _, body = call(program, f"{OWN}/upstreams/u/probe", "POST")
        (one,) = json.loads(body)["probes"]
        assert (status, one["passed"], one["received"]) == (200, True, r"+PONG\r\n")
        server.stop()
        (one,) = json.loads(call(program, f"{OWN}/upstreams/u/probe", "POST")[2])["probes"]
        assert (one["passed"], one["sent"]) == (False, "")
        assert "111: Connection refused" in one["why"]


# -- SQL ---------------------------------------------------------------------------------------


def test_postgres_serves_also_who_is_no_user(tmp_path: Path) -> None:
    """One that recovers, is full or stopped does not."""
    with real_servers.postgres(tmp_path, "-c", "max_connections=4", "-c",
                               "superuser_reserved_connections=0") as server:
        assert comes_up(server, "pgsql").received[:1] == b"R"
        assert b"28000" in comes_up(server, "pgsql", user="nobody").received
        with ExitStack() as stack:
            for _ in range(4):
                sock = stack.enter_context(socket.create_connection(server.address))
                sock.settimeout(PATIENCE)
                sock.sendall(b"\0\0\0\x17\0\3\0\0user\0postgres\0\0")
                assert sock.recv(1) == b"R"
            wait_until(
                lambda: "53300" in probe(server.address, "pgsql").text, PATIENCE, "it is full"
            )
        server.stop()
        fails(server.address, "pgsql", "Connection refused")
    (tmp_path / "data" / "standby.signal").touch()
    with real_servers.postgres(tmp_path, "-c", "hot_standby=off") as server:
        fails(server.address, "pgsql", "57P03")


def test_mariadb_serves_who_logs_in(tmp_path: Path) -> None:
    """One that is full or stopped does not serve; who probes often is not shut out."""
    strict = ("--max-connections=10", "--max-connect-errors=2")
    with real_servers.mariadb(tmp_path, *strict) as server:
        comes_up(server, "mysql")
        for _ in range(10):
            assert probe(server.address, "mysql", local="127.0.0.2").passed
        with held(server.address, 11):
            fails(server.address, "mysql", "Too many connections")
        server.stop()
        fails(server.address, "mysql", "Connection refused")


# -- mail, messages, HTTP --------------------------------------------------------------------------


def test_mosquitto_serves_also_who_has_a_password(tmp_path: Path) -> None:
    """Stopped it does not."""
    with real_servers.mosquitto(tmp_path, "allow_anonymous true") as server:
        assert comes_up(server, "mqtt").received == b"\x20\2\0\0"
        server.stop()
        fails(server.address, "mqtt", "Connection refused")
        assert "protocol error" not in server.said()
    with real_servers.mosquitto(tmp_path, "allow_anonymous false") as server:
        assert comes_up(server, "mqtt").received == b"\x20\2\0\5"


def test_exim_serves_until_it_is_full(tmp_path: Path) -> None:
    """Then it says 421."""
    with real_servers.exim(tmp_path, "smtp_accept_max = 1") as server:
        comes_up(server, "smtp")
        with held(server.address, 1):
            wait_until(lambda: "421" in probe(server.address, "smtp").text, PATIENCE, "it is full")
        server.stop()
        fails(server.address, "smtp", "Connection refused")


def test_nginx_serves_or_says_503(tmp_path: Path) -> None:
    """Moved is served, too."""
    with real_servers.nginx(tmp_path, "if ($host = bad) { return 503; } return 302 /x;") as server:
        comes_up(server, "http")
        fails(server.address, "http", "503 Service", host="bad")
        server.stop()
        fails(server.address, "http", "Connection refused")


@pytest.mark.parametrize("starts", [False, True])
def test_openssl_shakes_hands(tmp_path: Path, starts: bool) -> None:
    """A server that speaks no TLS does not."""
    pair = Authority(tmp_path / "ca").issue("www.test")
    found: list[Outcome] = []
    with (
        real_servers.openssl(tmp_path, pair.cert, pair.key) if starts
        else real_servers.nginx(tmp_path, "return 200;")
    ) as server, engine() as loop:
        context = libssl_context.Context(tls_protocols.DEFAULT, server_side=False)
        secure = Secure(context, b"www.test", sends_name=True, verify=False)
        target = Target(socket.AF_INET, server.address, "it", socket.SOCK_STREAM, secure=secure)
        dialogue = probes.match(b"", None, None)
        Probing(loop, target, dialogue, 20_000, 4096, found.append, probes.ProbeError).begin()
        run_until(loop, lambda: bool(found))
        loop.turn(0)
    assert found[0].passed is starts
    assert found[0].days_left in ((29, 30) if starts else (None,))


def test_prometheus_is_told_of_certificates(tmp_path: Path, ngxstream: ProxyFactory) -> None:
    """For how many days those of a group's servers are valid, where a check sees them."""
    pair = Authority(tmp_path / "ca").issue("www.test")
    with real_servers.openssl(tmp_path, pair.cert, pair.key) as server:
        program = ngxstream(
            f"events {{}} stream {{ upstream u {{ server {HOST}:{server.port}; }} "
            "server { listen 127.0.0.1:@api@; api; } server { listen 127.0.0.1:@a@; "
            "proxy_pass u; health_check interval=1h type=tls; } }"
        )
        name = (
            b"ngxstream_stream_upstream_server_certificate_left_seconds"
            b'{upstream="u",server="%s:%d"} ' % (HOST.encode(), server.port)
        )
        found = wait_until(
            lambda: call(program, "/metrics")[2].partition(name)[2], PATIENCE, "a check is made"
        )
    assert 29 * 86400 <= int(found.split()[0]) <= 30 * 86400


# -- over datagrams ------------------------------------------------------------------------------


@pytest.mark.parametrize("udp", [True, False])
def test_dnsmasq_knows_a_name(tmp_path: Path, udp: bool) -> None:
    """Or says that there is none, which can be expected."""
    with Dnsmasq({"www.test": ["192.0.2.1"]}, folder=tmp_path) as server:
        address = server.address
        assert probe(address, "dns", udp=udp, name="www.test").passed
        assert probe(address, "dns", udp=udp, name="no.test", rcode="nxdomain").passed
        fails(address, "dns", "expected NOERROR, got NXDOMAIN", udp=udp, name="no.test")
    fails(address, "dns", "Connection refused", udp=udp, name="www.test")


def test_chrony_has_the_time_or_not(tmp_path: Path) -> None:
    """One that is not synchronised answers, too."""
    with real_servers.chrony(tmp_path, "local stratum 5") as server:
        comes_up(server, "ntp", udp=True)
        server.stop()
        fails(server.address, "ntp", "Connection refused", udp=True)
    with real_servers.chrony(tmp_path) as server:
        wait_until(
            lambda: "no time" in probe(server.address, "ntp", udp=True).text, PATIENCE,
            "it says that it has no time",
        )


def test_freeradius_serves_who_knows_the_secret(tmp_path: Path, monkeypatch) -> None:
    """To others it does not speak."""
    with real_servers.freeradius(tmp_path, "secret") as server:
        comes_up(server, "radius", udp=True, secret="secret")
        monkeypatch.setattr("tests.wire.test_probe_servers.TIMEOUT_MS", 200)
        fails(server.address, "radius", "no answer in time", udp=True, secret="other")
        server.stop()
        fails(server.address, "radius", "refused", udp=True, secret="secret")


@pytest.mark.parametrize("udp", [True, False])
def test_sipp_answers_options(tmp_path: Path, udp: bool) -> None:
    """503 is an answer, too, but not a good one."""
    over = "u1" if udp else "t1"
    with real_servers.sipp(tmp_path, over) as server:
        comes_up(server, "sip", udp=udp)
        server.stop()
        fails(server.address, "sip", "refused", udp=udp)
    with real_servers.sipp(tmp_path, over, "503 Overloaded") as server:
        wait_until(lambda: "503 Over" in probe(server.address, "sip", udp=udp).text, PATIENCE)
