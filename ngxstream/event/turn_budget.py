"""CPU time that clients' work may take in one turn of the loop, and who waits for the next one.

What a client's bytes set going may be expensive although each step of it is bounded: a regular
expression takes milliseconds on a name that was made for it. The time of such work is measured
and charged:

1. One owner, a session, has OWNER_NS in a turn; then it is told that it has had its share.
2. When all of them have taken TURN_NS, who comes later in the turn is put off. Those who were put
   off go first in the turns that follow, in the order they came, some in each turn; whoever comes
   while they wait queues behind them.
3. Some cannot be put off: a session that ends is logged now. When all have taken MOST_NS nobody
   has a share any more, whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import islice
from time import thread_time_ns
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

TURN_NS: Final = 8_000_000
OWNER_NS: Final = 3_000_000
MOST_NS: Final = TURN_NS + 4_000_000
LET_IN: Final = 32  # calls that were put off and are made in one turn

Call = Callable[[], None]
A = TypeVar("A")
R = TypeVar("R")


class TurnBudget:
    """The budget of one loop. Times are nanoseconds of the worker's CPU time."""

    __slots__ = (
        "loop",
        "is_busy",  # bool: who comes now is to be put off
        "is_spent",  # bool: TURN_NS of this turn are used up
        "_spent",  # int: in this turn
        "_owner",  # object: who was charged last in this turn
        "_owner_spent",  # int
        "_waiting",  # dict[Hashable, Call]: put off, by whose call it is
        "_again",  # dict[Hashable, Call]: let in, and put off once more
        "_due",  # set[Hashable]: whose call is made at the end of this turn
        "_is_posted",
    )

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.is_busy = False
        self.is_spent = False
        self._spent = 0
        self._owner: object = None
        self._owner_spent = 0
        self._waiting: dict[Hashable, Call] = {}
        self._again: dict[Hashable, Call] = {}
        self._due: set[Hashable] = set()
        self._is_posted = False

    def has_share(self, owner: object) -> bool:
        """Tell whether somebody may take more time in this turn."""
        if owner is not self._owner:
            self._owner = owner
            self._owner_spent = 0
        return self._owner_spent < OWNER_NS and self._spent < MOST_NS

    def charge(self, spent: int) -> None:
        """Charge time to the owner who asked last."""
        self._owner_spent += spent
        self._spent += spent
        if self._spent >= TURN_NS:
            self.is_busy = self.is_spent = True
        self._post()

    def measure(self, work: Callable[[A], R], argument: A) -> R:
        """Charge the time that a call takes, to the owner who asked last, and return its result."""
        begun = thread_time_ns()
        try:
            return work(argument)
        finally:
            self.charge(thread_time_ns() - begun)

    def put_off(self, owner: Hashable, call: Call) -> None:
        """Have a call made in one of the next turns; once, however often an owner is put off.

        One whose call is about to be made may have come to its end by another one.
        """
        if owner not in self._due:
            self._waiting.setdefault(owner, call)
            self._post()

    def let_in(self, owner: Hashable, call: Call) -> bool:
        """Tell whether a call that was put off may go on now; else it is put off again."""
        self._due.discard(owner)
        if self._spent < TURN_NS:
            return True
        self._again[owner] = call
        return False

    def _post(self) -> None:
        if not self._is_posted:
            self._is_posted = True
            self.loop.post(self._on_turn_end)

    def _on_turn_end(self) -> None:
        # what is posted from here runs at the end of the next turn, and this behind it
        self._is_posted = self.is_spent = False
        self._spent = self._owner_spent = 0
        self._owner = None
        if self._again:
            self._waiting = {**self._again, **self._waiting}
            self._again = {}
        owners = list(islice(self._waiting, LET_IN))
        self._due = set(owners)  # all calls of the former ones were made
        for owner in owners:
            self.loop.post(self._waiting.pop(owner))
        self.is_busy = bool(owners)
        if owners:
            self._post()
