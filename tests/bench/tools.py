"""The tools that make load, and what they say: wrk, iperf3, dnsperf, openssl, our own programs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench import programs

SIZES: Final = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
TIMES: Final = {"us": 1.0, "ms": 1e3, "s": 1e6}
ROOT: Final = programs.ROOT


@dataclass
class Sample:
    """What one run of a load gave. Args: latencies in µs; cpu_ns is the proxy's, see runner.py"""

    units: float
    seconds: float
    p50_us: float | None = None
    p99_us: float | None = None
    lost: float = 0
    cpu_ns: float | None = None


class ToolError(Exception):
    """A tool failed, or said what nobody understands."""


def run(command: list[str], seconds: float) -> str:
    """Run a tool to its end. Returns: what it printed. Raises: ToolError"""
    path = programs.which(command[0])
    if path is None:
        raise ToolError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            [path, *command[1:]],
            capture_output=True, text=True, check=False, timeout=seconds + 60, cwd=ROOT,
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"{command[0]} did not end") from None
    if done.returncode:
        raise ToolError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()[-300:]}")
    return done.stdout


def wrk(url: str, connections: int, seconds: float, header: str = "") -> Sample:
    """Ask an HTTP server as often as it can answer. Returns: units are requests"""
    words = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", url]
    if header:
        words += ["-H", header]
    said = run(words, seconds)
    found = re.search(r"(\d+) requests in ([\d.]+)(\w+),", said)
    if not found:
        raise ToolError(f"wrk: {said}")
    sample = Sample(float(found[1]), float(found[2]) * TIMES[found[3]] / 1e6)
    for percent, slot in ((50, "p50_us"), (99, "p99_us")):
        found = re.search(rf"\n\s+{percent}%\s+([\d.]+)(us|ms|s)\b", said)
        if found:
            setattr(sample, slot, float(found[1]) * TIMES[found[2]])
    return sample


def wrk_bulk(url: str, seconds: float) -> Sample:
    """Fetch a large file over one connection. Returns: units are GB (10^9 bytes)"""
    said = run(["wrk", "-t1", "-c1", f"-d{max(1, round(seconds))}s", url], seconds)
    found = re.search(r"in ([\d.]+)s, ([\d.]+)([kMG]?)B read", said)
    if not found:
        raise ToolError(f"wrk: {said}")
    return Sample(float(found[2]) * SIZES[found[3]] / 1e9, float(found[1]))


def iperf(port: int, flows: int, seconds: float) -> Sample:
    """Send bulk TCP. Returns: units are GB (10^9 bytes) received"""
    words = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(max(1, round(seconds)))]
    for _ in range(3):  # the server may not be through with the test before
        said = json.loads(run([*words, "-P", str(flows), "-J"], seconds))
        received = said["end"].get("sum_received")
        if received:
            return Sample(received["bytes"] / 1e9, received["seconds"])
        time.sleep(0.5)
    raise ToolError(f"iperf3: {said.get('error', 'no result')}")


def dnsperf(port: int, questions: Path, seconds: float) -> Sample:
    """Ask a DNS server from 20 sockets, 200 questions outstanding. Returns: units are answers"""
    words = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(questions)]
    said = run([*words, "-c", "20", "-q", "200", "-l", str(max(1, round(seconds)))], seconds)
    done = re.search(r"Queries completed:\s+(\d+)", said)
    took = re.search(r"Run time \(s\):\s+([\d.]+)", said)
    lost = re.search(r"Queries lost:\s+(\d+)", said)
    mean = re.search(r"Average Latency \(s\):\s+([\d.]+)", said)
    if not (done and took and lost and mean):
        raise ToolError(f"dnsperf: {said}")
    p50 = float(mean[1]) * 1e6
    return Sample(float(done[1]), float(took[1]), p50, None, float(lost[1]))


def handshakes(port: int, seconds: float) -> Sample:
    """Make TLS handshakes one after another. Returns: units are full handshakes"""
    where = f"127.0.0.1:{port}"
    begin = time.monotonic()
    said = run(["openssl", "s_time", "-connect", where, "-new", "-tls1_3", "-time",
                str(max(1, round(seconds)))], seconds)
    took = time.monotonic() - begin  # its own clock has whole seconds
    found = re.search(r"(\d+) connections in \d+ real seconds", said)
    if not found:
        raise ToolError(f"openssl s_time: {said[-300:]}")
    return Sample(float(found[1]), took)


def own_command(name: str, *words: float) -> list[str]:
    """Return the command of a load program of ours."""
    return [sys.executable, "-m", "tests.bench.load", name, *map(str, words)]


def own(name: str, *words: float) -> Sample:
    """Run a load program of ours to its end."""
    said = run(own_command(name, *words), 60)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return Sample(
        found["units"],
        found["seconds"],
        found.get("p50_us"),
        found.get("p99_us"),
        found.get("lost", 0),
    )


class Stepped:
    """A load program of ours that stops after each step until it is told to go on."""

    def __init__(self, name: str, *words: float) -> None:
        pipe = subprocess.PIPE
        self.process = programs.spawn(own_command(name, *words), stdin=pipe, stdout=pipe, cwd=ROOT)
        self.wait()

    def wait(self) -> None:
        """Wait for the end of a step. Raises: ToolError"""
        if not self.process.stdout.readline():  # type: ignore[union-attr]
            raise ToolError("the load program ended early")

    def go_on(self) -> None:
        """Let it make its next step, and wait for its end."""
        self.process.stdin.write("\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        self.wait()

    def close(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.communicate()
