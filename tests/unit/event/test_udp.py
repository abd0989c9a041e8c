"""The UDP listener: order and boundaries of every client's datagrams, whatever the mix."""

import itertools
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.event import (
    datagram,
    eviction,
    turn_budget,
    udp,
    udp_answers,
    udp_clients,
    udp_held,
    udp_new,
)
from tests.support.engine import Listener, engine, run_until

UDP = socket.SOCK_DGRAM


class Keeper:
    """A session that keeps copies of what it is given."""

    fails = False

    def __init__(self, c, first: bytes) -> None:
        self.c = c
        self.got = [first]

    def take(self, views) -> None:
        if self.fails:
            raise ValueError("no good")
        self.got += [bytes(view) for view in views]

    def on_fault(self) -> None:
        self.c.table.forget(self.c)

    def take_burst(self, view, size) -> None:
        if self.fails:
            raise ValueError("no good")
        self.got += [bytes(part) for part in datagram.split(view, size)]


def listing(keepers):
    """Make a begin() that lists a Keeper for each new client."""

    def begin(c, loop, first, header) -> None:
        keeper = Keeper(c, first)
        keepers[c.key] = keeper
        c.table.enlist(c, keeper)

    return begin


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1200)), max_size=150),
       st.sampled_from(("127.0.0.1", "0.0.0.0")))
def test_every_client_s_datagrams_come_whole_and_in_order(plan, host) -> None:
    """Four clients mix their datagrams in any way; each session sees its own, as sent."""
    keepers: dict = {}
    with ExitStack() as stack, engine() as loop:
        listener = Listener(loop, listing(keepers), UDP, host)
        stack.callback(listener.sock.close)
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        clients = [stack.enter_context(socket.socket(socket.AF_INET, UDP)) for _ in range(4)]
        sent: list[list[bytes]] = [[] for _ in clients]
        for sock in clients:
            sock.connect(("127.0.0.1", listener.address[1]))
        for i, (who, size) in enumerate(plan):
            data = bytes([i % 256]) * size
            clients[who].send(data)
            sent[who].append(data)
        run_until(loop, lambda: sum(len(k.got) for k in keepers.values()) == len(plan))
        seen = {k.c.sockaddr: k.got for k in keepers.values()}
        assert [s for s in sent if s] == [
            seen[c.getsockname()] for c, s in zip(clients, sent, strict=True) if s
        ]


def test_gro_goes_on_for_a_coalescing_client_and_off_again() -> None:
    """Long runs of one size switch coalescing on; when they stop it goes off; nothing is lost."""
    keepers: dict = {}
    with ExitStack() as stack, engine() as loop:
        listener = Listener(loop, listing(keepers), UDP)
        stack.callback(listener.sock.close)
        client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        client.connect(listener.address)
        expected = 0

        def settle() -> None:
            run_until(loop, lambda: sum(len(k.got) for k in keepers.values()) == expected)

        for _ in range(40):
            client.sendmsg([bytes(20 * 100)], datagram.segment_control(100))
            expected += 20
            settle()
        if not datagram.set_gro(listener.sock, True):
            pytest.skip("this kernel has no UDP_GRO")
        assert listener.listener._gro.is_on
        for _ in range(700):
            client.send(b"x" * 100)
            expected += 1
            settle()
        assert not listener.listener._gro.is_on


def test_a_client_gets_its_answer_from_the_address_it_used() -> None:
    """On a wildcard socket the answer's source is the destination of the question."""
    with ExitStack() as stack, engine() as loop:
        listener = Listener(loop, lambda c, loop, first, header: c.send(first), UDP, "0.0.0.0")
        stack.callback(listener.sock.close)
        client = stack.enter_context(socket.socket(socket.AF_INET, UDP))
        client.setblocking(False)
        client.sendto(b"ping", ("127.0.0.77", listener.address[1]))
        answers: list = []

        def answered() -> bool:
            try:
                answers.append(client.recvfrom(100))
            except BlockingIOError:
                return False
            return True

        run_until(loop, answered)
        assert [(b"ping", ("127.0.0.77", listener.address[1]))] == answers


