"""The pid file: who writes it, which process it names, whether that is ours (ngx_cycle.c
ngx_create_pidfile, ngx_signal_process).

nginx writes over any pid file and signals whatever process it names. Where a real nginx may run
beside us, with the same default path, that would take its pid file or stop it. So:

1. A start never writes over a file that names a living process which is not ours. A process that
   began after the file was written cannot be the one it names: then the file is a stale one.
2. A signal is sent to a process of ours only.
3. What is removed is a file that holds this process's own number, and no file that somebody has
   put in the place of ours. A device that `pid` names is neither removed nor renamed.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Final

from ngxstream.core import errors
from ngxstream.process.options import NGINX, OURS

OLDBIN: Final = ".oldbin"
MODE: Final = 0o644
MAX_TEXT: Final = 64
_TITLE: Final = re.compile(rf"(?:{NGINX}|{OURS}): ")


class SignalError(errors.NgxError):
    """A signal that could not be sent; [error], or [alert] where the kernel refused."""

    def __init__(self, message: str, *, errno: OSError | None = None, level: str = "error") -> None:
        super().__init__(message, errno=errno)
        self.level = level


def create(path: str, pid: int | None) -> None:
    """Write a pid file, or for a test (pid None) only see that it could be written.

    Raises: UnplacedError. Source: ngx_cycle.c ngx_create_pidfile
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if pid is None else os.O_TRUNC)
    try:
        fd = os.open(_bytes(path), flags, MODE)
    except OSError as error:
        raise errors.UnplacedError(f'open() "{path}" failed', errno=error) from None
    try:
        if pid is not None:
            os.write(fd, b"%d\n" % pid)
    except OSError as error:
        raise errors.UnplacedError(f'pwrite() "{path}" failed', errno=error) from None
    finally:
        os.close(fd)


def check(path: str) -> None:
    """See that a start would not take another program's pid file.

    Raises: UnplacedError that says whose it is
    """
    try:
        pid = _parse(_read(path))
        written = os.stat(_bytes(path)).st_mtime
    except (OSError, ValueError):
        return
    if pid == os.getpid() or not is_alive(pid) or is_ours(pid) or began(pid) > written + 1:
        return
    raise errors.UnplacedError(
        f'the pid file "{path}" belongs to a running process that is not {OURS}: {describe(pid)}'
    )


def find(path: str) -> int:
    """Return the master's pid from the pid file. Raises: SignalError"""
    try:
        text = _read(path)
    except OSError as error:
        raise SignalError(f'open() "{path}" failed', errno=error) from None
    try:
        pid = _parse(text)
    except ValueError:
        shown = text.rstrip("\r\n")
        raise SignalError(f'invalid PID number "{shown}" in "{path}"') from None
    if is_alive(pid) and not is_ours(pid):
        raise SignalError(f'no signal sent: the process in "{path}" is not {OURS}: {describe(pid)}')
    return pid


def read(path: str) -> int:
    """Return the pid in a pid file, 0 if there is none."""
    try:
        return _parse(_read(path))
    except (OSError, ValueError):
        return 0


def user_of(pid: int) -> int:
    """Return the effective user of a process, -1 where there is none."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def names_master(path: str) -> bool:
    """Tell whether a pid file names a living process of ours."""
    pid = read(path)
    return pid != 0 and is_alive(pid) and is_ours(pid)


def send(pid: int, number: int) -> None:
    """Send a signal. Raises: SignalError. Source: ngx_process.c ngx_os_signal_process"""
    try:
        os.kill(pid, number)
    except (OSError, OverflowError) as error:
        cause = error if isinstance(error, OSError) else ProcessLookupError(3, "")
        raise SignalError(f"kill({pid}, {int(number)}) failed", errno=cause,
                          level="alert") from None


def is_device(path: str) -> bool:
    """Tell whether a path leads to what can be no pid file, as in `pid /dev/null;`."""
    try:
        return not stat.S_ISREG(os.stat(_bytes(path)).st_mode)
    except OSError:
        return False


def oldbin(path: str) -> str:
    """Return where the pid file of a master is while its successor has its place."""
    return path if is_device(path) else path + OLDBIN


def is_same(one: str, other: str) -> bool:
    """Whether two paths lead to one file, through links perhaps."""
    return one == other or os.path.realpath(_bytes(one)) == os.path.realpath(_bytes(other))


def remove(path: str) -> OSError | None:
    """Remove this process's pid file; another process's file stays.

    Returns: what went wrong, if anything.
    Source: ngx_delete_pidfile
    """
    try:
        if not is_device(path) and _parse(_read(path)) == os.getpid():
            os.unlink(_bytes(path))
    except ValueError:
        return None
    except OSError as error:
        return error
    return None


# -- whose process ---------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and no zombie."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def is_ours(pid: int) -> bool:
    """Whether a living process runs this program, as far as /proc tells.

    A real nginx may have the very title that we have; but it is no Python.
    """
    exe = _link(pid)
    if exe and not os.path.basename(exe).startswith(("python", "pypy")) and exe != _link("self"):
        return False
    words = _command(pid)
    if not words:
        return False
    if _TITLE.match(words[0]):
        return True
    names = {os.path.basename(word) for word in words[1:3]}
    return bool(names & {OURS, NGINX}) or any(
        word.endswith(f"{OURS}/__main__.py") for word in words
    )


def describe(pid: int) -> str:
    """Return what a process is, for the one who has to find it."""
    words = " ".join(_command(pid)).strip()
    exe = _link(pid)
    return f'{pid} "{words}"' + (f" ({exe})" if exe else "")


def began(pid: int) -> float:
    """Return when a process began, in seconds since 1970; 0.0 for unknown."""
    fields = _stat(pid)
    try:
        with open("/proc/stat", encoding="ascii") as file:
            boot = next(float(line.split()[1]) for line in file if line.startswith("btime"))
        return boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, IndexError, ValueError):
        return 0.0


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on, [] for no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _link(pid: int | str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return ""  # another user's


def _command(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _read(path: str) -> str:
    with open(_bytes(path), "rb") as file:
        return file.read(MAX_TEXT).decode("latin-1")


def _parse(text: str) -> int:
    """Return the number; line feeds behind it do not matter. Raises: ValueError"""
    text = text.rstrip("\r\n")
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError(text)
    return int(text)
