"""Reasons and histograms, in our own tree."""

from __future__ import annotations

from ngxstream.modules.upstream import details
from ngxstream.stream.api import OWN
from tests.support import json_schema
from tests.support.busy_groups import Busy
from tests.support.operations import call


def test_reasons_and_times_are_shown_of_each_server() -> None:
    """Reasons that there were, histograms whole; two servers of one address are two here."""
    with Busy() as served:
        found = call(served, "GET", "/upstreams", tree=OWN)
        (operation,) = [one.operations["GET"] for one in details.ENDPOINTS
                        if one.path == "/upstreams"]
        assert operation.returns is not None
        assert [] == list(json_schema.faults(found, operation.returns))
        assert {"zoned": ("z", "round_robin"), "plain": (None, "least_conn")} == {
            name: (one["zone"], one["method"]) for name, one in found.items()
        }
        first, second = found["zoned"]["peers"]
        assert ["127.0.0.1:1", "127.0.0.1:2"] == [first["server"], second["server"]]
        assert [False, True] == [first["drain"], second["drain"]]
        assert {"closed": 1, "idle": 1} == first["ends"]
        assert (1, 3) == (first["connect_ms"]["count"], first["connect_ms"]["sum"])
        assert (2, 73) == (second["connect_ms"]["count"], second["connect_ms"]["sum"])
        sessions = first["session_ms"]
        assert [0, 1, *[0] * 10, 1] == sessions["counts"]
        assert len(sessions["bounds"]) + 1 == len(sessions["counts"])
        assert 2 == len(found["plain"]["peers"])


def test_reasons_and_times_are_shown_of_each_server_zone() -> None:
    """Of its sessions with all servers; a zone without any has none."""
    with Busy() as served:
        found = call(served, "GET", "/server_zones", tree=OWN)
        (operation,) = [one.operations["GET"] for one in details.ENDPOINTS
                        if one.path == "/server_zones"]
        assert operation.returns is not None
        assert [] == list(json_schema.faults(found, operation.returns))
        assert ['a "zone"', "b", "api"] == list(found)
        assert {"closed": 2, "idle": 2} == found["b"]["ends"]
        assert (3, 76) == (found["b"]["connect_ms"]["count"], found["b"]["connect_ms"]["sum"])
        assert ({}, 0) == (found["api"]["ends"], found["api"]["session_ms"]["count"])
        assert 0 == found["b"]["datagrams"]["count"]