def test_without_a_slot_a_new_client_is_dropped_and_counted_and_said_once() -> None:
    """With worker_connections used up, strangers' datagrams are counted, with one alert."""
    keepers: dict = {}
    with ExitStack() as stack, engine(connections=1) as loop:
        listener = Listener(loop, listing(keepers), UDP)
        stack.callback(listener.sock.close)
        for _ in range(5):
            sock = stack.enter_context(socket.socket(socket.AF_INET, UDP))
            sock.sendto(b"x", listener.address)
        run_until(loop, lambda: listener.listener.lost.own == 4)
        assert 4 == loop.get(eviction.Eviction).refused.own
        alerts = [text for _, text in loop.log.lines if "worker_connections" in text]
        assert [
            "1 worker_connections are not enough while accepting new connection on "
            + listener.options.text
        ] == alerts


class Served:
    """A listener in a loop, known clients, and ways to make others."""

    def __init__(self, stack: ExitStack, loop, count: int, *, gro: bool = False) -> None:
        self.keepers: dict = {}
        self.stack, self.loop = stack, loop
        self.listening = Listener(loop, listing(self.keepers), UDP)
        stack.callback(self.listening.sock.close)
        self.listener = self.listening.listener
        self.listening.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        self.known = [self.client() for _ in range(count)]
        for sock in self.known:
            sock.send(b"first")
        self.turn_until_all_is_read()
        if gro:
            datagram.set_gro(self.listening.sock, True)
            self.listener.start()

    def client(self) -> socket.socket:
        """Make a client."""
        sock = self.stack.enter_context(socket.socket(socket.AF_INET, UDP))
        sock.connect(self.listening.address)
        return sock

    def turn_until_all_is_read(self) -> None:
        """Turn the loop as long as anything waits in the socket."""
        while select.select([self.listening.sock], [], [], 0)[0]:
            self.loop.turn(0)

    def got(self, sock: socket.socket) -> list[bytes]:
        """Return what a client's session got."""
        found = self.keepers.get(sock.getsockname())
        return [] if found is None else found.got

    def alerts(self) -> list[str]:
        """Return what was logged as our fault."""
        return [text for level, text in self.loop.log.lines if level == udp.ALERT]


@pytest.fixture(params=[False, True], ids=["plain", "gro"])
def served(request) -> Iterator[Served]:
    """Give a listener with three known clients, on a socket that coalesces or does not."""
    with ExitStack() as stack, engine() as loop:
        yield Served(stack, loop, 3, gro=request.param)


def test_a_session_that_fails_takes_nothing_from_the_others_of_its_drain(served: Served) -> None:
    """The second of three raises: its own session ends, with one alert; the others got theirs."""
    served.keepers[served.known[1].getsockname()].fails = True
    served.listener._limit = 64
    for n in range(4):
        for sock in served.known:
            sock.send(b"%d" % n)
    served.known[1].sendmsg([bytes(300)], datagram.segment_control(100))
    served.known[0].sendmsg([bytes(300)], datagram.segment_control(100))
    served.turn_until_all_is_read()
    wanted = [b"first", b"0", b"1", b"2", b"3"]
    assert wanted + [bytes(100)] * 3 == served.got(served.known[0])
    assert wanted == served.got(served.known[2])
    assert all("no good" in text for text in served.alerts())
    assert served.alerts()


def test_a_client_whose_beginning_fails_takes_nothing_from_the_others(served: Served) -> None:
    """Beginning one of three sessions raises: its slot is free again, the other two are there."""
    begin = served.listener.begin

    def fail_at_the_second(c, loop, first, header) -> None:
        if first == b"bad":
            raise ValueError("no good")
        begin(c, loop, first, header)

    served.listener.begin = fail_at_the_second
    new = [served.client() for _ in range(3)]
    free = served.loop.free_connections
    for sock, data in zip(new, (b"one", b"bad", b"three"), strict=True):
        sock.send(data)
    served.turn_until_all_is_read()
    assert [[b"one"], [], [b"three"]] == [served.got(sock) for sock in new]
    assert free - 2 == served.loop.free_connections
    assert 1 == len(served.alerts())


