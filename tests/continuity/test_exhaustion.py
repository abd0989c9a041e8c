"""Want of room: who talks is not pushed out, who comes later is served."""

import pytest

from tests.continuity import cases
from tests.continuity.conftest import Performance

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize(
    "case", [cases.FLOODED, cases.DESCRIPTORS], ids=lambda case: case.title
)
def test_a_flood_of_forged_clients_does_no_harm(performance: Performance, case: cases.Case) -> None:
    """Conversations go on, and new clients have the room of the flood's; nginx refuses them."""
    account = performance(case)
    talkers = account.of(range(100))
    assert {} == talkers.harm, account.story()
    if performance.is_ours:
        assert {} == account.harm, account.story()
        assert account.remark.endswith("at most 1 alerts a second")
    else:
        assert list(range(100, 150)) == account.unheard
