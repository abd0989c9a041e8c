"""Facts of the core: datagrams that listeners drop, and clients of the servers that are watched.

Servers are watched where something reads it. An address of such a server begins its sessions by
another function and has one more handler in its log phase; elsewhere nothing is done.

1. connections = processing + discarded + sessions of all classes, but for the sessions that were
   lost with a worker.
2. A session ends at one server. If another one was selected by name it is a connection of that
   server from then on, and discarded where it began; so is one that `pass` has given away.
3. A UDP session that goes on in another worker is processed there and counted once.
4. Sessions count in plain numbers of this process, which are added to the cells up to EVERY_MS
   later: a cell costs three times as much (60 and 20 ns, 2026-11). A worker that is killed takes
   with it what it counted since then.
5. Bytes are counted when a session ends, when it goes on elsewhere, and once a second meanwhile
   (stream/live_counts.py). What the cells have of a session is in its `counted`.
6. UDP sessions are often over at once. Where an `api` shows them they are counted when they end, or
   when their bytes are counted for the first time.
7. Where an `api` shows it, why a session ended is counted too: here, or by its content, for which
   the usual end is cheaper to count (modules/proxy/counted.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.codes import OK, STREAM_OK
from ngxstream.core.facts import LISTENER, SERVER, WORKERS, Cell, Fact, Facts, totals_of
from ngxstream.stream import endings
from ngxstream.stream.content import Kept

if TYPE_CHECKING:
    from ngxstream.event.listen_options import ListenOptions
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import ServerConf, StreamConf
    from ngxstream.stream.session import Session

DROPPED: Final = Fact("datagrams_dropped", LISTENER,
                      "Datagrams from clients or to clients that were dropped.")
EVICTED: Final = Fact("sessions_evicted", WORKERS, "Idle UDP sessions that ended for new clients.")
CONNECTIONS: Final = Fact("server_connections", SERVER, "Clients that connected, or sent a "
                          "first datagram.")
PROCESSING: Final = Fact("server_processing", SERVER, "Clients that are being served.",
                         is_gauge=True)
DISCARDED: Final = Fact("server_discarded", SERVER, "Clients that were passed on to another "
                        "server, by name or by `pass`.")
SESSIONS: Final = {
    number: Fact(f"server_sessions_{number}xx", SERVER,
                 f"Sessions that ended with a status of {number}00 to {number}99.")
    for number in (2, 4, 5)
}
FINE: Final = 2  # the class of most sessions
RECEIVED: Final = Fact("server_received", SERVER, "Bytes from clients; those of a live "
                       "session are counted once a second.")
SENT: Final = Fact("server_sent", SERVER, "Bytes to clients, counted in the same way.")
ACCEPTED: Final = Fact("connections_accepted", WORKERS, "Clients that connected to servers "
                       "that are counted.")
REFUSED: Final = Fact("connections_dropped", WORKERS, "UDP clients that were not served because "
                      "`worker_connections` or descriptors were used up.")
FACTS: Final = (DROPPED, EVICTED, ACCEPTED, REFUSED, CONNECTIONS, PROCESSING, DISCARDED,
                *SESSIONS.values(), RECEIVED, SENT)
EVERY_MS: Final = 100
WATCHED: Final = "watched"  # what of it moves with a session


def label_of(options: ListenOptions) -> str:
    """Return the label of a listening address."""
    return f"udp {options.text}" if options.is_udp else options.text


def default_name(server: ServerConf) -> str:
    """Return the name of a server that has no `status_zone`: its first address, and its name."""
    address = label_of(server.listens[0].options)
    return f"{address} {server.server_name}" if server.server_name else address


def name_of(server: ServerConf) -> str:
    """Return the name that a server is shown by: its zone's, or its default name."""
    watched = server.watched
    return watched.label if watched is not None and watched.label else default_name(server)


