#!/usr/bin/python3
"""Writes worker_processes into /run/ngxstream/main.d, which the container's ngxstream.conf includes.

It is `auto`, a worker for each processor of the host. With NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE
set it is as many as this container may use at a time: the least of the host's processors, the set
that its processes may run on and its quota of processor time, as cgroups state it.
"""

import math
import os
import sys
from pathlib import Path

SWITCH = "NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE"
FOLDER = Path("/run/ngxstream/main.d")
CGROUP = Path("/sys/fs/cgroup")


def words(path: Path) -> list[str]:
    """Return the words of a file of the kernel's, [] where there is none."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def quota(cgroup: Path) -> int:
    """Return how many processors the quota is worth, 0 for none; version 2 or 1 of cgroups."""
    found = words(cgroup / "cpu.max") or [
        *words(cgroup / "cpu/cpu.cfs_quota_us"), *words(cgroup / "cpu/cpu.cfs_period_us")]
    if len(found) != 2 or not found[0].isdigit() or not found[1].isdigit() or found[1] == "0":
        return 0  # "max", or -1
    return max(1, math.ceil(int(found[0]) / int(found[1])))


def main() -> None:
    """Write it."""
    number = "auto"
    if os.environ.get(SWITCH):
        limits = [os.cpu_count() or 1, len(os.sched_getaffinity(0)), quota(CGROUP)]
        number = str(min(filter(None, limits)))
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "worker_processes.conf").write_text(f"worker_processes {number};\n")
    except OSError as error:
        print(f"{sys.argv[0]}: {error}; one worker process", file=sys.stderr)


if __name__ == "__main__":
    main()
