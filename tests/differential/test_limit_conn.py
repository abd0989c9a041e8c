"""limit_conn of a running program: nginx's decisions, and counts that stay exact."""

import contextlib
import os
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable

import pytest

from tests.support import certs, processes
from tests.support.backends import BackendFactory, Conversation, silent
from tests.support.clients import TcpClient, tcp_exchange
from tests.support.crowd import Crowd
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

DECISIONS = (
    "worker_processes 4; events {} stream {"
    " log_format f '$server_port $status $limit_conn_status';"
    " access_log logs/access.log f; limit_conn_zone $remote_addr zone=z:64k;"
    " limit_conn_zone $server_port zone=y:64k; limit_conn z 3; proxy_pass_PLACE }"
)


def servers(backend: str) -> str:
    """Return servers with limits of several kinds before one backend."""
    kinds = {
        "inherited": "",
        "one": "limit_conn y 1;",
        "both": "limit_conn z 5; limit_conn y 2; limit_conn_log_level warn;",
        "dry": "limit_conn y 1; limit_conn_dry_run on;",
        "other": "limit_conn y 1; limit_conn z 1; limit_conn_log_level notice;",
    }
    return " ".join(
        f"server {{ listen 127.0.0.1:@{name}@; {limits} proxy_pass {backend}; }}"
        for name, limits in kinds.items()
    )


# +server connects, -N has the Nth client leave, counted from 0
STEPS = """
    +inherited +inherited +one +one +inherited -1 +inherited +both +both +both -0 -2 +both +dry
    +dry -7 +dry +other +other -3 -5 -8 -9 -12 -13 +inherited +one +both
"""


def play(program: Proxy) -> tuple[list[str], Counter[str]]:
    """Connect and leave by the script; return what the logs say, with names for ports."""
    clients: list[TcpClient] = []
    alive: set[int] = set()
    proxied = refused = 0

    def seen() -> tuple[int, int]:
        lines = program.error_log()
        return (
            sum(" proxy 127.0.0.1" in line for line in lines),
            sum("limiting connections by" in line for line in lines),
        )

    for step in STEPS.split():
        if step[0] == "+":
            clients.append(TcpClient(program.address(step[1:])))
            before = proxied, refused
            wait_until(
                lambda: seen() != before,  # noqa: B023 - asked at once
                PATIENCE,
                "the session is proxied or refused",
            )
            proxied, refused = seen()
            if refused == before[1]:
                alive.add(len(clients) - 1)
            continue
        number = int(step[1:])
        clients[number].close()
        if number in alive:
            alive.discard(number)
            ended = len(clients) - len(alive)
            wait_until(
                lambda: len(program.access_log()) == ended,  # noqa: B023 - asked at once
                PATIENCE,
                "the end of the session",
            )
    for client in clients:
        client.close()
    total = sum(step[0] == "+" for step in STEPS.split())
    wait_until(lambda: len(program.access_log()) == total, PATIENCE, "the end of all sessions")
    names = {str(program.port(name)): name for name in ("inherited", "one", "both", "dry", "other")}
    lines = [
        " ".join([names[port], *rest])
        for port, *rest in (line.split() for line in program.access_log())
    ]
    errors = Counter(
        f"[{record.level}] {record.message.split(' while ')[0]}"
        for record in program.records()
        if "limiting" in record.message
    )
    return sorted(lines), errors


@pytest.mark.effect("limit_conn", "limit_conn_zone", "limit_conn_dry_run", "limit_conn_log_level")
def test_decisions_are_nginx_s(
    both: Callable[..., tuple[Proxy, Proxy]], backends: BackendFactory
) -> None:
    """Sessions that come and go are counted, refused and logged alike, over four workers."""
    backend = backends.tcp(silent)
    text = DECISIONS.replace("proxy_pass_PLACE", servers(backend.text))
    nginx, ours = both(text)
    theirs = play(nginx)
    assert theirs == play(ours)
    assert {"503 REJECTED", "200 PASSED", "200 REJECTED_DRY_RUN"} <= {
        line.split(" ", 1)[1] for line in theirs[0]
    }


# -- exactness -----------------------------------------------------------------------------------

SESSIONS = 10_000
CROWD = """
worker_processes 4; worker_rlimit_nofile 20000; events {{ worker_connections 19000; }}
stream {{
    error_log logs/error.log warn;
    limit_conn_zone all zone=z:1m;
    server {{ listen 127.0.0.1:@crowd@ udp reuseport; limit_conn z 60000;
             proxy_pass 127.0.0.1:{backend}; proxy_timeout 1h; }}
    server {{ listen 127.0.0.1:@least@; limit_conn z {count}; return ok; }}
    server {{ listen 127.0.0.1:@most@; limit_conn z {more}; return ok; }}
}}
"""


def crowd_conf(backend: int, count: int) -> str:
    """Return a configuration whose two probes tell whether exactly ``count`` are counted."""
    return CROWD.format(backend=backend, count=max(count, 1), more=count + 1)


