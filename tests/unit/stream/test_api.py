"""The API as modules see it: errors, fields, labels."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ngxstream.stream import api


def asked(args: dict[str, str]) -> api.Request:
    """Return a request with these arguments."""
    s: Any = SimpleNamespace(loop=None)
    stream: Any = None
    return api.Request(s, stream, "GET", {}, args, {}, None, False, print)


@pytest.mark.parametrize(
    ("args", "fields"),
    [
        ({}, None), ({"fields": ""}, set()), ({"fields": "a,b"}, {"a", "b"}),
        ({"fields": "a,,"}, {"a"}),
    ],
)
def test_fields_are_what_is_named(args: dict[str, str], fields: set[str] | None) -> None:
    """Without the argument all are wanted, with an empty one none."""
    assert fields == asked(args).fields()


def test_an_error_says_what_its_reply_says() -> None:
    """Status, a word for programs and a line for people."""
    error = api.ApiError(404, "PathNotFound", "path not found")
    assert (404, "PathNotFound", "path not found") == (error.status, error.code, error.text)
    assert "path not found" == str(error)


def test_labels_are_escaped() -> None:
    """Quotes, backslashes and line feeds, as Prometheus wants them."""
    assert '{a="1",b="x\\"y\\\\z\\n"}' == api.labels(a="1", b='x"y\\z\n')
    assert "{}" == api.labels()


def test_a_part_that_is_made_while_it_is_sent_keeps_what_makes_it() -> None:
    """Nothing is made before it is asked for."""
    made = iter([1, 2])
    assert made is api.Items(made).values
    pairs = cast("Any", iter([("a", 1)]))
    assert pairs is api.Members(pairs).pairs
