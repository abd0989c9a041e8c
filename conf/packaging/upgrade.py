#!/usr/bin/env python3
"""Has the program that is installed now take over from the masters that run: USR2, then QUIT.

A package runs this after its files are in place; so may whoever has called `make install`. UDP
sessions go on in the new workers, TCP connections stay with the old ones, whose master ends with the
last of them. Connections that have outlived one upgrade so are ended by the next. The masters are those of /usr/sbin/ngxstream in this pid namespace; a new one that does not
serve within a minute (a configuration that the new release refuses) leaves the old one in its place.

    upgrade             exit code 1 if a master could not be replaced: it serves on
    upgrade --stop      end them, and workers that outlived theirs, for a removal
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAM = "/usr/sbin/ngxstream"
PATIENCE_S = 60
MASTER = re.compile(r"(?:ngxstream|nginx): master process \S")
WORKER = "worker process"


def title(pid: int) -> str:
    """Return the command line of a process, "" for none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(
            errors="replace").strip()
    except OSError:
        return ""


def parent(pid: int) -> int:
    """Return the parent of a process, -1 where there is no such process or it is dead."""
    try:
        state, number = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return -1
    return -1 if state in "ZX" else int(number)


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process."""
    return parent(pid) >= 0


def owner(pid: int) -> int:
    """Return the user who has started a process, 0 where there is no such process."""
    try:
        # The owner of the folder is root where a process hides its memory.
        found = re.search(r"(?m)^Uid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def is_here(pid: int) -> bool:
    """Tell whether a process sees the processes and the files that this one sees."""
    try:
        return all(
            os.stat(f"/proc/{pid}/{name}") == os.stat(f"/proc/self/{name}")
            for name in ("ns/pid", "root/.")
        )
    except OSError:
        return False


def pids() -> list[int]:
    """Return all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def masters() -> Iterator[int]:
    """Yield the masters that this program started, by this path or by a link to it."""
    for pid in pids():
        said = title(pid)
        words = said.split(" ")
        if MASTER.match(said) and os.path.realpath(words[3]) == os.path.realpath(PROGRAM):
            if is_here(pid):
                yield pid


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [one for one in pids() if parent(one) == pid]


def successor(old: int) -> int:
    """Return the master that an old one has started, once it has workers; 0 for none."""
    for pid in children(old):
        if MASTER.match(title(pid)) and any(WORKER in title(one) for one in children(pid)):
            return pid
    return 0


def wait(until: Callable[[], object]) -> bool:
    """Look again and again, for as long as PATIENCE_S. Returns: whether it has come true"""
    end = time.monotonic() + PATIENCE_S
    while not until():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def replace(old: int) -> bool:
    """Have a new master take the place of an old one. Returns: whether it has"""
    older = parent(old)
    try:
        if MASTER.match(title(older)):  # it waits for its last connections: of two, no third begins
            os.kill(older, signal.SIGTERM)
            wait(lambda: parent(old) != older)
            wait(lambda: not is_alive(older))
        before = set(children(old))
        os.kill(old, signal.SIGUSR2)
        wait(lambda: set(children(old)) - before or not is_alive(old))
        # It has the title of a master once it serves. One that is refused ends before.
        new = set(children(old)) - before
        wait(lambda: successor(old) or not new & set(children(old)))
        if not successor(old):
            return False
        os.kill(old, signal.SIGQUIT)
    except ProcessLookupError:
        return False
    return True


def stop() -> None:
    """End all masters, and then workers that have none."""
    found = list(masters())
    for pid in found:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    wait(lambda: not any(map(is_alive, found)))
    subprocess.run([PROGRAM, "-s", "stop"], stderr=subprocess.DEVNULL, check=False)


def main() -> int:
    """Do what the command line says; return the exit code."""
    if sys.argv[1:] == ["--stop"]:
        stop()
        return 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    code = 0
    end = 0.0
    # Anybody can give a process the title of a master, and have it obey nothing. So root's come first,
    # and those of others get what is left of one patience.
    for old in sorted((one for one in masters() if not successor(one)), key=owner):
        if owner(old):
            end = end or time.monotonic() + PATIENCE_S
        if (not end or time.monotonic() < end) and replace(old):
            print(f"ngxstream: the master process {old} has a successor, and ends with its sessions")
        else:
            print(f"ngxstream: the master process {old} could not be replaced and serves on; its "
                  "error log says why", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
