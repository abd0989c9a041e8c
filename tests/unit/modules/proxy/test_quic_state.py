"""Ids and addresses of a session on its way to another process, and what logs show of them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ngxstream.event.udp_ids import ClientIds
from ngxstream.modules.proxy import quic_conf, quic_state
from tests.support import quic
from tests.support.moving import World, has_datagram, world_of_root

__all__ = ["world_of_root"]

FIRST = b"original"  # the id that a client begins with
SERVERS = b"\x01server-id"  # the one that the server answers with


@pytest.mark.parametrize("packed", [
    None, (), ((b"12345678",), b"", None, 0, False), ((b"",), b"", None, 0, False, None),
    ((b"12345678",) * 5, b"", None, 0, False, None),
    ((b"12345678",), b"other", None, 0, False, None), (("12345678",), b"", None, 0, False, None),
    ((b"12345678",), b"", ("::1", 1, 0, 0), 0, False, None),
    ((b"12345678",), b"", ("127.0.0.1", 0), 0, False, None),
    ((b"12345678",), b"", 7, 0, False, None), ((b"12345678",), b"", None, -1, False, None),
    ((b"x" * 21,), b"", None, 0, False, None), ((b"12345678",), b"", None, 0, False, 7),
    ((b"12345678",), b"", None, 0, False, ("127.0.0.1", 0)),
    ((b"12345678",), b"", None, 0, False, ("127.0.0.2", 1)),
    ((b"12345678",), b"", None, 0, False, ("::1", 1, 0, 0)),
])
def test_what_is_no_state_of_ids_is_refused(tmp_path: Path, packed: object) -> None:
    """Another process may say anything."""
    with World(tmp_path, server="proxy_quic on;") as world:
        world.exchange(quic.short(SERVERS))
        with pytest.raises((TypeError, ValueError)):
            quic_state.KEPT.unpack(world.old.only_session(), packed)  # type: ignore[misc]


def test_a_session_takes_its_ids_and_addresses_along(tmp_path: Path) -> None:
    """To another process; there it is found by them, and the former address is believed."""
    elsewhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    elsewhere.bind(("127.0.0.2", 0))
    with elsewhere, World(tmp_path, server="proxy_quic on;") as world:
        world.exchange(quic.opaque(quic.INITIAL, 300, destination=FIRST, source=SERVERS))
        world.exchange(quic.short(SERVERS))
        s = world.old.only_session()
        s.module_ctx(quic_conf.KEY).former = elsewhere.getsockname()
        s.module_ctx(quic_conf.KEY).migrations = 3
        world.hand_over()
        assert not world.old.loop.get(ClientIds).count
        made = world.new.only_session().module_ctx(quic_conf.KEY)
        assert ([SERVERS], SERVERS, 3) == (made.ids, made.current, made.migrations)
        packet = quic.short(SERVERS, b"back")
        elsewhere.sendto(packet, world.address)
        world.turn(lambda: has_datagram(world.backend))
        assert packet == world.backend.recv(100)
        shown = {one.name: one.get(made.s) for one in quic_state.VARIABLES}
        assert {
            "proxy_quic_migrations": b"4",
            "proxy_quic_addr": b"127.0.0.2:%d" % elsewhere.getsockname()[1],
        } == shown
        assert elsewhere.getsockname() == world.new.only_session().content.client


def test_a_port_that_is_not_proved_yet_hears_the_server_elsewhere(tmp_path: Path) -> None:
    """Its client has acknowledged all and waits in silence; the old port is gone."""
    moved = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    moved.bind(("127.0.0.1", 0))
    moved.setblocking(False)
    with moved, World(tmp_path, server="proxy_quic on;") as world:
        world.exchange(quic.opaque(quic.INITIAL, 300, destination=FIRST, source=SERVERS))
        server = world.exchange(quic.short(SERVERS))
        moved.sendto(quic.short(SERVERS, b"moved"), world.address)
        world.turn(lambda: has_datagram(world.backend))
        world.backend.recv(100)
        assert world.old.only_session().module_ctx(quic_conf.KEY).paths.by_address
        world.hand_over()
        answer = quic.short(b"cli", b"again", 900)
        world.backend.sendto(answer, server)
        world.turn(lambda: has_datagram(moved))
        assert answer == moved.recv(1000)
        packet = quic.short(SERVERS, b"here")
        moved.sendto(packet, world.address)
        world.turn(lambda: has_datagram(world.backend))
        assert (packet, server) == world.backend.recvfrom(100)


def test_a_handshake_goes_on_elsewhere(tmp_path: Path) -> None:
    """What is learnt of it is known there; the rest is learnt there."""
    with World(tmp_path, server="proxy_quic on;") as world:
        world.exchange(quic.opaque(quic.INITIAL, 300, destination=FIRST, source=b"cli"))
        world.hand_over()
        made = world.new.only_session().module_ctx(quic_conf.KEY)
        assert ([FIRST, b"cli"], True) == (made.ids, made.is_learning)
        world.exchange(quic.opaque(quic.HANDSHAKE, destination=FIRST, source=SERVERS))
        world.exchange(quic.short(SERVERS))
        assert ([SERVERS], False) == (made.ids, made.is_learning)


def test_connections_of_one_port_go_on_elsewhere(tmp_path: Path) -> None:
    """Each with its own server's socket; one that waits for its hello begins anew beside it."""
    with World(tmp_path, server="proxy_quic on; ssl_preread on;") as world:
        names = {b"server-1": b"first-01", b"server-2": b"first-02"}
        sources = {}
        for name, first in names.items():
            (hello,) = quic.Client(destination=first).datagrams(quic.hello("one.test"))
            sources[name] = world.exchange(hello)
            world.exchange(quic.opaque(quic.HANDSHAKE, destination=first, source=name))
            assert sources[name] == world.exchange(quic.short(name))
        assert 2 == len(set(sources.values())) == len(world.old.loop.sessions)
        half, rest = quic.Client(destination=b"first-03").datagrams(
            quic.hello("one.test", size=1600)
        )
        world.client.sendto(half, world.address)
        world.turn(lambda: len(world.old.loop.sessions) == 3)
        world.hand_over()
        for name, source in sources.items():
            assert source == world.exchange(quic.short(name))
        world.client.sendto(rest, world.address)
        world.turn(lambda: has_datagram(world.backend))
        data, source = world.backend.recvfrom(2000)
        assert data in (half, rest) and source not in sources.values()
        assert 3 == len(world.new.loop.sessions)
