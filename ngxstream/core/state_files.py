"""Files that workers keep for the next start: read with a limit, replaced as a whole.

The master reads as root what workers write: a regular file, no link, not more than so much of it.
A new version is written to a file beside it, which takes its place when the disk has it: whoever
reads finds the one or the other. So the folder must let the workers' user make files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat


def read(path: str, most: int) -> bytes | None:
    """Return what a file says, None where there is none. Raises: OSError; EFBIG, EINVAL, ELOOP"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        parts = []
        left = most
        while left and (part := os.read(fd, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(fd)
    return b"".join(parts)


def followed(path: str) -> str:
    """Return where a path leads: a link has to be root's or this user's. Raises: OSError

    Who may write the folder could have the master show him what he may not read.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return path
    try:
        status = os.fstat(fd)
        if not stat.S_ISLNK(status.st_mode):
            return path
        if status.st_uid not in (0, os.geteuid()):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        leads = os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)
    return os.path.realpath(os.path.join(os.path.dirname(path), leads))


def beside(path: str) -> str:
    """Return a name for a new version: of no other file in the same folder."""
    return f"{path}.{secrets.token_hex(8)}"


def create(path: str, new: str, mode: int) -> int:
    """Make a file for a new version. Raises: OSError

    It has the mode of the one there is and, where that can be, its owner. Args: mode: where there
    is none. Returns: the descriptor
    """
    known = None
    with contextlib.suppress(FileNotFoundError):
        known = os.stat(path)
        mode = stat.S_IMODE(known.st_mode)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if known is not None:
            with contextlib.suppress(OSError):
                os.fchown(fd, known.st_uid, known.st_gid)
        os.fchmod(fd, mode)
    except OSError:
        os.close(fd)
        discard(new)
        raise
    return fd


def write(path: str, new: str, data: bytes, mode: int) -> None:
    """Write a new version that is at hand, and have the disk keep it; see create().

    May take as long as the disk likes. Raises: OSError; there is no such file then
    """
    fd = create(path, new, mode)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        discard(new)
        raise


def sync(path: str) -> None:
    """Have the disk keep a file, or of a folder the names that are in it. Raises: OSError"""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: str, new: str) -> None:
    """Have a new version take the place of the file. Raises: OSError; it is gone then"""
    try:
        os.replace(new, path)
    except OSError:
        discard(new)
        raise


def discard(new: str) -> None:
    """Remove a version that is not wanted any more."""
    with contextlib.suppress(OSError):  # it is gone, or who looks into the folder will find it
        os.unlink(new)
