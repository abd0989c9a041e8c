"""A proxied UDP session on its way: what it keeps, and which sockets are none of its."""

import os
import select
import socket
from pathlib import Path
from typing import Any

import pytest

from ngxstream.ipc.codec import CodecError
from ngxstream.modules.proxy import udp_state
from ngxstream.modules.proxy.udp import UdpProxy
from ngxstream.stream.peer_state import UNHEALTHY
from tests.support import moving
from tests.support.balancing import group
from tests.support.moving import World, world

__all__ = ["world"]


def test_a_deadline_is_packed(world: World) -> None:
    """As it is; test_content.py looks at everything else."""
    content: Any = world.old.only_session().content
    content.deadline = 1
    assert 1 == moving.flat(udp_state.PROXIED, content.pack().data)[moving.DEADLINE]


def test_a_session_without_a_record_of_an_attempt_gets_one(world: World) -> None:
    """Whatever is said of it: its counts have a place."""
    values, proxied, sock = world.parcel()
    values[moving.STATES] = []
    world.post(values, proxied, sock.fileno())
    sock.close()
    for listener in world.old.service.udp_listeners:
        listener.close()
    world.new.arrival.go()
    world.exchange(b"two")
    (state,) = world.new.only_session().states or ()
    assert (3, 3) == (state.bytes_sent, state.bytes_received)


def test_the_server_hears_the_same_port(world: World) -> None:
    """The socket itself goes, and is watched at its new place."""
    before = world.exchange(b"two")
    world.hand_over()
    assert before == world.exchange(b"three")


def test_a_session_is_counted_once(world: World) -> None:
    """On the peer it talks to, before and after."""
    peer: Any = world.old.only_session().content
    before = peer.peer.state.conns
    world.hand_over()
    content: Any = world.new.only_session().content
    name = f"127.0.0.1:{world.backend.getsockname()[1]}"
    assert (before, name) == (content.peer.state.conns, content.peer.name)


@pytest.mark.parametrize("deadline", [1 << 60, 0])
def test_a_deadline_is_within_the_timeout(world: World, deadline: int) -> None:
    """Whatever is said of it: no session stays for ever."""
    values, proxied, sock = world.parcel()
    proxied[moving.DEADLINE] = deadline
    world.post(values, proxied, sock.fileno())
    sock.close()
    content: Any = world.new.only_session().content
    assert 0 < content.deadline <= world.new.loop.now_ms + content.timeout


def opened(kind: str, backend: tuple[str, int]) -> int:
    """Return a descriptor that is no connected datagram socket to a backend."""
    if kind == "file":
        return os.open("/etc/passwd", os.O_RDONLY)
    families = {"inet6": socket.AF_INET6, "unix": socket.AF_UNIX}
    family = families.get(kind, socket.AF_INET)
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    if kind == "other":
        sock.connect(("127.0.0.1", 9))
    if kind == "tcp":
        sock.close()
        with socket.create_server(("127.0.0.1", 0)) as server:
            sock = socket.create_connection(server.getsockname())
    if kind == "raw":
        sock.close()
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
        sock.connect(backend)
    return sock.detach()


@pytest.mark.parametrize("kind", ["file", "tcp", "inet6", "unix", "unconnected", "other", "raw"])
def test_a_socket_has_to_be_what_it_is_said_to_be(world: World, kind: str) -> None:
    """A datagram socket of the family, connected to the very server; else it stays the caller's."""
    proxy = world.old.only_session().content
    assert isinstance(proxy, UdpProxy)
    data, server = proxy.pack().data, proxy.s.server
    fd = opened(kind, world.backend.getsockname())
    with pytest.raises(CodecError):
        udp_state.read(UdpProxy, data, [fd], server, False)
    os.close(fd)
    udp_state.read(UdpProxy, data, [proxy.pc.fileno()], server, False)


