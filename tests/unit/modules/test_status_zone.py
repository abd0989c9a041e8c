"""status_zone: servers are counted by name, and shown as NGINX Plus shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ngxstream.conf import directive as d
from ngxstream.modules import status_zone
from ngxstream.stream import tls_facts
from ngxstream.stream.module import StreamModule
from tests.support.in_process import InProcess, build
from tests.support.operations import call, families

ZONES = "/stream/server_zones"


def _show(scope: Any, module: Any, st: Any) -> None:
    """What an `api` does."""
    scope.builder.data["stream"].is_shown = True


SHOWN = StreamModule("shown", (d.Directive("shown", d.SERVER, d.NOARGS, _show, "Shows."),))


def nothing_but(**others: Any) -> dict[str, Any]:
    """Return what a zone shows in which only this has happened."""
    counts = {"2xx": 0, "4xx": 0, "5xx": 0, "total": 0}
    empty = {"processing": 0, "connections": 0, "sessions": counts, "discarded": 0, "received": 0,
             "sent": 0}
    return {**empty, **others}


TEXT = """stream {
    server { listen 127.0.0.1:@a@; status_zone one; return four; }
    server { listen 127.0.0.1:@b@; status_zone one; deny all; return x; }
    server { listen 127.0.0.1:@c@; status_zone two; return x; }
    server { listen 127.0.0.1:@d@; return x; }
}"""


@pytest.mark.effect("status_zone")
def test_servers_of_one_name_are_counted_together() -> None:
    """By status and bytes; a server without a name is not shown."""
    with InProcess(TEXT) as served:
        for number in range(4):
            served.read(served.connect(number))
        served.loop.turn(0)
        ended = {"2xx": 1, "4xx": 1, "5xx": 0, "total": 2}
        one = nothing_but(connections=2, sessions=ended, sent=4)
        ended = {"2xx": 1, "4xx": 0, "5xx": 0, "total": 1}
        two = nothing_but(connections=1, sessions=ended, sent=1)
        assert {"one": one, "two": two} == call(served, "GET", ZONES)
        assert two == call(served, "GET", f"{ZONES}/two")


def test_what_is_shown_may_be_chosen() -> None:
    """Members of all or of one, or the names alone."""
    with InProcess(TEXT) as served:
        assert {"one": {"sent": 0}, "two": {"sent": 0}} == call(served, "GET", ZONES, fields="sent")
        assert ["one", "two"] == call(served, "GET", ZONES, fields="")
        expected = {"processing": 0, "sent": 0}
        assert expected == call(served, "GET", f"{ZONES}/one", fields="sent,processing")


def test_a_zone_begins_at_0_again() -> None:
    """All of its counters, and no other zone's; sessions that go on are not forgotten."""
    with InProcess(TEXT.replace("return four", "ssl_preread on; return x")) as served:
        served.read(served.connect(1))
        served.read(served.connect(2))
        waiting = served.connect(0)
        served.turn_until(lambda: call(served, "GET", f"{ZONES}/one")["processing"])
        assert 2 == call(served, "GET", f"{ZONES}/one")["connections"]
        assert 204 == call(served, "DELETE", f"{ZONES}/one")
        shown = call(served, "GET", ZONES)
        assert nothing_but(processing=1) == shown["one"]
        assert 1 == shown["two"]["connections"]
        waiting.close()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_zone_that_there_is_not_is_not_found(method: str) -> None:
    """With its own code."""
    with InProcess(TEXT) as served:
        assert "ServerZoneNotFound" == call(served, method, f"{ZONES}/three")


@pytest.mark.refusal("status_zone")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("status_zone '';", 'invalid zone name ""'),
        ("status_zone a$b;", 'variables are not supported in "status_zone" directive'),
        ("status_zone a; status_zone a;", '"status_zone" directive is duplicate'),
        ("status_zone a b;", 'invalid number of arguments in "status_zone" directive'),
    ],
)
def test_a_name_is_one_word_without_variables(text: str, message: str) -> None:
    """Given once."""
    assert message in build(f"stream {{ server {{ listen 127.0.0.1:1; {text} }} }}").error


