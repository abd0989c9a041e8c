"""Workers that outlived their master give their listening sockets to a new one."""

import os
import signal
import socket

from ngxstream.process import rendezvous
from tests.support import clients, processes
from tests.support.backends import BackendFactory
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until

CONF = """
worker_processes 2;
events {{}}
stream {{
    server {{ listen 127.0.0.1:@tcp@; proxy_pass {tcp}; }}
    server {{ listen 127.0.0.1:@udp@ udp; proxy_pass {udp}; proxy_timeout 2s; }}
}}
"""


def test_a_new_master_starts_beside_the_workers_of_a_killed_one(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """After SIGKILL of the master its workers serve; a new master takes over, sessions finish."""
    running = ngxstream(CONF.format(tcp=backends.tcp().text, udp=backends.udp().text))
    orphans = running.worker_pids()
    with clients.TcpClient(running.address("tcp")) as client:
        client.exchange(b"before")
        os.kill(running.pid, signal.SIGKILL)
        running.wait_log("the master process is gone", count=2)
        assert b"alive" == clients.tcp_exchange(running.address("tcp"), b"alive", size=5)
        assert b"alive" == clients.udp_exchange(running.address("udp"), b"alive")
        running._process.wait()
        running.start()
        assert not set(orphans) & set(running.worker_pids())
        running.wait_log("gracefully shutting down", count=2)
        assert not any("bind()" in line for line in running.error_log())
        assert b"after" == client.exchange(b"after")
        assert b"new" == clients.tcp_exchange(running.address("tcp"), b"new", size=3)
        assert b"new" == clients.udp_exchange(running.address("udp"), b"new")
    wait_until(lambda: not any(map(processes.is_alive, orphans)), what="the orphans leave")


def test_nobody_answers_where_there_is_no_orphan(tmp_path) -> None:
    """A pid file without workers behind it costs nothing and gives nothing."""
    assert [] == rendezvous.collect(str(tmp_path / "pid"), None)


def test_a_name_is_taken_once(tmp_path) -> None:
    """The second who wants the name of a pid file goes without; another path is another name."""
    with rendezvous.open_for(str(tmp_path / "pid")) as first:
        assert socket.AF_UNIX == first.family
        assert rendezvous.open_for(str(tmp_path / "x" / ".." / "pid")) is None
        with rendezvous.open_for(str(tmp_path / "other")) as other:
            assert other is not None
