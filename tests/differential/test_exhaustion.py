"""When descriptors, connection slots, addresses or log files cannot be had, beside a real nginx.

Nothing spins: the CPU time of the worker is looked at while accepting pauses. Nothing is lost that
was there before: sessions that live go on.
"""

import re
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable

import pytest

from tests.support import backends as b
from tests.support import processes
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

STARVED = (r"worker_connections are not enough", r"accept4\(\) failed", r"Too many open files")


def has_answer(client: UdpClient) -> bool:
    """Tell whether a datagram waits to be received."""
    return bool(select.select([client.sock], [], [], 0)[0])


def busy_until(worker: int, count: Callable[[], int], more: int) -> tuple[float, float]:
    """Return (CPU seconds, seconds) that pass until something has happened so often again."""
    cpu, begun = processes.cpu_seconds(worker), time.monotonic()
    before = count()
    wait_until(lambda: count() >= before + more)
    return processes.cpu_seconds(worker) - cpu, time.monotonic() - begun


@pytest.mark.effect("accept_mutex_delay", "worker_rlimit_nofile")
def test_accepting_pauses_when_descriptors_run_out(
    proxy: ProxyFactory, backends: b.BackendFactory
) -> None:
    """EMFILE is one line for each accept_mutex_delay; who waits is served when there is room."""
    echo = backends.tcp(b.tagged("late"))
    program = proxy(
        "worker_rlimit_nofile 60; events { accept_mutex_delay 200ms; worker_connections 200; } "
        f"stream {{ server {{ listen 127.0.0.1:@in@; proxy_pass {echo.text}; }} }}",
        log_level="notice",
        expected=STARVED,
    )
    (worker,) = program.worker_pids()
    clients = [TcpClient(program.address("in")) for _ in range(60)]
    clients[0].send(b"x")
    assert b"late:x" == clients[0].recv_exactly(6)

    def failures() -> int:
        return sum("accept4() failed (24: Too many" in line for line in program.error_log())

    wait_until(lambda: failures() >= 1)
    cpu, elapsed = busy_until(worker, failures, 5)
    assert cpu < 0.4 * elapsed
    assert elapsed > 0.7  # five pauses
    clients[0].send(b"y")
    assert b"late:y" == clients[0].recv_exactly(6)  # untouched
    for client in clients[1:50]:
        client.close()
    clients[-1].send(b"z")
    assert b"late:z" == clients[-1].recv_exactly(6)  # it had waited in the backlog
    for client in clients:
        client.close()


@pytest.mark.effect("worker_connections")
def test_accepting_pauses_when_connections_run_out(ngxstream, backends) -> None:
    """Out of worker_connections the alert comes at a measured pace, and who waits is served."""
    echo = backends.tcp(b.tagged("late"))
    program = ngxstream(
        "events { accept_mutex_delay 100ms; worker_connections 12; } stream { "
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {echo.text}; }} }}",
        expected=STARVED,
    )
    (worker,) = program.worker_pids()
    clients = [TcpClient(program.address("in")) for _ in range(5)]
    for client in clients:
        client.send(b"x")
        assert b"late:x" == client.recv_exactly(6)
    waiting = TcpClient(program.address("in"))
    waiting.send(b"z")
    program.wait_log(r"\[alert\] .*: 12 worker_connections are not enough while accepting new ")
    cpu, elapsed = busy_until(
        worker, lambda: sum("not enough" in line for line in program.error_log()), 3
    )
    assert cpu < 0.4 * elapsed
    clients.pop().close()
    assert b"late:z" == waiting.recv_exactly(6)
    for client in (*clients, waiting):
        client.close()


