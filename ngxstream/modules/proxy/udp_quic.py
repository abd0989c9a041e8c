"""proxy_quic: a session of a QUIC client goes on when its address changes, by its connection ids.

nginx has no counterpart. What a passive proxy sees of the ids: the one that a client begins with,
and those in the long headers that the server answers with; later ones only when the client uses
them from an address that is known. event/udp_ids.py has them; docs/quic.md tells what follows.

1. A datagram from another address that bears an id of the session goes to the server. Answers go
   where they went; as long as the new address is not proved they are sent there too, in all no more
   than ANSWER times what came from there (RFC 9000 section 8.1). Another port of the host that is
   answered anyway is not limited, one at a time: a NAT has forgotten the client, who acknowledges
   what comes by datagrams too short to get a whole one for.
2. An address is proved when more comes from there after it was answered, and nothing has come from
   the former one for QUIET_MS. Until then nothing is taken away from that (section 9.3.3). A client
   who forges sources can feign that: so one of another host is never proved without `any_host`.
3. The former address is believed at once when something comes from there, and the one that it was
   left for has to be proved anew: who has sent in the place of a client that was quiet has its
   answers until it speaks.
4. What the first address decided (rules, limits, variables) stays; `allow` and `deny` are asked
   about each new one.
5. An Initial packet that bears no id of the session begins another connection, and a session of its
   own, under a key of its own (udp_clients.tagged). All that comes from the address comes here
   still, and goes on by its ids: who forges such a packet takes nothing away.
6. A session that has one address, and whose ids are known, costs a comparison for each datagram.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet, log
from ngxstream.event import datagram, udp_clients
from ngxstream.event.udp_ids import ClientIds
from ngxstream.modules.proxy.quic_conf import KEY
from ngxstream.modules.proxy.quic_paths import Paths, Tap
from ngxstream.wire import quic

if TYPE_CHECKING:
    from ngxstream.core.inet import ListenKey
    from ngxstream.event.connection import Table
    from ngxstream.event.udp_clients import Sink
    from ngxstream.modules.proxy.quic_conf import Quic
    from ngxstream.modules.proxy.udp import UdpProxy
    from ngxstream.stream.session import Session

MOST_IDS: Final = 4  # of a session
OFFER_MS: Final = 1000  # between two attempts to have another worker take it
NOTHING: Final = bytes(quic.MAX_ID + 1)  # is no id: it is longer than any


class ById:
    """The ids of one session, and the addresses it has heard from: a Sink before the session."""

    __slots__ = (
        "c",
        "current",  # bytes: the id that the client uses; NOTHING while it is not known
        "end",  # int: of it in a short header
        "first",  # bytes: the id that the latest connection began with
        "former",  # the address that was left for this one, or None
        "ids",  # list[bytes]: the newest last
        "is_learning",  # bool: the client's handshake goes on
        "migrations",
        "offered_ms",  # when it was offered to another worker
        "paths",  # Paths
        "proxy",  # UdpProxy | None: before and after
        "quic",  # Quic
        "registry",  # ClientIds
        "s",
        "said",  # tuple[bytes, ...]: those of the ids that the server has answered with
        "sink",  # Sink: what takes the client's datagrams
        "where",  # key of the listening address
    )

    def __init__(self, s: Session) -> None:
        self.s = s
        self.c = s.c
        self.quic: Quic = s.server.proxy.quic
        self.registry = s.loop.get(ClientIds)
        self.where: ListenKey = s.c.listening.options.key
        self.proxy: UdpProxy | None = None
        self.sink: Sink = None  # type: ignore[assignment]  # until attach()
        self.ids: list[bytes] = []
        self.said: tuple[bytes, ...] = ()
        self.current = NOTHING
        self.end = 1 + len(NOTHING)
        self.first = b""
        self.is_learning = False
        self.paths = Paths()
        self.former: Any = None
        self.migrations = 0
        self.offered_ms = 0

    def attach(self, proxy: UdpProxy, sink: Sink) -> ById:
        """Stand before a sink of the session from now on."""
        self.sink = sink
        if self.proxy is None:
            self.proxy = proxy
            self.s.add_cleanup(self.close)
            table: Table = self.c.table  # type: ignore[assignment]
            self.where = table.listening.options.key
            firm = self.current
            for one in self.ids:
                self.registry.add(self.where, one, self, firm=one == firm and one in self.said,
                                  is_servers=one in self.said)
            self._watch()
        found = quic.ids_of(proxy.first)
        if found is not None:
            self.first = found.destination
            self._learn(found)
        return self

    def close(self) -> None:
        """Forget the ids: the session is over, or goes on elsewhere."""
        is_leaving = self.s.content is None  # as Session.abandon() leaves it
        for one in self.ids:
            self.registry.drop(self.where, one, self, is_leaving=is_leaving)
        self.is_learning = False
        self.paths.clear()
        self._watch()
        self.proxy = None
        del self.sink

    def on_fault(self) -> None:
        """End the session after an exception nobody expected."""
        if self.proxy is not None:
            self.proxy.on_fault()

    # -- from the address that is known ------------------------------------------------------------

    def take(self, views: list[memoryview]) -> list[memoryview] | None:
        """Take datagrams from there. # hot: once a client and turn"""
        current, end = self.current, self.end
        for view in views:
            if view[1:end] != current:
                return self._sort(views)
        if self.paths.by_address:
            self._on_heard()
        return self.sink.take(views)

    def take_burst(self, view: memoryview, size: int) -> list[memoryview] | None:
        """Take a coalesced message from there."""
        if view[1 : self.end] != self.current:
            return self._sort(datagram.split(view, size))
        if self.paths.by_address:
            self._on_heard()
        return self.sink.take_burst(view, size)

    def _sort(self, views: list[memoryview]) -> list[memoryview] | None:
        """Take datagrams that may be of other connections, each of which has its own session."""
        own: list[memoryview] = []
        for view in views:
            if view[1 : self.end] == self.current or self._knows(view):
                own.append(view)
                continue
            if own:
                self._take_own(own)
                own = []
            if not self._give(view):
                own.append(view)
        return self._take_own(own) if own else None

    def _take_own(self, views: list[memoryview]) -> list[memoryview] | None:
        if self.proxy is None:
            return None  # it is over
        if self.paths.by_address:
            self._on_heard()
        return self.sink.take(views)

    def _knows(self, head: memoryview) -> bool:
        """Tell whether a datagram bears an id of this session; its handshake may go on by it."""
        found = quic.ids_of(bytes(head[: 7 + 2 * quic.MAX_ID]))
        if found is not None:
            name = found.destination
            is_own = name in (b"", self.first) or any(name.startswith(one) for one in self.ids)
            if is_own:
                self._learn(found)
            return is_own
        for one in self.ids:
            if head[1 : 1 + len(one)] == one:
                self._settle(one)
                return True
        return False

    def _give(self, view: memoryview) -> bool:
        """Give a datagram to another session, of any worker, or have it begin one.

        Returns: False where it is this session's after all
        """
        c, proxy = self.c, self.proxy
        if c.table is None or proxy is None:
            return True  # it is over
        table: Any = c.table
        client = proxy.client
        if self.registry.find(table, udp_clients.moved(c.key, client), client, view):
            return True
        found = quic.ids_of(bytes(view[: 7 + 2 * quic.MAX_ID]))
        if found is None:
            self._rotate(view)
        elif quic.begins(view):
            table.take_apart(udp_clients.tagged(c.key, found.destination), view)
            return True
        else:
            self._learn(found)
        return False

    def _learn(self, found: quic.Ids) -> None:
        """A handshake goes on."""
        self.is_learning = True
        self._watch()
        if found.version:
            self._add(found.destination)

    def _rotate(self, head: memoryview) -> None:
        """The client uses an id that nobody has seen."""
        if self.is_learning:  # its server's ids are empty, or nobody has seen them
            self.is_learning = False
            self._watch()
        elif self.current is not NOTHING and len(head) >= self.end:
            # it changes to one that its server gave it in secret
            rotated = bytes(head[1 : self.end])
            is_servers = self.current in self.said
            self._add(rotated, is_servers=is_servers, firm=is_servers)
            self.current = rotated

    def _settle(self, one: bytes) -> None:
        """The handshake is over: one id is left."""
        self.current, self.end = one, 1 + len(one)
        is_servers = one in self.said  # a client alone makes nothing firm
        self.registry.add(self.where, one, self, firm=is_servers, is_servers=is_servers)
        if self.is_learning:
            for other in self.ids:
                if other != one:
                    self.registry.drop(self.where, other, self)
            self.ids = [one]
            self.said = (one,) if is_servers else ()
            self.is_learning = False
            self._watch()

    def _cut(self, name: bytes) -> bytes:
        """Return what all ids of a connection share with one."""
        return name[: self.quic.prefix] if self.quic.prefix else name

    def _add(self, name: bytes, *, is_servers: bool = False, firm: bool = False) -> None:
        """Enter an id; the oldest may have to give way."""
        name = self._cut(name)
        is_known = name in self.ids
        if not name or (is_known and (name in self.said or not is_servers)):
            return
        if is_servers:
            self.said += (name,)
        is_mine = self.registry.add(self.where, name, self, firm=firm, is_servers=is_servers)
        if is_known:
            return
        if not is_mine:
            self.s.loop.cells[self.quic.cells[2].at] += 1
        self.ids.append(name)
        if len(self.ids) > MOST_IDS:
            oldest = next(one for one in self.ids if one != self.current)
            self.ids.remove(oldest)
            self.said = tuple(one for one in self.said if one != oldest)
            self.registry.drop(self.where, oldest, self)

    def _on_heard(self) -> None:
        """The address that is answered is in use."""
        self.paths.on_heard(self.s.loop.now_ms)
        if not self.paths.by_address:
            self._watch()

    # -- from another address ----------------------------------------------------------------------

    def take_from(self, key: Any, peer: Any, view: memoryview) -> bool:
        """Take a datagram that bears one of the ids. Returns: whether it may come from there"""
        s, c = self.s, self.c
        proxy = self.proxy
        if proxy is None or c.closed or _local(key, peer) != _local(c.key, proxy.client):
            return False
        if peer == proxy.client:
            table: Table = c.table  # type: ignore[assignment]
            if key not in table.table:  # the connection that was there before is over
                table.rename(c, key, self.current, self)
            if s.loop.now_ms - self.offered_ms >= OFFER_MS:
                self._offer()
            self.take([view])
            return True
        if peer == self.former:
            self._move(key, peer)
        elif not self._is_on(key, peer, len(view)):
            return False
        self.sink.take([view])
        may_move = self.quic.any_host or proxy.client[0] == peer[0]
        if may_move and not s.status and self.paths.is_proved(peer, s.loop.now_ms):
            self._move(key, peer)
        return True

    def _is_on(self, key: Any, peer: Any, size: int) -> bool:
        """Count what came from an address that is not proved. Returns: whether it may be one"""
        s, paths, proxy = self.s, self.paths, self.proxy
        assert proxy is not None
        now_ms = s.loop.now_ms
        if peer not in paths.by_address:
            admits = s.server.admits
            if admits is not None and not admits(peer):
                return False
            paths.begin(key, peer, now_ms)
            s.loop.cells[self.quic.cells[1].at] += 1
            self._watch()
        paths.count(peer, size, now_ms, is_near=proxy.client[0] == peer[0])
        return True

    def _move(self, key: Any, peer: Any) -> None:
        """Answer another address from now on, and know the client by it."""
        s, proxy = self.s, self.proxy
        assert proxy is not None
        table: Table = self.c.table  # type: ignore[assignment]
        self.former = None if peer == self.former else proxy.client
        table.rename(self.c, key, self.current, self)
        proxy.client = peer
        self.paths.clear()
        self._watch()
        self.migrations += 1
        s.loop.cells[self.quic.cells[0].at] += 1
        if s.log.level >= log.INFO:
            s.log_error(log.INFO, f"QUIC client has moved to {inet.sock_ntop(peer)}")
        self._offer()

    def _offer(self) -> None:
        """Have the session moved to the worker that the client's datagrams come to, if need be."""
        loop, moved = self.s.loop, self.registry.moved
        self.offered_ms = loop.now_ms
        if moved is not None:
            loop.post(functools.partial(moved, self.s, self))

    # -- towards the client ------------------------------------------------------------------------

    def _watch(self) -> None:
        """See what the server answers while something is to be learnt of it, or proved."""
        c, table = self.c, self.c.table
        if table is None:
            return
        is_needed = self.is_learning or bool(self.paths.by_address)
        if is_needed == isinstance(c.sock, Tap):
            return
        c.sock = Tap(c.sock, self.answered) if is_needed else table.sock  # type: ignore[assignment]

    def answered(self, views: Sequence[memoryview]) -> None:
        """Look at answers that were sent; addresses that are not proved get them as well."""
        if self.is_learning:
            for view in views:
                found = quic.ids_of(bytes(view[: 7 + 2 * quic.MAX_ID]))
                if found is not None and found.version:
                    self._add(found.source, is_servers=True)
        if self.paths.by_address and self.proxy is not None:
            self.paths.copy(self.c.table.sock, self.proxy.control, views)  # type: ignore[union-attr]


def _local(key: Any, peer: Any) -> bytes:
    """Return the packed local address of a key, b"" where it has none."""
    return b"" if key == peer else udp_clients.local_of(key)


def step(proxy: UdpProxy, sink: Sink) -> Sink:
    """Have the client's datagrams looked at before a sink takes them."""
    s = proxy.s
    found: ById | None = s.module_ctx(KEY)
    if found is None:
        found = ById(s)
        s.set_module_ctx(KEY, found)
    return found.attach(proxy, sink)
