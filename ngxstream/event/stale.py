"""Unix sockets that a killed program has left: their paths are free again.

nginx has no counterpart: its bind() fails until somebody removes the path.

1. Only a socket of this process's own user is removed, and only if no socket is bound to it. Who
   connects for datagrams to the very file learns that from the kernel: it refuses only where there
   is none, of whatever kind, listening or not yet, in any network namespace.
2. The file that was asked about is the one that is removed: it is moved to a name that nobody else
   knows, looked at there, and moved back if another one has taken its place in between.
"""

from __future__ import annotations

import os
import socket
import stat


def remove(path: str | bytes) -> bool:
    """Remove a socket that nobody has any more. Returns: whether it is gone"""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):  # or an abstract address
        return False
    try:
        return _is_stale(fd) and _remove(os.fsdecode(path), os.fstat(fd))
    except OSError:
        return False
    finally:
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


def _remove(path: str, about: os.stat_result) -> bool:
    """Remove a file if it is still the one that it is said to be. Raises: OSError"""
    if not os.path.samestat(os.lstat(path), about):
        return False
    aside = f"{path}.{os.urandom(8).hex()}"
    os.rename(path, aside)
    if os.path.samestat(os.lstat(aside), about):
        os.unlink(aside)
        return True
    if not os.path.lexists(path):
        os.rename(aside, path)
    return False