def test_where_an_api_stands_all_servers_are_shown() -> None:
    """By their first address and their name, wherever the `api` stands."""
    built = build("""stream {
        server { listen 127.0.0.1:1; return a; }
        server { listen 127.0.0.1:1; server_name b.test c.test; return a; }
        server { listen 127.0.0.1:2 udp; listen 127.0.0.1:3; return a; }
        server { listen 127.0.0.1:4; status_zone four; return a; }
        server { listen unix:/tmp/five; shown; return a; }
    }""", more=(SHOWN,))
    assert built.conf is not None
    assert ["127.0.0.1:1", "127.0.0.1:1 b.test", "udp 127.0.0.1:2", "four", "unix:/tmp/five"] == [
        *built.conf.data[status_zone.NAME]
    ]


def test_who_is_not_watched_pays_nothing() -> None:
    """Without names and without an `api`."""
    built = build("stream { server { listen 127.0.0.1:1; return a; } }")
    assert built.conf is not None
    address = built.conf.listenings[0].default
    assert address.default_server.handler is address.begin
    assert not address.log_handlers
    assert not built.conf.data[status_zone.NAME]


def test_servers_at_one_address_with_a_zone_are_told_apart() -> None:
    """Who has no zone is counted by nobody."""
    built = build("""stream {
        server { listen 127.0.0.1:1; return a; }
        server { listen 127.0.0.1:1; server_name b; status_zone b; return a; }
        server { listen 127.0.0.1:2; return a; }
    }""")
    assert built.conf is not None
    first, second, third = (server.watched for server in built.conf.servers)
    assert first is not None
    assert second is not None
    assert ["", "b"] == [first.label, second.label]
    assert third is first
    assert 0 == first.connections.at
    begins = [one.default.begin is one.default.default_server.handler
              for one in built.conf.listenings]
    assert [False, True] == begins


def test_the_exporter_s_families_are_given() -> None:
    """By its names and labels, escaped; those of TLS only for servers that have TLS."""
    text = TEXT.replace("zone one", "zone 'o\"ne'")
    with InProcess(text) as served:
        served.read(served.connect(1))
        served.loop.turn(0)
        found = families(served, "status_zone")
    prefix = "nginxplus_stream_server_zone_"
    assert {'{server_zone="o\\"ne"}': 1, '{server_zone="two"}': 0} == found[prefix + "connections"]
    assert 1 == found[prefix + "sessions"]['{server_zone="o\\"ne",code="4xx"}']
    assert 6 == len(found[prefix + "sessions"])
    assert {} == found[prefix + "ssl_handshakes"]
    assert {prefix + name for name in (
        "processing", "connections", "sessions", "discarded", "received", "sent",
        "ssl_handshakes", "ssl_handshakes_failed", "ssl_session_reuses",
    )} == set(found)


def test_a_server_with_tls_shows_its_handshakes() -> None:
    """Without what cannot happen with clients."""
    zone = status_zone.ServerZone(_watched())
    assert "ssl" not in zone.shown([0] * 8)
    zone.handshakes = _handshakes(lambda fact, label: _Cell())
    shown = zone.shown([0] * 8 + list(range(11)))["ssl"]
    assert 0 == shown["handshakes"]
    assert {"no_cert": 7, "expired_cert": 8, "revoked_cert": 9, "other": 10} == (
        shown["verify_failures"]
    )


class _Cell:
    at = 0


def _handshakes(cell: Callable[..., Any]) -> tls_facts.Handshakes:
    facts: Any = type("Facts", (), {"cell": lambda self, fact, label="": cell(fact, label)})()
    return tls_facts.Handshakes(facts, "a")


def _watched() -> Any:
    built = build(TEXT.replace("@a@", "1").replace("@b@", "2").replace("@c@", "3").replace(
        "@d@", "4"))
    assert built.conf is not None
    return built.conf.servers[0].watched
