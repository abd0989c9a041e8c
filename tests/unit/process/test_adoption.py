"""What comes by a hand-over: taken as far as it can be, and who may add what to it, until when."""

import contextlib
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.event.listen_options import ListenOptions
from ngxstream.event.recycle import SocketPool
from ngxstream.process import adoption, mailbox
from tests.support import descriptors, moving, strangers
from tests.support.moving import World, world_of_root
from tests.support.strangers import NOBODY

__all__ = ["world_of_root"]

GIVER = 77  # pid


class Given:
    """A session that a process gives, any number of times."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.values, self.proxied, self.sock = world.parcel()
        self.key, self.number = self.values[moving.KEY], self.values[moving.NUMBER]
        self.adopter = adoption.Adopter(world.new.loop, world.new.service)

    def give(self, *, is_foreign: bool, **more: Any) -> Any:
        """Give it; return what it became."""
        record = self.world.record(self.values, self.proxied, **more)
        before = set(self.world.new.loop.sessions)
        mail = mailbox.Mail(
            mailbox.SESSIONS, ([record], b"\1"), [os.dup(self.sock.fileno())], GIVER, NOBODY
        )
        self.adopter.take_sessions(mail, is_foreign=is_foreign)
        assert [] == mail.fds
        (made,) = self.world.new.loop.sessions - before
        return made

    def may_send(self) -> bool:
        """Tell whether its giver may send datagrams of its client."""
        return self.adopter.may_send(GIVER, self.world.key, self.key)


@pytest.fixture
def given(world: World) -> Any:
    """Give a session on its way."""
    made = Given(world)
    yield made
    made.sock.close()


def test_a_stranger_may_send_while_its_session_has_the_client(given: Given) -> None:
    """It may no longer when the client has a session of ours."""
    s = given.give(is_foreign=True)
    assert given.may_send()
    s.finalize(200)
    assert given.may_send()  # nobody has one
    given.give(is_foreign=False)
    assert not given.may_send()


def test_a_session_that_has_no_client_gives_no_say(given: Given) -> None:
    """Its client's datagrams go to one of ours."""
    given.give(is_foreign=False)
    given.give(is_foreign=True, listed=False)
    assert not given.may_send()


def test_who_has_sent_everything_has_no_say(given: Given) -> None:
    """A worker that has handed over everything may send nothing more for the sessions it gave."""
    given.give(is_foreign=True, waiting=1)
    given.adopter.forget(GIVER + 1)
    assert given.may_send() and given.adopter.is_owed(GIVER, given.number)
    given.adopter.forget(GIVER)
    assert not given.may_send() and not given.adopter.is_owed(GIVER, given.number)


def test_as_many_datagrams_follow_as_were_announced(given: Given) -> None:
    """Then, or when the session has ended, no more."""
    s = given.give(is_foreign=True, waiting=3)
    for count in (2, 1):
        assert given.adopter.is_owed(GIVER, given.number)
        given.adopter.take_waiting(GIVER, given.number, [b"x"] * count)
    assert not given.adopter.is_owed(GIVER, given.number)
    given.adopter.take_waiting(GIVER, given.number, [b"too late"])
    assert [b"x"] * 3 == [given.world.backend.recv(100) for _ in range(3)]
    with pytest.raises(BlockingIOError):
        given.world.backend.recv(100)
    s.finalize(200)
    given.give(is_foreign=True, waiting=1).finalize(200)
    assert not given.adopter.is_owed(GIVER, given.number)


def test_a_session_that_goes_on_elsewhere_has_sent_what_waited(given: Given) -> None:
    """Before it does; one that had nothing goes at once."""
    gone: list[Any] = []
    given.adopter.departure = SimpleNamespace(take=gone.append)  # type: ignore[assignment]
    s = given.give(is_foreign=False, waiting=1)
    assert [] == gone
    given.adopter.take_waiting(GIVER, given.number, [b"waited"])
    assert (b"waited", [s]) == (given.world.backend.recv(100), gone)
    assert [s, given.give(is_foreign=False, listed=False)] == gone


def test_what_comes_after_a_departure_departs_too(world: World) -> None:
    """A worker that has handed over keeps no session that reaches it late."""
    values, proxied, sock = world.parcel()
    gone: list[Any] = []
    world.new.arrival.depart(SimpleNamespace(take=gone.append))  # type: ignore[arg-type]
    world.post(values, proxied, sock.fileno())
    sock.close()
    assert [world.new.only_session()] == gone


