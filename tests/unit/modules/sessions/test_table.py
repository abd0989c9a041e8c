"""What a worker answers about its sessions: in order, in portions, and while they come and go."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.ipc.codec import CodecError
from ngxstream.modules.sessions import filters, table
from ngxstream.modules.sessions.filters import Chosen
from ngxstream.stream import endings
from ngxstream.stream.content import RELAYING, Shown
from tests.support.shown import MadeSession

STREAM: Any = None


def loop_of(count: int) -> Any:
    """Return a loop with so many sessions, in no order."""
    loop: Any = SimpleNamespace(now_ms=50_000, pid=77, faults=[])
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)
    loop.sessions = {MadeSession(loop, number) for number in numbers}
    return loop


def finish(steps: Any) -> bytes:
    """Make all steps of an answer."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return bytes(stop.value)


def page(loop: Any, **chosen: Any) -> tuple[list[int], table.Page]:
    """Return the numbers on a page, and the page."""
    payload = filters.pack(Chosen(**chosen))
    found = table.read_page(finish(table.answer_list(loop, STREAM, payload)))
    return [table.read_row(row).number for row in found.rows], found


def test_a_page_has_the_lowest_numbers_in_order() -> None:
    """Whatever the order in which the worker has them; how many fit is told beside it."""
    loop = loop_of(500)
    numbers, found = page(loop, limit=100)
    assert list(range(100)) == numbers
    assert (500, True, 99) == (found.matched, found.has_more, found.upto)


def test_pages_lead_through_all_sessions() -> None:
    """Each begins behind the one before; the last one says so."""
    loop = loop_of(250)
    seen: list[int] = []
    after = -1
    while True:
        numbers, found = page(loop, limit=100, after=after)
        seen += numbers
        after = found.upto
        if not found.has_more:
            break
    assert list(range(250)) == seen


def test_a_worker_without_sessions_has_an_empty_page() -> None:
    """Also behind the last one."""
    assert ([], (([], 0, False, 0))) == page(loop_of(0))
    assert ([], (([], 3, False, 0))) == page(loop_of(3), after=2)


def test_a_row_says_everything() -> None:
    """Numbers and names, the time of its begin by the worker's clock, None for what it has not."""
    loop = loop_of(0)
    s = MadeSession(loop, 9, is_udp=True, start_ms=20_000, label="dns", text="127.0.0.1:5353",
                    shown=Shown(RELAYING, 49_000, "group", "10.0.0.1:53", (7, 8)))
    loop.sessions = {s}
    _, found = page(loop)
    assert table.Row(
        9, 1_700_000_000_000 - 30_000, 30_000, 1_000, 1, 2, 4, 3, 7, 8, True, "192.0.2.1:1009",
        "127.0.0.1:5353", "dns", "group", "10.0.0.1:53", "relaying",
    ) == table.read_row(found.rows[0])
    s.content = None
    row = table.read_row(page(loop)[1].rows[0])
    assert (None, None, -1, -1, "beginning") == (
        row.upstream, row.peer, row.datagrams_received, row.datagrams_sent, row.state
    )


def test_a_page_is_full_when_its_names_are_long() -> None:
    """It has fewer sessions then, and leads on to the others."""
    loop = loop_of(900)
    name = "x" * 1500
    for s in loop.sessions:
        s.content.told = Shown(RELAYING, None, name)
    numbers, found = page(loop, limit=1000)
    assert 100 < len(numbers) < 900
    assert (numbers[-1], True, 900) == (found.upto, found.has_more, found.matched)
    rest, found = page(loop, limit=1000, after=found.upto)
    assert list(range(900)) == numbers + rest
    assert not found.has_more


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a clock that goes on by half a step whenever it is read."""
    now = iter(range(0, 1 << 60, table.STEP_NS // 2 + 1))
    monkeypatch.setattr(table, "monotonic_ns", lambda: next(now))


@pytest.mark.usefixtures("slow")
def test_a_question_is_answered_in_steps() -> None:
    """Sessions are served in between; a step looks at a few of them once its time is over."""
    loop = loop_of(1000)
    steps = table.answer_list(loop, STREAM, filters.pack(Chosen(limit=1)))
    assert 10 < sum(1 for _ in steps)


@pytest.mark.usefixtures("slow")
def test_who_ends_meanwhile_is_left_out() -> None:
    """Whether it was looked at or not; the page says how far it has looked all the same."""
    loop = loop_of(200)
    steps = table.answer_list(loop, STREAM, filters.pack(Chosen(limit=50)))
    next(steps)
    for s in loop.sessions:
        if s.c.number < 100:
            s.status = 200
    found = table.read_page(finish(steps))
    numbers = [table.read_row(row).number for row in found.rows]
    assert all(number >= 100 for number in numbers)
    assert found.has_more


@pytest.mark.usefixtures("slow")
def test_sessions_end_in_portions() -> None:
    """All that fit, by the operator's order; a step is over after a few of them."""
    loop = loop_of(100)
    steps = table.answer_end(loop, STREAM, filters.pack(Chosen(besides=7)))
    next(steps)
    ended = [s for s in loop.sessions if s.status]
    assert 0 < len(ended) < 10
    assert 99 == table.read_ended(finish(steps))
    assert {7} == {s.c.number for s in loop.sessions if not s.status}
    assert {endings.API} == {s.ending for s in loop.sessions if s.status}


def test_one_session_ends_in_its_own_worker_alone() -> None:
    """Numbers may be another master's: the process is part of the name."""
    loop = loop_of(3)
    payload = filters.pack(Chosen(pid=78, number=1))
    assert 0 == table.read_ended(finish(table.answer_end(loop, STREAM, payload)))
    payload = filters.pack(Chosen(pid=77, number=1))
    assert 1 == table.read_ended(finish(table.answer_end(loop, STREAM, payload)))
    assert [1] == [s.c.number for s in loop.sessions if s.status]


@given(st.binary(max_size=300))
def test_an_answer_is_one_or_refused(data: bytes) -> None:
    """Another worker may say anything."""
    for read in (table.read_page, table.read_row, table.read_ended):
        try:
            read(data)
        except CodecError:
            pass


def test_a_row_that_can_be_none_is_refused() -> None:
    """A state nobody knows, or less than nothing."""
    loop = loop_of(1)
    (s,) = loop.sessions
    s.content.told = Shown("dancing")
    with pytest.raises(CodecError, match="can be none"):
        page(loop)
    s.content.told = Shown(RELAYING)
    s.content.counts = lambda: (-1, 0, 0, 0)
    with pytest.raises(CodecError, match="can be none"):
        page(loop)
