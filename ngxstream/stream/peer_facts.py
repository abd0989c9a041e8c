"""Facts of peers: what each server of a group has got and given, and how its sessions went.

Counted where an `api` shows it: there the proxy has other classes of sessions
(modules/proxy/counted.py).

1. A peer in a zone is counted under its row of the zone, any other under its group, server line and
   address. So it counts on over a reload that has it too.
2. Sessions count in plain numbers of this process, which are added to the cells up to EVERY_MS
   later: a cell costs three times as much as a slot (60 and 20 ns, 2026-11), and the times of many
   sessions are put into a histogram together. A worker that is killed takes with it what it counted
   since then.
3. What one session has to tell is noted once, in the Book of its server and its peer, and is added
   to the facts of both.
4. Averages are those that least_time chooses by. They are of the peer's state, as is the time when
   it was chosen last: shared where the state is, else each worker has its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from operator import add
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.core.facts import SERVER, Block, Fact, Facts
from ngxstream.event import tls_failures
from ngxstream.stream import endings, tls_facts, upstream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ngxstream.core.shm_facts import Rows
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.endings import Reason
    from ngxstream.stream.peer_state import PeerState
    from ngxstream.stream.upstream import Peer, UpstreamConf

PEER: Final = "server of a group"
GROUP: Final = "group"
EVERY_MS: Final = 100
PORTION: Final = 64  # books of which the numbers are added in a turn: some 0.3 ms
MOST_ROWS: Final = 1 << 14  # of a zone: servers that are counted

CONNECT_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)  # ms
FIRST_BYTE_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)
SESSION_BOUNDS: Final = (  # up to a day
    10, 100, 1000, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 3_600_000, 21_600_000,
    86_400_000,
)
DATAGRAM_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 1000, 10_000, 100_000, 1_000_000)
WORDS: Final = tuple(reason.word for reason in endings.ALL)

CONNECTIONS: Final = Fact("peer_connections", PEER, "Sessions for which the server was chosen.")
SENT: Final = Fact("peer_sent", PEER, "Bytes to the server; those of a live session are counted "
                   "once a second.")
RECEIVED: Final = Fact("peer_received", PEER, "Bytes from the server, counted in the same way.")
FAILS: Final = Fact("peer_fails", PEER, "Attempts that failed.")
UNAVAIL: Final = Fact("peer_unavail", PEER, "How often `max_fails` was reached.")
ACTIVE: Final = Fact("peer_active", PEER, "Live sessions of a server whose group has no zone.",
                     is_gauge=True)
ENDS: Final = Fact("peer_ends", PEER, "Sessions by the reason for their end.",
                         words=WORDS)
CONNECT: Final = Fact("peer_connect_ms", PEER, "Milliseconds to connect by TCP, including "
                      "the TLS handshake.", bounds=CONNECT_BOUNDS)
FIRST_BYTE: Final = Fact("peer_first_byte_ms", PEER, "Milliseconds until the first byte from the "
                         "server.",
                         bounds=FIRST_BYTE_BOUNDS)
SESSION: Final = Fact("peer_session_ms", PEER, "Milliseconds that a session with a server lasted.",
                      bounds=SESSION_BOUNDS)

SERVER_ENDS: Final = Fact("server_ends", SERVER, "Sessions by the reason for their end.",
                         words=WORDS)
SERVER_CONNECT: Final = Fact("server_connect_ms", SERVER, CONNECT.doc, bounds=CONNECT_BOUNDS)
SERVER_FIRST_BYTE: Final = Fact("server_first_byte_ms", SERVER, FIRST_BYTE.doc,
                                bounds=FIRST_BYTE_BOUNDS)
SERVER_SESSION: Final = Fact("server_session_ms", SERVER, SESSION.doc, bounds=SESSION_BOUNDS)
SERVER_DATAGRAMS: Final = Fact("server_datagrams", SERVER, "Datagrams of a UDP session, of both "
                               "sides.", bounds=DATAGRAM_BOUNDS)

TLS_NAMES: Final = tuple(
    name for name in tls_facts.NAMES
    if name not in (tls_failures.NO_COMMON_CIPHER, tls_failures.NO_CERT)  # clients' alone
)
TLS: Final = tls_facts.facts_of("peer_ssl", PEER, ", with a server of a group",
                                (tls_failures.NO_COMMON_CIPHER, tls_failures.NO_CERT))

COUNTS: Final = (CONNECTIONS, SENT, RECEIVED, FAILS, UNAVAIL)
TIMES: Final = (CONNECT, FIRST_BYTE, SESSION)
GROUP_TIMES: Final = tuple(
    fact._replace(name=fact.name.replace("peer", "group"), scope=GROUP) for fact in TIMES
)
SERVER_TIMES: Final = (SERVER_CONNECT, SERVER_FIRST_BYTE, SERVER_SESSION, SERVER_DATAGRAMS)
FACTS: Final = (*COUNTS, ACTIVE, ENDS, *TIMES, *TLS, *GROUP_TIMES, SERVER_ENDS, *SERVER_TIMES)

_FIRST_BYTE_AT: Final = CONNECT.width
_SESSION_AT: Final = CONNECT.width + FIRST_BYTE.width
_DATAGRAMS_AT: Final = _SESSION_AT + SESSION.width


# places in a tuple of blocks
COUNTS_BLOCK: Final = 0
ENDS_BLOCK: Final = 1
TIMES_BLOCK: Final = 2
TLS_BLOCK: Final = 3
WIDTHS: Final = tuple(sum(fact.width for fact in kind) for kind in (COUNTS, (ENDS,), TIMES, TLS))


class Places(NamedTuple):
    """Where a peer is counted: the first cell of its row in each block, 0 for nowhere."""

    counts: int = 0
    ends: int = 0
    times: int = 0
    tls: int = 0
    active: int = 0


NOWHERE: Final = Places()


class GroupFacts:
    """The blocks of one group: `conf.facts`."""

    __slots__ = (
        "active",  # list[Block]: without a zone, of each peer
        "blocks",  # list of tuples of Block: of the zone, or of each peer
        "has_tls",  # bool: whether sessions go to its servers by TLS
        "own",  # dict[Peer, int]: places in the lists, without a zone
        "times",  # Block: of all peers together, those that were removed too
        "_all_tls",
    )

    def __init__(self, facts: Facts, name: str, peers: Sequence[Peer], zone: str = "",
                 capacity: int = 0) -> None:
        """Have them counted. Args: name: of the group; zone, capacity: its zone, and the rows of
        that, if it has one; peers: what is counted without one
        """
        label = f"zone {zone}" if capacity else f"upstream {name}"
        self.times = facts.block(GROUP_TIMES, name, 1)
        self.own: dict[Peer, int] = {}
        self.has_tls = False
        self._all_tls = tls_facts.of_all(facts)
        self.blocks: list[tuple[Block, Block, Block, Block]] = []
        self.active: list[Block] = []
        if capacity:
            self.blocks = [_blocks(facts, [label], min(capacity, MOST_ROWS))[0]]
            return
        seen: Counter[str] = Counter()
        labels = []
        for n, peer in enumerate(peers):
            look = f"{label}\0{peer.server}\0{peer.name}"
            labels.append(f"{look}\0{seen[look]}")
            seen[look] += 1
            self.own[peer] = n
        self.blocks = _blocks(facts, labels, 1)
        self.active = [facts.block((ACTIVE,), one, 1) for one in labels]

    def places(self, peer: Peer) -> Places:
        """Return where a peer is counted."""
        row: int = getattr(peer.state, "row", -1)
        if row >= 0 and self.blocks and not self.active:
            counts, ends, times, tls = self.blocks[0]
            return Places(counts.row(row), ends.row(row), times.row(row), tls.row(row))
        n = self.own.get(peer)
        if n is None:
            return NOWHERE
        counts, ends, times, tls = self.blocks[n]
        return Places(counts.row(0), ends.row(0), times.row(0), tls.row(0), self.active[n].row(0))

    def count_tls(self, peer: Peer, row: memoryview[int], *names: str) -> None:
        """Count what became of a handshake. Args: row: Loop.cells; names: "" counts nothing"""
        at = self.places(peer).tls
        for name in names:
            if name:
                row[at + TLS_NAMES.index(name)] += 1
                row[self._all_tls[name].at] += 1

    def starts_of_active(self, peers: Sequence[Peer]) -> list[int]:
        """Return where the live sessions of some peers of a group without a zone are counted."""
        own, active = self.own, self.active
        places = [own.get(peer, -1) for peer in peers]
        return [active[n].at if n >= 0 else 0 for n in places]

    def starts(self, which: int, peers: Sequence[Peer]) -> list[int]:
        """Return where some peers are counted in blocks of a kind. Args: which: COUNTS_BLOCK, …"""
        if self.active:
            own, blocks = self.own, self.blocks
            places = [own.get(peer, -1) for peer in peers]
            return [blocks[n][which].at if n >= 0 else 0 for n in places]
        block = self.blocks[0][which]
        at, width, count = block.at, block.width, block.count if block.at else 0
        states: list[Any] = [peer.state for peer in peers]
        return [at + state.row * width if state.row < count else 0 for state in states]

    def reset(self, row: int) -> None:
        """Have what is counted of a row of the zone begin at 0. Raises: one of shm.DAMAGE"""
        for block in self.blocks[0] if not self.active else ():
            block.reset(row)

    @property
    def rows(self) -> Rows | None:
        """Where it is counted; None for nowhere."""
        return self.blocks[0][0].rows if self.blocks else None


def _blocks(
    facts: Facts, labels: Sequence[str], count: int
) -> list[tuple[Block, Block, Block, Block]]:
    """Return the blocks of each label; those of one kind lie together, and are read together."""
    kinds = [[facts.block(kind, label, count) for label in labels]
             for kind in (COUNTS, (ENDS,), TIMES, TLS)]
    return list(zip(*kinds, strict=True))


class ServerFacts:
    """The blocks of the servers of one label: `server.facts`."""

    __slots__ = ("ends", "label", "times")

    def __init__(self, facts: Facts, label: str) -> None:
        self.label = label
        self.ends = facts.block((SERVER_ENDS,), label, 1)
        self.times = facts.block(SERVER_TIMES, label, 1)


# Numbers of a session that is done: time of the first byte and of all, bytes to the peer and from
# it; TCP: time of the connect, and when it began; UDP: datagrams from the client and to it, bytes
# likewise.
OF_TCP: Final = 6
OF_UDP: Final = 8


class Book:
    """What the sessions of one server did at one peer, and is not in the cells yet.

    Of most sessions nothing is known here before they end well: they are in `done`, which is all
    that is counted of them. All numbers but those are of the others.
    """

    __slots__ = (
        "begun",  # int: sessions that it was chosen for
        "connect_ms",  # list[int]
        "cut",  # int: given back without a time
        "datagrams",  # list[int]: of UDP sessions
        "done",  # list[int]: of each session OF_TCP or OF_UDP numbers, one behind another
        "ends",  # dict[int, int]: those that did not end as usual, by the number of why
        "ends_of_peer",  # dict[int, int]: likewise, that the server counts elsewhere
        "failed",
        "first_byte_ms",  # list[int]
        "is_udp",
        "is_waiting",  # bool: for flush()
        "learns",  # bool: whether the balancer keeps the averages
        "moved",  # int: sessions that came from other workers, less those that went there
        "odd",  # int: of all that have a time, those that are in `ends_of_peer`, less those of
        # `ends` that have none
        "received",
        "selected_ms",  # int: loop ms, 0 for not since the last flush
        "sent",
        "server",  # ServerConf
        "session_ms",  # list[int]
        "state",  # PeerState
        "unavail",
        "usual",  # int: number of the reason for which most sessions end
        "_at",
        "_group_at",
    )

    def __init__(self, at: Places, group_at: int, server: ServerConf, state: PeerState,
                 learns: bool, is_udp: bool) -> None:
        """Args: group_at: the first cell of its group's times"""
        self._at = at
        self._group_at = group_at
        self.server = server
        self.state = state
        self.usual = (endings.RESPONSES_COMPLETE if is_udp else endings.CLOSED).reason.number
        self.learns = learns
        self.is_udp = is_udp
        self.is_waiting = False
        self.begun = self.cut = self.failed = self.moved = self.odd = self.unavail = 0
        self.sent = self.received = self.selected_ms = 0
        self.done: list[int] = []
        self.connect_ms: list[int] = []
        self.first_byte_ms: list[int] = []
        self.session_ms: list[int] = []
        self.datagrams: list[int] = []
        self.ends: dict[int, int] = {}
        self.ends_of_peer: dict[int, int] = {}

    def tell(self, reason: Reason) -> None:
        """Count an end that may not be the usual one, of a session that has a time."""
        self.ends[reason.number] = self.ends.get(reason.number, 0) + 1

    def tell_peer(self, reason: Reason) -> None:
        """Count an end for the peer alone: the server counts it by its status."""
        self.ends_of_peer[reason.number] = self.ends_of_peer.get(reason.number, 0) + 1

    def flush(self, loop: Loop) -> None:
        """Add everything to the cells."""
        self.is_waiting = False
        cells, at, server = loop.cells, self._at, self.server.facts
        done, self.done = self.done, []
        of_one = OF_UDP if self.is_udp else OF_TCP
        quick = len(done) // of_one
        sent, received = self.sent, self.received
        if quick:
            self.first_byte_ms += done[::of_one]
            self.session_ms += done[1::of_one]
            sent += sum(done[2::of_one])
            received += sum(done[3::of_one])
            self._add_rest(done, quick, loop)
        timed = len(self.session_ms)
        begun = self.begun + quick
        active = begun + self.moved - self.cut - timed
        counts = (begun, sent, received, self.failed, self.unavail)
        for n, count in enumerate(counts, at.counts):
            if count:
                cells[n] += count
        if active and at.active:
            cells[at.active] += active
        ends = self.ends
        usual = timed - self.odd - (sum(ends.values()) if ends else 0)
        if usual > 0:
            ends[self.usual] = ends.get(self.usual, 0) + usual
        self.begun = self.moved = self.cut = self.sent = self.received = 0
        self.failed = self.unavail = self.odd = 0
        if ends:
            ends_at = server.ends.at if server is not None else 0
            for number, count in ends.items():
                cells[at.ends + number] += count
                cells[ends_at + number] += count
            ends.clear()
        for number, count in self.ends_of_peer.items():
            cells[at.ends + number] += count
        self.ends_of_peer.clear()
        self._flush_times(cells, at.times, server.times.at if server is not None else 0)
        if self.selected_ms:
            self.state.selected_ms = self.selected_ms
            self.selected_ms = 0

    def _add_rest(self, done: list[int], count: int, loop: Loop) -> None:
        """Add those numbers of sessions that are done that are not of both kinds."""
        if not self.is_udp:
            self.connect_ms += done[4::OF_TCP]
            self.selected_ms = done[-1]
            return
        self.datagrams += map(add, done[4::OF_UDP], done[5::OF_UDP])
        self.selected_ms = loop.now_ms
        watched = self.server.watched
        if watched is not None:
            watched.begun += count
            watched.add_done(count, sum(done[6::OF_UDP]), sum(done[7::OF_UDP]))
            watched.wait(loop)

    def _flush_times(self, cells: memoryview[int], peer_at: int, server_at: int) -> None:
        state, learns = self.state, self.learns
        all_at = (peer_at, server_at, self._group_at)
        if self.connect_ms:
            values, self.connect_ms = self.connect_ms, []
            _add(cells, all_at, CONNECT_BOUNDS, values)
            if not learns:
                state.connect_ms = averaged(state.connect_ms, values)
        first_ms, session_ms = self.first_byte_ms, self.session_ms
        if first_ms and min(first_ms) < 0:  # nothing came
            first_ms = [ms for ms in first_ms if ms >= 0]
        self.first_byte_ms = []
        if first_ms:
            _add(cells, [at + _FIRST_BYTE_AT for at in all_at], FIRST_BYTE_BOUNDS, first_ms)
            if not learns:
                state.first_byte_ms = averaged(state.first_byte_ms, first_ms)
        if session_ms:
            self.session_ms = []
            _add(cells, [at + _SESSION_AT for at in all_at], SESSION_BOUNDS, session_ms)
            if not learns:
                state.response_ms = averaged(state.response_ms, session_ms)
        if self.datagrams:
            datagrams, self.datagrams = self.datagrams, []
            _add(cells, (server_at + _DATAGRAMS_AT,), DATAGRAM_BOUNDS, datagrams)


