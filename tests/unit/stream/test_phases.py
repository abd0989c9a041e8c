"""The phase engine: what is laid out, in which order it runs, and what each answer does."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import codes, log
from ngxstream.stream import phases
from ngxstream.stream.module import PhaseHandler


class Budget:
    """A turn's budget: what is put off is kept until the test calls it."""

    def __init__(self) -> None:
        self.is_busy = False
        self.put: list[Callable[[], None]] = []
        self.may_go_on = True

    def put_off(self, owner: Any, call: Callable[[], None]) -> None:
        """Keep the call."""
        self.put.append(call)

    def let_in(self, owner: Any, call: Callable[[], None]) -> bool:
        """Say whether it may go on."""
        return self.may_go_on


class Story:
    """A session's engine, and who was asked in which order."""

    def __init__(self, *entries: tuple[int, str, int], wanted: bool = True) -> None:
        """Lay out one module for each entry. Args: (phase, name, what it answers)"""
        self.asked: list[str] = []
        self.ended: list[int] = []
        self.said: list[tuple[int, str]] = []
        modules = [self._module(*entry, wanted=wanted) for entry in entries]
        self.engine = phases.compile_engine(modules, [None], self._preread)
        self.logs = phases.log_handlers(modules, [None])
        self.address = SimpleNamespace(engine=self.engine)
        self.server = SimpleNamespace(handler=lambda s: self.asked.append("content"))
        self.phase = self.status = 0
        self.c = SimpleNamespace(is_udp=False)
        self.loop = SimpleNamespace(budget=(budget := Budget()), get=lambda _: budget)

    def _module(self, phase: int, name: str, answer: int, *, wanted: bool) -> Any:
        def run(s: Any) -> int:
            self.asked.append(name)
            return answer

        handler = PhaseHandler(phase, run, lambda server: wanted)
        return SimpleNamespace(name=name, handlers=(handler,))

    def _preread(self, s: Any, handler: Any) -> int:
        self.asked.append("preread checker")
        return phases.check_generic(s, handler)

    def log_error(self, level: int, text: str) -> None:
        """Note what is logged."""
        self.said.append((level, text))

    def finalize(self, status: int) -> None:
        """Note the end."""
        self.ended.append(status)

    def run(self) -> list[str]:
        """Run on; return who was asked by then."""
        phases.run(self)  # type: ignore[arg-type]
        return self.asked


A, B = phases.PREACCESS, phases.ACCESS


def test_handlers_of_a_phase_run_in_the_reverse_of_the_modules_order() -> None:
    """Phases come in their order, handlers of one phase the last module first."""
    story = Story((B, "b", codes.DECLINED), (A, "one", codes.DECLINED), (A, "two", codes.DECLINED))
    assert ["two", "one", "b", "content"] == story.run()


def test_ok_ends_its_phase_and_declined_goes_on_in_it() -> None:
    """OK skips the other handlers of its phase and no later one."""
    story = Story((A, "never", codes.OK), (A, "one", codes.OK), (B, "b", codes.DECLINED))
    assert ["one", "b", "content"] == story.run()


@pytest.mark.parametrize("answer", [codes.AGAIN, codes.DONE])
def test_a_session_that_waits_comes_back_to_the_same_place(answer: int) -> None:
    """AGAIN and DONE leave the engine, end nothing and are asked again."""
    story = Story((A, "one", answer), (B, "b", codes.DECLINED))
    assert ["one"] == story.run()
    assert ["one", "one"] == story.run()
    assert [] == story.ended


@pytest.mark.parametrize(
    ("answer", "status"), [(codes.ERROR, 500), (codes.FORBIDDEN, 403), (200, 200)]
)
def test_a_status_ends_the_session(answer: int, status: int) -> None:
    """A status is the session's, an error is a 500, and nobody else is asked."""
    story = Story((A, "one", answer), (B, "b", codes.DECLINED))
    assert ["one"] == story.run()
    assert [status] == story.ended


def test_the_preread_phase_alone_has_its_own_checker() -> None:
    """The checker of preread is asked for its handlers, for no others."""
    story = Story((A, "one", codes.DECLINED), (phases.PREREAD, "hello", codes.DECLINED))
    assert ["one", "preread checker", "hello", "content"] == story.run()


def test_what_no_server_wants_is_not_there() -> None:
    """An address whose servers want nothing has the content phase alone."""
    story = Story((A, "one", codes.OK), (phases.LOG, "log", codes.OK), wanted=False)
    assert (1, ()) == (len(story.engine), story.logs)
    assert ["content"] == story.run()


def test_the_log_phase_is_no_part_of_the_engine_and_keeps_the_modules_order() -> None:
    """Log handlers run in the modules' order, and nothing else is among them."""
    story = Story(
        (phases.LOG, "first", codes.OK), (A, "one", codes.DECLINED), (phases.LOG, "last", codes.OK)
    )
    for handler in story.logs:
        handler(story)  # type: ignore[arg-type]
    assert ["first", "last"] == story.asked


def test_a_server_without_content_is_a_500() -> None:
    """Nothing to serve is an error of the configuration, said by the status and in the log."""
    story = Story((A, "one", codes.DECLINED))
    story.server = SimpleNamespace(handler=None)
    assert ["one"] == story.run()
    assert [500] == story.ended
    assert [(log.ERR, "no handler for server")] == story.said


def test_a_session_of_a_busy_turn_goes_on_later() -> None:
    """Nobody is asked before the session is called again, and may go on."""
    story = Story((A, "one", codes.DECLINED))
    story.loop.budget.is_busy = True
    assert [] == story.run()
    (go_on,) = story.loop.budget.put
    story.loop.budget.may_go_on = False
    go_on()
    assert [] == story.asked
    story.loop.budget.may_go_on = True
    go_on()
    assert ["one", "content"] == story.asked


def test_a_session_that_ended_meanwhile_does_not_go_on() -> None:
    """What was put off is dropped when the session is over."""
    story = Story((A, "one", codes.DECLINED))
    story.loop.budget.is_busy = True
    story.run()
    story.status = 200
    story.loop.budget.put[0]()
    assert [] == story.asked


def test_a_datagram_is_not_put_off() -> None:
    """The first datagram of a UDP session is there in this turn alone."""
    story = Story((A, "one", codes.DECLINED))
    story.loop.budget.is_busy = True
    story.c.is_udp = True
    assert ["one", "content"] == story.run()
