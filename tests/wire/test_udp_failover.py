"""A refused first datagram goes to the next server; nginx takes the refusal for an answer."""

import socket

from tests.support import clients, ports
from tests.support.backends import BackendFactory
from tests.support.proxies import ProxyFactory

CONF = """
events {{}}
stream {{
    log_format f "$status $upstream_addr $datagrams_dropped";
    access_log logs/access.log f;
    upstream group {{ server 127.0.0.1:{dead} {dead_as}; {second} }}
    server {{ listen 127.0.0.1:@main@ udp; proxy_pass group; proxy_responses 1; {server} }}
}}
"""


def dead_port() -> int:
    """Return a UDP port nobody listens at."""
    return ports.free_udp_port()


def send(address: tuple[str, int], data: bytes) -> None:
    """Send one datagram and hear nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, address)


def test_the_kept_datagram_goes_to_the_next_server(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """The client hears from the second server, the first has failed, both are in the log."""
    dead, backend = dead_port(), backends.udp()
    running = ngxstream(
        CONF.format(dead=dead, dead_as="weight=9", second=f"server {backend.text};", server="")
    )
    for _ in range(3):
        assert b"hello" == clients.udp_exchange(running.address("main"), b"hello")
    running.wait_log("recv\\(\\) failed \\(111: Connection refused\\)")
    running.wait_log("upstream server temporarily disabled")
    lines = running.wait_log("^200 ", name="logs/access.log", count=3)
    assert f"200 127.0.0.1:{dead}, {backend.text} 0" == lines[0]
    assert [f"200 {backend.text} 0"] * 2 == lines[1:]


def test_with_no_server_left_the_session_is_a_502(ngxstream: ProxyFactory) -> None:
    """All servers refuse: nothing is said to the client, the log says 502."""
    one, two = dead_port(), dead_port()
    running = ngxstream(
        CONF.format(dead=one, dead_as="", second=f"server 127.0.0.1:{two};", server="")
    )
    send(running.address("main"), b"hello")
    (line,) = running.wait_log("^502 ", name="logs/access.log")
    assert f"502 127.0.0.1:{one}, 127.0.0.1:{two} 0" == line


def test_proxy_next_upstream_off_keeps_to_one_server(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """With the directive off the first refusal ends the session."""
    dead = dead_port()
    running = ngxstream(
        CONF.format(
            dead=dead, dead_as="weight=9", second=f"server {backends.udp().text};",
            server="proxy_next_upstream off;",
        )
    )
    send(running.address("main"), b"hello")
    (line,) = running.wait_log("^502 ", name="logs/access.log")
    assert f"502 127.0.0.1:{dead} 0" == line


def test_a_refusal_after_an_answer_keeps_nginx_s_rules(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Once answered, a refusal counts as a response and the session ends as 200."""
    running = ngxstream(
        "events {} stream { log_format f $status; access_log logs/access.log f;"
        " server { listen 127.0.0.1:@main@ udp; proxy_pass 127.0.0.1:@back@;"
        " proxy_responses 1; proxy_requests 2; } }"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(running.address("main"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.settimeout(20)
            back.bind(running.address("back"))
            client.send(b"one")
            data, proxy = back.recvfrom(64)
            back.sendto(data, proxy)
            assert b"one" == client.recv(64)
        client.send(b"two")
        assert ["200"] == running.wait_log("^200", name="logs/access.log")
        running.wait_log("recv\\(\\) failed \\(111: Connection refused\\)")
