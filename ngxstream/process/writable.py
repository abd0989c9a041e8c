"""Whether workers can write the files that they keep for the next start: told at -t and at a start.

The master may be root where workers are not. What a worker will be allowed to is reckoned by the
mode of the folder; lists of access (ACLs) can only be known by trying.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ngxstream.conf.builder import Builder
    from ngxstream.process.directives import User

_WANTED = stat.S_IWOTH | stat.S_IXOTH


def warn_of_folders(builder: Builder, user: User | None) -> None:
    """Warn of files that workers could not replace. Args: user: whose workers are, None for ours"""
    for path in builder.data.get("states", {}).values():
        folder = os.path.dirname(path)
        reason = refusal(folder, user)
        if reason:
            who = f' by user "{user.name}"' if user is not None else ""
            builder.warn(
                "warn", f'state file "{path}" cannot be written{who}: folder "{folder}" {reason}'
            )


def refusal(folder: str, user: User | None) -> str:
    """Return why a user cannot make files in a folder, "" if he can."""
    name = os.fsencode(folder)
    try:
        status = os.stat(name)
    except OSError as error:
        return f"({error.errno}: {error.strerror})"
    if not stat.S_ISDIR(status.st_mode):
        return f"({errno.ENOTDIR}: {os.strerror(errno.ENOTDIR)})"
    if user is None:
        may = os.access(name, os.W_OK | os.X_OK)
    elif user.uid == 0:
        may = True
    else:
        mode = status.st_mode
        if status.st_uid == user.uid:
            mode >>= 6
        elif status.st_gid in os.getgrouplist(user.name, user.gid):
            mode >>= 3
        may = mode & _WANTED == _WANTED
    return "" if may else f"({errno.EACCES}: {os.strerror(errno.EACCES)})"
