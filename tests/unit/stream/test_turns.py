"""Turns are those of nginx's loop over all members."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.stream.turns import SLACK, Turns

BITS = 4
WEIGHTS = st.lists(st.integers(1, 4), min_size=1, max_size=9)


def plain(weights: dict[int, int], current: dict[int, int]) -> int:
    """Choose as nginx does: go over all of them."""
    for number, weight in weights.items():
        current[number] += weight
    best = max(sorted(weights), key=lambda number: current[number])
    current[best] -= sum(weights.values())
    return best


@given(weights=WEIGHTS, steps=st.lists(st.integers(-9, 30), max_size=40))
@settings(max_examples=300)
def test_choices_are_those_of_the_loop(weights: list[int], steps: list[int]) -> None:
    """Members come and go between them, and take their current weights along."""
    turns = Turns(BITS)
    members = dict(enumerate(weights))
    current = dict.fromkeys(members, 0)
    away: dict[int, int] = {}
    for number, weight in members.items():
        turns.add(number, weight, 0)
    for step in steps:
        if step < 0:
            number = -step - 1
            if number in members:
                away[number] = members.pop(number)
                assert current[number] == turns.remove(number, away[number])
            elif number in away:
                members[number] = away.pop(number)
                turns.add(number, members[number], current[number])
        elif members:
            assert turns.first()[1] == max(current[n] + members[n] for n in members)
            for _ in range(step):
                assert plain(members, current) == turns.choose()
        assert (len(members), sum(members.values())) == (turns.count, turns.total)
    assert {n: current[n] for n in members} == {
        n: turns.current(n, weight) for n, weight in members.items()
    }


def test_what_has_left_does_not_pile_up() -> None:
    """However often members come and go, the heap has few entries."""
    turns = Turns(BITS)
    for number in range(10):
        turns.add(number, 1, 0)
    for n in range(5000):
        number = n % 9
        turns.add(number, 1, turns.remove(number, 1) - n)
    assert len(turns.heaps[1]) <= 2 * 10 + SLACK
    assert turns.stale == len(turns.heaps[1]) - 10


def test_a_weight_that_nobody_has_any_more_leaves_nothing() -> None:
    """Its heap goes with its last member, the entries of former ones too."""
    turns = Turns(BITS)
    for number, weight in enumerate((1, 1, 2, 2)):
        turns.add(number, weight, 0)
    for number in (1, 0):
        turns.remove(number, 1)
    assert ([2], 0, turns.heaps[2]) == (list(turns.heaps), turns.stale, turns.only)
