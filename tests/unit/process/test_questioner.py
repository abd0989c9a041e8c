"""A worker's end of questions: it asks by the master, answers others, and may be left alone."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import log
from ngxstream.event.loop import Loop
from ngxstream.ipc import port
from ngxstream.ipc.codec import CodecError
from ngxstream.ipc.port import Port, Speaker
from ngxstream.process import questioner, questions
from ngxstream.process.questioner import Questioner
from ngxstream.process.questions import ANSWER, ANSWERED, ASK, OVER, QUESTION
from ngxstream.stream.asking import Answers, Asking, Question
from tests.support.in_process import LogTarget
from tests.support.waiting import wait_until

MASTER = 99


class World:
    """A worker, and the master's end of its pair."""

    def __init__(self) -> None:
        self.target = LogTarget()
        self.loop = Loop(log.Log([self.target]))
        asking = self.loop.get(Asking)
        asking.stream = SimpleNamespace(questions={  # type: ignore[assignment]
            "echo": Question("echo", lambda loop, stream, payload: b"own " + payload),
            "none": Question("none", _refuse),
        })
        ours, theirs = port.pair()
        self.master = Port(ours, Speaker.of("a worker"), max_bytes=questions.MAX_BYTES)
        self.questioner = Questioner(self.loop, theirs, 0)
        self.questioner._master = MASTER
        self.heard: list[Answers] = []

    @property
    def pid(self) -> int:
        """The worker's."""
        return self.loop.pid

    def ask(self, payload: bytes = b"?", name: str = "echo") -> None:
        """Ask, and turn the loop."""
        self.loop.get(Asking).ask(name, payload, self.heard.append)
        self.loop.turn(wait_ms=0)

    def say(self, kind: int, *values: Any) -> None:
        """Have the master say something, and turn the loop."""
        assert self.master.send(kind, questions.SCHEMAS[kind].encode(values))
        for _ in range(3):
            self.loop.turn(wait_ms=0)

    def said(self) -> list[tuple[Any, ...]]:
        """Return what the worker has said to the master."""
        found: list[tuple[Any, ...]] = []
        while True:
            try:
                message = self.master.receive()
            except BlockingIOError:
                return found
            values = questions.SCHEMAS[message.kind].decode(message.payload)
            found.append((message.kind, *values))

    def wait(self, wait_ms: int) -> None:
        """Have a time pass."""
        self.loop.timers.expire(self.loop.now_ms + wait_ms, self.loop._guard)
        self.loop.turn(wait_ms=0)


def _refuse(loop: Any, stream: Any, payload: bytes) -> bytes:
    raise CodecError("no payload of ours")


@pytest.fixture
def world() -> Iterator[World]:
    """Give a worker with a master."""
    made = World()
    yield made
    made.master.close()
    made.questioner._port.close()
    made.loop.poller.close()


def test_answers_of_the_others_join_its_own(world: World) -> None:
    """Heard once, when all is over."""
    world.ask(b"a")
    assert [(ASK, 1, "echo", b"a")] == world.said()
    world.say(ANSWERED, 1, 5, b"five")
    assert [] == world.heard
    world.say(OVER, 1, [7, 6])
    assert [Answers({world.pid: b"own a", 5: b"five"}, (6, 7))] == world.heard
    world.say(OVER, 1, [])
    assert 1 == len(world.heard)


def test_its_own_answer_may_be_none(world: World) -> None:
    """Then it is among the silent itself."""
    world.ask(b"a", "none")
    world.say(OVER, 1, [])
    assert [Answers({}, (world.pid,))] == world.heard


def test_one_question_is_asked_at_a_time(world: World) -> None:
    """Others wait for its end, in order."""
    for payload in (b"a", b"b", b"c"):
        world.ask(payload)
    assert [(ASK, 1, "echo", b"a")] == world.said()
    world.say(OVER, 1, [])
    assert [(ASK, 2, "echo", b"b")] == world.said()
    world.say(OVER, 2, [])
    world.say(OVER, 3, [])
    assert [b"own a", b"own b", b"own c"] == [one.given[world.pid] for one in world.heard]


