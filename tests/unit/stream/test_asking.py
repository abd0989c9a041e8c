"""Asking workers: alone here, and how an answer is made in steps."""

from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import log
from ngxstream.event.loop import Loop
from ngxstream.ipc.codec import CodecError
from ngxstream.stream import asking
from ngxstream.stream.asking import Answers, Asking, Question
from tests.support.in_process import LogTarget


class Asked:
    """A worker that is alone, and what it heard."""

    def __init__(self, loop: Loop, *questions: Question) -> None:
        self.loop = loop
        self.asking = loop.get(Asking)
        self.asking.stream = SimpleNamespace(  # type: ignore[assignment]
            questions={one.name: one for one in questions}
        )
        self.heard: list[Answers] = []

    def ask(self, name: str, payload: bytes = b"") -> None:
        """Ask; nothing is heard yet."""
        before = len(self.heard)
        self.asking.ask(name, payload, self.heard.append)
        assert before == len(self.heard)

    def turns(self, most: int = 50) -> int:
        """Turn until something is heard; return how many turns that took."""
        heard = len(self.heard)
        for turn in range(1, most + 1):
            self.loop.turn(wait_ms=100)  # slices rest by a timer of the kernel
            if len(self.heard) > heard:
                return turn
        raise AssertionError("nothing is heard")


@pytest.fixture
def target() -> LogTarget:
    """Give what is logged."""
    return LogTarget()


@pytest.fixture
def loop(target: LogTarget) -> Any:
    """Give a loop."""
    made = Loop(log.Log([target]))
    yield made
    made.poller.close()


def test_who_is_alone_answers_itself(loop: Loop) -> None:
    """With its loop, its configuration and the payload."""
    asked = Asked(loop, Question("echo", lambda loop, stream, payload: payload * 2))
    asked.ask("echo", b"ab")
    assert 1 == asked.turns()
    assert [Answers({loop.pid: b"abab"})] == asked.heard


def test_an_answer_in_steps_lets_others_have_their_turns(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that has used its slice up is the last one of that turn."""
    now = iter(range(0, 1 << 60, 5_000_000))
    monkeypatch.setattr("ngxstream.event.slices.monotonic_ns", lambda: next(now))
    seen: list[int] = []

    def steps() -> Generator[None, None, bytes]:
        for n in range(5):
            seen.append(n)
            yield
        return b"done"

    asked = Asked(loop, Question("slow", lambda loop, stream, payload: steps()))
    asked.ask("slow")
    assert 6 <= asked.turns()
    assert [0, 1, 2, 3, 4] == seen
    assert [Answers({loop.pid: b"done"})] == asked.heard


def _refuse(loop: Any, stream: Any, payload: bytes) -> bytes:
    raise CodecError("no payload of ours")


def _refuse_late(loop: Any, stream: Any, payload: bytes) -> Generator[None, None, bytes]:
    yield
    raise CodecError("no payload of ours")


@pytest.mark.parametrize("answer", [_refuse, _refuse_late])
def test_who_refuses_a_question_is_silent(loop: Loop, target: LogTarget, answer: Any) -> None:
    """At once or in a later step; a payload may come from anybody, so that is no fault of ours."""
    asked = Asked(loop, Question("q", answer))
    asked.ask("q", b"x")
    asked.turns()
    assert [Answers({}, (loop.pid,))] == asked.heard
    assert [] == target.lines


def _fail(loop: Any, stream: Any, payload: bytes) -> bytes:
    raise ZeroDivisionError


def _fail_late(loop: Any, stream: Any, payload: bytes) -> Generator[None, None, bytes]:
    yield
    raise ZeroDivisionError


@pytest.mark.parametrize("answer", [_fail, _fail_late])
def test_a_fault_is_silence_and_a_line_in_the_log(
    loop: Loop, target: LogTarget, answer: Any
) -> None:
    """Nobody waits for ever."""
    asked = Asked(loop, Question("q", answer))
    asked.ask("q")
    asked.turns()
    assert [Answers({}, (loop.pid,))] == asked.heard
    assert 0 == loop.live
    assert ["alert"] == [level for level, _ in target.lines]


def test_an_answer_that_is_too_long_is_none(loop: Loop) -> None:
    """It could not be sent to another worker."""
    size = asking.MAX_ANSWER
    asked = Asked(loop, Question("q", lambda loop, stream, payload: bytes(size + len(payload))))
    asked.ask("q", b"x")
    asked.turns()
    assert [Answers({}, (loop.pid,))] == asked.heard
    asked.ask("q", b"")
    asked.turns()
    assert size == len(asked.heard[1].given[loop.pid])


def test_a_worker_that_leaves_answers_first(loop: Loop) -> None:
    """Even if the question has ended its last session; it leaves when that is done."""
    left: list[int] = []

    def steps() -> Generator[None, None, bytes]:
        yield
        return b"done"

    asked = Asked(loop, Question("q", lambda loop, stream, payload: steps()))
    loop.exiting = True
    loop.on_idle = lambda: left.append(len(asked.heard))
    asked.ask("q")
    asked.turns()
    loop.turn(wait_ms=0)
    assert 1 == left[0]
    assert 0 == loop.live


def test_a_question_nobody_declared_is_not_asked(loop: Loop) -> None:
    """Another worker may ask what is unknown here: there is no answer to that."""
    asked = Asked(loop)
    with pytest.raises(KeyError):
        asked.ask("other")
    answers: list[bytes | None] = []
    asked.asking.answer("other", b"", answers.append)
    loop.turn(wait_ms=0)
    assert [None] == answers


def test_a_transport_is_asked_where_there_is_one(loop: Loop) -> None:
    """It knows the others."""
    asked = Asked(loop, Question("q", _fail))
    seen: list[tuple[str, bytes]] = []

    def transport(name: str, payload: bytes, done: asking.Done) -> None:
        seen.append((name, payload))
        done(Answers({1: b"one"}, (2,)))

    asked.asking.transport = transport
    asked.asking.ask("q", b"?", asked.heard.append)
    assert [("q", b"?")] == seen
    assert [Answers({1: b"one"}, (2,))] == asked.heard
