"""Hosts with the same servers send a client to the same one of them, whichever program they run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ports
from tests.support.balancing import Clock, group, port, session
from tests.support.clients import TcpClient
from tests.support.proxies import Nginx, ProxyFactory

SERVERS = 8
KEYS = [f"127.{n // 250 + 1}.{n % 250 + 1}.{n * 7 % 250 + 1}" for n in range(10_000)]


class Key:
    """What stands in a session for the value of a `hash` directive."""

    value = b""

    def get(self, _: object) -> bytes:
        """Return the address whose turn it is."""
        return self.value


def chosen(lines: list[str]) -> list[int]:
    """Return the server that a host of ours sends each address to."""
    balancer = group(f"hash $remote_addr consistent; {' '.join(lines)}")
    key = balancer.tier.aid.key = Key()
    clock = Clock()
    found = []
    for address in KEYS:
        key.value = address.encode()
        selection = balancer.select(session(clock))
        peer = selection.get()
        found.append(port(peer))
        selection.free(peer, False)
    return found


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[ProxyFactory]:
    """Give a factory of nginx."""
    factory = ProxyFactory(Nginx, tmp_path)
    yield factory
    factory.finish()


@pytest.mark.slow
def test_ten_thousand_keys_find_one_server_on_all_hosts(nginx: ProxyFactory) -> None:
    """In whatever order the servers stand in the files; nginx agrees, asked by real clients."""
    assert len(KEYS) == len(set(KEYS))
    numbers = [ports.free_port() for _ in range(SERVERS)]
    lines = [f"server 127.0.0.1:{number};" for number in numbers]
    ours = chosen(lines)
    assert ours == chosen(lines[::-1])
    assert set(numbers) == set(ours)
    theirs = nginx(
        "worker_processes 1; events { } stream { "
        f"upstream u {{ hash $remote_addr consistent; {' '.join(lines)} }} "
        + "".join(f'server {{ listen 127.0.0.1:{number}; return {number}; }} '
                  for number in numbers)
        + "server { listen 127.0.0.1:@main@; proxy_pass u; } }", log_level="crit",
    )
    address = theirs.address("main")
    for source, expected in zip(KEYS, ours, strict=True):
        with TcpClient(address, source=(source, 0)) as client:
            assert expected == int(client.recv_to_eof()), source
