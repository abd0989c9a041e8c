"""Processes of other users: what a hostile neighbour on the same machine can do."""

import contextlib
import ctypes
import os
import pickle
import socket
import struct
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ngxstream.ipc import codec, port

NOBODY = 65534


def _be(uid: int, do: Callable[[], None], told: int) -> None:
    """Do something as a user, in a forked child; never returns."""
    code = 1
    try:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        do()
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child must not run the test
        os.write(told, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(code)


def let_in(folder: Path) -> None:
    """Let other users into a test's folder, and write there."""
    folder.chmod(0o777)
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if not mode & 1:
            parent.chmod(mode | 0o111)


def run_as(uid: int, do: Callable[[], None]) -> None:
    """Do something as another user and wait for its end; what it raises fails the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be(uid, do, writer)
    os.close(writer)
    with open(reader) as told:
        said = told.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, said


@contextmanager
def lingering_as(uid: int, do: Callable[[], None]) -> Iterator[int]:
    """Do something as another user, and have it stay with all it has; give its pid."""
    ready, done = os.pipe()
    over, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)

        def stay() -> None:
            do()
            os.write(done, b".")
            os.read(over, 1)

        _be(uid, stay, done)
    os.close(done)
    os.close(over)
    try:
        with open(ready, "rb", buffering=0) as told:
            said = told.read(4096)
            assert said == b".", said.decode()
            yield pid
    finally:
        os.close(end)
        os.waitpid(pid, 0)


PIDFD_GETFD = 438  # the same number on every architecture


def ports_of(pid: int) -> list[socket.socket]:
    """Return copies of all Unix sockets of packets that a process has, as it could use them."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                continue
        except OSError:
            continue
        fd = libc.syscall(PIDFD_GETFD, process, int(name), 0)
        if fd < 0:
            continue
        sock = socket.socket(fileno=fd)
        if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            sock.setblocking(False)
            found.append(sock)
        else:
            sock.close()
    os.close(process)
    return found


class _Opens:
    """What creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        """Have open(path, "w") called."""
        return open, (self.path, "w")


def attack(socks: list[socket.socket], canary: str) -> None:
    """Say everything into some ports that could make its reader create a file, or fall.

    Pickles as they are and behind a command, in the packet and in a memfd; commands, sound heads
    with nonsense behind them, memory that is not sealed, descriptors of files.
    """
    evil = pickle.dumps(_Opens(canary))
    memory = os.memfd_create("evil")
    os.write(memory, evil)
    with open("/etc/passwd", "rb") as passwd:
        fds = (memory, passwd.fileno())
        packets: list[tuple[bytes, tuple[int, ...]]] = [(b"record", fds), (evil, ()), (b"", fds)]
        for kind in range(12):
            packets.append((bytes((kind,)) + evil, fds))
            head = struct.pack("<BBBBI", port.MAGIC, codec.VERSION, kind, 0, len(evil))
            packets += [(head + evil, ()), (head + evil, fds), (head + bytes(len(evil)), fds)]
            for flags, size in ((port.SEALED, len(evil)), (port.MORE, 0)):
                head = struct.pack("<BBBBI", port.MAGIC, codec.VERSION, kind, flags, size)
                packets.append((head, fds))
        for sock in socks:
            for data, passed in packets:
                with contextlib.suppress(OSError):
                    socket.send_fds(sock, [data], passed)
    os.close(memory)
