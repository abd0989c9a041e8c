"""The loop's turn: what is posted, what expires, what fails, and what is closed when."""

import contextlib
import fcntl
import functools
import os
import socket
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ngxstream.core import clock, files, log
from ngxstream.event.loop import Loop, PoisoningLoop
from ngxstream.event.poller import FD_SETSIZE, LEVEL
from tests.support.engine import engine, run_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Give a loop over epoll."""
    with engine() as made:
        yield made


class Owner:
    """Somebody whose handler fails, as an owner that can be ended."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.ended = 0

    def on_event(self, mask: int) -> None:
        """Fail."""
        raise self.error

    def on_fault(self) -> None:
        """Note the end."""
        self.ended += 1


def nothing(mask: int) -> None:
    """Handle an event by doing nothing."""


def test_what_is_posted_runs_at_the_end_of_the_turn(loop: Loop) -> None:
    """And what that posts runs in the next one."""
    seen: list[str] = []
    loop.post(lambda: (seen.append("first"), loop.post(lambda: seen.append("second"))))
    loop.turn(0)
    assert ["first"] == seen
    loop.turn(0)
    assert ["first", "second"] == seen


def test_a_fault_ends_its_owner_and_not_the_loop(loop: Loop) -> None:
    """The log has one line of level alert, in one line; everybody else goes on."""
    near, far = socket.socketpair()
    owner = Owner(ValueError("no good"))
    with near, far:
        loop.register(near.fileno(), owner.on_event, LEVEL)
        far.send(b"x")
        run_until(loop, lambda: owner.ended)
        loop.unregister(near.fileno())
    ((level, text),) = loop.log.lines
    assert log.ALERT == level
    assert text.startswith("unexpected exception: Traceback")
    assert text.endswith("ValueError: no good")
    assert "\n" not in text


