"""Results of checks on their way to another binary: what arrives, and what is no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core.clock import monotonic_ms
from ngxstream.ipc.codec import CodecError
from ngxstream.modules.health import handed
from ngxstream.modules.health.group import Group, number_of, peers_of, row_of
from ngxstream.stream import health, peer_state
from tests.support.in_process import Built, build

TEXT = (
    "stream {{ upstream u {{ {servers} }} server {{ listen 127.0.0.1:1; proxy_pass u; "
    "health_check {words}; {more} }} }}"
)
SERVERS = "server 127.0.0.1:1; server 127.0.0.1:2;"


class Binary:
    """One program: a configuration, with memory of its own."""

    def __init__(self, words: str = "", servers: str = SERVERS, more: str = "",
                 states: dict[str, bytes] | None = None) -> None:
        """Args: states: what another one has handed on"""
        self.built: Built = build(TEXT.format(words=words, servers=servers, more=more))
        assert self.built.conf is not None, self.built.error
        self.built.zones.build()
        self.stream: Any = self.built.conf
        (self.group,) = self.stream.data["health"]
        self.faults: list[str] = [] if states is None else self.stream.take_up(states)
        self.group.settle(monotonic_ms())

    def find(self, server: int, *passed: bool) -> None:
        """Take down results of a server."""
        group: Group = self.group
        peer = list(peers_of(group.upstream))[server]
        for one in passed:
            cells = group.records[0].target(row_of(peer))
            health.note(cells, group.checks[0].spec.rule, one)
        group.tell(peer, 5)

    def states(self) -> list[int]:
        """Return what bars each server."""
        return [peer.state.status & health.BITS for peer in peers_of(self.group.upstream)]

    def hand_on(self) -> dict[str, bytes]:
        """Return what the other binary is to begin with."""
        return dict(self.stream.hand_on())


Make = Callable[..., Binary]


@pytest.fixture
def binary() -> Iterator[Make]:
    """Give ``binary(words)``."""
    with ExitStack() as stack:

        def make(*args: Any, **more: Any) -> Binary:
            made = Binary(*args, **more)
            stack.callback(made.built.zones.close)
            return made

        yield make


@pytest.mark.parametrize(("words", "expected"), [
    ("", [0, peer_state.UNHEALTHY]),
    ("mandatory", [peer_state.CHECKING, peer_state.CHECKING]),
    ("mandatory persistent", [0, peer_state.UNHEALTHY]),
])
def test_another_binary_begins_with_what_was_found(
    binary: Make, words: str, expected: list[int]
) -> None:
    """As a configuration does on a reload; counters go on."""
    old = binary(words)
    old.find(0, True, True)
    old.find(1, True, False)
    new = binary(words, states=old.hand_on())
    assert ([], expected) == (new.faults, new.states())
    reports = [new.group.report(peer)[:3] for peer in peers_of(new.group.upstream)]
    assert [(2, 0, 0), (2, 1, 1)] == reports


def test_other_servers_and_other_checks_begin_anew(binary: Make) -> None:
    """Who is checked in another way, or was not there; wherever the others stand now."""
    old = binary()
    old.find(0, True)
    old.find(1, False)
    moved = "server 127.0.0.1:9; server 127.0.0.1:2; server 127.0.0.1:1;"
    new = binary(servers=moved, states=old.hand_on())
    assert [0, peer_state.UNHEALTHY, 0] == new.states()
    assert [0, 1, 1] == [new.group.report(peer).checks for peer in peers_of(new.group.upstream)]
    assert [0, 0] == binary("port=7", states=old.hand_on()).states()


def test_a_secret_is_not_told(binary: Make) -> None:
    """A check is known by a digest."""
    old = binary("udp type=radius secret=hush")
    (data,) = old.hand_on().values()
    assert b"hush" not in data
    assert handed.digest(old.group.checks[0].key) in data


def test_what_was_found_here_is_not_forgotten_for_what_comes(binary: Make) -> None:
    """Nothing comes late: a record that is there counts."""
    old, other = binary(), binary()
    old.find(1, False)
    other.find(0, False)
    assert [] == other.stream.take_up(old.hand_on())
    other.group.settle(6)
    assert [peer_state.UNHEALTHY, 0] == other.states()


@pytest.mark.parametrize(("cell", "value"), [
    (health.STATE, 5), (health.STATE, -1), (health.LAST, 3), (health.CHECKS, -1),
    (health.DUE, 1 << 62), (health.TURNED, -(1 << 63)),
])
def test_cells_that_another_process_has_spoiled_are_not_told(
    binary: Make, cell: int, value: int
) -> None:
    """Those of the other servers are."""
    old = binary()
    old.find(0, False)
    old.find(1, False)
    peer = next(iter(peers_of(old.group.upstream)))
    old.group.records[0].target(row_of(peer))[cell] = value
    new = binary(states=old.hand_on())
    assert ([], [0, peer_state.UNHEALTHY]) == (new.faults, new.states())


@pytest.mark.parametrize(("place", "value"), [(0, 5), (7, 3), (4, 1 << 62)])
def test_results_that_can_be_none_are_refused_whole(binary: Make, place: int, value: int) -> None:
    """Checks begin anew, and it is said why."""
    cells = [health.UNHEALTHY, 1, 1, 0, 1, 1, 1, health.MISSED, 0]
    cells[place] = value
    key = handed.digest(binary().group.checks[0].key)
    number = number_of(next(iter(peers_of(binary().group.upstream))))
    data = handed._FOUND.encode(([(key, [(number, cells)])],))
    with pytest.raises(CodecError, match="can be none"):
        handed.unpack(data)
    new = binary(states={"health": data})
    assert ([0, 0], ["health: results of checks that can be none"]) == (new.states(), new.faults)


def test_results_are_bounded(binary: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many are neither told nor read."""
    old = binary()
    old.find(1, False)
    (data,) = old.hand_on().values()
    monkeypatch.setattr(handed, "MOST_BYTES", len(data) - 1)
    assert {} == old.hand_on()
    with pytest.raises(CodecError, match="bytes of results"):
        handed.unpack(data)


@given(data=st.binary(max_size=300))
def test_any_bytes_are_results_or_refused(data: bytes) -> None:
    """Nothing else comes of them."""
    try:
        found = handed.unpack(data)
    except CodecError:
        return
    assert all(handed.is_sane(cells) for known in found.values() for cells in known.values())


@given(st.lists(st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.lists(
    st.integers(0, (1 << 62) - 1) | st.integers(0, 4), min_size=9, max_size=9)), max_size=5))
def test_what_is_well_formed_is_sane_or_refused(targets: list[tuple[int, list[int]]]) -> None:
    """And what is taken is what was said."""
    data = handed._FOUND.encode(([(bytes(16), targets)],))
    try:
        found = handed.unpack(data)
    except CodecError:
        return
    assert {number for number, _ in targets} == set(found[bytes(16)])


def test_what_is_nobody_s_here_is_passed_over(binary: Make) -> None:
    """Another release may have a module that this one has not."""
    assert [] == binary(states={"nobody": b"x"}).faults
