"""The health of a target: its states, and who has the lease of what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import shm
from ngxstream.stream import health, peer_state
from ngxstream.stream.health import CHECKING, NEW, UNHEALTHY, UP, Holder, Rule


def walk(rule: Rule, first: int, results: str) -> tuple[list[int], memoryview]:
    """Return the state after each result, P passed or F failed, and the cells."""
    cells = memoryview(bytearray(health.CELLS * 8)).cast("q")
    cells[health.STATE] = first
    return [health.note(cells, rule, one == "P").after for one in results], cells


@pytest.mark.parametrize(
    ("rule", "first", "results", "states"),
    [
        (Rule(), NEW, "PFP", [UP, UNHEALTHY, UP]),
        (Rule(), NEW, "F", [UNHEALTHY]),
        (Rule(fails=3), NEW, "FFPFFF", [NEW, NEW, UP, UP, UP, UNHEALTHY]),
        (Rule(passes=2), UNHEALTHY, "PFPP", [UNHEALTHY, UNHEALTHY, UNHEALTHY, UP]),
        (Rule(fails=3, mandatory=True), CHECKING, "F", [UNHEALTHY]),
        (Rule(passes=3, mandatory=True), CHECKING, "P", [UP]),
        (Rule(2, 2, mandatory=True), CHECKING, "FPPFPFF",
         [UNHEALTHY, UNHEALTHY, UP, UP, UP, UP, UNHEALTHY]),
    ],
)
def test_states_change_by_results(
    rule: Rule, first: int, results: str, states: list[int]
) -> None:
    """`fails` and `passes` count results in a row; a first one decides where it is awaited."""
    assert states == walk(rule, first, results)[0]


def test_results_are_counted() -> None:
    """All, those that failed, and how often it turned unhealthy."""
    cells = walk(Rule(fails=2), NEW, "FPFFFPFF")[1]
    counts = [cells[n] for n in (health.CHECKS, health.FAILED, health.TURNED, health.LAST)]
    assert [8, 6, 2, 1] == counts


@given(st.integers(1, 4), st.integers(1, 4), st.text("PF", max_size=40))
def test_a_state_is_what_the_last_results_say(fails: int, passes: int, results: str) -> None:
    """Unhealthy since so many failures in a row, until so many passes in a row."""
    expected = UP
    for end in range(1, len(results) + 1):
        so_far = results[:end]
        if expected == UP and so_far.endswith("F" * fails):
            expected = UNHEALTHY
        elif expected == UNHEALTHY and so_far.endswith("P" * passes):
            expected = UP
    states, _ = walk(Rule(fails, passes), UP, results)
    assert expected == ([UP, *states][-1])


def test_all_checks_have_to_be_content() -> None:
    """One that says unhealthy bars a peer; one that awaits its first result does, too."""
    assert 0 == health.barring([UP, NEW])
    assert peer_state.CHECKING == health.barring([UP, CHECKING])
    assert peer_state.UNHEALTHY == health.barring([UNHEALTHY, CHECKING, UP])


@pytest.mark.parametrize(
    ("rule", "was_up", "state"),
    [
        (Rule(), False, NEW), (Rule(mandatory=True), False, CHECKING),
        (Rule(mandatory=True), True, CHECKING),
        (Rule(mandatory=True, persistent=True), True, UP),
        (Rule(mandatory=True, persistent=True), False, CHECKING),
    ],
)
def test_a_first_state(rule: Rule, was_up: bool, state: int) -> None:
    """`mandatory` awaits a result, unless `persistent` remembers a good one."""
    assert state == health.initial(rule, was_up)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [(None, None, None), (True, None, True), (None, False, False), (True, True, True),
     (True, False, False)],
)
def test_reports_add_up(one: bool | None, other: bool | None, both: bool | None) -> None:
    """The last check has passed where all last ones have."""
    assert (5, 7, 9, both) == health.Report(1, 2, 3, one).plus(health.Report(4, 5, 6, other))


@pytest.fixture
def record() -> health.Record:
    """Return a record of four targets, of the first configuration."""
    made = health.Record(shm.Zone("health", 0, "test"), 4)
    made.own[health.SETTLED] = 1
    return made


def holder(pid: int, configuration: int = 1) -> Holder:
    """Return one of two workers."""
    return Holder(pid, (pid - 1) % 2, 2, configuration)


def test_shards_are_divided(record: health.Record) -> None:
    """The first worker has all of them until there is another one, which then gets half."""
    assert 16 == len(record.renew(holder(1), 0, 3000))
    assert frozenset() == record.renew(holder(2), 1, 3000)
    ours = record.renew(holder(1), 500, 3500)
    theirs = record.renew(holder(2), 501, 3500)
    assert set(range(health.SHARDS)) == ours | theirs
    assert frozenset() == ours & theirs
    assert ours == record.renew(holder(1), 1000, 4000)


def test_a_lease_that_is_over_is_taken(record: health.Record) -> None:
    """What a killed worker had goes to another, not before it is over."""
    record.renew(holder(1), 0, 3000)
    assert frozenset() == record.renew(holder(2), 2999, 9000)
    assert 16 == len(record.renew(holder(2), 3000, 9000))
    assert frozenset() == record.renew(holder(1), 3001, 9000)


def test_another_worker_with_the_number_of_a_killed_one_has_its_share(
    record: health.Record
) -> None:
    """As soon as the lease is over: the other worker has its half already."""
    record.renew(holder(1), 0, 3000)
    record.renew(holder(2), 1, 3000)
    record.renew(holder(1), 2, 3000)
    theirs = record.renew(holder(2), 3, 3000)
    assert frozenset() == record.renew(holder(4), 4, 9000)
    record.renew(holder(1), 2500, 9000)
    assert theirs == record.renew(holder(4), 3000, 9000)


def test_the_last_worker_has_everything(record: health.Record) -> None:
    """When another one has stopped, and nobody took its place."""
    record.renew(holder(1), 0, 3000)
    record.renew(holder(2), 1, 3000)
    record.renew(holder(1), 2, 3000)
    record.renew(holder(2), 3, 3000)
    assert 8 == len(record.renew(holder(1), 2500, 6000))
    assert 16 == len(record.renew(holder(1), 3001, 6000))


def test_a_lease_can_be_given_up(record: health.Record) -> None:
    """A worker that leaves does."""
    record.renew(holder(1), 0, 3000)
    record.release(holder(1))
    assert 16 == len(record.renew(holder(2), 1, 3000))


def test_a_lease_of_a_former_configuration_is_free(record: health.Record) -> None:
    """Its workers see that they have lost it, even one that has the same process identifier."""
    record.renew(holder(1), 0, 3000)
    theirs = record.renew(holder(2, configuration=2), 1, 3000)
    assert 8 == len(theirs)
    assert frozenset() == record.renew(holder(1), 2, 3000) & theirs
    assert theirs == record.renew(holder(2, 2), 3, 3000)


def test_a_lease_of_a_hundred_years_is_none(record: health.Record) -> None:
    """Whoever wrote it."""
    record.renew(holder(1), 0, 1 << 60)
    assert 16 == len(record.renew(holder(2), 1, 3000))


def test_what_is_known_is_found_by_peer(record: health.Record) -> None:
    """Rows that are about nobody are left out."""
    cells = record.target(3)
    cells[health.PEER] = 7
    cells[health.STATE] = UP
    assert {7: tuple(cells)} == record.by_peer()


def test_a_target_begins_anew_with_its_counters(record: health.Record) -> None:
    """And is due at once."""
    cells = record.target(0)
    for result in (True, False):
        health.note(cells, Rule(), result)
    cells[health.DUE] = 100
    health.count_from(cells, Rule(mandatory=True), was_up=False)
    assert [CHECKING, 0, 0, 0, 2, 1, 1, 0, 0, 0] == cells.tolist()