def _add(cells: memoryview[int], places: Sequence[int], bounds: tuple[int, ...],
         values: list[int]) -> None:
    """Put many numbers into histograms."""
    total = sum(values)
    for value, count in Counter(values).items():
        n = bisect_left(bounds, value)
        for at in places:
            cells[at + n] += count
    if total:
        for at in places:
            cells[at + len(bounds) + 1] += total


def averaged(old: int, values: list[int]) -> int:
    """Move an average towards values: as least_time's average() does by each of them in turn.

    The mean of the values stands for each: in what order they came makes little difference. It is
    not below 1, for 0 says that there is none.
    """
    mean = sum(values) / len(values)
    left: float = 0.95 ** len(values) if old else 0.0
    return max(int(0.5 + mean * (1 - left) + old * left), 1)


class Books:
    """The books of one worker: `loop.get(Books)`."""

    __slots__ = ("_books", "_loop", "_waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._books: dict[Any, Book] = {}
        self._waiting: list[Book] = []

    def find(self, server: ServerConf, conf: UpstreamConf, peer: Peer, learns: bool,
             is_udp: bool) -> Book:
        """Return the book of a server and a peer, and keep it with the peer.

        Args: learns: the balancer keeps the peer's averages
        """
        at = conf.facts.places(peer) if conf.facts is not None else NOWHERE
        key = server, at, is_udp
        book = self._books.get(key)
        if book is None:
            group_at = conf.facts.times.at if conf.facts is not None else 0
            book = self._books[key] = Book(
                at, group_at, server, peer.state, learns, is_udp
            )
        book.state = peer.state
        books: Any = peer.books
        if books is upstream.NO_BOOKS:
            books = peer.books = {}, {}
        books[is_udp][server] = book
        return book

    def wait(self, book: Book) -> None:
        """Have what is noted in a book added to the cells a little later."""
        book.is_waiting = True
        self._waiting.append(book)
        if len(self._waiting) == 1:
            self._loop.call_later(EVERY_MS, self._flush_some, cancelable=True)

    def _flush_some(self) -> None:
        waiting, loop = self._waiting, self._loop
        now, self._waiting = waiting[:PORTION], waiting[PORTION:]
        for book in now:
            book.flush(loop)
        if self._waiting:
            loop.post(self._flush_some)

    def flush(self) -> None:
        """Add everything to the cells, at once."""
        waiting, self._waiting = self._waiting, []
        for book in waiting:
            book.flush(self._loop)
