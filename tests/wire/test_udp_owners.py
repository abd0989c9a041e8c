"""Each client's datagrams, and nobody else's, cross its session, whatever becomes of the others."""

import contextlib
import socket

import pytest

from tests.support import owned, ports, processes
from tests.support.backends import BackendFactory
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import PATIENCE

CONF = """
worker_processes 1;
events {{}}
stream {{
    map $remote_addr $server {{ 127.0.0.2 127.0.0.1:{dead}; default {echo}; }}
    server {{ listen {listen}@main@ udp rcvbuf=1m; proxy_pass $server; {server} }}
}}
"""
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ROUNDS = 12
DOOMED = 10  # clients whose server is dead
SERVED = 10  # clients whose server echoes
EACH = 5  # datagrams a client sends in a round

KINDS = {
    "plain": ("127.0.0.1:", ""),
    "wildcard": ("", ""),
    "counted": ("127.0.0.1:", "proxy_requests 3;"),
    "rated": ("127.0.0.1:", "proxy_upload_rate 10m; proxy_download_rate 10m;"),
    "headed": ("127.0.0.1:", "proxy_protocol v2; proxy_protocol_datagrams every;"),
}


def payload(data: bytes) -> bytes:
    """Return what stands behind the PROXY protocol header in a datagram, if it has one."""
    if not data.startswith(SIGNATURE):
        return data
    return data[16 + int.from_bytes(data[14:16], "big") :]


def client_from(host: str, running: Proxy) -> socket.socket:
    """Make a client connected to the proxy."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    sock.bind((host, 0))
    sock.connect(running.address("main"))
    return sock


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_burst_takes_nothing_to_another_client(
    ngxstream: ProxyFactory, backends: BackendFactory, kind: str
) -> None:
    """With ten clients' server dead, ten others get all answers to what they sent, and no other."""
    listen, server = KINDS[kind]
    backend = backends.udp(rcvbuf=1 << 21)
    conf = CONF.format(
        dead=ports.free_udp_port(), echo=backend.text, listen=listen, server=server,
    )
    running = ngxstream(conf, log_level="alert")
    (worker,) = running.worker_pids()
    with contextlib.ExitStack() as stack:
        closing = [stack.enter_context(client_from("127.0.0.2", running)) for _ in range(DOOMED)]
        served = [stack.enter_context(client_from("127.0.0.1", running)) for _ in range(SERVED)]
        wrong: list[tuple[int, object]] = []
        missing: list[tuple[int, int]] = []
        for turn in range(ROUNDS):
            with processes.stopped(worker):
                for n in range(turn * EACH, (turn + 1) * EACH):
                    for who, sock in enumerate(closing):
                        with contextlib.suppress(ConnectionRefusedError):
                            sock.send(owned.datagram(100 + who, n))
                    for who, sock in enumerate(served):
                        sock.send(owned.datagram(who, n))
            for who, sock in enumerate(served):
                expected = [(who, n) for n in range(turn * EACH, (turn + 1) * EACH)]
                while expected:
                    try:
                        found = owned.owner_of(payload(sock.recv(4096)))
                    except TimeoutError:
                        missing += expected
                        for one in served:
                            one.settimeout(0.05)  # it fails already; what else is wrong?
                        break
                    else:
                        if found in expected:
                            expected.remove(found)
                        else:
                            wrong.append((who, found))
    assert ([], []) == (wrong, missing)
