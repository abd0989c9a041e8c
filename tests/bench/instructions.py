"""What one unit of work makes a worker execute: `python -m tests.bench.instructions`.

Counts do not depend on what else the machine does, as times do: machine instructions in user space
(valgrind's callgrind), instructions of Python and calls of functions in C (counting.py), system
calls (strace). Each program serves as one process, and each load makes an exact number of units.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.bench import cases, programs, runner, tools
from tests.bench.programs import Place, Running

LOADS: Final[dict[str, tuple[str, int, int]]] = {  # the load, and its numbers before the counts
    "tcp-rr-64": ("counted-requests", 64, 0),
    "tcp-rr-64-info": ("counted-requests", 64, 0),
    "tcp-crr": ("counted-connections", 64, 0),
    "tcp-crr-info": ("counted-connections", 64, 0),
    "tcp-crr-log": ("counted-connections", 64, 0),
    "udp-oneshot": ("counted-datagrams", 50, 1),
    "udp-oneshot-info": ("counted-datagrams", 50, 1),
    "udp-oneshot-log": ("counted-datagrams", 50, 1),
    "udp-1x1": ("counted-datagrams", 1, 1),
    "udp-50x4": ("counted-datagrams", 50, 4),
    "tls-handshake": ("counted-handshakes", 1, 0),
}
DEFAULT: Final = ("tcp-rr-64", "tcp-crr", "udp-oneshot", "udp-1x1", "udp-50x4")
START_S: Final = 120
FUNCTION: Final = re.compile(r"^ *([\d,]+) \([ \d.]+%\)  (.*?)(?: \[|$)", re.MULTILINE)


@dataclass
class Counts:
    """What was executed for each unit; None for what was not counted."""

    instructions: float | None = None
    bytecodes: float | None = None
    calls: float | None = None
    syscalls: float | None = None
    by_name: dict[str, dict[str, float]] = field(default_factory=dict)


class Tool:
    """A program under the eyes of a tool."""

    units = 2000

    def __init__(self, name: str, place: Place, case: cases.Case) -> None:
        setup = replace(case.setup, main="master_process off;")
        self.command = programs.command(name, place, setup)
        self.place = place
        self.setup = setup

    def run(self, load: tuple[str, int, int], counts: Counts) -> None:
        """Run the load, and count."""
        program, clients, window = load
        numbers = [clients, *([window] if window else [])]
        warm = max(300, clients * 4)
        process = self.start()
        running = Running(process, [process.pid])
        try:
            deadline = time.monotonic() + START_S
            while not programs.is_bound(self.place.port, self.setup.udp):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise tools.ToolError(f"{self.command[0]} did not start")
                time.sleep(0.1)
            time.sleep(0.5)
            stepped = tools.Stepped(program, self.place.port, *numbers, warm, self.units)
            try:
                time.sleep(0.3)
                self.begin(process)
                stepped.go_on()
                time.sleep(0.3)
                self.end(process)
            finally:
                stepped.close()
        finally:
            running.stop()
        self.read(counts)

    def start(self) -> subprocess.Popen[str]:
        """Start the program."""
        quiet = subprocess.DEVNULL
        return programs.spawn(self.command, stdin=quiet, stdout=quiet, stderr=quiet, cwd=tools.ROOT)

    def begin(self, process: subprocess.Popen[str]) -> None:
        """Begin to count."""

    def end(self, process: subprocess.Popen[str]) -> None:
        """Stop counting."""

    def read(self, counts: Counts) -> None:
        """Take what was counted."""


class Callgrind(Tool):
    """Machine instructions in user space."""

    def __init__(self, name: str, place: Place, case: cases.Case) -> None:
        super().__init__(name, place, case)
        self.output = place.folder / "callgrind.out"
        self.command = [
            "valgrind", "--tool=callgrind", "--instr-atstart=no",
            f"--callgrind-out-file={self.output}", *self.command,
        ]

    def _switch(self, process: subprocess.Popen[str], state: str) -> None:
        words = ["callgrind_control", "-i", state, str(process.pid)]
        subprocess.run(words, check=True, capture_output=True, timeout=60)

    def begin(self, process: subprocess.Popen[str]) -> None:
        """Begin to count."""
        self._switch(process, "on")

    def end(self, process: subprocess.Popen[str]) -> None:
        """Stop counting."""
        self._switch(process, "off")

    def read(self, counts: Counts) -> None:
        """Read the sum."""
        found = re.search(r"^totals: (\d+)", self.output.read_text(), re.MULTILINE)
        if found:
            counts.instructions = int(found[1]) / self.units
        words = ["callgrind_annotate", "--threshold=99", str(self.output)]
        said = subprocess.run(words, check=False, capture_output=True, text=True, cwd="/").stdout
        counts.by_name["instructions"] = {
            found[2].strip(): int(found[1].replace(",", "")) / self.units
            for found in FUNCTION.finditer(said)
            if found[2] != "PROGRAM TOTALS"
        }


class Strace(Tool):
    """System calls."""

    units = 3000

    def begin(self, process: subprocess.Popen[str]) -> None:
        """Attach."""
        self.output = self.place.folder / "strace.out"
        words = ["strace", "-c", "-f", "-o", str(self.output), "-p", str(process.pid)]
        self.strace = programs.spawn(words, stderr=subprocess.PIPE)
        assert self.strace.stderr is not None
        self.strace.stderr.readline()  # "attached"

    def end(self, process: subprocess.Popen[str]) -> None:
        """Detach."""
        self.strace.send_signal(signal.SIGINT)
        self.strace.communicate(timeout=30)

    def read(self, counts: Counts) -> None:
        """Read the table."""
        names: dict[str, float] = {}
        for line in self.output.read_text().splitlines():
            words = line.split()
            if len(words) >= 5 and words[0][:1].isdigit():
                names[words[-1]] = int(words[3]) / self.units
                if len(words) == 6 and words[-1] != "total":
                    names[f"{words[-1]}, failed"] = int(words[4]) / self.units
        counts.syscalls = names.pop("total", None)
        names.pop("total, failed", None)
        counts.by_name["syscalls"] = names


class Tracing(Tool):
    """Instructions of Python, and calls of functions in C."""

    def start(self) -> subprocess.Popen[str]:
        """Start the program under counting.py."""
        at = self.command.index("ngxstream")
        command = [*self.command[:at], "tests.bench.counting", *self.command[at + 1 :]]
        pipe = subprocess.PIPE
        return programs.spawn(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=tools.ROOT
        )

    def _tell(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        said: dict[str, Any] = json.loads(process.stdout.readline())
        return said

    def begin(self, process: subprocess.Popen[str]) -> None:
        """Begin to count."""
        self._tell(process)

    def end(self, process: subprocess.Popen[str]) -> None:
        """Stop counting."""
        self.said = self._tell(process)

    def read(self, counts: Counts) -> None:
        """Add up."""
        for kind, found in self.said.items():
            counts.by_name[kind] = {name: count / self.units for name, count in found.items()}
        counts.bytecodes = sum(counts.by_name["bytecodes"].values())
        counts.calls = sum(counts.by_name["calls"].values())


TOOLS: Final[dict[str, tuple[str, Callable[[str, Place, cases.Case], Tool]]]] = {
    "instructions": ("valgrind", Callgrind),
    "python": ("python3", Tracing),
    "syscalls": ("strace", Strace),
}


def count(name: str, case: cases.Case, wanted: list[str]) -> Counts:
    """Count what a program executes for one unit of a case."""
    counts = Counts()
    for key in wanted:
        program, make = TOOLS[key]
        if key == "python" and name != "ngxstream":
            continue
        if programs.which(program) is None:
            print(f"{program} is not installed", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as text:
            folder = Path(text)
            backend_port = programs.free_port()
            backend = case.backend(folder / "backend", backend_port)
            certificate = runner.make_certificate(folder) if case.setup.tls else None
            place = Place(folder / name, programs.free_port(), backend_port, 1, certificate)
            try:
                make(name, place, case).run(LOADS[case.name], counts)
            finally:
                if backend is not None:
                    backend.stop()
    return counts


def row(case: cases.Case, name: str, counts: Counts) -> str:
    """Return a line of a table."""
    def shown(number: float | None, form: str) -> str:
        return "-" if number is None else format(number, form)

    return (
        f"| {case.name} | {case.unit} | {name} | {shown(counts.instructions, ',.0f')} | "
        f"{shown(counts.bytecodes, '.0f')} | {shown(counts.calls, '.1f')} | "
        f"{shown(counts.syscalls, '.2f')} |"
    )


HEAD: Final = (
    "| case | unit | | machine instructions | bytecodes | C calls | system calls |\n"
    "|---|---|---|---|---|---|---|"
)


def main() -> int:
    """Run what was asked for. Returns: the exit status"""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.instructions",
        description="Count what one unit of work makes a worker execute.",
    )
    parser.add_argument("cases", nargs="*", choices=[*LOADS, []], metavar="case",
                        help=f"of {', '.join(LOADS)}; default: the first of each load")
    parser.add_argument("-p", "--programs", default="ngxstream", help="ngxstream,nginx")
    parser.add_argument("-c", "--counts", default=",".join(TOOLS), help="what to count")
    parser.add_argument("-n", "--names", type=int, default=0, metavar="LINES",
                        help="so many functions, C calls and system calls that make most of it")
    args = parser.parse_args()
    print(HEAD, flush=True)
    for case_name in args.cases or DEFAULT:
        case = cases.BY_NAME[case_name]
        for name in args.programs.split(","):
            counts = count(name, case, args.counts.split(","))
            print(row(case, name, counts), flush=True)
            for kind, names in counts.by_name.items() if args.names else ():
                most = sorted(names.items(), key=lambda item: -item[1])[: args.names]
                for what, number in most:
                    print(f"    {kind:10}{number:9.2f}  {what}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
