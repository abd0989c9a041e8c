"""Many datagrams from one socket: none is lost that can wait, and what is lost is told of."""

import os
import signal

import pytest

from tests.support.backends import BackendFactory, udp_silent
from tests.support.clients import UdpClient
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

CONF = (
    "worker_processes 1; events {{ worker_connections 256; }} stream {{ "
    "log_format f '$status $bytes_received'; server {{ listen 127.0.0.1:@in@ udp {listen}; "
    "proxy_pass {backend}; access_log {log}; {more} }} }}"
)
COUNT = 50_000
AT_ONCE = 100  # fit into the smallest buffer that a kernel has by default


@pytest.mark.slow
@pytest.mark.parametrize("requests", ["", "proxy_requests 1;"], ids=["session", "one-way"])
def test_fifty_thousand_from_one_socket_all_arrive(
    requests: str, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """With three lines in the error log and one in the access log for each, none is lost."""
    backend = backends.udp(udp_silent, rcvbuf=1 << 20)
    proxy = ngxstream(
        CONF.format(
            listen="rcvbuf=1m", backend=backend.text, log="logs/access.log f",
            more=f"proxy_responses 0; {requests}",
        )
    )  # fmt: skip
    with UdpClient(proxy.address("in")) as client:
        for sent in range(0, COUNT, AT_ONCE):  # at the pace of who receives
            for n in range(sent, sent + AT_ONCE):
                client.send(b"%d" % n)
            wait_until(lambda: len(backend.seen) >= sent, PATIENCE, f"{sent} arrived", every=0.0005)  # noqa: B023
    assert [b"%d" % n for n in range(COUNT)] == backend.wait_seen(COUNT)
    wait_until(lambda: count(proxy, "access.log", b"\n") == COUNT, PATIENCE, "all are logged")
    assert COUNT == count(proxy, "access.log", b"200 ")
    assert COUNT == count(proxy, "error.log", b" connected to 127.0.0.1:%d\n" % proxy.port("in"))
    assert 0 == count(proxy, "error.log", b"dropped by the kernel")


def count(proxy: Proxy, log: str, what: bytes) -> int:
    """Count what is in a log."""
    return (proxy.prefix / "logs" / log).read_bytes().count(what)


@pytest.mark.parametrize(
    "responses", ["", "proxy_requests 1; proxy_responses 0;"], ids=["session", "forward"]
)
@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
def test_what_the_kernel_drops_is_told_of(
    listen: str, responses: str, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """A worker that was stopped finds its small buffer full: a notice counts what was lost."""
    backend = backends.udp(udp_silent)
    proxy = ngxstream(
        CONF.format(listen="rcvbuf=4k", backend=backend.text, log="off", more=responses).replace(
            "listen 127.0.0.1:", f"listen {listen}:"
        ),
        log_level="notice",
    )
    (worker,) = proxy.worker_pids()
    with UdpClient(proxy.address("in")) as client:
        client.send(b"first")
        backend.wait_seen(1)
        os.kill(worker, signal.SIGSTOP)
        try:
            for _ in range(300):
                client.send(b"x")
        finally:
            os.kill(worker, signal.SIGCONT)

        more = []

        def told() -> list[str]:
            for _ in range(3):  # what is dropped is looked at when more comes than is read at once
                client.send(b"more")
                more.append(1)
            return [r.message for r in proxy.records() if "dropped by the kernel" in r.message]

        line = wait_until(told, PATIENCE, "the notice")[0]
    assert line.startswith(f"the receive buffer was full, server: {listen}:{proxy.port('in')}, ")
    assert line.endswith('see the "rcvbuf" parameter of "listen"')
    assert [r.level for r in proxy.records() if r.message == line] == ["notice"]
    lost = int(line.partition("so far: ")[2].partition(",")[0])
    assert 200 < lost < 300 + len(more)
