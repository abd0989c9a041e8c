"""What a process may add to the sessions it gave, and until when."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.process import adoption, mailbox
from tests.support import moving
from tests.support.moving import World, world
from tests.support.strangers import NOBODY

__all__ = ["world"]

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
    """Not when the client is ours since."""
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
    """In what it gave."""
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
