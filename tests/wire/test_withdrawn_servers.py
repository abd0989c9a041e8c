"""Sessions whose server is withdrawn: ended (proxy_session_drop), or sent on to another one (UDP).

What a check says is up to the test: it asks at a port of its own, so servers go on serving whose
checks fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import api_calls, ports
from tests.support.api_calls import PLUS
from tests.support.backends import BackendFactory, TcpBackend, UdpBackend, tagged, udp_tagged
from tests.support.clients import TcpClient, UdpClient
from tests.support.dns import Dnsmasq
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

HOSTS = ("127.0.0.1", "127.0.0.2")
CONF = """worker_processes {workers}; error_log logs/error.log info; events {{}}
stream {{
    log_format f "$status $upstream_addr $session_end_reason $session_ended_by "
                 "$datagrams_received/$datagrams_sent $upstream_bytes_sent";
    access_log logs/access.log f;
    upstream u {{ zone u 128k; server {one}; server {two}; }}
    server {{ listen 127.0.0.1:@drop@ {kind}; proxy_pass u; proxy_session_drop on;
              health_check port={port} interval=50ms; }}
    server {{ listen 127.0.0.1:@stay@ {kind}; proxy_pass u; {words} }}
    server {{ listen 127.0.0.1:@api@; api write=on; }}
}}"""
UNHEALTHY = "upstream server is unhealthy"


class Checked:
    """Two ports that checks ask at, one at each host; a test closes one."""

    def __init__(self, stack: ExitStack) -> None:
        self.port = ports.free_tcp_port()
        self.first, self.second = (TcpBackend(host=host, port=self.port) for host in HOSTS)
        for one in (self.first, self.second):
            stack.callback(one.close)


@contextmanager
def checked() -> Iterator[Checked]:
    """Give the ports."""
    with ExitStack() as stack:
        yield Checked(stack)


def wait_state(program: Proxy, *states: str) -> None:
    """Wait until the servers of the group are in these states."""
    wait_until(lambda: list(states) == [
        peer["state"] for peer in api_calls.get(program, f"{PLUS}/stream/upstreams/u")["peers"]
    ])


def crowd(program: Proxy, name: str, kind: str, stack: ExitStack,
          count: int = 12) -> dict[str, list[TcpClient | UdpClient]]:
    """Begin sessions, and return their clients by the server that answers them."""
    make = UdpClient if kind else TcpClient
    found: dict[str, list[TcpClient | UdpClient]] = {"one": [], "two": []}
    for _ in range(count):
        client = stack.enter_context(make(program.address(name)))
        client.send(b"x")
        found[client.recv().decode().partition(":")[0]].append(client)
    assert all(found.values())
    return found


@pytest.mark.effect("proxy_session_drop")
@pytest.mark.parametrize("workers", [1, 4])
def test_sessions_of_an_unhealthy_server_end_at_once(
    workers: int, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Though nothing moves in them, in all workers; those of others, and without it, go on."""
    one = backends.tcp(tagged("one"), host=HOSTS[0])
    two = backends.tcp(tagged("two"), host=HOSTS[1])
    with ExitStack() as stack, checked() as at:
        program = ngxstream(CONF.format(
            workers=workers, one=one.text, two=two.text, port=at.port, kind="", words="",
        ))
        drop, stay = (crowd(program, name, "", stack) for name in ("drop", "stay"))
        at.second.close()
        for client in drop["two"]:
            assert b"" == client.recv()
        for client in (*drop["one"], *stay["one"], *stay["two"]):
            client.send(b"y")
            assert client.recv().endswith(b":y")
        lines = program.wait_log(r"^200 \S+ upstream_down upstream", name="logs/access.log",
                                 count=len(drop["two"]))
        assert {two.text} == {line.split()[1] for line in lines}
        assert len(drop["two"]) == len(program.wait_log(UNHEALTHY))
        wait_state(program, "up", "unhealthy")
        program.assert_healthy()


