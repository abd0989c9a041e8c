"""JSON in pieces: the same text as at once, made no sooner than it is asked for."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.modules.api import encoding
from ngxstream.stream.api import Encoded, Items, Members

scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def streamed(value: Any, pick: Iterator[bool]) -> Any:
    """Put Items and Members in the place of some lists and dicts."""
    if isinstance(value, list):
        inner = [streamed(one, pick) for one in value]
        return Items(iter(inner)) if next(pick) else inner
    if isinstance(value, dict):
        pairs = {name: streamed(one, pick) for name, one in value.items()}
        return Members(iter(pairs.items())) if next(pick) else pairs
    return value


@given(values, st.integers(0, 2**32))
def test_pieces_say_what_the_whole_says(value: Any, seed: int) -> None:
    """Wherever Items and Members stand, the text is that of lists and dicts."""
    pick = iter(bool(seed >> n & 1) for n in range(10_000))
    text = "".join(encoding.pieces(streamed(value, pick)))
    assert json.dumps(value, ensure_ascii=False, separators=(",", ":")) == text


def test_parts_are_made_when_they_are_sent() -> None:
    """The second element is not asked for before the first one is taken."""
    made: list[int] = []

    def make() -> Iterator[int]:
        for n in (1, 2):
            made.append(n)
            yield n

    pieces = encoding.pieces({"a": Items(make())})
    for expected in ('{"a":', "[", "1"):
        assert expected == next(pieces)
    assert [1] == made
    assert ",2]}" == "".join(pieces)


@pytest.mark.parametrize("value", [float("nan"), {"a": [object()]}, Items([b"bytes"])])
def test_what_is_no_json_is_refused(value: Any) -> None:
    """A fault of whoever made it: nothing is sent in its place."""
    with pytest.raises((TypeError, ValueError)):
        list(encoding.pieces(value))


def test_any_text_can_be_sent() -> None:
    """Bytes of a file that are no UTF-8 become U+FFFD, so that the whole is still JSON."""
    assert "é".encode() == encoding.to_bytes("é")
    assert "a\ufffd" == encoding.to_bytes("a\udce9").decode()[:2]


def test_what_is_encoded_already_is_passed_on() -> None:
    """In its pieces, and wherever it stands."""
    value = Members([("a", Encoded(iter(["[1", ",2]"]))), ("b", [Encoded(["{}"])])])
    pieces = list(encoding.pieces(value))
    assert ["[1", ",2]"] == [piece for piece in pieces if piece in ("[1", ",2]")]
    assert {"a": [1, 2], "b": [{}]} == json.loads("".join(pieces))