def test_a_datagram_finds_no_connection(proxy: ProxyFactory, backends: b.BackendFactory) -> None:
    """Out of slots a new UDP client is an alert and no session; the known ones go on."""
    echo = backends.udp()
    program = proxy(
        "events { worker_connections 8; } stream { "
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {echo.text}; }} }}",
        expected=STARVED,
    )

    def was_refused() -> bool:
        lacks = r"\[alert\] .*worker_connections are not enough"
        return any(re.search(lacks, line) for line in program.error_log())

    known = []
    while True:
        client = UdpClient(program.address("in"))
        client.send(b"x")
        wait_until(lambda: has_answer(client) or was_refused())  # noqa: B023 - asked at once
        if was_refused():
            break
        assert b"x" == client.recv()
        known.append(client)
        assert len(known) < 8
    assert known
    for other in known:
        assert b"still here" == other.exchange(b"still here")
        other.close()
    client.close()


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_that_is_in_use_at_a_reload(kind: str, ngxstream: ProxyFactory) -> None:
    """Five tries, `still could not bind()`, and the old configuration goes on serving."""
    text = "events {} stream { server { listen 127.0.0.1:@in@; return old; } }"
    program = ngxstream(text, log_level="notice")
    style = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, style) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        word = "udp" if kind == "udp" else ""
        program.write(
            text.replace("old", "new")[:-1] + f" server {{ listen 127.0.0.1:{port} {word}; "
            "return x; } }"
        )
        program.signal(signal.SIGHUP)
        program.wait_log(r"\[emerg\] .*still could not bind\(\)")
    complaints = [r.message for r in program.records() if r.level == "emerg"]
    in_use = f"bind() to 127.0.0.1:{port} failed (98: Address already in use)"
    assert [in_use] * 5 + ["still could not bind()"] == complaints
    tries = [r.message for r in program.records() if r.message.startswith("try again")]
    assert ["try again to bind() after 500ms"] * 5 == tries
    assert b"old" == tcp_exchange(program.address("in"))
    program.reload()  # the address is free again
    assert b"new" == tcp_exchange(program.address("in"))


# -- logs ----------------------------------------------------------------------------------------


def start_complaint(program: Proxy) -> list[str]:
    """Return what a start that fails says, without times and with the prefix spelled /p."""
    verdict = program.run()
    assert verdict.code == 1
    said = [line for line in verdict.stderr.splitlines() if "[emerg]" in line]
    return [re.sub(r"^\w+: ", "", line).replace(str(program.prefix), "/p") for line in said]


@pytest.mark.effect("error_log")
@pytest.mark.parametrize(
    "text",
    [
        "error_log gone/error.log; events {}",
        "events {} stream { error_log gone/e.log; server { listen 127.0.0.1:9; return x; } }",
        "events {} stream { log_format f a; server { listen 9; access_log gone/a f; return x; } }",
    ],
)
def test_a_log_that_cannot_be_opened_prevents_the_start(text: str, both) -> None:
    """The start ends with nginx's emerg line."""
    nginx, ours = (start_complaint(program) for program in both(text, start=False))
    assert nginx == ours
    (line,) = ours
    assert line.startswith('[emerg] open() "/p/gone/')


def test_a_log_that_cannot_be_reopened(proxy: ProxyFactory) -> None:
    """On USR1 that is an emerg line; the old file is written to, and everybody is served."""
    program = proxy(
        "events {} stream { log_format f $remote_addr; server { listen 127.0.0.1:@in@; return x; "
        "access_log sub/access.log f; } }",
        start=False,
    )
    folder = program.prefix / "sub"
    folder.mkdir(mode=0o777)
    program.start()
    assert b"x" == tcp_exchange(program.address("in"))
    wait_until(lambda: program.access_log("sub/access.log"))
    shutil.move(folder, program.prefix / "moved")
    program.signal(signal.SIGUSR1)
    program.wait_log(r'\[emerg\] .*open\(\) ".*sub/access.log" failed \(2: No such file')
    assert b"x" == tcp_exchange(program.address("in"))
    wait_until(lambda: len(program.access_log("moved/access.log")) == 2)


def test_a_log_of_a_variable_that_cannot_be_opened(proxy: ProxyFactory) -> None:
    """The session is served, and the error log says which file could not be had."""
    program = proxy(
        "events {} stream { log_format f $remote_addr; map $remote_addr $where { default gone; } "
        "server { listen 127.0.0.1:@in@; return x; access_log $where/access.log f; } }"
    )
    for _ in range(3):
        assert b"x" == tcp_exchange(program.address("in"))
    lines = program.wait_log(r"gone/access.log\" failed \(2: No such file or directory\)", count=3)
    assert ["crit"] * 3 == [re.search(r"\[(\w+)\]", line)[1] for line in lines]


def test_a_full_disk_keeps_serving(ngxstream: ProxyFactory) -> None:
    """Logs that cannot be written to (a full device) cost no session."""
    program = ngxstream(
        "events {} stream { log_format f $remote_addr; server { listen 127.0.0.1:@in@; return x; "
        "access_log /dev/full f; error_log /dev/full info; } }"
    )
    for _ in range(20):
        assert b"x" == tcp_exchange(program.address("in"))
    assert program.is_running()


# -- one worker is full, others are not ------------------------------------------------------------