@pytest.mark.parametrize("workers", [1, 4])
def test_sessions_of_a_server_that_the_api_takes_away_end_at_once(
    workers: int, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """One that is removed, is marked down, or has another address; not one that is draining."""
    one, two, three = (
        backends.tcp(tagged(name), host=HOSTS[0]) for name in ("one", "two", "three")
    )
    path = f"{PLUS}/stream/upstreams/u/servers"
    with ExitStack() as stack, checked() as at:
        program = ngxstream(CONF.format(
            workers=workers, one=one.text, two=two.text, port=at.port, kind="", words="",
        ))
        drop, stay = (crowd(program, name, "", stack) for name in ("drop", "stay"))

        def go_on(*clients: TcpClient | UdpClient) -> None:
            for client in clients:
                client.send(b"y")
                assert client.recv().endswith(b":y")

        assert 200 == api_calls.call(program, f"{path}/1", "PATCH", {"drain": True})[0]
        go_on(*drop["two"])
        assert 200 == api_calls.call(program, f"{path}/1", "PATCH", {"drain": False})[0]
        assert 200 == api_calls.call(program, f"{path}/1", "PATCH", {"down": True})[0]
        for client in drop["two"]:
            assert b"" == client.recv()
        go_on(*drop["one"], *stay["two"])
        assert 200 == api_calls.call(program, f"{path}/1", "PATCH", {"down": False})[0]
        again = crowd(program, "drop", "", stack)
        go_on(*again["two"])
        assert 200 == api_calls.call(program, f"{path}/1", "PATCH", {"server": three.text})[0]
        for client in again["two"]:
            assert b"" == client.recv()
        go_on(*drop["one"], *again["one"], *stay["two"])
        assert 200 == api_calls.delete(program, f"{path}/0")
        for client in (*drop["one"], *again["one"]):
            assert b"" == client.recv()
        go_on(*stay["one"], *stay["two"])
        count = sum(map(len, (*drop.values(), *again.values())))
        program.wait_log(r"upstream_down operator", name="logs/access.log", count=count)
        assert count == len(program.wait_log("upstream server was removed or marked down"))
        program.assert_healthy()


def test_sessions_of_a_former_configuration_end_too(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Their workers hear of what the new ones do with the server, and leave then."""
    one = backends.tcp(tagged("one"), host=HOSTS[0])
    two = backends.tcp(tagged("two"), host=HOSTS[1])
    with ExitStack() as stack, checked() as at:
        text = CONF.format(workers=2, one=one.text, two=two.text, port=at.port, kind="", words="")
        program = ngxstream(text)
        drop = crowd(program, "drop", "", stack)
        program.reload(text)
        path = f"{PLUS}/stream/upstreams/u/servers/0"
        assert 200 == api_calls.delete(program, path)
        for client in drop["one"]:
            assert b"" == client.recv()
        at.second.close()
        for client in drop["two"]:
            assert b"" == client.recv()
        wait_until(lambda: len(program.all_worker_pids()) == 2)
        program.assert_healthy()


@pytest.mark.parametrize("workers", [1, 4])
def test_sessions_of_an_address_that_the_dns_has_no_more_end_at_once(
    workers: int, ngxstream: ProxyFactory, tmp_path: Path
) -> None:
    """In all workers, of which one has asked; by UDP as by TCP."""
    with ExitStack() as stack:
        port, servers = ports.free_port(), {}
        for name, host in zip(("one", "two"), HOSTS, strict=True):
            servers[name] = TcpBackend(tagged(name), host=host, port=port)
            stack.callback(servers[name].close)
            stack.callback(UdpBackend(udp_tagged(name), host=host, port=port).close)
        dns = stack.enter_context(Dnsmasq({"a.test": HOSTS}, folder=tmp_path, ttl=1))
        program = ngxstream(
            f"worker_processes {workers}; error_log logs/error.log info; events {{}} stream {{ "
            "log_format f '$protocol $upstream_addr $session_end_reason $session_ended_by'; "
            f"access_log logs/access.log f; resolver {dns.text} ipv6=off; "
            f"upstream u {{ zone u 64k; server a.test:{port} resolve; }} "
            "proxy_session_drop on; server { listen 127.0.0.1:@main@; proxy_pass u; } "
            "server { listen 127.0.0.1:@main@ udp; proxy_pass u; } }"
        )
        tcp, udp = (crowd(program, "main", kind, stack) for kind in ("", "udp"))
        dns.update({"a.test": HOSTS[:1]})
        for client in tcp["two"]:
            assert b"" == client.recv()
        program.wait_log(rf"^UDP {HOSTS[1]}:{port} upstream_down operator",
                         name="logs/access.log", count=len(udp["two"]))
        for client in (*tcp["one"], *udp["one"]):
            client.send(b"y")
            assert b"one:y" == client.recv()
        program.assert_healthy()


@pytest.mark.parametrize("workers", [1, 4])
def test_udp_sessions_go_on_with_another_server(
    workers: int, ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """At the client's next datagram; where they are to end they have ended before."""
    one = backends.udp(udp_tagged("one"), host=HOSTS[0])
    two = backends.udp(udp_tagged("two"), host=HOSTS[1])
    with ExitStack() as stack, checked() as at:
        program = ngxstream(CONF.format(
            workers=workers, one=one.text, two=two.text, port=at.port, kind="udp",
            words="proxy_timeout 1s;",
        ))
        drop, stay = (crowd(program, name, "udp", stack) for name in ("drop", "stay"))
        before = len(two.seen)
        at.second.close()
        program.wait_log(r"upstream_down upstream", name="logs/access.log", count=len(drop["two"]))

        def is_left(client: TcpClient | UdpClient) -> bool:
            client.send(b"y")
            return client.recv() == b"one:y"

        for client in (*stay["one"], *stay["two"]):
            wait_until(lambda client=client: is_left(client))  # type: ignore[misc]
        seen = len(two.seen)
        for client in (*stay["one"], *stay["two"]):
            assert is_left(client)
        assert seen == len(two.seen) >= before
        lines = program.wait_log(rf"^200 {two.text}, {one.text} idle proxy",
                                 name="logs/access.log", count=len(stay["two"]))
        for line in lines:
            received, sent = line.split()[5].split("/")
            assert received == sent
        program.assert_healthy()


def test_udp_sessions_stay_where_proxy_next_upstream_is_off(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Though their server is unhealthy."""
    one = backends.udp(udp_tagged("one"), host=HOSTS[0])
    two = backends.udp(udp_tagged("two"), host=HOSTS[1])
    with ExitStack() as stack, checked() as at:
        program = ngxstream(CONF.format(
            workers=2, one=one.text, two=two.text, port=at.port, kind="udp",
            words="proxy_next_upstream off;",
        ))
        drop, stay = (crowd(program, name, "udp", stack) for name in ("drop", "stay"))
        at.second.close()
        program.wait_log(r"upstream_down upstream", name="logs/access.log", count=len(drop["two"]))
        for client in stay["two"]:
            client.send(b"y")
            assert b"two:y" == client.recv()
        program.assert_healthy()
