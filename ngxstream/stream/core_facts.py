"""Facts of the core: datagrams that listeners drop, and clients of the servers that are watched.

Servers are watched where something reads it. An address of such a server begins its sessions by
another function, and each of them has a cleanup; elsewhere nothing is done.

1. connections = processing + discarded + sessions of all classes, whatever happens to them.
2. A session ends at one server. If another one was selected by name it is a connection of that
   server when it ends, and discarded where it began; so is one that `pass` has given away.
3. A UDP session that goes on in another worker is processed there and counted once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core.facts import LISTENER, SERVER, WORKERS, Cell, Fact, Facts
from ngxstream.stream.content import Kept

if TYPE_CHECKING:
    from ngxstream.event.listen_options import ListenOptions
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.session import Session

DROPPED: Final = Fact("datagrams_dropped", LISTENER,
                      "Datagrams of clients, or for them, that were dropped.")
EVICTED: Final = Fact("sessions_evicted", WORKERS, "Idle UDP sessions that ended for new clients.")
CONNECTIONS: Final = Fact("server_connections", SERVER, "Clients that came.")
PROCESSING: Final = Fact("server_processing", SERVER, "Clients that are being served.",
                         is_gauge=True)
DISCARDED: Final = Fact("server_discarded", SERVER, "Clients that went on at another server.")
SESSIONS: Final = {
    number: Fact(f"server_sessions_{number}xx", SERVER,
                 f"Sessions that ended with a status of {number}00 to {number}99.")
    for number in (2, 4, 5)
}
RECEIVED: Final = Fact("server_received", SERVER, "Bytes that came from clients, counted at the "
                       "end of each session.")
SENT: Final = Fact("server_sent", SERVER, "Bytes that went to clients, likewise.")
FACTS: Final = (DROPPED, EVICTED, CONNECTIONS, PROCESSING, DISCARDED, *SESSIONS.values(),
                RECEIVED, SENT)
WATCHED: Final = "watched"  # in ctx: _Visit


def label_of(options: ListenOptions) -> str:
    """Return the label of a listening address."""
    return f"udp {options.text}" if options.is_udp else options.text


class Watched:
    """The cells of one or more servers."""

    __slots__ = ("connections", "discarded", "processing", "received", "sent", "sessions")

    def __init__(self, cell: Callable[[Fact], Cell]) -> None:
        self.connections = cell(CONNECTIONS)
        self.processing = cell(PROCESSING)
        self.discarded = cell(DISCARDED)
        self.sessions = {number: cell(fact) for number, fact in SESSIONS.items()}
        self.received = cell(RECEIVED)
        self.sent = cell(SENT)


_NOBODY: Final = Watched(lambda fact: Cell(fact, ""))


def watch(server: ServerConf, facts: Facts, label: str) -> None:
    """Count the clients of a server, with those of all that have this label; before finish()."""
    server.watched = Watched(lambda fact: facts.cell(fact, label))


def watching(begin: Callable[[Session], Any]) -> Callable[[Session], Any]:
    """Return the first step of sessions at an address with a server that is watched."""

    def begin_watched(s: Session) -> None:
        at = s.server.watched or _NOBODY
        s.loop.cells[at.connections.at] += 1
        _Visit(s, at)
        begin(s)

    return begin_watched


class _Visit:
    """A client who is being served; calling it says that this has ended."""

    __slots__ = ("at", "moves", "s")

    def __init__(self, s: Session, at: Watched) -> None:
        self.s = s
        self.at = at
        self.moves = False
        s.loop.cells[at.processing.at] += 1
        s.set_module_ctx(WATCHED, self)
        s.add_cleanup(self)

    def __call__(self) -> None:
        s, at = self.s, self.at
        cells = s.loop.cells
        cells[at.processing.at] -= 1
        ends = s in s.loop.sessions  # not abandoned
        now = (s.server.watched or _NOBODY) if ends else _NOBODY
        if now.connections is not at.connections and (ends or not self.moves):
            cells[at.discarded.at] += 1
            cells[now.connections.at] += 1
        if ends:
            cells[now.sessions[s.status // 100].at] += 1
            cells[now.received.at] += s.c.received
            cells[now.sent.at] += s.c.sent


def _pack(s: Session) -> bool | None:
    """Return whether a session is watched."""
    visit: _Visit | None = s.module_ctx(WATCHED)
    if visit is None:
        return None
    visit.moves = True
    return True


def _unpack(s: Session, packed: object) -> None:
    """Go on with what another process has counted as begun."""
    _Visit(s, s.server.watched or _NOBODY)


KEEPS: Final = (Kept(WATCHED, _pack, _unpack),)
