"""Endpoints of named things: the form that all of NGINX Plus's zones have."""

from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.core import shm
from ngxstream.stream import api, schema, zone_endpoints
from ngxstream.stream.zone_endpoints import Kind
from tests.support.operations import call

OF = schema.obj(count=schema.COUNT, name=schema.TEXT)


class Thing:
    """Something with a counter."""

    def __init__(self, name: str, *, fails: Exception | None = None) -> None:
        self.name = name
        self.count = 3
        self.fails = fails

    def reset(self, request: api.Request) -> None:
        """Begin at 0."""
        if self.fails is not None:
            raise self.fails
        self.count = 0


def served(**things: Thing) -> Any:
    """Return what serves these."""
    kind = Kind("/things", "thing", "ThingNotFound", lambda stream: stream.things,
                lambda one: {"count": one.count, "name": one.name}, Thing.reset, OF)
    endpoints = zone_endpoints.endpoints(kind)
    stream = SimpleNamespace(modules=[SimpleNamespace(endpoints=endpoints)], things=things)
    return SimpleNamespace(conf=stream, loop=None)


def test_all_and_one_are_shown() -> None:
    """In the order in which they are found."""
    these = served(b=Thing("b"), a=Thing("a"))
    shown = {name: {"count": 3, "name": name} for name in "ba"}
    assert list(shown.items()) == list(call(these, "GET", "/things").items())
    assert shown["a"] == call(these, "GET", "/things/a")


@pytest.mark.parametrize(
    ("fields", "all_of_them", "one"),
    [
        ("count", {"a": {"count": 3}}, {"count": 3}),
        ("name,count", {"a": {"count": 3, "name": "a"}}, {"count": 3, "name": "a"}),
        ("other", {"a": {}}, {}),
        ("", ["a"], {"count": 3, "name": "a"}),
        (",", ["a"], {"count": 3, "name": "a"}),
    ],
)
def test_fields_choose_members(fields: str, all_of_them: Any, one: Any) -> None:
    """None of them are the names alone, where there are names."""
    these = served(a=Thing("a"))
    assert all_of_them == call(these, "GET", "/things", fields=fields)
    assert one == call(these, "GET", "/things/a", fields=fields)


def test_all_are_made_while_they_are_sent() -> None:
    """Nothing is looked at before it is its turn."""
    these = served(a=Thing("a"), b=Thing("b"))
    (all_of_them, _) = these.conf.modules[0].endpoints
    request: Any = SimpleNamespace(stream=these.conf, fields=lambda: None)
    reply = all_of_them.operations["GET"].run(request)
    assert isinstance(reply.value, api.Members)
    pairs = iter(reply.value.pairs)
    next(pairs)
    these.conf.things["b"].count = 7
    assert ("b", {"count": 7, "name": "b"}) == next(pairs)


def test_one_begins_at_0() -> None:
    """And no other."""
    these = served(a=Thing("a"), b=Thing("b"))
    assert 204 == call(these, "DELETE", "/things/a")
    assert [0, 3] == [one.count for one in these.conf.things.values()]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_there_is_not_has_its_code(method: str) -> None:
    """As the kind says it."""
    assert "ThingNotFound" == call(served(), method, "/things/a")


def test_memory_that_is_locked_is_said_to_be_busy() -> None:
    """The client may try again; what else is wrong is a fault."""
    assert "ZoneBusy" == call(served(a=Thing("a", fails=shm.BusyError())), "DELETE", "/things/a")
    for damage in (shm.errors.InternalError("no log"), ValueError(), IndexError()):
        thing = Thing("a", fails=damage)
        assert "InternalError" == call(served(a=thing), "DELETE", "/things/a")
    with pytest.raises(ZeroDivisionError):
        call(served(a=Thing("a", fails=ZeroDivisionError())), "DELETE", "/things/a")


def test_errors_and_arguments_are_declared() -> None:
    """For what is printed of the API."""
    first, second = served().conf.modules[0].endpoints
    assert first.listed
    assert not second.listed
    assert ("ThingNotFound",) == second.operations["DELETE"].errors
    assert ["fields"] == [one.name for one in first.operations["GET"].args]
    assert "required" not in second.operations["GET"].returns