def test_a_failing_callback_hinders_no_other(loop: Loop) -> None:
    """Of three posted, the first and the last run though the second fails."""
    seen: list[int] = []
    for callback in (lambda: seen.append(1), lambda: seen.append(1 // 0), lambda: seen.append(3)):
        loop.post(callback)
    loop.turn(0)
    assert [1, 3] == seen
    assert [log.ALERT] == [level for level, _ in loop.log.lines]


def test_a_descriptor_beyond_select_s_limit_is_told_in_words() -> None:
    """Under select its owner ends with a line of level crit; it is nobody's bug."""
    near, far = socket.socketpair()
    with engine("select") as loop, near, far:
        try:
            high = fcntl.fcntl(near.fileno(), fcntl.F_DUPFD, FD_SETSIZE)
        except OSError:
            pytest.skip("this process may not have so many descriptors")

        class Late(Owner):
            def on_event(self, mask: int) -> None:
                loop.register(high, nothing)

        owner = Late(ValueError())
        loop.register(near.fileno(), owner.on_event, LEVEL)
        far.send(b"x")
        run_until(loop, lambda: owner.ended)
        loop.unregister(near.fileno())
        os.close(high)
        lines = loop.log.lines
    assert [(log.CRIT, f"select() cannot watch descriptor {high}: its limit is 1024")] == lines


def test_sockets_are_closed_at_the_end_of_the_turn(loop: Loop) -> None:
    """A descriptor's number is not given out again while events of the turn may name it."""
    near, far = socket.socketpair()
    loop.register(near.fileno(), nothing)
    number = near.fileno()
    loop.close_later(near)
    assert number == near.fileno()
    assert number not in loop.handlers
    loop.turn(0)
    assert -1 == near.fileno()
    assert b"" == far.recv(1)
    far.close()


def test_timers_end_and_are_cancelled(loop: Loop) -> None:
    """A timer calls back once; a cancelled one does not; both leave nothing behind."""
    seen: list[str] = []
    loop.call_later(1, lambda: seen.append("called"))
    loop.call_later(1, lambda: seen.append("cancelled"), cancelable=True).cancel()
    assert 1 == loop.live
    run_until(loop, lambda: seen)
    loop.turn(0)
    assert ["called"] == seen
    assert 0 == loop.live


def test_a_leaving_loop_is_idle_when_nothing_lives(loop: Loop) -> None:
    """on_idle is called at the end of the first turn in which nothing keeps the worker."""
    idle: list[int] = []
    loop.on_idle = lambda: idle.append(1)
    loop.turn(0)
    assert [] == idle  # it is not leaving
    loop.exiting = True
    loop.live = 1
    loop.turn(0)
    assert [] == idle
    loop.live = 0
    loop.turn(0)
    assert [1] == idle


@pytest.mark.parametrize("depth", [1, 2])
def test_a_call_with_arguments_belongs_to_whose_method_it_is(loop: Loop, depth: int) -> None:
    """What functools.partial() makes of a method, once or twice, ends the method's owner."""
    owner = Owner(ValueError("no good"))
    call = functools.partial(owner.on_event, 0)
    for _ in range(depth - 1):
        call = functools.partial(call, *())
    loop.post(call)
    loop.turn(0)
    assert 1 == owner.ended
    loop.call_later(1, call)
    run_until(loop, lambda: owner.ended == 2)


class Stubborn(Owner):
    """An owner that cannot even be ended."""

    def on_fault(self) -> None:
        """Fail."""
        raise KeyError("not again")


def test_an_owner_that_cannot_be_ended_hinders_no_other(loop: Loop) -> None:
    """Its end fails too: two lines of level alert, and the others of the turn are called."""
    ended = Owner(ValueError("no good"))
    for owner in (Stubborn(ValueError("no good")), ended):
        loop.post(lambda owner=owner: loop.fault(owner))
    timer = Stubborn(ValueError("late"))
    loop.post(lambda: timer.on_event(0))
    loop.turn(0)
    assert 1 == ended.ended
    assert [log.ALERT] * 4 == [level for level, _ in loop.log.lines]


def test_what_fails_in_the_turn_hinders_no_timer_and_no_event(loop: Loop) -> None:
    """A stubborn event, a stubborn timer and a stubborn call: each has its alert, all are run."""
    seen: list[str] = []
    near, far = socket.socketpair()
    with near, far:
        stubborn = Stubborn(ValueError("no good"))
        loop.register(near.fileno(), stubborn.on_event, LEVEL)
        far.send(b"x")
        loop.call_later(1, lambda: stubborn.on_event(0))
        loop.call_later(1, lambda: seen.append("timer"))
        loop.post(lambda: stubborn.on_event(0))
        loop.post(lambda: seen.append("posted"))
        run_until(loop, lambda: len(seen) == 2)
        loop.unregister(near.fileno())
    assert {"timer", "posted"} == set(seen)


def test_a_view_that_outlives_its_turn_is_spoilt() -> None:
    """The loop of the tests fills its slots with 0xDD, all of what was written."""
    with engine() as loop:
        kept = []

        def read() -> None:
            for slot, size in zip(loop.slots, (1, 100, 2048, 3000, 65536), strict=False):
                slot[:size] = b"x" * size
                kept.append(slot[:size])

        loop.post(read)
        loop.turn(0)
        assert [b"\xdd" * len(view) for view in kept] == [bytes(view) for view in kept]


def test_a_timer_s_fault_ends_what_it_was_set_for(loop: Loop) -> None:
    """The callback's owner is ended; one whose callback did nothing wrong is not."""
    owner, other = Owner(ValueError("no good")), Owner(ValueError("no good"))
    loop.call_later(1, functools.partial(int, "1"))
    loop.call_later(1, types.MethodType(lambda self: self.on_event(0), owner))
    loop.call_later(1, types.MethodType(lambda self: None, other))
    run_until(loop, lambda: owner.ended)
    assert (1, 0) == (owner.ended, other.ended)
    assert [log.ALERT] == [level for level, _ in loop.log.lines]


def test_a_poisoning_loop_spoils_what_a_turn_read() -> None:
    """Short and long datagrams that somebody kept a view of are gone after the turn."""
    with engine() as loop:
        assert isinstance(loop, PoisoningLoop)
        for size in (5, PoisoningLoop.USUAL + 5, 5):
            for space in (loop.view, loop.slots[0]):
                space[:size] = b"x" * size
            loop.turn(0)
            for space in (loop.view, loop.slots[0]):
                assert b"\xdd" * size == bytes(space[:size])


@pytest.fixture
def logged(loop: Loop, tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """Give the texts in the file that the loop logs to."""
    path = tmp_path / "error.log"
    file = files.OpenFile(str(path))
    file.open()
    file.gather(loop.lines)
    loop.log = log.Log([log.FileTarget(file, log.DEBUG, clock.Clock())])
    yield lambda: [line.partition(": ")[2] for line in path.read_text().splitlines()]
    file.close()


def say(loop: Loop, text: str) -> None:
    """Log a line of level info."""
    loop.log.write(log.INFO, text)


class Closing:
    """A socket that notes what the log has when it is closed."""

    def __init__(self, logged: Callable[[], list[str]]) -> None:
        self.logged = logged
        self.found: list[str] = []

    def close(self) -> None:
        """Look into the log."""
        self.found = self.logged()


def test_lines_wait_for_the_end_of_the_turn(loop: Loop, logged: Callable[[], list[str]]) -> None:
    """Those of handlers, timers and what was posted are written then, before sockets close."""
    near, far = socket.socketpair()
    found: list[list[str]] = []
    closing = Closing(logged)

    def handle(mask: int) -> None:
        say(loop, "handler")
        loop.unregister(near.fileno())
        loop.closing.append(closing)
        loop.post(lambda: (say(loop, "posted"), found.append(logged())))

    with near, far:
        loop.register(near.fileno(), handle, LEVEL)
        loop.call_later(-1_000_000_000, lambda: say(loop, "timer"))
        far.send(b"x")
        loop.turn(1000)
    assert [[]] == found
    assert ["handler", "timer", "posted"] == closing.found == logged()


def test_nothing_waits_while_the_loop_sleeps(
    loop: Loop, logged: Callable[[], list[str]]
) -> None:
    """What is said before a poll, or by on_idle behind all else, is in the file before it."""
    found: list[list[str]] = []
    wait = loop.poller.wait
    loop.poller.wait = lambda s, most: (found.append(logged()), wait(0, most))[1]
    loop.exiting = True
    loop.on_idle = lambda: say(loop, "idle")
    say(loop, "before")
    loop.turn()
    loop.turn()
    assert [["before"], ["before", "idle"]] == found


def test_a_fault_is_written_at_once(loop: Loop, logged: Callable[[], list[str]]) -> None:
    """With what was said before it: the process may be at its end."""
    found: list[list[str]] = []
    loop.post(lambda: say(loop, "before"))
    loop.post(lambda: 1 // 0)
    loop.post(lambda: found.append(logged()))
    loop.turn(0)
    ((before, fault),) = found
    assert "before" == before
    assert fault.startswith("unexpected exception: ")


@pytest.mark.parametrize("leave", [Loop.stop, lambda loop: sys.exit(0)])
def test_a_loop_that_ends_has_written_all(
    leave: Callable[[Loop], None], loop: Loop, logged: Callable[[], list[str]]
) -> None:
    """Also one that ends in the middle of a turn; what comes later is written at once."""
    loop.post(lambda: (say(loop, "last"), leave(loop)))
    with contextlib.suppress(SystemExit):
        loop.run()
    assert ["last"] == logged()
    say(loop, "exit")
    assert ["last", "exit"] == logged()


def test_lines_that_cannot_be_written_end_no_turn(
    loop: Loop, logged: Callable[[], list[str]], tmp_path: Path
) -> None:
    """Who is told of a failure and fails is a fault, and other files have their lines."""
    full = files.OpenFile(str(tmp_path / "full"))
    full.open()
    full.gather(loop.lines)
    os.close(full.fd)
    full.fd = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    loop.post(lambda: full.chunk.add(b"x\n", full, lambda error: 1 // 0))
    loop.post(lambda: say(loop, "other"))
    loop.turn(0)
    full.close()
    other, fault = logged()
    assert "other" == other
    assert "ZeroDivisionError" in fault
