"""modules/ssl/handshake.py: a handshake goes on when there is something to do, and time for it."""

from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import codes
from ngxstream.event.poller import IN, OUT
from ngxstream.modules.ssl.handshake import Handshake


class Waiting:
    """A handshake under way, and what was done."""

    def __init__(self, *, busy: bool = False, let_in: bool = True, writing: bool = False) -> None:
        self.done: list[str] = []
        self.put_off: list[Any] = []
        budget = SimpleNamespace(
            is_busy=busy,
            put_off=lambda s, call: self.put_off.append(call),
            let_in=lambda s, call: let_in,
        )
        self.s = SimpleNamespace(loop=SimpleNamespace(get=lambda _: budget))
        self.transport: Any = SimpleNamespace(wants_write=writing, handshake=self.shake)
        self.go_on = lambda: Handshake.go_on(self)  # type: ignore[arg-type]

    def shake(self) -> int:
        """Take a step that is not the last."""
        self.done.append("shaken")
        return codes.AGAIN

    def event(self, mask: int) -> list[str]:
        """Tell an event; return what was done."""
        this: Any = self
        Handshake.on_event(this, mask)
        return self.done


@pytest.mark.parametrize(
    ("mask", "writing", "expected"),
    [(IN, False, ["shaken"]), (OUT, True, ["shaken"]), (OUT, False, []), (3, True, ["shaken"])],
)
def test_it_goes_on_by_what_it_waits_for(mask: int, writing: bool, expected: list[str]) -> None:
    """An event of room is for one that has something to send."""
    assert expected == Waiting(writing=writing).event(mask)


def test_it_waits_for_a_turn_that_has_time_left() -> None:
    """It is put off in a busy turn, and goes on when it is let in."""
    waiting = Waiting(busy=True)
    assert [] == waiting.event(IN)
    (go_on,) = waiting.put_off
    go_on()
    assert ["shaken"] == waiting.done
    waiting = Waiting(busy=True, let_in=False)
    waiting.event(IN)
    waiting.put_off[0]()
    assert [] == waiting.done


def test_one_that_is_over_does_nothing_more() -> None:
    """Whatever comes later: an event, or its turn after it was put off."""
    waiting = Waiting(busy=True)
    waiting.event(IN)
    waiting.transport = None
    waiting.put_off[0]()
    assert [] == waiting.event(IN)
    assert 1 == len(waiting.put_off)
