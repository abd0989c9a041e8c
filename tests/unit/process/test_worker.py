"""Workers: signals they obey themselves, and what they hold on to while they leave."""

import contextlib
import grp
import os
import pwd
import re
import resource
import signal
import socket
from collections.abc import Callable

import pytest

from tests.support import clients, descriptors, processes
from tests.support.backends import BackendFactory
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

RETURNS = "events {} stream { server { listen 127.0.0.1:@main@; return TEXT; } }"


@pytest.mark.parametrize("sig", [signal.SIGHUP, signal.SIGUSR2])
def test_signals_for_the_master_are_ignored(sig: signal.Signals, proxy: ProxyFactory) -> None:
    """HUP and USR2 sent to a worker are logged and do nothing."""
    running = proxy(RETURNS)
    (worker,) = running.worker_pids()
    os.kill(worker, sig)
    running.wait_log(rf"{worker}#{worker}: signal {sig:d} \({sig.name}\) received.*, ignoring$")
    assert b"TEXT" == clients.tcp_exchange(running.address("main"))
    assert [worker] == running.worker_pids()


def test_who_signalled_a_worker_is_not_known(both: Callable[..., tuple[Proxy, Proxy]]) -> None:
    """A signal to a worker is logged without its sender, which nginx can name."""
    said = []
    for running in both(RETURNS):
        (worker,) = running.worker_pids()
        os.kill(worker, signal.SIGUSR1)
        (line,) = running.wait_log(rf"{worker}#{worker}: signal 10 \(SIGUSR1\)")
        said.append(line.partition("received")[2])
    assert [f" from {os.getpid()}, reopening logs", ", reopening logs"] == said


def test_winch_does_nothing_in_the_foreground(proxy: ProxyFactory) -> None:
    """Without a daemon a worker takes WINCH for a terminal that changed its size."""
    running = proxy(RETURNS)
    (worker,) = running.worker_pids()
    os.kill(worker, signal.SIGWINCH)
    running.wait_log(rf"{worker}#{worker}: signal 28 \(SIGWINCH\) received")
    assert b"TEXT" == clients.tcp_exchange(running.address("main"))
    assert [worker] == running.worker_pids()


def test_a_worker_reopens_its_logs_by_itself(proxy: ProxyFactory) -> None:
    """USR1 sent to one worker concerns that worker alone."""
    running = proxy(RETURNS)
    (worker,) = running.worker_pids()
    log = running.prefix / "logs/error.log"
    log.rename(log.with_name("moved.log"))
    processes.wake(worker, signal.SIGUSR1)
    wait_until(log.exists)
    clients.tcp_exchange(running.address("main"))
    running.wait_log(rf"{worker}#{worker}: .*connected to")
    assert not any(record.pid == running.pid for record in running.records())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_rights_are_dropped_and_limits_set(proxy: ProxyFactory) -> None:
    """The worker runs as its user, with its limit of files and its priority."""
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    running = proxy(
        f"user nobody {group}; worker_rlimit_nofile 777; worker_priority 5;" + RETURNS,
        log_level="notice",
    )
    (worker,) = running.worker_pids()
    clients.tcp_exchange(running.address("main"))
    with open(f"/proc/{worker}/status", encoding="ascii") as status:
        text = status.read()
    assert ["65534"] * 4 == re.search(r"Uid:\s+(.*)", text)[1].split()
    with open(f"/proc/{worker}/limits", encoding="ascii") as limits:
        assert re.search(r"Max open files\s+777\s+777", limits.read())
    assert 5 == os.getpriority(os.PRIO_PROCESS, worker)


