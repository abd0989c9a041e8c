"""The process table as the tests read it: children, titles, descriptors, groups."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.waiting import PATIENCE, wait_until


def is_alive(pid: int) -> bool:
    """Tell whether the process exists and is no zombie."""
    return state(pid) not in ("", "Z", "X")


def _status(pid: int) -> list[bytes]:
    """Return state and parent of a process (proc_pid_stat(5)), nothing if there is none.

    Some hundred are read in each poll of a wait: with pathlib that takes five times as long.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return []
    try:
        return os.read(fd, 512).rpartition(b")")[2].split(None, 2)[:2]
    except ProcessLookupError:
        return []
    finally:
        os.close(fd)


def state(pid: int) -> str:
    """Return the one-letter state of a process (proc_pid_stat(5)), empty if there is none."""
    found = _status(pid)
    return found[0].decode() if found else ""


def parent(pid: int) -> int:
    """Return the process id of the parent, 0 if there is no such process."""
    found = _status(pid)
    return int(found[1]) if found else 0


def title(pid: int) -> str:
    """Return the command line of a process as ``ps`` shows it, empty if there is none."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return line.replace(b"\0", b" ").decode(errors="replace").strip()


def all_pids() -> list[int]:
    """Return the ids of all processes."""
    return sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def children(pid: int) -> list[int]:
    """Return the living children of a process, oldest id first."""
    wanted = str(pid).encode()
    status = {child: _status(child) for child in all_pids()}
    return [child for child, found in status.items()
            if found and found[1] == wanted and found[0] not in (b"Z", b"X")]


def session_members(session: int) -> list[int]:
    """Return the living processes of a session (start_new_session makes the child its leader)."""
    members = []
    for pid in all_pids():
        try:
            if os.getsid(pid) == session and is_alive(pid):
                members.append(pid)
        except ProcessLookupError:
            continue
    return members


def open_files(pid: int) -> list[str]:
    """Return what each descriptor of a process leads to (``socket:[1234]``, a path)."""
    links = []
    folder = f"/proc/{pid}/fd"
    for entry in os.listdir(folder):
        try:
            links.append(os.readlink(f"{folder}/{entry}"))
        except OSError:
            continue
    return links


def cpu_seconds(pid: int) -> float:
    """Return the user and system CPU time a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kept_waiting_s(pid: int) -> float:
    """Return for how long a process could have run while others had the processors, in seconds.

    Source: Documentation/scheduler/sched-stats.rst of the kernel. 0 where it does not tell.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def cpu_ns(pid: int) -> int:
    """Return the CPU time a process has taken so far, to the nanosecond."""
    # the clock of another process, as clock_getcpuclockid(3) spells it
    return time.clock_gettime_ns((~pid << 3) | 2)


def is_waiting(pid: int) -> bool:
    """Tell whether a process sleeps until something happens to its descriptors, as in epoll_wait.

    Source: proc_pid_wchan(5). A kernel without names says 0, as it does of a process that runs.
    """
    try:
        where = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        where = "0"
    named = "poll" in where or "select" in where
    return named or (where in ("", "0") and state(pid) == "S")


def wake(pid: int, sig: int) -> None:
    """Send a signal to a process that has an event loop, when it sleeps in there.

    nginx's handlers set a flag alone: of a single process or a worker that is to come to its
    epoll_wait() but now (its pid file is there before), the flag is read after the next event.
    """
    what = f"process {pid} waits for events"
    wait_until(lambda: is_waiting(pid) or not is_alive(pid), PATIENCE, what)
    os.kill(pid, sig)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Keep a process from running, so that what is sent to it meanwhile comes in one piece."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: state(pid) == "T", PATIENCE, "the worker stands still")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def kill_session(session: int, timeout: float = 20.0) -> list[int]:
    """Kill every process of a session; return those that were still there."""
    found = session_members(session)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until(lambda: not session_members(session), timeout, f"session {session} is gone")
    return found
