"""Sessions of UDP clients that are known by an id in their datagrams, whatever address these are
from: the connection ids of QUIC.

nginx has no counterpart. A session enters its ids here; a listener asks about every datagram whose
client is not in its table (UdpListener.find_by). Where the session is another worker's, which the
shared table tells (core/shm_ids.py), the datagram goes there.

1. In a short header an id's length is not said: all lengths that servers have ever had are tried,
   the longest first; what clients make up has a length in its header, and has nothing tried. An
   Initial packet of a new address is of a session that has all of its id: its first bytes may be
   another client's by chance. What is shorter than MIN_ID bytes is not entered: it would be
   guessed.
2. Who comes first has an id. What a client says is no reason to take it from another session.
3. While sessions change hands, a short header with an unknown id begins nothing: its session may
   not have arrived yet, and whoever sent it sends it again.
4. A datagram that bears an id gets to the session and no more than that. Whether its address is
   believed is the session's business, and what is in it the server's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from ngxstream.core.shm_ids import MAX_ID, NOBODY, TAKEN
from ngxstream.event import drops, udp_clients
from ngxstream.wire import quic

if TYPE_CHECKING:
    from ngxstream.core.inet import ListenKey
    from ngxstream.core.shm_ids import IdTable
    from ngxstream.event.connection import Connection
    from ngxstream.event.loop import Loop
    from ngxstream.event.udp import UdpListener

    # listener, client's key and address, datagram, how often it was passed on, to which worker
    Forward = Callable[[UdpListener, Any, Any, bytes | memoryview, int, int], bool]

MIN_ID: Final = 4  # bytes
# of a packet behind an id: its number, and what header protection and tag take (RFC 9001 section 5)
LEAST: Final = 20
ARRIVING_MS: Final = 3000  # how long a session may be on its way between two workers
HOPS: Final = 2  # how often a datagram is passed on


class Known(Protocol):
    """A session that is known by ids."""

    c: Connection
    ids: list[bytes]
    where: ListenKey

    def take_from(self, key: Any, peer: Any, view: memoryview) -> bool:
        """Take a datagram from another address than the client's. Returns: whether it is taken"""

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""


