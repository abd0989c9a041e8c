"""What a module may know of the process it runs in."""

from collections.abc import Iterator

import pytest

import ngxstream
from ngxstream.scripting import process


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave a process that tests."""
    before = process.prefix, process.file
    yield
    process.serve(process.TEST, -1, 0)
    process.read(process.TEST, *before)


def test_a_process_reads_and_then_serves() -> None:
    """What it is for, its number, and where it was started."""
    process.read(process.MASTER, "/srv/", "/srv/a.conf")
    assert ("master", -1, 0) == (process.role, process.worker, process.workers)
    assert ("/srv/", "/srv/a.conf", ngxstream.VERSION) == (
        process.prefix, process.file, process.version)
    process.serve(process.WORKER, 1, 4)
    assert ("worker", 1, 4) == (process.role, process.worker, process.workers)


def test_one_process_that_serves_stays_what_it_is_when_it_reads() -> None:
    """`master_process off` reads the next configuration itself."""
    process.serve(process.SINGLE, 0, 1)
    process.read(process.MASTER, "/srv/", "/srv/b.conf")
    assert ("single", "/srv/b.conf") == (process.role, process.file)
