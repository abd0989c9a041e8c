"""Facts of peers: books that sessions fill, and where their numbers go."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core.facts import Facts
from ngxstream.core.shm_facts import Rows
from ngxstream.modules.upstream.least_time import average
from ngxstream.stream import endings, peer_facts, tls_facts
from ngxstream.stream.peer_facts import Books, GroupFacts, ServerFacts
from ngxstream.stream.peer_state import PeerState
from ngxstream.stream.upstream import NO_BOOKS
from tests.support.engine import engine, run_until


class Peer:
    """A server of a group; with a row it is in a zone."""

    def __init__(self, name: str, row: int = -1) -> None:
        self.name = self.server = name
        shared = dict.fromkeys(("selected_ms", "connect_ms", "first_byte_ms", "response_ms"), 0)
        self.state: Any = PeerState() if row < 0 else SimpleNamespace(row=row, **shared)
        self.books: Any = NO_BOOKS


class Server:
    """A server; what is counted of it, if anything is."""

    def __init__(self, facts: ServerFacts | None = None) -> None:
        self.facts: Any = facts
        self.watched: Any = None


class Made:
    """Books of one worker, over groups and servers."""

    def __init__(self, loop: Any) -> None:
        self.facts = Facts((*peer_facts.FACTS, *tls_facts.OF_ALL))
        self.rows = Rows()
        self.loop = loop
        self.books: Books = loop.get(Books)

    def group(self, *peers: Peer, capacity: int = 0) -> GroupFacts:
        """Have peers counted."""
        group = GroupFacts(
            self.facts, "group", peers, "z" if capacity else "", capacity  # type: ignore[arg-type]
        )
        self.facts.attach(self.rows)
        self.loop.cells = self.rows.cells
        return group

    def book(self, group: GroupFacts, peer: Peer, server: Any = None, *, is_udp: bool = False,
             learns: bool = False) -> Any:
        """Return the book of a peer, waiting."""
        conf: Any = SimpleNamespace(facts=group)
        server = server or Server()
        book = self.books.find(server, conf, peer, learns, is_udp)  # type: ignore[arg-type]
        if not book.is_waiting:
            self.books.wait(book)
        return book


@pytest.fixture
def made() -> Iterator[Made]:
    """Return books."""
    with engine() as loop:
        yield Made(loop)


def counts(group: GroupFacts, peer: Any) -> list[int]:
    """Return connections, bytes and failures of a peer, and its live sessions."""
    places, rows = group.places(peer), group.rows
    assert rows is not None
    return [*rows.totals(places.counts, 5), *rows.totals(places.active, 1)]


def ends_of(cells: list[int]) -> dict[str, int]:
    """Return the reasons that there were."""
    return {word: n for word, n in zip(peer_facts.WORDS, cells, strict=True) if n}


def test_a_peer_without_a_zone_is_counted_by_its_name(made: Made) -> None:
    """Also after a reload that puts others before it; two that look alike are two."""
    one, other = Peer("a"), Peer("a")
    group = made.group(one, other)
    for n, peer in enumerate((one, other, other)):
        book = made.book(group, peer)
        book.begun += 1
        book.sent += 10**n
        book.received += 7
        book.failed += n
        book.unavail += 1
    made.books.flush()
    assert [1, 1, 7, 0, 1, 1] == counts(group, one)
    assert [2, 110, 14, 3, 2, 2] == counts(group, other)
    later, first, second = Peer("b"), Peer("a"), Peer("a")
    new = made.group(later, first, second)
    assert [0] * 6 == counts(new, later)
    assert [counts(group, one), counts(group, other)] == [counts(new, first), counts(new, second)]


def test_a_peer_of_a_zone_is_counted_by_its_row(made: Made) -> None:
    """Whoever stands for it; a row may begin at 0, and one beyond the zone is nowhere."""
    group = made.group(capacity=4)
    for peer in (Peer("a", 3), Peer("a", 3), Peer("b", 2), Peer("far", 4)):
        made.book(group, peer).begun += 5
    made.books.flush()
    assert [10, 5] == [counts(group, Peer("", row))[0] for row in (3, 2)]
    assert peer_facts.NOWHERE == group.places(Peer("", 4))  # type: ignore[arg-type]
    group.reset(3)
    assert [0, 5] == [counts(group, Peer("", row))[0] for row in (3, 2)]


def test_a_peer_of_no_group_is_counted_nowhere(made: Made) -> None:
    """Of a name that was resolved for one session; the server's own facts know of it."""
    group = made.group(Peer("a"))
    server: Any = Server(ServerFacts(made.facts, "zone"))
    made.facts.attach(made.rows)
    conf: Any = SimpleNamespace(facts=None)
    peer: Any = Peer("x")
    for of in (conf, SimpleNamespace(facts=group)):
        book: Any = made.books.find(server, of, peer, False, False)  # type: ignore[arg-type]
        made.books.wait(book)
        book.session_ms.append(3)
        made.books.flush()
    assert {"closed": 2} == ends_of(server.facts.ends.totals())
    assert 2 == len([n for n in server.facts.times.totals() if n])  # two within a bound, their sum