class Watched:
    """What one or more servers count.

    The numbers are of this process, and not in the cells yet while `is_waiting`.
    """

    __slots__ = (
        "accepted",  # Cell, as the following ones; of all servers
        "connections",
        "discarded",
        "processing",
        "received",
        "sent",
        "sessions",  # dict of such, by the first digit of the status
        "label",  # "" for servers that are not watched, at an address with others that are
        "is_waiting",
        "begun",  # int: sessions that began here
        "done",  # list[int]: of those that ended as most do, bytes received and sent, by turns
        "ended",  # int: of others that ended, of whatever status
        "bytes_received",  # int: of others
        "bytes_sent",
        "is_odd",  # bool: one of the following is not 0
        "failed",  # dict[int, int]: of those that ended, by the first digit, if that is not 2
        "taken",  # int: sessions that began at another server
        "given",  # int: that go on at another one
        "passed",  # int: of those, how many as another session of the same connection
        "moved",  # int: that came from other workers, less those that went there
    )

    def __init__(self, cell: Callable[[Fact], Cell], label: str) -> None:
        self.accepted = cell(ACCEPTED)
        self.connections = cell(CONNECTIONS)
        self.discarded = cell(DISCARDED)
        self.processing = cell(PROCESSING)
        self.received = cell(RECEIVED)
        self.sent = cell(SENT)
        self.sessions = {number: cell(fact) for number, fact in SESSIONS.items()}
        self.label = label
        self.is_waiting = self.is_odd = False
        self.begun = self.ended = self.bytes_received = self.bytes_sent = 0
        self.taken = self.given = self.passed = self.moved = 0
        self.failed: dict[int, int] = {}
        self.done: list[int] = []

    def wait(self, loop: Loop, *, is_odd: bool = False) -> None:
        """Have what was counted added to the cells a little later."""
        self.is_odd |= is_odd
        if not self.is_waiting:
            self.is_waiting = True
            flush = functools.partial(self.flush, loop)
            loop.call_later(EVERY_MS, flush, cancelable=True)

    def fail(self, status: int, count: int = 1) -> None:
        """Count sessions that end by another status than 200; wait(is_odd=True) is to follow."""
        self.ended += count
        number = status // 100
        if number in SESSIONS and number != FINE:
            self.failed[number] = self.failed.get(number, 0) + count

    def add_done(self, count: int, received: int, sent: int) -> None:
        """Count sessions that ended as most do; wait() is to follow."""
        self.ended += count
        self.bytes_received += received
        self.bytes_sent += sent

    def flush(self, loop: Loop) -> None:
        """Add what was counted to the cells."""
        if not self.is_waiting:
            return
        self.is_waiting = False
        row = loop.cells
        done = self.done
        if done:
            self.add_done(len(done) // 2, sum(done[::2]), sum(done[1::2]))
            done.clear()
        begun, ended = self.begun, self.ended
        if begun:
            self.begun = 0
            row[self.accepted.at] += begun
            row[self.connections.at] += begun
        if ended:
            self.ended = 0
            row[self.sessions[FINE].at] += ended - (sum(self.failed.values()) if self.failed else 0)
        if self.bytes_received:
            row[self.received.at] += self.bytes_received
            self.bytes_received = 0
        if self.bytes_sent:
            row[self.sent.at] += self.bytes_sent
            self.bytes_sent = 0
        here = begun - ended
        if self.is_odd:
            here += self._flush_odd(row)
        if here:
            row[self.processing.at] += here

    def _flush_odd(self, row: memoryview[int]) -> int:
        """Add what does not happen to most sessions. Returns: by how many there are more now"""
        self.is_odd = False
        here = self.taken + self.moved - self.given
        row[self.accepted.at] -= self.passed
        row[self.connections.at] += self.taken
        row[self.discarded.at] += self.given
        for number, count in self.failed.items():
            row[self.sessions[number].at] += count
        self.failed.clear()
        self.taken = self.given = self.passed = self.moved = 0
        return here


class Counted:
    """What the counts have of a session that goes on; DONE: a book of its peer has all of it."""

    __slots__ = ("at", "received", "sent")

    def __init__(self, at: Watched, received: int = 0, sent: int = 0) -> None:
        """Args: at: where it is processed"""
        self.at = at
        self.received = received
        self.sent = sent


DONE: Final[Any] = object()


def watched(facts: Facts, label: str) -> Watched:
    """Make what servers of a label count: their `watched`, before any module's finish()."""
    if not label:
        return Watched(lambda fact: Cell(fact, ""), "")
    return Watched(
        lambda fact: facts.cell(fact, "" if fact.scope == WORKERS else label), label
    )


def clients(stream: StreamConf) -> tuple[int, int]:
    """Return how many clients are being served, and how many have come."""
    zones = {id(server.watched): server.watched for server in stream.servers if server.watched}
    accepted, *processing = totals_of(
        [stream.facts.cell(ACCEPTED), *(one.processing for one in zones.values())]
    )
    return max(sum(processing), 0), accepted


def watching(begin: Callable[[Session], Any], at: Watched) -> Callable[[Session], Any]:
    """Return the first step of sessions at an address with a server that is watched.

    Args: at: of its default server. The last step is of ending().
    """

    def begin_watched(s: Session) -> None:  # hot: 0.1 µs a session
        s.counted = None
        at.begun += 1
        if not at.is_waiting:
            at.wait(s.loop)
        begin(s)

    return begin_watched


def begin_later(begin: Callable[[Session], Any]) -> Callable[[Session], Any]:
    """Return the first step of UDP sessions that are counted when they end, or are looked at."""

    def begin_uncounted(s: Session) -> None:
        s.counted = None
        begin(s)

    return begin_uncounted


def ended_later(s: Session) -> int:
    """Count a session that was not counted when it began, unless that is done."""
    if s.counted is not DONE:
        if s.status != STREAM_OK or s.states is None:
            _count_why(s)
        _ended(s)
    return OK


def ending(default: ServerConf, at: Watched) -> Callable[[Session], int]:
    """Return the last handler of the log phase of such an address: it counts a session that ends.

    Args: default: the server of the address; at: what it counts
    """
    note = at.done.extend

    def ended(s: Session) -> int:  # hot: 0.2 µs a session
        if s.counted is None and s.status == STREAM_OK and s.server is default:
            c = s.c
            note((c.received, c.sent))
            if not at.is_waiting:
                at.wait(s.loop)
        else:
            _ended(s)
        return OK

    def ended_and_why(s: Session) -> int:  # hot: the same, where reasons are counted
        if s.counted is None and s.status == STREAM_OK and s.server is default:
            c = s.c
            note((c.received, c.sent))
            if not at.is_waiting:
                at.wait(s.loop)
            if s.states is None:  # else its latest attempt counts that (modules/proxy/counted.py)
                _count_why(s)
        else:
            if s.status != STREAM_OK or s.states is None:
                _count_why(s)
            _ended(s)
        return OK

    return ended if default.facts is None else ended_and_why


def _count_why(s: Session) -> None:
    """Count why a session ends."""
    facts = s.server.facts
    if facts is not None:
        s.loop.cells[facts.ends.at + endings.of(s).reason.number] += 1


def _ended(s: Session) -> None:
    """Count a session that ends otherwise than most do."""
    settle(s, s.c.received, s.c.sent)
    at: Watched = s.server.watched  # type: ignore[assignment]
    if s.status == STREAM_OK:
        at.ended += 1
        at.wait(s.loop)
    else:
        at.fail(s.status)
        at.wait(s.loop, is_odd=True)


def settle(s: Session, received: int, sent: int) -> None:
    """Count what a watched session has moved since it was counted last, where it is now.

    Args: received, sent: what it has moved with its client so far
    """
    counted = s.counted
    if counted is None:
        counted = s.counted = Counted(s.address.default_server.watched)  # type: ignore[arg-type]
        if s.address.counts_later:
            counted.at.begun += 1
            counted.at.wait(s.loop)
    at: Watched = s.server.watched  # type: ignore[assignment]
    if counted.at is not at:
        counted.at.given += 1
        counted.at.wait(s.loop, is_odd=True)
        at.taken += 1
        at.wait(s.loop, is_odd=True)
        counted.at = at
    elif received == counted.received and sent == counted.sent:
        return
    if received > counted.received:
        at.bytes_received += received - counted.received
        counted.received = received
    if sent > counted.sent:
        at.bytes_sent += sent - counted.sent
        counted.sent = sent
    at.wait(s.loop)


def passed_on(s: Session) -> None:
    """Count a session of such an address whose connection goes on as another session."""
    c = s.c
    settle(s, c.received, c.sent)
    at = s.counted.at  # type: ignore[union-attr]
    at.given += 1
    at.passed += 1
    at.wait(s.loop, is_odd=True)


class _Left:
    """Ends the count of a session that goes on in another process: a cleanup."""

    __slots__ = ("s",)

    def __init__(self, s: Session) -> None:
        self.s = s

    def __call__(self) -> None:
        s = self.s
        if s not in s.loop.sessions and s.counted is not None:  # else it ends here
            s.counted.at.moved -= 1
            s.counted.at.wait(s.loop, is_odd=True)


def _pack(s: Session) -> bool | None:
    """Return whether a session is watched; what it has moved is counted here."""
    if not s.address.is_watched:
        return None
    settle(s, s.c.received, s.c.sent)
    if not any(type(one) is _Left for one in s.cleanups or ()):
        s.add_cleanup(_Left(s))
    return True


def _unpack(s: Session, packed: object) -> None:
    """Go on with what another process has counted so far."""
    at = s.server.watched
    if at is not None and s.address.is_watched:
        s.counted = Counted(at, s.c.received, s.c.sent)
        at.moved += 1
        at.wait(s.loop, is_odd=True)
        s.add_cleanup(_Left(s))


KEEPS: Final = (Kept(WATCHED, _pack, _unpack),)
