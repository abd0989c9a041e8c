"""One process that does everything, as nginx's `master_process off` does."""

import os
import signal
import socket

import pytest

from tests.support import clients, processes
from tests.support.backends import BackendFactory
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until

HEAD = "master_process off; worker_processes 4; events {}"
RETURNS = HEAD + " stream { server { listen 127.0.0.1:@main@; return old; } }"


def test_one_process_serves(proxy: ProxyFactory) -> None:
    """There are no workers, and the pid file names the process that answers."""
    running = proxy(
        HEAD + " stream { server { listen 127.0.0.1:@main@; return $pid; }"
        " server { listen 127.0.0.1:@main@ udp; return $pid; } }"
    )
    assert [] == running.all_worker_pids()
    pid = str(running.pid).encode()
    assert pid == clients.tcp_exchange(running.address("main"))
    assert pid == clients.udp_exchange(running.address("main"), b"x")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_it_leaves_at_once(
    sig: signal.Signals, proxy: ProxyFactory, backends: BackendFactory
) -> None:
    """TERM, INT and QUIT alike end it without waiting for sessions; the pid file goes."""
    running = proxy(
        HEAD + " stream { server { listen 127.0.0.1:@main@;"
        f" proxy_pass {backends.tcp().text}; }} }}",
        expected=(r"open socket", r"aborting") if proxy.name == "nginx" else (),
    )
    with clients.TcpClient(running.address("main")) as client:
        client.exchange(b"ping")
        assert 0 == running.stop(sig)
        assert b"" == client.recv()
    assert not (running.prefix / "logs/nginx.pid").exists()
    running.wait_log(r"\[notice\] .*: exit$")


def test_it_reloads_in_place(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """HUP puts the new configuration in place; the session of the old one goes on."""
    backend = backends.tcp().text
    running = ngxstream(
        HEAD + " stream { server { listen 127.0.0.1:@main@; return old; }"
        f" server {{ listen 127.0.0.1:@relay@; proxy_pass {backend}; }} }}"
    )
    assert b"old" == clients.tcp_exchange(running.address("main"))
    with clients.TcpClient(running.address("relay")) as client:
        client.exchange(b"ping")
        running.write(RETURNS.replace("old", "new"))
        running.signal(signal.SIGHUP)
        wait_until(lambda: b"new" == clients.tcp_exchange(running.address("main")))
        assert b"still" == client.exchange(b"still")
    with pytest.raises(ConnectionRefusedError):
        clients.TcpClient(running.address("relay"))
    assert [running.pid] == processes.session_members(os.getsid(running.pid))


def test_lines_of_a_reload_stand_in_their_order(ngxstream: ProxyFactory) -> None:
    """What the old configuration says of it comes before what the new one does."""
    running = ngxstream(RETURNS)
    seen = len(running.error_log())
    running.write(RETURNS.replace("old", "new"))
    running.signal(signal.SIGHUP)
    wait_until(lambda: b"new" == clients.tcp_exchange(running.address("main")))
    said = [line.partition("]")[2].partition(": ")[2] for line in running.error_log()[seen:]]
    first = said.index("reconfiguring")
    assert "signal 1 (SIGHUP) received" in said[first - 1]
    assert 'using the "epoll" event method' == said[first + 1]


def test_a_bad_configuration_leaves_the_old_serving(proxy: ProxyFactory) -> None:
    """The [emerg] line is all that happens."""
    running = proxy(RETURNS)
    running.reload_refused("nonsense;")
    assert b"old" == clients.tcp_exchange(running.address("main"))


def test_logs_are_reopened(proxy: ProxyFactory) -> None:
    """USR1 opens a new file in the place of the one that was moved away."""
    running = proxy(RETURNS)
    log = running.prefix / "logs/error.log"
    log.rename(log.with_name("error.log.1"))
    running.signal(signal.SIGUSR1)
    wait_until(log.exists)
    clients.tcp_exchange(running.address("main"))
    running.wait_log(r"client 127\.0\.0\.1:\d+ connected to")


def test_udp_sessions_outlive_a_reload(ngxstream: ProxyFactory) -> None:
    """The backend sees one port before and after, also when the address is listened at no more."""
    conf = (
        "master_process off; events {} stream {"
        " server { listen 127.0.0.1:@udp@ udp; proxy_pass 127.0.0.1:@back@; }"
        " server { listen 127.0.0.1:@tcp@; return x; } }"
    )
    running = ngxstream(conf)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        back.settimeout(20)
        back.bind(running.address("back"))
        client.settimeout(20)
        client.connect(running.address("udp"))
        ports = set()
        for round_ in range(3):
            client.send(b"ping")
            data, proxy = back.recvfrom(64)
            ports.add(proxy[1])
            back.sendto(data, proxy)
            assert b"ping" == client.recv(64)
            if round_ == 0:
                running.reload(conf.replace("return x", "return y"))
            elif round_ == 1:
                other = conf.replace("listen 127.0.0.1:@udp@ udp", "listen 127.0.0.1:@more@")
                running.reload(other)
        assert 1 == len(ports)
