"""Any datagrams of both sides, from any address: sessions by ids stay within bounds, no fault.

A million mutants of both sides' packets with HYPOTHESIS_PROFILE=fuzz, a share of them always.
Sockets and sessions are stand-ins: what is looked at is ids and addresses.
"""

import os
import random
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import log
from ngxstream.event import drops, udp_clients
from ngxstream.event.udp_ids import ClientIds
from ngxstream.modules.proxy import quic_paths, udp_quic
from ngxstream.wire import quic
from tests.support import quic as clients

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
MUTANTS, SEEDS = (50_000, range(20)) if IS_LONG else (15_000, range(1))
WHERE = (2, 2, ("127.0.0.1", 443))
ADDRESSES = [(f"192.0.2.{n}", 4000 + n) for n in range(12)]


class Listener:
    """A listener without a socket; it counts the bytes that every address gets."""

    def __init__(self) -> None:
        self.listening: Any = SimpleNamespace(options=SimpleNamespace(key=WHERE))
        self.table: dict[Any, Any] = {}
        self.lost = drops.Drops()
        self.sock: Any = self
        self.sent: dict[Any, int] = {}
        self.begin: Any = None

    def sendto(self, view: Any, address: Any) -> int:
        """Send one datagram."""
        self.sent[address] = self.sent.get(address, 0) + len(view)
        return len(view)

    def sendmsg(self, views: Any, control: Any, flags: int, address: Any) -> int:
        """Send one, or several."""
        return sum(self.sendto(view, address) for view in views)

    def rename(self, c: Any, key: Any, tag: bytes, sink: Any) -> None:
        """Know a client by another key."""
        if getattr(self.table.get(c.key), "c", None) is c:
            sink = self.table.pop(c.key)
        if key in self.table:
            key = udp_clients.tagged(key, tag)
        c.key = key
        self.table[key] = sink

    def take_apart(self, key: Any, view: memoryview) -> None:
        """Give a datagram to a session of its own."""
        sink = self.table.get(key)
        if sink is not None:
            sink.take([view])
        else:
            self.begin(bytes(view), key)

    def forget(self, c: Any) -> None:
        """Take a client out."""
        if getattr(self.table.get(c.key), "c", None) is c:
            del self.table[c.key]


