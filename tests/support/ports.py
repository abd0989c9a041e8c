"""Numbers of ports for programs that cannot be told to ask the kernel.

Rules:
1. A socket of the test's own binds port 0. This module is for configurations of other programs.
2. A number is outside of the kernel's ephemeral range: no outgoing connection can take it
   between the moment it is handed out and the moment the program binds it.
3. A number is locked for the life of this process in a registry shared by all test processes of
   the user: one file, one byte per port, POSIX record locks, which the kernel drops by itself.
4. A number is handed out only once per process until the range is used up.
"""

import atexit
import errno
import fcntl
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

LOWEST, HIGHEST = 10240, 65000


def _ephemeral() -> range:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return range(32768, 61000)
    return range(int(low), int(high) + 1)


class PortRegistry:
    """Hands out port numbers; one per process is enough (the module's functions use one)."""

    def __init__(self, registry: Path | None = None) -> None:
        """Open the registry of the user, or the file given."""
        folder = Path(tempfile.gettempdir())
        path = registry or folder / f"ngxstream-test-ports-{os.getuid()}.lock"
        # Never closed while the process lives: closing any descriptor of the file frees all locks.
        self._file = open(path, "a+b")  # noqa: SIM115
        self._owner = os.getpid()
        self._lock = threading.Lock()
        ephemeral = _ephemeral()
        self._ports = [p for p in range(LOWEST, HIGHEST) if p not in ephemeral]
        self._next = random.randrange(len(self._ports))
        self._given: set[int] = set()

    def close(self) -> None:
        """Give all numbers back."""
        self._file.close()

    def take(self, kinds: Iterable[socket.SocketKind], count: int = 1) -> int:
        """Return the first of count adjacent ports that are free for the kinds of socket."""
        kinds = tuple(kinds)
        with self._lock:
            for _ in range(len(self._ports)):
                run = self._run(count)
                if run and all(self._claim(port, kinds) for port in run):
                    self._given.update(run)
                    return run[0]
        raise RuntimeError("no free port is left for the tests")

    def _run(self, count: int) -> list[int]:
        """Return the next count numbers if they are adjacent and new, and move on."""
        if self._next + count > len(self._ports):
            self._next = 0
            self._given.clear()
        run = self._ports[self._next : self._next + count]
        self._next += count
        adjacent = run[-1] - run[0] == count - 1
        return run if adjacent and self._given.isdisjoint(run) else []

    def _claim(self, port: int, kinds: tuple[socket.SocketKind, ...]) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        return all(_is_free(port, kind) for kind in kinds)


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, kind) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    # Servers set it too: connections in TIME_WAIT do not make a port taken.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            if family == socket.AF_INET:
                raise
            # No IPv6 on this machine: nobody can be bound to it either.
    return True


_registries: list[PortRegistry] = []


def _registry() -> PortRegistry:
    # A forked child does not inherit record locks and must not share the parent's sequence.
    if not _registries or _registries[-1]._owner != os.getpid():
        _registries.append(PortRegistry())
        atexit.register(_registries[-1].close)  # the interpreter would complain of an open file
    return _registries[-1]


def free_tcp_port() -> int:
    """Return a port no TCP socket is bound to, on any address, IPv4 and IPv6."""
    return _registry().take([socket.SOCK_STREAM])


def free_udp_port() -> int:
    """Return a port no UDP socket is bound to, on any address, IPv4 and IPv6."""
    return _registry().take([socket.SOCK_DGRAM])


def free_port() -> int:
    """Return a port that is free for TCP and for UDP."""
    return _registry().take([socket.SOCK_STREAM, socket.SOCK_DGRAM])


def free_port_range(count: int) -> int:
    """Return the first of count adjacent ports that are free for TCP and for UDP."""
    return _registry().take([socket.SOCK_STREAM, socket.SOCK_DGRAM], count)
