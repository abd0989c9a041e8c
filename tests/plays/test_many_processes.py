"""Many workers, and many that are leaving: the new ones serve all the same.

Sessions that wait for a first byte keep old workers alive; no backend is needed for them.
"""

import socket

import pytest

from tests.support.backends import BackendFactory, udp_echo
from tests.support.clients import tcp_exchange, udp_exchange
from tests.support.descriptors import room_for_many
from tests.support.processes import is_alive
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

CONF = """
worker_processes {workers};
events {{ worker_connections 512; }}
stream {{
    limit_conn_zone all zone=all:64k;
    limit_conn all 60000;
    upstream echo {{ zone echo 64k; server {udp}; }}
    server {{ listen 127.0.0.1:@long@ reuseport; ssl_preread on; preread_timeout 1h; return late; }}
    server {{ listen 127.0.0.1:@tcp@; return hi; }}
    server {{ listen 127.0.0.1:@udp@ udp; proxy_pass echo; proxy_timeout 10s; }}
}}
"""
REQUEST = b"hello"
LONG = 8 * PATIENCE  # hundreds of processes on a machine that does other things too


def serves(program: Proxy) -> None:
    """See that TCP and UDP are answered."""
    for _ in range(5):
        assert tcp_exchange(program.address("tcp")) == b"hi"
        assert udp_exchange(program.address("udp"), REQUEST) == REQUEST


@pytest.mark.slow
@pytest.mark.effect("worker_processes")
def test_leaving_workers_without_number_do_not_keep_new_ones_from_serving(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """16 workers and 18 reloads, with sessions that keep nearly all of the old workers."""
    backend = backends.udp(udp_echo)
    text = CONF.format(workers=16, udp=backend.text)
    held: list[socket.socket] = []
    with room_for_many():
        program = ngxstream(text)
        try:
            for _ in range(18):
                held += [socket.create_connection(program.address("long")) for _ in range(100)]
                serves(program)
                program.reload(by_signal=False, timeout=LONG)
            serves(program)
            # on the way to it there were more processes than a byte can number
            assert len(program.all_worker_pids()) > 256 + 16
            assert len(program.worker_pids()) == 16
        finally:
            for client in held:
                client.close()
        wait_until(
            lambda: len(program.all_worker_pids()) == 16, LONG, "the old workers leave"
        )
        serves(program)


@pytest.mark.slow
@pytest.mark.effect("worker_processes")
def test_260_workers_serve(ngxstream: ProxyFactory, backends: BackendFactory) -> None:
    """More workers than a byte can number start, serve, and none of them dies."""
    backend = backends.udp(udp_echo)
    program = ngxstream(CONF.format(workers=260, udp=backend.text), start=False)
    program.start(timeout=LONG)
    workers = program.worker_pids()
    assert len(workers) == 260
    serves(program)
    assert all(map(is_alive, workers))