class Proxy:
    """What stands behind the ids of a session: it takes everything."""

    def __init__(self, world: "World", first: bytes, key: Any) -> None:
        self.first, self.control, self.taken = first, None, 0
        self.client = udp_clients.peer_of(key)
        c: Any = SimpleNamespace(key=key, closed=False, table=world.listener, family=2,
                                 sock=world.listener, listening=world.listener.listening)
        self.s: Any = SimpleNamespace(
            c=c, loop=world.loop, status=0, content=self, log=log.Log([]),
            add_cleanup=lambda _: None,
            server=SimpleNamespace(
                admits=None, proxy=SimpleNamespace(quic=SimpleNamespace(
                    prefix=world.prefix, any_host=True, cells=[SimpleNamespace(at=0)] * 3)),
            ),
            log_error=lambda *_: None,
        )
        self.ids = udp_quic.ById(self.s)
        self.ids.attach(self, self)  # type: ignore[arg-type]
        world.listener.table[key] = self.ids

    def take(self, views: list[memoryview]) -> None:
        """Count what comes through."""
        self.taken += len(views)

    def take_burst(self, view: memoryview, size: int) -> None:
        """Count a burst."""
        self.taken += -(-len(view) // size)


class World:
    """Sessions of one address, as a listener has them."""

    def __init__(self, prefix: int = 0) -> None:
        self.prefix = prefix
        self.loop: Any = SimpleNamespace(
            now_ms=1000, pid=1, worker=0, cells=[0], get=lambda make: self.registry,
            post=lambda _: None, fault=self._fault,
        )
        self.registry = ClientIds(self.loop)
        self.listener = Listener()
        self.listener.begin = self.begin
        self.proxies: list[Proxy] = []
        self.came: dict[Any, int] = {}

    @staticmethod
    def _fault(_: object) -> None:
        raise AssertionError("a fault")

    def client(self, data: bytes, address: Any, size: int = 0) -> None:
        """Have a datagram come, or a burst of several; a session begins where there is none."""
        self.came[address] = self.came.get(address, 0) + len(data)
        views = [memoryview(data)]
        sink = self.listener.table.get(address)
        if sink is not None:
            rest = sink.take_burst(views[0], size) if size else sink.take(views)
            views = rest or []
        for view in views:
            if not self.registry.find(self.listener, address, address, view):  # type: ignore[arg-type]
                self.begin(bytes(view), address)
        while len(self.proxies) > 8:
            self.end(self.proxies[0])

    def begin(self, first: bytes, key: Any) -> None:
        """Begin a session."""
        self.proxies.append(Proxy(self, first, key))

    def server(self, data: bytes, proxy: Proxy) -> None:
        """Have an answer go to a session's client."""
        proxy.s.c.sock.sendto(memoryview(data), proxy.client)

    def end(self, proxy: Proxy) -> None:
        """End a session."""
        self.proxies.remove(proxy)
        proxy.ids.close()
        self.listener.forget(proxy.s.c)

    def check(self) -> None:
        """See that all bounds are kept."""
        assert self.registry.count <= udp_quic.MOST_IDS * len(self.proxies)
        for proxy in self.proxies:
            ids = proxy.ids
            assert len(ids.ids) <= udp_quic.MOST_IDS
            assert len(ids.paths.by_address) <= quic_paths.MOST_PATHS
            assert all(0 < len(one) <= quic.MAX_ID for one in ids.ids)
            for address, path in ids.paths.by_address.items():
                assert path.sent <= quic_paths.ANSWER * path.received or ids.paths.near is path
                assert address != proxy.client


def seeds(dice: random.Random) -> bytes:
    """Return a packet of a client or a server that has an id of a few."""
    name = dice.choice((b"to-server", b"server-1", b"server-2", b"srv4", b"x" * 20, b"", b"abc"))
    other = dice.choice((b"me", b"", b"server-1", b"srv4", b"server-2"))
    kind = dice.randrange(6)
    if kind == 0:
        return PACKED[dice.randrange(len(PACKED))]
    if kind < 3:
        return clients.short(name, size=dice.choice((5, 30, 60)))
    long = clients.opaque(dice.randrange(4), dice.choice((10, 60)), destination=name, source=other,
                          version=dice.choice((clients.V1, clients.V2)))
    return long + (clients.short(name) if kind == 5 else b"")


PACKED = [
    clients.initial(b"\1", destination=b"begins-%d" % n, size=1200) for n in range(6)
]


@pytest.mark.parametrize("seed", SEEDS)
def test_mutants_of_both_sides_keep_all_bounds(seed: int) -> None:
    """No address that was not proved gets more than it may, and no memory is held for good."""
    dice = random.Random(seed)
    world = World()
    half = held = 0
    if not seed:  # it makes everything three times as slow
        tracemalloc.start()
    try:
        for n in range(MUTANTS):
            data = bytearray(seeds(dice))
            for _ in range(dice.choice((0, 0, 1, 3))):
                if data:
                    data[dice.randrange(min(len(data), 30))] = dice.randrange(256)
            if not dice.randrange(10):
                del data[dice.randrange(len(data) + 1) :]
            if world.proxies and not dice.randrange(3):
                world.server(bytes(data), dice.choice(world.proxies))
            else:
                size = dice.choice((0, 0, 0, 40))
                world.client(bytes(data), dice.choice(ADDRESSES), size if len(data) > size else 0)
            world.loop.now_ms += dice.choice((0, 1, 50, 300))
            if not n % 16:
                world.check()
            if not dice.randrange(500) and world.proxies:
                world.end(dice.choice(world.proxies))
            if n == MUTANTS // 2:
                half, _ = tracemalloc.get_traced_memory()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - half < 400_000
    assert world.loop.cells[0] > MUTANTS // 100  # addresses were tried, proved and refused
    while world.proxies:
        world.end(world.proxies[0])
    assert 0 == world.registry.count and {} == world.listener.table


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60), st.sampled_from(ADDRESSES)),
                max_size=20), st.sampled_from((0, 4, 20)))
def test_whatever_comes(story: list[tuple[bool, bytes, Any]], prefix: int) -> None:
    """Datagrams of chance, with ids of all lengths and with prefixes."""
    world = World(prefix)
    for is_client, data, address in story:
        if is_client or not world.proxies:
            world.client(data, address)
        else:
            world.server(data, world.proxies[-1])
        world.check()