def test_what_is_said_of_another_question_is_dropped(world: World) -> None:
    """A former one, or none there ever was."""
    world.ask()
    world.say(ANSWERED, 9, 5, b"five")
    world.say(OVER, 9, [])
    assert [] == world.heard
    world.say(OVER, 1, [])
    assert [Answers({world.pid: b"own ?"})] == world.heard


def test_a_master_that_is_busy_is_silent(world: World) -> None:
    """Who asked hears what there is; the next question is sent once the first one is over."""
    world.ask(b"a")
    world.ask(b"b")
    world.say(ANSWERED, 1, 5, b"five")
    world.wait(questioner.GIVE_UP_MS + 10)
    assert [
        Answers({world.pid: b"own a", 5: b"five"}, (MASTER,)),
        Answers({world.pid: b"own b"}, (MASTER,)),
    ] == sorted(world.heard, key=lambda one: one.given[world.pid])
    assert 1 == len(world.said())
    world.ask(b"c")
    assert [] == world.said()
    world.say(OVER, 1, [])
    assert [(ASK, 3, "echo", b"c")] == world.said()


def test_so_many_questions_wait_and_no_more(world: World) -> None:
    """The others are answered by this worker alone."""
    for _ in range(questioner.QUEUED + 1):  # one of them is sent
        world.loop.get(Asking).ask("echo", b"?", world.heard.append)
    assert [] == world.heard
    world.ask()

    def is_heard() -> bool:
        world.loop.turn(wait_ms=0)
        return bool(world.heard)

    wait_until(is_heard, what="an answer")
    assert [Answers({world.pid: b"own ?"}, (MASTER,))] == world.heard


def test_others_are_answered(world: World) -> None:
    """Also while this one asks; None where there is no answer, or the question is unknown."""
    world.ask()
    world.said()
    world.say(QUESTION, 40, "echo", b"x")
    world.say(QUESTION, 41, "none", b"x")
    world.say(QUESTION, 42, "other", b"x")
    found: list[tuple[Any, ...]] = []

    def all_said() -> bool:
        world.loop.turn(wait_ms=0)
        found.extend(world.said())
        return len(found) == 3

    wait_until(all_said, what="three answers")
    assert [(ANSWER, 40, b"own x"), (ANSWER, 41, None), (ANSWER, 42, None)] == found


def test_an_answer_waits_for_a_master_that_is_busy(world: World) -> None:
    """It is sent when there is room."""
    while world.questioner._port.send(ANSWER, b"x" * 60_000):
        pass
    world.say(QUESTION, 40, "echo", b"x")
    with contextlib.suppress(BlockingIOError):
        while True:
            world.master.receive()
    world.wait(questions.AGAIN_MS + 10)
    assert [(ANSWER, 40, b"own x")] == world.said()


@pytest.mark.parametrize("message", [(77, b""), (QUESTION, b"\1"), (OVER, b"\xff" * 7)])
def test_what_is_no_message_is_refused(world: World, message: tuple[int, bytes]) -> None:
    """With a line; what follows is heard."""
    world.master.send(*message)
    world.say(QUESTION, 40, "echo", b"x")
    assert [(ANSWER, 40, b"own x")] == world.said()
    assert ["warn"] == [level for level, _ in world.target.lines]


def test_without_its_master_a_worker_asks_itself(world: World) -> None:
    """What was asked already is heard too, with what has come until then."""
    world.ask(b"a")
    world.ask(b"b")
    world.say(ANSWERED, 1, 5, b"five")
    world.master.close()
    for _ in range(3):
        world.loop.turn(wait_ms=0)
    assert [
        Answers({world.pid: b"own a", 5: b"five"}), Answers({world.pid: b"own b"})
    ] == world.heard
    world.ask(b"c")
    assert Answers({world.pid: b"own c"}) == world.heard[-1]


def test_an_answer_that_is_late_for_a_dead_master_goes_nowhere(world: World) -> None:
    """Nothing is tried again."""
    world.master.send(QUESTION, questions.SCHEMAS[QUESTION].encode((40, "echo", b"x")))
    world.master.close()
    for _ in range(3):
        world.loop.turn(wait_ms=0)
    assert not world.questioner._outbox.held
