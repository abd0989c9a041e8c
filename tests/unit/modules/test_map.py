"""map: values, caching, captures, long blocks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.modules.map import Map
from ngxstream.stream.values import compile_value
from ngxstream.stream.variables import VariableTable
from tests.support.in_process import InProcess, build
from tests.support.sessions import FakeSession

SERVER = 'server { listen 127.0.0.1:@a@; return "%s"; }'


class Item:
    """A statement of a map block, as far as the map looks at it."""

    def __init__(self, *words: str) -> None:
        self.directive, *self.args = words


class Visit:
    """A session, as far as a map with a variable of ours looks at it."""

    def __init__(self, subject: bytes) -> None:
        self.subject = subject
        self.captures: Any = None
        self.values: Any = None


def made(*items: Item) -> tuple[Map, VariableTable]:
    """Return a map of $in, linked."""
    table = VariableTable([])
    table.add("in", lambda s: s.subject)  # type: ignore[attr-defined]
    found = Map(compile_value("$in", table), table)
    for item in items:
        found.take(item)  # type: ignore[arg-type]
    table.link()
    return found, table


def answer(text: str, result: str, **options: Any) -> bytes:
    """Return what a server prints that returns a text."""
    served = InProcess(f"stream {{ {text} {SERVER % result} }}", **options)
    try:
        return served.read(served.connect())
    finally:
        served.close()


LABELS = st.lists(st.sampled_from(["a", "b", "c", "A"]), min_size=1, max_size=3).map(".".join)
KEYS = st.tuples(st.sampled_from(["", "", ".", "*.", "!"]), LABELS)


def best(keys: list[str], name: str) -> str | None:
    """Return the key that decides, by the words of the documentation."""
    name = name.removesuffix(".").lower()
    exact = [key for key in keys if key.lower() == name]
    heads = [
        key for key in keys
        if (key.startswith("*.") and name.endswith(key[1:].lower()))
        or (key.startswith(".") and f".{name}".endswith(key.lower()))
    ]
    tails = [key for key in keys if key.endswith(".*") and name.startswith(key[:-1].lower())]
    for group in (exact, heads, tails):
        if group:
            return max(group, key=lambda key: len(key.lstrip("*.")))
    return None


@given(st.lists(KEYS, max_size=8), LABELS, st.sampled_from(["", "."]))
def test_names_are_found_by_precedence(keys: list[tuple[str, str]], name: str, dot: str) -> None:
    """Exact before the longest suffix before the longest prefix, whatever the case."""
    taken: dict[str, str] = {}
    for mark, labels in keys:
        key = f"{labels}.*" if mark == "!" else mark + labels
        # nginx takes no two keys for one name of a kind
        kind = "tail" if mark == "!" else "head" if mark else "exact"
        taken.setdefault(f"{'exact' if mark == '.' else kind} {labels.lower()}", key)
        if mark == "." and taken.get(f"head {labels.lower()}", key) != key:
            taken = {k: v for k, v in taken.items() if v != key}
        elif mark == "." and key in taken.values():
            taken[f"head {labels.lower()}"] = key
    items = sorted(set(taken.values()))
    found, _ = made(Item("hostnames"), *(Item(key, f"={key}") for key in items))
    visit: Any = Visit((name + dot).encode())
    expected = best(items, name)
    assert ("" if expected is None else f"={expected}").encode() == found.get(visit)


def test_a_value_may_hold_variables_and_captures() -> None:
    """The value is put together when the map is asked."""
    text = 'map "k-17" $x { "~^(?<letter>.)-(.)(.)$" "$letter:$2$3:$protocol"; default no; }'
    assert b"k:17:TCP" == answer(text, "$x")


def test_an_empty_source_is_not_tried_against_regexes() -> None:
    """Only an empty key or the default can have it."""
    assert b"default" == answer('map "" $x { "~^$" regex; default default; }', "$x")


def test_a_map_is_asked_once_unless_volatile() -> None:
    """A cached value stays as it was; a volatile one is made again at each use."""
    text = (
        'map "ab" $letters { "~^(?<one>.)(?<two>.)$" 1; } map "cd" $others { "~^(.)(.)$" 1; } '
        "map $protocol $fresh { volatile; default $2; } map $protocol $stale { default $2; } "
        "map 1 $a { 1 $fresh$stale; } map 1 $b { 1 $fresh$stale; }"
    )
    assert b"1bb1db" == answer(text, "$letters$a$others$b")


def test_a_map_that_asks_itself_ends() -> None:
    """A circle of maps is empty, and the error log says so."""
    text = "map $y $x { default <$y>; } map $x $y { default [$x]; }"
    served = InProcess(f"stream {{ {text} {SERVER % '$x'} }}")
    data = served.read(served.connect())
    served.close()
    assert data.startswith(b"<[")
    assert any('cycle while evaluating variable "' in line for _, line in served.target.lines)


def test_a_hundred_thousand_items_are_read() -> None:
    """Long blocks are included and looked up like short ones."""
    raw = b"".join(b"host%d.example.com v%d;\n" % (n, n % 7) for n in range(100_000))
    text = "map host99999.EXAMPLE.com $x { hostnames; include items; }"
    assert b"v4" == answer(text, "$x", others={"/p/conf/items": raw})


@pytest.mark.parametrize("length", [64, 500, 4000])
def test_a_long_key_needs_no_tuning(length: int) -> None:
    """Whatever its length a key fits, tuned or not."""
    key = "k" * length
    text = f"map_hash_bucket_size 32; map {key} $x {{ {key} found; }}"
    assert b"found" == answer(text, "$x")


def test_tuning_comes_before_the_first_map() -> None:
    """Behind a map the tuning is a duplicate, as nginx has it."""
    built = build("stream { map $pid $x { a b; } map_hash_max_size 4096; }")
    assert '"map_hash_max_size" directive is duplicate in /p/conf/nginx.conf:1' == built.error


def test_a_subject_that_takes_too_long_has_the_default() -> None:
    """As in nginx, the patterns behind the one that was given up are not tried."""
    found, _ = made(
        Item("default", "other"), Item("~(x)", "slow"), Item("~y$", "later"), Item("plain", "p")
    )
    s = FakeSession()
    s.subject = b"y" * 100_000  # type: ignore[attr-defined]
    assert b"other" == found.get(s)  # type: ignore[arg-type]
    s.values = None
    s.subject = b"y" * 100  # type: ignore[attr-defined]
    assert b"later" == found.get(s)  # type: ignore[arg-type]
    assert 1 == len(s.target.lines)


@given(keys=st.lists(st.sampled_from([
    "~ab", "~^a", "~*AB", "~b+c", "~(?<n>a.)b", "~.", "~c$", "~^(a|b)c", "~bcd", "~abcd", "~*^ABC",
]), min_size=8, max_size=20), subject=st.text("abcdA", max_size=8).map(str.encode))
def test_of_many_expressions_the_first_that_matches_counts(
    keys: list[str], subject: bytes
) -> None:
    """Those that are passed over would not have matched, and captures are those of the first."""
    items = [Item(key, str(n)) for n, key in enumerate(keys)]
    many, _ = made(*items)
    plain, _ = made(*items)
    many.finish()
    visits = Visit(subject), Visit(subject)
    assert plain.get(visits[1]) == many.get(visits[0])  # type: ignore[arg-type]
    assert visits[1].captures == visits[0].captures
