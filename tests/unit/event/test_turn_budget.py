"""Work that clients make expensive has a budget in each turn, and who comes late waits."""

from collections.abc import Callable

from ngxstream.event.turn_budget import LET_IN, MOST_NS, OWNER_NS, TURN_NS, TurnBudget
from tests.support.engine import engine


class Turns:
    """A budget, its loop, and clients that take time and put down when they had it."""

    def __init__(self, budget: TurnBudget) -> None:
        self.budget = budget
        self.done: list[object] = []

    def come(self, who: object, spent: int) -> None:
        """Take time now, or be put off."""

        def go_on() -> None:
            if self.budget.let_in(who, go_on):
                self.work(who, spent)

        if self.budget.is_busy:
            self.budget.put_off(who, go_on)
        else:
            self.work(who, spent)

    def work(self, who: object, spent: int) -> None:
        """Take the time."""
        self.done.append(who)
        if spent:
            self.budget.has_share(who)
            self.budget.charge(spent)


def test_an_owner_has_its_share_until_it_is_used_up() -> None:
    """Each turn begins with a new share."""
    with engine() as loop:
        budget = loop.get(TurnBudget)
        assert budget.has_share("a")
        budget.charge(OWNER_NS - 1)
        assert budget.has_share("a")
        budget.charge(1)
        assert not budget.has_share("a")
        assert budget.has_share("b")
        loop.turn(0)
        assert budget.has_share("a")


def test_nobody_has_a_share_when_those_who_cannot_be_put_off_have_taken_the_most() -> None:
    """Owners without end, each within its share, are held to one bound until the turn is over."""
    with engine() as loop:
        budget = loop.get(TurnBudget)
        spent, owner = 0, 0
        while budget.has_share(owner):
            budget.charge(OWNER_NS // 2)
            spent += OWNER_NS // 2
            assert budget.is_spent == (spent >= TURN_NS)
            owner += 1
            assert owner < 100
        assert MOST_NS <= spent < MOST_NS + OWNER_NS
        loop.turn(0)
        assert budget.has_share(owner)
        assert not budget.is_spent


def test_who_comes_when_the_turn_is_used_up_goes_on_in_the_next() -> None:
    """No caller is refused."""
    with engine() as loop:
        turns = Turns(loop.get(TurnBudget))
        turns.come("a", TURN_NS)
        turns.come("b", 1)
        assert ["a"] == turns.done
        loop.turn(0)
        assert loop.posted, "the loop does not sleep while somebody waits"
        loop.turn(0)
        assert ["a", "b"] == turns.done
        loop.turn(0)
        assert not loop.get(TurnBudget).is_busy
        assert [] == loop.posted


def test_those_who_were_put_off_go_first_in_the_order_they_came() -> None:
    """Whoever comes while they wait queues behind them, so nobody starves."""
    with engine() as loop:
        turns = Turns(loop.get(TurnBudget))
        turns.come("first", TURN_NS)
        for n in range(6):
            turns.come(n, TURN_NS // 2)
        for turn in range(6):
            turns.come(("late", turn), TURN_NS)
            loop.turn(0)
        assert ["first", 0, 1, 2, 3, 4, 5][: len(turns.done)] == turns.done[:7]
        for _ in range(20):
            loop.turn(0)
        late = [who for who in turns.done if isinstance(who, tuple)]
        assert [("late", turn) for turn in range(6)] == late


def test_a_turn_does_no_more_than_its_budget() -> None:
    """Of many who wait, each turn serves as many as fit."""
    with engine() as loop:
        turns = Turns(loop.get(TurnBudget))
        turns.come("first", TURN_NS)
        for n in range(40):
            turns.come(n, TURN_NS // 2)
        counts = []
        for _ in range(30):
            before = len(turns.done)
            loop.turn(0)
            counts.append(len(turns.done) - before)
        assert 41 == len(turns.done)
        assert 2 == max(counts)


def test_no_more_than_some_are_let_in_at_a_time() -> None:
    """Callers that cost little count, too."""
    with engine() as loop:
        turns = Turns(loop.get(TurnBudget))
        turns.come("first", TURN_NS)
        for n in range(3 * LET_IN):
            turns.come(n, 0)
        counts = []
        for _ in range(8):
            before = len(turns.done)
            loop.turn(0)
            counts.append(len(turns.done) - before)
        assert (LET_IN, 3 * LET_IN) == (max(counts), sum(counts))


def test_one_owner_waits_once() -> None:
    """Two events of one session make one call."""
    with engine() as loop:
        turns = Turns(loop.get(TurnBudget))
        turns.come("first", TURN_NS)
        turns.come("a", 1)
        turns.come("a", 1)
        for _ in range(4):
            loop.turn(0)
        assert ["first", "a"] == turns.done


def test_who_is_about_to_be_let_in_is_not_put_off_once_more() -> None:
    """An event between the end of a turn, which lets him in, and his call."""
    with engine() as loop:
        budget = loop.get(TurnBudget)
        turns = Turns(budget)
        turns.come("first", TURN_NS)
        turns.come("a", 1)
        loop.turn(0)
        assert budget.is_busy
        turns.come("a", 1)
        for _ in range(4):
            loop.turn(0)
        assert ["first", "a"] == turns.done
        turns.come("second", TURN_NS)
        turns.come("a", 1)
        for _ in range(4):
            loop.turn(0)
        assert ["first", "a", "second", "a"] == turns.done


def test_whose_call_came_to_nothing_may_be_put_off_again() -> None:
    """As is a session's that has ended meanwhile."""
    with engine() as loop:
        budget = loop.get(TurnBudget)
        turns = Turns(budget)
        turns.come("first", TURN_NS)
        budget.put_off("a", lambda: None)
        loop.turn(0)
        loop.turn(0)
        turns.come("second", TURN_NS)
        turns.come("a", 1)
        for _ in range(4):
            loop.turn(0)
        assert ["first", "second", "a"] == turns.done


def test_a_call_that_raises_keeps_nobody_else_waiting() -> None:
    """The loop logs it, and the others are served."""
    with engine() as loop:
        turns = Turns(loop.get(TurnBudget))
        turns.come("first", TURN_NS)
        broken: Callable[[], None] = lambda: turns.done[99]  # type: ignore[assignment, return-value] # noqa: E731
        loop.get(TurnBudget).put_off("broken", broken)
        turns.come("a", 1)
        for _ in range(4):
            loop.turn(0)
        assert ["first", "a"] == turns.done
        assert not loop.get(TurnBudget).is_busy
