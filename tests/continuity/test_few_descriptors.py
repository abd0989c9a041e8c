"""More UDP addresses than descriptors for a socket of every worker at each of them."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support import clients, descriptors, processes
from tests.support.backends import BackendFactory, UdpBackend
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

LIMIT = 150
ADDRESSES = 64

pytestmark = [pytest.mark.slow]


def configuration(workers: int, target: str) -> str:
    """Return a configuration of many addresses, half of them proxied, half telling their worker."""
    proxied = "".join(f" listen 127.0.0.1:@p{n}@ udp;" for n in range(ADDRESSES // 2))
    telling = "".join(f" listen 127.0.0.1:@t{n}@ udp;" for n in range(ADDRESSES // 2))
    return (
        f"worker_processes {workers}; events {{ worker_connections 140; }} stream {{"
        f" server {{{proxied} proxy_pass {target}; }}"
        f" server {{{telling} return $pid; }} }}"
    )


@pytest.fixture
def running(ngxstream: ProxyFactory, backend: UdpBackend) -> Proxy:
    """Give the program with two workers, and with fewer descriptors than two at each address."""
    with descriptors.no_more_than(LIMIT):
        return ngxstream(
            configuration(2, backend.text), expected=("exited on signal 9", "exceed open file")
        )


@pytest.fixture
def backend(backends: BackendFactory) -> UdpBackend:
    """Give a server that answers with what it gets."""
    return backends.udp()


@contextmanager
def sessions_stay(running: Proxy, backend: UdpBackend) -> Iterator[None]:
    """Begin a session at each proxied address; see afterwards that it is the same still."""
    with ExitStack() as stack:
        known = [
            stack.enter_context(clients.UdpClient(running.address(f"p{n}")))
            for n in range(ADDRESSES // 2)
        ]
        for client in known:
            client.send(b"before")
            assert b"before" == client.recv()
        before = set(backend.sources)
        assert len(known) == len(before)
        yield
        for client in known:
            client.send(b"after")
            assert b"after" == client.recv()
        assert before == set(backend.sources)


def workers_of(running: Proxy) -> set[int]:
    """Return who answers at the addresses that tell it."""
    return {
        int(clients.udp_exchange(running.address(f"t{n}"), b"?")) for n in range(ADDRESSES // 2)
    }


def test_all_workers_serve_with_a_socket_at_each_address(running: Proxy) -> None:
    """The program opens as many as nginx, and its workers share the addresses."""
    assert len(os.listdir(f"/proc/{running.pid}/fd")) < LIMIT - ADDRESSES // 4
    assert workers_of(running) == set(running.worker_pids())


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_reload_moves_no_session(running: Proxy, backend: UdpBackend, workers: int) -> None:
    """Old and new workers agree whose an address is, whatever their numbers."""
    with sessions_stay(running, backend):
        running.reload(configuration(workers, backend.text))
        assert workers_of(running) == set(running.worker_pids())


def test_a_new_master_after_a_crash_moves_no_session(running: Proxy, backend: UdpBackend) -> None:
    """It judges the sockets of the workers that outlived theirs as their master did."""
    with sessions_stay(running, backend), descriptors.no_more_than(LIMIT):
        old = running.worker_pids()
        os.kill(running.pid, signal.SIGKILL)
        running._running().wait()
        running.start()
        wait_until(lambda: not any(map(processes.is_alive, old)), what="the orphans leave")
        assert workers_of(running) == set(running.worker_pids())


def test_an_upgrade_moves_no_session(running: Proxy, backend: UdpBackend) -> None:
    """The new binary judges the sockets that it inherits as the old one did."""
    with sessions_stay(running, backend):
        old = running.pid
        running.signal(signal.SIGUSR2)
        wait_until(lambda: running.pid not in (0, old) and len(running.worker_pids()) == 2)
        os.kill(old, signal.SIGQUIT)
        wait_until(lambda: not processes.is_alive(old), what="the old master leaves")
        assert workers_of(running) == set(running.worker_pids())
