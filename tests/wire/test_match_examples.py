r"""Checks of NTP and DNS servers by `match` blocks, as the admin guide of NGINX Plus has them.

NTP: a client's packet of version 4, 0xe3 and 47 zeros; a server's answer begins with 0x24 while
it has the time. DNS: a question for a TXT record that says that all is well.
"""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import api_calls, real_servers, tools
from tests.support.api_calls import PLUS
from tests.support.dns import Dnsmasq
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import PATIENCE, wait_until

NTP = r"match m { send \xe3" + r"\x00" * 47 + r"; expect ~* \x24; }"
QUESTION = (  # id 1, recursion desired, one question: health.test, TXT, IN
    r"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    r"\x06\x68\x65\x61\x6c\x74\x68\x04\x74\x65\x73\x74\x00\x00\x10\x00\x01"
)
DNS = f'match m {{ send {QUESTION}; expect ~* "health.is.good"; }}'


def served(ngxstream: ProxyFactory, match: str, port: int, words: str) -> Proxy:
    """Serve a group of this server and one that is no server, under a check over UDP."""
    return ngxstream(
        f"events {{}} stream {{ {match} upstream u {{ server 127.0.0.1:{port}; }} "
        "health_check_timeout 500ms; server { listen 127.0.0.1:@in@ udp; proxy_pass u; "
        f"proxy_timeout 1s; proxy_responses 1; health_check udp {words}; }} "
        "server { listen 127.0.0.1:@api@; api; } }"
    )


def becomes(program: Proxy, state: str) -> None:
    """Wait until a check has found this of the server."""

    def is_so() -> bool:
        (peer,) = api_calls.get(program, f"{PLUS}/stream/upstreams/u")["peers"]
        return peer["state"] == state and "last_passed" in peer["health_checks"]

    wait_until(is_so, PATIENCE, f"it is {state}")


@contextmanager
def ntp_server(folder: Path, *, synchronised: bool) -> Iterator[int]:
    """Run chrony, or what answers as it does where that is not installed."""
    if shutil.which("chronyd", path=tools.SEARCH_PATH):
        lines = ["local stratum 5"] if synchronised else []
        with real_servers.chrony(folder, *lines) as server:
            yield server.port
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        over = threading.Event()
        thread = threading.Thread(target=_answer_ntp, args=(sock, over, synchronised))
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            over.set()
            thread.join()


def _answer_ntp(sock: socket.socket, over: threading.Event, synchronised: bool) -> None:
    """Answer as RFC 5905 says: mode 4, the version of the client, its time as the origin."""
    sock.settimeout(0.05)
    while not over.is_set():
        try:
            query, client = sock.recvfrom(100)
        except TimeoutError:
            continue
        if len(query) >= 48:
            leap, stratum = (0, 5) if synchronised else (3, 0)
            head = bytes((leap << 6 | query[0] & 0x38 | 4, stratum, query[2], 0xE9))
            sock.sendto(head + bytes(20) + query[40:48] + bytes(16), client)


@pytest.mark.effect("match", "health_check")
def test_an_ntp_server_that_has_the_time_is_up(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """And unhealthy when it is gone."""
    with ntp_server(tmp_path, synchronised=True) as port:
        program = served(ngxstream, NTP, port, "match=m interval=200ms")
        becomes(program, "up")
    becomes(program, "unhealthy")
    program.assert_healthy()


def test_an_ntp_server_without_the_time_is_unhealthy(
    ngxstream: ProxyFactory, tmp_path: Path
) -> None:
    """Its answer has another first byte: that it is not synchronised."""
    with ntp_server(tmp_path, synchronised=False) as port:
        becomes(served(ngxstream, NTP, port, "match=m interval=200ms"), "unhealthy")


@pytest.mark.parametrize(
    ("text", "state"), [("health.is.good", "up"), ("health.is.bad", "unhealthy"), ("", "unhealthy")]
)
def test_a_dns_server_says_how_it_is(
    ngxstream: ProxyFactory, tmp_path: Path, text: str, state: str
) -> None:
    """By a TXT record, which is there or not."""
    options = [f"--txt-record=health.test,{text}"] if text else []
    with Dnsmasq({}, folder=tmp_path, options=options) as server:
        program = served(ngxstream, DNS, server.port, "match=m interval=200ms")
        becomes(program, state)
    becomes(program, "unhealthy")


def test_a_dns_server_that_listens_is_up(ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """Where nothing else is asked; an ICMP message says that it does not any more."""
    with Dnsmasq({}, folder=tmp_path) as server:
        program = served(ngxstream, "", server.port, "interval=200ms")
        becomes(program, "up")
    becomes(program, "unhealthy")
