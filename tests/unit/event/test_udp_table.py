"""The table of a UDP listener's clients against a model: whose session it is, what it got."""

import select
import socket
from contextlib import ExitStack
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ngxstream.event import datagram, udp, udp_clients
from tests.support.engine import Listener, engine

UDP = socket.SOCK_DGRAM
CLIENTS = 3
SLOTS = 100_000  # so many that nobody is dropped for want of one
BEGINNINGS = ("list", "list", "list", "wait", "wait", "single", "end")
runs = st.tuples(st.integers(0, CLIENTS - 1), st.sampled_from((1, 1, 1, 2, 40)))


class Real:
    """A session as the listener knows it."""

    def __init__(self, c: Any, first: bytes) -> None:
        self.c = c
        self.got = [first]

    def take(self, views: list[memoryview]) -> None:
        """Keep copies of what came."""
        self.got += [bytes(view) for view in views]

    def take_burst(self, view: memoryview, size: int) -> None:
        """Keep copies of what came in one piece."""
        self.got += [bytes(part) for part in datagram.split(view, size)]


class Model:
    """A session as it should be."""

    def __init__(self, client: int, first: bytes, beginning: str) -> None:
        self.client = client
        self.got = [first]
        self.kept: list[bytes] = []
        self.beginning = beginning
        self.waits = beginning == "wait"
        self.lives = beginning != "end"


