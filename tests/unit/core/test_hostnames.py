"""The table of host names behind server_name and map."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core.codes import BUSY, DECLINED, OK
from ngxstream.core.hostnames import HostTable


def table(*keys: str) -> HostTable[str]:
    """Return a table in which every key is its own value."""
    made: HostTable[str] = HostTable()
    for key in keys:
        assert OK == made.add(key.encode(), key)
    return made


def find(made: HostTable[str], name: str) -> str | None:
    """Look a name up."""
    return made.find(name.encode())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.com", "example.com"),
        ("www.example.com", "*.example.com"),
        ("a.b.example.com", "*.example.com"),
        ("deep.sub.example.com", "*.sub.example.com"),
        ("sub.example.com", "*.example.com"),
        ("example.org", ".example.org"),
        ("www.example.org", ".example.org"),
        ("www.test", "www.*"),
        ("www.sub.test", "www.sub.*"),
        ("www.", "www.*"),
        ("www", None),
        ("test", None),
        ("notexample.com", None),
        ("", None),
        (".example.com", "*.example.com"),
    ],
)
def test_best_key_wins(name: str, expected: str | None) -> None:
    """Exact goes before a wildcard in front, that before one behind; longer before shorter."""
    made = table(
        "example.com", "*.example.com", "*.sub.example.com", ".example.org", "www.*", "www.sub.*"
    )
    assert expected == find(made, name)


@pytest.mark.parametrize(
    "key", ["*.a.*", "a*.b", "*a.b", "a.*.b", "a..b", "a\0b", "*", "a*", "**", "a.b*"]
)
def test_bad_wildcards_are_declined(key: str) -> None:
    """A star may only stand for whole labels, once, at either end."""
    assert DECLINED == HostTable[int]().add(key.encode(), 1)


@pytest.mark.parametrize("key", ["*.a.*", "a*.b", "a..b", "*", ".x", "x.*"])
def test_without_wildcards_a_key_is_only_itself(key: str) -> None:
    """Where wildcards are off every key is exact."""
    made: HostTable[int] = HostTable()
    assert OK == made.add(key.encode(), 1, wildcards=False)
    assert 1 == made.find(key.encode())
    assert None is made.find(b"y.x")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.b", "a.b"),
        ("a.b", "A.B"),
        ("*.a.b", "*.a.b"),
        ("*.a.b", ".a.b"),
        (".a.b", "*.a.b"),
        (".a.b", "a.b"),
        ("a.b", ".a.b"),
        ("a.*", "a.*"),
    ],
)
def test_equal_keys_are_busy_and_the_first_stays(first: str, second: str) -> None:
    """A key that means what another does is refused and changes nothing."""
    made: HostTable[int] = HostTable()
    assert OK == made.add(first.encode(), 1)
    assert BUSY == made.add(second.encode(), 2)
    for name in (b"a.b", b"x.a.b", b"a.x"):
        assert made.find(name) in (1, None)


def test_a_dotted_key_is_refused_as_a_whole() -> None:
    """`.a.b` after `a.b` adds no wildcard either, as in nginx."""
    made = table("a.b")
    assert BUSY == made.add(b".a.b", ".a.b")
    assert None is find(made, "x.a.b")


LABEL = st.sampled_from(["a", "b", "c"])
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
KEY = st.one_of(NAME, NAME.map("*.{}".format), NAME.map(".{}".format), NAME.map("{}.*".format))


def rank(key: str, name: str) -> tuple[int, int] | None:
    """Tell by the words of the documentation how well a key fits a name; greater is better."""
    if key.startswith("."):
        return (2, len(key)) if key == f".{name}" or name.endswith(key) else None
    if key.startswith("*."):
        return (2, len(key) - 1) if name.endswith(key[1:]) else None
    if key.endswith(".*"):
        return (1, len(key)) if name.startswith(key[:-1]) else None
    return (3, 0) if key == name else None


@given(st.lists(KEY, max_size=12), NAME)
def test_lookup_is_the_documented_order(keys: list[str], name: str) -> None:
    """What the table finds is what ranking every key it took would find."""
    made: HostTable[str] = HostTable()
    taken = [key for key in keys if OK == made.add(key.encode(), key)]
    ranks = {key: found for key in taken if (found := rank(key, name)) is not None}
    expected = max(ranks, key=lambda key: ranks[key], default=None)
    assert expected == find(made, name)


def test_keys_of_all_kinds_are_counted() -> None:
    """A table with names, wildcards in front and behind is as long as there are keys in it."""
    made = table("a", "b", "*.c", ".d", "e.*", "f.*", "g.*")
    assert 7 == len(made)


def test_a_wildcard_with_nothing_behind_it_is_declined() -> None:
    """A star and a dot are no key."""
    assert DECLINED == HostTable[str]().add(b"*.", "")
