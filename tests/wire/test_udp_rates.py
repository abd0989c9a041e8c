"""Rate limits delay datagrams, in order and within a bound; nginx loses what comes in a pause."""

import signal
import socket

from tests.support import owned
from tests.support.backends import BackendFactory
from tests.support.proxies import ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

CONF = """
events {{}}
stream {{
    log_format f "$datagrams_received $datagrams_sent $datagrams_dropped";
    access_log logs/access.log f;
    server {{ listen 127.0.0.1:@main@ udp rcvbuf=1m; proxy_pass {backend}; {server} }}
}}
"""
SIZE = 400


def client_of(running) -> socket.socket:
    """Make a client connected to the proxy."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    sock.connect(running.address("main"))
    return sock


def numbered(n: int) -> bytes:
    """Make the n-th datagram of the only client."""
    return owned.datagram(1, n, SIZE)


def test_an_upload_waits_and_arrives_in_order(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Six datagrams at 1000 bytes a second: all are echoed, in order, and it takes a while."""
    running = ngxstream(
        CONF.format(backend=backends.udp().text, server="proxy_upload_rate 1k; proxy_timeout 2s;")
    )
    with client_of(running) as client:
        for n in range(6):
            client.send(numbered(n))
        assert [numbered(n) for n in range(6)] == [client.recv(2048) for _ in range(6)]
    assert ["6 6 0"] == running.wait_log("6", name="logs/access.log")


def test_what_is_over_the_bound_is_dropped_and_counted(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Of a flood, what may not go and finds no room to wait in shows in the log."""
    conf = CONF.format(backend=backends.udp().text, server="proxy_upload_rate 1;")
    running = ngxstream(f"worker_shutdown_timeout 1s; {conf}", log_level="error")
    with client_of(running) as client:
        for n in range(300):
            client.send(numbered(n))
        assert numbered(0) == client.recv(2048)
        with client_of(running) as other:  # answered when all that came before is read
            other.send(b"?")
            assert b"?" == other.recv(2048)
        running.signal(signal.SIGQUIT)
        wait_until(lambda: len(running.access_log()) == 2, 2 * PATIENCE, "the sessions' end")
    lines = [list(map(int, line.split())) for line in running.access_log()]
    received, sent, dropped = max(lines)
    assert received > 257
    assert received - 256 <= dropped + sent


def test_a_download_waits_in_the_kernel(ngxstream: ProxyFactory) -> None:
    """Answers beyond the rate are left unread for the time being, none is lost."""
    running = ngxstream(
        CONF.format(backend="127.0.0.1:@back@", server="proxy_download_rate 1k; proxy_timeout 2s;")
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back, client_of(running) as client:
        back.settimeout(PATIENCE)
        back.bind(running.address("back"))
        client.send(b"?")
        _, proxy = back.recvfrom(64)
        for n in range(6):
            back.sendto(numbered(n), proxy)
        assert [numbered(n) for n in range(6)] == [client.recv(2048) for _ in range(6)]
    assert ["1 6 0"] == running.wait_log("6", name="logs/access.log")


def test_what_waits_goes_on_in_the_next_worker(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """A reload in the middle of a delay: everything arrives once, in order."""
    text = CONF.format(backend=backends.udp().text, server="proxy_upload_rate 1k;")
    running = ngxstream(text)
    with client_of(running) as client:
        for n in range(8):
            client.send(numbered(n))
        first = client.recv(2048)
        running.reload(text)
        assert [numbered(n) for n in range(8)] == [first, *(client.recv(2048) for _ in range(7))]
