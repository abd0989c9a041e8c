"""Several workers that choose from one zone choose as one nginx does that has them all."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import errors, shm
from ngxstream.modules.upstream import peer_table, zone
from ngxstream.stream.upstream import CONNECT, Peer
from tests.support.balancing import (
    Clock,
    Model,
    has_primary,
    numbered,
    peers_of,
    port,
    session,
    upstream,
)

SPEC = st.fixed_dictionaries({
    "weight": st.sampled_from([1, 1, 1, 2, 5]),
    "max_fails": st.integers(0, 3),
    "fail_timeout": st.integers(0, 12),
    "max_conns": st.sampled_from([0, 0, 0, 1, 3]),
    "down": st.sampled_from([False] * 7 + [True]),
    "backup": st.sampled_from([False] * 4 + [True]),
})
EQUAL = SPEC.map(lambda spec: spec | {"weight": 3, "backup": False})
WORKERS = 3
# who does it, what, and how much or with which session
STEP = st.tuples(
    st.integers(0, WORKERS - 1),
    st.sampled_from(["begin", "begin", "run", "retry", "end", "connect", "wait", "turn"]),
    st.integers(0, 60),
)


def workers_of(specs: list[dict[str, Any]], words: str) -> list[Any]:
    """Return the balancers of workers that share a zone."""
    made = shm.Zone("z", peer_table.ROW_BYTES * 128, "upstream")
    table = made.data = peer_table.PeerTable(made)
    table.next_configuration()
    found = []
    for _ in range(WORKERS):
        conf = upstream(numbered(specs) + words)
        zone.share(conf, table)
        found.append(conf.balancer)
    return found


@pytest.mark.parametrize("method", ["round_robin", "least_conn"])
@given(
    specs=st.one_of(
        st.lists(SPEC, min_size=2, max_size=7), st.lists(EQUAL, min_size=3, max_size=12)
    ).filter(has_primary),
    steps=st.lists(STEP, max_size=80),
)
@settings(max_examples=150)
def test_choices_are_those_of_the_rules(
    method: str, specs: list[dict[str, Any]], steps: list[tuple[int, str, int]]
) -> None:
    """Whoever of them begins, ends or fails a session, and however late the ends are counted."""
    balancers = workers_of(specs, "least_conn;" if method == "least_conn" else "")
    model = Model(specs, method)
    clock = Clock(turns=True)
    model.now = clock.now_ms // 1000
    live: list[tuple[Any, Any, Peer]] = []

    def choose(selection: Any, twin: Any) -> bool:
        expected = model.get(twin)
        try:
            peer = selection.get()
        except errors.NoLivePeers:
            assert expected == 0
            return False
        assert expected == port(peer)
        live.append((selection, twin, peer))
        return True

    for number, action, amount in steps:
        if action in ("begin", "run"):
            for _ in range(amount if action == "run" else 1):
                is_begun = choose(balancers[number].select(session(clock)), model.begin())
                if is_begun and action == "run":
                    selection, twin, peer = live.pop()
                    selection.free(peer, False)
                    model.free(twin, port(peer), False)
        elif action == "wait":
            clock.now_ms += 250 * amount
            model.now = clock.now_ms // 1000
        elif action == "turn":
            clock.turn()
        elif live:
            selection, twin, peer = live.pop(amount % len(live))
            if action == "connect":
                selection.notify(peer, CONNECT)
                model.connected(port(peer))
                live.append((selection, twin, peer))
                continue
            selection.free(peer, action == "retry")
            model.free(twin, port(peer), action == "retry")
            if action == "retry" and selection.tries:
                choose(selection, twin)
    clock.turn()
    for peer in peers_of(balancers[0]):
        assert model.peers[port(peer)].conns == peer.state.conns
        if peer.max_fails:
            assert model.peers[port(peer)].fails == peer.state.fails
