"""Crashes: only the dead worker's sessions may notice."""

import pytest

from tests.continuity import cases
from tests.continuity.conftest import Performance

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_a_killed_worker_takes_no_other_session_with_it(performance: Performance) -> None:
    """Sessions of the others lose nothing; the dead one's begin anew once and go on."""
    account = performance(cases.KILLED)
    assert {} == account.harm, account.story()
    assert account.excused
    assert account.excused == set(account.moved)
    assert {2} == {len(account.paths[session]) for session in account.moved}
    respawned = next(at for at, what in account.marks if what == "respawned")
    after = [m for m in account.up.missing + account.down.missing if m.at > respawned]
    assert [] == after or account.kernel.lost, account.story()


def test_a_worker_killed_before_its_hand_over_keeps_nobody_waiting(
    performance: Performance,
) -> None:
    """The others' sessions go over as ever; only the dead one's begin anew."""
    account = performance(cases.LEAVING)
    if performance.is_ours:
        assert {} == account.harm, account.story()
        assert account.excused == set(account.moved)
    else:
        assert list(account.sessions) == account.moved


def test_sessions_outlive_the_master_and_a_new_one_serves_on(performance: Performance) -> None:
    """Orphans lose and move nothing, and a new master takes their sessions over as they are."""
    account = performance(cases.ORPHANS)
    if performance.is_ours:
        assert {} == account.harm, account.story()
    else:
        assert account.moved
