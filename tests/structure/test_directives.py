"""Every directive of nginx's stream has a test of its effect and a test of its refusal."""

import pytest

from tests import directives, docs


@pytest.fixture(scope="module")
def book() -> directives.Book:
    """Give the tests of every directive."""
    return directives.book()


def test_every_directive_has_a_test_of_its_effect(book: directives.Book) -> None:
    """What a directive does is held by a test, unless it cannot do anything here."""
    bare = [name for name, kinds in book.items() if not kinds["effect"]]
    assert sorted(directives.WITHOUT_EFFECT) == bare


def test_every_directive_has_a_test_of_its_refusal(book: directives.Book) -> None:
    """What a directive refuses is held by a test."""
    assert [] == [name for name, kinds in book.items() if not kinds["refusal"]]


def test_our_own_directives_are_told_apart() -> None:
    """What nginx does not know is marked in its record, and held by tests like the rest."""
    ours = {r.name for module in docs.all_modules() for r in module.directives if r.extension}
    assert set(directives.OURS) == ours
    known = {r.name for module in docs.all_modules() for r in module.directives}
    assert known == {name.rpartition("/")[2] for name in directives.names()}
