"""Directives of the main and events contexts, as they show on the processes of both programs."""

import os
import re
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.backends import BackendFactory
from tests.support.clients import TcpClient, tcp_exchange, udp_exchange
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

RETURNS = "events {} stream { server { listen 127.0.0.1:@in@; return TEXT; } }"


def serving_workers(program: Proxy) -> list[int]:
    """Return the workers once they serve: what a worker sets up is set up then."""
    assert b"TEXT" == tcp_exchange(program.address("in"))
    return program.worker_pids()


def limits_of(pid: int, name: str) -> list[str]:
    """Return soft and hard limit of a process by their name in /proc."""
    text = Path(f"/proc/{pid}/limits").read_text()
    match = re.search(rf"(?m)^{name} +(\S+) +(\S+)", text)
    assert match
    return [match[1], match[2]]


@pytest.mark.effect("worker_processes")
@pytest.mark.parametrize(("text", "count"), [("1", 1), ("3", 3), ("auto", os.cpu_count())])
def test_so_many_workers_serve(text: str, count: int, proxy: ProxyFactory) -> None:
    """worker_processes is the number of the master's children; auto is one for each CPU."""
    program = proxy(f"worker_processes {text}; {RETURNS}")
    wait_until(lambda: len(serving_workers(program)) == count)


@pytest.mark.effect("worker_cpu_affinity")
@pytest.mark.parametrize(("mask", "expected"), [("1 1", [{0}, {0}]), ("1", [{0}, {0}])])
def test_workers_keep_to_their_cpus(mask: str, expected: list[set[int]], proxy) -> None:
    """A mask for each worker; the last one serves for all further ones."""
    program = proxy(f"worker_processes 2; worker_cpu_affinity {mask}; {RETURNS}")
    wait_until(lambda: [os.sched_getaffinity(pid) for pid in program.worker_pids()] == expected)
    assert b"TEXT" == tcp_exchange(program.address("in"))


@pytest.mark.effect("worker_priority")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be nicer to itself")
@pytest.mark.parametrize("priority", [-3, 17])
def test_workers_have_their_priority(priority: int, proxy: ProxyFactory) -> None:
    """worker_priority is the nice value of the workers, and not of the master."""
    program = proxy(f"worker_priority {priority}; {RETURNS}")
    (worker,) = program.worker_pids()
    wait_until(lambda: os.getpriority(os.PRIO_PROCESS, worker) == priority)
    assert os.getpriority(os.PRIO_PROCESS, 0) == os.getpriority(os.PRIO_PROCESS, program.pid)


@pytest.mark.effect("worker_rlimit_nofile", "worker_rlimit_core")
def test_workers_have_their_limits(proxy: ProxyFactory) -> None:
    """Both limits are set in the worker, soft and hard."""
    program = proxy(f"worker_rlimit_nofile 321; worker_rlimit_core 64k; {RETURNS}")
    (worker,) = serving_workers(program)
    assert ["321", "321"] == limits_of(worker, "Max open files")
    assert ["65536", "65536"] == limits_of(worker, "Max core file size")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert most == int(limits_of(program.pid, "Max open files")[1])


@pytest.mark.effect("working_directory")
def test_workers_live_in_their_directory(proxy: ProxyFactory, tmp_path: Path) -> None:
    """working_directory is where a worker's core file would go."""
    home = tmp_path / "home"
    home.mkdir(mode=0o777)
    program = proxy(f"working_directory {home}; {RETURNS}")
    (worker,) = serving_workers(program)
    assert str(home) == os.readlink(f"/proc/{worker}/cwd")


@pytest.mark.effect("user")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_workers_are_somebody_else(proxy: ProxyFactory) -> None:
    """user names who the workers are; the master stays root."""
    program = proxy(f"user nobody nogroup; {RETURNS}")
    (worker,) = serving_workers(program)
    status = Path(f"/proc/{worker}/status").read_text()
    assert ["65534"] * 4 == re.search(r"Uid:\s+(.*)", status)[1].split()
    assert 0 == os.stat(f"/proc/{program.pid}").st_uid


@pytest.mark.effect("pid")
def test_the_pid_file_is_where_it_is_said(proxy: ProxyFactory) -> None:
    """The file holds the master's number, and goes with it."""
    program = proxy(f"pid logs/other.pid; {RETURNS}")
    path = program.prefix / "logs/other.pid"
    assert f"{program._running().pid}\n" == path.read_text()
    program.stop()
    assert not path.exists()


@pytest.mark.effect("daemon")
def test_a_daemon_leaves_its_starter_alone(proxy: ProxyFactory) -> None:
    """The command returns; the master is nobody's child and leads a session."""
    program = proxy(f"daemon on; {RETURNS}")
    assert 0 == program._running().wait(20)
    assert b"TEXT" == tcp_exchange(program.address("in"))
    assert program.pid == os.getsid(program.pid)
    assert processes.parent(program.pid) != os.getpid()


