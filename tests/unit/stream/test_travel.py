"""A session on its way to another process: nothing of it is lost, and nothing else is believed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event.connection import Connection
from ngxstream.ipc.codec import CodecError
from ngxstream.modules import realip
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.stream import travel
from ngxstream.stream.session import Session
from ngxstream.stream.upstream import UpstreamState
from ngxstream.wire.proxy_protocol import ProxyHeader
from tests.support import moving
from tests.support.moving import World, world

__all__ = ["world"]

FACTS = {
    "c.number": 4711,
    "c.received": 1 << 33,
    "c.sent": 99,
    "c.sockaddr": ("192.0.2.9", 999),
    "c.local": ("192.0.2.1", 53),
    "c.passes": 2,
    "start_ms": 5,
    "action": "proxying connection",
    "captures": (b"a\0b", None, b""),
    "proxy_protocol": ProxyHeader(2, 1, 1, 2, 28, True, "192.0.2.9", 999, "192.0.2.1", 53, b"tlv"),
}


def fact(s: Any, name: str) -> Any:
    """Return a fact of a session by name."""
    for word in name.split("."):
        s = getattr(s, word)
    return s


@pytest.mark.parametrize("name", list(FACTS))
def test_a_fact_travels(world: World, name: str) -> None:
    """The session that comes has what the one that left had."""
    session: Any = world.old.only_session()
    *path, last = name.split(".")
    setattr(fact(session, ".".join(path)) if path else session, last, FACTS[name])
    world.hand_over()
    assert FACTS[name] == fact(world.new.only_session(), name)


def test_its_places_travel(world: World) -> None:
    """What is the same in both processes, and what a table knows its client by."""
    before, sock = world.old.only_session(), world.old.only_session().c
    world.hand_over()
    after: Any = world.new.only_session()
    assert (before.address, before.server) == (after.address, after.server)
    assert (sock.family, sock.key, sock.fd) == (after.c.family, after.c.key, after.c.fd)
    assert after.c.table is world.new.service.udp_listeners[0]


def test_every_slot_travels_or_is_declared() -> None:
    """Of a session and its connection; nothing is declared that there is not."""
    slots = {f"s.{name}" for name in Session.__slots__ if name != "__weakref__"}
    slots |= {f"c.{name}" for name in Connection.__slots__}
    tested = {name if name.startswith("c.") else f"s.{name}" for name in FACTS}
    tested |= {"s.address", "s.server", "s.states", "s.values", "c.family", "c.key"}
    assert slots == {*tested, *travel.REMADE}
    assert not tested & set(travel.REMADE)
    header, fresh = FACTS["proxy_protocol"], ProxyHeader(1, 0, 0, 0, 0)
    for field in dataclasses.fields(ProxyHeader):
        assert getattr(header, field.name) != getattr(fresh, field.name)


def test_the_records_of_all_attempts_travel(world: World) -> None:
    """With every time and count."""
    session = world.old.only_session()
    state = UpstreamState(3)
    state.peer_name = "192.0.2.1:53"
    state.connect_ms, state.first_byte_ms, state.session_ms = 1, 2, 3
    state.bytes_sent, state.bytes_received = 4, 5
    assert session.states is not None
    session.states.insert(0, state)
    world.hand_over()
    states = world.new.only_session().states
    assert states is not None
    assert [2, "192.0.2.1:53"] == [len(states), states[0].peer_name]
    for name in UpstreamState.__slots__:
        assert getattr(state, name) == getattr(states[0], name)


def test_values_of_variables_travel(world: World) -> None:
    """What a map was asked for, what was found to be nothing, and what was not asked for."""
    session = world.old.only_session()
    size = world.cycle.stream.variables.size
    session.values = [travel.UNSET] * size
    session.values[0] = b"value"
    session.values[1] = None
    world.hand_over()
    assert [b"value", None, *[travel.UNSET] * (size - 2)] == world.new.only_session().values


def test_a_session_that_travels_twice_is_the_same(world: World) -> None:
    """What is packed of the session that came is what it was made of."""
    session = world.old.only_session()
    before = travel.pack(session, world.old.service.places)
    world.hand_over()
    assert before == travel.pack(world.new.only_session(), world.new.service.places)


def place(world: World, n: int, value: Any) -> bytes:
    """Return a session of which one field says something else."""
    data = travel.pack(world.old.only_session(), world.old.service.places)
    values = moving.flat(travel.SESSION, data)
    values[n] = value
    return moving.session_of(values)


@pytest.mark.parametrize(
    ("n", "value", "why"),
    [
        (moving.SERVER, 7, "of server 7"),
        (moving.SERVER, 1, "does not listen at its address"),
        (moving.FAMILY, 10, "another family"),
        (moving.VALUES, [(1 << 15, b"")], "a variable that there is not"),
    ],
)
def test_what_cannot_be_is_refused(world: World, n: int, value: Any, why: str) -> None:
    """Places that exist, and a shape that fits them."""
    with pytest.raises(CodecError, match=why):
        travel.PackedSession(place(world, n, value), world.old.service.places)


@pytest.mark.parametrize(("n", "value"), [(moving.GENERATION, 999), (moving.ADDRESS, 99)])
def test_a_place_nobody_knows_is_a_key_error(world: World, n: int, value: int) -> None:
    """A configuration, or an address of one."""
    with pytest.raises(KeyError):
        travel.PackedSession(place(world, n, value), world.old.service.places)


def test_a_module_refuses_what_is_no_part_of_its(world: World) -> None:
    """And nothing of the session is left."""
    data = place(world, moving.KEPT, [("realip", "nonsense")])
    parcel = travel.PackedSession(data, world.new.service.places)
    listener = world.new.service.udp_listeners[0]
    with pytest.raises(CodecError):
        parcel.unpack(world.new.loop, listener, listener.listening)
    assert not world.new.loop.sessions


def test_the_start_is_not_in_the_future(world: World) -> None:
    """Whatever is said of it."""
    values, proxied, sock = world.parcel()
    values[moving.START_MS] = 1 << 62
    world.post(values, proxied, sock.fileno())
    sock.close()
    assert world.new.only_session().start_ms <= world.new.loop.now_ms
    assert isinstance(world.new.only_session().content, UdpProxy)


# -- what modules keep -----------------------------------------------------------------------------


def test_where_a_client_really_came_from_travels(world: World) -> None:
    """set_real_ip_from: the address before it was replaced."""
    session = world.old.only_session()
    session.set_module_ctx(realip.KEY, realip.Original(2, ("198.51.100.7", 7)))
    world.hand_over()
    assert ("198.51.100.7", 7) == realip.original(world.new.only_session())


LIMITED = {
    "stream": "limit_conn_zone $remote_addr zone=one:32k;",
    "server": "limit_conn one 9;",
}


def counted(world: World, key: bytes) -> int:
    """Return how many more sessions of a key the zone would take, of nine."""
    (limit,) = world.cycle.stream.servers[0].limit_conn.limits
    table: Any = limit.zone.table
    taken = list(iter(lambda: table.acquire(key, 9), False))
    for entry in taken:
        table.release(entry)
    return 9 - len(taken)


def test_counts_travel(tmp_path: Path) -> None:
    """A session is counted once, before and after, and no more when it has ended."""
    with World(tmp_path, **LIMITED) as world:
        world.exchange(b"one")
        assert 1 == counted(world, b"127.0.0.1")
        world.hand_over()
        assert 1 == counted(world, b"127.0.0.1")
        world.new.only_session().finalize(200)
        assert 0 == counted(world, b"127.0.0.1")


@pytest.mark.parametrize(
    "packed",
    [
        7,
        (b"PASSED",),
        (b"PASSED", 7),
        (b"PASSED", ((b"one", 7),)),
        (b"PASSED", (("one", b""),)),
        (b"PASSED", (("one", b"x" * 300),)),
        (b"PASSED", (("one", "text"),)),
        (b"ANYTHING", ()),
    ],
)
def test_counts_that_make_no_sense_drop_the_session(tmp_path: Path, packed: Any) -> None:
    """Whatever another worker says: nothing is counted, nothing falls."""
    with World(tmp_path, **LIMITED) as world:
        world.exchange(b"one")
        values, proxied, sock = world.parcel()
        values[moving.KEPT] = [("limit_conn", packed)]
        world.post(values, proxied, sock.fileno())
        sock.close()
        assert not world.new.loop.sessions
        assert 0 == counted(world, b"127.0.0.1")
        assert "limit_conn" in world.warnings()[0]


def test_a_session_counts_once_whatever_is_said(tmp_path: Path) -> None:
    """Nobody's limit is used up by one session."""
    with World(tmp_path, **LIMITED) as world:
        world.exchange(b"one")
        values, proxied, sock = world.parcel()
        many = tuple(("one", b"192.0.2.1") for _ in range(9))
        values[moving.KEPT] = [("limit_conn", (b"PASSED", many))]
        world.post(values, proxied, sock.fileno())
        sock.close()
        assert 1 == counted(world, b"192.0.2.1")
