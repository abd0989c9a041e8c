"""Which servers forward each datagram from the client's own address and forget it."""

import pytest

from ngxstream.modules.proxy import dsr
from tests.support.in_process import build

BIND = "proxy_bind $remote_addr:$remote_port transparent;"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"proxy_responses 0; {BIND}", True),
        (f"proxy_responses 0; proxy_requests 1; {BIND}", True),
        (f"proxy_responses 0; proxy_requests 2; {BIND}", False),
        (f"proxy_responses 1; {BIND}", False),
        (BIND, False),
        ("proxy_responses 0; proxy_bind 127.0.0.1;", False),
    ],
)
def test_a_session_ends_with_its_datagram_where_nothing_comes_back(
    words: str, expected: bool
) -> None:
    """And only one datagram is its own, and the address is the client's."""
    made = build(f"stream {{ server {{ listen 127.0.0.1:1 udp; proxy_pass 127.0.0.1:2; {words} "
                 "} }")
    assert made.conf is not None, made.error
    assert expected is dsr.is_direct(made.conf.servers[0].proxy)
