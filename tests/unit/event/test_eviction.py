"""Who gives way to a new client when there is no eviction."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event.eviction import Eviction


class Content:
    """A UDP session's content, as far as room is concerned."""

    def __init__(self, world, active_ms: int, conversing: bool) -> None:
        self.world = world
        self.active_ms = active_ms
        self.conversing = conversing

    def give_way(self) -> None:
        self.world.sessions.remove(self.session)
        self.world.gone.append(self)


def world(plan, connections=512, now_ms=100_000):
    """Make a loop with sessions. Args: plan is [(idle ms, conversing)]"""
    loop = SimpleNamespace(now_ms=now_ms, connections=connections, sessions=[], gone=[])
    for idle_ms, conversing in plan:
        content = Content(loop, now_ms - idle_ms, conversing)
        content.session = SimpleNamespace(content=content)
        loop.sessions.append(content.session)
    return loop


@given(st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=60),
       st.integers(0, 80))
def test_the_idle_longest_stranger_goes_first(plan, wanted) -> None:
    """As in a model: unanswered sessions go by idleness, then conversations; no recent ones."""
    loop = world(plan)
    eviction = Eviction(loop)
    strangers = sorted((i for i, talks in plan if not talks and i >= 1000), reverse=True)
    young = sum(1 for i, talks in plan if not talks and i < 1000)
    friends = sorted((i for i, talks in plan if talks and i >= 1000), reverse=True)
    expected = strangers if strangers or young * 16 >= loop.connections else friends
    made = [eviction.make() for _ in range(wanted)]
    assert min(wanted, len(expected)) == sum(made) == eviction.evicted.own
    assert expected[: len(loop.gone)] == [loop.now_ms - c.active_ms for c in loop.gone]


def test_who_talked_since_it_was_seen_stays() -> None:
    """A session found idle by a look is asked again before it goes."""
    loop = world([(3000, True), (2000, True), (1500, True)])
    eviction = Eviction(loop)
    assert eviction.make()
    assert [3000] == [loop.now_ms - c.active_ms for c in loop.gone]
    waker = loop.sessions[0].content
    waker.active_ms = loop.now_ms
    assert eviction.make()
    assert waker not in loop.gone
    assert not eviction.make()


def test_a_flood_competes_with_itself() -> None:
    """While recent unanswered sessions hold an eighth of the slots, conversations stay."""
    loop = world([(10, False)] * 40 + [(60_000, True)] * 5, connections=512)
    assert not Eviction(loop).make()
    loop = world([(10, False)] * 4 + [(60_000, True)] * 5, connections=512)
    assert Eviction(loop).make()


def test_all_sessions_are_looked_at_ten_times_a_second_at_most() -> None:
    """Without anybody idle, the next look comes after 100 ms."""
    loop = world([])
    eviction = Eviction(loop)
    assert not eviction.make()
    late = Content(loop, 0, False)
    late.session = SimpleNamespace(content=late)
    loop.sessions.append(late.session)
    loop.now_ms += 99
    assert not eviction.make()
    loop.now_ms += 1
    assert eviction.make()


def test_complaints_come_once_a_second() -> None:
    """Lines within the second are left out."""
    loop = world([])
    eviction = Eviction(loop)
    said = []
    for _ in range(30):
        said.append(eviction.may_log())
        loop.now_ms += 100
    assert 3 == sum(said)


def test_conversations_give_way_until_strangers_hold_an_eighth() -> None:
    """A recent unanswered session counts two slots: 31 leave 512 slots to the others, 32 do not."""
    made = [
        Eviction(world([(10, False)] * count + [(60_000, True)] * 5, connections=512)).make()
        for count in (31, 32)
    ]
    assert [True, False] == made


def test_the_spare_descriptor_is_given_once() -> None:
    """Who gives it up has it no more until there is another one."""
    eviction = Eviction(world([]))
    assert not eviction.give_spare()
    assert eviction.has_descriptors(0)
    assert [True, False] == [eviction.give_spare(), eviction.give_spare()]
    assert eviction.has_descriptors(0)
    assert eviction.give_spare()
