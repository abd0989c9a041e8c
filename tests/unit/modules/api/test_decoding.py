"""The JSON of a body, short or long."""

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.modules.api import decoding
from ngxstream.stream.api import ApiError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def decode(body: bytes) -> tuple[Any, int]:
    """Return the value of a body and the number of steps."""
    steps = decoding.steps(body)
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value, count
        count += 1


@given(values)
def test_json_is_read(value: Any) -> None:
    """What was written comes back, a short body in one step."""
    assert (value, 0) == decode(json.dumps(value).encode())


@settings(max_examples=15)
@given(st.lists(values, min_size=2) | st.dictionaries(st.text(max_size=3), values, min_size=2),
       st.sampled_from([None, 1]))
def test_a_long_body_is_read_in_steps(value: Any, indent: int | None) -> None:
    """What was written comes back as well, one element after another."""
    padding = "x" * decoding.PIECE
    halves: Any = [*value, padding[:40_000], padding[:40_000]] if isinstance(value, list) else {
        **value, "half": padding[:40_000], "other": padding[:40_000]
    }
    found, count = decode(b" " + json.dumps(halves, indent=indent).encode() + b"\n")
    assert halves == found
    assert count >= len(halves)


@pytest.mark.parametrize("depth", [30_000, 400_000])
def test_deep_brackets_are_refused(depth: int) -> None:
    """However many: not by an exception that nobody expected."""
    with pytest.raises(ApiError) as caught:
        decode(b"[" * depth + b"]" * depth)
    assert caught.value.status in (413, 415)


def test_one_element_is_looked_at_in_steps() -> None:
    """Its end may be far, and much may stand before it."""
    made: list[None] = []
    with pytest.raises(ApiError):
        made.extend(decoding.steps(b"[[" + b"1," * 300_000 + b"1]]"))
    assert len(made) >= 100


def test_no_step_is_long() -> None:
    """A body of many small elements and one of many brackets are many steps."""
    many = json.dumps([{"server": f"127.0.0.1:{n}", "weight": 1} for n in range(3000)])
    assert decode(many.encode())[1] >= 3000
    with pytest.raises(ApiError) as caught:
        decode(b"[" + b"[]," * 9000 + b"[" + b"[]," * 30_000 + b"1]" + b"]")
    assert 413 == caught.value.status


def test_a_long_string_is_too_long() -> None:
    """Of letters or of escapes, with an end or without one."""
    for text in ("x" * 100_000, "\\n" * 100_000, "xxxx\\n" * 20_000):
        for body in (f'["{text}"]', f'["{text}]', f'{{"a":"{text}"}}'):
            with pytest.raises(ApiError) as caught:
                decode(body.encode())
            assert 413 == caught.value.status


@given(st.binary(max_size=30))
def test_any_bytes_are_json_or_refused(body: bytes) -> None:
    """With the API's own error and no other."""
    with contextlib.suppress(ApiError):
        decode(body)


def test_any_long_text_is_json_or_refused() -> None:
    """What is read in pieces is the same as what the library reads at once."""
    random_ = random.Random(1)
    pieces = ['"a"', '"\\""', "1", "[", "]", "{", "}", ",", ":", " ", '"', "\\", '"k":', "[]"]
    padding = json.dumps("x" * 35_000)
    for _ in range(300):
        inner = "".join(random_.choices(pieces, k=random_.randint(0, 6)))
        for text in (f"[{padding},{inner},{padding}]", f'{{"a":{padding},{inner},"b":{padding}}}',
                     f"[{padding}{inner}{padding}]"):
            try:
                expected = json.loads(text)
            except ValueError:
                with pytest.raises(ApiError):
                    decode(text.encode())
            else:
                assert expected == decode(text.encode())[0]


@pytest.mark.parametrize("body", [b"", b"1" * 5000, b"[" * 200_000, b"-Infinity", b"\xef\xbb\xbf1",
                                  b"[" * 90_000 + b"]" * 90_000, b'"' + b"x" * 100_000 + b'"',
                                  b"[1," + b" " * 90_000 + b"]", b'["' + b"\\n" * 100_000 + b'"]'])
def test_what_the_library_stumbles_over_is_refused(body: bytes) -> None:
    """Nothing, numbers and nesting without measure, words of no standard, long elements."""
    with pytest.raises(ApiError) as caught:
        decode(body)
    assert caught.value.status in (413, 415)
