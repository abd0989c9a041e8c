"""What serves a cycle on a loop: its listening sockets are opened, watched and let go of."""

from pathlib import Path

import pytest

from ngxstream.core import log
from tests.support.moving import World, world  # noqa: F401 - a fixture


def test_there_is_a_listener_for_each_address(world: World) -> None:  # noqa: F811
    """Known by the address's key, and by no other."""
    service = world.old.service
    assert (2, 2) == (service.count(), len(service.udp_listeners))
    for listening in world.cycle.listenings:
        listener = service.listener_of(listening.options.key)
        assert listener is not None
        assert listening is listener.listening
        assert service.is_current(listening)
    assert service.listener_of((2, 2, ("127.0.0.3", 1))) is None


def test_closed_listeners_keep_the_socket_that_a_client_is_answered_by(
    world: World,  # noqa: F811
) -> None:
    """It is closed when the last of them has gone."""
    service = world.old.service
    service.close_listeners()
    service.close_sockets()
    ours, other = world.cycle.listenings
    assert (True, False) == (ours.socks[0].fileno() >= 0, other.socks[0].fileno() >= 0)
    world.old.only_session().finalize(200)
    world.old.loop.turn(0)
    service.close_sockets()
    assert ours.socks[0].fileno() < 0


def test_a_shutdown_ends_every_session_whatever_one_raises(
    world: World, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    """The fault is an [alert]; it hinders no other session."""
    session = world.old.only_session()
    ended = []

    class Broken:
        content = None

        def log_error(self, *_: object) -> None:
            raise ZeroDivisionError

    monkeypatch.setattr(world.old.loop, "sessions", [Broken(), session])
    monkeypatch.setattr(type(session), "finalize", lambda s, status: ended.append(status))
    world.old.service.shut_down_sessions()
    monkeypatch.undo()
    assert [200] == ended
    assert "unexpected exception" in Path(world.log).read_text()


def test_a_former_generation_is_counted_while_a_session_of_it_lives(
    world: World, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    """One of the current generation is not."""
    adopted: list[int] = []

    class Counts:
        def adopt(self, generation: int):
            adopted.append(generation)
            return lambda: adopted.append(-generation)

    service = world.old.service
    service._generations = Counts()  # type: ignore[assignment]
    session = world.old.only_session()
    service.count_adopted(session)
    assert [] == adopted
    former = world.cycle.generation
    world.cycle.generation += 1
    service.count_adopted(session)
    session.finalize(200)
    assert [former, -former] == adopted


def test_lines_of_a_service_wait_for_the_end_of_the_turn(world: World) -> None:  # noqa: F811
    """Into every file of the configuration: the error log, and the access log too."""
    loop, cycle = world.new.loop, world.cycle
    paths = [Path(file.path) for file in cycle.files]
    before = [path.read_bytes() for path in paths]
    found: list[list[bytes]] = []

    def say() -> None:
        for file in cycle.files:
            log.FileTarget(file, log.INFO, cycle.log.clock).write(log.INFO, b"x\n")
        found.append([path.read_bytes() for path in paths])

    loop.post(say)
    loop.turn(0)
    assert {"error.log", "access.log"} <= {path.name for path in paths}
    assert [before] == found
    assert [text + b"x\n" for text in before] == [path.read_bytes() for path in paths]
