"""What the running program shows of its servers: all workers together, over reloads and deaths."""

import contextlib
import os
import signal
from typing import Any

import pytest

from tests.support.api_calls import PLUS, delete, get
from tests.support.backends import BackendFactory
from tests.support.clients import TcpClient, UdpClient
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

CLIENTS = 12
ZONES = f"{PLUS}/stream/server_zones"
CONF = """
worker_processes {workers}; events {{}} stream {{ server {{ listen 127.0.0.1:@api@; api write=on; }}
    server {{ listen 127.0.0.1:@tcp@; status_zone tcp; proxy_pass {tcp}; proxy_timeout 1h; }}
    server {{ listen 127.0.0.1:@udp@ udp; status_zone udp; proxy_pass {udp}; proxy_timeout 1h; }}
    server {{ listen 127.0.0.1:@denied@; status_zone denied; deny all; return x; }}
}}"""


class Program:
    """The program, its clients, and what they have done."""

    def __init__(self, program: Proxy, stack: contextlib.ExitStack) -> None:
        self.program = program
        self.stack = stack
        self.tcp = self.udp = self.denied = 0  # sessions so far
        self.bytes = {"tcp": 0, "udp": 0}
        self.open: list[TcpClient] = []
        self.talking: list[UdpClient] = []

    def use(self) -> None:
        """Have clients come, some to stay; each says five bytes and is answered by as many."""
        for _ in range(CLIENTS):
            client = self.stack.enter_context(TcpClient(self.program.address("tcp")))
            self.say(client)
            self.open.append(client)
            with TcpClient(self.program.address("tcp")) as other:
                self.say(other)
            talker = self.stack.enter_context(UdpClient(self.program.address("udp")))
            self.say(talker)
            self.talking.append(talker)
            with TcpClient(self.program.address("denied")) as refused:
                assert b"" == refused.recv_to_eof()
        self.tcp += 2 * CLIENTS
        self.udp += CLIENTS
        self.denied += CLIENTS

    def say(self, client: Any) -> None:
        """Exchange five bytes."""
        assert b"hello" == client.exchange(b"hello")
        self.bytes["udp" if isinstance(client, UdpClient) else "tcp"] += 5

    def zones(self) -> Any:
        """Return what is shown of the servers."""
        return get(self.program, f"{ZONES}/")

    def check(self, *, lost: int = 0) -> None:
        """See that what is shown comes to be what clients did. Args: lost: with a worker"""
        ended = self.tcp - len(self.open) - lost
        expected = {
            "tcp": {
                "processing": len(self.open), "connections": self.tcp, "discarded": 0,
                "sessions": {"2xx": ended, "4xx": 0, "5xx": 0, "total": ended},
                "received": self.bytes["tcp"], "sent": self.bytes["tcp"],
            },
            "udp": {
                "processing": len(self.talking), "connections": self.udp, "discarded": 0,
                "sessions": {"2xx": 0, "4xx": 0, "5xx": 0, "total": 0},
                "received": self.bytes["udp"], "sent": self.bytes["udp"],
            },
            "denied": {
                "processing": 0, "connections": self.denied, "discarded": 0,
                "sessions": {"2xx": 0, "4xx": self.denied, "5xx": 0, "total": self.denied},
                "received": 0, "sent": 0,
            },
        }

        def shown() -> bool:
            found = self.zones()
            return expected == {name: found[name] for name in expected}

        with contextlib.suppress(AssertionError):
            wait_until(shown, every=0.05)
        found = self.zones()
        assert expected == {name: found[name] for name in expected}


def conf(backends: BackendFactory, workers: int) -> str:
    """Return the configuration."""
    return CONF.format(workers=workers, tcp=backends.tcp().text, udp=backends.udp().text)


@pytest.fixture
def stack() -> Any:
    """Close what a test opened."""
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("workers", [1, 3])
def test_what_clients_did_is_shown_over_reloads(
    ngxstream: ProxyFactory, backends: BackendFactory, stack: contextlib.ExitStack, workers: int
) -> None:
    """Live sessions with their bytes; UDP sessions go on in other workers and are counted once."""
    program = Program(ngxstream(conf(backends, workers)), stack)
    program.use()
    program.check()
    program.program.reload()
    for client in (*program.open, *program.talking):
        program.say(client)
    program.check()
    program.use()
    for client in program.open:
        client.close()
    program.open.clear()
    program.check()
    address = program.program.address("api")
    assert f"{address[0]}:{address[1]}" in program.zones()
    assert 204 == delete(program.program, f"{ZONES}/denied/")
    program.denied = 0
    program.check()


def test_what_a_dead_worker_has_counted_stays(
    ngxstream: ProxyFactory, backends: BackendFactory, stack: contextlib.ExitStack
) -> None:
    """The sessions that it had are lost, and are not shown as going on."""
    program = Program(
        ngxstream(conf(backends, 2), expected=(r"exited on signal 9",)), stack
    )
    program.use()
    for client in program.open:
        client.close()
    program.open.clear()
    program.check()
    before = program.program.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(now := program.program.worker_pids()) == 2 and not {*now} & {*before})
    program.talking.clear()
    program.check()
    shown = get(program.program, f"{PLUS}/connections")
    assert program.tcp + program.udp + program.denied < shown["accepted"]
    # who asks alone, as soon as those who asked before have left
    wait_until(lambda: get(program.program, f"{PLUS}/connections")["active"] == 1)


def test_the_clients_of_nginx_plus_find_what_they_insist_on(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """At every path that they ask for, with a slash at the end and without."""
    program = ngxstream(conf(backends, 1))
    listed = get(program, f"{PLUS}/")
    assert "http" not in listed
    assert {"connections", "slabs", "ssl", "resolvers", "stream"} <= {*listed}
    assert {"server_zones", "limit_conns"} <= {*get(program, f"{PLUS}/stream")}
    for path in (
        "connections", "slabs", "ssl", "resolvers", "stream/server_zones", "stream/limit_conns",
        "http/caches", "http/requests", "http/server_zones", "http/upstreams",
        "http/location_zones", "http/limit_reqs", "http/limit_conns",
    ):
        assert get(program, f"{PLUS}/{path}") is not None
        assert get(program, f"/api/1/{path}/") is not None
