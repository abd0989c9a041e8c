"""Schemas: what they let pass, as the tests' own validator of JSON Schema sees it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.stream import schema as s
from tests.support import json_schema

POINT = s.obj("A point.", x=s.INT, y=s.described(s.COUNT, "up"), name=s.optional(s.TEXT))


def fits(value: Any, schema: s.Schema) -> bool:
    """Tell whether a value is what a schema says."""
    return not list(json_schema.faults(value, schema))


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (s.TEXT, ["", "a"], [1, None, ["a"]]),
        (s.INT, [0, -1, 1 << 70], [1.5, True, "1", None]),
        (s.COUNT, [0, 7], [-1, 1.0, False]),
        ({"type": "number"}, [0, 1.5, -2], [True, "1"]),
        (s.BOOL, [True, False], [0, 1, None, "true"]),
        (s.TIME, ["2026-11-29T15:00:00Z", "2026-11-29T15:00:00.123Z"],
         ["2026-11-29", "2026-13-29T15:00:00Z", "2026-11-29T15:00:00+01:00", 0]),
        (s.enum("a", "b"), ["a", "b"], ["c", "", None, 1]),
        (s.nullable(s.INT), [None, 3], ["", 1.5]),
        (s.array(s.INT), [[], [1, 2]], [{}, [1, "2"], None]),
        (s.mapping(s.COUNT), [{}, {"any": 1}], [{"any": -1}, []]),
        (POINT, [{"x": 1, "y": 2}, {"x": 1, "y": 2, "name": "p"}],
         [{"x": 1}, {"x": 1, "y": -1}, {"x": 1, "y": 2, "z": 3}, {"x": 1, "y": 2, "name": None}]),
        (s.obj(), [{}], [{"a": 1}, None]),
    ],
)
def test_a_schema_lets_pass_what_it_says(schema: s.Schema, good: list[Any], bad: list[Any]) -> None:
    """And nothing else."""
    assert [True] * len(good) == [fits(value, schema) for value in good]
    assert [False] * len(bad) == [fits(value, schema) for value in bad]
    json_schema.check(schema)


def test_descriptions_stand_in_the_schema() -> None:
    """For who reads it; what marks a property as optional does not."""
    assert "A point." == POINT["description"]
    assert {"type": "integer", "minimum": 0, "description": "up"} == POINT["properties"]["y"]
    assert {"type": "string"} == POINT["properties"]["name"]
    assert ["x", "y"] == POINT["required"]
    assert "required" not in s.obj(a=s.optional(s.INT))
    assert "description" not in s.COUNT


def test_a_schema_that_says_what_is_not_checked_is_refused() -> None:
    """Else it would promise what no test sees; however deep it stands."""
    for schema in ({"maxLength": 3}, s.array({"pattern": "x"}), s.obj(a={"format": "email"}),
                   s.mapping({"oneOf": []}), s.nullable({"const": 1})):
        with pytest.raises(json_schema.UnknownKeywordError):
            json_schema.check(schema)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
))
def test_any_value_is_judged(value: Any) -> None:
    """Whatever it is, by any schema."""
    for schema in (POINT, s.array(POINT), s.mapping(s.nullable(s.TIME)), s.enum("a"), s.COUNT, {}):
        assert fits(value, schema) in (True, False)
    assert fits(value, {})