def test_who_was_given_a_datagram_may_pass_on_the_next(given: Given) -> None:
    """That it is ours is known of this one alone."""
    listener = given.world.new.service.listener_of(given.world.key)
    assert listener is not None
    before = listener.stray
    s = given.give(is_foreign=False)
    given.adopter.take_datagrams(
        given.world.key, given.key, given.key, None, [b"x"], is_settled=True
    )
    assert (b"x", before) == (given.world.backend.recv(100), listener.stray)
    s.finalize(200)


# -- a leaving worker of another user --------------------------------------------------------------


def test_its_socket_is_nobody_else_s_later(world: World) -> None:
    """Another user may have a copy of it: it is closed with its session, not used again."""
    values, proxied, sock = world.parcel()
    world.post(values, proxied, sock.fileno(), uid=NOBODY)
    sock.close()
    world.new.only_session().finalize(200)
    assert 0 == len(world.new.loop.get(SocketPool))


def test_its_copy_of_a_socket_wakes_nobody_later(world: World) -> None:
    """The kernel tells of a socket until its last copy is closed, if it is not told to stop."""
    values, proxied, sock = world.parcel()
    world.post(values, proxied, sock.fileno(), uid=NOBODY)
    world.new.only_session().finalize(200)
    world.new.loop.turn(0)
    world.backend.sendto(b"late", sock.getsockname())
    with contextlib.closing(sock):
        assert b"late" == sock.recv(100, socket.MSG_PEEK)
        assert [] == world.new.loop.poller.poll(0)


def test_it_takes_no_client_of_ours(world: World) -> None:
    """A session of a client that has one here is dropped, and so are words to that client's."""
    values, proxied, sock = world.parcel()
    world.post(values, proxied, os.dup(sock.fileno()))
    ours = world.new.only_session()
    world.post(values, proxied, os.dup(sock.fileno()), uid=NOBODY)
    assert ours is world.new.only_session()
    key = ours.c.key
    world.backend.setblocking(False)
    world.say(mailbox.WAITING, ours.c.number, [b"injected"], uid=NOBODY)
    world.say(mailbox.DATAGRAMS, world.key, key, key, None, [b"injected"], uid=NOBODY)
    world.new.arrival.go()
    world.turn(lambda: world.new.arrival.settled)
    with pytest.raises(BlockingIOError):
        world.backend.recv(100)
    refused = world.warnings()
    assert "user 65534 gives sessions of clients that are ours" in refused[0]
    assert 2 == len([line for line in refused if "may not say it" in line])
    sock.close()


def test_it_may_add_to_what_it_gave(world: World) -> None:
    """What its session had yet to send is sent; after its DONE it is not listened to."""
    values, proxied, sock = world.parcel()
    number = values[moving.NUMBER]
    record = world.record(values, proxied, waiting=2)

    values[moving.KEY] = values[moving.SOCKADDR] = ("127.0.0.1", 9)
    another = world.record(values, proxied)

    def leave() -> None:
        box = mailbox.Outbox(world.new.loop, world.new.box.writer)
        box.put(mailbox.SESSIONS, [record], b"\1", fds=[sock.fileno()])
        box.put(mailbox.WAITING, number, [b"waited"])
        box.put(mailbox.DONE, os.getpid())
        box.put(mailbox.WAITING, number, [b"too late"])
        box.put(mailbox.SESSIONS, [another], b"\1", fds=[sock.fileno()])
        assert box.send()

    strangers.run_as(NOBODY, leave)
    world.turn(lambda: len(world.warnings()) == 2)
    sock.close()
    assert b"waited" == world.backend.recv(100)
    with pytest.raises(BlockingIOError):
        world.backend.recv(100)
    assert 1 == len(world.new.loop.sessions)


def test_it_takes_no_more_than_there_is_room(world: World) -> None:
    """Sessions without end do not take the slots below none."""
    values, proxied, sock = world.parcel()
    for _ in range(40):  # not listed: clients may be the same
        world.post(values, proxied, sock.fileno(), uid=NOBODY, listed=False)
    sock.close()
    assert world.new.loop.free_connections >= 0
    assert any("more sessions than fit" in line for line in world.warnings())


@pytest.mark.parametrize(
    ("n", "value", "why"),
    [
        (moving.KEY, ("::1", 1, 0, 0), "clients cannot be such"),
        (moving.KEY, "/path", "clients cannot be such"),
        (moving.KEY, None, "clients cannot be such"),
        (moving.KEY, (("127.0.0.1", 1), bytes(16)), "clients cannot be such"),
        (moving.KEY, (("127.0.0.1", 1), b""), "clients cannot be such"),
        (moving.KEY, (None, b"x"), "clients cannot be such"),
        (moving.KEY, ("/path", b"x"), "clients cannot be such"),
        (moving.GENERATION, 77, "of an unknown configuration"),
        (moving.SERVER, 1, "does not listen at its address"),
        (moving.SERVER, 2, "a session of server 2"),
    ],
)
def test_nonsense_is_dropped_with_its_socket(world: World, n: int, value, why: str) -> None:
    """The log says why, once for all of a message."""
    values, proxied, sock = world.parcel()
    values[n] = value
    before = descriptors.count()
    world.post(values, proxied, sock.fileno(), uid=NOBODY)
    assert before == descriptors.count()
    assert not world.new.loop.sessions
    assert why in world.warnings()[0]
    sock.close()


