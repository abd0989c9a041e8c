"""What a process asks of the system about itself: background, title, limits, rights, environment
(ngx_daemon.c, ngx_setproctitle.c, ngx_process_cycle.c ngx_worker_process_init, ngx_posix_init.c).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from ngxstream.core import errors, files, log

if TYPE_CHECKING:
    from ngxstream.core.log import Log
    from ngxstream.process.directives import Affinity, MainConf, User

PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_NAME: Final = 15
CAPABILITIES: Final = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_RAW": 13}
CAP_VERSION_3: Final = 0x20080522

SCARCE: Final = {
    errno.EMFILE: 'descriptors left, see "worker_rlimit_nofile"',
    errno.ENFILE: "descriptors left in the whole system",
    errno.ENOMEM: "memory left",
    errno.ENOBUFS: "memory left for sockets",
    errno.ENOSPC: "epoll watches left, see /proc/sys/fs/epoll/max_user_watches",
}
FATAL: Final = 2  # exit code of a worker that could not begin and must not be started again


class WorkerInitError(errors.NgxError):
    """A worker that cannot begin: it exits with FATAL."""

    level = "alert"


class ScarceError(WorkerInitError):
    """A worker that cannot begin now, for want of what others may give back."""

    @classmethod
    def of(cls, error: OSError) -> ScarceError | None:
        """Return one for an error of the system that says so; None for any other."""
        what = SCARCE.get(error.errno or 0)
        return None if what is None else cls(f"no {what}", errno=error.errno)


# -- background ------------------------------------------------------------------------------------


def daemonize() -> int:
    """Go on in a child of its own session; the parent waits for detach().

    nginx's parent leaves at once, before there is a pid file, which who started it may miss.
    Standard error stays: see redirect_stderr.
    Returns: the descriptor that detach() takes
    Raises: OSError. Source: ngx_daemon.c ngx_daemon
    """
    waiting, detaching = os.pipe()
    if os.fork() != 0:
        os.close(detaching)
        os._exit(0 if os.read(waiting, 1) else 1)
    os.close(waiting)
    os.setsid()
    os.umask(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if null > log.STDERR_FD:
        os.close(null)
    return detaching


def detach(detaching: int) -> None:
    """Let the parent leave with 0; without this it leaves with 1 when we do."""
    with contextlib.suppress(BrokenPipeError):
        os.write(detaching, b".")  # the parent may have been killed
    os.close(detaching)


def redirect_stderr(main_log: Log, opened: files.OpenFiles) -> None:
    """Have standard error lead into the error log, unless somebody logs to standard error.

    Source: ngx_log.c ngx_log_redirect_stderr
    """
    file = main_log.first_file()
    if opened.uses_stderr or file is None:
        return
    try:
        os.dup2(file.fd, log.STDERR_FD)
    except OSError as error:
        main_log.error(log.ALERT, "dup2() failed", error)


# -- title -----------------------------------------------------------------------------------------


class Title:
    """The command line that ps shows, written over the process's own.

    The kernel keeps arguments and environment side by side; a longer title runs on into the
    environment, whose strings are moved away first. Source: ngx_setproctitle.c
    """

    __slots__ = ("program", "_start", "_size")

    def __init__(self, program: str) -> None:
        """Be made before a fork. Args: program: what every title begins with"""
        self.program = program
        self._start, self._size = _title_area()
        for name, value in os.environb.items():
            os.putenv(name, value)  # libc copies the string to its heap

    def set(self, title: str) -> None:
        """Show `PROGRAM: TITLE`, and PROGRAM as the short name (ps -C, pgrep, killall)."""
        _prctl(PR_SET_NAME, self.program.encode()[:15])
        if self._size > 1:
            data = log.encode(f"{self.program}: {title}")[:self._size - 1]
            ctypes.memset(self._start, 0, self._size)
            ctypes.memmove(self._start, data, len(data))


def _title_area() -> tuple[int, int]:
    """Return address and size of the memory that /proc/PID/cmdline shows, (0, 0) for unknown."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0, 0
    if len(fields) < 49:
        return 0, 0
    # man proc_pid_stat: (48) arg_start, (49) arg_end, (50) env_start, (51) env_end
    arg_start, arg_end, env_start, env_end = (int(field) for field in fields[45:49])
    if not arg_start < arg_end:
        return 0, 0
    end = env_end if env_start == arg_end and env_end > env_start else arg_end
    return arg_start, end - arg_start


