"""Short forms of the topologies: clients keep their server whatever befalls the nodes."""

from pathlib import Path

import pytest

from tests.fleet import topologies
from tests.fleet.network import changes_of_server
from tests.support import tools
from tests.support.proxies import Ngxstream

CLIENTS = 120
HZ = 2.0


@pytest.mark.root
def test_an_address_moves_to_the_other_node(tmp_path: Path) -> None:
    """With keepalived: clients go on with the same servers when their node drains or dies."""
    for name in ("keepalived", "curl"):
        tools.require(name)
    steps, account = topologies.active_passive(Ngxstream, tmp_path, CLIENTS, HZ)
    assert ["node 1 is drained", "node 1 is back", "node 1 dies"] == [one.what for one in steps]
    assert [] == changes_of_server(account), account.story()
    assert 0 == account.mangled
    assert [] == account.unheard


@pytest.mark.root
def test_clients_are_spread_over_nodes_that_announce_one_address(tmp_path: Path) -> None:
    """With BIRD: only what was on its way to a node that died is lost."""
    for name in ("bird", "birdc", "curl"):
        tools.require(name)
    steps, account = topologies.active_active(Ngxstream, tmp_path, CLIENTS, HZ)
    drained, died, added, fewer = steps
    assert (0, 0, 0) == (drained.moved, died.moved, added.moved), account.story()
    assert 0 == drained.lost == added.lost == fewer.lost, account.story()
    assert died.lost == died.of_the_node
    # of the sessions that a node gives up only those move whose server was taken away
    assert {0} >= {before for _, _, before, _ in changes_of_server(account)}
    assert 0 == account.mangled
