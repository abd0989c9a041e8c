"""The zones of a configuration: requests that fit together, and zones that are kept."""

import os
import resource

import pytest

from ngxstream.core import errors, shm
from ngxstream.core.shm_counts import KeyTable, Tally
from ngxstream.core.shm_zones import ZoneTable
from tests.support.forks import in_child


def test_one_name_is_one_zone() -> None:
    """A reference without size joins the declaration, whichever comes first."""
    table = ZoneTable()
    first = table.request("a", 0, "limit_conn")
    assert first is table.request("a", 65536, "limit_conn")
    assert first is table.request("a", 0, "limit_conn")
    assert 65536 == first.size


def test_another_use_is_refused() -> None:
    """Two modules cannot share a zone."""
    table = ZoneTable()
    table.request("a", 65536, "limit_conn")
    with pytest.raises(errors.ConfError) as caught:
        table.request("a", 65536, "upstream")
    message = 'the shared memory zone "a" is already declared for a different use'
    assert message == str(caught.value)


def test_another_size_is_refused() -> None:
    """Two sizes conflict."""
    table = ZoneTable()
    table.request("a", 65536, "limit_conn")
    with pytest.raises(errors.ConfError) as caught:
        table.request("a", 131072, "limit_conn")
    message = ('the size 131072 of shared memory zone "a" conflicts with '
               "already declared size 65536")
    assert message == str(caught.value)


def test_a_zone_nobody_declared_is_refused_when_it_is_made() -> None:
    """A reference without declaration has size zero."""
    table = ZoneTable()
    table.request("a", 0, "limit_conn")
    with pytest.raises(errors.UnplacedError) as caught:
        table.build()
    assert 'zero size shared memory zone "a"' == str(caught.value)


def test_a_reload_adopts_a_zone_of_the_same_name_size_and_owner() -> None:
    """The new table has the old memory and its init is told so."""
    told: list[bool] = []

    def init(made: shm.Zone, fresh: bool) -> None:
        told.append(fresh)
        if fresh:
            made.data = made.ints(1)

    old, new = ZoneTable(), ZoneTable()
    for table in (old, new):
        table.request("a", 65536, "limit_conn").init = init
    old.build()
    next(old.zones()).data[0] = 7
    new.build(old)
    old.close(keep=new)
    assert [True, False] == told
    assert 7 == next(new.zones()).data[0]


@pytest.mark.parametrize(
    ("size", "tag", "no_reuse"),
    [(131072, "limit_conn", False), (65536, "other", False), (65536, "limit_conn", True)],
)
def test_a_reload_makes_other_zones_anew(size: int, tag: str, no_reuse: bool) -> None:
    """Another size, owner or a zone that is not to be kept starts empty."""
    old, new = ZoneTable(), ZoneTable()
    old.request("a", 65536, "limit_conn")
    new.request("a", size, tag).no_reuse = no_reuse
    old.build()
    new.build(old)
    assert next(old.zones()) is not next(new.zones())


def test_an_abandoned_table_closes_only_its_own() -> None:
    """What the old configuration has goes on."""
    old, new = ZoneTable(), ZoneTable()
    for table in (old, new):
        table.request("a", 65536, "x")
    new.request("b", 65536, "x")
    old.build()
    new.build(old)
    new.close(keep=old)
    shared, own = new.zones()
    assert shared.lock.fd >= 0
    assert -1 == own.lock.fd


def test_a_process_claims_in_all_zones() -> None:
    """A process has a ledger wherever something is counted, before it counts."""
    table = ZoneTable()
    for name in "ab":
        table.request(name, 65536, "x").init = lambda zone, fresh: Tally(zone, 1) and None
    table.build()
    table.claim()
    assert [{os.getpid()}] * 2 == [made.ledgers.owners() for made in table.zones()]


@pytest.mark.parametrize("size", [1 << 52, (1 << 63) - 1])
def test_a_zone_the_machine_has_no_memory_for_is_refused(size: int) -> None:
    """A size out of all proportion is refused in nginx's words, and nothing is left of it."""
    table = ZoneTable()
    table.request("a", size, "x").init = lambda zone, fresh: KeyTable(zone) and None
    with pytest.raises(errors.UnplacedError) as caught:
        table.build()
    message = f"mmap(MAP_ANON|MAP_SHARED, {size}) failed (12: Cannot allocate memory)"
    assert (message, "alert") == (str(caught.value), caught.value.level)
    assert [] == list(table.zones())


def test_a_zone_without_a_descriptor_to_spare_is_refused() -> None:
    """What else the system refuses is said with the name of the zone."""
    table = ZoneTable()
    table.request("a", 65536, "x")

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        with pytest.raises(errors.UnplacedError) as caught:
            table.build()
        message = 'shared memory zone "a" could not be made (24: Too many open files)'
        assert (message, "emerg") == (str(caught.value), caught.value.level)

    in_child(work)
