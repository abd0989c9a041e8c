"""A peer as a function that chooses sees it."""

import ipaddress

from ngxstream.scripting.peers import Peer
from tests.support.balancing import group


def test_a_peer_tells_what_its_line_says_and_how_it_fares() -> None:
    """What changes is read when it is asked for."""
    balancer = group("server 127.0.0.1:53 weight=3 max_conns=7; server 127.0.0.1:54 backup;")
    peer = balancer.tier.peers[0]
    view = Peer(peer, is_backup=False)
    assert ("127.0.0.1:53", "127.0.0.1:53", 3, 7) == (
        view.name, view.server, view.weight, view.max_conns
    )
    assert (ipaddress.ip_address("127.0.0.1"), 53) == (view.address.ip, view.address.port)
    assert (0, 0, False) == (view.sessions, view.fails, view.is_backup)
    peer.state.hold(2)
    peer.state.fail(1000)
    assert (2, 1) == (view.sessions, view.fails)
    assert "<Peer 127.0.0.1:53>" == repr(view)