def is_exactly(program: Proxy, count: int) -> bool:
    """Ask the probes: one refuses at ``count``, the other at one more."""
    refused = count == 0 or tcp_exchange(program.address("least")) == b""
    return refused and tcp_exchange(program.address("most")) == b"ok"


def sockets_of(pid: int) -> int:
    """Return how many sockets a process has open."""
    return sum(link.startswith("socket:") for link in processes.open_files(pid))


def test_counts_stay_exact_when_workers_die(ngxstream: ProxyFactory) -> None:
    """Ten thousand UDP sessions over four workers: exact after a SIGKILL, a reload, and the end."""
    with Crowd("echo") as backend:
        program = ngxstream(
            crowd_conf(backend.number, SESSIONS), expected=(r"exited on signal (9|15)",)
        )
        first = program.worker_pids()
        idle = {pid: sockets_of(pid) for pid in first}
        with Crowd("clients", str(program.port("crowd")), str(SESSIONS)):
            held = {pid: sockets_of(pid) - idle[pid] for pid in first}
            assert SESSIONS == sum(held.values())
            assert is_exactly(program, SESSIONS)

            victim = max(held, key=lambda pid: held[pid])
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda: victim not in program.all_worker_pids()
                and len(program.worker_pids()) == len(first),
                PATIENCE,
                "the killed worker is replaced",
            )
            left = SESSIONS - held[victim]
            program.reload(crowd_conf(backend.number, left))
            wait_until(lambda: is_exactly(program, left), PATIENCE, f"{left} are counted")

        second = program.all_worker_pids()  # they have the sessions now
        for pid in second:
            os.kill(pid, signal.SIGTERM)
        wait_until(
            lambda: not set(second) & set(program.all_worker_pids()), PATIENCE, "all are replaced"
        )
        program.reload(crowd_conf(backend.number, 0))
        wait_until(lambda: is_exactly(program, 0), PATIENCE, "nothing is counted")


# -- how many keys a zone holds ------------------------------------------------------------------

FULL = """
worker_processes {workers}; events {{ worker_connections 2048; }}
stream {{
    map $remote_addr $long {{ default "{padding}$remote_addr"; }}
    limit_conn_zone {key} zone=z:32k;
    server {{ listen 127.0.0.1:@a@; limit_conn z 1; proxy_pass {backend}; proxy_timeout 1h; }}
}}
"""


def greet_and_stay(conversation: Conversation) -> None:
    """Say hello and stay until the client leaves."""
    conversation.send(b"!")
    conversation.recv_to_eof()


def keys_until_full(program: Proxy) -> int:
    """Connect from one address after another until there is no memory for one more."""
    held: list[socket.socket] = []
    try:
        for number in range(1, 1000):
            client = socket.create_connection(
                program.address("a"), PATIENCE, (f"127.1.{number >> 8}.{number & 255}", 0)
            )
            held.append(client)
            if client.recv(1) != b"!":
                program.wait_log("ngx_slab_alloc.. failed: no memory in limit_conn_zone")
                return number - 1
    finally:
        for client in held:
            client.close()
    raise AssertionError("it is never full")


@pytest.mark.effect("limit_conn_zone")
@pytest.mark.parametrize(("key", "least"), [("$binary_remote_addr", 300), ("$long", 70)])
def test_a_zone_holds_no_fewer_keys_than_nginx_s(
    key: str, least: int, both: Callable[..., tuple[Proxy, Proxy]], backends: BackendFactory
) -> None:
    """As many as nginx's zone of the same size has memory for, and more, over 8 workers."""
    backend = backends.tcp(greet_and_stay)
    text = FULL.format(workers=8, key=key, padding="x" * 200, backend=backend.text)
    nginx, ours = both(text, log_level="crit")
    theirs = keys_until_full(nginx)
    assert theirs >= least
    assert theirs <= keys_until_full(ours)


def test_a_tls_client_that_lingers(both, tmp_path) -> None:
    """A client whose session is over, and who does not say so, counts in nginx alone."""
    pair = certs.Authority(tmp_path / "ca").issue("a.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    served = []
    for program in both(
        "events {} stream { log_format f $status; access_log logs/access.log f; "
        "limit_conn_zone $remote_addr zone=z:64k; server { listen 127.0.0.1:@main@ ssl; "
        f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key}; limit_conn z 1; "
        "return hello; } }"
    ):
        with (
            socket.create_connection(program.address("main"), PATIENCE) as plain,
            context.wrap_socket(plain) as first,
        ):
            assert b"hello" == first.recv(100)
            assert b"" == first.recv(100)  # close_notify, which is left without an answer
            program.wait_log("^200$", name="logs/access.log")
            with contextlib.suppress(ConnectionError):  # refused before it is read
                tcp_exchange(program.address("main"), b"no hello of TLS\r\n" * 10)
            program.wait_log("^5", name="logs/access.log")
        served.append(program.access_log())
    assert [["200", "503"], ["200", "500"]] == served