def _prctl(option: int, argument: int | bytes) -> None:
    """Call prctl(2). Raises: OSError"""
    libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    if libc.prctl(ctypes.c_int(option), value, *(ctypes.c_ulong(0) for _ in range(3))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def trim_memory() -> None:
    """Give memory that is free back to the system.

    Reading a configuration takes and frees some megabytes in small pieces, and what lives on lies
    between them: glibc's heap grew by 1 to 2 KB with each reload, all of it free, until by chance
    its end was free (Debian 12, glibc 2.36).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # another C library has none
    if trim is not None:
        trim(ctypes.c_size_t(0))


# -- environment -----------------------------------------------------------------------------------


def environment(wanted: Iterable[str], inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that `env` directives leave: TZ, and what they name or set.

    Args: wanted: NAME or NAME=value as written. Source: nginx.c ngx_set_environment
    """
    kept: dict[str, str] = {}
    words = list(wanted)
    if not any(word == "TZ" or word.startswith("TZ=") for word in words):
        words.append("TZ")
    for word in words:
        name, equals, value = word.partition("=")
        if "\0" in name:
            continue  # a C string without `=`: getenv() never finds it
        value = files.c_string(value)
        if equals:
            kept.setdefault(name, value)  # of two, the first is found
        elif name in inherited:
            kept.setdefault(name, inherited[name])
    kept.pop("", None)
    return kept


def set_environment(wanted: Iterable[str]) -> None:
    """Leave this process what `env` directives say."""
    kept = environment(wanted, os.environ)
    for name in list(os.environ):
        if name not in kept:
            del os.environ[name]
    os.environ.update(kept)


# -- limits and rights -----------------------------------------------------------------------------


def init_worker(
    conf: MainConf, number: int, main_log: Log, *, capabilities: Collection[str] = ()
) -> None:
    """Turn a forked child into a worker: environment, priority, limits, user, CPUs, directory.

    Args: number: counts workers from 0, negative for none that is bound to CPUs;
    capabilities are left to a worker that loses root (transparent proxying)
    Raises: WorkerInitError
    Source: ngx_process_cycle.c ngx_worker_process_init
    """
    set_environment(conf.env)
    if conf.worker_priority and number >= 0:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, conf.worker_priority)
        except OSError as error:
            main_log.error(log.ALERT, f"setpriority({conf.worker_priority}) failed", error)
    for limit, name, value in (
        (resource.RLIMIT_NOFILE, "RLIMIT_NOFILE", conf.worker_rlimit_nofile),
        (resource.RLIMIT_CORE, "RLIMIT_CORE", conf.worker_rlimit_core),
    ):
        if value is not None:
            _set_limit(limit, name, value, main_log)
    if conf.user is not None and os.geteuid() == 0:
        _become(conf.user, main_log, capabilities)
    if number >= 0 and conf.worker_cpu_affinity is not None:
        _set_affinity(conf.worker_cpu_affinity, number, main_log)
    try:
        _prctl(PR_SET_DUMPABLE, 1)  # lost with the user id; core files and /proc need it
    except OSError as error:
        main_log.error(log.ALERT, "prctl(PR_SET_DUMPABLE) failed", error)
    if conf.working_directory:
        try:
            os.chdir(conf.working_directory)
        except OSError as error:
            raise WorkerInitError(f'chdir("{conf.working_directory}") failed',
                                  errno=error) from None


def _set_limit(limit: int, name: str, value: int, main_log: Log) -> None:
    try:
        resource.setrlimit(limit, (value, value))
    except (OSError, ValueError, OverflowError) as error:
        shown = error if isinstance(error, OSError) else _as_os_error(error)
        main_log.error(log.ALERT, f"setrlimit({name}, {value}) failed", shown)


def _as_os_error(error: ValueError | OverflowError) -> OSError:
    """Return what setrlimit(2) said: Python has a ValueError each for EPERM and EINVAL."""
    code = errno.EPERM if "not allowed" in str(error) else errno.EINVAL
    return OSError(code, os.strerror(code))


def _become(user: User, main_log: Log, capabilities: Collection[str]) -> None:
    """Give root up for good; in this order, for the last step takes the right to the others."""
    step = f"setgid({user.gid})"
    try:
        os.setgid(user.gid)
        try:
            os.initgroups(user.name, user.gid)
        except OSError as error:
            main_log.error(log.EMERG, f"initgroups({user.name}, {user.gid}) failed", error)
        if user.uid and capabilities:
            step = "prctl(PR_SET_KEEPCAPS, 1)"
            _prctl(PR_SET_KEEPCAPS, 1)
        step = f"setuid({user.uid})"
        os.setuid(user.uid)
        if user.uid and capabilities:
            step = "capset()"
            missing = _keep(capabilities)
            if missing:
                main_log.error(log.ERR, f"{' and '.join(missing)} cannot be kept: not held")
    except OSError as error:
        failed = WorkerInitError(f"{step} failed", errno=error)
        failed.level = "emerg"
        raise failed from None


def _keep(capabilities: Collection[str]) -> list[str]:
    """Make these, and no others, permitted and effective, as far as they are held now.

    Returns: those that are not, in a container that was started without. Raises: OSError
    """
    held = held_capabilities("CapPrm")
    missing = sorted(name for name in capabilities if name not in held)
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAP_VERSION_3, 0)
    bits = sum(1 << CAPABILITIES[name] for name in capabilities if name in held)
    data = (ctypes.c_uint32 * 6)(bits, bits, 0, 0, 0, 0)  # effective, permitted, inheritable; twice
    if libc.capset(header, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return missing


def held_capabilities(which: str = "CapEff") -> frozenset[str]:
    """Return those of CAPABILITIES in a set of this process: CapEff, CapPrm, CapBnd.

    Source: proc_pid_status(5). Where /proc is not mounted all are taken to be held.
    """
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith(f"{which}:"))
    except (OSError, StopIteration):
        return frozenset(CAPABILITIES)
    bits = int(line.split()[1], 16)
    return frozenset(name for name, bit in CAPABILITIES.items() if bits >> bit & 1)


def _set_affinity(affinity: Affinity, number: int, main_log: Log) -> None:
    cpus = affinity.of(number)
    if not cpus:
        return
    for cpu in sorted(cpus):
        main_log.error(log.NOTICE, f"sched_setaffinity(): using cpu #{cpu}")
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError) as error:
        shown = error if isinstance(error, OSError) else None
        main_log.error(log.ALERT, "sched_setaffinity() failed", shown)


def os_status(main_log: Log, version: str) -> None:
    """Say at start what runs on what. Source: ngx_posix_init.c ngx_os_status"""
    if main_log.level < log.NOTICE:
        return
    main_log.write(log.NOTICE, version)
    main_log.write(log.NOTICE,
                   f"built by {platform.python_implementation()} {platform.python_version()}")
    main_log.write(log.NOTICE, f"OS: {platform.system()} {platform.release()}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    main_log.write(log.NOTICE, f"getrlimit(RLIMIT_NOFILE): {soft}:{hard}")