def test_a_server_that_proxies_nothing_takes_no_session(world: World) -> None:
    """Which server the session names makes no difference."""
    values, proxied, sock = world.parcel()
    values[moving.ADDRESS] = values[moving.SERVER] = 1
    world.post(values, proxied, sock.fileno(), uid=NOBODY)
    assert "their server proxies nothing" in world.warnings()[0]
    sock.close()


@pytest.mark.parametrize("kind", ["returned text", "scripted", ""])
def test_a_content_of_an_unknown_kind_is_refused(world: World, kind: str) -> None:
    """One that no module here has, or that never moves: in one line, with its sockets."""
    values, proxied, sock = world.parcel()
    before = descriptors.count()
    world.post(values, proxied, sock.fileno(), kind=kind)
    assert before == descriptors.count()
    assert not world.new.loop.sessions
    (line,) = world.warnings()
    assert f'1 UDP sessions were dropped: their content is of an unknown kind, "{kind}"' in line
    sock.close()


@pytest.mark.parametrize("count", [0, 2])
def test_a_proxied_session_has_one_socket(world: World, count: int) -> None:
    """A session that comes with no socket, or with several, is refused."""
    values, proxied, sock = world.parcel()
    record = world.record(values, proxied)
    world.say(mailbox.SESSIONS, [record], bytes((count,)), fds=[sock.fileno()] * count)
    assert f"a session with {count} sockets" in world.warnings()[0]
    sock.close()


def test_nobody_listens_where_it_says(world: World) -> None:
    """An address of no listener of ours; its datagrams are dropped, too."""
    values, proxied, sock = world.parcel()
    where = (socket.SOCK_DGRAM, socket.AF_INET, ("192.0.2.1", 53))
    world.post(values, proxied, sock.fileno(), uid=NOBODY, where=where)
    world.say(mailbox.DATAGRAMS, where, ("127.0.0.1", 1), ("127.0.0.1", 1), None, [b"x"])
    assert "nobody listens at their address" in world.warnings()[0]
    sock.close()


@pytest.mark.parametrize(
    ("key", "peer"),
    [
        (("127.0.0.1", 1), ("127.0.0.1", 2)),
        (("::1", 1, 0, 0), ("::1", 1, 0, 0)),
        ("/path", "/path"),
    ],
)
def test_datagrams_are_of_who_is_named(world: World, key, peer) -> None:
    """The key is the client's, and of the family of the address."""
    world.say(mailbox.DATAGRAMS, world.key, key, peer, None, [b"x"])
    assert "cannot be one of their address" in world.warnings()[0]


@pytest.mark.parametrize(
    ("address", "key", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", 1), True),
        ("127.0.0.1", (("127.0.0.1", 1), bytes(4)), True),
        ("127.0.0.1", (("127.0.0.1", 1), b"\4" + bytes(4) + b"tag"), True),
        ("127.0.0.1", (("127.0.0.1", 1), b"\0tag"), True),
        ("127.0.0.1", (("127.0.0.1", 1), b"\4\0\0"), False),
        ("127.0.0.1", (("127.0.0.1", 1), b"\7" + bytes(9)), False),
        ("127.0.0.1", (None, b"x"), False),
        ("127.0.0.1", (b"name", bytes(4)), False),
        ("127.0.0.1", ("/path", b"\0tag"), False),
        ("0.0.0.0", ("127.0.0.1", 1), False),
        ("0.0.0.0", (("127.0.0.1", 1), bytes(4)), True),
        ("::", (("::1", 1, 0, 0), bytes(16)), True),
        ("::", (("::1", 1, 0, 0), bytes(4)), False),
        ("::1", ("127.0.0.1", 1), False),
    ],
)
def test_a_client_fits_its_address_or_not(address: str, key, expected: bool) -> None:
    """By family, by the local address a wildcard needs, by the tag a PROXY header leaves."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockaddr = (address, 53, 0, 0) if ":" in address else (address, 53)
    options = ListenOptions(
        family=family, socktype=socket.SOCK_DGRAM, sockaddr=sockaddr, text="a",
        wildcard=address in ("0.0.0.0", "::"),
    )
    assert expected == adoption.fits(options, key)
