"""Unix sockets that a killed program has left: their paths are free again.

nginx has no counterpart: its bind() fails until somebody removes the path.

1. Only a socket of this process's own user is removed, and only if no socket is bound to it. Who
   connects for datagrams to the very file learns that from the kernel: it refuses only where there
   is none, of whatever kind, listening or not yet, in any network namespace.
2. The file that was asked about is the one that is removed: it is moved to a name that nobody else
   knows, looked at there, and moved back if another one has taken its place in between. All that
   in one folder: who can rename the folders above gets nothing moved in another one.
"""

from __future__ import annotations

import functools
import os
import socket
import stat


def remove(path: str | bytes) -> bool:
    """Remove a socket that nobody has any more. Returns: whether it is gone"""
    folder, name = os.path.split(os.fsdecode(path))
    fds = []
    try:
        fds.append(os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        fds.append(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fds[0]))
        return _is_stale(fds[1]) and _remove(fds[0], name, os.fstat(fds[1]))
    except (OSError, ValueError):  # or an abstract address
        return False
    finally:
        for fd in fds:
            os.close(fd)


def _is_stale(fd: int) -> bool:
    about = os.fstat(fd)
    if not stat.S_ISSOCK(about.st_mode) or about.st_uid != os.geteuid():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(f"/proc/self/fd/{fd}")
        except ConnectionRefusedError:
            return True
    return False


def _remove(folder: int, name: str, about: os.stat_result) -> bool:
    """Remove a file if it is still the one that it is said to be. Raises: OSError"""
    look = functools.partial(os.stat, dir_fd=folder, follow_symlinks=False)
    move = functools.partial(os.rename, src_dir_fd=folder, dst_dir_fd=folder)
    if not os.path.samestat(look(name), about):
        return False
    aside = f"{name}.{os.urandom(8).hex()}"
    move(name, aside)
    if os.path.samestat(look(aside), about):
        os.unlink(aside, dir_fd=folder)
        return True
    try:
        look(name)
    except FileNotFoundError:
        move(aside, name)
    return False
