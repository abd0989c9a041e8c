"""The timer wheel against a model that keeps every deadline in a plain dict."""

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
