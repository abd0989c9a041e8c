"""How a peer fares is one thing in two forms, and one rule says whether it may be used."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import errors, shm
from ngxstream.modules.upstream import peer_table, zone
from ngxstream.stream import peer_state, rotation, round_robin
from ngxstream.stream.peer_state import FIELDS, PeerState
from ngxstream.stream.upstream import CONNECT, FIRST_BYTE, Peer, UpstreamConf, UpstreamState
from tests.support.balancing import (
    SPEC,
    Clock,
    has_primary,
    numbered,
    peers_of,
    port,
    session,
    take,
    upstream,
)

METHODS = [
    "", "least_conn;", "least_time first_byte inflight;", "random;", "random two;", "hash k;",
    "hash k consistent;",
]
RUNTIME = [peer_state.UNHEALTHY, peer_state.CHECKING]  # bits that come and go


def shared(conf: UpstreamConf) -> UpstreamConf:
    """Put an upstream into a zone of its own."""
    table = peer_table.PeerTable(shm.Zone("z", 32768, "upstream"))
    table.next_configuration()
    zone.share(conf, table)
    return conf


def values(state: PeerState) -> dict[str, int]:
    """Return every field that is declared."""
    return {field.name: getattr(state, field.name) for field in FIELDS}


# -- two forms ---------------------------------------------------------------------------------


def test_a_row_has_a_place_of_its_own_for_every_shared_field() -> None:
    """What is written to a field is read from it by whoever has the row, and from no other one."""
    table = peer_table.PeerTable(shm.Zone("z", 32768, "upstream"))
    table.next_configuration()
    plain = upstream("server 127.0.0.1:1 weight=1000;").balancer.tier.peers[0]  # type: ignore[union-attr]
    one, other = (table.attach(plain, b"key", pin=True) for _ in range(2))
    assert values(plain.state) == values(one)
    for n, field in enumerate(FIELDS):
        value = 64 + n  # no bit of a status that is the configuration's
        setattr(plain.state, field.name, value)
        setattr(one, field.name, value)
        assert values(plain.state) == values(one)
        if field.metadata.get("kind") != peer_state.OWN:
            assert value == getattr(other, field.name)


def test_only_a_configuration_says_down() -> None:
    """A server that one configuration takes out is in for another one with the same row."""
    table = peer_table.PeerTable(shm.Zone("z", 32768, "upstream"))
    table.next_configuration()
    out, within = upstream(numbered([{"down": True}, {}])).balancer.tier.peers  # type: ignore[union-attr]
    first, second = (table.attach(peer, b"key", pin=True) for peer in (out, within))
    first.status |= peer_state.UNHEALTHY
    assert peer_state.DOWN | peer_state.UNHEALTHY == first.status
    assert peer_state.UNHEALTHY == second.status


ACTION = st.one_of(
    st.tuples(st.sampled_from(["begin", "once"]), st.just(0)),
    st.tuples(st.sampled_from(["fail", "end", "connect", "answer", "leave", "resume"]),
              st.integers(0, 10)),
    st.tuples(st.sampled_from(["mark", "clear"]), st.integers(0, 50)),
    st.tuples(st.just("wait"), st.integers(1, 15_000)),
)


class Twin:
    """A balancer to which everything is done that is done to its twin."""

    def __init__(self, conf: UpstreamConf) -> None:
        self.clock = Clock(turns=True)
        balancer: Any = conf.balancer
        if isinstance(balancer, rotation.RotatingRoundRobin):  # shared peers do not rotate
            balancer = round_robin.RoundRobin(balancer.tier)
        self.balancer = balancer
        self.live: list[tuple[Any, Any, Peer]] = []

    def do(self, action: str, amount: int, seed: int) -> Any:
        """Do something; return what can be seen of it."""
        random.seed(seed)
        peers = peers_of(self.balancer)
        if action == "wait":
            self.clock.now_ms += amount
            self.clock.turn()
        elif action in ("mark", "clear"):
            state, bit = peers[amount % len(peers)].state, RUNTIME[amount % len(RUNTIME)]
            state.status = state.status | bit if action == "mark" else state.status & ~bit
        elif action in ("begin", "once", "resume"):
            s = session(self.clock)
            s.states = [UpstreamState(self.clock.now_ms)]
            try:
                if action == "resume":
                    selection, peer = self.balancer.resume(s, peers[amount % len(peers)].name)
                else:
                    selection = self.balancer.select(s)
                    peer = selection.get_once() if action == "once" else selection.get()
            except errors.NoLivePeers:
                return 0
            if action != "once":
                self.live.append((s, selection, peer))
            return port(peer), selection.tries
        elif self.live:
            s, selection, peer = self.live.pop(amount % len(self.live))
            if action in ("connect", "answer"):
                selection.notify(peer, CONNECT if action == "connect" else FIRST_BYTE)
                self.live.append((s, selection, peer))
            elif action == "leave":
                selection.leave(peer)
            else:
                selection.free(peer, action == "fail", s.states[-1])
            return port(peer), selection.tries, s.lines
        return None

    def fate(self) -> list[dict[str, int]]:
        """Return how all peers fare; of current weights the differences, which choices go by."""
        found = [values(peer.state) for peer in peers_of(self.balancer)]
        primaries = self.balancer.tier.number
        for tier in (found[:primaries], found[primaries:]):
            first = tier[0]["current_weight"] if tier else 0
            for state in tier:
                state["current_weight"] -= first
        return found


@pytest.mark.parametrize("method", METHODS)
@given(specs=st.lists(SPEC, min_size=1, max_size=4).filter(has_primary),
       actions=st.lists(ACTION, max_size=40))
@settings(max_examples=40)
def test_both_forms_fare_alike_whatever_happens(
    method: str, specs: list[dict[str, Any]], actions: list[tuple[str, int]]
) -> None:
    """The same done to peers of a process and to peers in shared memory leaves the same."""
    lines = numbered(specs) + method
    plain, other = Twin(upstream(lines)), Twin(shared(upstream(lines)))
    for n, (action, amount) in enumerate(actions):
        assert plain.do(action, amount, n) == other.do(action, amount, n)
        assert plain.fate() == other.fate()


# -- one rule ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("bit", RUNTIME)
@pytest.mark.parametrize("method", METHODS)
def test_a_server_that_is_barred_gets_no_session_from_any_method(
    method: str, bit: int, is_shared: bool
) -> None:
    """Sessions go to the others, nowhere if it is the only one, and to it again when it is well."""
    for servers in ([{}, {}], [{}]):
        conf = upstream(numbered(servers) + method)
        balancer: Any = shared(conf).balancer if is_shared else conf.balancer
        clock = Clock()
        for _ in range(4):  # turns would be read off
            selection = balancer.select(session(clock))
            selection.free(selection.get(), False)
        first = balancer.tier.peers[0]
        first.state.status |= bit
        balancer.use(balancer.tier)
        others = {port(peer) for peer in balancer.tier.peers[1:]} or {0}
        assert others == {take(balancer.select(session(clock))) for _ in range(8)}
        assert (first, 1) == (balancer.resume(session(clock), first.name)[1], first.state.conns)
        first.state.status &= ~bit
        balancer.use(balancer.tier)
        expected = {port(peer) for peer in balancer.tier.peers}
        if not method.startswith("hash"):  # whose key may belong to the other one
            assert expected == {take(balancer.select(session(clock))) for _ in range(40)}


@pytest.mark.parametrize("is_shared", [False, True])
def test_failures_of_before_do_not_take_the_only_server_out(is_shared: bool) -> None:
    """A server that failed while there were others is used when it is left alone, and forgiven."""
    conf = upstream("server 127.0.0.1:1; server 127.0.0.1:2;")
    balancer: Any = shared(conf).balancer if is_shared else conf.balancer
    selection = balancer.select(session(Clock()))
    peer = selection.get()
    selection.free(peer, True)
    balancer.use(round_robin.Tier("u", [peer], None, balancer.tier.lock))
    alone = balancer.select(session(Clock()))
    assert (peer, peer_state.FAILED) == (alone.get_once(), peer.state.status)
    alone.free(alone.get(), False)
    assert (0, 0, 0) == (peer.state.fails, peer.state.status, peer.state.conns)
