"""What is counted of stores, in the API and for Prometheus."""

from typing import Any

from ngxstream.modules import stores as module
from ngxstream.stream import stores
from ngxstream.stream.api import OWN
from tests.support.in_process import InProcess
from tests.support.operations import call, families

CONF = """stream { keyval_zone zone=a:64k store=redis://:secret@127.0.0.1:1;
    server { listen 127.0.0.1:@tcp@; api; } }"""
NAME = "redis://127.0.0.1:1"
COUNTS = {"commands": 1, "refused": 2, "unanswered": 3, "lost": 4}


def test_stores_are_shown_by_their_url() -> None:
    """Without a password; counters begin at 0 when that is asked for."""
    with InProcess(CONF) as served:
        (store,) = served.conf.data[stores.NAME].values()
        assert {NAME: {"connections": 0, **dict.fromkeys(COUNTS, 0)}} == call(
            served, "GET", "/stores", tree=OWN
        )
        for cell, count in zip(store.cells, COUNTS.values(), strict=True):
            served.loop.cells[cell.at] += count
        served.loop.cells[store.up.at] += 1
        shown: Any = call(served, "GET", "/stores", tree=OWN)
        assert {NAME: {"connections": 1, **COUNTS}} == shown
        found = families(served, module.MODULE.name)
        assert [1, 1, 2, 3, 4] == [sum(one.values()) for one in found.values()]
        module._reset(store, None)  # type: ignore[arg-type]
        shown = call(served, "GET", "/stores", tree=OWN)
        assert {NAME: {"connections": 1, **dict.fromkeys(COUNTS, 0)}} == shown


def test_where_there_is_none_nothing_is_shown() -> None:
    """An empty object."""
    with InProcess("stream { server { listen 127.0.0.1:@tcp@; api; } }") as served:
        assert {} == call(served, "GET", "/stores", tree=OWN)