def hold(program: Proxy, listens: int, clients: int) -> None:
    """Have clients come, one by one to each listener, and see that each is served and held."""
    held = [TcpClient(program.address(f"in{n % listens}")) for n in range(clients)]
    for n, client in enumerate(held):
        client.send(b"%04d" % n)
    assert [b"%04d" % n for n in range(clients)] == [client.recv_exactly(4) for client in held]
    for client in held:
        client.close()


def hold_one_by_one(program: Proxy, listens: int, clients: int) -> None:
    """Do the same, each when the one before has been served."""
    held = []
    for n in range(clients):
        client = TcpClient(program.address(f"in{n % listens}"))
        held.append(client)
        client.send(b"%04d" % n)
        assert b"%04d" % n == client.recv_exactly(4)
    for client in held:
        client.close()


def proxied(workers: int, connections: int, listens: int, server: str) -> str:
    """Return a configuration of so many workers and listeners in front of one server."""
    servers = "".join(
        f"server {{ listen 127.0.0.1:@in{n}@; proxy_pass {server}; }} " for n in range(listens)
    )
    return (
        f"worker_processes {workers}; events {{ worker_connections {connections}; }} "
        f"stream {{ {servers} }}"
    )


@pytest.mark.effect("worker_connections")
def test_a_full_worker_leaves_new_clients_to_another(
    proxy: ProxyFactory, backends: b.BackendFactory
) -> None:
    """Two workers of 1 024 hold 900 clients, whichever of them the kernel would rather wake."""
    echo = backends.tcp()
    hold_one_by_one(proxy(proxied(2, 1024, 2, echo.text)), 2, 900)


@pytest.mark.parametrize(
    ("workers", "connections", "listens", "clients"),
    [
        (4, 101, 2, 190),  # the most there is room for: 4 * 49 == 196
        (3, 64, 1, 90),
        (2, 50, 3, 46),
        (20, 32, 2, 250),
    ],
)
def test_every_slot_of_every_worker_is_used(
    workers: int, connections: int, listens: int, clients: int, ngxstream: ProxyFactory,
    backends: b.BackendFactory,
) -> None:
    """No client is refused or waits while any worker has two slots left (nginx refuses some)."""
    echo = backends.tcp()
    hold(ngxstream(proxied(workers, connections, listens, echo.text)), listens, clients)


def test_slots_towards_a_server_are_kept_for_who_is_still_silent(
    ngxstream: ProxyFactory, backends: b.BackendFactory
) -> None:
    """Who was accepted is served when he speaks at last, however many have come meanwhile."""
    echo = backends.tcp()
    program = ngxstream(
        "events { worker_connections 12; } stream { server { listen 127.0.0.1:@in@; "
        f"ssl_preread on; proxy_pass {echo.text}; }} }}",
        expected=STARVED,
    )
    held = [TcpClient(program.address("in")) for _ in range(9)]
    program.wait_log("12 worker_connections are not enough")  # for five of them there are
    for n, client in enumerate(held):
        client.send(b"client %d" % n)
    for n, client in enumerate(held):
        assert b"client %d" % n == client.recv_exactly(8)
        client.close()


def test_idle_udp_sessions_give_their_descriptors_to_tcp_clients(
    ngxstream: ProxyFactory, backends: b.BackendFactory
) -> None:
    """With every descriptor used by idle UDP sessions, clients of TCP are served all the same."""
    udp, tcp = backends.udp(), backends.tcp()
    program = ngxstream(
        "worker_rlimit_nofile 60; events { accept_mutex_delay 100ms; worker_connections 500; } "
        f"stream {{ server {{ listen 127.0.0.1:@in@ udp; proxy_pass {udp.text}; }} "
        f"server {{ listen 127.0.0.1:@tcp@; proxy_pass {tcp.text}; }} }}",
        expected=STARVED,
        log_level="info",
    )
    for _ in range(2):  # until a session gives way to another client of UDP
        idle = [UdpClient(program.address("in")) for _ in range(60)]
        for client in idle:
            client.send(b"x")
        for client in idle:
            client.close()
    program.wait_log(r"socket\(\) failed \(24: Too many open files\)")
    held = [TcpClient(program.address("tcp")) for _ in range(15)]
    for n, other in enumerate(held):
        other.send(b"%04d" % n)
    assert [b"%04d" % n for n in range(15)] == [other.recv_exactly(4) for other in held]
    assert not [line for line in program.error_log() if "tcp" in line and "socket() failed" in line]
    for other in held:
        other.close()