@pytest.mark.effect("master_process")
def test_a_process_may_do_everything_itself(proxy: ProxyFactory, backends: BackendFactory) -> None:
    """Without a master there is one process, which serves over TCP and UDP and leaves."""
    udp = backends.udp()
    text = (
        "master_process off; events {} stream { server { listen 127.0.0.1:@in@; return TEXT; } "
        f"server {{ listen 127.0.0.1:@in@ udp; proxy_pass {udp.text}; }} }}"
    )
    program = proxy(text)
    assert [] == program.all_worker_pids()
    assert b"TEXT" == tcp_exchange(program.address("in"))
    assert b"dgram" == udp_exchange(program.address("in"), b"dgram")
    assert 0 == program.stop(signal.SIGQUIT)


@pytest.mark.effect("worker_shutdown_timeout")
def test_sessions_of_old_workers_end_in_time(proxy: ProxyFactory, backends: BackendFactory) -> None:
    """A session that outlives the reload by worker_shutdown_timeout is ended."""
    echo = backends.tcp()
    program = proxy(
        "worker_shutdown_timeout 300ms; events {} stream { "
        f"server {{ listen 127.0.0.1:@in@; proxy_pass {echo.text}; }} }}"
    )
    with TcpClient(program.address("in")) as client:
        client.exchange(b"x")
        program.reload()
        assert b"" == client.recv_to_eof()
    program.wait_log(r"shutdown timeout while proxying connection")


@pytest.mark.effect("multi_accept")
@pytest.mark.parametrize("word", ["on", "off"])
def test_many_clients_at_once_are_all_accepted(word: str, proxy: ProxyFactory) -> None:
    """A crowd that knocks at one time is served, whether accepted by ones or all at once."""
    program = proxy(
        f"events {{ multi_accept {word}; epoll_events 1; worker_connections 300; }} "
        "stream { server { listen 127.0.0.1:@in@; return TEXT; } }"
    )
    os.kill(program.worker_pids()[0], signal.SIGSTOP)  # so that all are waiting
    clients = [TcpClient(program.address("in")) for _ in range(150)]
    os.kill(program.worker_pids()[0], signal.SIGCONT)
    for client in clients:
        assert b"TEXT" == client.recv_to_eof()
        client.close()


@pytest.mark.effect("load_module")
def test_a_module_need_not_be_there(ngxstream: ProxyFactory) -> None:
    """load_module is accepted and nothing is loaded."""
    program = ngxstream(f"load_module modules/ngx_stream_module.so; {RETURNS}")
    assert b"TEXT" == tcp_exchange(program.address("in"))
    (worker,) = program.worker_pids()
    assert "ngx_stream_module" not in Path(f"/proc/{worker}/maps").read_text()


# -- where errors go -------------------------------------------------------------------------------


@pytest.mark.effect("error_log")
def test_each_log_has_its_level(both: Any) -> None:
    """Several logs of one place each get what their level lets through."""
    text = (
        "error_log logs/error.log error; error_log logs/all.log info; events {} stream { "
        "server { listen 127.0.0.1:@in@; deny all; return x; } "
        "server { listen 127.0.0.1:@own@; error_log logs/own.log info; return x; } }"
    )
    for program in both(text):
        tcp_exchange(program.address("in"))
        tcp_exchange(program.address("own"))
        program.wait_log("access forbidden by rule")
        program.wait_log("connected to", name="logs/own.log")
        program.wait_log("access forbidden by rule", name="logs/all.log")
        assert {"error"} == {record.level for record in program.records()}
        assert {"info", "error"} <= {r.level for r in program.records("logs/all.log")}
        assert 1 == sum("connected to" in line for line in program.lines("logs/own.log"))


@pytest.mark.effect("error_log")
def test_errors_go_to_syslog_and_to_standard_error(both: Any) -> None:
    """A syslog server gets each message with its priority; stderr gets the same text."""
    accounts = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        port = server.getsockname()[1]
        text = (
            f"error_log stderr error; error_log syslog:server=127.0.0.1:{port},facility=daemon,"
            "tag=it,nohostname error; events {} stream { "
            "server { listen 127.0.0.1:@in@; deny all; return x; } }"
        )
        for program in both(text):
            tcp_exchange(program.address("in"))
            packet = server.recv(4096).decode()
            wait_until(lambda program=program: "access forbidden" in program.stderr())
            message = re.sub(r"\d+#\d+|:\d{4,5}\b", "N", packet.partition(" it: ")[2])
            accounts.append((packet[:4], re.sub(r"[\d/]+ [\d:]+ ", "TIME ", message, count=1)))
    assert accounts[0] == accounts[1]
    assert "<27>" == accounts[1][0]  # daemon, error


@pytest.mark.effect("error_log")
def test_errors_go_into_memory(ngxstream: ProxyFactory) -> None:
    """A memory: log is accepted by the program, which serves as ever."""
    program = ngxstream(f"error_log memory:64k debug; {RETURNS}")
    assert b"TEXT" == tcp_exchange(program.address("in"))
    assert [] == [line for line in program.error_log() if "connected to" in line]


@pytest.mark.effect("stream")
def test_without_a_stream_block_nobody_is_served(proxy: ProxyFactory) -> None:
    """A configuration without stream{} starts, and a reload that brings one serves."""
    program = proxy("events {}")
    program.reload(RETURNS)
    assert b"TEXT" == tcp_exchange(program.address("in"))
    program.reload("events {}")
    wait_until(lambda: len(program.all_worker_pids()) == 1)
    with pytest.raises(ConnectionRefusedError):
        tcp_exchange(program.address("in"))