def test_a_new_session_that_fails_with_its_second_datagram_takes_nothing_from_the_others(
    served: Served,
) -> None:
    """Three are begun in one drain with two datagrams each; the second raises once it is there."""
    begin = served.listener.begin

    def begin_a_bad_one(c, loop, first, header) -> None:
        begin(c, loop, first, header)
        served.keepers[c.sockaddr].fails = first == b"bad"

    served.listener.begin = begin_a_bad_one
    served.listener._limit = 64
    new = [served.client() for _ in range(3)]
    for sock, data in zip(new, (b"one", b"bad", b"three"), strict=True):
        sock.send(data)
        sock.send(b"more")
    served.turn_until_all_is_read()
    while served.loop.posted:
        served.loop.turn(0)
    wanted = [[b"one", b"more"], [b"bad"], [b"three", b"more"]]
    assert wanted == [served.got(sock) for sock in new]
    assert new[1].getsockname() not in served.listener.table
    assert 1 == len(served.alerts())


def test_those_who_are_served_come_before_those_who_begin(served: Served) -> None:
    """In one drain the known client's datagram, which came last, is taken before any beginning."""
    order: list[str] = []
    keeper = served.keepers[served.known[0].getsockname()]
    take, begin = keeper.take, served.listener.begin
    keeper.take = lambda views: (order.append("known"), take(views))[1]
    served.listener.begin = lambda *given: (order.append("new"), begin(*given))[1]
    served.listener._limit = 64
    for sock in [served.client() for _ in range(5)]:
        sock.send(b"x")
    served.known[0].send(b"y")
    served.turn_until_all_is_read()
    assert ["known", *["new"] * 5] == order


def test_a_turn_begins_so_many_sessions_while_it_serves_others(served: Served) -> None:
    """Of sixty new clients in a drain with a known one, a turn begins NEW and the rest waits."""
    new = [served.client() for _ in range(60)]
    served.listener._limit = 64
    for sock in new:
        for n in range(1 + (sock is new[20])):
            sock.send(b"%d" % n)
    served.known[0].send(b"y")
    seen: list[int] = []
    while len(served.keepers) < 63:
        served.loop.turn(0)
        seen.append(len(served.keepers))
        if len(seen) == 2:  # one that waits sends once more: behind what waits
            new[59].send(b"1")
    assert [b"first", b"y"] == served.got(served.known[0])
    begun = [after - before for before, after in itertools.pairwise([3, *seen])]
    assert max(begun) <= 2 * udp_new.NEW  # those of the drain, and those that waited
    assert len(begun) > 2
    served.turn_until_all_is_read()
    served.loop.turn(0)
    several = {20, 59}
    assert [[b"0", b"1"] if i in several else [b"0"] for i in range(60)] == [
        served.got(sock) for sock in new
    ]
    assert [0, 0] == [served.listener.lost.own, served.listener.new.size]
    assert not served.loop.posted


def test_where_nobody_is_served_nobody_waits() -> None:
    """Sixty clients of one datagram each are begun in the drain that reads them."""
    with ExitStack() as stack, engine() as loop:
        served = Served(stack, loop, 0)
        served.listener._limit = 64
        for sock in [served.client() for _ in range(60)]:
            sock.send(b"x")
        loop.turn(0)
        assert 60 == len(served.keepers)
        assert not loop.posted


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("count", [0, 1])
def test_sessions_that_are_expensive_to_begin_begin_in_turns_of_their_own(
    count: int, each: int
) -> None:
    """Each of twelve uses up a turn: one begins in a turn, all of them do, none loses anything."""
    with ExitStack() as stack, engine() as loop:
        served = Served(stack, loop, count)
        begin = served.listener.begin

        def take_long(c, loop, first, header) -> None:
            loop.get(turn_budget.TurnBudget).has_share(c)
            loop.get(turn_budget.TurnBudget).charge(turn_budget.TURN_NS)
            begin(c, loop, first, header)

        served.listener.begin = take_long
        served.listener._limit = 64
        new = [served.client() for _ in range(12)]
        sent = [b"%d" % n for n in range(each)]
        for data in sent:
            for sock in new:
                sock.send(data)
        seen = [count]
        while len(served.keepers) < 12 + count:
            loop.turn(0)
            seen.append(len(served.keepers))
            assert len(seen) < 40
        # one in a drain, and one of those that waited
        assert max(after - before for before, after in itertools.pairwise(seen)) <= 2
        while loop.posted:
            loop.turn(0)
        assert [sent] * 12 == [served.got(sock) for sock in new]
        assert [0, 0] == [served.listener.lost.own, served.listener.new.size]


