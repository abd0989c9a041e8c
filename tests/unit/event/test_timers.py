"""The timer wheel against a model that keeps every deadline in a plain dict."""

import sys

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ngxstream.event import timers


class Owner:
    """Something with a deadline that notes when it fired."""

    def __init__(self, machine: "WheelMachine") -> None:
        self.deadline = 0
        self.tick = 0
        self.machine = machine

    def on_timeout(self) -> None:
        """Tell the machine."""
        self.machine.fired.append(self)


class WheelMachine(RuleBasedStateMachine):
    """Owners come, are touched, are taken out; time goes on in steps."""

    def __init__(self) -> None:
        super().__init__()
        self.wheel = timers.TimerWheel()
        self.now = 1_000
        self.fired: list[Owner] = []
        self.owners: list[Owner] = []
        self.due: dict[Owner, int] = {}

    @rule(delay=st.integers(1, 5_000))
    def add(self, delay: int) -> None:
        """A new owner is filed."""
        owner = Owner(self)
        owner.deadline = self.now + delay
        self.wheel.add(owner)
        self.owners.append(owner)
        self.due[owner] = owner.deadline

    @rule(pick=st.randoms(use_true_random=False), more=st.integers(0, 5_000))
    def touch(self, pick, more: int) -> None:
        """A filed owner's deadline moves back by storing a number."""
        live = [o for o in self.owners if o in self.due]
        if live:
            owner = pick.choice(live)
            owner.deadline += more
            self.due[owner] = owner.deadline

    @rule(pick=st.randoms(use_true_random=False), delay=st.integers(1, 200))
    def bring_forward(self, pick, delay: int) -> None:
        """An earlier deadline takes an add()."""
        live = [o for o in self.owners if o in self.due]
        if live:
            owner = pick.choice(live)
            owner.deadline = min(owner.deadline, self.now + delay)
            self.wheel.add(owner)
            self.due[owner] = owner.deadline

    @rule(pick=st.randoms(use_true_random=False))
    def remove(self, pick) -> None:
        """An owner that was taken out never fires."""
        live = [o for o in self.owners if o in self.due]
        if live:
            owner = pick.choice(live)
            self.wheel.remove(owner)
            del self.due[owner]

    @rule(step=st.integers(0, 2_000))
    def advance(self, step: int) -> None:
        """Time goes on: who is due fires, once, and nobody else."""
        self.now += step
        self.fired.clear()
        if self.now >= self.wheel.next_ms:
            self.wheel.expire(self.now, lambda callback: None)
        fired = list(self.fired)
        assert len(fired) == len(set(fired))
        for owner in fired:
            assert self.due.pop(owner) <= self.now
        late = [o for o, at in self.due.items() if at <= self.now - timers.TICK_MS - 1]
        assert late == []

    @invariant()
    def wait_is_never_past_the_first_deadline(self) -> None:
        """A poll that waits as told wakes up in time for the first owner."""
        if self.due:
            assert self.wheel.next_ms <= min(self.due.values()) + timers.TICK_MS


TestWheel = WheelMachine.TestCase


def test_an_exception_in_one_owner_leaves_the_others_firing() -> None:
    """Every due owner fires although one of them raises."""

    class Broken:
        deadline = 5
        tick = 0

        def on_timeout(self) -> None:
            raise ValueError("broken")

    class Fine:
        deadline = 5
        tick = 0
        fired = False

        def on_timeout(self) -> None:
            self.fired = True

    wheel = timers.TimerWheel()
    owners = [Broken(), *(Fine() for _ in range(20))]
    for owner in owners:
        wheel.add(owner)
    guarded: list[object] = []
    wheel.expire(1_000, guarded.append)
    assert [owners[0].on_timeout] == guarded
    assert all(owner.fired for owner in owners[1:])


class Ender:
    """One that ends another when it fires, and then fails."""

    def __init__(self, wheel: timers.TimerWheel, deadline: int) -> None:
        self.deadline = deadline
        self.tick = 0
        self.wheel = wheel
        self.others: list[Ender] = []
        self.fired = False

    def on_timeout(self) -> None:
        """Take the others out of the wheel, and fail."""
        self.fired = True
        for other in self.others:
            self.wheel.remove(other)
        raise ValueError("no good")


def test_one_that_fires_may_take_others_of_its_tick_out() -> None:
    """Of three that are due together the first takes the second out; the third fires."""
    wheel = timers.TimerWheel()
    enders = [Ender(wheel, 1_005) for _ in range(3)]
    for ender in enders:
        wheel.add(ender)
    faults: list[object] = []
    for ender in enders:  # whichever comes first
        ender.others = [next(other for other in enders if other is not ender)]
    wheel.expire(2_000, lambda callback: faults.append(type(sys.exception())))
    fired = [ender.fired for ender in enders]
    assert [ValueError] * fired.count(True) == faults
    assert fired.count(True) in (1, 2)
    assert [0, 0, 0] == [ender.tick for ender in enders]
    assert timers.NEVER_MS == wheel.next_ms


def test_one_that_fires_may_bring_another_of_its_tick_forward() -> None:
    """A re-filed owner fires at its new time, once."""
    wheel = timers.TimerWheel()
    first, second = Ender(wheel, 1_001), Ender(wheel, 5_001)
    wheel.add(first)
    wheel.add(second)
    wheel.expire(2_000, lambda callback: None)
    second.deadline = 3_001
    wheel.add(second)
    wheel.expire(4_000, lambda callback: None)
    assert [True, True] == [first.fired, second.fired]
    assert timers.NEVER_MS == wheel.next_ms
