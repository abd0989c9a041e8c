"""What all balancing methods share: the table of upstreams, and a peer as its line says."""

from ngxstream.stream import peer_state, upstream
from ngxstream.stream.upstream import Peer, ServerSpec, UpstreamConf, UpstreamTable


def conf(name: str, port: int = 0) -> UpstreamConf:
    """Return an upstream of a name and a port."""
    made = UpstreamConf(name, "/f", 1, explicit=not port)
    made.port = port
    return made


def test_upstreams_are_found_by_name_and_port() -> None:
    """Names have no case; the first of a name is found without a port, each with its own."""
    table = UpstreamTable()
    block, other, late = conf("Back"), conf("back", 53), conf("BACK", 53)
    for each in (block, other, late):
        table.enter(each)
    assert [0, 1, 2] == [each.index for each in table]
    assert (block, block, other) == (table.first("bAck"), table.at("back", 0), table.at("Back", 53))
    assert (None, None) == (table.first("front"), table.at("back", 54))


def test_a_peer_begins_as_its_line_says() -> None:
    """With nothing held against it but what the configuration says."""
    spec = ServerSpec("a.test:53", [])
    spec.weight, spec.max_conns, spec.down = 3, 7, True
    peer = Peer(spec, 2, ("192.0.2.1", 53), "192.0.2.1:53")
    assert ("a.test:53", "192.0.2.1:53") == (peer.server, peer.name)
    state = peer.state
    assert (3, 3, 0, 7) == (
        peer.weight, state.effective_weight, state.current_weight, peer.max_conns
    )
    assert state.status & peer_state.DOWN
    assert {peer_state.NEVER_MS} == {state.accessed_ms, state.checked_ms, state.heard_ms}


def test_sessions_held_are_given_back() -> None:
    """Counted up and down by the same call."""
    peer = Peer(ServerSpec("a", []), 2, ("192.0.2.1", 53), "a")
    peer.state.hold(3)
    peer.state.hold(-2)
    assert 1 == peer.state.conns


def test_a_service_may_say_otherwise_than_its_line() -> None:
    """An SRV record names its own server, and has a weight of its own."""
    peer = Peer(ServerSpec("a.test", []), 2, ("192.0.2.1", 53), "x", server="b.test", weight=9)
    assert ("b.test", 9, 0) == (peer.server, peer.weight, peer.state.status)


def test_all_parameters_are_those_there_are() -> None:
    """MAY_ALL leaves none out."""
    each = [value for name, value in vars(upstream).items()
            if name.startswith("MAY_") and name != "MAY_ALL"]
    assert sum(each) == upstream.MAY_ALL
