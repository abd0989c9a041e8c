"""The kit's port registry."""

import socket
import subprocess
import sys
from pathlib import Path

from tests.support import ports
from tests.support.proxies import ROOT


def test_ports_are_outside_of_the_ephemeral_range() -> None:
    """No outgoing connection of the machine can take a port that was handed out."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    given = [ports.free_port() for _ in range(50)]
    assert not [port for port in given if low <= port <= high]
    assert 50 == len(set(given))


def test_a_bound_port_is_not_handed_out(tmp_path: Path) -> None:
    """A port in use is passed over, for the kind of socket that uses it."""
    registry = ports.PortRegistry(tmp_path / "registry")
    first = registry.take([socket.SOCK_STREAM])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 1))
        registry._given.clear()
        registry._next = registry._ports.index(first + 1)
        assert first + 1 != registry.take([socket.SOCK_STREAM])
        registry._given.clear()
        registry._next = registry._ports.index(first + 1)
        assert first + 1 == registry.take([socket.SOCK_DGRAM])
    registry.close()


def test_another_process_gets_other_ports(tmp_path: Path) -> None:
    """A number locked by a living process is not handed out by another one."""
    registry = ports.PortRegistry(tmp_path / "registry")
    mine = [registry.take([socket.SOCK_DGRAM]) for _ in range(20)]
    program = (
        "import sys, socket, pathlib; from tests.support import ports\n"
        "other = ports.PortRegistry(pathlib.Path(sys.argv[1]))\n"
        "other._next = other._ports.index(int(sys.argv[2]))\n"
        "print(*[other.take([socket.SOCK_DGRAM]) for _ in range(20)])\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "registry"), str(mine[0])]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    theirs = [int(word) for word in done.stdout.split()]
    registry.close()
    assert 20 == len(theirs)
    assert set(mine).isdisjoint(theirs)


def test_a_range_is_adjacent() -> None:
    """free_port_range() gives the first of that many numbers in a row, all its own."""
    first = ports.free_port_range(5)
    assert not {ports.free_port() for _ in range(20)} & set(range(first, first + 5))
