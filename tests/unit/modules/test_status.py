"""status: what the API shows of the whole program."""

from __future__ import annotations

from typing import Any

import pytest

from ngxstream.conf import directive as d
from ngxstream.core.shm_facts import Rows
from ngxstream.modules import status
from ngxstream.stream import core_facts, tls_facts
from ngxstream.stream.module import StreamModule
from tests.support.in_process import InProcess, build
from tests.support.operations import call, families


def _show(scope: Any, module: Any, st: Any) -> None:
    """What an `api` does."""
    scope.builder.data["stream"].is_shown = True


SHOWN = StreamModule("shown", (d.Directive("shown", d.SERVER, d.NOARGS, _show, "Shows."),))


def serve(text: str) -> InProcess:
    """Serve a stream block that is shown."""
    return InProcess(f"stream {{ {text} server {{ listen 127.0.0.1:@z@; shown; return z; }} }}",
                     more=(SHOWN,))


def test_connections_are_those_of_all_servers() -> None:
    """A client that is passed on came once; what goes on is active, and not reset."""
    with serve("server { listen 127.0.0.1:@a@; pass 127.0.0.1:@z@; } "
               "server { listen 127.0.0.1:@b@; ssl_preread on; return x; }") as served:
        assert b"z" == served.read(served.connect(0))
        waiting = served.connect(1)
        served.turn_until(lambda: served.facts("127.0.0.1:" + str(served.ports["b"])))
        shown = {"accepted": 2, "dropped": 0, "active": 1, "idle": 0}
        assert shown == call(served, "GET", "/connections")
        assert {"active": 1} == call(served, "GET", "/connections", fields="active")
        assert 204 == call(served, "DELETE", "/connections")
        assert {**shown, "accepted": 0} == call(served, "GET", "/connections")
        assert {"": 1} == families(served, "status")["nginxplus_connections_active"]
        waiting.close()


def test_handshakes_are_those_of_all_servers() -> None:
    """By what came of them; they begin at 0 again when that is asked for."""
    with serve("") as served:
        cells = tls_facts.of_all(served.conf.facts)
        served.loop.cells[cells["handshakes"].at] += 3
        served.loop.cells[cells["hostname_mismatch"].at] += 1
        shown = call(served, "GET", "/ssl")
        assert (3, 0) == (shown["handshakes"], shown["handshakes_failed"])
        refused = {"no_cert": 0, "expired_cert": 0, "revoked_cert": 0, "hostname_mismatch": 1,
                   "other": 0}
        assert {"verify_failures": refused} == call(served, "GET", "/ssl", fields="verify_failures")
        assert {"": 3} == families(served, "status")["nginxplus_ssl_handshakes"]
        assert 204 == call(served, "DELETE", "/ssl")
        assert 0 == call(served, "GET", "/ssl")["handshakes"]


def test_resolvers_are_shown_by_their_zones() -> None:
    """Several may have one; each is reset alone."""
    text = ("resolver 127.0.0.1 status_zone=a; "
            "server { listen 127.0.0.1:@a@; resolver 127.0.0.2 status_zone=a; return x; } "
            "server { listen 127.0.0.1:@b@; resolver 127.0.0.2 status_zone=b; return x; } "
            "server { listen 127.0.0.1:@c@; resolver 127.0.0.2; return x; }")
    with serve(text) as served:
        first, second, third, other = (server.core.resolver for server in served.conf.servers[:4])
        assert first.counts is not None
        assert second.counts is not first.counts
        assert third.counts is None
        assert other.counts is first.counts
        for zone, name in ((first, "name"), (second, "srv")):
            served.loop.cells[zone.counts.requests[name].at] += 1
            served.loop.cells[zone.counts.responses["timedout"].at] += 2
        responses = {"noerror": 0, "formerr": 0, "servfail": 0, "nxdomain": 0, "notimp": 0,
                     "refused": 0, "timedout": 2, "unknown": 0}
        a = {"requests": {"name": 1, "srv": 0, "addr": 0}, "responses": responses}
        b = {"requests": {"name": 0, "srv": 1, "addr": 0}, "responses": responses}
        assert {"a": a, "b": b} == call(served, "GET", "/resolvers")
        found = families(served, "status")
        assert {'{resolver="a"}': 1, '{resolver="b"}': 0} == found["nginxplus_resolver_name"]
        assert 204 == call(served, "DELETE", "/resolvers/a")
        assert {"srv": 0, "name": 0, "addr": 0} == call(served, "GET", "/resolvers/a")["requests"]
        assert b == call(served, "GET", "/resolvers/b")
        assert "ResolverZoneNotFound" == call(served, "GET", "/resolvers/c")


