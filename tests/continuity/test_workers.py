"""Which worker: one client is one session, and the workers have an even share of them."""

import re

import pytest

from tests.continuity import cases
from tests.continuity.conftest import Performance

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_one_client_is_one_session_whatever_the_number_of_workers(
    performance: Performance,
) -> None:
    """Without any parameter its backend sees one port; of nginx it sees several."""
    account = performance(cases.ONE_CLIENT)
    if performance.is_ours:
        assert {} == account.harm, account.story()
    else:
        assert account.moved


def test_a_thousand_clients_are_spread_over_all_workers(performance: Performance) -> None:
    """No worker has above twice the mean."""
    account = performance(cases.SPREAD)
    assert {} == account.harm, account.story()
    found = re.search(r"busiest of 8 workers has ([\d.]+) times", account.remark)
    assert found, account.remark
    assert float(found[1]) <= 2
