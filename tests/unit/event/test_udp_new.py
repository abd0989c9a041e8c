"""event/udp_new.py: order, bounds and pace of what begins sessions. See test_udp.py too."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import udp_new
from ngxstream.event.drops import Drops
from tests.support.engine import engine


class Beginner(udp_new.NewClients):
    """Begins sessions that take so many datagrams each; the last lives on if it may take more."""

    def __init__(self, loop: Any, quota: int) -> None:
        options = SimpleNamespace(text="here")
        self.listener: Any = SimpleNamespace(
            loop=loop, accepts=True, lost=Drops(), listening=SimpleNamespace(options=options)
        )
        super().__init__(self.listener)
        self.quota = quota
        self.sessions: dict[Any, list[list[bytes]]] = {}
        self.begun = 0
        self.calls: list[Any] = []

    def begin_for(self, key, views, budget):
        self.calls.append(key)
        own = self.sessions.setdefault(key, [])
        while views:
            if not own or len(own[-1]) >= self.quota:
                if budget <= 0:
                    break
                budget -= 1
                self.begun += 1
                own.append([])
            own[-1].append(bytes(views[0]))
            views = views[1:]
        return budget, views


def put(new: udp_new.NewClients, key: Any, *datagrams: bytes, **options: Any) -> None:
    """Have datagrams of a client wait."""
    new.put(key, [memoryview(data) for data in datagrams], **options)


@given(
    plan=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 90)), max_size=12),
    quota=st.sampled_from((1, 3, 1000)),
    turns=st.integers(0, 3),
)
def test_every_client_s_datagrams_begin_what_they_begin_in_order(plan, quota, turns) -> None:
    """Whatever comes while others begin: each client's sessions are cut as if nobody had waited."""
    with engine() as loop:
        new = Beginner(loop, quota)
        sent: dict[int, list[bytes]] = {}
        for key, count in plan:
            mine = sent.setdefault(key, [])
            datagrams = [b"%d" % n for n in range(len(mine), len(mine) + count)]
            mine += datagrams
            put(new, key, *datagrams)
            for _ in range(turns):
                before = new.begun
                loop.turn(0)
                assert new.begun <= before + udp_new.NEW
        while loop.posted:
            loop.turn(0)
        assert sent == {
            key: [data for session in own for data in session]
            for key, own in new.sessions.items()
        }
        assert all(
            len(session) == quota for own in new.sessions.values() for session in own[:-1]
        )
        assert (0, 0, 0) == (new.size, len(new.waiting), new.listener.lost.own)


def test_who_came_first_begins_first() -> None:
    """A client that sent much comes first in the turns it needs; then the next one does."""
    with engine() as loop:
        new = Beginner(loop, 1)
        put(new, "a", *[b"x"] * 40)
        put(new, "b", b"y")
        loop.turn(0)
        assert ({"a"}, udp_new.NEW) == (set(new.calls), new.begun)
        loop.turn(0)
        loop.turn(0)
        assert ["a", "a", "a", "b"] == new.calls
        assert not loop.posted


def test_a_turn_looks_at_so_many_datagrams() -> None:
    """A client that needs no new session either is served a part in each turn."""
    with engine() as loop:
        new = Beginner(loop, 1 << 20)
        count = udp_new.NEW * udp_new.CHUNK
        put(new, "a", *[b"x"] * (count + 1))
        loop.turn(0)
        assert count == len(new.sessions["a"][0])
        loop.turn(0)
        assert count + 1 == len(new.sessions["a"][0])


def test_what_waits_has_a_bound_and_what_was_held_is_not_lost_to_it() -> None:
    """Bytes count with a cost for each datagram; what is over it is dropped, counted, told once."""
    with engine() as loop:
        new = Beginner(loop, 1)
        new.limit = 3 * (udp_new.COST + 10)
        for n in range(6):
            put(new, n, bytes(10))
        assert ([0, 1, 2], 3) == (list(new.waiting), new.listener.lost.own)
        put(new, "held", bytes(10), is_bounded=False)
        assert 4 == len(new.waiting)
        (told,) = loop.log.lines
        assert (udp_new.WARN, "here") == (told[0], told[1].split("server: ")[1].split(",")[0])
        assert [bytes(10)] == [bytes(view) for view in new.pop(1)]
        assert 3 * (udp_new.COST + 10) == new.size


def test_nobody_begins_where_nobody_is_accepted() -> None:
    """Once its address is gone, what waits is forgotten."""
    with engine() as loop:
        new = Beginner(loop, 1)
        put(new, "a", b"x")
        new.listener.accepts = False
        loop.turn(0)
        assert (0, 0, []) == (len(new.waiting), new.size, new.calls)


def test_a_client_that_waits_nowhere_is_an_error() -> None:
    """pop() may be called for clients that wait, and no others."""
    with engine() as loop, pytest.raises(KeyError):
        Beginner(loop, 1).pop("a")
