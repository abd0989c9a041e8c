"""What a name stands for, in memory that workers share; lookups are in test_resolve.py."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngxstream.core import inet, shm
from ngxstream.modules.upstream import records
from ngxstream.modules.upstream.names import Entry, Record
from tests.support.forks import in_child

ROWS = 100  # of the zone
BOTH = [Entry(2, "192.0.2.1", 0, 1, False, "", 3), Entry(10, "2001:db8::1", 53, 7, True, "b", 4, 5)]


def entry(number: int = 1, server: str = "") -> Entry:
    """Return an address."""
    return Entry(2, f"192.0.2.{number}", 53, 1, False, server, number % ROWS)


@pytest.fixture
def record() -> Record:
    """Give a record nobody has written."""
    return Record(shm.Zone("z", shm.LEAST, "test"), ROWS)


def test_what_one_worker_writes_another_reads(record: Record) -> None:
    """In the order in which it came; nothing before that."""
    assert [] == record.read()
    found = [entry(2), entry(1, "b.test")]
    in_child(lambda: record.write(found))
    assert found == record.read()


def test_a_writer_that_dies_leaves_what_was_there(record: Record) -> None:
    """It writes the half that nobody reads, and says so at last."""
    record.write([entry(1)])
    spoiled = (record.cells[records.VERSION] + 1) & 1
    in_child(lambda: record.cells.__setitem__(records.SIZES + spoiled, 3), kill=True)
    assert [entry(1)] == record.read()
    record.write([entry(2)])
    assert [entry(2)] == record.read()


def test_what_does_not_fit_is_left_out(record: Record) -> None:
    """A record of fixed size keeps the first entries."""
    many = [entry(1, "x" * 200 + str(number)) for number in range(records.HALF // 100)]
    record.write(many)
    kept = record.read()
    assert 0 < len(kept) < len(many)
    assert many[: len(kept)] == kept


def test_of_an_origin_the_nearest_record_is_taken(record: Record) -> None:
    """Whatever the last three parts of its key are."""
    other = Record(shm.Zone("y", shm.LEAST, "test"), ROWS)
    near, far = {"a\0b\x001\x002\x003": record}, {"a\0b\x004\x005\x006": other, "c\0\0\0": other}
    assert {"a\0b": record, "c": other} == records.by_origin(near, far)


def is_whole(one: Entry) -> bool:
    """Tell whether an address can be used without a further check."""
    peer = inet.parse_addr_port(one.host)
    return (
        peer is not None
        and peer.family == one.family
        and 0 <= one.port < 65536
        and one.weight > 0
        and 0 <= one.row < ROWS
    )


spoiled = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@spoiled
@given(data=st.binary(max_size=200), size=st.integers(-(1 << 63), (1 << 63) - 1))
def test_what_another_user_wrote_there_is_an_address_or_nothing(
    record: Record, data: bytes, size: int
) -> None:
    """Any bytes, of any stated length: no exception, and no row that the zone does not have."""
    record._memory[: len(data)] = data
    record.cells[records.VERSION] = 2
    for stated in (size, len(data)):
        record.cells[records.SIZES] = stated
        assert all(map(is_whole, record.read()))


@spoiled
@given(at=st.integers(0, 200), value=st.integers(0, 255))
def test_a_changed_byte_is_an_address_or_nothing(record: Record, at: int, value: int) -> None:
    """Wherever it is in what was written well."""
    record.cells[records.VERSION] = 1
    record.write(BOTH)
    assert BOTH == record.read()
    record._memory[at] = value
    assert all(map(is_whole, record.read()))


@pytest.mark.parametrize(
    "bad", [{"row": ROWS}, {"port": 65536}, {"weight": 0}, {"server": "a" * 1025}, {"row": -1}]
)
def test_an_address_with_a_value_out_of_bounds_is_none(record: Record, bad: dict) -> None:
    """Nor are those beside it: what is spoiled is not trusted in part."""
    record.write([*BOTH, BOTH[0]._replace(**bad)])
    assert [] == record.read()


def test_the_next_answer_replaces_what_was_spoiled(record: Record) -> None:
    """Also behind the greatest number of changes there can be."""
    record.cells[records.VERSION] = (1 << 63) - 1
    record.cells[records.SIZES + 1] = 1 << 62
    assert [] == record.read()
    record.write(BOTH)
    assert BOTH == record.read()
