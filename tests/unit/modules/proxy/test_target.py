"""A proxy_pass with variables leads to addresses that are known only when a session comes."""

import contextlib
import socket

import pytest

from ngxstream.event.resolver import Address
from ngxstream.modules.proxy import target
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.wire import dns
from tests.support import ports
from tests.support.engine import run_until
from tests.support.scripted_dns import ScriptedDns, table
from tests.support.udp_in_process import UdpInProcess


def addresses(count: int) -> tuple[Address, ...]:
    """Make so many."""
    return tuple(Address(2, f"10.0.{n >> 8}.{n & 255}") for n in range(count))


@pytest.mark.parametrize("count", [0, 1, target.PEERS])
def test_a_session_may_try_all_addresses_of_an_ordinary_name(count: int) -> None:
    """They are tried in the order of the DNS answer."""
    assert addresses(count) == target.some_of(addresses(count))


def test_a_session_tries_no_more_addresses_than_allowed() -> None:
    """Of a thousand each gets its turn, in one session or another."""
    every = addresses(target.PEERS + 1)
    seen = set()
    for _ in range(400):
        some = target.some_of(every)
        assert target.PEERS == len(set(some)) == len(some)
        seen.update(some)
    assert set(every) == seen


class BrokenProxy(UdpProxy):
    """A session that cannot go on with the addresses it waited for."""

    __slots__ = ()

    def connect_late(self) -> None:
        """Fail."""
        raise ValueError("no good")


def test_a_fault_with_the_addresses_of_a_name_ends_that_session_alone() -> None:
    """Of three clients that wait for one name the second's session fails; the others are served."""
    with (
        contextlib.closing(
            ScriptedDns(table([("a.test", dns.A, 60, "127.0.0.1")]))
        ) as names,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        served = UdpInProcess(f"""stream {{
            resolver {names.text} ipv6=off; map $remote_port $name {{ default a.test; }}
            server {{ listen 127.0.0.1:{ports.free_udp_port()} udp;
                     proxy_pass $name:{server.getsockname()[1]}; }} }}""")
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        with served:
            for n, client in enumerate(clients):
                client.connect(served.address())
                client.send(b"%d" % n)
            run_until(served.loop, lambda: len(served.loop.sessions) == 3)
            bad = clients[1].getsockname()
            (failing,) = [s for s in served.loop.sessions if s.c.sockaddr == bad]
            assert failing.content is not None
            failing.content.__class__ = BrokenProxy
            got: list[bytes] = []

            def is_served() -> bool:
                names.step()
                with contextlib.suppress(BlockingIOError):
                    got.append(server.recv(10))
                return len(got) == 2 and failing.status == 500

            run_until(served.loop, is_served)
            assert {b"0", b"2"} == set(got)
            assert 2 == len(served.loop.sessions)
            assert 1 == len(served.alerts())
        for client in clients:
            client.close()
