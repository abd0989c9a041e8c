"""A pytest plugin for several processes that run one suite together: each test file has one taker.

    NGXSTREAM_TEST_CLAIMS=FOLDER pytest -p tests.support.sharing
    NGXSTREAM_TEST_CLAIMS=FOLDER NGXSTREAM_TEST_AGAIN=FOLDER pytest -p tests.support.sharing

Which tests fail is noted in the folder. The second form runs those that an earlier run has noted in
its folder, and no others.

All collect everything. Who comes to a file first runs all of it: that is the one who could make the
file's mark in the folder. All go through the same list, the files that take longest before all
others, so that what is left for the end is short, and all end at about the same time.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CLAIMS = "NGXSTREAM_TEST_CLAIMS"
AGAIN = "NGXSTREAM_TEST_AGAIN"
EXAMPLE = "example"
FAILED = "failed.json-lines"  # in the folder: the names of tests that failed, or whose fixtures did
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


def failed(folder: Path) -> dict[str, set[str]]:
    """Return the tests that failed, and in what: "setup", "call", "teardown"; EXAMPLE where a
    property was called.
    """
    noted = folder / FAILED
    found: dict[str, set[str]] = {}
    for line in noted.read_text().splitlines() if noted.exists() else ():
        name, when = json.loads(line)
        found.setdefault(name, set()).add(when)
    return found


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what fails. A line is one write: others write to this file too."""
    if report.failed:
        is_property = report.when == "call" and "hypothesis" in report.keywords
        when = EXAMPLE if is_property else report.when
        with open(Path(os.environ[CLAIMS]) / FAILED, "a") as noted:
            print(json.dumps([report.nodeid, when]), file=noted)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that are to be run again, where that is what this process is for."""
    if AGAIN not in os.environ:
        return
    wanted = failed(Path(os.environ[AGAIN]))
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