def test_a_server_of_another_family_is_refused(world: World) -> None:
    """And so is a socket that would be used again as another one."""
    proxy: Any = world.old.only_session().content
    values = moving.flat(udp_state.PROXIED, udp_state.pack(proxy).data)
    changes = (
        (moving.PEER, ("a", "a", ("::1", 1, 0, 0)), "of another server"),
        (moving.PEER, ("a", "a", None), "without a server"),
        (moving.REUSED, 10, "another family"),
    )
    for n, value, why in changes:
        changed = [*values[:n], value, *values[n + 1 :]]
        with pytest.raises(CodecError, match=why):
            udp_state.read(
                UdpProxy, moving.proxied_of(changed), [proxy.pc.fileno()], proxy.s.server, False
            )


def test_rates_travel(tmp_path: Path) -> None:
    """What was let through stays counted, from the same beginning."""
    with World(tmp_path, server="proxy_upload_rate 1m; proxy_download_rate 1m;") as world:
        world.exchange(b"one")
        before: Any = world.old.only_session().content
        kept = before.pack_rates()
        world.hand_over()
        after: Any = world.new.only_session().content
        assert kept == after.pack_rates()


def test_a_session_that_has_left_is_no_more_waited_for(world: World) -> None:
    """Its deadline comes at its new place alone."""
    content: Any = world.old.only_session().content
    assert content.tick
    world.hand_over()
    assert 0 == content.tick  # it is in no wheel


@pytest.mark.parametrize(("tries", "expected"), [(0, 0), (1, 1), (2, 2), (9, 2)])
def test_no_more_servers_are_tried_than_were_left(
    world: World, tries: int, expected: int
) -> None:
    """What is said of it counts, as far as there are so many."""
    upstream: Any = world.cycle.stream.servers[0].proxy.upstream
    own = world.backend.getsockname()[1]
    upstream.balancer = group(f"server 127.0.0.1:{own}; server 127.0.0.1:{world.address[1]};")
    values, proxied, sock = world.parcel()
    proxied[2] = tries
    world.post(values, proxied, sock.fileno())
    sock.close()
    content: Any = world.new.only_session().content
    assert expected == content.selection.tries


def test_what_was_held_for_a_session_goes_on_with_it(world: World) -> None:
    """A worker that leaves while it holds datagrams of a former hand-over gives those too."""
    (listener, *_) = [one for one in world.old.service.udp_listeners if one.table]
    peer = world.client.getsockname()
    listener.close()
    listener.hold()
    listener.keep(peer, peer, None, b"held")
    world.hand_over()
    world.turn(lambda: has_datagram(world.backend))
    assert b"held" == world.backend.recv(100)


def has_datagram(sock: socket.socket) -> bool:
    """Tell whether there is something to read."""
    return bool(select.select([sock], [], [], 0)[0])


def test_what_servers_were_before_is_counted_on(world: World) -> None:
    """Their datagrams, and what was lost there; a number below 0 is none."""
    content: Any = world.old.only_session().content
    content.before = 3, 2, 1
    world.hand_over()
    after: Any = world.new.only_session().content
    assert ((3, 2, 1), (4, 3), 1) == (after.before, after.datagrams(), after.dropped_in_all)
    values = list(udp_state.PROXIED.decode(after.pack().data))
    values[-3] = 3, 2, -1
    with pytest.raises(CodecError):
        udp_state.PROXIED.decode(udp_state.PROXIED.encode(values))


def test_a_session_of_a_withdrawn_server_goes_on_elsewhere_where_it_arrives(world: World) -> None:
    """Nobody there has looked at it: that is done when it comes."""
    upstream: Any = world.cycle.stream.servers[0].proxy.upstream
    own = world.backend.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        upstream.balancer = group(
            f"server 127.0.0.1:{own}; server 127.0.0.1:{other.getsockname()[1]};"
        )
        upstream.balancer.tier.peers[0].state.status |= UNHEALTHY
        world.hand_over()
        world.new.loop.turn(0)
        world.client.sendto(b"more", world.address)
        world.turn(lambda: has_datagram(other))
        assert b"more" == other.recv(100)
        assert not has_datagram(world.backend)
