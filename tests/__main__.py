"""Runs the whole suite in several processes at once: a third of a test's time is waiting.

    python -m tests                       the whole suite, a process more than there are processors
    python -m tests --together WORDS...   so many processes too, each a pytest with these words
    python -m tests WORDS...              pytest with these words, one process

Each test file is run by one of them, whoever comes to it first (tests/support/sharing.py). A line
of progress is printed when its file is done; reports come when all have ended, then the sum.

Tests that failed are run once more when all have ended, in one process with nothing beside it: what
fails alone too has a cause of its own, what passes then failed by what ran beside it. Both reports
are printed, and the sum says how many passed at the second try alone. A test that fails twice fails
the run, and so does one that is skipped then; so do more than MOST_AGAIN failures, a property that
an example has broken, be it found again or not, and whatever fails a process besides its tests.
CPython's own suite has a second try too (regrtest --rerun).
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
from pathlib import Path

from tests.support import sharing

TOGETHER = "--together"
MOST_AGAIN = 10  # tests that are run again: more than these do not fail by chance
MOST = 4  # processes: what tests ask of time and memory is not made for a crowd of them
REPORT = re.compile(r"=+ (?!test session starts).* =+")  # a headline: what follows is no progress
FAILED, LEFT = 1, 100  # exit statuses: pytest's for tests that failed, and one that it has not
LEFT_S = 30  # how long somebody may keep the output open after the end
COLLECTED = re.compile(r"collected (\d+) items?\b")


class Part:
    """One of the processes, and what it says."""

    def __init__(
        self, number: int, words: list[str], folder: str, printing: threading.Lock, again: str = ""
    ) -> None:
        """Start it.

        Args: number from 0 on, words for pytest, folder of the marks; again: the folder of the run
        whose failures are run again
        """
        environment = os.environ | {sharing.CLAIMS: folder}
        if again:
            environment[sharing.AGAIN] = again
        # pytest's too: what one of them has compiled the others need not
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        pytest = ["-m", "pytest", "-p", "tests.support.sharing", "-p", "no:cacheprovider"]
        self._process = subprocess.Popen(
            [sys.executable, "-u", *pytest, "-o", "console_output_style=classic", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        )
        self._is_first = number == 0
        self._printing = printing
        self.report: list[str] = []
        self.collected = 0
        self.code = 0  # exit status, once it has ended
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Print progress as it comes, keep the report. All begin alike: that is said once."""
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
        """Wait for the end; return the exit status, LEFT where it left a process behind."""
        self.code = self._process.wait()
        self._listener.join(LEFT_S)
        if self._listener.is_alive():
            print("a process that a test has started is left behind")
            self.code = LEFT
        return self.code

    def is_explained(self, notes: sharing.Notes) -> bool:
        """Whether its exit status comes of tests that failed, and of nothing else."""
        if self.code == FAILED:
            last = next((line for line in reversed(self.report) if line.strip()), "")
            return notes.explain(self._process.pid) and bool(REPORT.fullmatch(last.strip()))
        return self.code == 0


def together(count: int, words: list[str]) -> int:
    """Run pytest with these words in so many processes. Returns: the exit status"""
    begun = time.monotonic()
    printing = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="ngxstream-tests-") as folder:
        parts = [Part(number, words, folder, printing) for number in range(count)]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # they end by it, and their reports are wanted
        codes = [part.wait() for part in parts]
        for number, part in enumerate(parts, 1):
            print(f"\n-- process {number} of {count} --")
            print("".join(part.report), end="")
        notes = sharing.Notes(Path(folder))
        said = ""
        is_whole = len(notes.names) == parts[0].collected and all(
            part.is_explained(notes) for part in parts
        )
        if is_whole and 0 < len(notes.failed) <= MOST_AGAIN and not notes.has_broken_property:
            code, later = once_more(notes.failed, words, folder)
            said = f", {len(later.passed)} of them at the second try"
            codes, notes = [code], notes.but(later)
    counts = notes.counts()
    order = ("failed", "error", "passed", "skipped")
    said = ", ".join(f"{counts[word]} {word}" for word in order if counts[word]) + said
    seconds = time.monotonic() - begun
    print(f"\n=== all together: {said or 'nothing'} in {seconds:.0f} s ===", flush=True)
    if len(notes.names) != parts[0].collected:
        print(f"{parts[0].collected} tests were collected, {len(notes.names)} were run")
        codes.append(1)
    return next((code for code in codes if code), 0)


def once_more(failed: set[str], words: list[str], folder: str) -> tuple[int, sharing.Notes]:
    """Run tests that failed once more, alone.

    Args: failed: their names; words: for pytest, as before; folder: of the first run. Returns: the
    exit status, and what came of them now
    """
    print(f"\n-- once more, alone: {len(failed)} --", *sorted(failed), sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="ngxstream-tests-") as marks:
        part = Part(1, words, marks, threading.Lock(), again=folder)
        code = part.wait()
        print("".join(part.report), end="")
        later = sharing.Notes(Path(marks))
    return (code if later.passed == failed else code or FAILED), later


def main() -> int:
    """Run what was asked for. Returns: the exit status"""
    words = sys.argv[1:]
    shared = not words or words[0] == TOGETHER
    words = words[1:] if shared else words
    processors = os.cpu_count() or 1
    if not shared or processors == 1:
        return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode
    return together(min(processors + 1, MOST), words)


if __name__ == "__main__":
    sys.exit(main())
