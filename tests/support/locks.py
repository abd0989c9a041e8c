"""Locks of zones, as another process sees them."""

import errno
import fcntl
import os

from ngxstream.core.shm import Zone


def is_free(zone: Zone) -> bool:
    """Tell whether nobody has the lock of a zone: another process could take it."""
    pid = os.fork()
    if not pid:
        status = 2
        try:
            fcntl.lockf(zone.lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            status = 0
        except OSError as error:
            status = 1 if error.errno in (errno.EAGAIN, errno.EACCES) else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1), "the lock cannot be tried"
    return code == 0