@pytest.mark.parametrize("size", [0, 100])
def test_what_comes_for_a_session_that_is_not_ready_is_kept_in_bounds(
    served: Served, size: int
) -> None:
    """Copies of it, of a burst too: what is in the loop's slots is another's in the next turn."""
    begun = []
    served.listener.begin = lambda c, *_: begun.append(c)
    sock = served.client()
    sock.send(b"first")
    served.turn_until_all_is_read()
    count = udp_clients.KEPT + 6
    sent = [b"%03d" % n * 40 for n in range(count)]
    if size:
        for at in range(0, count, 7):
            burst = b"".join(data[:size] for data in sent[at : at + 7])
            sock.sendmsg([burst], datagram.segment_control(size))
    else:
        for data in sent:
            sock.send(data)
    served.turn_until_all_is_read()
    served.loop.turn(0)
    wanted = [data[:size] if size else data for data in sent[: udp_clients.KEPT]]
    (c,) = begun
    assert wanted == served.listener.kept_for(c)
    assert 6 == served.listener.table[c.key].dropped
    served.loop.close_connection(c)


def test_what_a_session_kept_while_it_was_not_ready_waits_for_a_turn_too(served: Served) -> None:
    """Its datagrams begin a session each, and the first of them uses the turn up."""
    begun = []

    def take_long(c, loop, first, header) -> None:
        begun.append(first)
        loop.get(turn_budget.TurnBudget).has_share(c)
        loop.get(turn_budget.TurnBudget).charge(turn_budget.TURN_NS)
        c.placed = True
        loop.close_connection(c)

    served.listener.begin = take_long
    sock = served.client()
    sock.send(b"0")
    served.turn_until_all_is_read()
    while served.loop.posted:
        served.loop.turn(0)
    c = served.keepers[served.known[0].getsockname()].c
    served.listener.forget(c)
    served.listener.again(c, [memoryview(b"1"), memoryview(b"2"), memoryview(b"3")])
    assert [b"0", b"1"] == begun
    while served.loop.posted:
        served.loop.turn(0)
    assert [b"0", b"1", b"2", b"3"] == begun


def test_new_clients_that_are_too_many_are_dropped_counted_and_told_once(served: Served) -> None:
    """What waits is bounded in bytes: of a flood the rest is lost, of the known client nothing."""
    served.listener.new.limit = 40 * (udp_new.COST + 100)
    new = [served.client() for _ in range(200)]
    served.listener._limit = 64
    for n, sock in enumerate(new):
        sock.send(bytes(100))
        if n % 20 == 0:
            served.known[0].send(b"y")
    most = 0
    while served.loop.posted or select.select([served.listening.sock], [], [], 0)[0]:
        served.loop.turn(0)
        most = max(most, served.listener.new.size)
    assert [b"first", *[b"y"] * 10] == served.got(served.known[0])
    assert 0 < most <= served.listener.new.limit + udp_new.COST + 100
    assert served.listener.lost.own > 0
    assert 200 == served.listener.lost.own + len(served.keepers) - 3
    (told,) = [text for level, text in served.loop.log.lines if level == udp_new.WARN]
    assert "come faster than sessions can begin" in told
    assert 0 == served.listener.new.size


def test_what_waits_goes_first_when_the_session_comes_from_elsewhere(served: Served) -> None:
    """A client waits here while its session is handed over: the order of its datagrams is kept."""
    sock = served.client()
    served.listener.new.put(sock.getsockname(), [memoryview(b"1"), memoryview(b"2")])
    keeper = Keeper(served.keepers[served.known[0].getsockname()].c, b"0")
    served.listener.table[sock.getsockname()] = keeper
    sock.send(b"3")
    served.turn_until_all_is_read()
    assert [b"0", b"1", b"2", b"3"] == keeper.got
    del served.listener.table[sock.getsockname()]


def test_what_waits_to_begin_goes_along_when_the_listener_changes_hands(served: Served) -> None:
    """A listener that closes gives what it has not begun to whoever takes what is held."""
    new = [served.client() for _ in range(60)]
    served.listener._limit = 64
    for sock in new:
        sock.send(b"x")
    served.known[0].send(b"y")
    served.loop.turn(0)
    served.listener.close()
    assert served.listener.is_needed
    held = served.listener.take_held()
    assert len(held) == 63 - len(served.keepers) > 0
    for one in held:
        served.listener.deliver(*one)
    while served.loop.posted:
        served.loop.turn(0)
    assert [[b"x"]] * 60 == [served.got(sock) for sock in new]


