"""The upgrade on the fly: both masters run, either goes, no session notices."""

import pytest

from tests.continuity import cases
from tests.continuity.conftest import Performance

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize(
    "case", [cases.AND_BACK, cases.FOR_GOOD], ids=lambda case: case.title
)
def test_sessions_go_on_over_an_upgrade(performance: Performance, case: cases.Case) -> None:
    """Every datagram arrives and every session keeps its port; nginx gives each a new one."""
    account = performance(case)
    if performance.is_ours:
        assert {} == account.harm, account.story()
    else:
        assert list(account.sessions) == account.moved