class TableMachine(RuleBasedStateMachine):
    """Clients send in any order; sessions become ready, are renewed and end; it is held."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.loop = self.stack.enter_context(engine(connections=SLOTS))
        self.listening = Listener(self.loop, self._begin, UDP, self.host)
        self.stack.callback(self.listening.sock.close)
        self.listener: udp.UdpListener = self.listening.listener
        self.listener.pass_on_by(self._stray)
        self.listening.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        self.clients = [
            self.stack.enter_context(socket.socket(socket.AF_INET, UDP)) for _ in range(CLIENTS)
        ]
        for sock in self.clients:
            sock.connect(("127.0.0.1", self.listening.address[1]))
        self.names = {sock.getsockname(): i for i, sock in enumerate(self.clients)}
        self.beginning = "list"
        self.count = 0
        self.holding = False
        self.foreign: set[int] = set()
        # What happened, and what should have.
        self.real: list[Real] = []
        self.passed: list[bytes] = []
        self.model: list[Model] = []
        self.table: dict[int, Model] = {}
        self.held: list[tuple[int, bytes]] = []
        self.model_passed: list[bytes] = []

    def teardown(self) -> None:
        """Close everything."""
        self.stack.close()

    # What the listener calls.

    def _begin(self, c: Any, loop: Any, first: bytes, header: Any) -> None:
        real = Real(c, first)
        self.real.append(real)
        if self.beginning == "list":
            c.table.enlist(c, real)
        elif self.beginning == "single":
            c.placed = True
        elif self.beginning == "end":
            loop.close_connection(c)

    def _stray(
        self, listener: udp.UdpListener, key: Any, peer: Any, data: bytes | memoryview
    ) -> bool:
        if self.names[peer] not in self.foreign or key in listener.table:
            return False
        self.passed.append(bytes(data))
        return True

    # What should come of a datagram.

    def _arrives(self, client: int, data: bytes) -> None:
        session = self.table.get(client)
        if session is None and client in self.foreign:
            self.model_passed.append(data)
        elif self.holding:
            self.held.append((client, data))
        else:
            self._is_taken(client, data)

    def _is_taken(self, client: int, data: bytes) -> None:
        session = self.table.get(client)
        if session is not None:
            if not session.waits:
                session.got.append(data)
            elif len(session.kept) < udp_clients.KEPT:
                session.kept.append(data)
        elif client in self.foreign:
            self.model_passed.append(data)
        elif self.listener.accepts:
            session = Model(client, data, self.beginning)
            self.model.append(session)
            if self.beginning in ("list", "wait"):
                self.table[client] = session

    def _living(self) -> int:
        return sum(session.lives for session in self.model)

    def _settle(self) -> None:
        """Turn until all is read and every session has begun."""
        while self.loop.posted or select.select([self.listening.sock], [], [], 0)[0]:
            self.loop.turn(0)

    def _pairs(self) -> list[tuple[Real, Model]]:
        """Return every session with its model; among one client's sessions they are in order."""
        reals = sorted(self.real, key=lambda real: self.names[real.c.sockaddr])
        models = sorted(self.model, key=lambda model: model.client)
        return list(zip(reals, models, strict=True))

    def _pick(self, pick: Any, *, waits: bool | None = None) -> tuple[Real, Model] | None:
        found = [
            pair
            for pair in self._pairs()
            if pair[1].lives and waits in (None, pair[1].waits)
        ]
        return pick.choice(found) if found else None

    # What may happen.

    @initialize(beginning=st.sampled_from(BEGINNINGS))
    def begin_with(self, beginning: str) -> None:
        """New sessions are of some kind."""
        self.beginning = beginning

    @rule(beginning=st.sampled_from(BEGINNINGS))
    def sessions_begin_otherwise(self, beginning: str) -> None:
        """From now on new sessions list themselves, wait, want one datagram, or end at once."""
        self.beginning = beginning

    @rule(plan=st.lists(runs, min_size=1, max_size=8))
    def send(self, plan: list[tuple[int, int]]) -> None:
        """Some clients send, one or many datagrams at a time; all of it is read."""
        for client, length in plan:
            for _ in range(length):
                data = b"%d" % self.count
                self.count += 1
                self.clients[client].send(data)
                self._arrives(client, data)
        self._settle()

    @rule(pick=st.randoms(use_true_random=False))
    def becomes_ready(self, pick: Any) -> None:
        """A waiting session lists itself and gets what was kept for it, once."""
        found = self._pick(pick, waits=True)
        if found:
            real, session = found
            real.got += self.listener.kept_for(real.c)
            self.listener.enlist(real.c, real)
            session.got += session.kept
            session.kept = []
            session.waits = False

    @rule(pick=st.randoms(use_true_random=False))
    def is_renewed(self, pick: Any) -> None:
        """A session leaves its place to the client's next one and lives on."""
        found = self._pick(pick, waits=False)
        if found:
            real, session = found
            self.listener.forget(real.c)
            if self.table.get(session.client) is session:
                del self.table[session.client]

    @rule(pick=st.randoms(use_true_random=False))
    def ends(self, pick: Any) -> None:
        """A session ends: its slot is free, a newer one's place in the table is untouched."""
        found = self._pick(pick)
        if found:
            real, session = found
            self.loop.close_connection(real.c)
            session.lives = False
            if self.table.get(session.client) is session:
                del self.table[session.client]

    @rule(who=st.sets(st.integers(0, CLIENTS - 1), max_size=1))
    def others_clients(self, who: set[int]) -> None:
        """These clients are another worker's, unless they have a session here."""
        self.foreign = who

    @rule(on=st.sampled_from((True, True, True, False)))
    def strangers_are_welcome(self, on: bool) -> None:
        """New clients are accepted, or not any more."""
        self.listener.accepts = on

    @precondition(lambda self: not self.holding)
    @rule()
    def hold(self) -> None:
        """The listener reads, and keeps what it reads."""
        self.listener.close()
        self.listener.hold()
        self.holding = True

    @precondition(lambda self: self.holding)
    @rule()
    def start(self) -> None:
        """The listener takes what it kept, in order, and goes on."""
        self.listener.start()
        self.holding = False
        self._settle()
        held, self.held = self.held, []
        for client, data in held:
            self._is_taken(client, data)

    # What is always so.

    @invariant()
    def every_session_got_its_own(self) -> None:
        """A client's sessions began in order, each with its client's datagrams, in order."""
        pairs = self._pairs()
        assert [(model.client, model.got) for _, model in pairs] == [
            (self.names[real.c.sockaddr], real.got) for real, _ in pairs
        ]

    @invariant()
    def the_table_knows_who_is_served(self) -> None:
        """Whoever is in the table should be, with the right session behind the name."""
        listed = {
            self.names[udp_clients.peer_of(key)]: sink.c
            for key, sink in self.listener.table.items()
        }
        of = {id(session): real.c for real, session in self._pairs()}
        assert {client: of[id(session)] for client, session in self.table.items()} == listed

    @invariant()
    def nothing_else_happened(self) -> None:
        """Slots, losses and what was passed on are as they should be."""
        assert SLOTS - self._living() == self.loop.free_connections
        assert self.listener.lost.own == 0
        assert self.model_passed == self.passed
        assert [] == [text for level, text in self.loop.log.lines if "exception" in text]


class WildcardMachine(TableMachine):
    """The same on a wildcard socket, whose clients are known by both addresses."""

    host = "0.0.0.0"


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=150, stateful_step_count=40)
TestWildcardTable = WildcardMachine.TestCase
TestWildcardTable.settings = settings(max_examples=100, stateful_step_count=40)


def test_the_local_address_in_a_key_has_its_length_in_front_where_more_follows() -> None:
    """A key is (client, local address), or (client, header that begins with one)."""
    four, sixteen = bytes(range(1, 5)), bytes(range(16))
    for local in four, sixteen:
        assert local == udp_clients.local_of((("a", 1), local))
        assert local == udp_clients.local_of((("a", 1), bytes([len(local)]) + local + b"header"))


def test_no_more_than_some_datagrams_are_kept_for_a_session() -> None:
    """What waits for a connection is bounded."""
    assert 64 == udp_clients.KEPT
