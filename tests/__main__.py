"""Runs the whole suite in two processes at once: half of a test's time is waiting.

    python -m tests             the whole suite, two processes
    python -m tests WORDS...    pytest with these words, one process

Each test file is run by one of the two, whoever comes to it first (tests/support/sharing.py). A
line of progress is printed when its file is done; reports come when both have ended, then the sum.
The exit status is pytest's: that of the first process that has one other than 0.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter

from tests.support import sharing

ENDS = ("front", "back")
REPORT = re.compile(r"=+ (?!test session starts).* =+")  # a headline: what follows is no progress
LEFT_S = 30  # how long somebody may keep the output open after the end
COLLECTED = re.compile(r"collected (\d+) items?\b")
SUMMARY = re.compile(r"=+ .+ in [\d.]+s\b.*=+")
RESULT = re.compile(r"(\d+) (passed|failed|skipped|deselected|xfailed|xpassed|errors?|warnings?)\b")


class Part:
    """One of the processes, and what it says."""

    def __init__(self, end: str, folder: str, printing: threading.Lock) -> None:
        """Start it. Args: end is one of ENDS, folder the one of the marks"""
        environment = os.environ | {sharing.CLAIMS: folder, sharing.FROM: end}
        words = ["-m", "pytest", "-p", "tests.support.sharing", "-p", "no:cacheprovider"]
        self._process = subprocess.Popen(
            [sys.executable, "-u", *words, "-o", "console_output_style=classic"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        )
        self._is_first = end == ENDS[0]
        self._printing = printing
        self.report: list[str] = []
        self.collected = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Print progress as it comes, keep the report. Both begin alike: that is said once."""
        assert self._process.stdout is not None
        speaks = self._is_first
        for line in self._process.stdout:
            if self.report or REPORT.fullmatch(line.strip()):
                self.report.append(line)
            elif speaks and line.strip():
                with self._printing:
                    print(line, end="", flush=True)
            if found := COLLECTED.match(line):
                self.collected = int(found[1])
                speaks = True

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        code = self._process.wait()
        self._listener.join(LEFT_S)
        if self._listener.is_alive():
            print("a process that a test has started is left behind")
            return code or 1
        return code


def counts(report: list[str]) -> Counter[str]:
    """Return how many tests passed, failed and so on, by the summary; an interpreter that ends may
    have had something to say after it.
    """
    last = next((line for line in reversed(report) if SUMMARY.fullmatch(line.strip())), "")
    return Counter({word.removesuffix("s") if word in ("errors", "warnings") else word: int(n)
                    for n, word in RESULT.findall(last)})


def together() -> int:
    """Run the suite in two processes. Returns: the exit status"""
    begun = time.monotonic()
    printing = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="ngxstream-tests-") as folder:
        parts = [Part(end, folder, printing) for end in ENDS]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # they end by it, and their reports are wanted
        codes = [part.wait() for part in parts]
    total: Counter[str] = Counter()
    for end, part in zip(ENDS, parts, strict=True):
        print(f"\n-- the process that began at the {end} --")
        print("".join(part.report), end="")
        total += counts(part.report)
    order = ("failed", "error", "passed", "skipped")
    said = [f"{total[word]} {word}" for word in (*order, *sorted(set(total) - set(order)))
            if total[word]]
    seconds = time.monotonic() - begun
    print(f"\n=== both together: {', '.join(said) or 'nothing'} in {seconds:.0f} s ===", flush=True)
    if not any(codes) and total["passed"] + total["skipped"] != parts[0].collected:
        print(f"{parts[0].collected} tests were collected: some were not run, or not counted")
        return 1
    return next((code for code in codes if code), 0)


def main() -> int:
    """Run what was asked for. Returns: the exit status"""
    words = sys.argv[1:]
    if words or (os.cpu_count() or 1) < len(ENDS):
        return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode
    return together()


if __name__ == "__main__":
    sys.exit(main())
