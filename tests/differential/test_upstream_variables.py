"""What `$upstream_…` hold after stories of every kind: an item for each attempt, in one shape."""

import re
from typing import Any

import pytest

from tests.support import backends as b
from tests.support.clients import TcpClient, UdpClient, tcp_exchange
from tests.support.proxies import Proxy
from tests.support.stories import ended, said

HEAD = (
    "events {} stream { log_format t '$upstream_addr|$upstream_connect_time|"
    "$upstream_first_byte_time|$upstream_session_time|$upstream_bytes_sent|"
    "$upstream_bytes_received|$session_time|$status|$bytes_sent'; access_log logs/access.log t; "
)
DOWN, DOWN_TOO = "127.0.0.1:1", "127.0.0.1:2"  # nobody listens on these ports

# name -> (the group, further directives, "tcp" or "udp", what the client sends)
STORIES: dict[str, tuple[str, str, str, bytes]] = {
    "served": ("ECHO", "", "tcp", b"x"),
    "served by the third": (f"{DOWN} {DOWN_TOO} ECHO", "", "tcp", b"x"),
    "served by a backup": (f"{DOWN} ECHO:backup", "", "tcp", b"x"),
    "refused by all": (f"{DOWN} {DOWN_TOO}", "", "tcp", b""),
    "refused by the only one": (DOWN, "", "tcp", b""),
    "no further try": (f"{DOWN} ECHO", "proxy_next_upstream_tries 1;", "tcp", b""),
    "silence": ("MUTE", "proxy_timeout 300ms;", "tcp", b"x"),
    "closed without a word": ("SHY", "", "tcp", b""),
    "greeted": ("GREETER", "", "tcp", b""),
    "no such local address": ("ECHO", "proxy_bind 192.0.2.9;", "tcp", b""),
    "no such path": ("unix:/nonexistent/socket", "", "tcp", b""),
    "served over UDP": ("UDP", "proxy_responses 1;", "udp", b"x"),
    "silence over UDP": ("DEAF", "proxy_responses 1; proxy_timeout 300ms;", "udp", b"x"),
    "nothing asked for over UDP": ("DEAF", "proxy_responses 0;", "udp", b"x"),
}


@pytest.mark.parametrize("name", STORIES)
def test_lists_have_an_item_for_each_attempt(name: str, same, backends) -> None:
    """Addresses, times, counts and status of a session are logged in the same form."""
    group, more, kind, payload = STORIES[name]
    made: dict[str, Any] = {
        "ECHO": lambda: backends.tcp(b.echo),
        "MUTE": lambda: backends.tcp(b.silent),
        "SHY": lambda: backends.tcp(lambda conversation: None),
        "GREETER": lambda: backends.tcp(b.greet(b"hello")),
        "UDP": lambda: backends.udp(b.udp_echo),
        "DEAF": lambda: backends.udp(b.udp_silent),
    }
    lines = ""
    for word in group.split():
        key, _, option = word.partition(":") if word.startswith("ECHO") else (word, "", "")
        address = made[key]().text if key in made else word
        lines += f"server {address} {option}; "

    def story(program: Proxy) -> Any:
        address = program.address("in")
        if kind == "udp":
            with UdpClient(address) as client:
                client.send(payload)
                (line,) = ended(program, 1)
        elif payload and "ECHO" in group:
            with TcpClient(address) as client:
                assert payload == client.exchange(payload)
        else:
            tcp_exchange(address, payload)
        (line,) = ended(program, 1)
        return re.sub(r"\d+\.\d{3}", "TIME", line), said(program, "error", "crit", "warn")

    udp = "udp" if kind == "udp" else ""
    same(
        f"upstream u {{ {lines} }} server {{ listen 127.0.0.1:@in@ {udp}; proxy_pass u; {more} }}",
        story,
        head=HEAD,
    )