def test_sessions_of_a_server_are_counted_for_it_too(made: Made) -> None:
    """Times, datagrams and reasons, of all peers together; of the peer those that are its own."""
    one, other = Peer("a"), Peer("b")
    group = made.group(one, other)
    server: Any = Server(ServerFacts(made.facts, "zone"))
    made.facts.attach(made.rows)
    for peer in (one, other):
        book = made.book(group, peer, server, is_udp=True)
        for of_one in ((0, 0, 0, 0, 1, 1, 7, 8), (3, 3, 0, 0, 1, 1, 7, 8),
                       (-1, 70_000, 0, 0, 9, 0, 7, 8)):
            book.done += of_one
        book.datagrams += [5000]
        book.session_ms += [99_000_000]
        book.begun += 1
        book.tell(endings.IDLE.reason)
    book.session_ms.append(1)
    book.begun += 1
    book.tell_peer(endings.UPSTREAM_TIMEOUT.reason)
    book.odd += 1
    made.books.flush()
    rows = made.rows
    assert [4, 0, 0, 0, 0, 0] == counts(group, one)
    reasons = {"responses_complete": 3, "idle": 1}
    width = peer_facts.ENDS.width
    assert reasons == ends_of(rows.totals(group.places(one).ends, width))  # type: ignore[arg-type]
    ends = rows.totals(group.places(other).ends, width)  # type: ignore[arg-type]
    assert {**reasons, "upstream_timeout": 1} == ends_of(ends)
    assert {"responses_complete": 6, "idle": 2} == ends_of(server.facts.ends.totals())
    cells = server.facts.times.totals()
    shown = {}
    for fact in peer_facts.SERVER_TIMES:
        at = server.facts.times.place(fact)
        of = cells[at : at + fact.width]
        names = (*fact.bounds, -1, "sum")
        shown[fact] = {bound: n for bound, n in zip(names, of, strict=True) if n}
    assert {} == shown[peer_facts.SERVER_CONNECT]
    assert {1: 2, 5: 2, "sum": 6} == shown[peer_facts.SERVER_FIRST_BYTE]
    assert {10: 5, 300_000: 2, -1: 2, "sum": 198_140_007} == shown[peer_facts.SERVER_SESSION]
    assert {2: 4, 10: 2, 10_000: 2, "sum": 10_026} == shown[peer_facts.SERVER_DATAGRAMS]


def test_the_numbers_are_added_a_little_later(made: Made) -> None:
    """Of however many books; what is noted in between is added the next time."""
    peers = [Peer(str(n)) for n in range(peer_facts.PORTION + 3)]
    group = made.group(*peers)
    for n in range(2):
        for peer in peers:
            made.book(group, peer).begun += 1
        run_until(made.loop, lambda n=n: all(counts(group, peer)[0] == n + 1 for peer in peers))


def test_live_sessions_come_and_go(made: Made) -> None:
    """Whether they end here, fail, or go on in another worker."""
    peer = Peer("a")
    group = made.group(peer)
    book = made.book(group, peer)
    for begun, moved, cut, ended, active in ((3, 0, 0, 0, 3), (0, 2, 1, 1, 3), (0, -1, 0, 2, 0)):
        book = made.book(group, peer)
        book.begun, book.moved, book.cut = begun, moved, cut
        book.session_ms += [1] * ended
        made.books.flush()
        assert active == counts(group, peer)[5]


def test_the_time_of_the_last_choice_and_averages_are_the_state_s(made: Made) -> None:
    """Unless the balancer keeps the averages itself."""
    for learns in (False, True):
        peer = Peer("a")
        group = made.group(peer)
        book = made.book(group, peer, learns=learns)
        book.selected_ms = 77
        book.connect_ms += [10, 20]
        book.first_byte_ms += [30]
        book.session_ms += [0, 0]
        made.books.flush()
        state = peer.state
        assert 77 == state.selected_ms
        expected = (0, 0, 0) if learns else (15, 30, 1)
        assert expected == (state.connect_ms, state.first_byte_ms, state.response_ms)


@given(st.integers(0, 5000), st.lists(st.integers(1, 60_000), min_size=1, max_size=20))
def test_an_average_moves_as_least_time_s(old: int, values: list[int]) -> None:
    """To where equal values would have moved it one by one; first ones are taken as they are."""
    mean = round(sum(values) / len(values))
    expected = old
    for _ in values:
        expected = average(expected, mean)
    assert abs(expected - peer_facts.averaged(old, values)) <= 1 + len(values) // 2
