"""debug_connection, beside a real nginx."""

import socket
from collections.abc import Callable

import pytest

from tests.support.proxies import Proxy
from tests.support.waiting import wait_until


@pytest.mark.effect("debug_connection")
def test_one_client_is_logged_in_full(proxy: Callable[..., Proxy]) -> None:
    """The log is at error, yet what one client does is there, and no word of the other's."""
    running = proxy(
        "events { debug_connection 127.0.0.2; }"
        " stream { server { listen 127.0.0.1:@main@; return hi; } }",
        log_level="error",
    )
    for host in ("127.0.0.3", "127.0.0.2"):
        address = running.address("main")
        with socket.create_connection(address, 20, source_address=(host, 0)) as sock:
            assert b"hi" == sock.recv(100)
    wait_until(lambda: any("127.0.0.2" in line for line in running.error_log()))
    lines = running.error_log()
    connected = [line for line in lines if " [info] " in line and " connected to " in line]
    assert 1 == len(connected)
    assert " client 127.0.0.2:" in connected[0]
    assert not any("127.0.0.3" in line for line in lines)


def test_debug_shows_what_info_does(ngxstream: Callable[..., Proxy]) -> None:
    """At level debug a session has its lines of level info, and no line is of level debug."""
    running = ngxstream(
        "events {} stream { server { listen 127.0.0.1:@main@; return hi; } }", log_level="debug"
    )
    with socket.create_connection(running.address("main"), 20) as sock:
        assert b"hi" == sock.recv(100)
    running.wait_log(r"\[info\] .* client 127\.0\.0\.1:\d+ connected to ")
    assert not [line for line in running.error_log() if " [debug] " in line]
