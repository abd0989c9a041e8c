"""What a name stands for, in memory that workers share; lookups are in test_resolve.py."""

import pytest

from ngxstream.core import shm
from ngxstream.modules.upstream import names
from ngxstream.modules.upstream.names import Entry, Record
from tests.support.forks import in_child


def entry(number: int = 1, server: str = "") -> Entry:
    """Return an address."""
    return Entry(2, f"192.0.2.{number}", 53, 1, False, server, number)


@pytest.fixture
def record() -> Record:
    """Give a record nobody has written."""
    return Record(shm.Zone("z", shm.LEAST, "test"))


def test_what_one_worker_writes_another_reads(record: Record) -> None:
    """In the order in which it came; nothing before that."""
    assert [] == record.read()
    found = [entry(2), entry(1, "b.test")]
    in_child(lambda: record.write(found))
    assert found == record.read()


def test_a_writer_that_dies_leaves_what_was_there(record: Record) -> None:
    """It writes the half that nobody reads, and says so at last."""
    record.write([entry(1)])
    spoiled = (record.cells[names.VERSION] + 1) & 1
    in_child(lambda: record.cells.__setitem__(names.SIZES + spoiled, 3), kill=True)
    assert [entry(1)] == record.read()
    record.write([entry(2)])
    assert [entry(2)] == record.read()


def test_what_does_not_fit_is_left_out(record: Record) -> None:
    """The first ones are kept."""
    many = [entry(1, "x" * 200 + str(number)) for number in range(names.HALF // 100)]
    record.write(many)
    kept = record.read()
    assert 0 < len(kept) < len(many)
    assert many[: len(kept)] == kept


def test_of_an_origin_the_nearest_record_is_taken(record: Record) -> None:
    """Whatever the last three parts of its key are."""
    other = Record(shm.Zone("y", shm.LEAST, "test"))
    near, far = {"a\0b\x001\x002\x003": record}, {"a\0b\x004\x005\x006": other, "c\0\0\0": other}
    assert {"a\0b": record, "c": other} == names.by_origin(near, far)
