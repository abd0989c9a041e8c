"""A pytest plugin for several processes that run one suite together: each test file has one taker.

    NGXSTREAM_TEST_CLAIMS=FOLDER pytest -p tests.support.sharing
    NGXSTREAM_TEST_CLAIMS=FOLDER NGXSTREAM_TEST_AGAIN=FOLDER pytest -p tests.support.sharing

All collect everything. Who comes to a file first runs all of it: that is the one who could make the
file's mark in the folder. All go through the same list, the files that take longest before all
others, so that what is left for the end is short, and all end at about the same time.

What came of each test is noted in the folder. The second form runs the tests that failed by the
notes of an earlier run, and no others.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

CLAIMS = "NGXSTREAM_TEST_CLAIMS"
AGAIN = "NGXSTREAM_TEST_AGAIN"
EXAMPLE = "example"
NOTES = "notes"  # in the folder: a line of JSON for each note

# The files that take more than 15 s (2026-11, two processors), the longest before the others; what
# is not listed follows as it was collected.
LONG = (
    "tests/continuity/test_reloads.py",
    "tests/plays/test_names_change.py",
    "tests/continuity/test_many_listeners.py",
    "tests/wire/test_tls_sessions.py",
    "tests/wire/test_tls_origination.py",
    "tests/differential/test_pythons.py",
    "tests/plays/test_many_processes.py",  # not beside the first ones, which count lost datagrams
    "tests/unit/process/test_rendezvous.py",
    "tests/wire/test_tls_termination.py",
    "tests/wire/test_hostile_clients.py",
    "tests/examples/test_client_address.py",
    "tests/unit/process/test_master.py",
    "tests/plays/test_udp_owners.py",
    "tests/differential/test_nul_bytes.py",
    "tests/differential/test_transparent.py",
    "tests/differential/test_proxy_target.py",
    "tests/unit/process/test_verdict.py",
    "tests/wire/test_stalls.py",
    "tests/unit/conf/test_reader_nginx.py",
    "tests/differential/test_proxying.py",
    "tests/differential/test_cut_messages.py",
    "tests/differential/test_lookups.py",
    "tests/unit/core/test_shm_counts.py",
)


def claim(folder: Path, name: str) -> bool:
    """Tell whether a file is ours now; it is nobody else's then."""
    try:
        (folder / name.replace("/", "!")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def claimed(items: list[pytest.Item], folder: Path) -> Iterator[pytest.Item]:
    """Give the tests of one file after the other, of those that nobody else has taken."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:  # those of one file need not be neighbours
        # not item.location: that is where a function was written, which may be another file
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    first = [name for name in LONG if name in files]
    for name in [*first, *(name for name in files if name not in first)]:
        if claim(folder, name):
            yield from files[name]


class Note(NamedTuple):
    """What came of a part of a test.

    Args: process: the number of the one that ran it; name: of the test; when: "setup", "call" or
    "teardown", EXAMPLE where a property was called; outcome: "passed" (of setup and teardown this
    is not noted), "failed" or "skipped"
    """

    process: int
    name: str
    when: str
    outcome: str


class Notes:
    """What came of the tests of a run."""

    def __init__(self, folder: Path) -> None:
        """Read what was noted."""
        path = folder / NOTES
        lines = path.read_text().splitlines() if path.exists() else []
        self._all = [Note(*json.loads(line)) for line in lines]

    @property
    def names(self) -> set[str]:
        """Those that were run, or skipped."""
        return {note.name for note in self._all}

    @property
    def failed(self) -> set[str]:
        """Those that failed, or whose setup or teardown did."""
        return {note.name for note in self._all if note.outcome == "failed"}

    @property
    def passed(self) -> set[str]:
        """Those that were called and passed, as their setup and teardown did."""
        return {note.name for note in self._all if note.outcome == "passed"} - self.failed

    def explain(self, process: int) -> bool:
        """Whether tests that failed are a reason for a process to say that it has failed."""
        return any(note.outcome == "failed" for note in self._all if note.process == process)

    @property
    def has_broken_property(self) -> bool:
        """Whether an example was found that breaks a property."""
        return any(note.when == EXAMPLE and note.outcome == "failed" for note in self._all)

    def counts(self) -> Counter[str]:
        """Return how many passed, failed and were skipped, and "error": setups and teardowns."""
        return Counter(
            "error" if note.outcome == "failed" and note.when in ("setup", "teardown")
            else note.outcome
            for note in self._all
        )

    def but(self, later: Notes) -> Notes:
        """Return the notes with those of a later run in the place of what it ran."""
        both = Notes.__new__(Notes)
        both._all = [note for note in self._all if note.name not in later.names] + later._all
        return both


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what came of a test. A line is one write: others write to this file too."""
    if report.passed and report.when != "call":
        return
    is_property = report.when == "call" and "hypothesis" in report.keywords
    note = Note(os.getpid(), report.nodeid, EXAMPLE if is_property else report.when, report.outcome)
    with open(Path(os.environ[CLAIMS]) / NOTES, "a") as notes:
        print(json.dumps(note), file=notes)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that are to be run again, where that is what this process is for."""
    if AGAIN not in os.environ:
        return
    wanted = Notes(Path(os.environ[AGAIN])).failed
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in wanted])
    items[:] = [item for item in items if item.nodeid in wanted]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests that are ours, as pytest's own loop would run them."""
    if session.testsfailed or session.config.option.collectonly:
        return None
    ours = claimed(session.items, Path(os.environ[CLAIMS]))
    item = next(ours, None)
    while item is not None:
        following = next(ours, None)  # decides which fixtures stay
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True