LIMITED = ("limit_conn_zone $remote_port zone=limits:32k; "
           "server { listen 127.0.0.1:@a@; limit_conn limits 1; ssl_preread on; return x; }")


def test_shared_memory_is_shown_as_slabs() -> None:
    """Of 64 bytes for each key of a limit; what is asked for is counted until it is reset."""
    with serve(LIMITED) as served:
        assert ["limits"] == call(served, "GET", "/slabs", fields="")
        empty = call(served, "GET", "/slabs/limits")
        free = empty["slots"]["64"]["free"]
        assert {"used": 0, "free": free, "reqs": 0, "fails": 0} == empty["slots"]["64"]
        assert 8 == sum(empty["pages"].values())
        assert 1 <= empty["pages"]["used"]
        for _ in range(2):
            served.connect(0)
        passed = served.conf.data["limit_conn"]["limits"].passed
        served.turn_until(lambda: passed.total == 2)
        slot = {"used": 2, "free": free - 2, "reqs": 2, "fails": 0}
        assert {"limits": {"slots": {"64": slot}}} == call(served, "GET", "/slabs", fields="slots")
        assert 204 == call(served, "DELETE", "/slabs/limits")
        slot["reqs"] = 0
        assert slot == call(served, "GET", "/slabs/limits")["slots"]["64"]
        assert 2 == passed.total
        assert "SlabNotFound" == call(served, "DELETE", "/slabs/other")


def test_a_zone_that_is_full_says_so() -> None:
    """What fails is counted, and no page is free."""
    with serve(LIMITED) as served:
        zone = served.conf.data["limit_conn"]["limits"]
        while zone.table.acquire(str(len(zone.table)).encode(), 1):
            pass
        served.connect(0)
        served.turn_until(lambda: zone.full.total)
        shown = call(served, "GET", "/slabs/limits")
        assert {"used": 8, "free": 0} == shown["pages"]
        assert (0, 1, 1) == tuple(shown["slots"]["64"][name] for name in ("free", "reqs", "fails"))


def test_zones_of_other_kinds_are_shown() -> None:
    """A group's by its servers, one of TLS sessions by its bytes, one of nobody's as all in use."""
    text = ("upstream u { zone u 64k; server 127.0.0.1:1; server 127.0.0.1:2; } "
            "server { listen 127.0.0.1:@a@; ssl_session_cache shared:tls:64k; return x; }")
    with serve(text) as served:
        shown = call(served, "GET", "/slabs")
        assert {"u", "tls"} == set(shown)
        assert {"used": 2, "free": 254, "reqs": 2, "fails": 0} == shown["u"]["slots"]["256"]
        assert {"used": 1, "free": 15} == shown["u"]["pages"]
        tls = served.built.zones.requests["tls"]
        assert {"used": 0, "free": 8192, "reqs": 0, "fails": 0} == shown["tls"]["slots"]["8"]
        tls.zone.data.store.put(b"key", b"data", 9)
        assert 0 < call(served, "GET", "/slabs/tls")["slots"]["8"]["used"] < 100
        tls.usage = None
        assert {"used": 16, "free": 0} == call(served, "GET", "/slabs/tls")["pages"]
        assert 204 == call(served, "DELETE", "/slabs/tls")


@pytest.mark.parametrize("name", [
    "caches", "limit_conns", "limit_reqs", "location_zones", "server_zones", "upstreams",
])
def test_of_http_there_is_nothing(name: str) -> None:
    """Which is said as clients expect it."""
    with serve("") as served:
        assert {} == call(served, "GET", f"/http/{name}")
        assert [] == call(served, "GET", f"/http/{name}", fields="")
        assert {"total": 0, "current": 0} == call(served, "GET", "/http/requests")
        assert {"current": 0} == call(served, "GET", "/http/requests", fields="current")


def test_no_index_names_http() -> None:
    """A dashboard would show empty boxes for it."""
    listed = {one.path for one in status.ENDPOINTS if one.listed}
    assert {"/connections", "/ssl", "/resolvers", "/slabs"} == listed


def test_drops_are_given_to_prometheus() -> None:
    """By listening address, in words of ours."""
    built = build("stream { server { listen 127.0.0.1:1; listen 127.0.0.1:1 udp; shown; "
                  "return x; } }", more=(SHOWN,))
    assert built.conf is not None
    facts, rows = built.conf.facts, Rows()
    facts.attach(rows)
    facts.counter(core_facts.DROPPED, "udp 127.0.0.1:1").add(2)
    loop: Any = None
    found = {one.name: dict(one.samples) for one in status.metrics(loop, built.conf)}
    assert {'{listen="udp 127.0.0.1:1"}': 2} == found["ngxstream_listener_datagrams_dropped_total"]