@pytest.mark.parametrize("method", ["epoll", "poll", "select"])
def test_every_event_method_serves(
    method: str, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """TCP and UDP pass under each of the pollers, and the log names it."""
    tcp, udp = backends.tcp(), backends.udp()
    running = ngxstream(
        f"events {{ use {method}; }} stream {{"
        f" server {{ listen 127.0.0.1:@main@; proxy_pass {tcp.text}; }}"
        f" server {{ listen 127.0.0.1:@main@ udp; proxy_pass {udp.text}; }} }}"
    )
    running.wait_log(rf'using the "{method}" event method')
    assert b"hello" == clients.tcp_exchange(running.address("main"), b"hello", size=5)
    assert b"hello" == clients.udp_exchange(running.address("main"), b"hello")


def test_select_has_no_room_for_many_addresses(ngxstream: ProxyFactory) -> None:
    """A worker whose sockets are beyond select(2) says so, and the reload is refused."""
    groups = " ".join(f"listen 127.0.1.{n}:@udp@ udp reuseport;" for n in range(1, 255))
    groups += " listen 127.0.2.1:@udp@ udp reuseport; listen 127.0.2.2:@udp@ udp reuseport;"
    with descriptors.room_for_many():
        running = ngxstream(RETURNS, expected=("cannot watch descriptor", "fatal code 2"))
        running.write(
            "worker_processes 4; events { use select; worker_connections 1000; }"
            f" stream {{ server {{ {groups} return TEXT; }} }}"
        )
        running.signal(signal.SIGHUP)
        said = r"\[alert\] .*: select\(\) cannot watch descriptor \d+: its limit is 1024$"
        assert running.wait_log(said)
        assert running.wait_log(r"\[emerg\] .*cannot begin: select\(\) cannot watch descriptor")
        assert b"TEXT" == clients.tcp_exchange(running.address("main"))


def test_listening_sockets_take_connection_slots(
    proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """As in nginx, 8 slots less two listeners and the channel are two proxied sessions."""
    running = proxy(
        "events { worker_connections 8; } stream {"
        f" server {{ listen 127.0.0.1:@main@; proxy_pass {backends.tcp().text}; }}"
        " server { listen 127.0.0.1:@other@; return x; } }",
        expected=(r"worker_connections are not enough",),
    )
    held = [clients.TcpClient(running.address("main")) for _ in range(2)]
    for client in held:
        client.exchange(b"x")
    third = clients.TcpClient(running.address("main"))
    running.wait_log(r"\[alert\] .*8 worker_connections are not enough")
    for client in (*held, third):
        client.close()


def udp_is_free(port: int) -> bool:
    """Tell whether a UDP port can be bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_leaving_worker_gives_a_removed_udp_address_up(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """A TCP session keeps the old worker, but not the UDP address that nobody needs any more."""
    tcp = f"server {{ listen 127.0.0.1:@main@; proxy_pass {backends.tcp().text}; }}"
    udp = "server { listen 127.0.0.1:@udp@ udp; return x; }"
    running = ngxstream(f"events {{}} stream {{ {tcp} {udp} }}")
    assert b"x" == clients.udp_exchange(running.address("udp"), b"?")
    with clients.TcpClient(running.address("main")) as client:
        client.exchange(b"ping")
        (old,) = running.worker_pids()
        running.reload(f"events {{}} stream {{ {tcp} }}")
        wait_until(lambda: udp_is_free(running.port("udp")))
        assert processes.is_alive(old)
        running.reload(f"events {{}} stream {{ {tcp} {udp} }}")
        assert b"x" == clients.udp_exchange(running.address("udp"), b"?")
        assert b"pong" == client.exchange(b"pong")


def test_a_worker_without_descriptors_leaves_at_a_reload(ngxstream: ProxyFactory) -> None:
    """It cannot take the mailboxes it is to hand over to; its master is not gone for that."""
    running = ngxstream("events {} stream { server { listen 127.0.0.1:@main@ udp; return TEXT; } }")
    (worker,) = running.worker_pids()
    _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, hard))
    running.signal(signal.SIGHUP)
    wait_until(lambda: not processes.is_alive(worker))
    running.wait_log("what the master said is refused: a message was cut off$")
    assert "the master process is gone" not in str(running.error_log())


def test_a_leaving_worker_keeps_answering_its_udp_clients(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Replies of the backend reach the client through the old worker, from the right address."""
    backend = backends.udp(lambda data, source: [])
    running = ngxstream(
        "worker_shutdown_timeout 30s; events {} stream { server {"
        f" listen 127.0.0.1:@main@ udp; proxy_pass {backend.text}; }} }}"
    )
    with clients.UdpClient(running.address("main")) as client:
        client.send(b"hello")
        backend.wait_seen(1)
        (source,) = backend.sources
        running.reload()
        backend.send(b"late", source)
        assert b"late" == client.recv()


def test_lines_of_workers_into_one_file_are_whole_and_in_order(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Each session's lines, that of the access log among them, and at the end the worker's."""
    running = ngxstream(
        "worker_processes 2; events {} stream { log_format f 'session $connection of $pid';"
        " access_log logs/error.log f; server { listen 127.0.0.1:@main@ udp; proxy_responses 1;"
        f" proxy_pass {backends.udp().text}; }} }}"
    )
    workers = running.worker_pids()
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(clients.UdpClient(running.address("main"))) for _ in range(40)]
        for client in many:
            client.send(b"ping")
        assert {b"ping"} == {client.recv() for client in many}
    running.stop()
    lines = running.error_log()
    sessions = {found[1] for line in lines if (found := re.match(r"session (\d+) of \d+$", line))}
    assert 40 == len(sessions)
    for number in sessions:
        own = [line for line in lines if re.search(rf" \*{number} |^session {number} ", line)]
        said = ["client.* connected to", "proxy.* connected to", "udp done", "session"]
        assert [True] * 4 == [bool(re.search(*pair)) for pair in zip(said, own, strict=True)]
    whole = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\w+\] (\d+)#\1: |session \d+ of \d+$")
    assert [] == [line for line in lines if not whole.match(line)]
    for pid in workers:
        own = [line.partition(": ")[2] for line in lines if f" {pid}#{pid}: " in line]
        assert ["exiting", "exit"] == own[-2:]


def test_lines_before_usr1_are_in_the_old_file(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """What a worker said of a session goes with the file that is moved away, its end comes anew."""
    running = ngxstream(
        "events {} stream { server { listen 127.0.0.1:@main@;"
        f" proxy_pass {backends.tcp().text}; }} }}"
    )
    (worker,) = running.worker_pids()
    log = running.prefix / "logs/error.log"
    with clients.TcpClient(running.address("main")) as client:
        client.exchange(b"ping")
        log.rename(log.with_name("moved.log"))
        os.kill(worker, signal.SIGUSR1)
        wait_until(log.exists)
        assert b"pong" == client.exchange(b"pong")
    running.wait_log("disconnected")
    moved = [record.message for record in running.records("logs/moved.log")]
    assert re.search("proxy .* connected to", moved[-3])
    assert "reopening logs" == moved[-1]
    (end,) = running.messages()
    assert "disconnected" in end