class ClientIds:
    """The ids of one worker's sessions: `loop.get(ClientIds)`."""

    __slots__ = (
        "_bits",  # int: bit n says that ids of n bytes are known
        "_known",  # dict: (listening address, id) -> Known
        "_lengths",  # tuple[int, ...]: these, the longest first
        "_loop",
        "awaits",  # None, or tells whether sessions are on their way between workers
        "forward",  # Forward | None: where there are other workers
        "moved",  # None, or called with a session, and what knows its ids, whose client has moved
        "shared",  # IdTable | None: where there are other workers
    )

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._known: dict[tuple[ListenKey, bytes], Known] = {}
        self._bits = 0
        self._lengths: tuple[int, ...] = ()
        self.shared: IdTable | None = None
        self.awaits: Callable[[], bool] | None = None
        self.forward: Forward | None = None
        self.moved: Callable[[Any, Known], None] | None = None

    # -- what sessions say -------------------------------------------------------------------------

    def add(self, where: ListenKey, name: bytes, known: Known, *, firm: bool = False,
            is_servers: bool = True) -> bool:
        """Enter an id of a session, or make it firm. Returns: False where it is another one's

        Args: where: the listening address; name: the id; firm: its session is a conversation;
        is_servers: it may come in a short header
        """
        at = (where, name)
        holder = self._known.get(at)
        if len(name) < MIN_ID or (holder is not None and holder is not known):
            return False
        if self.shared is not None:
            loop = self._loop
            said = self.shared.put(
                hash(at), len(name) if is_servers else 0, loop.pid, loop.worker, loop.now_ms,
                firm=firm,
            )
            if said == TAKEN:
                return False
        self._known[at] = known
        if is_servers:
            self._learn(1 << len(name))
        return True

    def drop(self, where: ListenKey, name: bytes, known: Known, *,
             is_leaving: bool = False) -> None:
        """Forget an id of a session. Args: is_leaving: it goes on in another process"""
        at, loop, shared = (where, name), self._loop, self.shared
        if self._known.get(at) is not known:
            return
        del self._known[at]
        if shared is not None and is_leaving:
            shared.leave(hash(at), loop.pid, loop.worker, loop.now_ms)
        elif shared is not None:
            shared.drop(hash(at), loop.pid, loop.worker)

    def give(self, where: ListenKey, name: bytes, known: Known, worker: int) -> None:
        """Have other workers ask another one for an id: its session is on its way there."""
        at = (where, name)
        if self.shared is not None and self._known.get(at) is known:
            loop = self._loop
            self.shared.give(hash(at), loop.pid, loop.worker, worker, loop.now_ms)

    @property
    def count(self) -> int:
        """How many ids this worker's sessions have."""
        return len(self._known)

    # -- what comes --------------------------------------------------------------------------------

    def find(self, listener: UdpListener, key: Any, peer: Any, data: bytes | memoryview) -> bool:
        """Give a datagram to the session that it is of. Returns: whether there is one"""
        return self.find_within(listener, key, peer, data, 0)

    def find_within(self, listener: UdpListener, key: Any, peer: Any, data: bytes | memoryview,
                    hops: int) -> bool:
        """Do that for a datagram that was passed on so often already."""
        shared = self.shared
        if shared is not None and shared.lengths != self._bits:
            self._learn(shared.lengths)
        where = listener.listening.options.key
        size = data[5] if quic.begins(data) else 0  # of an id that a client may have made up
        for name in self._names(data):
            at = (where, name)
            known = self._known.get(at)
            if size and len(name) != size and (
                known is None or udp_clients.peer_of(known.c.key) != peer
            ):
                continue
            if known is not None:
                try:
                    return known.take_from(key, peer, memoryview(data))
                except Exception:
                    self._loop.fault(known)
                    return True
            if shared is not None and self._pass_on(listener, key, peer, data, hops, hash(at)):
                return True
        if (
            self.awaits is not None and len(data) > LEAST and not data[0] & 0x80 and self.awaits()
        ):
            listener.lost.drop(drops.STRAY)  # it begins nothing, and its session may be on its way
            return True
        return False

    def _names(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Yield what may be an id of a session in a datagram."""
        size = len(data)
        if size < LEAST or not (self._known or self._bits):
            return
        if data[0] & 0x80:
            found = quic.ids_of(bytes(data[: 7 + 2 * quic.MAX_ID]))
            if found is None:
                return
            begin, end = 6, 6 + len(found.destination)
            if end - begin >= MIN_ID and not self._bits >> (end - begin) & 1:
                yield found.destination
        else:
            begin, end = 1, size - LEAST
        for length in self._lengths:
            if begin + length <= end:
                yield bytes(data[begin : begin + length])

    def _pass_on(self, listener: UdpListener, key: Any, peer: Any, data: bytes | memoryview,
                 hops: int, tag: int) -> bool:
        """Send a datagram to the worker that has its session. Returns: whether there is one"""
        shared, loop = self.shared, self._loop
        assert shared is not None
        found = shared.find(tag)
        if found is None:
            return False
        is_here = found.worker == loop.worker
        if is_here or found.worker == NOBODY or hops >= HOPS or self.forward is None:
            # on its way from another worker, or a process that was in this one's place had it
            is_own = is_here and found.pid == loop.pid
            if loop.now_ms - found.since_ms > ARRIVING_MS or is_own:
                return False
            listener.lost.drop(drops.STRAY)
            return True
        return self.forward(listener, key, peer, data, hops + 1, found.worker)

    def _learn(self, bits: int) -> None:
        """Look for ids of more lengths from now on. Args: bits: as IdTable.lengths has them"""
        if bits | self._bits != self._bits:
            self._bits |= bits
            known = range(MAX_ID, MIN_ID - 1, -1)
            self._lengths = tuple(length for length in known if self._bits >> length & 1)
