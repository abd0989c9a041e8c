"""A session on its way to another process: nothing of it is lost, and nothing else is believed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.ipc.codec import CodecError
from ngxstream.modules.proxy import udp_state
from ngxstream.stream import travel
from ngxstream.stream.upstream import UpstreamState
from ngxstream.wire.proxy_protocol import ProxyHeader
from tests.support.moving import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a world with a session in the old worker."""
    with World(tmp_path) as made:
        made.exchange(b"one")
        yield made


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
    values = list(
        travel.SESSION.decode(travel.pack(world.old.only_session(), world.old.service.places))
    )
    values[n] = value
    return travel.SESSION.encode(values)


@pytest.mark.parametrize(
    ("n", "value", "why"),
    [
        (2, 7, "of server 7"),
        (2, 1, "does not listen at its address"),
        (6, 10, "another family"),
        (14, [(1 << 15, b"")], "a variable that there is not"),
    ],
)
def test_what_cannot_be_is_refused(world: World, n: int, value: Any, why: str) -> None:
    """Places that exist, and a shape that fits them."""
    with pytest.raises(CodecError, match=why):
        travel.Parcel(place(world, n, value), world.old.service.places)


@pytest.mark.parametrize(("n", "value"), [(0, 999), (1, 99)])
def test_a_place_nobody_knows_is_a_key_error(world: World, n: int, value: int) -> None:
    """A configuration, or an address of one."""
    with pytest.raises(KeyError):
        travel.Parcel(place(world, n, value), world.old.service.places)


def test_a_module_refuses_what_is_no_part_of_its(world: World) -> None:
    """And nothing of the session is left."""
    data = place(world, 17, [("realip", "nonsense")])
    parcel = travel.Parcel(data, world.new.service.places)
    gate = world.new.service.udp_gates[0]
    with pytest.raises(CodecError):
        parcel.unpack(world.new.loop, gate.sock, gate.listening)
    assert not world.new.loop.sessions


def test_the_start_is_not_in_the_future(world: World) -> None:
    """Whatever is said of it."""
    values, proxied, sock = world.parcel()
    values[11] = 1 << 62
    world.post(values, proxied, sock.fileno())
    sock.close()
    assert world.new.only_session().start_ms <= world.new.loop.now_ms
    assert isinstance(world.new.only_session().content, udp_state.UdpProxy)
