"""The sockets of another process, borrowed by pidfd_getfd(2): what options they have been given.

A borrowed socket is a second descriptor of the same socket: options, addresses and state are the
owner's. Needs the right to trace the process, which root and a parent have.
"""

import contextlib
import ctypes
import os
import socket
from collections.abc import Callable, Iterator

from tests.support.tools import libc

PIDFD_GETFD = 438  # the number of the system call, on every architecture

Check = Callable[[socket.socket], object]


def _borrow(pidfd: int, fd: int) -> socket.socket | None:
    got = libc.syscall(PIDFD_GETFD, pidfd, fd, 0)
    if got < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        return socket.socket(fileno=got)
    except OSError:  # something else than a socket
        os.close(got)
        return None


@contextlib.contextmanager
def borrowed(pid: int) -> Iterator[list[socket.socket]]:
    """Give all sockets of a process; they are closed here at the end, and stay open there."""
    pidfd = os.pidfd_open(pid)
    found = []
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # it was closed meanwhile
                sock = _borrow(pidfd, int(entry))
                if sock is not None:
                    found.append(sock)
        yield found
    finally:
        os.close(pidfd)
        for sock in found:
            sock.close()


def is_listening(sock: socket.socket) -> bool:
    """Tell whether a socket listens, or waits for datagrams from anybody."""
    if sock.type == socket.SOCK_STREAM:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def port_of(sock: socket.socket) -> int:
    """Return the local port, 0 for a socket that has none."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    return int(sock.getsockname()[1])


def peer_port_of(sock: socket.socket) -> int:
    """Return the port a socket is connected to, 0 for none."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    try:
        return int(sock.getpeername()[1])
    except OSError:
        return 0


def options(sock: socket.socket, names: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Return these options of a socket. Args: name -> (level, option)"""
    return {name: sock.getsockopt(level, number) for name, (level, number) in names.items()}
