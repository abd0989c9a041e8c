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


def state(pid: int) -> str:
    """Return the one-letter state of a process (man proc_pid_stat), empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def parent(pid: int) -> int:
    """Return the process id of the parent, 0 if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


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
    return [child for child in all_pids() if parent(child) == pid and is_alive(child)]


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


def cpu_ns(pid: int) -> int:
    """Return the CPU time a process has taken so far, to the nanosecond."""
    # the clock of another process, as clock_getcpuclockid(3) spells it
    return time.clock_gettime_ns((~pid << 3) | 2)


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