def test_what_was_held_begins_by_and_by(served: Served) -> None:
    """A listener that held datagrams of a hundred new clients begins a few each turn, and all."""
    served.listener.close()
    served.listener.hold()
    new = [served.client() for _ in range(100)]
    for sock in new:
        sock.send(b"x")
    served.known[0].send(b"y")
    served.turn_until_all_is_read()
    served.listener.start()
    assert [b"first", b"y"] == served.got(served.known[0])
    assert len(served.keepers) <= 3 + udp_new.NEW
    while served.loop.posted:
        before = len(served.keepers)
        served.loop.turn(0)
        assert len(served.keepers) <= before + udp_new.NEW
    assert [[b"x"]] * 100 == [served.got(sock) for sock in new]


def test_what_is_held_is_bounded_in_bytes_and_the_rest_stays_in_the_kernel(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past BYTES the listener reads no more, and drops what others send it; it goes on later."""
    monkeypatch.setattr(udp_held, "BYTES", 2_500)
    served.listener.close()
    served.listener.hold()
    for n in range(8):
        served.known[0].send(b"%d" % n + bytes(499))
    for _ in range(20):
        served.loop.turn(0)
    assert not served.listener.open
    held = list(served.listener.held.datagrams)
    assert 5 == len(held)  # the one that passes the bound is kept
    key, peer, local, data = held[0]
    served.listener.keep(key, peer, local, data)
    assert (5, 1) == (len(served.listener.held.datagrams), served.listener.lost.own)
    served.listener.start()
    served.turn_until_all_is_read()
    assert [b"%d" % n for n in range(8)] == [data[:1] for data in served.got(served.known[0])[1:]]


def test_what_is_held_is_bounded_in_number(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past so many datagrams the listener reads no more, and drops what others send it."""
    monkeypatch.setattr(udp_held, "DATAGRAMS", 4)
    served.listener.close()
    served.listener.hold()
    for _ in range(8):
        served.known[0].send(b"x")
    for _ in range(20):
        served.loop.turn(0)
    assert (False, 4) == (served.listener.open, len(served.listener.held.datagrams))
    key, peer, local, data = served.listener.held.datagrams[0]
    served.listener.keep(key, peer, local, data)
    assert (4, 1) == (len(served.listener.held.datagrams), served.listener.lost.own)


def test_an_answer_that_fails_hinders_no_other_that_waits(served: Served) -> None:
    """Of three answers that wait for room one raises: it is told and forgotten, two are sent."""
    for sock in served.known:
        served.listener.answers.queue.append((served.keepers[sock.getsockname()].c, b"answer"))
    c, _ = served.listener.answers.queue[1]
    served.listener.answers.queue[1] = (c, None)  # a fault of ours
    served.listener.answers.on_room(0)
    for sock, expected in zip(served.known, (b"answer", None, b"answer"), strict=True):
        sock.setblocking(False)
        if expected:
            assert expected == sock.recv(100)
        else:
            with pytest.raises(BlockingIOError):
                sock.recv(100)
    assert 1 == len(served.alerts())
    assert not served.listener.answers.queue


def test_only_so_many_answers_wait_for_room(served: Served) -> None:
    """QUEUED answers wait for room in the socket; the next one is refused and counted."""
    c = served.keepers[served.known[0].getsockname()].c
    served.listener.answers.queue.append((c, b"0"))
    for n in range(1, udp_answers.QUEUED):
        assert 1 == served.listener.send_to(c, b"%d" % (n % 10))
    with pytest.raises(BlockingIOError):
        served.listener.send_to(c, b"x")
    assert (udp_answers.QUEUED, 1) == (len(served.listener.answers.queue), served.listener.lost.own)
    served.listener.answers.on_room(0)
    assert not served.listener.answers.queue


def test_a_session_that_gives_back_what_is_its_own_is_not_asked_for_ever(served: Served) -> None:
    """One that wants no more and keeps its place loses what it gives back; it is counted."""
    keeper = served.keepers[served.known[0].getsockname()]
    taken: list[bytes] = []
    keeper.take = lambda views: (taken.extend(map(bytes, views)), views)[1]
    served.known[0].send(b"mine")
    served.turn_until_all_is_read()
    assert 2 >= len(taken)
    assert {b"mine"} == set(taken)
    assert 1 == served.listener.lost.own
