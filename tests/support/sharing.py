"""A pytest plugin for several processes that run one suite together: each test file has one taker.

    NGXSTREAM_TEST_CLAIMS=FOLDER NGXSTREAM_TEST_FROM=front|back pytest -p tests.support.sharing

All collect everything. Who comes to a file first runs all of it: that is the one who could make the
file's mark in the folder. One begins at the front and one at the back, so that they meet once, and
both have work to the end.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CLAIMS = "NGXSTREAM_TEST_CLAIMS"
FROM = "NGXSTREAM_TEST_FROM"


def claim(folder: Path, name: str) -> bool:
    """Tell whether a file is ours now; it is nobody else's then."""
    try:
        (folder / name.replace("/", "!")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def claimed(items: list[pytest.Item], folder: Path, back: bool) -> Iterator[pytest.Item]:
    """Give the tests of one file after the other, of those that nobody else has taken."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:  # those of one file need not be neighbours
        # not item.location: that is where a function was written, which may be another file
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    for name in reversed(files) if back else files:
        if claim(folder, name):
            yield from files[name]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests that are ours, as pytest's own loop would run them."""
    if session.testsfailed or session.config.option.collectonly:
        return None
    back = os.environ[FROM] == "back"
    ours = claimed(session.items, Path(os.environ[CLAIMS]), back)
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
