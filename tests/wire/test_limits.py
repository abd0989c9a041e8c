"""Limits by rate hold over all workers, and for the key that exceeds them alone.

NGXSTREAM_LIMITS is for how many seconds each is tried; what passed is printed.
"""

import contextlib
import os
import socket
import threading
import time

from tests.support.backends import BackendFactory, silent, udp_silent
from tests.support.clients import tcp_exchange
from tests.support.proxies import ProxyFactory
from tests.support.waiting import wait_until

SECONDS = float(os.environ.get("NGXSTREAM_LIMITS", "2"))

CONF = """worker_processes 4;
events {}
stream {
    limit_sess_zone $binary_remote_addr zone=z:64k rate=30r/s;
    log_format f '$remote_addr $limit_sess_status';
    access_log logs/a.log f;
    server { listen 127.0.0.1:@tcp@; limit_sess zone=z burst=10 nodelay; return ok; }
}
"""


def knock(address: tuple[str, int], source: str) -> bytes:
    """Return what a client gets who connects from an address of loopback."""
    with socket.create_connection(address, timeout=20, source_address=(source, 0)) as client:
        found = b""
        while piece := client.recv(100):
            found += piece
    return found


def test_four_workers_let_one_rate_pass(ngxstream: ProxyFactory) -> None:
    """However much is tried: the burst and what the rate gives; others are served."""
    running = ngxstream(CONF)
    address = running.address("tcp")
    start = time.monotonic()
    passed = tried = others = 0
    while time.monotonic() - start < 2:
        tried += 1
        passed += knock(address, "127.0.0.2") == b"ok"
        if tried % 20 == 0:
            others += 1
            assert b"ok" == knock(address, f"127.0.{1 + others // 200}.{3 + others % 200}")
    elapsed = time.monotonic() - start
    assert tried > passed
    assert passed <= 1 + 10 + 30 * elapsed + 1
    assert passed >= 1 + 10 + 30 * (elapsed - 0.2) * 0.9 or tried < 3 * passed
    assert b"ok" == tcp_exchange(address)


DATAGRAMS = """worker_processes 4;
events {}
stream {
    limit_datagram_zone $binary_remote_addr zone=z:64k rate=500r/s;
    log_format f '$remote_addr $limit_datagram_status';
    access_log logs/a.log f;
    server { listen 127.0.0.1:@udp@ udp; limit_datagram zone=z burst=20;
             proxy_timeout 1s; proxy_pass %s; }
}
"""


def test_datagrams_of_one_client_pass_at_one_rate(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Whichever of four workers its sessions are in; another client loses none."""
    backend = backends.udp(udp_silent)
    running = ngxstream(DATAGRAMS % backend.text)
    address = running.address("udp")
    loud = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(16)]
    quiet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    quiet.bind(("127.0.0.3", 0))
    start = time.monotonic()
    sent = other = 0
    pace = threading.Event()
    for client in loud:
        client.bind(("127.0.0.2", 0))
    while (elapsed := time.monotonic() - start) < SECONDS:
        while sent < 1500 * elapsed:
            loud[sent % 16].sendto(b"loud", address)
            sent += 1
        if other < 100 * elapsed:
            quiet.sendto(b"quiet", address)
            other += 1
        pace.wait(0.002)
    wait_until(lambda: backend.datagrams.count(b"quiet") > other // 2)  # but for a busy machine
    elapsed = time.monotonic() - start
    passed = backend.datagrams.count(b"loud")
    print(f"datagrams: {sent} of 1500/s, {passed} passed in {elapsed:.2f} s of 500/s and 20")
    assert sent > passed
    assert passed <= 1 + 20 + 500 * elapsed
    assert passed >= 250 * SECONDS  # but for what a busy machine does not send in time
    for client in (*loud, quiet):
        client.close()
    assert ["127.0.0.3 PASSED"] == running.wait_log("127.0.0.3", name="logs/a.log")


BANDWIDTH = """worker_processes 4;
events {}
stream {
    limit_bandwidth_zone $binary_remote_addr zone=z:64k rate=400k;
    server { listen 127.0.0.1:@tcp@ reuseport; limit_bandwidth upload zone=z; proxy_pass %s; }
}
"""


def test_bytes_of_one_client_pass_at_one_rate(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """However many connections it has, in whichever of four workers; another's are not counted."""
    backend = backends.tcp(silent)
    running = ngxstream(BANDWIDTH % backend.text)
    address = running.address("tcp")
    with contextlib.ExitStack() as stack:
        loud = []
        for n in range(12):
            client = stack.enter_context(socket.socket())
            client.bind(("127.0.0.2" if n else "127.0.0.3", 0))
            client.connect(address)
            client.setblocking(False)
            loud.append(client)
        quiet, *loud = loud
        backend.wait_accepted(12)
        start = time.monotonic()
        pace = threading.Event()
        piece = b"x" * 65_536
        while time.monotonic() - start < SECONDS:
            for client in loud:
                with contextlib.suppress(BlockingIOError):
                    client.send(piece)
            pace.wait(0.005)
        passed = backend.received.count(b"x")
        elapsed = time.monotonic() - start
        print(f"bytes: {passed} passed in {elapsed:.2f} s of 409600/s and 40960")
        assert passed <= 409_600 * (elapsed + 0.1) + 4 * 65_536
        assert passed >= 200_000 * SECONDS
        quiet.setblocking(True)
        quiet.sendall(b"q" * 20_000)
        wait_until(lambda: backend.received.count(b"q") == 20_000)
